"""Straight lines through costs, and where a line does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HOLDS = 0.15
"""A line holds where it is within this share of what was measured."""


@dataclass(frozen=True)
class Line:
    """``cost = fixed + slope x``, fitted to relative errors."""

    fixed: float
    slope: float
    worst: float
    """Largest relative error."""
    off: tuple[float, ...]
    """Where the error exceeds ``HOLDS``."""
    power: float
    """Growth between the last two points, as an exponent: 1 is proportional, 2 quadratic."""


def line(x_n: Sequence[float], cost_n: Sequence[float]) -> Line:
    """Fit a line.

    Args:
        x_n: What grows; at least two values, ascending.
        cost_n: The costs, positive.

    Returns:
        The line, and how well it holds.
    """
    x, cost = np.asarray(x_n, dtype=float), np.asarray(cost_n, dtype=float)
    slope, fixed = np.polyfit(x, cost, 1, w=1 / cost)
    error = np.abs(fixed + slope * x - cost) / cost
    power = np.log(cost[-1] / cost[-2]) / np.log(x[-1] / x[-2])
    off = tuple(x[error > HOLDS].tolist())
    return Line(float(fixed), float(slope), float(error.max()), off, float(power))
