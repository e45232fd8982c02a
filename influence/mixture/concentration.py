r"""How few documents carry a task: half of the positive influence, its curve, and its tail.

The tail is fitted as a power law, density :math:`\propto x^{-\alpha}` above a threshold, by Hill's
estimator :math:`\alpha = 1 + n / \sum \ln(x_i / x_{min})`. The threshold is the one above which the
scores follow the fitted law most closely (Kolmogorov-Smirnov distance), among those that leave 50
documents or more. The smaller the exponent, the more the few strongest documents carry; at 2 or
below the mean itself is theirs. The fit describes the tail; it does not show that the scores come
from a power law.

Axes: N documents. Units: those of the scores. Sign: positive helps; only positive scores count.
Source: Hill (1975), doi:10.1214/aos/1176343247; Clauset, Shalizi & Newman (2009), arXiv:0706.1062,
eqs. 3.1 and 3.2, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_TAIL = 50
"""Documents below which no tail is fitted."""
POINTS = 60
"""Most points of a curve."""
_THRESHOLDS = 400  # most thresholds that are tried


@dataclass(frozen=True, kw_only=True)
class Tail:
    """A power law that was fitted to the largest scores."""

    exponent: float
    """Of the density."""
    low: float
    high: float
    """95 % interval from the standard error (exponent - 1) / sqrt(documents); the choice of the
    threshold is not in it."""
    threshold: float
    """Smallest score of the tail."""
    documents: int


@dataclass(frozen=True, kw_only=True)
class Concentration:
    """How a task's positive influence is spread over documents."""

    half: int
    """Fewest documents that carry half of it; 0 where no score is positive."""
    curve: tuple[tuple[float, float], ...]
    """Share of all documents, strongest first, and the share of positive influence they carry."""
    ccdf: tuple[tuple[float, float], ...]
    """Positive scores, ascending, and the share of all documents that score as much or more."""
    tail: Tail | None
    """None: fewer than 50 documents would be in it, or all of them score alike."""


def concentration(scores_N: np.ndarray) -> Concentration:
    """Describe how one task's positive influence is spread.

    Args:
        scores_N: Score of every document.

    Returns:
        Half, curves and tail.
    """
    falling_n = np.sort(scores_N[scores_N > 0])[::-1]
    count, documents = len(falling_n), len(scores_N)
    if not count:
        return Concentration(half=0, curve=(), ccdf=(), tail=None)
    share_n = np.cumsum(falling_n) / falling_n.sum()
    rank_p = _ranks(count)
    last = [(1.0, 1.0)] if count < documents else []
    # equal scores stand at the last of their ranks
    at_least_p = np.searchsorted(-falling_n, -falling_n[rank_p - 1], side="right")
    ccdf = dict(zip(falling_n[rank_p - 1].tolist(), (at_least_p / documents).tolist(), strict=True))
    shares = zip((rank_p / documents).tolist(), share_n[rank_p - 1].tolist(), strict=True)
    return Concentration(
        half=int(np.searchsorted(share_n, 0.5 - 1e-12) + 1),
        curve=((0.0, 0.0), *shares, *last),
        ccdf=tuple(reversed(ccdf.items())),
        tail=tail(falling_n),
    )


def tail(falling_n: np.ndarray) -> Tail | None:
    """Fit the tail of some positive scores.

    Args:
        falling_n: Scores, largest first.

    Returns:
        The fit at the best threshold, or None.
    """
    if len(falling_n) < LEAST_TAIL:
        return None
    logs_n = np.log(falling_n)
    sums_n = np.cumsum(logs_n)
    starts = np.unique(np.linspace(LEAST_TAIL, len(falling_n), _THRESHOLDS).astype(int))
    best: tuple[float, float, int] | None = None
    for size in starts:
        if size < len(falling_n) and logs_n[size] == logs_n[size - 1]:
            continue  # the threshold's own value would be cut in two
        excess = float(sums_n[size - 1] - size * logs_n[size - 1])
        if excess <= 1e-9 * size:
            continue  # all alike
        exponent = 1 + size / excess
        expected_n = np.exp((1 - exponent) * (logs_n[:size] - logs_n[size - 1]))
        ranks_n = np.arange(size)
        distance = max(
            float((expected_n - ranks_n / size).max()),
            float(((ranks_n + 1) / size - expected_n).max()),
        )
        if best is None or distance < best[0]:
            best = distance, exponent, int(size)
    if best is None:
        return None
    _, exponent, size = best
    error = 1.96 * (exponent - 1) / np.sqrt(size)
    return Tail(
        exponent=float(exponent),
        low=float(exponent - error),
        high=float(exponent + error),
        threshold=float(falling_n[size - 1]),
        documents=size,
    )


def _ranks(count: int) -> np.ndarray:
    # Ranks from 1 to `count`, evenly spread on a log axis.
    return np.unique(np.geomspace(1, count, POINTS - 2).round().astype(np.int64))
