"""The one evaluated table that all perturbation methods and metrics read: mask -> log-probabilities.

Axes: M masks, U units, T tokens of a continuation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """What the model says of every continuation when some units are removed."""

    kept_MU: np.ndarray
    """bool: which units stand; distinct rows, of which the first keeps all."""
    log_probs: tuple[np.ndarray, ...]
    """For each continuation `[M, T]` float64: log-probability of each of its tokens, in nats."""
    rows: int
    """Rows that went through the model for it."""
