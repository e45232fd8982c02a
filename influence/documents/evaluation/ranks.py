"""Ranks with ties, and Spearman's correlation of them.

Axes: Q queries, S things that are ranked (subsets or documents).
"""

from __future__ import annotations

import numpy as np


def average_ranks(values_S: np.ndarray) -> np.ndarray:
    """Rank values from 1 (the smallest) upwards; equal values share the mean of their ranks.

    Args:
        values_S: Finite numbers.

    Returns:
        Ranks ``[S]`` in float64; they always sum to ``S (S + 1) / 2``.
    """
    _, group_S, size_G = np.unique(values_S, return_inverse=True, return_counts=True)
    last_G = np.cumsum(size_G)
    return (last_G - (size_G - 1) / 2)[group_S.reshape(-1)]


def spearman(left_QS: np.ndarray, right_QS: np.ndarray) -> np.ndarray:
    r"""Spearman's correlation of each row: Pearson's correlation of average ranks.

    Args:
        left_QS: Finite numbers.
        right_QS: Finite numbers, to be compared row by row.

    Returns:
        ``[Q]`` in -1..1; 0 where either row is constant, since it orders nothing (never NaN).
    """
    left_QS, right_QS = (
        np.stack([average_ranks(row_S) for row_S in rows_QS]) for rows_QS in (left_QS, right_QS)
    )
    left_QS -= left_QS.mean(axis=1, keepdims=True)
    right_QS -= right_QS.mean(axis=1, keepdims=True)
    scale_Q = np.sqrt((left_QS**2).sum(axis=1) * (right_QS**2).sum(axis=1))
    product_Q = (left_QS * right_QS).sum(axis=1)
    safe_Q = np.where(scale_Q > 0, scale_Q, 1.0)
    return np.clip(np.where(scale_Q > 0, product_Q / safe_Q, 0.0), -1.0, 1.0)
