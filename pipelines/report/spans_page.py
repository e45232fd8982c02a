"""Spans that stand word for word in the corpus, as one HTML file that needs nothing else.

Outputs and documents are untrusted text: see ``pages``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.report import spans_reading as reading
from pipelines.report.characters import marked, visible
from pipelines.report.heat import LEVELS
from pipelines.report.numbers import count, percent
from pipelines.report.pages import page
from pipelines.run_folder import new_file

MOST_CARDS = 60
"""Spans of one output that are listed, the rarest; all stand in the JSON and the Parquet file."""
LONGEST_SPAN = 400
"""Characters of a span in its card."""


def render_spans(results: Sequence[Mapping[str, Any]]) -> str:
    """Render what was found of some outputs.

    Args:
        results: Of `find_spans`, at least one.

    Returns:
        A whole HTML document.
    """
    one = len(results) == 1
    title = (
        reading.question(results[0])
        if one
        else f"{count(len(results))} outputs, looked for in the corpus"
    )
    return page(
        "spans.html.j2",
        "inputs.css",
        "spans.css",
        title=title,
        run=results[0].get("run"),
        outputs=[_output(number, result) for number, result in enumerate(results, 1)],
        one=one,
        levels=range(1, LEVELS + 1),
    )


def write_spans_page(results: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Render results into a file, whole or not at all.

    Args:
        results: Of `find_spans`.
        path: The file to write.

    Returns:
        The path.
    """
    with new_file(path) as temporary:
        temporary.write_text(render_spans(results), "utf-8", errors="replace", newline="\n")
    return path


def _output(number: int, result: Mapping[str, Any]) -> dict[str, Any]:
    anchor = f"output-{number}"
    spans = result["spans"]
    return {
        "anchor": anchor,
        "id": result["query"]["id"],
        "question": reading.question(result),
        "answer": reading.answer(result),
        "counts": reading.counts(result),
        "covered": percent(result["covered"]),
        "shown": result["shown"],
        "longest": result["longest"],
        "strip": spans_html(result, f"{anchor}-span-"),
        "cards": [_card(span, f"{anchor}-span-{span['rank']}") for span in spans[:MOST_CARDS]],
        "left_out": max(0, len(spans) - MOST_CARDS),
    }


def _card(span: Mapping[str, Any], anchor: str) -> dict[str, Any]:
    return {
        "anchor": anchor,
        "rank": span["rank"],
        "level": reading.level_of(span["expected"]),
        "text": _short(span["text"]),
        "about": reading.about(span),
        "places": [{**place, "text": _short(place["text"])} for place in span["places"]],
        "more": span["documents"] - len(span["places"]),
    }


def _short(text: str) -> str:
    half = LONGEST_SPAN // 2
    if len(text) <= LONGEST_SPAN:
        return text
    return f"{text[:half]} … {count(len(text) - 2 * half)} characters … {text[-half:]}"


def spans_html(result: Mapping[str, Any], anchor: str = "") -> Markup:
    """Prompt and completion with their spans coloured; each names its rank, and links to its card.

    Args:
        result: Of `find_spans`.
        anchor: Beginning of the cards' anchors; "": no links.

    Returns:
        HTML whose text, hidden-character marks, ranks and folded parts aside, is the text.
    """
    spans = {span["rank"]: span for span in result["spans"]}
    parts = []
    for piece in reading.pieces(result):
        text = marked(piece.text)
        if piece.hidden:
            text = Markup('<span class="cut"> … {} characters … </span>').format(
                count(piece.hidden)
            )
        if piece.rank:
            text = _span(text, piece, spans[piece.rank], anchor)
        parts.append(text if piece.said else Markup('<span class="asked">{}</span>').format(text))
    return Markup("").join(parts)


def _span(text: Markup, piece: reading.Piece, span: Mapping[str, Any], anchor: str) -> Markup:
    title = visible(reading.about(span))
    number = Markup("<sup>{}</sup>").format(piece.rank) if piece.begins and anchor else ""
    if not anchor or piece.rank > MOST_CARDS:
        return Markup('<span class="stands u{}" title="{}">{}</span>').format(
            piece.level, title, text
        )
    return Markup('<a class="stands u{}" href="#{}{}" title="{}">{}{}</a>').format(
        piece.level, anchor, piece.rank, title, number, text
    )
