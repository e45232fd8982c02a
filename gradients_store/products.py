"""Inner products of stored rows with queries, by the machine's means.

Large stores take the compiled kernels, small ones BLAS: compiled code is loaded in half a second,
and made in some more on its first use. int8: the sums are exact integers, so both give the same.
float32 and float16: summed in float64, and which of both does it depends on the store alone.
Axes: Q queries, b rows of a block, P coordinates, D digits of all queries.
"""

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradients_store.digits import digits, joined

Products = Callable[[NDArray[Any]], NDArray[np.float64]]
"""Stored rows ``[b, P]`` to inner products ``[b, Q]``, before the rows' scales."""

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
        return functools.partial(_by_blas, np.ascontiguousarray(query_QP.T))
    single = functools.partial(_float_products, kernels, np.ascontiguousarray(query_QP))
    return single if dtype == "float32" else functools.partial(_half_products, kernels, single)


@functools.cache
def compiled() -> ModuleType | None:
    """Return the compiled kernels; None where numba does not import, as beside a newer numpy."""
    try:
        from gradients_store import kernels
    except ImportError:
        return None
    return kernels


def _int8_products(query_QP: NDArray[np.float64], kernels: ModuleType | None) -> Products:
    parts = digits(query_QP)
    exact = functools.partial(_by_blas, parts.digit_DP.T.astype(np.float64))

    def sums(row_bP: NDArray[np.int8]) -> NDArray[Any]:
        if kernels is None:
            return exact(row_bP)  # integers below 2**53
        sum_bD = np.empty((len(row_bP), len(parts.digit_DP)), dtype=np.int64)
        kernels.int8_sums(row_bP, parts.digit_DP, sum_bD)
        return sum_bD

    return lambda row_bP: joined(sums(row_bP), parts.exponent_Q)


def _float_products(
    kernels: ModuleType, query_QP: NDArray[np.float64], row_bP: NDArray[np.float32]
) -> NDArray[np.float64]:
    product_bQ = np.empty((len(row_bP), len(query_QP)))
    kernels.float_sums(row_bP, query_QP, product_bQ)
    return product_bQ


def _half_products(
    kernels: ModuleType, single: Products, row_bP: NDArray[np.float16]
) -> NDArray[np.float64]:
    parts = []
    for first in range(0, len(row_bP), _HALF_ROWS):
        half_tP = row_bP[first : first + _HALF_ROWS]
        single_tP = np.empty(half_tP.shape, dtype=np.float32)
        kernels.widen(half_tP.reshape(-1).view(np.uint16), single_tP.reshape(-1))
        parts.append(single(single_tP))
    return np.concatenate(parts)


def _by_blas(query_PQ: NDArray[np.float64], row_bP: NDArray[Any]) -> NDArray[np.float64]:
    product_bQ = np.empty((len(row_bP), query_PQ.shape[1]))
    for first in range(0, len(row_bP), _TILE_ROWS):
        tile = slice(first, first + _TILE_ROWS)
        np.matmul(row_bP[tile].astype(np.float64), query_PQ, out=product_bQ[tile])
    return product_bQ
