"""A text cut into the units of an explanation, and long texts folded around what matters.

Axes: C characters of the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipelines.report.inputs_reading import Inputs, Part, View

NOBODY = -1
"""Owner of a character in no unit."""

AROUND = 60
"""Characters shown on either side of a strong unit of a folded text."""

SMALLEST_FOLD = 80
"""A shorter gap is shown: the words that stand for it would be as long."""

PROMPT, SAID, EXPLAINED = 0, 1, 2
"""Zones of the text: the prompt, the completion, and the part of the completion explained."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of text in one unit (or in none) and in one zone."""

    start: int
    end: int
    part: Part | None
    zone: int
    folded: bool
    """Not shown; `worth` then is the sum of the scores of units of which nothing is shown."""
    worth: float = 0.0


def strip(found: Inputs, view: View, limit: int) -> list[Piece]:
    """Cut a text at its units.

    Args:
        found: The text and what of it is explained.
        view: The units and their scores; of two that overlap the shorter owns the characters.
        limit: Characters to show; of a longer text the completion and the strongest units.

    Returns:
        Pieces in order that join to the text; folded ones stand for what is not shown.
    """
    length = len(found.text)
    if not length:
        return []
    owner_C = np.full(length, NOBODY)
    longest_first = sorted(
        range(len(view.parts)), key=lambda i: _length(view.parts[i]), reverse=True
    )
    for number in longest_first:
        owner_C[view.parts[number].start : view.parts[number].end] = number
    zone_C = np.full(length, PROMPT)
    zone_C[_word(found.text, found.begin, length) :] = SAID
    first, last = found.span
    zone_C[_word(found.text, first, last) : last] = EXPLAINED
    return _pieces(view, owner_C, zone_C, _kept(found, view, limit))


def _word(text: str, first: int, last: int) -> int:
    """Return where the words of a stretch begin: a space before them belongs to nobody."""
    words = text[first:last].lstrip()
    return last - len(words) if words else first


def _length(part: Part) -> int:
    return part.end - part.start


def _kept(found: Inputs, view: View, limit: int) -> np.ndarray:
    """Return `[C]`, bool: which characters are shown."""
    length = len(found.text)
    if length <= limit:
        return np.ones(length, dtype=bool)
    kept_C, room = np.zeros(length, dtype=bool), limit
    for start, end in [(found.begin, length), *((p.start, p.end) for p in view.ranked)]:
        first, last = max(0, start - AROUND), min(end, start + limit // 4, length) + AROUND
        new = int((~kept_C[first:last]).sum())
        if new > room:
            break
        kept_C[first:last] = True
        room -= new
    edges = [0, *(np.flatnonzero(np.diff(kept_C)) + 1).tolist(), length]
    for first, last in pairwise(edges):
        kept_C[first:last] |= last - first < SMALLEST_FOLD
    return kept_C


def _pieces(view: View, owner_C: np.ndarray, zone_C: np.ndarray, kept_C: np.ndarray) -> list[Piece]:
    """Return shown pieces, and one folded piece for each gap."""
    shown_C = np.where(kept_C, owner_C, NOBODY)
    change_C = (np.diff(shown_C) != 0) | (np.diff(zone_C) != 0) | np.diff(kept_C)
    edges = [0, *(np.flatnonzero(change_C) + 1).tolist(), len(owner_C)]
    pieces, counted = [], {NOBODY, *shown_C.tolist()}
    for first, last in pairwise(edges):
        owner = int(shown_C[first])
        new = sorted(set(owner_C[first:last].tolist()) - counted)
        counted |= set(new)
        pieces.append(
            Piece(
                start=first,
                end=last,
                part=view.parts[owner] if owner != NOBODY else None,
                zone=int(zone_C[first]),
                folded=not kept_C[first],
                worth=sum(view.parts[number].score for number in new),
            )
        )
    return pieces
