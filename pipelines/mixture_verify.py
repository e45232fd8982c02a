"""Checks what influence predicts of a mixture: train without, train re-weighted, or unlearn.

- ``drop``: of each group a random set of documents is left out, whole clusters of near-duplicates and
  as many tokens of each group; the model is trained again without it.
- ``reweight``: the model is trained on the proposed weights; a weight of 1.5 makes half of a group's
  documents, drawn at random, stand in the corpus twice.
- ``unlearn``: the same sets as for ``drop`` are unlearned by the model as it is, while it is kept
  from changing on other groups.

Predicted is the sum of the scores of what was taken away; for ``reweight`` what the proposal
predicts (influence/mixture/reweighting.py). A run that was given its model, and did not train it, has
it fine-tuned on its corpus with and without.

Axes: N documents, G groups, A changes of the mixture, T tasks, Q queries, R seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from influence.documents.evaluation.bootstrap import interval
from influence.mixture.forgetting import (
    CORRELATIONS,
    Cells,
    Estimate,
    agreement,
    beside_groups,
    ceiling,
    cells,
    named,
    relations,
    task_means,
)
from pipelines.cluster import Workers
from pipelines.errors import RunError
from pipelines.estimate import in_words
from pipelines.mixture_changes import Predicted, copies_of, drop_sets
from pipelines.mixture_trainings import (
    FineTuning,
    refuse_adapter,
    seconds_of_trainings,
    trained_losses,
)
from pipelines.queries import Query
from pipelines.runs import Run
from pipelines.unlearning import Forgetting, Forgotten, unlearned

KINDS = ("drop", "reweight", "unlearn")
PROPOSED = "proposed weights"
"""The group's name in rows of a re-weighted mixture."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What to check, and how thoroughly."""

    kind: str = "drop"
    """``drop``, ``reweight`` or ``unlearn``."""
    seeds: int = 3
    """Trainings of each mixture; with one, nothing is known of the training's noise."""
    tokens: int | None = None
    """Tokens to take from each group; None: ``share`` of what the smallest group has."""
    share: float = 1.0
    """Of the smallest group's tokens; 1: the smallest group is taken away whole."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of groups, for ``reweight``: 1 as now, 0 dropped, 2 twice; those not named stay as now."""
    changes: Mapping[str, float] = field(default_factory=dict)
    """By task, what ``weights`` are predicted to change its loss by; nats."""
    seed: int = 0
    """Of the choice of documents and of the bootstrap."""
    tuning: FineTuning = field(default_factory=FineTuning)
    """Of a model that the run did not train."""
    forgetting: Forgetting = field(default_factory=Forgetting)
    """Of ``unlearn``."""

    def __post_init__(self) -> None:
        """Check values.

        Raises:
            RunError: If one makes no sense.
        """
        if self.kind not in KINDS:
            raise RunError(
                f"Verification: kind {self.kind!r} given, one of {', '.join(KINDS)} was expected."
            )
        if self.kind == "reweight" and not self.changes:
            raise RunError(
                "Verification: weights to be checked without what they are predicted to change; "
                "`changes` was expected, a number of nats for each task."
            )
        none = self.tokens is not None and self.tokens < 1
        if self.seeds < 1 or not 0 < self.share <= 1 or none:
            raise RunError(
                f"Verification: {self.seeds} seeds, {self.tokens} tokens, a share of {self.share}; at "
                "least 1 seed, 1 token, and a share above 0 and at most 1 were expected."
            )


def verify_mixture(
    run: Run,
    queries: Sequence[Query],
    predicted: Predicted,
    options: VerifyOptions,
    workers: Workers,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compare predicted with measured changes of each task's loss; run again to resume.

    Args:
        run: A finished run, locked by the caller.
        queries: Each with a task.
        predicted: The mixture, and the changes that its scores predict.
        options: What to check.
        workers: Where to run.
        announce: Told what it will cost, before it starts.

    Returns:
        ``verification`` (for ``unlearn``: ``forgetting``) of mixture.json: kind, seeds, tokens, rows
        (``before``: the task's mean loss without a change), spearman, pearson, ceiling, named,
        relations, notes.
    """
    refuse_adapter(run)
    tasks, task_Q = _tasks(queries)
    if options.kind == "reweight":
        changes = {PROPOSED: copies_of(predicted, options.weights, options.seed)}
        taken = None
        expected_AX = np.array([[options.changes[task] for task in tasks]])
    else:
        sets = drop_sets(predicted, options.tokens, options.share, options.seed)
        changes = {name: 1 - dropped_N.astype(int) for name, dropped_N in sets.items()}
        taken = {name: int(predicted.tokens_N[own_N].sum()) for name, own_N in sets.items()}
        expected_AX = predicted.removed(1.0 - np.stack(list(changes.values())))
    announce(_cost(run, len(changes), options))
    notes: list[str] = []
    if options.kind == "unlearn":
        found = _unlearn(run, predicted, changes, queries, options, workers)
        before_Q, change_ARQ = found.before_Q, found.after_SRQ - found.before_Q
        notes += _unlearning_notes(found, list(changes), options)
    else:
        unchanged_N = np.ones(len(predicted.group_N), dtype=int)
        losses_MRQ = trained_losses(
            run,
            [unchanged_N, *changes.values()],
            options.seeds,
            queries,
            workers,
            options.tuning,
        )
        before_Q, change_ARQ = losses_MRQ[0].mean(axis=0), losses_MRQ[1:] - losses_MRQ[0]
        notes += _training_notes(run, options)
    result = {
        "kind": options.kind,
        "seeds": options.seeds,
        "tokens": min(taken.values()) if taken else None,
        **compare(expected_AX, change_ARQ, list(changes), tasks, task_Q, options.seed),
    }
    before = dict(zip(tasks, task_means(before_Q[None], task_Q)[0].tolist(), strict=True))
    rows = [{**row, "before": before[row["task"]]} for row in result["rows"]]
    return {**result, "rows": rows, "notes": [*notes, *result["notes"]]}


def _tasks(queries: Sequence[Query]) -> tuple[list[str], np.ndarray]:
    """Names of tasks in order of appearance, and each query's task."""
    bare = [query.name for query in queries if query.task is None]
    if bare or not queries:
        raise RunError(
            f"Verification: {len(bare)} of {len(queries)} queries have no task (first: "
            f"{', '.join(bare[:3])}); one each was expected. Set `task`."
        )
    tasks = list(dict.fromkeys(str(query.task) for query in queries))
    return tasks, np.array([tasks.index(str(query.task)) for query in queries])


# -- what it costs, and what to say of it ------------------------------------------------------------


def _cost(run: Run, changes: int, options: VerifyOptions) -> str:
    if options.kind == "unlearn":
        how = options.forgetting
        passes = 2.5 * how.steps * how.batch_documents / run.tokens.info()["documents"]
        one = seconds_of_trainings(run, 1, FineTuning()) / _epochs(run, FineTuning())
        return (
            f"Unlearning {changes} sets of documents with {options.seeds} seeds each: at most "
            f"{in_words(one * passes * changes * options.seeds)}, less what is already there."
        )
    trainings = (1 + changes) * options.seeds
    seconds = seconds_of_trainings(run, trainings, options.tuning)
    return f"{trainings} trainings: {in_words(seconds)}, less what is already there."


def _epochs(run: Run, tuning: FineTuning) -> float:
    return tuning.epochs if run.config.train == "none" else run.config.epochs


def _training_notes(run: Run, options: VerifyOptions) -> list[str]:
    if run.config.train != "none":
        how = "from scratch" if run.config.train == "scratch" else "from the model it started with"
        return [
            f"Each mixture was trained {how} with {options.seeds} seeds, in the steps and order of the "
            "unchanged one."
        ]
    tuning = options.tuning
    return [
        f"The run did not train its model: it was fine-tuned on the corpus ({tuning.epochs:g} passes, "
        f"learning rate {tuning.learning_rate:g}) with and without the documents."
    ]


def _unlearn(
    run: Run,
    predicted: Predicted,
    changes: Mapping[str, np.ndarray],
    queries: Sequence[Query],
    options: VerifyOptions,
    workers: Workers,
) -> Forgotten:
    """Forget what would be dropped; retain documents of other groups."""
    sets = []
    for name, copies_N in changes.items():
        other_N = predicted.group_N != predicted.names.index(name)
        clusters = np.unique(predicted.cluster_N[copies_N == 0])
        sets.append((copies_N == 0, other_N & ~np.isin(predicted.cluster_N, clusters)))
    return unlearned(run, sets, options.seeds, queries, options.forgetting, workers)


def _unlearning_notes(found: Forgotten, names: Sequence[str], options: VerifyOptions) -> list[str]:
    how = options.forgetting
    notes = [
        f"Gradient ascent until the forgotten documents' loss had risen by {how.rise:g} nats a token "
        f"(at most {how.steps} steps), with descent on documents of other groups; "
        f"{found.steps_SR.mean():.0f} steps in the mean."
    ]
    short = [
        f"{name} {rises.min():.2f}"
        for name, rises in zip(names, found.rise_SR, strict=True)
        if rises.min() < how.rise
    ]
    if short:
        notes.append(f"Not forgotten so far within the steps allowed: {', '.join(short)}.")
    return notes


# -- the comparison ----------------------------------------------------------------------------------


def compare(
    expected_AX: np.ndarray,
    change_ARQ: np.ndarray,
    names: Sequence[str],
    tasks: Sequence[str],
    task_Q: np.ndarray,
    seed: int = 0,
) -> dict[str, Any]:
    """Put predicted and measured changes side by side.

    Args:
        expected_AX: Predicted changes by query (X = Q) or by task (X = T), nats.
        change_ARQ: Measured changes, nats.
        names: Of the changes of the mixture.
        tasks: Their names.
        task_Q: Task of each query.
        seed: Of the bootstrap.

    Returns:
        rows, spearman, pearson, ceiling, named, relations and notes; a number that is not known is
        None. ``spearman_beside_groups`` and its like (with several groups) leave out of each task
        what all groups share.
    """
    by_query = expected_AX.shape[1] == len(task_Q)
    expected_AT = task_means(expected_AX, task_Q) if by_query else expected_AX
    measured = cells(change_ARQ, task_Q, seed)
    measured_ART = task_means(change_ARQ, task_Q)
    rows = []
    for task, task_name in enumerate(tasks):
        for change, name in enumerate(names):
            own = expected_AX[change, task_Q == task] if by_query else np.zeros(0)
            rows.append(
                {
                    "task": task_name,
                    "group": name,
                    **_named_interval(
                        "predicted", _over_queries(float(expected_AT[change, task]), own, seed)
                    ),
                    **_named_interval("measured", measured.estimate(change, task)),
                }
            )
    result: dict[str, Any] = {"rows": rows, "notes": _noise_notes(change_ARQ)}
    several = len(names) > 1
    sides = {"": (expected_AT, measured_ART)}
    if several:
        sides["_beside_groups"] = (beside_groups(expected_AT), beside_groups(measured_ART))
    for name, correlation in CORRELATIONS.items():
        for side, (left_AT, right_ART) in sides.items():
            result[name + side] = asdict(agreement(correlation, left_AT, right_ART, seed))
    result["ceiling"] = ceiling(measured_ART, seed)
    result["named"] = _named_rows(expected_AT, measured, names, tasks) if several else []
    profile_AQ = expected_AX if by_query else expected_AT[:, task_Q]
    result["relations"] = [
        {
            "a": names[one.a],
            "b": names[one.b],
            **_named_interval("measured", one.measured),
            **_named_interval("predicted", one.predicted),
        }
        for one in (relations(profile_AQ, change_ARQ, task_Q, seed) if several else [])
    ]
    return result


def _over_queries(value: float, values_q: np.ndarray, seed: int) -> Estimate:
    if len(values_q) < 2:
        return Estimate(value=value)
    found = interval(values_q, seed)
    return Estimate(value=value, low=found.low, high=found.high)


def _named_interval(name: str, one: Estimate) -> dict[str, float | None]:
    return {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}


def _named_rows(
    expected_AT: np.ndarray, measured: Cells, names: Sequence[str], tasks: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "predicted_group": names[one.predicted],
            "measured_group": names[one.measured],
            "right": one.predicted == one.measured,
            **_named_interval("margin", one.margin),
        }
        for task, one in zip(tasks, named(expected_AT, measured), strict=True)
    ]


def _noise_notes(change_ARQ: np.ndarray) -> list[str]:
    if change_ARQ.shape[1] > 1:
        return []
    return [
        "One seed only: measured changes have no interval, since the training's noise is unknown."
    ]
