"""Inner products of stored rows with queries, by the machine's means.

Large stores take the compiled kernels, small ones BLAS: compiled code is loaded in half a second,
and made in some more on its first use. int8: the sums are exact integers, so both give the same.
float32 and float16: summed in float64, and which of both does it depends on the store alone.
Axes: Q queries, b rows of a block, P coordinates, D digits of all queries.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradients_store.digits import digits, joined

Products = Callable[[Sequence[NDArray[Any]]], NDArray[np.float64]]
"""Stored rows, in arrays ``[., P]`` one after the other, to inner products ``[b, Q]``.

The rows' scales are not in them."""

COMPILED_FROM = 1 << 29
"""Products (for floats, numbers stored) from which on compiled code pays."""
_TILE_ROWS = 64  # rows that BLAS takes as float64 at once
_HALF_ROWS = 16  # rows that are widened from float16 at once


def products(query_QP: NDArray[np.float64], dtype: str, documents: int) -> Products:
    """Choose how to multiply the rows of a store with some queries.

    Args:
        query_QP: Finite queries ``[Q, P]``.
        dtype: How the store holds its vectors: "float32", "float16" or "int8".
        documents: Number of documents in the whole store.

    Returns:
        A function of stored rows; it may run in several threads.
    """
    queries, dimension = query_QP.shape
    work = documents * dimension * (queries if dtype == "int8" else 1)
    loaded = dtype == "int8" and "gradients_store.kernels" in sys.modules
    kernels = compiled() if loaded or work >= COMPILED_FROM else None
    if dtype == "int8":
        return _int8_products(query_QP, kernels)
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


def _int8_products(query_QP: NDArray[np.float64], kernels: ModuleType | None) -> Products:
    known = digits(query_QP)
    digit_PD = known.digit_DP.T.astype(np.float64)

    def sums(parts: Sequence[NDArray[np.int8]]) -> NDArray[Any]:
        if kernels is None:
            return np.concatenate([_by_blas(digit_PD, row_bP) for row_bP in parts])  # integers
        sum_bD = np.empty((sum(map(len, parts)), len(known.digit_DP)), dtype=np.int64)
        first = 0
        for row_bP in parts:
            kernels.int8_sums(row_bP, known.digit_DP, sum_bD[first : first + len(row_bP)])
            first += len(row_bP)
        return sum_bD

    return lambda parts: joined(sums(parts), known.exponent_Q)


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


def _by_blas(query_PQ: NDArray[np.float64], row_bP: NDArray[Any]) -> NDArray[np.float64]:
    product_bQ = np.empty((len(row_bP), query_PQ.shape[1]))
    for first in range(0, len(row_bP), _TILE_ROWS):
        tile = slice(first, first + _TILE_ROWS)
        np.matmul(row_bP[tile].astype(np.float64), query_PQ, out=product_bQ[tile])
    return product_bQ
