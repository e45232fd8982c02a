"""How well a store's scores follow exact ones, on a sample.

Axes: Q queries, N documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How well compressed scores follow exact ones, on a sample."""

    pearson: float
    """Mean over queries of Pearson's correlation over documents."""
    spearman: float
    """Mean over queries of Spearman's correlation over documents."""
    queries: int
    documents: int


def fidelity(compressed_QN: np.ndarray, exact_QN: np.ndarray) -> Fidelity:
    """Rank and linear agreement of compressed scores with exact ones.

    Args:
        compressed_QN: Scores from the store ``[Q, N]``.
        exact_QN: Exact scores of the same pairs.

    Returns:
        The agreement, averaged over queries.
    """
    from scipy.stats import spearmanr  # slow to import, and only a new store needs it

    pearson = [np.corrcoef(a, b)[0, 1] for a, b in zip(compressed_QN, exact_QN, strict=True)]
    spearman = [spearmanr(a, b).statistic for a, b in zip(compressed_QN, exact_QN, strict=True)]
    return Fidelity(
        pearson=float(np.mean(pearson)),
        spearman=float(np.mean(spearman)),
        queries=len(exact_QN),
        documents=exact_QN.shape[1],
    )


def recall(compressed_QN: np.ndarray, exact_QN: np.ndarray, top: int, candidates: int) -> float:
    """Share of the exact top documents of both signs that a search of the store would pass on.

    Args:
        compressed_QN: Scores from the store.
        exact_QN: Exact scores of the same pairs.
        top: How many of each sign are wanted.
        candidates: How many of each sign the search returns.

    Returns:
        Mean over queries and signs, between 0 and 1.
    """

    def best(scores_N: np.ndarray, count: int) -> set[int]:
        return set(np.argsort(-scores_N, kind="stable")[:count].tolist())

    shares: Sequence[float] = [
        len(best(sign * e, top) & best(sign * c, candidates)) / min(top, exact_QN.shape[1])
        for c, e in zip(compressed_QN, exact_QN, strict=True)
        for sign in (1, -1)
    ]
    return float(np.mean(shares))
