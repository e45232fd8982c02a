"""What a detector of hallucinations can do, as one HTML file that needs nothing else.

Names, prompts and answers are untrusted text: see ``pages``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.report import detector_reading as reading
from pipelines.report import hallucination_reading as words
from pipelines.report.cards import BarRow
from pipelines.report.characters import shortened
from pipelines.report.charts import Span, interval_bar, span_of
from pipelines.report.evaluation_page import axis, dot, head
from pipelines.report.evaluation_reading import Place
from pipelines.report.hallucination_reading import dicts, pairs
from pipelines.report.layer_curve import layer_curve
from pipelines.report.numbers import aligned, count, is_number, or_zero, percent, plain, signed
from pipelines.report.pages import page
from pipelines.report.plots import Axis, Line, Mark, plot, room
from pipelines.report.provenance import Facts, flattened
from pipelines.run_folder import new_file

UNIT = Span(low=0.0, high=1.0)
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)

MOST_ROWS, MOST_ERRORS, MOST_POINTS = 60, 20, 21
"""Rows of a chart, mistakes shown, and points of a curve in its table."""

TALL = 200
"""Pixels of a curve's plot."""


def render_detector(report: Mapping[str, Any]) -> str:
    """Render a detector's report.

    Args:
        report: The content of detector-report.json. Missing, None and NaN values are left out.

    Returns:
        A whole HTML document; the same report gives the same text.
    """
    found = reading.read(report)
    return page(
        "detector.html.j2",
        "inputs.css",
        "evaluation.css",
        "hallucination.css",
        title="Can it tell wrong answers from right ones?",
        found=found,
        reading_of=reading,
        words=words,
        comparison=_comparison(found),
        gains=_gains(found),
        topics=_forest(found.get("topics")),
        leave_out=_forest(found.get("leave_out")),
        layers=_layers(found.get("layers") or {}),
        calibration=_calibration(found.get("calibration") or {}),
        curves=_curves(found),
        thresholds=_thresholds(found),
        causes=_causes(found.get("causes") or {}),
        weights=_weights(found),
        weight_rows=_weight_rows(found),
        errors=[_error(error) for error in dicts(found.get("errors"))[:MOST_ERRORS]],
        notes=[str(note) for note in found.get("notes") or [] if note],
        made=_made(found),
    )


def _causes(causes: Mapping[str, Any]) -> dict[str, Any]:
    """Return how well causes are told apart, in words and as a table."""
    head, rows = reading.causes_rows(causes)
    return {"words": reading.causes_words(causes), "head": head, "rows": rows}


def write_detector_page(report: Mapping[str, Any], path: Path) -> Path:
    """Render a detector's report into a file, whole or not at all.

    Args:
        report: The content of detector-report.json.
        path: The file to write.

    Returns:
        The path.
    """
    with new_file(path) as temporary:
        temporary.write_text(render_detector(report), encoding="utf-8", newline="\n")
    return path


def _span(places: Sequence[Place], reference: float) -> Span:
    """Return a range that holds every dot, its interval, and the reference."""
    values = [v for place in places for v in (place.mean, place.low, place.high) if v is not None]
    return room(values, around=[reference])


def _comparison(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of the comparison with a dot for each AUROC."""
    rows = reading.rows(found)[:MOST_ROWS]
    main = reading.main_row(found)
    places = [
        reading.place_of(row, "auroc", "low", "high", best=row.get("name") == main.get("name"))
        for row in rows
    ]
    span = _span(places, reading.COIN[1])
    return {
        "head": head(span, reading.COIN),
        "axis": axis(span),
        "rows": [
            {
                "place": place,
                "kind": reading.KINDS.get(str(row.get("kind")), str(row.get("kind") or "")),
                "control": row.get("kind") == "control",
                "drawing": dot(place, span, reading.COIN) if place.mean is not None else "",
                "within": reading.place_of(row, "within", "within_low", "within_high"),
                "ap": plain(row.get("ap")),
                "n": count(row.get("n")),
                "missing": count(row.get("missing")),
                "note": str(row.get("note") or ""),
            }
            for row, place in zip(rows, places, strict=True)
        ],
    }


def _chart(places: Sequence[Place], reference: tuple[str, float]) -> dict[str, Any]:
    """Return dots with their intervals beside a reference line, and the same as rows."""
    known = [place for place in places if place.mean is not None][:MOST_ROWS]
    if not known:
        return {}
    span = _span(known, reference[1])
    return {
        "head": head(span, reference),
        "axis": axis(span),
        "dots": [(place, dot(place, span, reference)) for place in known],
    }


def _gains(found: Mapping[str, Any]) -> dict[str, Any]:
    given = dicts(found.get("gains"))
    places = [
        reading.place_of(gain, "gain", "low", "high", best=bool(gain.get("adds"))) for gain in given
    ]
    chart = _chart(places, ("no gain", 0.0))
    rows = [
        (
            place.name,
            str(gain.get("over") or ""),
            place.value,
            place.interval,
            "yes" if gain.get("adds") else "not shown",
        )
        for gain, place in zip(given, places, strict=True)
        if place.mean is not None
    ]
    return {**chart, "rows": rows} if chart else {}


def _forest(topics: Any) -> dict[str, Any]:
    given = [t for t in dicts(topics) if is_number(t.get("auroc"))]
    given.sort(key=lambda topic: -topic["auroc"])
    places = [reading.place_of(topic, "auroc", "low", "high") for topic in given]
    chart = _chart(places, reading.COIN)
    rows = [
        (place.name, count(topic.get("n")), place.value, place.interval)
        for topic, place in zip(given, places, strict=True)
    ]
    return {**chart, "rows": rows, "words": reading.topics_words(given)} if chart else {}


def _layers(layers: Mapping[str, Any]) -> dict[str, Any]:
    points = pairs(layers.get("layers"), layers.get("auroc"))
    if not points:
        return {}
    low, high = (dict(pairs(layers.get("layers"), layers.get(key))) for key in ("low", "high"))
    limits = [(low[u], high[u]) for u, _ in points if u in low and u in high]
    said, chosen = reading.layers_words(layers), layers.get("chosen")
    marks = [(chosen, f"chosen: layer {count(chosen)}")] if is_number(chosen) else []
    return {
        "words": said,
        "plot": layer_curve(points, limits, marks, said),
        "rows": [
            (
                f"layer {count(u)}",
                plain(v),
                f"{plain(low[u])} to {plain(high[u])}" if u in low and u in high else "",
            )
            for u, v in points
        ],
    }


def _calibration(calibration: Mapping[str, Any]) -> dict[str, Any]:
    bins = [
        b
        for b in dicts(calibration.get("bins"))
        if is_number(b.get("predicted")) and is_number(b.get("observed"))
    ]
    if not bins:
        return {}
    points = [(float(b["predicted"]), float(b["observed"])) for b in bins]
    limits = [
        (or_zero(b["observed_low"]), or_zero(b["observed_high"]))
        for b in bins
        if is_number(b.get("observed_low")) and is_number(b.get("observed_high"))
    ]
    said = reading.calibration_words(calibration)
    titles = [
        f"said {percent(b['predicted'])}, wrong {percent(b['observed'])}, {count(b.get('count'))}"
        " answers"
        for b in bins
    ]
    counts = [b["count"] for b in bins if is_number(b.get("count"))]
    return {
        "words": said,
        "each": f"Each dot stands for {_from_to(counts)} answers." if counts else "",
        "plot": plot(
            [
                Line(points=[(0.0, 0.0), (1.0, 1.0)], kind="random"),
                Line(
                    points=points,
                    limits=limits if len(limits) == len(points) else (),
                    dots=True,
                    titles=titles,
                ),
            ],
            Axis(span=UNIT, at=QUARTERS, text=percent, name="probability that the detector says"),
            Axis(span=UNIT, at=QUARTERS, text=percent, name="share that was wrong"),
            said,
            tall=TALL,
        ),
        "rows": [
            (
                f"{percent(b.get('low'))} to {percent(b.get('high'))}",
                percent(b["predicted"]),
                percent(b["observed"]),
                f"{percent(b.get('observed_low'))} to {percent(b.get('observed_high'))}"
                if is_number(b.get("observed_low")) and is_number(b.get("observed_high"))
                else "",
                count(b.get("count")),
            )
            for b in bins
        ],
    }


def _from_to(counts: Sequence[float]) -> str:
    low, high = count(min(counts)), count(max(counts))
    return low if low == high else f"{low} to {high}"


def _curves(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the three curves, each with its sentence and its table."""
    curves = found.get("curves") or {}
    base = curves.get("base_rate")
    threshold = found.get("threshold") or {}
    level = (
        [Mark(at=base, name=f"base rate {percent(base)}", upright=False)] if is_number(base) else []
    )
    level_marks = [Mark(at=mark.at, name="", upright=False) for mark in level]
    covered = threshold.get("coverage")
    line = [Mark(at=covered, name=f"the line: {percent(covered)}")] if is_number(covered) else []
    drawn: list[tuple[str, str, str, str, str, list[Mark], str]] = [
        (
            "roc",
            "Found against falsely accused",
            "right answers called wrong",
            "wrong answers found",
            reading.roc_words(found),
            [],
            "ROC curve. Dashed: a coin.",
        ),
        (
            "pr",
            "How many of those called wrong are wrong",
            "wrong answers found (recall)",
            "of those called wrong, wrong (precision)",
            reading.pr_words(found),
            level,
            "Precision-recall curve.",
        ),
        (
            "risk_coverage",
            "What abstaining gains",
            "answers shown (coverage)",
            "of those shown, wrong (risk)",
            reading.risk_words(found),
            [*level_marks, *line],
            "Risk-coverage curve: the riskiest answers are withheld first. Dashed across: all shown.",
        ),
    ]
    return [
        _curve(reading.points(curves.get(key)), key, rest)
        for key, *rest in drawn
        if len(reading.points(curves.get(key))) > 1
    ]


def _curve(points: list[tuple[float, float]], key: str, rest: list[Any]) -> dict[str, Any]:
    title, across, up, said, marks, about = rest
    diagonal = [Line(points=[(0.0, 0.0), (1.0, 1.0)], kind="random")] if key == "roc" else []
    top = max(0.25, *(v for _, v in points), *(mark.at for mark in marks if not mark.upright))
    tall_axis = (
        Axis(span=Span(low=0.0, high=min(1.0, 1.08 * top)), text=percent, name=up)
        if key == "risk_coverage"
        else Axis(span=UNIT, at=QUARTERS, text=percent, name=up)
    )
    step = -(-len(points) // MOST_POINTS)
    return {
        "title": title,
        "words": said,
        "about": about,
        "plot": plot(
            [*diagonal, Line(points=points)],
            Axis(span=UNIT, at=QUARTERS, text=percent, name=across),
            tall_axis,
            f"{title}. {said}",
            marks,
            TALL,
        ),
        "head": (across.capitalize(), up.capitalize()),
        "rows": [(percent(u), percent(v)) for u, v in [*points[:-1:step], points[-1]]],
    }


def _thresholds(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    chosen = (found.get("threshold") or {}).get("probability")
    return [
        {
            "cells": [
                percent(row.get(key)) for key in ("risk", "probability", "coverage", "lost_right")
            ],
            "chosen": row.get("probability") == chosen,
        }
        for row in dicts(found.get("thresholds"))
    ]


def _weights(found: Mapping[str, Any]) -> list[BarRow]:
    known = [w for w in dicts(found.get("weights")) if is_number(w.get("weight"))]
    known.sort(key=lambda weight: -abs(weight["weight"]))
    span = span_of([weight["weight"] for weight in known])
    largest = max(span.high, -span.low)
    rows = []
    for weight in known[:MOST_ROWS]:
        value, name = weight["weight"], str(weight.get("title") or weight.get("signal") or "")
        kind = "opp" if value > 0 else "pro"
        drawing = interval_bar(value, None, span, kind, f"{name}: {signed(value, 2)} log-odds")
        rows.append(BarRow(label=name, title=name, drawing=drawing, value=aligned(value, largest)))
    return rows


def _weight_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            str(w.get("title") or w.get("signal") or ""),
            words.FAMILIES.get(str(w.get("family")), str(w.get("family") or "")),
            f"{signed(w['weight'])} log-odds" if is_number(w.get("weight")) else "not fitted",
            str(w.get("about") or ""),
        )
        for w in dicts(found.get("weights"))
    ]


def _error(error: Mapping[str, Any]) -> dict[str, str]:
    texts = {key: shortened(str(error.get(key) or ""), 200) for key in ("id", "prompt")}
    return {
        **texts,
        "completion": shortened(str(error.get("completion") or ""), 200) or "(empty)",
        "label": str(error.get("label") or ""),
        "kind": "opp" if error.get("label") == "wrong" else "pro",
        "risk": percent(error.get("probability")),
    }


def _made(found: Mapping[str, Any]) -> list[tuple[str, Facts]]:
    """Return titled lists of names and values; empty ones are left out."""
    made, data = found.get("provenance") or {}, dict(found.get("data") or {})
    topics = dicts(data.pop("topics", None))
    loose = {key: value for key, value in made.items() if not isinstance(value, dict)}
    titled = [
        ("Model", flattened(dict(found.get("model") or {}))),
        ("Labelled answers", flattened(data)),
        ("Topics", [(str(t.get("name") or ""), _topic(t)) for t in topics[:MOST_ROWS]]),
        ("Work", flattened(loose)),
        *((str(key), flattened(part)) for key, part in made.items() if isinstance(part, dict)),
    ]
    return [(title, facts) for title, facts in titled if facts]


def _topic(topic: Mapping[str, Any]) -> str:
    kinds = [
        f"{count(topic[k])} {k}" for k in ("right", "wrong", "evasive") if is_number(topic.get(k))
    ]
    return ", ".join(kinds)
