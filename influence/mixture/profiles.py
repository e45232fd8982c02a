"""Which groups act alike on the tasks: correlation over queries of the groups' mean scores.

A group's profile is its mean score for each query. Queries are weighted so that every task counts
alike. Two groups are

- alike, if the interval of their correlation lies above 0;
- opposite, if it lies below 0;
- independent, if it lies between -0.3 and 0.3: that they have little to do with each other is
  then shown, and not merely that nothing was found (this goes before alike and opposite);
- unknown otherwise, and where there is no interval.

Intervals are of a bootstrap of queries within each task; they speak of other queries.

Axes: Q queries, G groups, T tasks, R draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from influence.mixture.rollup import DRAWS, LEVEL

INDEPENDENT = 0.3
"""Largest size of a correlation that counts as none."""
LEAST_QUERIES = 4
"""Queries below which there is no interval."""
LEAST_DRAWN = 0.5
"""Share of the draws that must give a correlation; below, there is no interval."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Profiles:
    """Correlation of each pair of groups; NaN: a group scores all queries alike, or no interval."""

    correlation_GG: np.ndarray
    low_GG: np.ndarray
    high_GG: np.ndarray

    def relation(self, a: int, b: int) -> str:
        """How two groups act: "alike", "opposite", "independent" or "unknown"."""
        if a == b:
            return "alike"
        return relation(float(self.low_GG[a, b]), float(self.high_GG[a, b]))


def relation(low: float, high: float) -> str:
    """What the interval of a correlation says.

    Args:
        low: Lower end; NaN: no interval.
        high: Upper end.

    Returns:
        "alike", "opposite", "independent" or "unknown".
    """
    if -INDEPENDENT <= low and high <= INDEPENDENT:
        return "independent"
    if low > 0:
        return "alike"
    return "opposite" if high < 0 else "unknown"


def profiles(
    mean_QG: np.ndarray, task_Q: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> Profiles:
    """Correlate the groups' mean scores over queries.

    Args:
        mean_QG: Mean score of each group's documents for each query.
        task_Q: Task of each query, 0 to T - 1.
        draws: Of the bootstrap.
        seed: Of the draws.

    Returns:
        Correlations with percentile intervals; 1 on the diagonal.
    """
    sizes_T = np.bincount(task_Q)
    correlation_GG = weighted_correlation(mean_QG, (1 / sizes_T)[task_Q])
    np.fill_diagonal(correlation_GG, 1.0)
    low_GG = np.full_like(correlation_GG, np.nan)
    high_GG = low_GG.copy()
    if len(mean_QG) < LEAST_QUERIES or sizes_T.max() < 2:
        return Profiles(correlation_GG=correlation_GG, low_GG=low_GG, high_GG=high_GG)
    generator = np.random.default_rng([seed, 3])
    drawn_RGG = np.empty((draws, *correlation_GG.shape), np.float32)
    for draw in range(draws):
        weights_Q = np.empty(len(task_Q))
        for task, size in enumerate(sizes_T):
            times_q = generator.multinomial(size, np.full(size, 1 / size))
            weights_Q[task_Q == task] = times_q / size
        drawn_RGG[draw] = weighted_correlation(mean_QG, weights_Q)
    known_GG = (~np.isnan(drawn_RGG)).mean(axis=0) >= LEAST_DRAWN
    known_GG &= ~np.isnan(correlation_GG)
    ends = np.nanquantile(drawn_RGG[:, known_GG], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    low_GG[known_GG], high_GG[known_GG] = ends
    return Profiles(correlation_GG=correlation_GG, low_GG=low_GG, high_GG=high_GG)


def weighted_correlation(mean_QG: np.ndarray, weights_Q: np.ndarray) -> np.ndarray:
    """Pearson's correlation of columns, rows weighted.

    Args:
        mean_QG: Columns to correlate.
        weights_Q: Weights, not all 0.

    Returns:
        ``[G, G]``; NaN where a column is constant up to rounding.
    """
    weights_Q = weights_Q / weights_Q.sum()
    centred_QG = mean_QG - weights_Q @ mean_QG
    covariance_GG = (centred_QG * weights_Q[:, None]).T @ centred_QG
    size_G = np.sqrt(np.diagonal(covariance_GG))
    constant_G = size_G <= 1e-12 * np.abs(mean_QG).max(axis=0, initial=0.0)
    size_G = np.where(constant_G, np.nan, size_G)
    return np.asarray(np.clip(covariance_GG / np.outer(size_G, size_G), -1, 1))
