"""Compiled sums of products of stored rows with queries; numba, imported for large stores only.

Each pair of a row and a query has sums of its own, in an order that nothing else changes: neither
the block of rows nor the other queries. The sums of `int8_sums` are integers, exact in any order.
Compiled code is kept in numba's cache, beside this file or in the user's cache folder, and made anew
when this file changes (no other is watched, so all of it stands here). It runs without the
interpreter's lock.
Axes: b rows of a block, P coordinates, Q queries, D digits of all queries.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_ROWS, _DIGITS, _LANES = 3, 3, 16  # 9 sums, 3 rows and 1 digit fill the 16 registers of AVX2
_CHUNK = 4096  # 4096 products of 2**21 in 8 lanes of int32: no more than 2**30
_PIECE = 1 << 18  # unpacked numbers that stay in a processor's second cache
_FLOAT_CHUNK = 1024  # coordinates of 4 rows and a query fill a processor's first cache
_HALF_BIAS = np.float32(2.0**112)  # 2**(127 - 15): from the exponents of float32 to float16's


def _compiled(**options: Any) -> Callable[[Any], Any]:
    """Return `njit` with a cache where one can be written."""

    def decorate(function: Any) -> Any:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder for the cache
            return njit(nogil=True, **options)(function)

    return decorate


def _typed_products(
    _context: Any, rows: Any, row: Any, digits: Any, digit: Any, size: Any, out: Any
) -> Any:
    # Adds to `out` [9] the products of 3 rows and 3 digits, summed over `size` coordinates, a
    # multiple of 16; `row` and `digit` are triples of positions in `rows` (int8) and `digits`
    # (int16). As LLVM vectors, because 16 products of int16 added in pairs are one instruction
    # (vpmaddwd), which LLVM does not find in a loop over scalars. No processor's own.
    word, lane = ir.IntType(64), ir.IntType(32)
    wide, half = ir.VectorType(lane, _LANES), ir.VectorType(lane, _LANES // 2)
    evens, odds = (ir.Constant(half, list(range(first, _LANES, 2))) for first in (0, 1))

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def data(place: int) -> Any:
            return context.make_array(signature.args[place])(
                context, builder, arguments[place]
            ).data

        def loaded(array: int, which: int, position: Any) -> Any:
            base = builder.extract_value(arguments[array + 1], which)
            address = builder.gep(data(array), [builder.add(base, position)])
            element = address.type.pointee
            vector = builder.bitcast(address, ir.VectorType(element, _LANES).as_pointer())
            return builder.sext(builder.load(vector, align=element.width // 8), wide)

        zero = ir.Constant(half, [0] * (_LANES // 2))
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(_ROWS * _DIGITS)]
        steps = (ir.Constant(word, 0), arguments[4], ir.Constant(word, _LANES))
        with cgutils.for_range_slice(builder, *steps, intp=word, inc=True) as (position, _):
            row_3 = [loaded(0, i, position) for i in range(_ROWS)]
            digit_3 = [loaded(2, k, position) for k in range(_DIGITS)]
            for place, total in enumerate(sums):
                product = builder.mul(row_3[place // _DIGITS], digit_3[place % _DIGITS])
                pairs = [builder.shuffle_vector(product, product, k) for k in (evens, odds)]
                builder.store(builder.add(builder.load(total), builder.add(*pairs)), total)
        for place, total in enumerate(sums):
            address = builder.gep(data(5), [ir.Constant(word, place)])
            value, lanes = builder.load(address), builder.load(total)
            for i in range(_LANES // 2):
                part = builder.extract_element(lanes, ir.Constant(lane, i))
                value = builder.add(value, builder.sext(part, word))
            builder.store(value, address)
        return context.get_dummy_value()

    return types.void(rows, row, digits, digit, size, out), build


_products: Any = intrinsic(_typed_products)


@_compiled()
def int8_sums(row_bP: Any, digit_DP: Any, out_bD: Any) -> None:
    """Write the exact sums of int8 rows times int16 digits.

    Args:
        row_bP: Stored rows, int8 ``[b, P]``.
        digit_DP: Digits from `digits`, of size 2**14 at most, int16 ``[D, P]``; D is 3 Q.
        out_bD: Where the sums go, int64 ``[b, D]``.
    """
    rows, size = row_bP.shape
    whole = size // 16 * 16
    tile = 3 if len(digit_DP) == 3 else 24  # one query reads straight on; more reuse the cache
    part = np.empty(9, dtype=np.int64)
    out_bD[:] = 0
    for top in range(0, rows, tile):
        bottom = min(top + tile, rows)
        for start in range(0, whole, _CHUNK):
            width = min(_CHUNK, whole - start)
            for d in range(0, len(digit_DP), 3):
                digit = (d * size + start, (d + 1) * size + start, (d + 2) * size + start)
                for r in range(top, bottom, 3):
                    part[:] = 0
                    row = (
                        r * size + start,
                        min(r + 1, rows - 1) * size + start,
                        min(r + 2, rows - 1) * size + start,
                    )
                    _products(row_bP, row, digit_DP, digit, width, part)
                    for i in range(min(3, bottom - r)):
                        for k in range(3):
                            out_bD[r + i, d + k] += part[3 * i + k]
        for r in range(top, bottom):
            for d in range(len(digit_DP)):
                for p in range(whole, size):
                    out_bD[r, d] += np.int64(row_bP[r, p]) * np.int64(digit_DP[d, p])


@_compiled()
def packed_sums(byte_bW: Any, bits: Any, digit_DP: Any, out_bD: Any) -> None:
    """Write the exact sums of packed rows, as odd integers, times int16 digits.

    A few rows at a time are unpacked into the processor's cache and given to `int8_sums`.

    Args:
        byte_bW: Packed rows, uint8 ``[b, W]``; code c is the odd integer 2 c - 2**bits + 1.
        bits: 4 or 2, bits of a code.
        digit_DP: Digits from `digits`, int16 ``[D, P]``; P is W * 8 / bits, D is 3 Q.
        out_bD: Where the sums go, int64 ``[b, D]``.
    """
    rows, size = len(byte_bW), digit_DP.shape[1]
    most = max(3, _PIECE // size // 3 * 3) if len(digit_DP) == 3 else max(24, _PIECE // size)
    odd_tP = np.empty((min(rows, most), size), dtype=np.int8)
    for first in range(0, rows, most):
        stop = min(first + most, rows)
        own_tP = odd_tP[: stop - first]
        _odd_numbers(byte_bW[first:stop].reshape(-1), bits, own_tP.reshape(-1))
        int8_sums(own_tP, digit_DP, out_bD[first:stop])


@_compiled()
def _odd_numbers(byte_n: Any, bits: Any, odd_m: Any) -> None:
    if bits == 4:
        for n in range(len(byte_n)):
            odd_m[2 * n] = ((byte_n[n] & 15) << 1) - 15
            odd_m[2 * n + 1] = ((byte_n[n] >> 4) << 1) - 15
    else:
        for n in range(len(byte_n)):
            odd_m[4 * n] = ((byte_n[n] & 3) << 1) - 3
            odd_m[4 * n + 1] = (((byte_n[n] >> 2) & 3) << 1) - 3
            odd_m[4 * n + 2] = (((byte_n[n] >> 4) & 3) << 1) - 3
            odd_m[4 * n + 3] = ((byte_n[n] >> 6) << 1) - 3


@_compiled()
def unpack(byte_bW: Any, bits: Any, single_bP: Any) -> None:
    """Write packed numbers as float32.

    Args:
        byte_bW: Some bytes of packed rows, uint8 ``[b, W]``.
        bits: 4 or 2, bits of a code.
        single_bP: Where the numbers go, float32 ``[b, W * 8 / bits]``.
    """
    for b in range(len(byte_bW)):
        byte_n, single_m = byte_bW[b], single_bP[b]
        if bits == 4:
            for n in range(len(byte_n)):
                single_m[2 * n] = np.float32(byte_n[n] & 15) - np.float32(7.5)
                single_m[2 * n + 1] = np.float32(byte_n[n] >> 4) - np.float32(7.5)
        else:
            for n in range(len(byte_n)):
                single_m[4 * n] = np.float32(byte_n[n] & 3) - np.float32(1.5)
                single_m[4 * n + 1] = np.float32((byte_n[n] >> 2) & 3) - np.float32(1.5)
                single_m[4 * n + 2] = np.float32((byte_n[n] >> 4) & 3) - np.float32(1.5)
                single_m[4 * n + 3] = np.float32(byte_n[n] >> 6) - np.float32(1.5)


@_compiled(fastmath={"reassoc", "contract"})
def _four(a_p: Any, b_p: Any, c_p: Any, d_p: Any, query_p: Any, out: Any) -> None:
    a = b = c = d = 0.0
    for p in range(len(query_p)):
        a += a_p[p] * query_p[p]
        b += b_p[p] * query_p[p]
        c += c_p[p] * query_p[p]
        d += d_p[p] * query_p[p]
    out[0] += a
    out[1] += b
    out[2] += c
    out[3] += d


@_compiled()
def float_sums(row_bP: Any, query_QP: Any, out_bQ: Any) -> None:
    """Write the inner products of float32 rows with queries, summed in float64.

    Args:
        row_bP: Rows, float32 ``[b, P]``.
        query_QP: Queries, float64 ``[Q, P]``.
        out_bQ: Where the sums go, float64 ``[b, Q]``.
    """
    rows, size = row_bP.shape
    last = rows - 1
    tile = 4 if len(query_QP) == 1 else 16
    part = np.empty(4)
    out_bQ[:] = 0.0
    for top in range(0, rows, tile):
        bottom = min(top + tile, rows)
        for start in range(0, size, _FLOAT_CHUNK):
            p = slice(start, min(start + _FLOAT_CHUNK, size))
            for q in range(len(query_QP)):
                for r in range(top, bottom, 4):
                    a, b, c, d = r, min(r + 1, last), min(r + 2, last), min(r + 3, last)
                    part[:] = 0.0
                    _four(
                        row_bP[a, p], row_bP[b, p], row_bP[c, p], row_bP[d, p], query_QP[q, p], part
                    )
                    for i in range(min(4, bottom - r)):
                        out_bQ[r + i, q] += part[i]


@_compiled()
def widen(half_n: Any, single_n: Any) -> None:
    """Write finite float16 numbers, given as the uint16 of their bits, as float32.

    Args:
        half_n: Bits of float16 numbers, uint16 ``[n]``.
        single_n: Where the numbers go, float32 ``[n]``.
    """
    for n in range(len(half_n)):
        bits = np.uint32(half_n[n])
        sign = np.uint32((bits & np.uint32(0x8000)) << np.uint32(16))
        rest = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))
        single_n[n] = np.uint32(sign | rest).view(np.float32) * _HALF_BIAS
