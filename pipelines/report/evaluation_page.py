"""An evaluation as one HTML file that needs nothing else: which scores predict what training does.

Same look, escaping and content security policy as the trace page; names of methods, measures and
settings are untrusted text here too.
"""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.report import evaluation_reading as reading
from pipelines.report.characters import visible
from pipelines.report.charts import Span, interval_dot, span_of, ticks
from pipelines.report.evaluation_reading import Measure, Place, fixed
from pipelines.report.numbers import plain, seconds
from pipelines.report.pages import page
from pipelines.report.provenance import Facts, flattened, readable
from pipelines.run_folder import new_file

AXIS_HEIGHT = 24
ROOM = 0.03
"""Empty share of the span on either side of the outermost value."""

EDGE = 12
"""Per cent from either end within which a label starts or ends at its place instead of centring."""


def render_evaluation(result: dict[str, Any]) -> str:
    """Render one evaluation.

    Args:
        result: Methods, measures and settings; None, missing and NaN values are left out.

    Returns:
        A whole HTML document; the same result gives the same text.
    """
    result = reading.checked(result)
    run = str(result.get("run") or "")
    return page(
        "evaluation.html.j2",
        "evaluation.css",
        title=f"{reading.QUESTION} Run {run}" if run else reading.QUESTION,
        question=reading.QUESTION,
        run=run,
        size=reading.size(result),
        findings=reading.findings(result),
        grid=grid(result),
        charts=[chart(result, measure) for measure in reading.measures(result)],
        methods=result.get("methods") or [],
        notes=[note for note in result.get("notes") or [] if note],
        made=_made_with(result),
    )


def write_evaluation_page(result: dict[str, Any], path: Path) -> Path:
    """Render an evaluation into a file, whole or not at all.

    Args:
        result: Methods, measures and settings of the evaluation.
        path: The file to write.

    Returns:
        The path.
    """
    with new_file(path) as temporary:
        temporary.write_text(render_evaluation(result), encoding="utf-8", newline="\n")
    return path


def grid(result: dict[str, Any]) -> dict[str, Any]:
    """Return the table of all methods and measures.

    Args:
        result: The checked evaluation.

    Returns:
        ``columns`` with title, direction and number of the measure, and ``rows`` with the method's
        title and a Place (or None) for each column, in the order of the methods.
    """
    found = reading.contests(result)
    numbers = {id(m): number for number, m in enumerate(reading.measures(result), start=1)}
    by_method = [{p.method: p for p in reading.places(result, m)} for m in found]
    columns = [
        {
            "title": reading.title_of(m),
            "better": reading.BETTER.get(str(m.get("better")), ""),
            "number": numbers[id(m)],
        }
        for m in found
    ]
    rows = [
        (title, [places.get(method) for places in by_method])
        for method, title in reading.titles(result).items()
        if reading.is_method(result, method) or any(method in places for places in by_method)
    ]
    return {"columns": columns, "rows": rows}


def chart(result: dict[str, Any], measure: Measure) -> dict[str, Any]:
    """Return everything that the page shows of one measure.

    Args:
        result: The checked evaluation.
        measure: One of its measures.

    Returns:
        Texts, dots (place and drawing), axis, table of extra numbers, and settings.
    """
    found = reading.places(result, measure)
    limit = reading.reference(measure)
    span = _span(measure)
    extras = list(dict.fromkeys(str(label) for place in found for label in place.extra))
    return {
        "title": reading.title_of(measure),
        "about": measure.get("about"),
        "better": reading.BETTER.get(str(measure.get("better")), ""),
        "reference": limit,
        "reference_value": fixed(limit[1], reading.decimals_of(measure)) if limit else "",
        "reference_about": (measure.get("reference") or {}).get("about"),
        "dots": [(place, dot(place, span, limit)) for place in found if place.mean is not None],
        "missing": [place.name for place in found if place.mean is None],
        "head": head(span, limit) if limit else Markup(""),
        "axis": axis(span),
        "extras": extras,
        "extra_rows": [
            (place.name, [_number(place.extra.get(label)) for label in extras])
            for place in found
            if place.extra
        ],
        "setting": flattened(measure.get("setting") or {}),
    }


def dot(place: Place, span: Span, limit: tuple[str, float] | None) -> Markup:
    """A mean as a dot with its interval as a line, on the span of its measure.

    Args:
        place: The method; its mean is known.
        span: The range that all rows of the chart share.
        limit: Name and value of the reference line, drawn through the row.

    Returns:
        An SVG element; rows set one below the other join their vertical lines.
    """
    assert place.mean is not None
    ends = None if place.low is None or place.high is None else (place.low, place.high)
    words = f"{place.name}: {place.value}" + (f", {place.interval}" if place.interval else "")
    return interval_dot(
        place.mean,
        ends,
        span,
        "pro" if place.best else "neutral",
        words,
        limit[1] if limit else None,
    )


def axis(span: Span, about: int = 7) -> Markup:
    """Return about so many round numbers below a chart, each under its place."""
    step_ticks = ticks(span.low, span.high, about)
    step = step_ticks[1] - step_ticks[0] if len(step_ticks) > 1 else span.high - span.low
    parts = [
        _label(
            span.at(value), AXIS_HEIGHT - 8, plain(0 if abs(value) < step / 1e6 else value, 2), 0
        )
        for value in step_ticks
    ]
    return Markup(
        '<svg class="axis" aria-hidden="true" width="100%" height="{}">'
        '<line class="grid" x1="0" x2="100%" y1="0.5" y2="0.5"/>{}</svg>'
    ).format(AXIS_HEIGHT, Markup("").join(parts))


def head(span: Span, limit: tuple[str, float]) -> Markup:
    """Return the name of the reference line, above its place."""
    name, value = limit
    return Markup(
        '<svg class="axis" aria-hidden="true" width="100%" height="{}">{}{}</svg>'
    ).format(
        AXIS_HEIGHT,
        _label(span.at(value), 14, visible(name)),
        Markup('<line class="limit" x1="{x}%" x2="{x}%" y1="19" y2="100%"/>').format(
            x=f"{span.at(value):.2f}"
        ),
    )


def _span(measure: Measure) -> Span:
    whole = span_of(reading.numbers_of(measure))
    room = ROOM * (whole.high - whole.low) or 1.0
    return Span(low=whole.low - room, high=whole.high + room)


def _label(position: float, y: int, text: str, edge: float = EDGE) -> Markup:
    side = "start" if position < edge else "end" if position > 100 - edge else "middle"
    return Markup('<text class="tick {}" x="{}%" y="{}">{}</text>').format(
        side, f"{position:.2f}", y, text
    )


def _number(value: object) -> str:
    return plain(value) if isinstance(value, float) else readable(value)


def _made_with(result: dict[str, Any]) -> list[tuple[str, Facts]]:
    spent = [(str(name), seconds(value)) for name, value in (result.get("seconds") or {}).items()]
    titled = [
        ("Made with", flattened(result.get("created_with") or {})),
        ("Time", [(name, value) for name, value in spent if value]),
    ]
    return [(title, facts) for title, facts in titled if facts]
