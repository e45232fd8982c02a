"""What spans results say in words, and a text cut at its spans; pages and terminals read this."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pipelines.report.heat import LEVELS
from pipelines.report.numbers import count, percent, plain
from pipelines.report.reading import quoted

LONGEST_PIECE = 600
"""Characters of one piece of a text that are shown; of a longer one its beginning and end."""
ENDS = 200
"""Characters that are shown of each end of a longer piece."""
RAREST = 12.0
"""Powers of ten below 1 of `expected` at which a span has the strongest colour."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of an output."""

    text: str
    rank: int
    """Of the rarest span that holds it; 0: none does."""
    level: int
    """Strength of its colour, 0 to `LEVELS`."""
    begins: bool
    """Whether it is the first piece of that span."""
    said: bool
    """Whether it is the completion's."""
    hidden: int = 0
    """Characters of it that are not shown; then `text` is empty."""


def pieces(result: Mapping[str, Any]) -> list[Piece]:
    """Cut prompt and completion at the shown spans; long pieces are folded in the middle.

    Args:
        result: Of `find_spans`.

    Returns:
        Pieces in order.
    """
    query, spans = result["query"], result["spans"]
    text, begin = query["text"], len(query["prompt"])
    owner_C = np.zeros(len(text), dtype=int)
    for span in reversed(spans):  # of two that overlap the rarer owns the characters
        owner_C[span["start"] : span["end"]] = span["rank"]
    changes = (np.flatnonzero(np.diff(owner_C)) + 1).tolist()
    edges = sorted({0, begin, len(text), *changes})
    found, seen = [], {0}
    for start, end in pairwise(edges):
        rank = int(owner_C[start])
        level = level_of(spans[rank - 1]["expected"]) if rank else 0
        about = {"rank": rank, "level": level, "said": start >= begin}
        found += _folded(text[start:end], begins=rank not in seen, **about)
        seen.add(rank)
    return found


def _folded(text: str, *, begins: bool, **about: Any) -> list[Piece]:
    if len(text) <= LONGEST_PIECE:
        return [Piece(text=text, begins=begins, **about)]
    return [
        Piece(text=text[:ENDS], begins=begins, **about),
        Piece(text="", begins=False, hidden=len(text) - 2 * ENDS, **about),
        Piece(text=text[-ENDS:], begins=False, **about),
    ]


def level_of(expected: float) -> int:
    """Strength of a span's colour: the less likely by chance, the stronger.

    Args:
        expected: How many times independent words would give it.

    Returns:
        1 to `LEVELS`.
    """
    powers = -math.log10(expected) if expected > 0 else RAREST
    return max(1, min(LEVELS, round(LEVELS * powers / RAREST)))


def question(result: Mapping[str, Any]) -> str:
    """What is asked, in one line."""
    return f"Does {quoted(result['query']['completion'])} stand in the corpus?"


def answer(result: Mapping[str, Any]) -> str:
    """What was found, in words."""
    corpus = result["corpus"]
    where = f"{count(corpus['documents'])} documents ({count(corpus['tokens'])} tokens)"
    if not result["shown"]:
        some = result["maximal"]
        rest = f"{count(some)} shorter or likely ones stand there." if some else "Not one does."
        return f"No span of it that says something stands word for word in the {where}. {rest}"
    first, share = result["spans"][0], percent(result["covered"])
    if result["shown"] == 1:
        span = f"one span that stands word for word in the {where}"
        return f"{share} of it lies in {span}: {quoted(first['text'])}, {times(first)}."
    spans = f"{count(result['shown'])} spans that stand word for word in the {where}"
    rarest = f"The one of the rarest words, {quoted(first['text'])}, stands {times(first)}."
    return f"{share} of it lies in {spans}. {rarest}"


def times(span: Mapping[str, Any]) -> str:
    """How often a span stands in the corpus, in words."""
    documents = span["documents"]
    often = "once" if span["occurrences"] == 1 else f"{count(span['occurrences'])} times"
    return f"{often} in {count(documents)} document{'s' if documents != 1 else ''}"


def about(span: Mapping[str, Any]) -> str:
    """A span's length, how often it stands, and how often chance would have it, in words."""
    words = f"{count(span['tokens'])} tokens"
    return f"{words}; {times(span)}; by chance {plain(span['expected'], 2)} times"


def counts(result: Mapping[str, Any]) -> str:
    """How many spans there are and how many are shown, and by which rule."""
    left = result["maximal"] - result["shown"]
    return (
        f"{count(result['maximal'])} maximal span{'s' if result['maximal'] != 1 else ''} in all, "
        f"{count(left)} of them not shown. {result['rule']}"
    )
