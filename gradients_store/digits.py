"""A query as integers, so that its inner products with int8 rows are exact.

A query is rounded to multiples of a power of two, at most 2**44 of them, and each multiple is
written in three signed digits of base 2**15. Products of a digit with an int8 number are integers;
their sums are exact in any order, up to more coordinates than a store holds, and equal on every
machine. Only the three sums of a row are put together in float64.
Axes: Q queries, P coordinates, D = 3 Q digits (three in a row for each query), b rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BITS = 15
_WHOLE = 44  # 3 * _BITS, less one for the sign


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Queries as integers: coordinate = (first 2**30 + second 2**15 + third) 2**exponent."""

    digit_DP: NDArray[np.int16]
    """Digits ``[D, P]``, between -2**14 and 2**14; the first of a query's three weighs most."""
    exponent_Q: NDArray[np.int64]
    """One exponent for each query."""


def digits(query_QP: NDArray[np.float64]) -> Digits:
    r"""Write finite queries in digits.

    Args:
        query_QP: Queries ``[Q, P]``.

    Returns:
        The digits. A coordinate is off by at most :math:`2^{-44} \max_j |q_j|`, an inner product
        with v by at most :math:`2^{-44} \sqrt{P} |q| |v|`.
    """
    digit_DP = np.empty((3 * len(query_QP), query_QP.shape[1]), dtype=np.int16)
    exponent_Q = np.frexp(np.abs(query_QP).max(axis=1))[1].astype(np.int64) - _WHOLE
    for number, query_P in enumerate(query_QP):
        rest_P = np.rint(np.ldexp(query_P, -exponent_Q[number])).astype(np.int64)
        for place in (2, 1):
            digit_P = ((rest_P + (1 << (_BITS - 1))) & ((1 << _BITS) - 1)) - (1 << (_BITS - 1))
            digit_DP[3 * number + place] = digit_P
            rest_P = (rest_P - digit_P) >> _BITS
        digit_DP[3 * number] = rest_P
    return Digits(digit_DP=digit_DP, exponent_Q=exponent_Q)


def joined(
    sum_bD: NDArray[np.int64] | NDArray[np.float64], exponent_Q: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the inner products ``[b, Q]`` from the sums ``[b, D]`` over each digit."""
    wide_bQ3 = sum_bD.reshape(len(sum_bD), -1, 3).astype(np.float64)
    high, middle, low = (wide_bQ3[:, :, place] for place in range(3))
    total = (high * 2.0 ** (2 * _BITS) + middle * 2.0**_BITS) + low
    product_bQ: NDArray[np.float64] = np.ldexp(total, exponent_Q)
    return product_bQ
