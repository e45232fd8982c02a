"""Pictures of an analysis of a mixture: dots with intervals, curves, tails, and checks by training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipelines.report import mixture_reading as reading
from pipelines.report.cards import BarRow
from pipelines.report.characters import shortened
from pipelines.report.charts import Span, bar, interval_dot, ticks
from pipelines.report.evaluation_page import axis
from pipelines.report.mixture_reading import Found, dicts, name_of
from pipelines.report.numbers import SUPERSCRIPT, count, is_number, or_zero, percent
from pipelines.report.plots import Axis, Line, Mark, Points, plot, room
from pipelines.report.reading import quoted
from pipelines.report.scales import Scale, scale_of

MOST_ROWS = 16
"""Groups in a task's chart; of more the most helpful and the most harmful are shown."""

LONGEST_NAME, MOST_TICKS = 80, 4

KINDS = {"helps": "pro", "hurts": "opp", "unclear": "open"}
"""Colour of a dot by effect; without an interval it is grey."""

UNIT_SPAN = Span(low=0.0, high=1.0)

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)

TALL, TALLER = 190, 340
"""Pixels of a curve, and of the scatter of predicted against measured."""


def pair_of(low: object, high: object, factor: float = 1.0) -> tuple[float, float] | None:
    """Return both ends of an interval, scaled; None where one is missing."""
    return (factor * low, factor * high) if is_number(low) and is_number(high) else None


def dot_rows(
    entries: list[dict[str, Any]], scale: Scale, keys: tuple[str, str, str, str]
) -> list[dict[str, Any]]:
    """Return rows with a dot and its interval, on a range that all of them share.

    Args:
        entries: Rows with an ``effect``.
        scale: Of their numbers.
        keys: Names of the label, the value, and the ends of its interval.

    Returns:
        ``name``, ``drawing``, ``value``, ``interval``, ``kind`` of each row whose value is known.
    """
    label, key, low, high = keys
    known = [entry for entry in entries if is_number(entry.get(key))]
    ends = [pair_of(entry.get(low), entry.get(high), scale.factor) for entry in known]
    if not known:
        return []
    span = _span(known, scale, key, ends)
    rows = []
    for entry, interval in zip(known, ends, strict=True):
        kind, name = KINDS.get(str(entry.get("effect")), "neutral"), name_of(entry, label)
        words = scale.interval(entry.get(low), entry.get(high))
        said = f"{quoted(name, LONGEST_NAME)}: {scale.words(entry[key])}"
        said += f", 95 % interval {words}" if words else ", no interval"
        rows.append(
            {
                "name": name,
                "kind": kind,
                "drawing": interval_dot(scale.factor * entry[key], interval, span, kind, said),
                "value": scale.text(entry[key]),
                "interval": words,
                "span": span,
            }
        )
    return rows


def _span(
    known: list[dict[str, Any]], scale: Scale, key: str, ends: list[tuple[float, float] | None]
) -> Span:
    values = [scale.factor * entry[key] for entry in known]
    return room([*values, *(end for pair in ends if pair for end in pair)], around=[0.0])


def task_charts(found: Found) -> list[dict[str, Any]]:
    """Return for each task its groups as dots with intervals, the most helpful first."""
    charts = []
    for task in reading.tasks_of(found):
        cells = [c for c in dicts(found.get("cells")) if name_of(c, "task") == task]
        cells = [c for c in cells if is_number(c.get("mean"))]
        cells.sort(key=lambda cell: -cell["mean"])
        half = MOST_ROWS // 2
        shown = cells if len(cells) <= MOST_ROWS else [*cells[:half], *cells[-half:]]
        scale = scale_of(
            value
            for cell in shown
            for value in (cell["mean"], cell.get("mean_low"), cell.get("mean_high"))
        )
        rows = dot_rows(shown, scale, ("group", "mean", "mean_low", "mean_high"))
        charts.append(
            {
                "task": task,
                "rows": rows,
                "axis": axis(rows[0]["span"], MOST_TICKS) if rows else "",
                "unit": scale.unit,
                "left_out": len(cells) - len(shown),
            }
        )
    return charts


def half_bars(found: Found) -> list[BarRow]:
    """Return for each task the share of documents that carry half of the helpful influence."""
    entries = [
        e
        for e in dicts(found.get("concentration"))
        if is_number(e.get("half_share")) and e.get("half")
    ]
    entries.sort(key=lambda entry: entry["half_share"])
    most = max((entry["half_share"] for entry in entries), default=0.0)
    return [
        BarRow(
            label=shortened(name_of(entry, "task"), LONGEST_NAME),
            title=quoted(name_of(entry, "task"), LONGEST_NAME),
            drawing=bar(
                entry["half_share"] / most,
                "much",
                f"{quoted(name_of(entry, 'task'), LONGEST_NAME)}: {percent(entry['half_share'])}",
            ),
            value=percent(entry["half_share"]),
            against=f"{count(entry['half'])} documents",
        )
        for entry in entries
    ]


def points_of(value: object) -> list[tuple[float, float]]:
    """Return the pairs of two finite numbers in a list."""
    pairs = value if isinstance(value, list) else []
    return [
        (float(pair[0]), float(pair[1]))
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and all(is_number(end) for end in pair)
    ]


def concentration_curve(entry: Mapping[str, Any]) -> Markup:
    """Draw the share of helpful influence against the share of documents, strongest first."""
    points = points_of(entry.get("curve"))
    half = entry.get("half_share")
    dots = [(float(half), 0.5)] if is_number(half) and half > 0 else []
    shares = dict(at=QUARTERS, text=percent, span=UNIT_SPAN)
    return plot(
        [
            Line(points=[(0.0, 0.0), (1.0, 1.0)], kind="random") if points else Line(points=()),
            Line(points=points),
            Line(points=dots, dots=True, titles=[f"{percent(half)} of the documents carry half"]),
        ],
        Axis(name="documents, strongest first", **shares),  # type: ignore[arg-type]
        Axis(name="helpful influence", **shares),  # type: ignore[arg-type]
        f"Share of helpful influence on {quoted(name_of(entry, 'task'), LONGEST_NAME)} by share of "
        "documents",
        tall=TALL,
    )


def power(value: float) -> str:
    """Return a power of ten from its exponent: 10⁻³."""
    return f"10{str(round(value)).translate(SUPERSCRIPT)}"


def decades(values: list[float]) -> tuple[Span, tuple[float, ...]]:
    """Return the range of some logarithms to base ten, and at most six whole numbers within it."""
    span = room(values)
    first, last = math.ceil(span.low), math.floor(span.high)
    step = max(1, -(-(last - first) // 5))
    return span, tuple(float(exponent) for exponent in range(first, last + 1, step))


def tail_plot(entry: Mapping[str, Any]) -> Markup:
    """Draw on log axes how many documents score above a value, and the power law that was fitted."""
    given = [(s, share) for s, share in points_of(entry.get("ccdf")) if s > 0 and share > 0]
    points = [(math.log10(score), math.log10(share)) for score, share in given]
    if len(points) < 2:
        return Markup("")
    x_span, x_at = decades([u for u, _ in points])
    y_span, y_at = decades([v for _, v in points])
    fit, marks = _fit(entry.get("tail") or {}, points)
    return plot(
        [
            Line(points=points, dots=True, titles=_tail_titles(given)),
            *([Line(points=fit, kind="against")] if fit else []),
        ],
        Axis(span=x_span, at=x_at, text=power, name="score, nats per document removed"),
        Axis(span=y_span, at=y_at, text=power, name="share of documents that score as much"),
        f"Tail of the scores on {quoted(name_of(entry, 'task'), LONGEST_NAME)}, both axes logarithmic",
        marks,
        TALL,
    )


def _tail_titles(points: Points) -> list[str]:
    scale = scale_of(score for score, _ in points)
    return [f"{percent(share)} score {scale.words(score)} or more" for score, share in points]


def _fit(tail: Mapping[str, Any], points: Points) -> tuple[Points, list[Mark]]:
    """Return the fitted line from its threshold to the largest score, and where it starts.

    The density falls as s^-exponent, so the share above s falls as s^(1 - exponent).
    """
    start, exponent = tail.get("from"), tail.get("exponent")
    if not (is_number(start) and is_number(exponent) and start > 0):
        return (), []
    first, last = math.log10(start), max(u for u, _ in points)
    share = min(points, key=lambda point: abs(point[0] - first))[1]
    bottom = min(v for _, v in points)
    slope = 1 - exponent
    last = min(last, first + (bottom - share) / slope) if slope < 0 else last
    if last <= first:
        return (), []
    line = [(first, share), (last, share + slope * (last - first))]
    return line, [Mark(at=first, name="the tail starts")]


def weight_rows(proposal: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each group's tokens now and then as two bars, the largest increase first."""
    groups = [g for g in dicts(proposal.get("groups")) if is_number(g.get("weight"))]
    groups.sort(key=lambda group: -group["weight"])
    most = max(
        (max(or_zero(g.get("tokens_now")), or_zero(g.get("tokens_then"))) for g in groups),
        default=0,
    )
    rows = []
    for group in groups:
        now, then = group.get("tokens_now"), group.get("tokens_then")
        kind = "pro" if group["weight"] > 1.005 else "opp" if group["weight"] < 0.995 else "neutral"
        name = name_of(group)
        rows.append(
            {
                "name": name,
                "kind": kind,
                "weight": f"× {group['weight']:.2f}",
                "now": bar(or_zero(now) / (most or 1), "neutral", f"now {count(now)} tokens")
                if is_number(now)
                else "",
                "then": bar(or_zero(then) / (most or 1), kind, f"then {count(then)} tokens")
                if is_number(then)
                else "",
                "tokens": f"{count(now)} → {count(then)}"
                if is_number(now) and is_number(then)
                else "",
            }
        )
    return rows


SHARE = Scale(factor=100.0, unit="% of the task's loss", decimals=1)


def change_rows(proposal: Mapping[str, Any]) -> dict[str, Any]:
    """Return the predicted change of each task's loss as dots; a lower loss is better.

    As a share of the loss, so that tasks of long and of short answers stand on one scale; in nats
    where a loss is not known.
    """
    tasks = [dict(task) for task in dicts(proposal.get("tasks")) if is_number(task.get("change"))]
    shares = all(is_number(task.get("loss")) and task["loss"] > 0 for task in tasks)
    for task in tasks:
        task["effect"] = reading.change_effect(task)
        for key in ("change", "low", "high"):
            if shares and is_number(task.get(key)):
                task[key] /= task["loss"]
    tasks.sort(key=lambda task: task["change"])
    given = (value for t in tasks for value in (t["change"], t.get("low"), t.get("high")))
    scale = SHARE if shares else scale_of(given)
    rows = dot_rows(tasks, scale, ("name", "change", "low", "high"))
    return {
        "rows": rows,
        "unit": scale.unit if shares else f"{scale.unit} a question",
        "axis": axis(rows[0]["span"], MOST_TICKS) if rows else "",
    }


def agreement_plot(check: Mapping[str, Any]) -> Markup:
    """Draw measured against predicted changes with their intervals, and the line of equality."""
    rows = [
        row
        for row in dicts(check.get("rows"))
        if is_number(row.get("predicted")) and is_number(row.get("measured"))
    ]
    if not rows:
        return Markup("")
    scale = scale_of(v for row in rows for v in (row["predicted"], row["measured"]))
    lines = [_checked_dot(row, scale) for row in rows]
    ends = [end for line in lines for pair in (*line.limits, *line.across) for end in pair]
    sides: list[list[float]] = [[line.points[0][side] for line in lines] for side in (0, 1)]
    x_span = room([*sides[0], *(e for line in lines for pair in line.across for e in pair)])
    y_span = room([*sides[1], *(e for line in lines for pair in line.limits for e in pair)])
    low, high = min(ends + sides[0] + sides[1]), max(ends + sides[0] + sides[1])
    low, high = max(low, x_span.low, y_span.low), min(high, x_span.high, y_span.high)
    equal = [Line(points=[(low, low), (high, high)], kind="random")] if high > low else []
    unit = scale.unit
    return plot(
        [*_zeros(x_span, y_span), *equal, *lines],
        Axis(
            span=x_span,
            at=tuple(ticks(x_span.low, x_span.high, 8)),
            name=f"predicted, {unit}",
        ),
        Axis(span=y_span, name=f"measured, {unit}"),
        f"Measured against predicted change of the loss for {count(len(rows))} pairs",
        tall=TALLER,
    )


def _zeros(x: Span, y: Span) -> list[Line]:
    """Return the lines of no change, where they cross the plot."""
    upright = (
        [Line(points=[(0.0, y.low), (0.0, y.high)], kind="zero")] if x.low < 0 < x.high else []
    )
    level = [Line(points=[(x.low, 0.0), (x.high, 0.0)], kind="zero")] if y.low < 0 < y.high else []
    return [*upright, *level]


def _checked_dot(row: Mapping[str, Any], scale: Scale) -> Line:
    factor = scale.factor
    across = pair_of(row.get("predicted_low"), row.get("predicted_high"), factor)
    limits = pair_of(row.get("measured_low"), row.get("measured_high"), factor)
    clear = limits is not None and limits[0] * limits[1] > 0
    agree = row["predicted"] * row["measured"] >= 0
    group, task = (quoted(name_of(row, key), LONGEST_NAME) for key in ("group", "task"))
    predicted, measured = scale.words(row["predicted"]), scale.words(row["measured"])
    said = f"{group} on {task}: predicted {predicted}, measured {measured}"
    return Line(
        points=[(factor * row["predicted"], factor * row["measured"])],
        kind="neutral" if not clear else "pro" if agree else "opp",
        limits=[limits] if limits else (),
        across=[across] if across else (),
        dots=True,
        titles=[said],
    )
