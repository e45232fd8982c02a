"""Vectors as they are stored: float32, float16, or int8 with one scale a row.

Axes: n rows, P coordinates of a vector.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradients_store.errors import BadRows

_INT8_STEPS = 127
_SCALE_BITS = np.uint32(0xFFFFFF80)  # 17 bits, with the first: times an int8 exact in float32
_FLOAT16_LARGEST = float(np.finfo(np.float16).max)


def quantise(
    vector_nP: NDArray[np.float32], dtype: str, ids: Sequence[str], where: str
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Turn vectors into their stored form; `stored * scale` gives them back.

    int8 is symmetric, one scale a row: `scale = max|v| / 127`, so no coordinate is off by more than
    half a scale. The scale is cut to 17 bits, which makes `stored * scale` exact in float32: every
    reader has the same vector. float16 rounds to nearest; float32 is exact.

    Args:
        vector_nP: Finite vectors ``[n, P]``.
        dtype: "float32", "float16" or "int8".
        ids: The ids of the n documents, for messages.
        where: Which shard this is, for messages.

    Returns:
        Stored vectors ``[n, P]`` of that dtype, and scales ``[n]``.

    Raises:
        BadRows: If a vector does not fit into float16; names the document.
    """
    ones_n = np.ones(len(vector_nP), dtype=np.float32)
    if dtype == "float32":
        return vector_nP, ones_n
    if dtype == "float16":
        with np.errstate(over="ignore"):
            half_nP = vector_nP.astype(np.float16)
        finite_n = np.isfinite(half_nP).all(axis=1)
        if not finite_n.all():
            row = int(np.argmin(finite_n))
            raise BadRows(
                f"{where}: document {ids[row]!r} has a coordinate of size "
                f"{np.abs(vector_nP[row]).max():.6g}, float16 holds up to {_FLOAT16_LARGEST:g}. "
                "Store the vectors as float32 or int8."
            )
        return half_nP, ones_n
    largest_n = np.maximum(vector_nP.max(axis=1), -vector_nP.min(axis=1))
    scale_n = np.maximum(largest_n / np.float32(_INT8_STEPS), np.finfo(np.float32).tiny)
    scale_n = (scale_n.view(np.uint32) & _SCALE_BITS).view(np.float32)
    small_nP = np.empty(vector_nP.shape, dtype=np.int8)
    for row, (vector_P, scale) in enumerate(zip(vector_nP, scale_n, strict=True)):
        np.clip(
            np.rint(vector_P / scale),
            -_INT8_STEPS,
            _INT8_STEPS,
            out=small_nP[row],
            casting="unsafe",
        )
    return small_nP, scale_n


def dequantise(table: pa.Table) -> NDArray[np.float32]:
    """Return the whitened vectors ``[n, P]`` of rows, from their columns `scale` and `vector`."""
    dimension = table.schema.field("vector").type.list_size
    vector_nP = np.empty((table.num_rows, dimension), dtype=np.float32)
    start = 0
    for batch in table.to_batches():
        stored_bP = batch.column("vector").flatten().to_numpy().reshape(-1, dimension)
        scale_b1 = batch.column("scale").to_numpy()[:, None]
        np.multiply(stored_bP, scale_b1, out=vector_nP[start : start + batch.num_rows])
        start += batch.num_rows
    return vector_nP
