"""Inline SVG pieces, as pure functions from numbers to Markup.

Horizontal positions are percentages and heights are pixels, so a chart fills its column at any
width while its text keeps its size. Colours come from classes (``pro``, ``opp``, ``neutral``) in
style.css.
Every text passes through ``visible`` and escaping; every chart has a label for screen readers.
"""

import math
from dataclasses import dataclass

from markupsafe import Markup

from pipelines.report.characters import visible
from pipelines.report.numbers import count, plain, signed

BAR_HEIGHT = 8
ROW_HEIGHT, DOT = 30, 5
PLOT_TOP, PLOT_BOTTOM, RUG_BOTTOM, CHART_HEIGHT = 14, 150, 168, 190
MARKER = {"pro": "M0 0l-4.5 9h9z", "opp": "M0 9l-4.5-9h9z"}


@dataclass(frozen=True, kw_only=True)
class Span:
    """The range of values that a group of bars shares, always containing 0."""

    low: float
    """Left end, at most 0."""
    high: float
    """Right end, at least 0."""

    def at(self, value: float) -> float:
        """Return position of a value, in per cent from the left end."""
        width = self.high - self.low
        return 100 * (value - self.low) / width if width > 0 else 0.0


def span_of(values: list[float]) -> Span:
    """Return the smallest span that holds all values and 0."""
    return Span(low=min([0.0, *values]), high=max([0.0, *values]))


def bar(share: float, kind: str, label: str) -> Markup:
    """One bar from the left on a track.

    Args:
        share: Length in 0..1 of the track.
        kind: Colour class: pro, opp or neutral.
        label: What the bar says, in words.

    Returns:
        An SVG element.
    """
    width = 100 * min(max(share, 0.0), 1.0)
    return Markup(
        '<svg class="bar" role="img" aria-label="{}" width="100%" height="{}">'
        '<rect class="track" width="100%" height="100%" rx="2"/>'
        '<rect class="{}" width="{}%" height="100%" rx="2"/></svg>'
    ).format(visible(label), BAR_HEIGHT, kind, f"{width:.2f}")


def diverging_bar(negative: float, positive: float, span: Span, label: str) -> Markup:
    """A bar to the left of zero and one to the right, on a shared span, with the zero line.

    Args:
        negative: Value at most 0, drawn in the opponents' colour.
        positive: Value at least 0, drawn in the proponents' colour.
        span: The range of all bars of the group.
        label: What the bar says, in words.

    Returns:
        An SVG element.
    """
    zero = span.at(0.0)
    left, right = min(span.at(negative), zero), max(span.at(positive), zero)
    parts = [
        Markup('<rect class="{}" x="{}%" y="1" width="{}%" height="{}"/>').format(
            kind, f"{start:.2f}", f"{end - start:.2f}", BAR_HEIGHT
        )
        for kind, start, end in (("opp", left, zero), ("pro", zero, right))
        if end > start
    ]
    return Markup(
        '<svg class="bar" role="img" aria-label="{}" width="100%" height="{}">{}'
        '<line class="zero" x1="{}%" x2="{}%" y1="0" y2="100%"/></svg>'
    ).format(visible(label), BAR_HEIGHT + 2, Markup("").join(parts), f"{zero:.2f}", f"{zero:.2f}")


def paired_bar(proponents: float, opponents: float, span: Span, label: str) -> Markup:
    """Draw two thin bars from the zero line, the upper for proponents, the lower for opponents.

    Args:
        proponents: Value of the upper bar, of either sign.
        opponents: Value of the lower bar, of either sign.
        span: The range of all bars of the group.
        label: What the bars say, in words.

    Returns:
        An SVG element.
    """
    zero = span.at(0.0)
    parts = [
        Markup('<rect class="{}" x="{}%" y="{}" width="{}%" height="5"/>').format(
            kind, f"{min(zero, end):.2f}", y, f"{abs(end - zero):.2f}"
        )
        for kind, y, end in (("pro", 1, span.at(proponents)), ("opp", 7, span.at(opponents)))
    ]
    return Markup(
        '<svg class="bar" role="img" aria-label="{}" width="100%" height="13">{}'
        '<line class="zero" x1="{}%" x2="{}%" y1="0" y2="100%"/></svg>'
    ).format(visible(label), Markup("").join(parts), f"{zero:.2f}", f"{zero:.2f}")


def interval_bar(
    value: float, interval: tuple[float, float] | None, span: Span, kind: str, label: str
) -> Markup:
    """One bar from the zero line, and its interval as a thin line over it.

    Args:
        value: Where the bar ends, of either sign.
        interval: Low and high end; None: no line.
        span: The range of all bars of the group; it holds the intervals.
        kind: Colour class: pro, opp or much.
        label: What the bar says, in words.

    Returns:
        An SVG element.
    """
    zero, end = span.at(0.0), span.at(value)
    whisker = Markup("")
    if interval:
        low, high = (span.at(limit) for limit in interval)
        whisker = Markup('<line class="whisker" x1="{}%" x2="{}%" y1="7" y2="7"/>').format(
            f"{low:.2f}", f"{high:.2f}"
        )
    return Markup(
        '<svg class="bar" role="img" aria-label="{}" width="100%" height="14">'
        '<rect class="{}" x="{}%" y="2" width="{}%" height="10"/>{}'
        '<line class="zero" x1="{z}%" x2="{z}%" y1="0" y2="100%"/></svg>'
    ).format(
        visible(label),
        kind,
        f"{min(zero, end):.2f}",
        f"{abs(end - zero):.2f}",
        whisker,
        z=f"{zero:.2f}",
    )


def interval_dot(
    value: float,
    interval: tuple[float, float] | None,
    span: Span,
    kind: str,
    label: str,
    limit: float | None = None,
) -> Markup:
    """Draw a value as a dot with its interval as a line, beside the lines at zero and at a limit.

    Args:
        value: Where the dot stands.
        interval: Low and high end; None: no line.
        span: The range that all rows of the chart share.
        kind: Colour class of the dot: pro, opp, neutral or open.
        label: What the dot says, in words.
        limit: Where a reference line stands; None: there is none.

    Returns:
        An SVG element; rows set one below the other join their vertical lines.
    """
    middle = ROW_HEIGHT / 2
    parts = [_upright(span.at(0.0), "zero")] if span.low <= 0 <= span.high else []
    if limit is not None:
        parts.append(_upright(span.at(limit), "limit"))
    if interval is not None:
        parts.append(
            Markup('<line class="whisker" x1="{}%" x2="{}%" y1="{y}" y2="{y}"/>').format(
                *(f"{span.at(end):.2f}" for end in interval), y=middle
            )
        )
    parts.append(
        Markup('<circle class="{}" cx="{}%" cy="{}" r="{}"/>').format(
            kind, f"{span.at(value):.2f}", middle, DOT
        )
    )
    return Markup(
        '<svg class="dot" role="img" aria-label="{}" width="100%" height="{}">{}</svg>'
    ).format(visible(label), ROW_HEIGHT, Markup("").join(parts))


def _upright(position: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>').format(
        kind, x=f"{position:.2f}"
    )


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers between low and high, multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return []
    raw = (high - low) / about
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * base for factor in (1, 2, 5, 10) if factor * base >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def histogram(edges: list[float], counts: list[float], shown: dict[str, list[float]]) -> Markup:
    """Scores of all documents on a logarithmic count axis, with the shown documents as markers.

    Args:
        edges: Bin edges ``[B + 1]``, ascending, nats per document removed.
        counts: Documents in each bin ``[B]``.
        shown: Scores of the documents on the page under "pro" and "opp".

    Returns:
        An SVG element, or nothing when there is nothing to draw.
    """
    if len(edges) != len(counts) + 1 or not counts or max(counts) <= 0:
        return Markup("")
    marks = [score for scores in shown.values() for score in scores]
    low, high = min([*edges, *marks, 0.0]), max([*edges, *marks, 0.0])
    if not high > low:
        return Markup("")
    room = 0.02 * (high - low)
    span = Span(low=low - room, high=high + room)
    decades = max(1.0, math.log10(max(counts)) + 0.3)
    label = f"Histogram of {count(sum(counts))} scores from {signed(low)} to {signed(high)} nats"
    body = [_count_lines(decades), *_columns(edges, counts, span, decades), *_axis(span)]
    body += [_marker(kind, span.at(score)) for kind in sorted(shown) for score in shown[kind]]
    return Markup(
        '<svg class="histogram" role="img" aria-label="{}" width="100%" height="{}">{}</svg>'
    ).format(label, CHART_HEIGHT, Markup("").join(body))


def _height(documents: float, decades: float) -> float:
    """Return pixels of a column; one document stands 0.3 decades high, so that tails show."""
    if documents <= 0:
        return 0.0
    return (PLOT_BOTTOM - PLOT_TOP) * (math.log10(documents) + 0.3) / (decades + 0.3)


def _columns(edges: list[float], counts: list[float], span: Span, decades: float) -> list[Markup]:
    columns = []
    for left, right, documents in zip(edges[:-1], edges[1:], counts, strict=True):
        if documents <= 0:
            continue
        kind = "pro" if left >= 0 else "opp" if right <= 0 else "neutral"
        height = _height(documents, decades)
        title = f"{signed(left)} to {signed(right)} nats: {count(documents)} documents"
        columns.append(
            Markup(
                '<rect class="{} column" x="{}%" y="{}" width="{}%" height="{}">'
                "<title>{}</title></rect>"
            ).format(
                kind,
                f"{span.at(left):.2f}",
                f"{PLOT_BOTTOM - height:.1f}",
                f"{span.at(right) - span.at(left):.2f}",
                f"{height:.1f}",
                title,
            )
        )
    return columns


def _count_lines(decades: float) -> Markup:
    lines = []
    for power in range(int(decades) + 1):
        y = PLOT_BOTTOM - _height(10.0**power, decades)
        name = "1 document" if power == 0 else count(10**power)
        lines.append(
            Markup(
                '<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
                '<text class="tick" x="0" y="{text}">{name}</text>'
            ).format(y=f"{y:.1f}", text=f"{y - 3:.1f}", name=name)
        )
    return Markup("").join(lines)


def _axis(span: Span) -> list[Markup]:
    parts = [
        Markup('<line class="zero" x1="0" x2="100%" y1="{y}" y2="{y}"/>').format(y=PLOT_BOTTOM)
    ]
    for value in ticks(span.low, span.high):
        position = span.at(value)
        if 5 <= position <= 95:
            name = signed(value, 2) if abs(value) > 1e-12 * (span.high - span.low) else plain(0)
            parts.append(
                Markup('<text class="tick middle" x="{}%" y="{}">{}</text>').format(
                    f"{position:.2f}", CHART_HEIGHT - 4, name
                )
            )
    return parts


def _marker(kind: str, position: float) -> Markup:
    return Markup('<svg class="marker" x="{}%" y="{}"><path class="{}" d="{}"/></svg>').format(
        f"{position:.2f}", RUG_BOTTOM - 13, kind, MARKER[kind]
    )
