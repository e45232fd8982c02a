"""Numbers of 4 and 2 bits, packed into bytes: two or four in a byte, lowest bits first.

A code c of B bits stands for the number c - 2**(B - 1) + 0.5: half-steps, as many above as below
zero. A row is padded to whole bytes with codes 0.
Axes: n rows, P numbers of a row, W bytes of a row.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def levels(code: NDArray[Any], bits: int) -> NDArray[np.float32]:
    """Return the numbers that codes stand for."""
    return code.astype(np.float32) - np.float32((1 << (bits - 1)) - 0.5)


def packed(code_nP: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Pack codes ``[n, P]`` of 4 or 2 bits into bytes ``[n, W]``."""
    per = 8 // bits
    rows, size = code_nP.shape
    padded_nWk = np.zeros((rows, -(-size // per), per), dtype=np.uint8)
    padded_nWk.reshape(rows, -1)[:, :size] = code_nP
    byte_nW = padded_nWk[:, :, 0]
    for place in range(1, per):
        byte_nW = byte_nW | (padded_nWk[:, :, place] << (bits * place))
    return byte_nW


def unpacked(byte_nW: NDArray[np.uint8], bits: int) -> NDArray[np.float32]:
    """Return the numbers ``[n, W * (8 // bits)]`` of packed bytes, those of the padding too."""
    number_nWk = np.empty((*byte_nW.shape, 8 // bits), dtype=np.float32)
    for place in range(8 // bits):
        code_nW = (byte_nW >> (bits * place)) & ((1 << bits) - 1)
        number_nWk[:, :, place] = levels(code_nW, bits)
    return number_nWk.reshape(len(byte_nW), -1)
