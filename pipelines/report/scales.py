"""Small scores in words: a table shares one unit, such as millionths of a nat, and its decimals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.report.numbers import MINUS, is_number

MOST_DECIMALS = 6

SCALES = (
    (1e-1, 1.0, "nats"),
    (1e-4, 1e3, "thousandths of a nat"),
    (1e-7, 1e6, "millionths of a nat"),
    (0.0, 1e9, "billionths of a nat"),
)
"""From which size on, times what, numbers are shown, and what they then count."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The unit and the decimals that a table's numbers share, so that no cell needs powers of ten."""

    factor: float
    unit: str
    """What the shown numbers count."""
    decimals: int

    def text(self, value: object) -> str:
        """Return a signed number in this scale's unit, without the unit; "" for a missing one.

        One that rounds to zero reads +0.00 or -0.00.
        """
        if not is_number(value):
            return ""
        sign = "+" if value > 0 else MINUS if value < 0 else ""
        return f"{sign}{abs(self.factor * value):,.{self.decimals}f}"

    def words(self, value: object) -> str:
        """Return a signed number with its unit; "" for a missing one."""
        text = self.text(value)
        return f"{text} {self.unit}" if text else ""

    def interval(self, low: object, high: object) -> str:
        """Return both ends of an interval; "" where one is missing."""
        ends = [self.text(low), self.text(high)]
        return " to ".join(ends) if all(ends) else ""


def scale_of(values: Iterable[object]) -> Scale:
    """Return the scale that gives the upper quartile of some numbers' sizes three digits.

    Args:
        values: Numbers in nats; missing ones and zeros do not count.

    Returns:
        The scale.
    """
    sizes = sorted(abs(value) for value in values if is_number(value) and value)
    if not sizes:
        return Scale(factor=1.0, unit="nats", decimals=0)
    typical = sizes[3 * len(sizes) // 4]
    factor, unit = next((factor, unit) for least, factor, unit in SCALES if typical >= least)
    digits = 2 - math.floor(math.log10(typical * factor))
    return Scale(factor=factor, unit=unit, decimals=min(max(0, digits), MOST_DECIMALS))
