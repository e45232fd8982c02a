"""What an attribution method says of one output.

Axes: U units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from influence.inputs.faithfulness import Faithfulness
from influence.inputs.passage import Unit
from influence.inputs.targets import Target

SIGN = "positive: supports the output; without it the output would be less likely"


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """Scores of units, and how sure they are."""

    scores_U: np.ndarray
    """float64, in the method's unit."""
    low_U: np.ndarray | None = None
    """Lower end of the 95 % interval of each; None: the method has no sampling error."""
    high_U: np.ndarray | None = None
    """Upper end."""
    measures: dict[str, float | None] | None = None
    """Such as `heldout_r2`, `lds`, `completeness_error`; None where it has no answer."""
    notes: tuple[str, ...] = ()
    """What a reader must know, such as a refusal; whole sentences."""
    trusted: bool = True
    """False: the method says itself that its scores should not be relied on; a note says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What one method says of one output."""

    method: str
    unit: str
    """Of the scores, such as `nats`."""
    sign: str
    units: tuple[Unit, ...]
    solution: Solution
    target: Target
    """What is explained."""
    value: float
    """Of the target with the whole prompt; nats."""
    value_without: float | None
    """Of the target with every unit removed; nats; None: it was not evaluated."""
    faithfulness: Faithfulness
    """What masks that no method saw say of the scores."""
    forward_rows: int
    backward_rows: int
