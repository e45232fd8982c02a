"""How far a mean over queries could be off: percentile bootstrap over the queries.

Queries are drawn again with replacement; the interval holds the middle of the means so found.  It
speaks of OTHER QUERIES of the same kind.  What all queries share (the trained models, the choice of
subsets, the corpus) is not drawn again and is not in it.

Axes: Q queries.
Source: Efron (1979), doi:10.1214/aos/1176344552; percentile method: Efron & Tibshirani (1993), ch. 13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from influence.documents.evaluation.inputs import finite, same
from influence.errors import InfluenceError

BLOCK = 1 << 21
"""Most drawn row numbers held at a time."""


@dataclass(frozen=True)
class Interval:
    """A mean and an interval around it, in the unit of the values."""

    mean: float
    low: float
    """Equal to the mean when there is one value only: then nothing is known of its error."""
    high: float


def interval(
    values_Q: np.ndarray, seed: int = 0, draws: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of some values with its percentile bootstrap interval.

    Args:
        values_Q: One number a query, in any unit.
        seed: Of the draws; equal seeds give equal intervals.
        draws: Times that the queries are drawn again.
        level: Share of the drawn means inside the interval, between 0 and 1.

    Returns:
        Mean and interval, in the unit of the values.

    Raises:
        InfluenceError: If a value is not finite, or draws or level make no sense.
    """
    values_Q = finite(values_Q, "bootstrap: values", "Q")
    if draws < 1 or not 0 < level < 1:
        raise InfluenceError(
            f"bootstrap: {draws} draws at level {level}; at least 1 draw and a level between 0 and "
            "1 were expected, such as 2000 and 0.95."
        )
    means_D = np.concatenate(
        [values_Q[rows_DQ].mean(axis=1) for rows_DQ in _resampled(len(values_Q), seed, draws)]
    )
    return between(float(values_Q.mean()), means_D, level)


def difference(
    a_Q: np.ndarray, b_Q: np.ndarray, seed: int = 0, draws: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of ``a - b``, paired by query: queries are drawn, then both values go together.

    Args:
        a_Q: One number a query.
        b_Q: One number for the same queries, in the same order.
        seed: Of the draws.
        draws: Times that the queries are drawn again.
        level: Share of the drawn means inside the interval.

    Returns:
        Positive where a is larger; an interval without 0 says that the order is not by chance.
    """
    a_Q, b_Q = finite(a_Q, "bootstrap: a", "Q"), finite(b_Q, "bootstrap: b", "Q")
    same(len(a_Q), len(b_Q), "bootstrap: values of a and of b")
    return interval(a_Q - b_Q, seed, draws, level)


def between(mean: float, drawn_D: np.ndarray, level: float = 0.95) -> Interval:
    """The interval that holds the middle of some drawn values.

    Args:
        mean: The estimate itself.
        drawn_D: The same estimate from each draw.
        level: Share of the drawn values inside.

    Returns:
        Estimate and interval.
    """
    low, high = np.quantile(drawn_D, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=mean, low=float(low), high=float(high))


def _resampled(rows: int, seed: int, draws: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    step = max(1, BLOCK // rows)
    for start in range(0, draws, step):
        yield generator.integers(0, rows, (min(step, draws - start), rows))
