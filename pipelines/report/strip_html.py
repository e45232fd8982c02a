"""The strip of a text as HTML: a background for each unit, by the size and sign of its score.

Blue supports the output, vermillion with a dotted line works against it, teal has no sign. Units
carry their score and interval as a title.
"""

from itertools import groupby

from markupsafe import Markup

from pipelines.report.characters import marked, visible
from pipelines.report.heat import level
from pipelines.report.inputs_reading import Inputs, Part, View, interval, number
from pipelines.report.numbers import count, signed
from pipelines.report.strip import PROMPT, SAID, Piece, strip


def strip_html(found: Inputs, view: View, limit: int) -> Markup:
    """Colour a text by the scores of one method.

    Args:
        found: The text; its completion is in ``<span class="said">``, the part of it that is
            explained in ``<mark>``.
        view: Units and scores.
        limit: Characters to show; folded parts say how many characters they hold.

    Returns:
        HTML whose text, hidden-character marks and folded parts aside, is the text.
    """
    parts = []
    for zone, pieces in groupby(strip(found, view, limit), key=lambda piece: piece.zone):
        inner = Markup("").join(_piece(found, view, piece) for piece in pieces)
        if zone != PROMPT:
            wrap = '<span class="said">{}</span>' if zone == SAID else "<mark>{}</mark>"
            inner = Markup(wrap).format(inner)
        parts.append(inner)
    return Markup("").join(parts)


def describe(view: View, part: Part) -> str:
    """Return a unit's score, unit and interval in words."""
    limits = interval(view, part)
    score = number(view, part.score)
    label = f"{part.label}: " if part.label else ""
    spread = f", 95 % interval {limits}" if limits else ""
    return f"{label}{score} {view.unit}{spread}"


def _piece(found: Inputs, view: View, piece: Piece) -> Markup:
    text = found.text[piece.start : piece.end]
    if piece.folded:
        worth = f", {signed(piece.worth, 2)} {view.unit}" if piece.worth else ""
        return Markup('<span class="cut"> … {} characters{} … </span>').format(
            count(len(text)), worth
        )
    part = piece.part
    if part is None:
        quiet = piece.zone == PROMPT and any(char.isalnum() for char in text)
        return (
            Markup('<span class="special">{}</span>').format(marked(text))
            if quiet
            else marked(text)
        )
    word = text.lstrip(" \n\t") or text
    strength = level(part.score, view.strongest)
    kind = "u" if not view.signed else "p" if part.score > 0 else "n"
    return marked(text[: len(text) - len(word)]) + Markup(
        '<span class="unit{}" title="{}">{}</span>'
    ).format(f" {kind}{strength}" if strength else "", visible(describe(view, part)), marked(word))
