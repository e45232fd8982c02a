"""The parts of a prompt: one tree, from tokens to the whole prompt, for all methods alike.

Units are anchored in characters and made of whole tokens. At every level they part what the user
wrote, and a unit of one level lies in one unit of the next. A token belongs to the unit in which it
ends: a border inside a token is moved to where the token begins. So every unit has a token.

An atom is a token, or the tokens of one character, which the text cannot tell apart.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from influence.errors import InputError
from influence.inputs import boundaries
from influence.inputs.examples import Example, Span, find_examples
from influence.inputs.passage import Passage, Unit

if TYPE_CHECKING:
    from influence.models import LanguageModel

LEVELS = ("token", "word", "phrase", "sentence", "paragraph", "section", "example", "prompt")
"""From the finest to the coarsest."""
SPLITTERS = {
    "section": boundaries.sections,
    "paragraph": boundaries.paragraphs,
    "sentence": boundaries.sentences,
    "phrase": boundaries.phrases,
    "word": boundaries.words,
}
Tree = dict[str, tuple[Unit, ...]]
"""The units of each of `LEVELS`."""


@dataclass(frozen=True)
class _Stretch:
    """Text that a user wrote, with no special token in it."""

    start: int
    end: int
    role: str | None
    atoms: tuple[Span, ...]


def split_units(
    loaded: LanguageModel,
    passage: Passage,
    level: str,
    examples: Sequence[Span] | None = None,
) -> tuple[Unit, ...]:
    """Divide a prompt into units of one level.

    Args:
        loaded: The model.
        passage: A prompt with its completion.
        level: One of `LEVELS`.
        examples: First character of each in-context example and one past its last, in the
            passage's text; None: they are searched, see `find_examples`.

    Returns:
        Units in order. Together they cover what the user wrote, but not special tokens written
        there; each has at least one token. Where the text has no such part, as a prompt without
        headings, one unit covers it.

    Raises:
        InputError: If the level is unknown, or the prompt has nothing but special tokens.
    """
    if level not in LEVELS:
        nearest = get_close_matches(level.lower(), LEVELS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise InputError(f"inputs: unit {level!r}, expected one of {', '.join(LEVELS)}.{hint}")
    return unit_tree(loaded, passage, examples)[level]


def unit_tree(
    loaded: LanguageModel, passage: Passage, examples: Sequence[Span] | None = None
) -> Tree:
    """Divide a prompt into units of every level.

    Args:
        loaded: The model.
        passage: A prompt with its completion.
        examples: As for `split_units`.

    Returns:
        The units of each of `LEVELS`, from the finest; each lies in one of the next level.

    Raises:
        InputError: If the prompt has nothing but special tokens.
    """
    stretches = _stretches(passage)
    if not stretches:
        raise InputError(
            "inputs: a prompt of only special tokens and white space, expected text. An output "
            "cannot be attributed to nothing."
        )
    return _tree(passage.text, stretches, find_examples(passage, examples))


def children(tree: Tree, unit: Unit) -> tuple[Unit, ...]:
    """The units of the next finer level of which a unit is made.

    Args:
        tree: From `unit_tree`.
        unit: Of the tree.

    Returns:
        Units in order; none for a token.
    """
    finer = LEVELS.index(unit.level) - 1
    inside = tree[LEVELS[finer]] if finer >= 0 else ()
    return tuple(part for part in inside if unit.start <= part.start and part.end <= unit.end)


def parent(tree: Tree, unit: Unit) -> Unit | None:
    """The unit of the next coarser level in which a unit lies.

    Args:
        tree: From `unit_tree`.
        unit: Of the tree.

    Returns:
        The unit; None for the whole prompt.
    """
    coarser = LEVELS.index(unit.level) + 1
    around = tree[LEVELS[coarser]] if coarser < len(LEVELS) else ()
    return next((whole for whole in around if whole.start <= unit.start < whole.end), None)


def _tree(text: str, stretches: list[_Stretch], examples: Sequence[Example]) -> Tree:
    # A cut is the number of the atom before which it is made. Each level has the cuts of the next.
    atoms = [atom for stretch in stretches for atom in stretch.atoms]
    ends = [end for _, end in atoms]
    opened = {bisect_right(ends, stretch.start): stretch for stretch in stretches}
    begins = {number: stretch.start for number, stretch in opened.items()}  # of units, by cut
    wanted = [_first_word(text, example) for example in examples]
    layers = _layers(text, stretches, wanted)
    cuts: dict[str, set[int]] = {}
    for level, spans in layers.items():
        cuts[level] = set(opened)
        for start, _ in spans:
            number = bisect_right(ends, start)
            if number < len(atoms) and number not in opened:
                is_between = start <= atoms[number][0]
                begins.setdefault(number, start if is_between else ends[number - 1])
                cuts[level].add(number)
    names: dict[int, str | None] = {}
    for example, place in zip(examples, wanted, strict=True):
        around = next((start for start, end in layers["example"] if start <= place < end), place)
        names[bisect_right(ends, around)] = example.name
    roles = {number: stretch.role for number, stretch in opened.items()}
    cuts |= {"example": {0, *names} - {len(atoms)}, "prompt": {0}, "token": set(range(len(atoms)))}
    labels: dict[str, dict[int, str | None]] = {"example": names, "section": roles}
    stops = {number: before.end for number, before in zip([*opened][1:], stretches, strict=False)}
    stops[len(atoms)] = stretches[-1].end
    return {
        level: tuple(
            Unit(
                level=level,
                start=begins.get(first, ends[first - 1]),
                end=stops.get(last, begins.get(last, ends[last - 1])),
                label=labels.get(level, {}).get(first),
            )
            for first, last in pairwise([*sorted(cuts[level]), len(atoms)])
        )
        for level in LEVELS
    }


def _layers(text: str, stretches: list[_Stretch], wanted: list[int]) -> dict[str, list[Span]]:
    # Where each level begins and ends in the text, tokens aside; each divides the one before.
    spans = [(stretch.start, stretch.end) for stretch in stretches]
    cut = [
        boundaries.cut(text[start:end], [w - start for w in wanted if start < w < end])
        for start, end in spans
    ]
    layers = {"example": _joined(spans, cut)}
    for level, splitter in SPLITTERS.items():
        spans = [*layers.values()][-1]
        layers[level] = _joined(spans, [splitter(text[start:end]) for start, end in spans])
    return layers


def _joined(spans: list[Span], pieces: list[list[str]]) -> list[Span]:
    return [
        span
        for (start, _), parts in zip(spans, pieces, strict=True)
        for span in pairwise(accumulate(map(len, parts), initial=start))
    ]


def _first_word(text: str, example: Example) -> int:
    words = text[example.start : example.end]
    return example.start + len(words) - len(words.lstrip())


def _stretches(passage: Passage) -> list[_Stretch]:
    # What the user wrote, parted at special tokens; white space between those is left out.
    spans = [(int(start), int(end)) for start, end in passage.spans_L2[: passage.first]]
    found = []
    for content in passage.contents:
        inside = [i for i, (_, end) in enumerate(spans) if content.start < end <= content.end]
        edges = [place for i in inside if passage.fixed_L[i] for place in spans[i]]
        edges = [content.start, *edges, content.end]
        free = [spans[i] for i in inside if not passage.fixed_L[i]]
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            atoms = _atoms([span for span in free if start < span[1] <= end])
            if atoms and passage.text[start:end].strip():
                found.append(_Stretch(start, end, content.label, atoms))
    return found


def _atoms(spans: list[Span]) -> tuple[Span, ...]:
    # Tokens between which the text can be cut.
    reached = list(accumulate((end for _, end in spans), max))
    ahead = list(accumulate((start for start, _ in reversed(spans)), min))[::-1]
    cuts = [i for i in range(1, len(spans)) if reached[i - 1] <= ahead[i]]
    return tuple(
        (ahead[first], reached[last - 1])
        for first, last in pairwise([0, *cuts, len(spans)])
        if first < last
    )
