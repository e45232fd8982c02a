"""What every attribution method is made of, by family; `METHODS` of `choice.py` lists them all.

Axes: M masks, U units, L tokens of the passage, P tokens of the prompt, S random draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from influence.inputs.explanation import Solution

if TYPE_CHECKING:
    from influence.inputs.gradient.embedded import EmbeddedTarget

CONFIDENCE = 0.95


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


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenScores:
    """What a gradient or attention method says of each token of the prompt."""

    scores_P: np.ndarray
    """float64, in the method's unit; a token that is never removed may have a score too."""
    value: float
    """Of the target; nats."""
    value_without: float | None = None
    """Of the target at the method's baseline; nats; None: it has none."""
    samples_SP: np.ndarray | None = None
    """Independent draws of which `scores_P` is the mean; None: nothing is random."""
    measures: dict[str, float | None] | None = None
    """Such as `completeness_error`."""
    notes: tuple[str, ...] = ()
    """What a reader must know; whole sentences."""


@dataclass(frozen=True, kw_only=True)
class TokenMethod(Method):
    """Gradient and attention methods: the target's embeddings in, a score of every token out."""

    attribute: Callable[[EmbeddedTarget, int], TokenScores]
    """`(target, seed)` -> scores of the prompt's tokens; the passes are counted by the target."""


def unit_scores(scores_P: np.ndarray, owner_L: np.ndarray, units: int) -> np.ndarray:
    """Score of each unit: the sum over its tokens, for every method.

    Signed scores add up to what the method hands out in total. Lengths of gradients (saliency,
    SmoothGrad) add up too, so that a long unit has a larger score than a short one of equally
    important tokens; the L2 norm of the unit's whole gradient lies between its largest token's
    score and this sum.

    Args:
        scores_P: Of the tokens; axes before the last are kept.
        owner_L: Which unit each token belongs to; negative: none. Only the first P are read.
        units: Number of units.

    Returns:
        `[..., U]`, float64, in the unit of the tokens' scores.
    """
    owner_P = owner_L[: scores_P.shape[-1]]
    member_PU = owner_P[:, None] == np.arange(units)
    return np.asarray(scores_P, dtype=np.float64) @ member_PU.astype(np.float64)


def solve_tokens(found: TokenScores, owner_L: np.ndarray, units: int) -> Solution:
    """Scores of units from scores of tokens, at no further pass.

    Args:
        found: What the method says of the tokens.
        owner_L: As for `unit_scores`.
        units: Number of units.

    Returns:
        Summed scores; with 95 % intervals (Student's t over the draws) where the method is random.
    """
    scores_U = unit_scores(found.scores_P, owner_L, units)
    low_U = high_U = None
    if found.samples_SP is not None:
        draws = len(found.samples_SP)
        error_U = unit_scores(found.samples_SP, owner_L, units).std(0, ddof=1) / np.sqrt(draws)
        reach_U = stats.t.ppf((1 + CONFIDENCE) / 2, draws - 1) * error_U
        low_U, high_U = scores_U - reach_U, scores_U + reach_U
    return Solution(
        scores_U=scores_U,
        low_U=low_U,
        high_U=high_U,
        measures=found.measures,
        notes=found.notes,
    )
