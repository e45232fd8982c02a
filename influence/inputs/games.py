"""A prompt as a game: which units stand, and what the target is then worth.

Perturbation, surrogates and measures all see the model as `(kept_MU, values_M)`: rows of units that
stand, and the value of the target for each, in nats.

Axes: M masks, U units, W wanted masks.
"""

from __future__ import annotations

import numpy as np

from influence.errors import InputError

ROUNDING = 1e-12
"""Values that differ by less than this share of the largest are the same."""


def check_game(kept_MU: np.ndarray, values_M: np.ndarray) -> None:
    """Refuse a table that no method can read.

    Args:
        kept_MU: bool: which units stand.
        values_M: Value of the target for each row, in nats.

    Raises:
        InputError: If shapes disagree, the first row doesn't keep all, a row stands twice, or a
            value is not finite.
    """
    if kept_MU.ndim != 2 or kept_MU.dtype != bool or values_M.shape != kept_MU.shape[:1]:
        raise InputError(
            f"table: masks {kept_MU.dtype} {kept_MU.shape} with values {values_M.shape}, expected "
            "bool [M, U] and [M]. Pass `kept_MU` and the values of one evaluated table."
        )
    if kept_MU.size == 0 or not kept_MU[0].all():
        raise InputError(
            f"table: {kept_MU.shape[0]} masks of {kept_MU.shape[1]} units, of which the first does "
            "not keep all; a first mask that keeps every unit was expected. Put it first."
        )
    repeated = len(kept_MU) - len(np.unique(np.packbits(kept_MU, axis=1), axis=0))
    if repeated:
        raise InputError(
            f"table: {repeated} of {len(kept_MU)} masks repeat others, distinct masks expected. "
            "Keep one row of each mask."
        )
    bad = np.flatnonzero(~np.isfinite(values_M))
    if len(bad):
        raise InputError(
            f"table: the value of row {bad[0]} is {values_M[bad[0]]} ({len(bad)} rows of "
            f"{len(values_M)} are not finite), finite nats expected. The model gives the target no "
            "probability there: choose another target or another removal operator."
        )


def find(kept_MU: np.ndarray, wanted_WU: np.ndarray) -> np.ndarray:
    """Where masks stand in a table.

    Args:
        kept_MU: bool: the table's masks, distinct.
        wanted_WU: bool: masks to look up.

    Returns:
        `[W]` int64: row of each in the table; -1 where it isn't there.
    """
    row_of = {key.tobytes(): row for row, key in enumerate(np.packbits(kept_MU, axis=1))}
    wanted = np.packbits(wanted_WU, axis=1)
    return np.array([row_of.get(key.tobytes(), -1) for key in wanted], dtype=np.int64)


def pairs_of(kept_MU: np.ndarray) -> np.ndarray:
    """Which masks are each other's complement.

    Args:
        kept_MU: bool: masks, of which the first keeps all.

    Returns:
        `[M]` int64: the same number for a mask and its complement, counted from 0 in the order of
        rows; so 0 marks the mask that keeps all and the one that keeps none.
    """
    other_M = find(kept_MU, ~kept_MU)
    row_M = np.arange(len(kept_MU))
    first_M = np.where(other_M < 0, row_M, np.minimum(row_M, other_M))
    return np.unique(first_M, return_inverse=True)[1]


def complete(kept_MU: np.ndarray) -> bool:
    """Does every mask stand in the table?

    Args:
        kept_MU: bool: distinct masks.

    Returns:
        True when nothing is left to chance: a score from it has no sampling error.
    """
    return len(kept_MU) == 2 ** kept_MU.shape[1]


def constant(values_M: np.ndarray) -> bool:
    """Is it all the same which units stand?

    Args:
        values_M: In nats.

    Returns:
        True when the values differ by rounding only.
    """
    return bool(np.ptp(values_M) <= ROUNDING * np.abs(values_M).max())
