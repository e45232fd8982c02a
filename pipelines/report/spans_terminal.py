"""Spans that stand word for word in the corpus, in the terminal: a strip, and a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.report import spans_reading as reading
from pipelines.report.characters import shortened, visible
from pipelines.report.inputs_terminal import DARK_FROM, SHADES
from pipelines.report.numbers import count, plain

MOST_ROWS = 12
"""Spans in the table; the rest is counted."""
LONGEST_STRIP = 2_000
"""Characters of the text that are shown."""
AROUND = 24
"""Characters of a document on either side of a span."""


def print_spans(result: Mapping[str, Any], console: Console) -> None:
    """Print what was found of one output: in words, as a strip, and the rarest spans.

    Args:
        result: Of `find_spans`. Texts are printed as they are, never as markup, with control
            characters named.
        console: Where to print.
    """
    console.print(Text(visible(reading.question(result)), style="bold"))
    console.print(Text(visible(reading.answer(result))))
    console.print()
    console.print(strip_text(result, plain=console.no_color or console.color_system is None))
    if result["spans"]:
        console.print(_table(result["spans"]))
    console.print(Text(reading.counts(result), style="dim"))


def strip_text(result: Mapping[str, Any], *, plain: bool, limit: int = LONGEST_STRIP) -> Text:
    """Return prompt and completion with the spans marked.

    Args:
        result: Of `find_spans`.
        plain: Mark spans by braces and their rank, not by colour.
        limit: Characters to show; the rest is counted.

    Returns:
        One text.
    """
    line, left, rank = Text(), limit, 0
    for piece in reading.pieces(result):
        if plain and piece.rank != rank:
            line.append("}" * (rank > 0) + f"{{{piece.rank}:" * (piece.rank > 0))
            rank = piece.rank
        shown = piece.text[: max(0, left)]
        hidden = piece.hidden + len(piece.text) - len(shown)
        left -= len(shown)
        style = "" if piece.said else "dim"
        if piece.rank and not plain:
            style += f" on {SHADES['~'][piece.level - 1]}"
            style += " white" if piece.level >= DARK_FROM else " black"
        line.append(visible(shown), style=style.strip())
        if hidden:
            line.append(f" [… {count(hidden)} characters …] ", style="dim italic")
    return line.append("}" * (rank > 0))


def _table(spans: list[dict[str, Any]]) -> Table:
    table = Table(title="Rarest words first", title_justify="left", expand=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("tokens", justify="right")
    table.add_column("times", justify="right")
    table.add_column("documents", justify="right")
    table.add_column("by chance", justify="right", no_wrap=True)
    table.add_column("source", max_width=16)
    table.add_column("span, in its first document", ratio=1)
    for span in spans[:MOST_ROWS]:
        place = span["places"][0]
        table.add_row(
            Text(str(span["rank"])),
            Text(count(span["tokens"])),
            Text(count(span["occurrences"])),
            Text(count(span["documents"])),
            Text(plain(span["expected"], 2)),
            Text(visible(place["source"])),
            _context(place),
        )
    if len(spans) > MOST_ROWS:
        table.caption = f"and {count(len(spans) - MOST_ROWS)} more: see the page"
    return table


def _context(place: Mapping[str, Any]) -> Text:
    left, right = place["left"][-AROUND:], place["right"][:AROUND]
    before = "…" if place["cut_left"] or len(place["left"]) > AROUND else ""
    after = "…" if place["cut_right"] or len(place["right"]) > AROUND else ""
    words = visible(shortened(place["text"], 160))
    return Text.assemble(
        (visible(before + _one_line(left)), "dim"),
        (words, "bold"),
        (visible(_one_line(right) + after), "dim"),
    )


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)
