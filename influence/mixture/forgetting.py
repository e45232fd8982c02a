r"""Predicted against measured: what taking documents away does to the loss of each task.

A change of the mixture takes documents away (or repeats them), or makes a model forget them. Measured is
the change of a query's loss beside the unchanged mixture, trained from the same seed:
:math:`c_{grq} = loss_{grq} - loss_{0rq}` in nats; a task's change is the mean over its queries, and
over seeds. POSITIVE: the loss rises, so what was taken away had helped. Predicted is the sum of the
scores of the documents that were taken away.

Intervals draw seeds again, and with them the queries of each task (for cells) or whole groups (for
correlations, since the cells of one group share its documents). With one seed nothing is known
of the training's own noise, so a cell has no interval.

Axes: G changes of the mixture (a group each), T tasks, Q queries, R seeds, D draws.
Source: percentile bootstrap: Efron & Tibshirani (1993), ch. 13; reliability of a mean of seeds:
Spearman (1910), Brown (1910).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from influence.documents.evaluation.inputs import finite, same
from influence.documents.evaluation.lds import splits
from influence.documents.evaluation.ranks import spearman
from influence.errors import InfluenceError

DRAWS = 2000
LEVEL = 0.95
LEAST_GROUPS = 3
"""Groups below which a correlation has no interval."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its interval; None: nothing is known of it."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Mean change of each task under each change of the mixture, nats a query."""

    mean_GT: np.ndarray
    drawn_DGT: np.ndarray | None
    """The same from each draw of seeds and queries; None with one seed."""

    def estimate(self, group: int, task: int) -> Estimate:
        """One cell with its interval."""
        drawn = None if self.drawn_DGT is None else self.drawn_DGT[:, group, task]
        return estimate(float(self.mean_GT[group, task]), drawn)


def estimate(value: float, drawn_D: np.ndarray | None) -> Estimate:
    """A value with the middle of its draws.

    Args:
        value: The estimate itself; NaN: none.
        drawn_D: From each draw, NaN where it gave none; None: no interval.

    Returns:
        No interval where fewer than half of the draws gave a value.
    """
    if not np.isfinite(value):
        return Estimate(value=None)
    known = np.zeros(0) if drawn_D is None else drawn_D[np.isfinite(drawn_D)]
    if drawn_D is None or len(known) < len(drawn_D) / 2:
        return Estimate(value=value)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high))


def task_means(values_XQ: np.ndarray, task_Q: np.ndarray) -> np.ndarray:
    """Mean over each task's queries.

    Args:
        values_XQ: Any axes before the queries'.
        task_Q: Task of each query, 0 to T - 1, each at least once.

    Returns:
        ``[..., T]``.
    """
    sizes_T = np.bincount(task_Q)
    member_QT = np.eye(len(sizes_T))[task_Q] / sizes_T
    return np.asarray(values_XQ @ member_QT)


def cells(change_GRQ: np.ndarray, task_Q: np.ndarray, seed: int = 0, draws: int = DRAWS) -> Cells:
    """Mean changes of tasks, with draws of seeds and queries.

    Args:
        change_GRQ: Loss under the change less loss under the unchanged mixture of the same seed, nats.
        task_Q: Task of each query, 0 to T - 1.
        seed: Of the draws.
        draws: How many.

    Returns:
        Means and draws; in a draw all groups share the seeds and queries, so that draws can be
        subtracted from each other.
    """
    change_GRQ = finite(change_GRQ, "cells: changes", "GRQ")
    same(change_GRQ.shape[2], len(task_Q), "cells: queries with changes and with tasks")
    mean_GT = task_means(change_GRQ.mean(axis=1), task_Q)
    seeds = change_GRQ.shape[1]
    if seeds < 2:
        return Cells(mean_GT=mean_GT, drawn_DGT=None)
    generator = np.random.default_rng([seed, 11])
    rows_T = [np.flatnonzero(task_Q == task) for task in range(mean_GT.shape[1])]
    drawn_DGT = np.empty((draws, *mean_GT.shape))
    for draw in range(draws):
        weight_R = np.bincount(generator.integers(0, seeds, seeds), minlength=seeds) / seeds
        change_GQ = np.einsum("r,grq->gq", weight_R, change_GRQ)
        for task, rows in enumerate(rows_T):
            drawn = rows[generator.integers(0, len(rows), len(rows))]
            drawn_DGT[draw, :, task] = change_GQ[:, drawn].mean(axis=1)
    return Cells(mean_GT=mean_GT, drawn_DGT=drawn_DGT)


# -- does the prediction hold over all cells? --------------------------------------------------------


def pearson(left_XS: np.ndarray, right_XS: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row.

    Returns:
        ``[X]``; NaN where a row is constant.
    """
    left_XS = left_XS - left_XS.mean(axis=1, keepdims=True)
    right_XS = right_XS - right_XS.mean(axis=1, keepdims=True)
    scale_X = np.sqrt((left_XS**2).sum(axis=1) * (right_XS**2).sum(axis=1))
    product_X = (left_XS * right_XS).sum(axis=1)
    safe_X = np.where(scale_X > 0, scale_X, 1.0)
    return np.where(scale_X > 0, np.clip(product_X / safe_X, -1, 1), np.nan)


Correlation = Callable[[np.ndarray, np.ndarray], np.ndarray]
CORRELATIONS: dict[str, Correlation] = {"spearman": spearman, "pearson": pearson}


def agreement(
    correlation: Correlation,
    predicted_GT: np.ndarray,
    measured_GRT: np.ndarray,
    seed: int = 0,
    draws: int = DRAWS,
) -> Estimate:
    """Correlate predicted with measured changes over all cells.

    Args:
        correlation: One of ``CORRELATIONS``.
        predicted_GT: Predicted changes.
        measured_GRT: Measured changes by seed.
        seed: Of the draws.
        draws: How many.

    Returns:
        Value, and the interval over groups and seeds; no interval with fewer than three groups,
        no value with fewer than three cells.
    """
    predicted_GT = finite(predicted_GT, "agreement: predicted", "GT")
    measured_GRT = finite(measured_GRT, "agreement: measured", "GRT")
    same(len(predicted_GT), len(measured_GRT), "agreement: groups predicted and measured")
    groups, seeds, _ = measured_GRT.shape
    if predicted_GT.size < LEAST_GROUPS:
        return Estimate(value=None)
    mean_GT = measured_GRT.mean(axis=1)
    value = float(correlation(predicted_GT.reshape(1, -1), mean_GT.reshape(1, -1))[0])
    if groups < LEAST_GROUPS:
        return estimate(value, None)
    generator = np.random.default_rng([seed, 12])
    drawn_D = np.empty(draws)
    for draw in range(draws):
        own_G = generator.integers(0, groups, groups)
        own_R = generator.integers(0, seeds, seeds)
        drawn_GT = measured_GRT[own_G][:, own_R].mean(axis=1)
        pair = (predicted_GT[own_G].reshape(1, -1), drawn_GT.reshape(1, -1))
        drawn_D[draw] = correlation(*pair)[0]
    return estimate(value, drawn_D)


def beside_groups(values_GXT: np.ndarray) -> np.ndarray:
    """Changes less the mean over all groups: what one group does that any of as many tokens would not.

    A model that is not at a minimum, or is trained on fewer tokens, has an offset that all changes of
    a task share. It says nothing of groups, and first order does not predict it.

    Args:
        values_GXT: Changes, groups first.

    Returns:
        The same shape; 0 on average over groups.
    """
    return np.asarray(values_GXT - values_GXT.mean(axis=0))


def ceiling(measured_GRT: np.ndarray, seed: int = 0) -> float | None:
    """Spearman's correlation over all cells that a perfect prediction would reach.

    Cells are correlated between halves of the seeds; Spearman and Brown's formula gives the
    reliability of all seeds' mean, and its square root is the ceiling.

    Args:
        measured_GRT: Measured changes by seed.
        seed: Of the choice among ways of splitting.

    Returns:
        Between 0 and 1; None with one seed, or fewer than three cells.
    """
    groups, seeds, tasks = measured_GRT.shape
    if seeds < 2 or groups * tasks < LEAST_GROUPS:
        return None
    halves = [
        [measured_GRT[:, list(half)].mean(axis=1).reshape(1, -1) for half in way]
        for way in splits(seeds, seed)
    ]
    r = max(0.0, float(np.mean([spearman(a, b)[0] for a, b in halves])))
    longer = seeds / (seeds // 2)
    return float(np.sqrt(longer * r / (1 + (longer - 1) * r)))


# -- is the group that is named the right one? -------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Named:
    """The group whose loss is predicted to hurt a task most, and the one that measured most."""

    predicted: int
    measured: int
    margin: Estimate
    """Rise without the predicted group less the largest rise without another; nats a query.
    Positive: the prediction is right."""


def named(predicted_GT: np.ndarray, measured: Cells) -> list[Named]:
    """For each task the group that matters most, predicted and measured.

    Args:
        predicted_GT: Predicted changes.
        measured: Measured changes of the same groups.

    Returns:
        One result a task.

    Raises:
        InfluenceError: If there is one group only.
    """
    predicted_GT = finite(predicted_GT, "named: predicted", "GT")
    if len(predicted_GT) < 2:
        raise InfluenceError(
            "named: 1 group, at least 2 were expected: there is no other to compare it with. Choose "
            "a column with several values."
        )
    found = []
    for task, best in enumerate(predicted_GT.argmax(axis=0).tolist()):
        others = np.delete(np.arange(len(predicted_GT)), best)
        column_G = measured.mean_GT[:, task]
        margin = float(column_G[best] - column_G[others].max())
        drawn_D = None
        if measured.drawn_DGT is not None:
            drawn_DG = measured.drawn_DGT[:, :, task]
            drawn_D = drawn_DG[:, best] - drawn_DG[:, others].max(axis=1)
        found.append(
            Named(predicted=best, measured=int(column_G.argmax()), margin=estimate(margin, drawn_D))
        )
    return found


# -- which groups act alike? -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Correlation over queries of what two groups' absence does."""

    a: int
    b: int
    measured: Estimate
    predicted: Estimate


def relations(
    predicted_GQ: np.ndarray,
    change_GRQ: np.ndarray,
    task_Q: np.ndarray,
    seed: int = 0,
    draws: int = DRAWS // 4,
) -> list[Relation]:
    """Correlate the profiles of each pair of groups: 1 similar, -1 opposite, 0 orthogonal.

    A profile is a group's change of every query's loss. Changes of one seed share the unchanged
    model, whose noise would look like agreement; so measured correlations are between different
    seeds of the two groups, averaged over ways of splitting the seeds. That keeps the sign, and makes
    noisy correlations smaller. Every task counts alike.

    Args:
        predicted_GQ: Predicted change of each query (or of each task, then ``task_Q`` is by task).
        change_GRQ: Measured changes of the same queries.
        task_Q: Task of each query, 0 to T - 1.
        seed: Of the draws.
        draws: Of queries within tasks, for the intervals.

    Returns:
        One result a pair.
    """
    seeds, sizes_T = change_GRQ.shape[1], np.bincount(task_Q)
    ways = splits(seeds, seed) if seeds > 1 else [((0,), (0,))]
    halves = [[change_GRQ[:, list(half)].mean(axis=1) for half in way] for way in ways]

    def correlations(weight_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        crossed = [_weighted_correlation(a_GQ, b_GQ, weight_Q) for a_GQ, b_GQ in halves]
        measured_GG = np.mean([(one + one.T) / 2 for one in crossed], axis=0)
        return measured_GG, _weighted_correlation(predicted_GQ, predicted_GQ, weight_Q)

    even_Q = (1 / sizes_T)[task_Q]
    value = correlations(even_Q)
    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    if sizes_T.max() > 1:
        generator = np.random.default_rng([seed, 13])
        for _ in range(draws):
            times_T = [generator.multinomial(size, np.full(size, 1 / size)) for size in sizes_T]
            weight_Q = np.empty(len(task_Q))
            for task, times in enumerate(times_T):
                weight_Q[task_Q == task] = times / len(times)
            drawn.append(correlations(weight_Q))

    def pair(which: int, a: int, b: int) -> Estimate:
        draws_D = np.array([one[which][a, b] for one in drawn]) if drawn else None
        return estimate(float(value[which][a, b]), draws_D)

    return [
        Relation(a=a, b=b, measured=pair(0, a, b), predicted=pair(1, a, b))
        for a in range(len(change_GRQ))
        for b in range(a + 1, len(change_GRQ))
    ]


def _weighted_correlation(a_GQ: np.ndarray, b_GQ: np.ndarray, weight_Q: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of a with each row of b, ``[G, G]``; NaN: a constant row."""
    weight_Q = weight_Q / weight_Q.sum()
    a_GQ = a_GQ - (a_GQ @ weight_Q)[:, None]
    b_GQ = b_GQ - (b_GQ @ weight_Q)[:, None]
    size_a, size_b = (np.sqrt((x_GQ**2) @ weight_Q) for x_GQ in (a_GQ, b_GQ))
    scale_GG = np.outer(size_a, size_b)
    product_GG = (a_GQ * weight_Q) @ b_GQ.T
    safe_GG = np.where(scale_GG > 0, scale_GG, 1.0)
    return np.where(scale_GG > 0, np.clip(product_GG / safe_GG, -1, 1), np.nan)
