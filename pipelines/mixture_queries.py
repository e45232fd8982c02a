"""Queries of tasks: from a file, or those of the embedded corpus; each is checked before any work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from influence.errors import InfluenceError
from pipelines.ability_queries import EXAMPLE, ability_queries
from pipelines.answers import loss_of
from pipelines.errors import RunError
from pipelines.json_lines import check_distinct, read_objects
from pipelines.mixture_options import MixtureOptions
from pipelines.queries import Query, read_queries
from pipelines.query_gradients import encoded
from pipelines.runs import Run
from pipelines.worker import language_model

FEW_QUERIES = 8
"""Queries of a task below which its intervals are too narrow."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tasks:
    """Queries by task."""

    queries: tuple[Query, ...]
    names: tuple[str, ...]
    """In the order in which they first appear."""
    task_Q: np.ndarray
    """Number of each query's task."""
    loss_Q: np.ndarray
    """Loss of each completion (less the contrast's, where there is one), nats."""
    tokens_Q: np.ndarray
    """Tokens of each completion."""

    @property
    def queries_T(self) -> np.ndarray:
        """Queries of each task."""
        return np.bincount(self.task_Q, minlength=len(self.names))

    def means(self, values_Q: np.ndarray) -> np.ndarray:
        """Mean over each task's queries.

        Returns:
            ``[T]``.
        """
        return np.bincount(self.task_Q, values_Q, len(self.names)) / self.queries_T

    @property
    def weights_TQ(self) -> np.ndarray:
        """What makes means over tasks of rows of queries: 1 / queries of the task, or 0."""
        own_TQ = self.task_Q == np.arange(len(self.names))[:, None]
        return own_TQ / self.queries_T[:, None]


def read_tasks(path: Path | None, run: Run) -> list[Query]:
    """Read queries that each name a task.

    Args:
        path: A jsonl file; None: the abilities of the embedded corpus.
        run: The run that is asked about.

    Returns:
        The queries.

    Raises:
        RunError: If there is no file and the corpus is not the embedded one, or lines lack a task.
    """
    if path is None:
        return ability_queries(run)
    queries = read_queries(path)
    if all(query.task for query in queries):
        return queries
    places = [where for where, _ in read_objects(path, "Queries", "queries")]
    lines = [
        where.rpartition(" ")[2] for where, q in zip(places, queries, strict=True) if not q.task
    ]
    raise RunError(
        f"Queries {path}: {len(lines)} of {len(queries)} have no `task` (lines {_few(lines)}); each "
        f"query names the ability that it tests. Add it, such as {EXAMPLE}"
    )


def check_tasks(run: Run, queries: Sequence[Query], options: MixtureOptions) -> Tasks:
    """Check queries and take their losses.

    Args:
        run: The run.
        queries: Each with a task.
        options: Its ``importance`` names tasks.

    Returns:
        The queries by task.

    Raises:
        RunError: If a query has no task or can't be scored, ids occur twice, or an importance names
            no task.
    """
    if not queries:
        raise RunError(f"Mixture: no queries, at least one was expected, such as {EXAMPLE}")
    bare = [query.name for query in queries if not query.task]
    if bare:
        raise RunError(
            f"Mixture: {len(bare)} of {len(queries)} queries have no task ({_few(bare)}), one each was "
            "expected. Set `task`."
        )
    check_distinct((query.name for query in queries), "Mixture")
    names = tuple(dict.fromkeys(str(query.task) for query in queries))
    _check_importance(names, options)
    counted = _counted_tokens(run, queries)
    loaded = language_model(run.model)
    return Tasks(
        queries=tuple(queries),
        names=names,
        task_Q=np.array([names.index(str(query.task)) for query in queries]),
        loss_Q=np.array([loss_of(loaded, query) for query in queries]),
        tokens_Q=np.array(counted),
    )


def few_queries(tasks: Tasks) -> list[str]:
    """What to say of tasks with few queries.

    Returns:
        Sentences for people.
    """
    counts = Counter(dict(zip(tasks.names, tasks.queries_T.tolist(), strict=True)))
    single = [name for name, count in counts.items() if count == 1]
    few = [name for name, count in counts.items() if 1 < count < FEW_QUERIES]
    notes = []
    if single:
        notes.append(
            f"One query only: {_few(single)}. Intervals there speak of other documents, and not of "
            "other queries of the task."
        )
    if few:
        notes.append(
            f"Fewer than {FEW_QUERIES} queries: {_few(few)}. Intervals there are too narrow; ask more."
        )
    return notes


def _check_importance(names: Sequence[str], options: MixtureOptions) -> None:
    for name in options.importance:
        if name not in names:
            near = get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RunError(
                f"Mixture: a weight for task {name!r}, one of {_few(names, 10)} was expected.{hint}"
            )
    if options.importance and not sum(options.importance.get(name, 1.0) for name in names):
        raise RunError("Mixture: all tasks have weight 0, at least one above was expected.")


def _counted_tokens(run: Run, queries: Sequence[Query]) -> list[int]:
    loaded = language_model(run.model)
    counted: list[int] = []
    wrong: list[tuple[str, InfluenceError]] = []
    for query in queries:
        try:
            counted.append(int(encoded(loaded, query)[0].loss.sum()))
        except InfluenceError as error:
            wrong.append((query.name, error))
    if wrong:
        name, why = wrong[0]
        raise RunError(
            f"Mixture: {len(wrong)} of {len(queries)} queries can't be scored. The first, {name}: {why}"
        )
    return counted


def _few(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
