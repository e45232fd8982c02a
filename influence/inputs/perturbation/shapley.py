r"""Shapley values: what a unit adds to those before it, on average over all orders of the units.

.. math:: \phi_i = \sum_{S \not\ni i} \frac{|S|!\,(U-|S|-1)!}{U!} \big(v(S \cup i) - v(S)\big)

Where every mask stands in the table, this sum; else its mean over random orders, each with its
reverse (antithetic), whose masks are the complements.  The sampled scores are unbiased: when a
design stops depends only on which masks repeat, and that is the same whatever the units are called.

Sign: positive: supports the output.  The scores add up to v(N) - v(none), sampled or not.
Interval: mean over pairs of orders +- Student's t (95 %, pairs - 1 degrees of freedom) standard
errors; None where every mask was seen.  The variance of a unit is steadied by the mean over units
(which counts `PRIOR` degrees of freedom): with few orders a unit may add the same in each by chance.
Held out: the pairs of orders are split into five parts (fewer with fewer); masks that no other part
holds are predicted from the scores of the other parts, with those parts' own constant.
Known weaknesses: rows; a prompt with most units gone is far from what the model was trained on.
Source: Shapley (1953); orders: Castro, Gomez & Tejada (2009), doi:10.1016/j.cor.2008.04.004;
antithetic: Mitchell et al. (2022), arXiv:2104.12199, section 3.1.

Axes: M masks, U units, O pairs of orders, K = U + 1 masks along an order.
"""

from __future__ import annotations

import math

import numpy as np

from influence.errors import InputError
from influence.inputs import designs
from influence.inputs.explanation import Solution
from influence.inputs.faithfulness import completeness_error, r_squared, rank_agreement
from influence.inputs.games import check_game, complete, find
from influence.inputs.methods import MaskMethod

PARTS = 5
"""Of the held-out split."""
PRIOR = 4
"""Degrees of freedom that the mean variance of all units counts beside a unit's own."""


def design(units: int, rows: int, seed: int) -> np.ndarray:
    """Every mask if the budget allows; else those along random orders, at least two pairs of them.

    Args:
        units: U.
        rows: Most masks.
        seed: Of the orders.

    Returns:
        `[M, U]` bool.
    """
    designs.require_rows("shapley", units, rows, min(4 * units - 2, 2**units))
    return designs.permutations(units, rows, seed)


def solve(kept_MU: np.ndarray, values_M: np.ndarray, seed: int) -> Solution:
    """Shapley values from a table.

    Args:
        kept_MU: bool: distinct masks, of which the first keeps all.
        values_M: Value of the target for each mask, in nats.
        seed: The design's.

    Returns:
        Scores in nats.

    Raises:
        InputError: If fewer than two pairs of orders stand in the table.
    """
    check_game(kept_MU, values_M)
    if complete(kept_MU):
        return _solution(kept_MU, values_M, exact(kept_MU, values_M))
    rows_OK, mirrored_OK, orders_OU = _orders_in(kept_MU, seed)
    if len(orders_OU) < 2:
        raise InputError(
            f"shapley: {len(orders_OU)} pairs of orders of seed {seed} stand in a table of "
            f"{len(kept_MU)} masks, at least 2 expected. Evaluate the masks of the method's own "
            "design, with the same seed."
        )
    # An order and its reverse: what a unit adds to those before it, and to those after it.
    added_OU = (np.diff(values_M[rows_OK]) - np.diff(values_M[mirrored_OK])) / 2
    scores_OU = np.take_along_axis(added_OU, np.argsort(orders_OU, axis=1), axis=1)
    variance_U, freedom = scores_OU.var(axis=0, ddof=1), len(scores_OU) - 1
    steadied_U = (freedom * variance_U + PRIOR * variance_U.mean()) / (freedom + PRIOR)
    return _solution(
        kept_MU,
        values_M,
        scores_OU.mean(axis=0),
        half_U=_student(freedom) * np.sqrt(steadied_U / len(scores_OU)),
        predicted_M=_held_out(kept_MU, values_M, scores_OU, np.hstack([rows_OK, mirrored_OK])),
    )


def exact(kept_MU: np.ndarray, values_M: np.ndarray) -> np.ndarray:
    """Shapley values by their definition.

    Args:
        kept_MU: bool: every mask, once.
        values_M: In any unit.

    Returns:
        `[U]`, in the unit of the values.
    """
    units = kept_MU.shape[1]
    size_M = kept_MU.sum(axis=1)
    # v(S) counts for a unit in S with (s-1)!(U-s)!/U!, and against one that isn't with s!(U-s-1)!/U!.
    inside = [1 / (s * math.comb(units, s)) if s else 0.0 for s in range(units + 1)]
    outside = [
        1 / ((units - s) * math.comb(units, s)) if s < units else 0.0 for s in range(units + 1)
    ]
    in_M, out_M = np.array(inside)[size_M], np.array(outside)[size_M]
    return (in_M * values_M) @ kept_MU - (out_M * values_M) @ ~kept_MU


def _orders_in(kept_MU: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Rows of the masks along each order, rows of their complements, and the orders.
    rows, mirrored, found = [], [], []
    for order_U in designs.orders(kept_MU.shape[1], seed):
        chain_KU = designs.along(order_U)
        row_K, mirrored_K = find(kept_MU, chain_KU), find(kept_MU, ~chain_KU)
        if min(row_K.min(), mirrored_K.min()) < 0:
            break
        rows.append(row_K)
        mirrored.append(mirrored_K)
        found.append(order_U)
    return np.array(rows), np.array(mirrored), np.array(found)


def _held_out(
    kept_MU: np.ndarray, values_M: np.ndarray, scores_OU: np.ndarray, rows_OK: np.ndarray
) -> np.ndarray:
    predicted_M = np.full(len(values_M), np.nan)
    pairs = len(scores_OU)
    for part in np.array_split(np.arange(pairs), min(PARTS, pairs)):
        others = np.setdiff1d(np.arange(pairs), part)
        tested = np.setdiff1d(rows_OK[part], rows_OK[others])
        seen, scores_U = np.unique(rows_OK[others]), scores_OU[others].mean(axis=0)
        constant = (values_M[seen] - kept_MU[seen] @ scores_U).mean()
        predicted_M[tested] = constant + kept_MU[tested] @ scores_U
    return predicted_M


def _solution(
    kept_MU: np.ndarray,
    values_M: np.ndarray,
    scores_U: np.ndarray,
    half_U: np.ndarray | None = None,
    predicted_M: np.ndarray | None = None,
) -> Solution:
    tested_M = np.zeros(len(values_M), bool) if predicted_M is None else np.isfinite(predicted_M)
    predicted = values_M[tested_M] if predicted_M is None else predicted_M[tested_M]
    return Solution(
        scores_U=scores_U,
        low_U=None if half_U is None else scores_U - half_U,
        high_U=None if half_U is None else scores_U + half_U,
        measures={
            "heldout_r2": r_squared(predicted, values_M[tested_M]),
            "lds": rank_agreement(predicted, values_M[tested_M]),
            "completeness_error": completeness_error(kept_MU, values_M, scores_U),
        },
    )


def _student(freedom: int) -> float:
    from scipy.stats import t  # slow to import

    return float(t.ppf(0.975, freedom))


METHOD = MaskMethod(
    name="shapley",
    title="Shapley values",
    about="What the unit adds to those before it, on average over orders of the units.",
    source="Shapley (1953); Castro, Gomez & Tejada (2009)",
    design=design,
    solve=solve,
)
