"""How well named classes are told apart: F1 of each class, and their mean.

Axes: N rows, D draws, C classes.
Source: F1 as the harmonic mean of precision and recall, van Rijsbergen (1979), chapter 7; macro: every
class counts the same, however many rows it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from influence.errors import InfluenceError
from influence.evaluation.discrimination import Statistic


def f1_by_class(
    said: Sequence[str], known: Sequence[str], weights_DN: np.ndarray | None = None
) -> tuple[tuple[str, ...], np.ndarray]:
    """F1 of each class that occurs in `known`.

    Args:
        said: What a rule says of each row.
        known: What is true.
        weights_DN: How much each row counts; None: once.

    Returns:
        The classes, sorted, and `[D, C]` from 0 to 1 (D = 1 without weights); 0 for a class that is
        never rightly named.

    Raises:
        InfluenceError: If there is no row, or there are more of one than of the other.
    """
    if not known or len(said) != len(known):
        raise InfluenceError(
            f"F1: {len(said)} names for {len(known)} rows, as many were expected, and at least one."
        )
    classes = tuple(sorted(set(known)))
    weights_DN = np.ones((1, len(known))) if weights_DN is None else weights_DN
    said_NC = np.array([[one == name for name in classes] for one in said], np.float64)
    known_NC = np.array([[one == name for name in classes] for one in known], np.float64)
    both_DC = weights_DN @ (said_NC * known_NC)
    either_DC = weights_DN @ said_NC + weights_DN @ known_NC
    return classes, np.divide(2 * both_DC, either_DC, np.zeros_like(both_DC), where=either_DC > 0)


def macro_f1_of(said: Sequence[str], known: Sequence[str]) -> Statistic:
    """The mean of the classes' F1 as a statistic, for `bootstrap.interval`.

    Args:
        said: What a rule says of each row.
        known: What is true.

    Returns:
        Weights `[D, N]` -> `[D]`. Naming classes at random, as often as they occur, gets about 1/C.
    """

    def statistic(weights_DN: np.ndarray) -> np.ndarray:
        return np.asarray(f1_by_class(said, known, weights_DN)[1].mean(axis=1))

    return statistic
