"""The one evaluated table that all perturbation methods and metrics read: mask -> log-probabilities.

Axes: M masks, U units, T tokens of a continuation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from influence.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """What the model says of every continuation when some units are removed."""

    kept_MU: np.ndarray
    """bool: which units stand; distinct rows, of which the first keeps all."""
    log_probs: tuple[np.ndarray, ...]
    """For each continuation `[M, T]` float64: log-probability of each of its tokens, in nats."""
    rows: int
    """Rows that went through the model for it."""


def rows_of(table: Table, kept_MU: np.ndarray) -> np.ndarray:
    """Find masks in a table.

    Args:
        table: Where to look.
        kept_MU: Masks, bool.

    Returns:
        Row number of each, int64; -1 where the table lacks it.
    """
    row_of = {mask.tobytes(): row for row, mask in enumerate(_masks(table.kept_MU))}
    return np.array([row_of.get(mask.tobytes(), -1) for mask in _masks(kept_MU)], dtype=np.int64)


def selected(table: Table, kept_MU: np.ndarray) -> Table:
    """The part of a table that some masks ask for.

    Args:
        table: Where to look.
        kept_MU: Masks, bool.

    Returns:
        A table of these masks, in their order, at no rows.

    Raises:
        InputError: If the table lacks one.
    """
    found_M = rows_of(table, kept_MU)
    if (found_M < 0).any():
        raise InputError(
            f"inputs: {int((found_M < 0).sum())} of {len(found_M)} masks are not in the table, "
            "expected all. Evaluate them first, see `extended`."
        )
    log_probs = tuple(values_MT[found_M] for values_MT in table.log_probs)
    return Table(kept_MU=_masks(kept_MU), log_probs=log_probs, rows=0)


def merged(tables: Sequence[Table]) -> Table:
    """Join tables of the same units and continuations.

    Args:
        tables: One or more.

    Returns:
        One table; a mask that several hold is taken from the first. Its rows are those of all.

    Raises:
        InputError: If there is none, or they do not fit.
    """
    shapes = {(t.kept_MU.shape[1], *(v.shape[1] for v in t.log_probs)) for t in tables}
    if len(shapes) != 1:
        raise InputError(
            f"inputs: {len(tables)} tables with units and tokens {sorted(shapes)}, expected one or "
            "more of the same units and continuations."
        )
    kept_MU = np.concatenate([_masks(table.kept_MU) for table in tables])
    first: dict[bytes, int] = {}
    for row, mask in enumerate(kept_MU):
        first.setdefault(mask.tobytes(), row)
    chosen = list(first.values())
    continuations = zip(*(table.log_probs for table in tables), strict=True)
    return Table(
        kept_MU=kept_MU[chosen],
        log_probs=tuple(np.concatenate(values)[chosen] for values in continuations),
        rows=sum(table.rows for table in tables),
    )


def extended(table: Table, kept_MU: np.ndarray, evaluate: Callable[[np.ndarray], Table]) -> Table:
    """Add masks to a table; those that it holds are not evaluated again.

    Args:
        table: What is known.
        kept_MU: Masks that are wanted, bool.
        evaluate: From masks to their table, such as `evaluate_masks` of the same passages.

    Returns:
        A table of both; the known rows come first.
    """
    missing_MU = _masks(kept_MU)[rows_of(table, kept_MU) < 0]
    return merged([table, evaluate(missing_MU)]) if len(missing_MU) else table


def _masks(kept_MU: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(kept_MU, dtype=bool)
