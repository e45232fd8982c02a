"""Spearman's correlation, row by row.

Axes: Q queries, S things that are ranked (subsets or documents).
"""

from __future__ import annotations

import numpy as np


def spearman(left_QS: np.ndarray, right_QS: np.ndarray) -> np.ndarray:
    r"""Spearman's correlation of each row: Pearson's correlation of average ranks.

    Args:
        left_QS: Finite numbers.
        right_QS: Finite numbers, to be compared row by row.

    Returns:
        ``[Q]`` in -1..1; 0 where either row is constant, since it orders nothing (never NaN).
    """
    from scipy.stats import rankdata  # slow to import

    left_QS, right_QS = rankdata(left_QS, axis=1), rankdata(right_QS, axis=1)
    left_QS -= left_QS.mean(axis=1, keepdims=True)
    right_QS -= right_QS.mean(axis=1, keepdims=True)
    scale_Q = np.sqrt((left_QS**2).sum(axis=1) * (right_QS**2).sum(axis=1))
    product_Q = (left_QS * right_QS).sum(axis=1)
    safe_Q = np.where(scale_Q > 0, scale_Q, 1.0)
    return np.clip(np.where(scale_Q > 0, product_Q / safe_Q, 0.0), -1.0, 1.0)
