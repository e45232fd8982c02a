r"""Inner products of factor rows with query matrices.

A row holds, for each layer l, r vectors u of O numbers and r vectors v of I numbers; it stands for
the matrices :math:`W_l = \sum_k u_k v_k^\top`. Its score with a query of matrices Q is
:math:`\sum_l \sum_k u_k^\top Q_l v_k`. Where Q_l has a low rank it is written A B^T once, and a
term is :math:`(A^\top u_k) \cdot (B^\top v_k)`; which way takes fewer operations over the whole
store, the factorisation's own among them, is counted for each layer.

Products are float32, by BLAS; the sum over factors and layers is float64. Error: at most
:math:`2^{-24} (O + I) \sum |u|^\top |Q_l| |v|`, far less in practice, and where Q_l was factorised
:math:`10^{-6} \sum \|Q_l\| |u| |v|` more.
Axes: Q queries, b rows of a block, M numbers of all matrices of a query, F factors of a row,
R rank of factorised matrices, one after the other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradients_store.columns import joined
from gradients_store.packing import unpacked
from gradients_store.products import COMPILED_FROM, compiled
from gradients_store.schema import PACKED_BITS, Header

_TOLERANCE = 1e-6  # singular values below this part of the largest are rounding
_TILE_BYTES = 1 << 22  # numbers of some rows and one layer, as float32
_EIGEN_COST = 10  # operations of an eigendecomposition of [n, n], over n**3


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One layer: where its factors stand in a row, and the queries' matrices."""

    rank: int
    """Factors u, and as many v, of a row."""
    shape: tuple[int, int]
    """Lengths (O, I) of u and v."""
    number: int
    """First of its numbers in a row."""
    factor: int
    """First of its factors in a row."""
    exponent_Q: NDArray[np.int64]
    """Matrices are held divided by two to this power."""
    whole: tuple[tuple[int, NDArray[np.float32]], ...]
    """Queries whose matrix ``[O, I]`` is multiplied as it is."""
    factorised: tuple[int, ...]
    """The other queries."""
    left_OR: NDArray[np.float32]
    """Their A, side by side."""
    right_IR: NDArray[np.float32]
    """Their B, side by side."""
    starts: tuple[int, ...]
    """The first column of each of them."""


def factor_products(
    query_QM: NDArray[Any], header: Header
) -> Callable[[pa.Table], NDArray[np.float64]]:
    """Prepare queries for a store of factor rows.

    Args:
        query_QM: Finite queries ``[Q, M]``: layer after layer, matrices ``[O, I]`` row by row.
        header: Of a store of factor rows.

    Returns:
        A function of rows, a table of the header's vector columns, to scores ``[b, Q]``; it may run
        in several threads.
    """
    layers = tuple(_layers(query_QM, header))
    work = header.n_documents * header.dimension
    packed = header.dtype in PACKED_BITS
    kernels = compiled() if packed and work >= COMPILED_FROM else None

    widest = max(layer.rank * sum(layer.shape) + 2 * layer.left_OR.shape[1] for layer in layers)
    rows = max(1, _TILE_BYTES // (4 * widest))

    def multiply(table: pa.Table) -> NDArray[np.float64]:
        stored_bW, scale_b = joined(table.column("vector")), joined(table.column("scale"))
        scale_bF = joined(table.column("factor_scale")) * scale_b.astype(np.float64)[:, None]
        score_bQ = np.zeros((len(stored_bW), len(query_QM)))
        for tile in (slice(first, first + rows) for first in range(0, len(stored_bW), rows)):
            for layer in layers:
                part = slice(layer.number, layer.number + layer.rank * sum(layer.shape))
                number_tp = _singles(stored_bW[tile], part, header.dtype, kernels)
                _add(layer, number_tp, scale_bF[tile], score_bQ[tile])
        return score_bQ

    return multiply


def _layers(query_QM: NDArray[Any], header: Header) -> Iterator[_Layer]:
    place = number = factor = 0
    for rank, out, inputs in header.factors or ():
        matrix_QOI = query_QM[:, place : place + out * inputs].reshape(-1, out, inputs)
        if rank:
            uses = rank * header.n_documents
            yield _layer(matrix_QOI, uses, rank=rank, number=number, factor=factor)
        place += out * inputs
        number += rank * (out + inputs)
        factor += 2 * rank


def _layer(matrix_QOI: NDArray[Any], uses: int, rank: int, number: int, factor: int) -> _Layer:
    out, inputs = matrix_QOI.shape[1:]
    exponent_Q = np.frexp(np.abs(matrix_QOI).max(axis=(1, 2)))[1].astype(np.int64)
    whole, factorised = [], []
    lefts, rights = [np.empty((out, 0))], [np.empty((inputs, 0))]
    for query, (matrix_OI, exponent) in enumerate(zip(matrix_QOI, exponent_Q, strict=True)):
        wide_OI = np.ldexp(matrix_OI.astype(np.float64), -exponent)
        pair = _factorised(wide_OI, uses)
        if pair is None:
            whole.append((query, wide_OI.astype(np.float32)))
        elif pair[0].shape[1]:
            factorised.append(query)
            lefts.append(pair[0])
            rights.append(pair[1])
    widths = [0, *(left.shape[1] for left in lefts[1:-1])] if factorised else []
    return _Layer(
        rank=rank,
        shape=(out, inputs),
        number=number,
        factor=factor,
        exponent_Q=exponent_Q,
        whole=tuple(whole),
        factorised=tuple(factorised),
        left_OR=np.concatenate(lefts, axis=1).astype(np.float32),
        right_IR=np.concatenate(rights, axis=1).astype(np.float32),
        starts=tuple(np.cumsum(widths, dtype=np.int64).tolist()),
    )


def _factorised(
    matrix_OI: NDArray[np.float64], uses: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    # A [O, R] and B [I, R] with A B^T the matrix, up to singular values below _TOLERANCE; None
    # where the matrix itself takes fewer operations. Singular vectors are eigenvectors of the
    # smaller Gram matrix: in float64 that tells singular values down to 1e-8 of the largest.
    out, inputs = matrix_OI.shape
    if inputs > out:
        pair = _factorised(matrix_OI.T, uses)
        return None if pair is None else (pair[1], pair[0])
    finding = 2 * out * inputs**2 + _EIGEN_COST * inputs**3
    if finding >= 2 * uses * out * inputs:
        return None
    value_I, vector_II = np.linalg.eigh(matrix_OI.T @ matrix_OI)
    right_IR = vector_II[:, value_I > _TOLERANCE**2 * value_I[-1]]
    found = finding + 2 * uses * (out + inputs) * right_IR.shape[1]
    return None if found >= 2 * uses * out * inputs else (matrix_OI @ right_IR, right_IR)


def _singles(
    stored_bW: NDArray[Any], part: slice, dtype: str, kernels: ModuleType | None
) -> NDArray[np.float32]:
    # Some numbers of each row, without scales.
    if dtype not in PACKED_BITS:
        return stored_bW[:, part].astype(np.float32, copy=False)
    bits = PACKED_BITS[dtype]
    per = 8 // bits
    byte_bw = stored_bW[:, part.start // per : -(-part.stop // per)]
    if kernels is None:
        number_bp = unpacked(byte_bw, bits)
    else:
        number_bp = np.empty((len(byte_bw), byte_bw.shape[1] * per), dtype=np.float32)
        kernels.unpack(byte_bw, bits, number_bp)
    first = part.start % per
    return number_bp[:, first : first + part.stop - part.start]


def _add(
    layer: _Layer,
    number_bp: NDArray[np.float32],
    scale_bF: NDArray[np.float64],
    score_bQ: NDArray[np.float64],
) -> None:
    out, inputs = layer.shape
    for k in range(layer.rank):
        left_bO = number_bp[:, k * out : (k + 1) * out]
        start = layer.rank * out + k * inputs
        right_bI = number_bp[:, start : start + inputs]
        term_bQ = np.zeros(score_bQ.shape)
        for query, matrix_OI in layer.whole:
            product_bI = left_bO @ matrix_OI
            product_bI *= right_bI
            term_bQ[:, query] = product_bI.sum(axis=1)
        if layer.factorised:
            product_bR = left_bO @ layer.left_OR
            product_bR *= right_bI @ layer.right_IR
            term_bQ[:, layer.factorised] = np.add.reduceat(product_bR, layer.starts, axis=1)
        u, v = layer.factor + k, layer.factor + layer.rank + k
        scale_b1 = (scale_bF[:, u] * scale_bF[:, v])[:, None]
        score_bQ += np.ldexp(term_bQ * scale_b1, layer.exponent_Q)
