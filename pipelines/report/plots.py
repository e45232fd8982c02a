"""Lines and dots between two axes: inline SVG, as in ``charts``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipelines.report.characters import visible
from pipelines.report.charts import Span, ticks
from pipelines.report.numbers import MINUS

TOP, PLOT, BOTTOM, NAME = 10, 150, 24, 18
"""Pixels above, of and below the plot, and of the name of an axis."""

LEFT = 12
"""Per cent of the width kept for the numbers of the vertical axis."""

MOST_POINTS = 300
"""Points of a line that are drawn, evenly spaced among all; the last one always is."""

EDGE = 12
"""Per cent from either side within which a label starts or ends at its place."""

Points = Sequence[tuple[float, float]]
"""Horizontal and vertical values."""


def shortest(value: float) -> str:
    """Return a tick's number without needless digits."""
    return f"{value:.6g}".replace("-", MINUS)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The range of an axis and how its numbers read."""

    span: Span
    name: str = ""
    """What it measures, with its unit; "" where the text beside the plot says it."""
    text: Callable[[float], str] = shortest
    at: tuple[float, ...] | None = None
    """Where the numbers stand; None: at round numbers."""

    @property
    def places(self) -> Sequence[float]:
        """Values with a number."""
        return self.at if self.at is not None else ticks(self.span.low, self.span.high)


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points joined by a line, or dots."""

    points: Points
    kind: str = "curve"
    """Class: curve, random (dashed, grey) or against (the second colour)."""
    limits: Points = ()
    """Low and high end at each point: a band around a line, a whisker through a dot."""
    across: Points = ()
    """Left and right end at each dot: a level whisker through it."""
    dots: bool = False
    titles: Sequence[str] = ()
    """What each dot says when it is pointed at."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A straight line through the plot, with a name where the last line is far from it."""

    at: float
    name: str
    upright: bool = True
    """At a horizontal value; False: at a vertical one."""


def room(values: Sequence[float], *, around: Sequence[float] = ()) -> Span:
    """Return a range that holds all values with some space on either side."""
    every = [*values, *around]
    low, high = min(every), max(every)
    space = 0.06 * (high - low) or 0.5
    return Span(low=low - space, high=high + space)


def plot(
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    label: str,
    marks: Sequence[Mark] = (),
    tall: int = PLOT,
) -> Markup:
    """Draw lines and dots.

    Args:
        lines: What to draw, the first at the back.
        x: Horizontal axis.
        y: Vertical axis.
        label: What the plot shows, in words.
        marks: Named straight lines.
        tall: Height of the plot in pixels.

    Returns:
        An SVG element, or nothing where no line has a point.
    """
    if not any(line.points for line in lines):
        return Markup("")
    frame = _Frame(x=x, y=y, top=TOP + (NAME if y.name else 0), tall=tall)
    inner = Markup("").join(_joined(line, frame) for line in lines if not line.dots)
    outer = Markup("").join(_dots(line, frame) for line in lines if line.dots)
    return Markup(
        '<svg class="curves" role="img" aria-label="{}" width="100%" height="{}">{}'
        '<svg x="{}%" y="{}" width="{}%" height="{}" viewBox="0 0 100 100" '
        'preserveAspectRatio="none">{}</svg>{}{}{}</svg>'
    ).format(
        visible(label),
        frame.top + tall + BOTTOM + (NAME if x.name else 0),
        _levels(frame),
        LEFT,
        frame.top,
        100 - LEFT,
        tall,
        inner,
        Markup("").join(_mark(mark, frame, lines[-1].points) for mark in marks),
        outer,
        _below(frame),
    )


@dataclass(frozen=True, kw_only=True)
class _Frame:
    x: Axis
    y: Axis
    top: int
    tall: int

    def across(self, value: float) -> float:
        """Per cent of the whole width."""
        return LEFT + (100 - LEFT) * self.x.span.at(value) / 100

    def down(self, value: float) -> float:
        """Pixels from the top."""
        return self.top + self.tall * (1 - self.y.span.at(value) / 100)


def _joined(line: Line, frame: _Frame) -> Markup:
    if len(line.points) < 2:
        return Markup("")
    step = -(-len(line.points) // MOST_POINTS)

    def path(points: Points) -> str:
        drawn = [*points[:-1:step], points[-1]]
        return " ".join(
            f"{frame.x.span.at(u):.2f},{100 - frame.y.span.at(v):.2f}" for u, v in drawn
        )

    band = Markup("")
    if len(line.limits) == len(line.points):
        low = [(u, low) for (u, _), (low, _) in zip(line.points, line.limits, strict=True)]
        high = [(u, high) for (u, _), (_, high) in zip(line.points, line.limits, strict=True)]
        band = Markup('<polygon class="band" points="{} {}"/>').format(path(low), path(high[::-1]))
    return band + Markup('<polyline class="{}" points="{}"/>').format(line.kind, path(line.points))


def _dots(line: Line, frame: _Frame) -> Markup:
    parts = []
    for place, (u, v) in enumerate(line.points):
        x, y = f"{frame.across(u):.2f}", f"{frame.down(v):.1f}"
        if place < len(line.limits):
            low, high = line.limits[place]
            parts.append(
                Markup('<line class="whisker" x1="{}%" x2="{}%" y1="{}" y2="{}"/>').format(
                    x, x, f"{frame.down(low):.1f}", f"{frame.down(high):.1f}"
                )
            )
        if place < len(line.across):
            left, right = line.across[place]
            parts.append(
                Markup('<line class="whisker" x1="{}%" x2="{}%" y1="{y}" y2="{y}"/>').format(
                    f"{frame.across(left):.2f}", f"{frame.across(right):.2f}", y=y
                )
            )
        said = line.titles[place] if place < len(line.titles) else ""
        title = Markup("<title>{}</title>").format(visible(said)) if said else Markup("")
        parts.append(
            Markup('<circle class="{}" cx="{}%" cy="{}" r="4.5">{}</circle>').format(
                line.kind, x, y, title
            )
        )
    return Markup("").join(parts)


def _mark(mark: Mark, frame: _Frame, points: Points) -> Markup:
    if mark.upright:
        x = frame.across(mark.at)
        side = "start" if x < 50 else "end"
        return Markup(
            '<line class="limit" x1="{x}%" x2="{x}%" y1="{top}" y2="{end}"/>'
            '<text class="tick {side}" x="{x}%" dx="{away}" y="{text}">{name}</text>'
        ).format(
            x=f"{x:.2f}",
            top=frame.top,
            end=frame.top + frame.tall,
            side=side,
            away=5 if side == "start" else -5,
            text=frame.top + 11,
            name=visible(mark.name),
        )
    y = frame.down(mark.at)
    first, last = (abs(points[end][1] - mark.at) if points else 0.0 for end in (0, -1))
    side, x = ("end", 100.0) if last >= first else ("start", LEFT + 1.0)
    return Markup(
        '<line class="limit" x1="{left}%" x2="100%" y1="{y}" y2="{y}"/>'
        '<text class="tick {side}" x="{x}%" y="{text}">{name}</text>'
    ).format(left=LEFT, side=side, x=x, y=f"{y:.1f}", text=f"{y - 4:.1f}", name=visible(mark.name))


def _levels(frame: _Frame) -> Markup:
    parts = []
    if frame.y.name:
        parts.append(Markup('<text class="tick" x="0" y="12">{}</text>').format(frame.y.name))
    for value in frame.y.places:
        y = frame.down(value)
        parts.append(
            Markup(
                '<line class="grid" x1="{left}%" x2="100%" y1="{y}" y2="{y}"/>'
                '<text class="tick end" x="{text}%" y="{below}">{name}</text>'
            ).format(
                left=LEFT,
                text=LEFT - 1.5,
                y=f"{y:.1f}",
                below=f"{y + 4:.1f}",
                name=frame.y.text(value),
            )
        )
    return Markup("").join(parts)


def _below(frame: _Frame) -> Markup:
    parts = []
    for value in frame.x.places:
        place = frame.x.span.at(value)
        side = "start" if place < EDGE / 2 else "end" if place > 100 - EDGE / 2 else "middle"
        parts.append(
            Markup('<text class="tick {}" x="{}%" y="{}">{}</text>').format(
                side,
                f"{frame.across(value):.2f}",
                frame.top + frame.tall + 18,
                frame.x.text(value),
            )
        )
    if frame.x.name:
        parts.append(
            Markup('<text class="tick end" x="100%" y="{}">{}</text>').format(
                frame.top + frame.tall + 18 + NAME, frame.x.name
            )
        )
    return Markup("").join(parts)
