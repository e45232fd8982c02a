"""Token heat: a document's text with a background for each token that matters.

Colour strength follows |token score| within the document, blue for positive and vermillion for
negative; negative tokens are underlined with dots as well, so that the sign is not in colour alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipelines.report.characters import marked
from pipelines.report.numbers import nats, or_zero

LEVELS = 6
"""Number of background strengths; a token below half a level stays plain."""

LONGEST_SHOWN = 20_000
"""Characters of one document shown on a page; the rest is counted, never dropped silently."""


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A document's text as HTML, and what was left out of it."""

    html: Markup
    """Escaped text; spans of class ``p1``..``p6`` (positive) or ``n1``..``n6`` (negative)."""
    characters_cut: int
    """Characters after the shown part."""
    score_cut: float
    """Sum of the token scores after the shown part, nats per document removed."""
    coloured: bool
    """Whether any token carries a colour."""


def level(score: float, strongest: float) -> int:
    """Return background strength 0..LEVELS of a token, relative to the document's strongest."""
    return round(LEVELS * abs(score) / strongest) if strongest > 0 else 0


def strongest_token(tokens: Iterable[dict[str, Any]]) -> float:
    """Return the largest |score| among tokens, nats per document removed; 0.0 without tokens."""
    return max((abs(or_zero(token.get("score"))) for token in tokens), default=0.0)


def heat_map(tokens: list[dict[str, Any]], limit: int = LONGEST_SHOWN) -> Heat:
    """Colour tokens by score.

    Args:
        tokens: ``{"text", "score"}`` in order; score in nats per document removed, positive: the
            token makes the document a proponent. ``special`` ones (begin, end) are faint.
        limit: Characters to show; a token that crosses it is cut.

    Returns:
        HTML whose text, hidden-character marks aside, is the tokens' text in order.
    """
    strongest = strongest_token(tokens)
    parts: list[Markup] = []
    quiet, left, cut, score_cut, coloured = "", limit, 0, 0.0, False
    for token in tokens:
        text, score = str(token.get("text") or ""), or_zero(token.get("score"))
        shown = text[:left]
        cut, left = cut + len(text) - len(shown), left - len(shown)
        score_cut += 0.0 if shown else score
        strength = level(score, strongest)
        if shown and token.get("special") and not strength:
            parts += [
                marked(quiet),
                Markup('<span class="special">{}</span>').format(marked(shown)),
            ]
            quiet = ""
            continue
        if not strength or not shown:
            quiet += shown
            continue
        coloured = True
        word = shown.lstrip(" \n\t") or shown
        quiet += shown[: len(shown) - len(word)]
        parts += [marked(quiet), _span(word, score, strength)]
        quiet = ""
    html = Markup("").join([*parts, marked(quiet)])
    return Heat(html=html, characters_cut=cut, score_cut=score_cut, coloured=coloured)


def plain_text(text: str, limit: int = LONGEST_SHOWN) -> Heat:
    """Return a document without token scores, in the same form."""
    return heat_map([{"text": text, "score": 0.0}], limit)


def _span(text: str, score: float, strength: int) -> Markup:
    kind = "p" if score > 0 else "n"
    return Markup('<span class="{}{}" title="{}">{}</span>').format(
        kind, strength, nats(score), marked(text)
    )
