"""Vectors as they are stored: float32, float16, or int8, int4 and int2 with scales.

A number is its stored form times one scale a row (plain rows) or times a scale of the row and one
of its factor (factor rows). Scales have so few bits that the product is exact in float32: every
reader has the same numbers.
Axes: n rows, P coordinates of a vector, m vectors of k numbers, F factors of a row, W elements of
a stored row.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradients_store.columns import lists, numbers
from gradients_store.errors import BadRows
from gradients_store.packing import levels, packed, unpacked
from gradients_store.schema import PACKED_BITS, Header

_INT8_STEPS = 127
_SCALE_BITS = np.uint32(0xFFFFFF80)  # 17 bits, with the first: times an int8 exact in float32
_FLOAT16_LARGEST = float(np.finfo(np.float16).max)
_GAUSSIAN_STEP = {4: 0.335, 2: 0.996}  # the best uniform steps for numbers of variance 1
_FAR = (0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 8.0)
_NEAR = (0.9, 0.95, 1.0, 1.05, 1.1)
_PIECE_NUMBERS = 1 << 18  # numbers that are turned at once


def quantise(
    vector_nP: NDArray[np.float32], header: Header, ids: Sequence[str], where: str
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float16] | None]:
    """Turn vectors into their stored form.

    int8: symmetric, ``step = max|v| / 127``, so no number is off by more than half a step.
    int4 and int2: half-steps (see `packing`), with a step that makes the squared error small.
    float16 rounds to nearest; float32 is exact. Plain rows have one step each, their `scale`, cut
    to 17 bits; each factor has a step of its own, `scale * factor_scale`, where `scale` is a
    power of two.

    Args:
        vector_nP: Finite vectors ``[n, P]``.
        header: What the store holds.
        ids: The ids of the n documents, for messages.
        where: Which shard this is, for messages.

    Returns:
        Stored vectors ``[n, W]``, scales ``[n]`` and, for factor rows, factor scales ``[n, F]``.

    Raises:
        BadRows: If a vector does not fit into float16; names the document.
    """
    shape = None if header.factors is None else (len(vector_nP), len(list(factor_parts(header))))
    if header.dtype in ("float32", "float16"):
        stored_nP = vector_nP if header.dtype == "float32" else _halves(vector_nP, ids, where)
        ones = None if shape is None else np.ones(shape, dtype=np.float16)
        return stored_nP, np.ones(len(vector_nP), dtype=np.float32), ones
    bits = PACKED_BITS.get(header.dtype, 8)
    code_nP = np.empty(vector_nP.shape, dtype=np.int8 if bits == 8 else np.uint8)
    if shape is None:
        scale_n, factor_scale_nF = _row_scales(_steps(vector_nP, bits), bits), None
        _encode(vector_nP, scale_n, bits, code_nP)
    else:
        parts = list(factor_parts(header))
        step_nF = np.empty(shape)
        for factor, part in enumerate(parts):
            step_nF[:, factor] = _steps(vector_nP[:, part], bits)
        scale_n, factor_scale_nF = _factor_scales(step_nF, bits)
        for factor, part in enumerate(parts):
            step_n = scale_n * factor_scale_nF[:, factor].astype(np.float32)
            _encode(vector_nP[:, part], step_n, bits, code_nP[:, part])
    return (code_nP if bits == 8 else packed(code_nP, bits)), scale_n, factor_scale_nF


def dequantise(table: pa.Table, header: Header) -> NDArray[np.float32]:
    """Return the vectors ``[n, P]`` of rows, from the columns ``header.vector_columns``."""
    vector_nP = np.empty((table.num_rows, header.dimension), dtype=np.float32)
    start = 0
    for batch in table.to_batches():
        vector_bP = vector_nP[start : start + batch.num_rows]
        start += batch.num_rows
        stored_bW = lists(batch.column("vector"))
        if header.dtype in PACKED_BITS:
            stored_bW = unpacked(stored_bW, PACKED_BITS[header.dtype])[:, : header.dimension]
        scale_b1 = numbers(batch.column("scale"))[:, None]
        if header.factors is None:
            np.multiply(stored_bW, scale_b1, out=vector_bP)
            continue
        scale_bF = scale_b1 * lists(batch.column("factor_scale")).astype(np.float32)
        for factor, part in enumerate(factor_parts(header)):
            np.multiply(stored_bW[:, part], scale_bF[:, factor, None], out=vector_bP[:, part])
    return vector_nP


def rounded(vector_mk: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Return vectors as they come back from a store, each with a step of its own.

    So are the factors of factor rows (up to the rounding of their scales) and plain rows.

    Args:
        vector_mk: Finite vectors ``[m, k]``.
        dtype: An element type of a store.

    Returns:
        Vectors ``[m, k]``.
    """
    if dtype in ("float32", "float16"):
        return vector_mk.astype(dtype).astype(np.float32)
    bits = PACKED_BITS.get(dtype, 8)
    code_mk = np.empty(vector_mk.shape, dtype=np.int8 if bits == 8 else np.uint8)
    scale_m = _row_scales(_steps(vector_mk, bits), bits)
    _encode(vector_mk, scale_m, bits, code_mk)
    number_mk = code_mk.astype(np.float32) if bits == 8 else levels(code_mk, bits)
    return number_mk * scale_m[:, None]


def factor_parts(header: Header) -> Iterator[slice]:
    """Yield where each of a row's factors stands among its P numbers, in their order."""
    start = 0
    for rank, out, inputs in header.factors or ():
        for size in rank * [out] + rank * [inputs]:
            yield slice(start, start + size)
            start += size


def _halves(vector_nP: NDArray[np.float32], ids: Sequence[str], where: str) -> NDArray[np.float16]:
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
    return half_nP


def _steps(vector_mk: NDArray[np.float32], bits: int) -> NDArray[np.float64]:
    # The step that each vector wants; 0 for nothing but zeros.
    if bits == 8:
        largest_m = np.maximum(vector_mk.max(axis=1), -vector_mk.min(axis=1))
        return largest_m.astype(np.float64) / _INT8_STEPS
    return np.concatenate([_best_steps(vector_mk[i], bits) for i in _pieces(vector_mk)])


def _best_steps(vector_mk: NDArray[np.float32], bits: int) -> NDArray[np.float64]:
    # A trial step gives each number its level l, and x.l / l.l is the best step for these levels;
    # it leaves an error of x.x - (x.l)^2 / l.l. The least error wins: of trials far apart, then of
    # some about the winner.
    rms_m = np.sqrt(np.square(vector_mk, dtype=np.float64).mean(axis=1))
    unit_mk = (vector_mk / np.where(rms_m > 0.0, rms_m, 1.0)[:, None]).astype(np.float32)
    step_m, gain_m = np.full(len(rms_m), _GAUSSIAN_STEP[bits]), np.zeros(len(rms_m))
    for multiples in (_FAR, _NEAR):
        middle_m = step_m
        for multiple in multiples:
            level_mk = levels(_codes(unit_mk, (multiple * middle_m).astype(np.float32), bits), bits)
            along_m = np.einsum("mk,mk->m", unit_mk, level_mk).astype(np.float64)
            square_m = np.einsum("mk,mk->m", level_mk, level_mk).astype(np.float64)
            better_m = along_m**2 / square_m > gain_m
            gain_m = np.where(better_m, along_m**2 / square_m, gain_m)
            step_m = np.where(better_m, along_m / square_m, step_m)
    return step_m * rms_m


def _row_scales(step_n: NDArray[np.float64], bits: int) -> NDArray[np.float32]:
    tiny = np.finfo(np.float32).tiny
    if bits == 8:
        scale_n = np.maximum(step_n.astype(np.float32), tiny)
    else:
        scale_n = np.minimum(step_n, _largest_step(bits)).astype(np.float32)
        scale_n = np.where(scale_n < tiny, np.float32(0), scale_n)
    cut_n: NDArray[np.float32] = (scale_n.view(np.uint32) & _SCALE_BITS).view(np.float32)
    return cut_n


def _factor_scales(
    step_nF: NDArray[np.float64], bits: int
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    # The row's scale brings its largest step just below 2**15, for all of float16's range. It is
    # 2**-124 at least, as then every product with a half-step is exact in float32.
    if bits == 8:
        step_nF = step_nF * (1 + 2.0**-11)  # not less than wanted, when rounded to float16
    step_nF = np.minimum(step_nF, _largest_step(bits))
    exponent_n = np.frexp(step_nF.max(axis=1, initial=0.0))[1] - 15
    scale_n = np.ldexp(1.0, np.maximum(exponent_n, -124))
    return scale_n.astype(np.float32), (step_nF / scale_n[:, None]).astype(np.float16)


def _largest_step(bits: int) -> float:
    # The largest number, 2**(bits - 1) steps at most, stays within float32.
    return float(np.finfo(np.float32).max) / (1 << (bits - 1))


def _encode(
    vector_mk: NDArray[np.float32], step_m: NDArray[np.float32], bits: int, out_mk: NDArray[Any]
) -> None:
    for piece in _pieces(vector_mk):
        own_mk, step_m1 = vector_mk[piece], step_m[piece, None]
        if bits == 8:
            ratio_mk = np.rint(own_mk / np.where(step_m1 > 0, step_m1, np.float32(1)))
            np.clip(ratio_mk, -_INT8_STEPS, _INT8_STEPS, out=out_mk[piece], casting="unsafe")
        else:
            out_mk[piece] = _codes(own_mk, step_m1[:, 0], bits)


def _pieces(vector_mk: NDArray[np.float32]) -> list[slice]:
    # Some vectors at a time, as a shard may be large.
    vectors = max(1, _PIECE_NUMBERS // vector_mk.shape[1])
    return [slice(first, first + vectors) for first in range(0, len(vector_mk), vectors)]


def _codes(
    vector_mk: NDArray[np.float32], step_m: NDArray[np.float32], bits: int
) -> NDArray[np.uint8]:
    # The nearest half-step; where the step is 0, any will do.
    half = 1 << (bits - 1)
    ratio_mk = vector_mk / np.where(step_m > 0, step_m, np.float32(1))[:, None]
    np.floor(ratio_mk, out=ratio_mk)
    np.clip(ratio_mk, -half, half - 1, out=ratio_mk)
    return (ratio_mk + np.float32(half)).astype(np.uint8)
