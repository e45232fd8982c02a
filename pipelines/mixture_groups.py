"""Which documents belong together: by a column of the corpus, or by cluster of near-duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipelines.corpus import read_columns
from pipelines.errors import RunError
from pipelines.mixture_options import CLUSTER
from pipelines.runs import Run
from pipelines.tokens import read_table, shard_path

MOST_GROUPS = 100
"""Groups beyond the largest of these are taken together."""
NO_VALUE = "(no value)"
ALONE = "(documents without a near-duplicate)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """Documents by group."""

    names: tuple[str, ...]
    """Groups of most documents first."""
    group_N: np.ndarray
    """Number of each document's group."""
    tokens_N: np.ndarray
    """Tokens of each document that count in its loss."""
    notes: tuple[str, ...]

    def sums(self, values_N: np.ndarray) -> np.ndarray:
        """Sum over each group's documents.

        Returns:
            ``[G]``.
        """
        return np.bincount(self.group_N, values_N, len(self.names))


def group_documents(run: Run, column: str, cluster_N: np.ndarray) -> Groups:
    """Group the documents of a run.

    Args:
        run: The run.
        column: A column of its corpus (`check_column`), or "cluster".
        cluster_N: Cluster of each document.

    Returns:
        The groups, each with one document at least.

    Raises:
        RunError: If the column holds no plain values, or each document has its own.
    """
    notes: list[str] = []
    if column == CLUSTER:
        values = _clusters(run, cluster_N)
    else:
        values, missing = _values(run, column)
        notes += [f"{missing} documents have no value of {column!r}: they are a group."] * (
            missing > 0
        )
    counts = Counter(values)
    if len(counts) == len(values):
        raise RunError(
            f"Mixture: column {column!r} has another value for each of the {len(values)} documents, "
            "groups of several were expected. Choose a column such as source or language."
        )
    names = sorted(counts, key=lambda name: (-counts[name], name))
    if len(names) > MOST_GROUPS:
        rest = f"({len(names) - MOST_GROUPS} smaller groups)"
        notes.append(
            f"Column {column!r} has {len(names)} groups: the {MOST_GROUPS} largest stand alone, the "
            "others are taken together."
        )
        kept = set(names[:MOST_GROUPS])
        values = [value if value in kept else rest for value in values]
        names = [*names[:MOST_GROUPS], rest]
    number = {name: i for i, name in enumerate(names)}
    group_N = np.array([number[value] for value in values], np.int64)
    lone = [names[g] for g in np.flatnonzero(np.bincount(group_N) == 1)]
    if lone:
        notes.append(
            f"One document only: {', '.join(lone[:5])}{' and more' if len(lone) > 5 else ''}. "
            "Nothing can be said of other documents of that kind, so there are no intervals."
        )
    return Groups(
        names=tuple(names), group_N=group_N, tokens_N=counted_tokens(run), notes=tuple(notes)
    )


def check_column(run: Run, column: str) -> None:
    """Refuse a column that the documents do not have.

    Args:
        run: The run.
        column: Its name, or "cluster".

    Raises:
        RunError: Naming the nearest.
    """
    known = [*run.corpus.info()["columns"], CLUSTER]
    if column in known:
        return
    near = get_close_matches(column, known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise RunError(
        f"Mixture: no column {column!r} in the documents of {run.config.name}; known are "
        f"{', '.join(dict.fromkeys(known))}.{hint}"
    )


def counted_tokens(run: Run) -> np.ndarray:
    """Tokens of each document that count in its loss, from the token shards.

    Returns:
        ``[N]``, int64.
    """
    info = run.tokens.info()
    found_N = np.zeros(info["documents"], np.int64)
    for shard in range(info["shards"]):
        table = read_table(shard_path(run.tokens.path, shard))
        loss = table.column("loss").combine_chunks()
        counted = np.asarray(loss.flatten().to_numpy(zero_copy_only=False), np.int64)
        of_chunk = np.asarray(pc.list_parent_indices(loss), np.int64)
        document = table.column("document").to_numpy()
        np.add.at(found_N, document[of_chunk], counted)
    return found_N


def _values(run: Run, column: str) -> tuple[list[str], int]:
    """Each document's value as a text, and how many have none."""
    found: Sequence[Any] = read_columns(run.corpus, [column]).column(column).to_pylist()
    if any(isinstance(value, list | dict) for value in found):
        raise RunError(
            f"Mixture: column {column!r} holds lists or objects, plain values were expected. Choose "
            "a column such as source or language."
        )
    values = [NO_VALUE if value is None or value == "" else str(value) for value in found]
    return values, values.count(NO_VALUE)


def _clusters(run: Run, cluster_N: np.ndarray) -> list[str]:
    """Names of clusters: the id of the first document; those alone are one group."""
    ids = read_columns(run.corpus, ["id"]).column("id").to_pylist()
    size_N = np.bincount(cluster_N, minlength=len(ids))[cluster_N]
    if size_N.max() < 2:
        raise RunError(
            "Mixture: no two documents are near-duplicates, clusters of several were expected. Choose "
            "a column such as source, or a smaller threshold."
        )
    return [
        f"near-duplicates of {ids[cluster]}" if size > 1 else ALONE
        for cluster, size in zip(cluster_N.tolist(), size_N.tolist(), strict=True)
    ]
