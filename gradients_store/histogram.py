"""A histogram of a stream whose range is not known before.

Bins are `[i * w, (i + 1) * w)` with w a power of two, so zero is always an edge and two neighbours
merge exactly into one bin of the next width. The width is the smallest at which the smallest and
the largest value fit into MOST_BINS bins: it depends on these two alone, so the order and the size
of the blocks change nothing.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_BINS = 256
_FINEST = -160  # finer than the smallest float32, 2**-149


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of values in bins whose width is a power of two."""

    low: float
    """The smallest value."""
    high: float
    """The largest value."""
    exponent: int
    """A bin is ``2**exponent`` wide."""
    first: int
    """The first bin starts at ``first * 2**exponent``."""
    counts: NDArray[np.int64]
    """Values in each bin."""

    @property
    def edges(self) -> NDArray[np.float64]:
        """The edges of the bins, one more than there are bins."""
        return np.ldexp(self.first + np.arange(len(self.counts) + 1.0), self.exponent)

    def merged(self, other: "Histogram") -> "Histogram":
        """Return the histogram of the values of both."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        exponent = _exponent(low, high)
        first, last = _bin(low, exponent), _bin(high, exponent)
        counts = np.zeros(last - first + 1, dtype=np.int64)
        for part in (self, other):
            fine = part.first + np.arange(len(part.counts))
            np.add.at(counts, (fine >> (exponent - part.exponent)) - first, part.counts)
        return Histogram(low=low, high=high, exponent=exponent, first=first, counts=counts)


def histogram(values: NDArray[np.float32]) -> Histogram:
    """Return the histogram of some finite float32 values, at least one."""
    low, high = float(values.min()), float(values.max())
    exponent = _exponent(low, high)
    first, last = _bin(low, exponent), _bin(high, exponent)
    place = np.floor(np.multiply(values, 2.0**-exponent, dtype=np.float64))
    counts = np.bincount((place - first).astype(np.int64), minlength=last - first + 1)
    return Histogram(
        low=low, high=high, exponent=exponent, first=first, counts=counts.astype(np.int64)
    )


def _exponent(low: float, high: float) -> int:
    """Return the exponent of the smallest width at which both values fit."""
    span = high - low
    if span == 0.0:  # as fine as any other float32 beside this one could need
        return max(_FINEST, math.frexp(high)[1] - 34) if high else _FINEST
    exponent = max(_FINEST, math.frexp(span / MOST_BINS)[1] - 1)
    while _bin(high, exponent) - _bin(low, exponent) >= MOST_BINS:
        exponent += 1
    return exponent


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))
