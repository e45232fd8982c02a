"""What every attribution method is made of, by family; `METHODS` of `choice.py` lists them all.

Axes: M masks, U units, P prompt tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from influence.inputs.explanation import Solution


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to say which parts of the prompt matter."""

    name: str
    """As typed after `--method`."""
    title: str
    about: str
    """One sentence: what the score is."""
    unit: str = "nats"
    signed: bool = True
    """False: the score says how much, not in which direction."""
    source: str = ""
    """Paper and equation."""


@dataclass(frozen=True, kw_only=True)
class MaskMethod(Method):
    """Perturbation and surrogate methods: masks in, scores out, nothing but the table between."""

    design: Callable[[int, int, int], np.ndarray]
    """`(units U, most rows, seed)` -> which units stand `[M, U]`, bool, distinct; row 0 keeps all."""
    solve: Callable[[np.ndarray, np.ndarray, int], Solution]
    """`(kept_MU, values_M, seed)` -> scores; may be given more rows than it designed."""
