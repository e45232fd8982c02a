"""Arrays that measures accept: of the expected axes, finite, not empty; errors name what came."""

from __future__ import annotations

from typing import Any

import numpy as np

from influence.errors import InfluenceError


def finite(values: Any, what: str, axes: str) -> np.ndarray:
    """Return values as a float64 array after checking them.

    Args:
        values: Array, CPU tensor or nested sequence of numbers.
        what: The function and the argument, for messages, such as ``lds: losses``.
        axes: One letter an axis, such as ``SRQ``; their number is checked.

    Returns:
        The values in float64.

    Raises:
        InfluenceError: If the axes don't fit, there is no value, or one is NaN or infinite.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != len(axes) or array.size == 0:
        raise InfluenceError(
            f"{what} of shape {list(array.shape)}, [{', '.join(axes)}] with at least one entry "
            "each was expected. Reshape it, or measure something first."
        )
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise InfluenceError(
            f"{what}: {len(bad)} of {array.size} values are NaN or infinite, the first at "
            f"[{', '.join(axes)}] = {bad[0].tolist()}; finite numbers were expected. Leave that "
            "row out, or look at the run or method that made it."
        )
    return array


def flags(values: Any, what: str, axes: str) -> np.ndarray:
    """Return values as a bool array after checking that they are one.

    Args:
        values: Array, CPU tensor or nested sequence of booleans.
        what: The function and the argument, for messages.
        axes: One letter an axis; their number is checked.

    Returns:
        The same values.

    Raises:
        InfluenceError: If they are not booleans (row numbers, say) or the axes don't fit.
    """
    array = np.asarray(values)
    if array.dtype != np.bool_ or array.ndim != len(axes) or array.size == 0:
        raise InfluenceError(
            f"{what} of type {array.dtype} and shape {list(array.shape)}, booleans "
            f"[{', '.join(axes)}] were expected. Give True and False for every entry, not numbers."
        )
    return array


def same(left: int, right: int, what: str) -> None:
    """Stop if two lengths that belong together differ.

    Args:
        left: One length.
        right: The other.
        what: What the two are, for the message.

    Raises:
        InfluenceError: With both lengths.
    """
    if left != right:
        raise InfluenceError(
            f"{what}: {left} and {right}, equal numbers were expected. Give both for the same "
            "queries, documents and runs, in the same order."
        )
