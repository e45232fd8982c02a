"""Inner products of stored rows with queries, by the machine's means.

Large stores take the compiled kernels, small ones BLAS: compiled code is loaded in half a second,
and made in some more on its first use. int8, int4 and int2: the sums are exact integers, so both give the
same; a number of 4 or 2 bits is half an odd integer.
float32 and float16: summed in float64, and which of both does it depends on the store alone.
Axes: Q queries, b rows of a block, P coordinates, D digits of all queries, W elements of a row.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradients_store.digits import digits, joined
from gradients_store.packing import unpacked
from gradients_store.schema import PACKED_BITS

Products = Callable[[Sequence[NDArray[Any]]], NDArray[np.float64]]
"""Stored rows, in arrays ``[., W]`` one after the other, to inner products ``[b, Q]``.

The rows' scales are not in them."""

COMPILED_FROM = 1 << 29
"""Products (for floats, numbers stored) from which on compiled code pays."""
_TILE_ROWS = 64  # rows that BLAS takes as float64 at once
_HALF_ROWS = 16  # rows that are widened from float16 at once


def products(query_QP: NDArray[np.float64], dtype: str, documents: int) -> Products:
    """Choose how to multiply the rows of a store with some queries.

    Args:
        query_QP: Finite queries ``[Q, P]``.
        dtype: How the store holds its vectors, such as "int8".
        documents: Number of documents in the whole store.

    Returns:
        A function of stored rows; it may run in several threads.
    """
    queries, dimension = query_QP.shape
    bits = PACKED_BITS.get(dtype, 8 if dtype == "int8" else None)
    work = documents * dimension * (queries if bits else 1)
    loaded = bits is not None and "gradients_store.kernels" in sys.modules
    kernels = compiled() if loaded or work >= COMPILED_FROM else None
    if bits is not None:
        return _integer_products(query_QP, bits, kernels)
    if kernels is None:
        own = functools.partial(_by_blas, np.ascontiguousarray(query_QP.T))
    else:
        float_products = _float_products if dtype == "float32" else _half_products
        own = functools.partial(float_products, kernels, np.ascontiguousarray(query_QP))
    return lambda parts: np.concatenate([own(row_bP) for row_bP in parts])


@functools.cache
def compiled() -> ModuleType | None:
    """Return the compiled kernels; None where numba does not import, as beside a newer numpy."""
    try:
        from gradients_store import kernels
    except ImportError:
        return None
    return kernels


def _integer_products(
    query_QP: NDArray[np.float64], bits: int, kernels: ModuleType | None
) -> Products:
    # The query gets a zero for each number of padding in a packed row.
    known = digits(np.pad(query_QP, ((0, 0), (0, -query_QP.shape[1] % (8 // bits)))))
    digit_PD = known.digit_DP.T.astype(np.float64)

    def sums(row_bW: NDArray[Any]) -> NDArray[Any]:
        if kernels is None:
            return _by_blas(digit_PD, row_bW, bits)  # integers, in float64
        sum_bD = np.empty((len(row_bW), len(known.digit_DP)), dtype=np.int64)
        if bits == 8:
            kernels.int8_sums(row_bW, known.digit_DP, sum_bD)
        else:
            kernels.packed_sums(row_bW, bits, known.digit_DP, sum_bD)
        return sum_bD

    exponent_Q = known.exponent_Q - (bits < 8)  # half an odd integer
    return lambda parts: joined(np.concatenate([sums(row_bW) for row_bW in parts]), exponent_Q)


def _float_products(
    kernels: ModuleType, query_QP: NDArray[np.float64], row_bP: NDArray[np.float32]
) -> NDArray[np.float64]:
    product_bQ = np.empty((len(row_bP), len(query_QP)))
    kernels.float_sums(row_bP, query_QP, product_bQ)
    return product_bQ


def _half_products(
    kernels: ModuleType, query_QP: NDArray[np.float64], row_bP: NDArray[np.float16]
) -> NDArray[np.float64]:
    parts = []
    for first in range(0, len(row_bP), _HALF_ROWS):
        half_tP = row_bP[first : first + _HALF_ROWS]
        single_tP = np.empty(half_tP.shape, dtype=np.float32)
        kernels.widen(half_tP.reshape(-1).view(np.uint16), single_tP.reshape(-1))
        parts.append(_float_products(kernels, query_QP, single_tP))
    return np.concatenate(parts)


def _by_blas(
    query_PQ: NDArray[np.float64], row_bW: NDArray[Any], bits: int = 8
) -> NDArray[np.float64]:
    # Rows of less than 8 bits count as odd integers.
    product_bQ = np.empty((len(row_bW), query_PQ.shape[1]))
    for first in range(0, len(row_bW), _TILE_ROWS):
        tile = slice(first, first + _TILE_ROWS)
        row_tP = row_bW[tile] if bits == 8 else 2 * unpacked(row_bW[tile], bits)
        np.matmul(row_tP.astype(np.float64), query_PQ, out=product_bQ[tile])
    return product_bQ
