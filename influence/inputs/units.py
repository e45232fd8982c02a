"""The parts of a prompt: one tree, from tokens to the whole prompt, for all methods alike.

Units are anchored in characters and made of whole tokens. At every level they part what the user
wrote, and a unit of one level lies in one unit of the next. A token belongs to the unit in which it
ends: a border inside a token is moved to where the token begins. So every unit has a token.

An atom is a token, or the tokens of one character, which the text cannot tell apart.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import accumulate, pairwise

from influence.errors import InputError
from influence.inputs import boundaries
from influence.inputs.examples import Example, Span, find_examples
from influence.inputs.passage import Passage, Unit

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


def split_units(
    passage: Passage,
    level: str,
    examples: Sequence[Span] | None = None,
) -> tuple[Unit, ...]:
    """Divide a prompt into units of one level.

    Args:
        passage: A prompt with its completion.
        level: One of `LEVELS`.
        examples: First character of each in-context example and one past its last, in the
            passage's text; None: they are searched, see `find_examples`.

    Returns:
        Units in order. Together they cover what the user wrote, but not special tokens written
        there; each has at least one token. Where the text has no such part, as a prompt without
        headings, one unit covers it.

    Raises:
        InputError: If the level is unknown, or examples are not in the prompt.
    """
    if level not in LEVELS:
        nearest = get_close_matches(level.lower(), LEVELS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise InputError(f"inputs: unit {level!r}, expected one of {', '.join(LEVELS)}.{hint}")
    return unit_tree(passage, examples)[level]


def unit_tree(passage: Passage, examples: Sequence[Span] | None = None) -> Tree:
    """Divide a prompt into units of every level.

    Args:
        passage: A prompt with its completion.
        examples: As for `split_units`.

    Returns:
        The units of each of `LEVELS`, from the finest; each lies in one of the next level.

    Raises:
        InputError: If examples are not in the prompt.
    """
    return _tree(passage, find_examples(passage, examples))


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


def _tree(passage: Passage, examples: Sequence[Example]) -> Tree:
    # A cut is the number of the atom before which it is made. Each level has the cuts of the next.
    contents, atoms = passage.contents, _atoms(passage)
    ends = [end for _, end in atoms]
    opened = {bisect_right(ends, content.start): content for content in contents}
    begins = {number: content.start for number, content in opened.items()}  # of units, by cut
    stops = {number: content.end for number, content in zip([*opened][1:], contents, strict=False)}
    stops[len(atoms)] = contents[-1].end
    wanted = [_first_word(passage.text, example) for example in examples]
    layers = _layers(passage.text, contents, wanted)
    cuts = {"prompt": {0}, "token": set(range(len(atoms)))}
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
    cuts["example"] = {0, *names} - {len(atoms)}
    roles = {number: content.label for number, content in opened.items()}
    labels = {"example": names, "section": roles}
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


def _atoms(passage: Passage) -> list[Span]:
    # The tokens of what the user wrote, put together where the text cannot be cut between them.
    spans = [(int(start), int(end)) for start, end in passage.spans_L2[: passage.first]]
    atoms = []
    for content in passage.contents:
        inside = [span for span in spans if content.start < span[1] <= content.end]
        reached = list(accumulate((end for _, end in inside), max))
        ahead = list(accumulate((start for start, _ in reversed(inside)), min))[::-1]
        cuts = [i for i in range(1, len(inside)) if reached[i - 1] <= ahead[i]]
        edges = pairwise([0, *cuts, len(inside)])
        atoms += [(ahead[first], reached[last - 1]) for first, last in edges]
    return atoms


def _layers(text: str, contents: Sequence[Unit], wanted: list[int]) -> dict[str, list[Span]]:
    # Where each level begins and ends in the text, tokens aside; each divides the one before.
    spans = [(content.start, content.end) for content in contents]
    parted = [
        boundaries.cut(text[start:end], [place - start for place in wanted if start < place < end])
        for start, end in spans
    ]
    layers = {"example": _joined(spans, parted)}
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
