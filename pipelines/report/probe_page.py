"""A probe and its controls as one HTML file that needs nothing else, and in the terminal.

Names of labels, topics and models are untrusted text here too.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.report.characters import shortened, visible
from pipelines.report.charts import Span
from pipelines.report.detector_reading import COIN, place_of
from pipelines.report.evaluation_page import axis, dot
from pipelines.report.layer_curve import CHANCE, layer_curve
from pipelines.report.numbers import count, percent
from pipelines.report.pages import page
from pipelines.report.provenance import flattened
from pipelines.run_folder import new_file

Area = dict[str, Any]
"""An AUROC: value, low and high; None where not known."""
LONGEST_NAME = 60
NEAR_CHANCE = 0.05
"""How far from 0.5 a control may be without a word."""


def render_probe(result: dict[str, Any]) -> str:
    """Render what probes and controls found.

    Args:
        result: Of ``pipelines.probing.run_probe``.

    Returns:
        A whole HTML document; the same result gives the same text.
    """
    span = _span([row.get("auroc") for row in [*result["table"], *result["topics"]]])
    first = next(iter(result["chosen"].values()))
    return page(
        "probe.html.j2",
        "inputs.css",
        "evaluation.css",
        "hallucination.css",
        "probe.css",
        title=question(result),
        question=question(result),
        size=size(result),
        findings=findings(result),
        table=[_row(row, span) for row in result["table"]],
        topics=[
            _row({"title": f"{one['topic']} ({count(one['rows'])})", **one}, span)
            for one in result["topics"]
        ],
        axis=axis(span),
        curve=_curve(result["by_layer"]["layers"], first["layers"]),
        layers=[
            (one["layer"], area_in_words(one["auroc"])) for one in result["by_layer"]["layers"]
        ],
        chosen=chosen(result),
        calibration=result["calibration"],
        bins=[
            (percent(one["said"]), percent(one["came"]), count(one["rows"]))
            for one in (result["calibration"] or {}).get("bins") or []
        ],
        positive=result["positive"],
        notes=result["notes"],
        made=flattened({"model": result["model"], **result["provenance"]}),
    )


def write_probe_page(result: dict[str, Any], path: Path) -> Path:
    """Render into a file, whole or not at all.

    Args:
        result: As for `render_probe`.
        path: The file to write.

    Returns:
        The path.
    """
    with new_file(path) as temporary:
        temporary.write_text(render_probe(result), encoding="utf-8", newline="\n")
    return path


def question(result: dict[str, Any]) -> str:
    """Return what was asked, in words."""
    names = [shortened(str(name), LONGEST_NAME) for name in result["classes"]]
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"Can the hidden states tell {listed} apart?"


def size(result: dict[str, Any]) -> str:
    """Return how much was judged, and how."""
    held = "topics" if result["split"] == "topic" else "entities"
    return (
        f"{count(result['rows'])} texts of {count(result['entities'])} entities, read at "
        f"{result['place']} ({result['place_about']}); {result['folds']} folds that share no {held}"
    )


def findings(result: dict[str, Any]) -> list[str]:
    """Return what the table says, in sentences."""
    sentences = [
        f"{row['title']}: AUROC {area_in_words(row['auroc'])}, right in "
        f"{percent(row['accuracy']['value'])} of texts; the most frequent label alone would be right "
        f"in {percent(max(result['counts']) / result['rows'])}."
        for row in result["table"]
        if row["role"] == "probe" and row["auroc"]["value"] is not None
    ]
    probe = result["table"][0]["auroc"]["value"]
    for row in result["table"]:
        value = (row.get("auroc") or {}).get("value")
        if row["role"] == "probe" or row["title"].startswith("Control task") or value is None:
            continue  # memory of words has labels of its own: no figure to beat
        if abs(value - CHANCE) > NEAR_CHANCE and probe is not None:
            beats = row["auroc"]["high"] is not None and probe > row["auroc"]["high"]
            verdict = "the probe knows more than that" if beats else "the probe may be no more"
            sentences.append(
                f"{row['title']}: AUROC {area_in_words(row['auroc'])}, away from 0.5; {verdict}."
            )
    return sentences


def chosen(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return for each kind the layers that were chosen, and the kept probe's."""
    return [
        (
            kind,
            f"layers {', '.join(map(str, one['layers']))} by fold; kept: layer {one['layer']}, "
            f"strength {one['strength']:g}",
        )
        for kind, one in result["chosen"].items()
    ]


def print_probe(result: dict[str, Any], console: Console) -> None:
    """Print the table of probes and controls.

    Args:
        result: As for `render_probe`. Names are printed as they are, never as markup.
        console: Where to print.
    """
    console.print(Text(visible(question(result)), style="bold"))
    console.print(Text(visible(size(result)), style="dim"))
    table = Table()
    for heading, side in (("", "left"), ("AUROC (95 %)", "right"), ("accuracy", "right")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for row in result["table"]:
        area = area_in_words(row.get("auroc")) or str(row.get("reason") or "-")
        right = percent((row.get("accuracy") or {}).get("value"))
        style = "bold" if row["role"] == "probe" else ""
        table.add_row(Text(visible(row["title"]), style=style), Text(visible(area)), Text(right))
    console.print(table)
    if result["positive"]:
        said = f"AUROC: how often a text labelled {result['positive']} outscores another."
        console.print(Text(visible(said), style="dim"))
    for topic in result["topics"]:
        console.print(Text(visible(f"{topic['topic']}: {area_in_words(topic['auroc'])}")))
    for kind, words in chosen(result):
        console.print(Text(visible(f"{kind}: {words}"), style="dim"))
    if result["calibration"]:
        found = result["calibration"]
        console.print(f"Brier {found['brier']:.3f}, calibration error {found['ece']:.3f}")
    for note in result["notes"]:
        console.print(Text(visible(f"Note: {note}"), style="yellow"))


def area_in_words(area: Area | None) -> str:
    """Return an area and its interval, such as 0.905 (0.887 to 0.921)."""
    if not area or area.get("value") is None:
        return ""
    text = f"{area['value']:.3f}"
    if area.get("low") is None:
        return text
    return f"{text} ({area['low']:.3f} to {area['high']:.3f})"


def _span(areas: list[Area | None]) -> Span:
    """Return the span that holds all values, their intervals and chance, with some room."""
    values = [
        float(area[key])
        for area in areas
        if area
        for key in ("value", "low", "high")
        if area.get(key) is not None
    ]
    return Span(
        low=max(0.0, min([0.45, *values]) - 0.03), high=min(1.0, max([0.6, *values]) + 0.03)
    )


def _curve(layers: list[dict[str, Any]], chosen: list[int]) -> Markup:
    """AUROC by layer, with the layers that were chosen in the folds."""
    known = [one for one in layers if (one.get("auroc") or {}).get("value") is not None]
    if len(known) < 2:
        return Markup("")
    best = max(known, key=lambda one: one["auroc"]["value"])
    label = (
        f"AUROC by layer, from layer {known[0]['layer']} ({area_in_words(known[0]['auroc'])}) to "
        f"layer {known[-1]['layer']} ({area_in_words(known[-1]['auroc'])}); highest at layer "
        f"{best['layer']} ({area_in_words(best['auroc'])})"
    )
    banded = all(one["auroc"].get("low") is not None for one in known)
    limits = [(one["auroc"]["low"], one["auroc"]["high"]) for one in known] if banded else []
    folds = Counter(chosen)
    marks = [(layer, f"{times} of {len(chosen)}") for layer, times in sorted(folds.items())]
    return layer_curve([(o["layer"], o["auroc"]["value"]) for o in known], limits, marks, label)


def _row(row: dict[str, Any], span: Span) -> dict[str, Any]:
    area: Area = row.get("auroc") or {}
    known = area.get("value") is not None
    is_probe = row.get("role", "probe") == "probe"
    place = place_of({"name": row["title"], **area}, "value", "low", "high", best=is_probe)
    missing = area.get("missing") or row.get("missing")
    return {
        "title": row["title"],
        "probe": row.get("role") == "probe",
        "drawing": dot(place, span, COIN) if known else "",
        "value": f"{area['value']:.3f}" if known else "",
        "interval": f"{area['low']:.3f} to {area['high']:.3f}"
        if known and area["low"] is not None
        else "",
        "accuracy": percent((row.get("accuracy") or {}).get("value")),
        "reason": row.get("reason") or area.get("reason"),
        "missing": count(missing) if missing else "",
    }
