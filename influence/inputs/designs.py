r"""Which rows to evaluate: masks of units that stand, chosen before anything is known of the model.

Every design starts with the mask that keeps all, has no mask twice, and never holds more rows than
asked for.  Random designs come in complement pairs: where a mask stands, so does the mask that keeps
exactly the other units.  A pair cancels whatever is the same for both (the even part of the game),
which the scores of single units don't depend on; it is worth about twice as many unpaired masks.
The pairs are also spread out: each is the one of `CANDIDATES` random ones that tells most about units
that the pairs before it tell apart badly (the largest leverage).  Such a choice doesn't depend on what
units are called, so each mask is as random as the first candidate, but together they repeat less.

Axes: M masks, U units, S sizes of a mask, C candidates.
Source: pairs: Covert & Lee (2021), arXiv:2012.01536, section 4.2; antithetic permutations: Mitchell
et al. (2022), arXiv:2104.12199, section 3.1; leverage, the greedy D-optimal design: Dykstra (1971),
doi:10.1080/00401706.1971.10488840.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import comb

import numpy as np

from influence.errors import InputError
from influence.inputs.games import find

CANDIDATES = 32
"""Random masks of which the most telling is taken."""
PATIENCE = 10_000
"""Times that candidates are drawn again when the design holds all of them; then it stays shorter."""
UNKNOWN = 1e3
"""How little is known of units before the first mask, against what one mask tells (a variance)."""


def require_rows(method: str, units: int, rows: int, needed: int) -> None:
    """Refuse a budget that a method can do nothing with.

    Args:
        method: Its name.
        units: U.
        rows: What may be evaluated.
        needed: What must be.

    Raises:
        InputError: If there is no unit, or the budget is too small.
    """
    if units < 1:
        raise InputError(
            f"{method}: no units, expected at least 1. Choose a finer unit, or a longer prompt."
        )
    if rows < needed:
        raise InputError(
            f"{method}: a budget of {rows} rows, at least {needed} expected for {units} units. "
            f"Allow {needed} rows, choose a coarser unit (sentence rather than word), or a method "
            "that needs fewer, such as sparse."
        )


def every_mask(units: int) -> np.ndarray:
    """All masks there are.

    Args:
        units: U; memory grows with its power of two.

    Returns:
        `[2 ** U, U]` bool; each even row is followed by its complement; row 0 keeps all.
    """
    half = 2 ** (units - 1)
    bits_HU = (np.arange(half)[::-1, None] >> np.arange(units - 1)[::-1]) & 1
    kept_HU = np.concatenate([np.ones((half, 1), bool), bits_HU.astype(bool)], axis=1)
    return _with_complements(kept_HU)


def sliding(units: int, width: int) -> np.ndarray:
    """Masks that remove neighbours together.

    Args:
        units: U.
        width: Units in a window, from 1 to U.

    Returns:
        `[U - width + 2, U]` bool: all stand; then each window in turn is gone.

    Raises:
        InputError: If no window of this width fits.
    """
    if not 1 <= width <= units:
        raise InputError(
            f"occlusion: a window of {width} units, expected 1 to {units} (all of them). Choose a "
            "narrower window or a finer unit."
        )
    start_W, unit_U = np.arange(units - width + 1)[:, None], np.arange(units)
    kept_WU = (unit_U < start_W) | (unit_U >= start_W + width)
    return np.concatenate([np.ones((1, units), bool), kept_WU])


def leave_one_out(units: int) -> np.ndarray:
    """Masks that remove one unit.

    Args:
        units: U.

    Returns:
        `[U + 1, U]` bool: all stand; then each unit in turn is gone.
    """
    return sliding(units, 1)


def paired_random(units: int, rows: int, seed: int, keep: float = 0.5) -> np.ndarray:
    """Masks in which each unit stands by chance, and their complements.

    Args:
        units: U.
        rows: Most masks; at least 2.
        seed: Of the draws.
        keep: Chance of a unit to stand in the first mask of a pair, between 0 and 1.

    Returns:
        `[M, U]` bool: all, none, then pairs.  M is the largest even number of masks within the
        budget, or all there are.  Fewer only where ``keep`` makes other masks too unlikely.
    """
    if rows >= 2**units:
        return every_mask(units)
    random = np.random.default_rng([seed, 1])

    def candidates() -> np.ndarray:
        return _of_size(units, random.binomial(units, keep), random)

    return _spread_out(units, [candidates] * (rows // 2 - 1))


def kernel_shap_pairs(units: int, rows: int, seed: int) -> np.ndarray:
    r"""Masks whose sizes follow the Shapley kernel, and their complements.

    A size :math:`s` gets its share :math:`\propto 1/(s(U-s))` of the rows to within one pair (not
    more than there are masks of it); a size's masks are drawn without repetition.

    Args:
        units: U.
        rows: Most masks; at least 2.
        seed: Of the draws.

    Returns:
        `[M, U]` bool: all, none, then pairs by size.  M is the largest even number of masks within
        the budget, or all there are.

    Source:
        Lundberg & Lee (2017), arXiv:1705.07874, theorem 2 (the kernel).
    """
    if rows >= 2**units:
        return every_mask(units)
    random = np.random.default_rng([seed, 2])
    pairs = rows // 2 - 1
    sizes_S = np.arange(1, units // 2 + 1)
    halved_S = np.where(2 * sizes_S == units, 2, 1)  # both of a pair have this size
    most_S = [min(comb(units, s) // h, pairs) for s, h in zip(sizes_S, halved_S, strict=True)]
    share_S = 1 / (sizes_S * (units - sizes_S) * halved_S)
    counts_S = _shared_out(pairs, share_S, np.array(most_S, dtype=float), random.random())

    each = random.permutation(np.repeat(sizes_S, counts_S)).tolist()
    return _spread_out(units, [partial(_of_size, units, size, random) for size in each])


def permutations(units: int, rows: int, seed: int) -> np.ndarray:
    """Masks along permutations: each unit joins those before it.

    A permutation comes with its reverse, whose masks are the complements of its own.

    Args:
        units: U.
        rows: Most masks; at least 2 U.
        seed: Of the draws; a larger budget continues a smaller one.

    Returns:
        `[M, U]` bool: all, none, then the masks of each further pair of permutations that the ones
        before do not hold, as long as the whole pair fits the budget; or all masks there are.
    """
    if rows >= 2**units:
        return every_mask(units)
    kept_MU = _with_complements(np.ones((1, units), bool))
    for order_U in orders(units, seed):
        chain_KU = along(order_U)[1:-1]
        new_KU = chain_KU[find(kept_MU, chain_KU) < 0]
        if len(kept_MU) + 2 * len(new_KU) > rows:
            break
        kept_MU = np.concatenate([kept_MU, _with_complements(new_KU)])
    return kept_MU


def orders(units: int, seed: int) -> Iterator[np.ndarray]:
    """The random orders of `permutations`.

    Args:
        units: U.
        seed: Of the draws.

    Yields:
        `[U]` int64: a permutation; without end.
    """
    random = np.random.default_rng([seed, 3])
    while True:
        yield random.permutation(units)


def along(order_U: np.ndarray) -> np.ndarray:
    """Masks on the way from none to all.

    Args:
        order_U: A permutation of the units.

    Returns:
        `[U + 1, U]` bool: row k keeps the first k units of the order.
    """
    place_U = np.argsort(order_U)
    return np.arange(len(order_U) + 1)[:, None] > place_U


def _with_complements(kept_HU: np.ndarray) -> np.ndarray:
    return np.stack([kept_HU, ~kept_HU], axis=1).reshape(-1, kept_HU.shape[1])


def _shared_out(total: int, share_S: np.ndarray, most_S: np.ndarray, offset: float) -> np.ndarray:
    # Whole numbers near the shares of a total, none above its most; the offset decides roundings.
    quota_S = np.zeros_like(share_S)
    while total - quota_S.sum() > 1e-9:
        open_S = share_S * (quota_S < most_S)
        quota_S = np.minimum(most_S, quota_S + (total - quota_S.sum()) * open_S / open_S.sum())
    ends_S = np.floor(np.round(np.cumsum(quota_S), 6) + offset)
    return np.diff(ends_S, prepend=0).astype(int)


def _of_size(units: int, size: int, random: np.random.Generator) -> np.ndarray:
    return random.random((CANDIDATES, units)).argsort(axis=1) < size


def _spread_out(units: int, draws: Sequence[Callable[[], np.ndarray]]) -> np.ndarray:
    # All, none, and for each draw the candidate of most leverage with its complement.
    kept = [np.ones(units, bool)]
    held = {kept[0].tobytes(), (~kept[0]).tobytes()}
    variance_UU = UNKNOWN * np.eye(units)
    for draw in draws:
        new_CU = next(
            (
                drawn_CU[fresh_C]
                for drawn_CU in (draw() for _ in range(PATIENCE))
                if (fresh_C := [mask.tobytes() not in held for mask in drawn_CU]).count(True)
            ),
            None,
        )
        if new_CU is None:
            break
        told_CU = (new_CU - 0.5) @ variance_UU
        leverage_C = (told_CU * (new_CU - 0.5)).sum(axis=1)
        best = int(leverage_C.argmax())
        variance_UU -= np.outer(told_CU[best], told_CU[best]) / (1 + leverage_C[best])
        kept.append(new_CU[best])
        held |= {new_CU[best].tobytes(), (~new_CU[best]).tobytes()}
    return _with_complements(np.stack(kept))
