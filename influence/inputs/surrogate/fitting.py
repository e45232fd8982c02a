"""A simple model of the model, and how far it can be trusted.

A surrogate predicts the value of a mask; its scores say what each unit adds.  What is shared here:

- *Held out*: pairs of complementary masks are split into five parts, both masks of a pair in the
  same part (no figures with fewer than five pairs).  Each part is predicted by a surrogate that saw
  only the others, from its own choice of settings on; the masks that keep all and none are always
  seen and never tested.  `heldout_r2` and `lds` compare all predictions with the values.  The scores
  themselves come from every row, so no row is lost.
- *Interval*: the pairs are drawn again with replacement, settings kept; score +- 1.96 standard
  deviations of the scores so found, narrowed by the share of all masks that was not seen.  Where the
  fit pulls scores towards 0, the interval reaches as much further away from 0.
- *Refusal*: with `heldout_r2` below `LEAST_R2` the surrogate does not predict the model, and its
  scores should not be trusted.

Axes: M masks, U units, B resamples.
Source: pairs bootstrap: Freedman (1981), doi:10.1214/aos/1176345638; Covert & Lee (2021),
arXiv:2012.01536 (of paired masks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from influence.errors import InputError
from influence.inputs.explanation import Solution
from influence.inputs.faithfulness import (
    completeness_error,
    r_squared,
    rank_agreement,
    sensitivity,
)
from influence.inputs.games import check_game, complete, constant, find, pairs_of

LEAST_R2 = 0.25
"""Held-out share of variance below which a surrogate is refused: a correlation of one half."""
PARTS = 5
"""Of the held-out split."""
RESAMPLES = 200
"""Of the bootstrap."""
FEWEST = 12
"""Rows that a surrogate with a strength or depth to choose asks for: five pairs, all and none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Surrogate:
    """A fitted surrogate."""

    scores_U: np.ndarray
    """What each unit adds; nats."""
    predict: Callable[[np.ndarray], np.ndarray]
    """Masks `[N, U]` -> values `[N]`, nats."""
    pull: float = 0.0
    """How far the fit may pull a score towards 0; nats."""
    notes: tuple[str, ...] = ()


Fit = Callable[[np.ndarray, np.ndarray], Surrogate]
"""`(kept_MU, values_M)` -> surrogate; rows may repeat, and then count as often."""
Choose = Callable[[np.ndarray, np.ndarray, int], Fit]
"""`(kept_MU, values_M, seed)` -> a fit with its settings chosen on these rows."""


def explain_by(choose: Choose, kept_MU: np.ndarray, values_M: np.ndarray, seed: int) -> Solution:
    """Fit a surrogate, test it on masks that it didn't see, and say what came of it.

    Args:
        choose: How its settings are chosen, and it is fitted.
        kept_MU: bool: distinct masks, of which the first keeps all.
        values_M: Value of the target for each mask, in nats.
        seed: Of the split and the resamples.

    Returns:
        Scores in nats with 95 % intervals (None where every mask was seen), `heldout_r2`, `lds`,
        `completeness_error` and `sensitivity`.

    Raises:
        InputError: If the table makes no sense, or lacks the mask that keeps none.
    """
    check_game(kept_MU, values_M)
    if find(kept_MU, ~kept_MU[:1])[0] < 0 or (len(kept_MU) < 3 and not complete(kept_MU)):
        raise InputError(
            f"surrogate: {len(kept_MU)} masks, expected the one that keeps none and at least one "
            "more beside the one that keeps all. Evaluate the masks of the method's own design."
        )
    if constant(values_M):
        return nothing_matters(kept_MU.shape[1])
    fit = choose(kept_MU, values_M, seed)
    found = fit(kept_MU, values_M)
    predicted_M = held_out(choose, kept_MU, values_M, seed)
    tested_M = np.isfinite(predicted_M)
    r2 = r_squared(predicted_M[tested_M], values_M[tested_M])
    measures = {
        "heldout_r2": r2,
        "lds": rank_agreement(predicted_M[tested_M], values_M[tested_M]),
        "completeness_error": completeness_error(kept_MU, values_M, found.scores_U),
    }
    low_U, high_U = None, None
    if not complete(kept_MU):
        drawn_BU = np.stack(
            [fit(kept_MU[i], values_M[i]).scores_U for i in resamples(pairs_of(kept_MU), seed)]
        )
        unseen = 1 - len(kept_MU) * 0.5 ** kept_MU.shape[1]
        half_U = 1.96 * drawn_BU.std(axis=0, ddof=1) * math.sqrt(unseen)
        low_U = found.scores_U - half_U - found.pull * (found.scores_U <= 0)
        high_U = found.scores_U + half_U + found.pull * (found.scores_U >= 0)
        measures["sensitivity"] = sensitivity(found.scores_U, drawn_BU)
    refused = r2 is not None and r2 < LEAST_R2
    return Solution(
        scores_U=found.scores_U,
        low_U=low_U,
        high_U=high_U,
        measures=measures,
        notes=(*((refusal(r2),) if refused and r2 is not None else ()), *found.notes),
        trusted=not refused,
    )


def refusal(r2: float) -> str:
    """What a reader is told of a surrogate that doesn't predict.

    Args:
        r2: Held-out share of variance.

    Returns:
        Two sentences: what is wrong, and what to do.
    """
    return (
        f"Don't trust these scores: on masks that it was not fitted on, the surrogate explains "
        f"{max(r2, 0):.0%} of the variance, and at least {LEAST_R2:.0%} is expected. Allow more "
        "rows, choose coarser units, or another method (leave-one-out or shapley)."
    )


def nothing_matters(units: int) -> Solution:
    """The answer where every mask is worth the same.

    Args:
        units: U.

    Returns:
        Zeros.
    """
    zeros_U = np.zeros(units)
    return Solution(
        scores_U=zeros_U,
        low_U=zeros_U,
        high_U=zeros_U,
        measures={"heldout_r2": None, "lds": None, "completeness_error": 0.0},
        notes=("The target is worth the same whichever units stand, so every score is 0.",),
    )


def held_out(choose: Choose, kept_MU: np.ndarray, values_M: np.ndarray, seed: int) -> np.ndarray:
    """Predict each mask by a surrogate that saw neither it nor its complement.

    Args:
        choose: How settings are chosen, and the surrogate is fitted.
        kept_MU: bool: distinct masks, of which the first keeps all.
        values_M: In nats.
        seed: Of the split.

    Returns:
        `[M]` in nats; NaN for masks that keep all or none, and everywhere with fewer than five
        further pairs.
    """
    predicted_M = np.full(len(values_M), np.nan)
    folds = splits(pairs_of(kept_MU), seed)
    for seen, tested in folds if len(folds) == PARTS else []:
        fit = choose(kept_MU[seen], values_M[seen], seed)
        predicted_M[tested] = fit(kept_MU[seen], values_M[seen]).predict(kept_MU[tested])
    return predicted_M


def splits(pair_M: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ways to see most pairs and test the others: five, or as many as there are pairs.

    Args:
        pair_M: Number of each mask's pair; pair 0 is always seen.
        seed: Of the split.

    Returns:
        Rows seen and rows tested, of each way; none with fewer than two pairs.
    """
    pairs = int(pair_M.max())
    order = 1 + np.random.default_rng([seed, 7]).permutation(pairs)
    parts = np.array_split(order, min(PARTS, pairs)) if pairs > 1 else []
    tested_MF = [np.isin(pair_M, part) for part in parts]
    return [(np.flatnonzero(~tested_M), np.flatnonzero(tested_M)) for tested_M in tested_MF]


def resamples(pair_M: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Draw the pairs again with replacement; pair 0 always stands once.

    Args:
        pair_M: Number of each mask's pair.
        seed: Of the draws.

    Yields:
        Rows; both of a pair as often as it was drawn.
    """
    random = np.random.default_rng([seed, 8])
    rows = [np.flatnonzero(pair_M == pair) for pair in range(int(pair_M.max()) + 1)]
    for _ in range(RESAMPLES):
        drawn = 1 + random.integers(0, len(rows) - 1, len(rows) - 1)
        yield np.concatenate([rows[0], *(rows[pair] for pair in drawn)])
