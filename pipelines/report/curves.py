"""Deletion and insertion curves as a small line chart: inline SVG, as in ``charts``."""

from itertools import pairwise

from markupsafe import Markup

from pipelines.report.charts import Span, ticks
from pipelines.report.numbers import MINUS, percent, plain

TOP, PLOT, BOTTOM = 10, 150, 24
"""Pixels above, of and below the plot."""

LEFT = 12
"""Per cent of the width kept for the numbers of the vertical axis."""

MOST_POINTS = 300
"""Points of a line that are drawn, evenly spaced among all; the last one always is."""

Points = list[tuple[float, float]]
"""Share of the units, and nats."""


def area(points: Points) -> float | None:
    """Return the mean height under a curve by the trapezoid rule; None below two points."""
    width = points[-1][0] - points[0][0] if len(points) > 1 else 0.0
    if width <= 0:
        return None
    steps = pairwise(points)
    return sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in steps) / width


def line_chart(points: Points, random: Points, label: str) -> Markup:
    """Draw a curve, and the curve of a random order behind it.

    Args:
        points: The curve, by ascending share.
        random: The curve to compare with; empty: none is drawn.
        label: What the chart shows, in words.

    Returns:
        An SVG element, or nothing for a curve of fewer than two points.
    """
    if len(points) < 2:
        return Markup("")
    heights = [y for _, y in [*points, *random]]
    low, high = min(heights), max(heights)
    room = 0.06 * (high - low) or 0.5
    span = Span(low=low - room, high=high + room)
    lines = [_line(random, span, "random")] if len(random) > 1 else []
    lines.append(_line(points, span, "curve"))
    said = f"{label}: from {plain(points[0][1])} nats at {percent(points[0][0])} to "
    said += f"{plain(points[-1][1])} nats at {percent(points[-1][0])}"
    return Markup(
        '<svg class="curves" role="img" aria-label="{}" width="100%" height="{}">{}'
        '<svg x="{}%" y="{}" width="{}%" height="{}" viewBox="0 0 100 100" '
        'preserveAspectRatio="none">{}</svg>{}</svg>'
    ).format(
        said,
        TOP + PLOT + BOTTOM,
        _levels(span),
        LEFT,
        TOP,
        100 - LEFT,
        PLOT,
        Markup("").join(lines),
        _shares(),
    )


def _line(points: Points, span: Span, kind: str) -> Markup:
    step = -(-len(points) // MOST_POINTS)
    drawn = [*points[:-1:step], points[-1]]
    path = " ".join(f"{100 * x:.2f},{100 - span.at(y):.2f}" for x, y in drawn)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, path)


def _levels(span: Span) -> Markup:
    parts = []
    for value in ticks(span.low, span.high):
        y = TOP + PLOT * (1 - span.at(value) / 100)
        parts.append(
            Markup(
                '<line class="grid" x1="{left}%" x2="100%" y1="{y}" y2="{y}"/>'
                '<text class="tick end" x="{text}%" y="{below}">{name}</text>'
            ).format(
                left=LEFT,
                text=LEFT - 1.5,
                y=f"{y:.1f}",
                below=f"{y + 4:.1f}",
                name=f"{value:.6g}".replace("-", MINUS),
            )
        )
    return Markup("").join(parts)


def _shares() -> Markup:
    named = [(LEFT, "start", "0 %"), ((100 + LEFT) / 2, "middle", "50 %"), (100, "end", "100 %")]
    return Markup("").join(
        Markup('<text class="tick {}" x="{}%" y="{}">{}</text>').format(
            side, x, TOP + PLOT + 18, name
        )
        for x, side, name in named
    )
