"""Input attribution in the terminal: a strip of the text, the strongest units, the cautions.

Strength is a background, and bold for the stronger half; negative units are underlined as well.
Without colour, coloured units stand in braces with their sign, as {+France} and {-Lyon}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.report import inputs_reading as reading
from pipelines.report.characters import visible
from pipelines.report.heat import LEVELS, level
from pipelines.report.inputs_reading import Inputs, View
from pipelines.report.numbers import count, signed
from pipelines.report.strip import EXPLAINED, Piece, strip

LONGEST_STRIP = 2_000
"""Characters of the text that are shown."""

MOST_UNITS = 10
"""Rows of the table of units."""

MOST_TOP = 3
"""Units named for each of several methods."""

SHADES = {
    "+": ("#d3e6f6", "#a9cdec", "#7fb4e1", "#4f97d2", "#1f77bd", "#005a96"),
    "-": ("#fbe2d3", "#f6c5a8", "#efa77c", "#e58750", "#cf6220", "#a83f00"),
    "~": ("#d2efe8", "#a8ddd1", "#7dcab9", "#50b39f", "#209783", "#00695a"),
}
"""Backgrounds from weak to strong: supports, works against, no sign."""

DARK_FROM = 5
"""From this strength on the writing is white."""


def print_inputs(result: Mapping[str, Any], console: Console) -> None:
    """Print a result: question, result, strip, units, other methods, measures, cautions.

    Args:
        result: The content of inputs.json. Texts are printed as they are, never as markup, with
            control characters named.
        console: Where to print.
    """
    found = reading.read(result)
    console.print(Text(visible(reading.question(found)), style="bold"))
    console.print(Text(visible(reading.result(found))))
    if not found.views:
        return
    view = found.views[0]
    plain = console.no_color or console.color_system is None
    console.print()
    console.print(strip_text(found, view, plain=plain))
    console.print(_key(view, plain=plain))
    console.print(_units(view))
    if len(found.views) > 1:
        console.print(_methods(found))
    line = reading.measure_line(view)
    if line:
        console.print(Text(visible(f"{view.title}: {line}")))
    if reading.removal(view):
        console.print(Text(visible(reading.removal(view)), style="dim"))
    for caution in reading.cautions(found, view):
        console.print(Text(visible(f"Note: {caution}"), style="yellow"))


def strip_text(found: Inputs, view: View, *, plain: bool, limit: int = LONGEST_STRIP) -> Text:
    """Return the text with its units marked by strength and sign.

    Args:
        found: The text.
        view: Units and scores.
        plain: Mark units by braces and a sign, not by colour.
        limit: Characters to show; the rest is counted.

    Returns:
        One text; the explained part stands between » and «.
    """
    line, inside = Text(), False
    for piece in strip(found, view, limit):
        if inside != (piece.zone == EXPLAINED):
            line.append("»" if not inside else "«", style="bold")
            inside = not inside
        _append(line, found, view, piece, plain=plain)
    return line.append("«", style="bold") if inside else line


def _append(line: Text, found: Inputs, view: View, piece: Piece, *, plain: bool) -> None:
    text = found.text[piece.start : piece.end]
    if piece.folded:
        worth = f", {signed(piece.worth, 2)} {view.unit}" if piece.worth else ""
        line.append(f" [… {count(len(text))} characters{worth} …] ", style="dim italic")
        return
    strength = level(piece.part.score, view.strongest) if piece.part else 0
    if piece.part is None or not strength:
        line.append(visible(text))
        return
    sign = _sign(view, piece.part.score)
    word = text.strip(" \n\t") or text
    at = text.index(word)
    line.append(visible(text[:at]))
    line.append(f"{{{sign}{visible(word)}}}" if plain else visible(word), _style(sign, strength))
    line.append(visible(text[at + len(word) :]))


def _sign(view: View, score: float) -> str:
    return "~" if not view.signed else "+" if score > 0 else "-"


def _style(sign: str, strength: int) -> str:
    ink = "white" if strength >= DARK_FROM else "black"
    bold = "bold " if strength * 2 > LEVELS else ""
    under = "underline " if sign == "-" else ""
    return f"{bold}{under}{ink} on {SHADES[sign][strength - 1]}"


def _key(view: View, *, plain: bool) -> Text:
    key = Text(f"Unit: {visible(view.unit)}. ", style="dim")
    named = (
        {"+": "supports the output", "-": "works against it"}
        if view.signed
        else {"~": "matters, sign unknown"}
    )
    for sign, words in named.items():
        key.append(f"{{{sign}}} {words}" if plain else words, "" if plain else _style(sign, 4))
        key.append("  ")
    return key.append("»explained«", style="dim")


def _units(view: View) -> Table:
    title = f"Strongest of {count(len(view.parts))} by {view.title}"
    table = Table(title=Text(visible(title)), title_justify="left")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column(Text(visible(view.unit)), justify="right", no_wrap=True)
    bounded = any(reading.interval(view, part) for part in view.ranked[:MOST_UNITS])
    if bounded:
        table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("says")
    table.add_column(Text(view.level))
    roles = {"+": "supports", "-": "against", "~": "no sign"}
    colours = {"+": "blue", "-": "dark_orange3", "~": "cyan"}
    for place, part in enumerate(view.ranked[:MOST_UNITS], start=1):
        sign = _sign(view, part.score) if part.score else ""
        cells = [
            Text(str(place)),
            Text(reading.number(view, part.score), style=colours.get(sign, "")),
            Text(roles.get(sign, "nothing") + (", unsure" if part.unsure else "")),
            Text(visible(reading.short(part, 160))),
        ]
        if bounded:
            cells.insert(2, Text(reading.interval(view, part)))
        table.add_row(*cells)
    return table


def _methods(found: Inputs) -> Table:
    table = Table(title="Strongest units by method", title_justify="left")
    table.add_column("method")
    table.add_column("unit")
    for place in range(1, MOST_TOP + 1):
        table.add_column(f"{place}.")
    table.add_column("note")
    for view in found.views:
        notes = [] if view.trusted else ["not reliable"]
        notes += [] if view.signed else ["no sign"]
        tops = [
            Text(visible(f"{reading.short(part, 40)}\n{reading.number(view, part.score)}"))
            for part in view.ranked[:MOST_TOP]
        ]
        tops += [Text("")] * (MOST_TOP - len(tops))
        table.add_row(
            Text(visible(view.title)), Text(visible(view.unit)), *tops, Text(", ".join(notes))
        )
    return table
