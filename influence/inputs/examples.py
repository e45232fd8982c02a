"""Demonstrations in a prompt: where each stands, and which of its words are its label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from influence.errors import InputError
from influence.inputs.boundaries import BLANK_LINE, LABEL
from influence.inputs.passage import Passage

ARROW = re.compile(r"^(?P<input>[^\n]*?\S)[ \t]*(?:=>|->|→)(?P<label>[^\n]*)$", re.MULTILINE)
"""A demonstration of one line, such as `sea otter => loutre de mer`."""
INLINE_LABEL = re.compile(r"(?:^|(?<=\s))(?P<label>[A-Z][\w-]*)[ \t]?:(?=\s|$)", re.MULTILINE)
"""Within a line, such as `Review: good. Sentiment: positive`."""
EXAMPLE, QUERY = "example", "query"
Span = tuple[int, int]


class _Mark(NamedTuple):
    """A label in a text."""

    key: str  # in lower case, numbers as #
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Example:
    """A demonstration, or another part of a prompt that has demonstrations."""

    start: int
    """First character, in the passage's text."""
    end: int
    """One past the last."""
    name: str
    """`example 1` and so on, `instruction` before them, `query` after them, or `text`."""
    question: Span | None = None
    """First character of the input part and one past its last, without its label's name."""
    answer: Span | None = None
    """Of the label words; None: the query, or a part that is no demonstration."""


def find_examples(passage: Passage, spans: Sequence[Span] | None = None) -> tuple[Example, ...]:
    """Find the demonstrations of a prompt.

    In a chat, each pair of a user's and an assistant's turn. In a text, blocks in which the same
    labels come in the same order (`Q: ... A: ...`, `Review: ... Sentiment: ...`), or paragraphs
    with one such label each, or lines with an arrow (`cheese => fromage`). At least two blocks are
    needed; the last one is the query if nothing stands after its last label.

    Args:
        passage: A prompt with its completion.
        spans: First character of each demonstration and one past its last, in the passage's text;
            None: they are searched.

    Returns:
        Parts that cover what the user wrote, in order; empty: there are no demonstrations.

    Raises:
        InputError: If spans overlap, are empty, or are not in the prompt.
    """
    if spans is not None:
        return _given(passage, spans)
    found = _pairs(passage)
    for content in passage.contents:
        if not found:
            blocks = _blocks(passage.text[content.start : content.end])
            found = [_moved(block, content.start) for block in blocks]
    return _covered(passage, found) if found else ()


def _given(passage: Passage, spans: Sequence[Span]) -> tuple[Example, ...]:
    ordered = sorted((int(start), int(end)) for start, end in spans)
    ends = [0, *(end for _, end in ordered)]
    for (start, end), last in zip(ordered, ends, strict=False):
        if not last <= start < end <= passage.begin:
            raise InputError(
                f"inputs: example of characters {start} to {end}, expected disjoint parts of the "
                f"prompt, which has characters 0 to {passage.begin}."
            )
    found = []
    for start, end in ordered:
        words = passage.text[start:end]
        found.append(_moved(_example(words, (0, len(words)), _marks(LABEL, words)), start))
    return _covered(passage, found) if found else ()


def _pairs(passage: Passage) -> list[Example]:
    # A user's turn and the assistant's after it; the last turn is the query or belongs to it.
    return [
        Example(
            start=user.start,
            end=assistant.end,
            name=EXAMPLE,
            question=(user.start, user.end),
            answer=(assistant.start, assistant.end),
        )
        for user, assistant in pairwise(passage.contents[:-1])
        if (user.label, assistant.label) == ("user", "assistant")
    ]


def _blocks(text: str) -> list[Example]:
    # Blocks with the same labels in the same order, else lines with an arrow.
    for pattern in (LABEL, INLINE_LABEL):
        marks = _marks(pattern, text)
        counts = Counter(mark.key for mark in marks)
        marks = [mark for mark in marks if counts[mark.key] > 1]
        for at in range(len(marks)):
            if found := _cycles(text, marks[at:]):
                return _with_query(text, found)
        if found := _labelled_paragraphs(text, marks):
            return _with_query(text, found)
    return _arrows(text)


def _cycles(text: str, marks: list[_Mark]) -> list[Example]:
    # Blocks with the labels up to the second one like the first; the last block may lack some.
    keys = [mark.key for mark in marks]
    width = keys.index(keys[0], 1) if keys[0] in keys[1:] else 0
    if width < 2:
        return []
    starts = [0]
    while keys[starts[-1] : starts[-1] + width] == keys[:width]:
        starts.append(starts[-1] + width)
    rest = keys[starts[-1] :]
    if rest and rest == keys[: len(rest)]:
        starts.append(len(keys))
    if len(starts) < 3:
        return []
    groups = [marks[first:last] for first, last in pairwise(starts)]
    end = marks[starts[-1]].start if starts[-1] < len(marks) else len(text)
    blank = BLANK_LINE.search(text, groups[-1][-1].end, end)
    if blank and text[groups[-1][-1].end : blank.start()].strip() and len(groups[-1]) == width:
        end = blank.end()
    spans = pairwise([*(group[0].start for group in groups), end])
    found = [_example(text, span, group) for span, group in zip(spans, groups, strict=True)]
    if len(groups[-1]) < width:
        asked = _bare(text, groups[-1][0].end, end)
        found[-1] = replace(found[-1], question=asked, answer=None)
    return found


def _labelled_paragraphs(text: str, marks: list[_Mark]) -> list[Example]:
    # Paragraphs with the same single label after other words.
    found: list[Example] = []
    borders = [match.end() for match in BLANK_LINE.finditer(text)]
    for span in pairwise([0, *borders, len(text)]):
        inside = [mark for mark in marks if span[0] <= mark.start < span[1]]
        if len(inside) == 1 and text[span[0] : inside[0].start].strip():
            found.append(_example(text, span, inside))
    return found if len(found) > 1 else []


def _arrows(text: str) -> list[Example]:
    # The last lines of the text, of which the very last has nothing after its arrow.
    lines: list[re.Match[str]] = []
    for line in reversed(list(ARROW.finditer(text))):
        if text[line.end() : lines[0].start() if lines else len(text)].strip():
            break
        lines.insert(0, line)
    found = [
        _example(text, line.span(), [_Mark("", line.end("input"), line.start("label"))])
        for line in lines
    ]
    is_asked = len(found) > 1 and found[-1].answer is None
    return _with_query(text, found) if is_asked else []


def _with_query(text: str, found: list[Example]) -> list[Example]:
    # The last block is the query, unless text or a line break stands after its answer.
    last = found[-1]
    if text[last.end :].strip() or (last.answer and "\n" in text[last.answer[1] :]):
        return found
    return [*found[:-1], replace(last, name=QUERY, answer=None)]


def _marks(pattern: re.Pattern[str], text: str) -> list[_Mark]:
    return [
        _Mark(re.sub(r"\d+", "#", match["label"].casefold()), match.start(), match.end())
        for match in pattern.finditer(text)
    ]


def _example(text: str, span: Span, marks: list[_Mark]) -> Example:
    # The question stands after the first label, the answer after the last one.
    start, end = span
    if not marks:
        return Example(start=start, end=end, name=EXAMPLE, question=_bare(text, start, end))
    is_labelled = len(marks) > 1 and not text[start : marks[0].start].strip()
    answer = _bare(text, marks[-1].end, end)
    return Example(
        start=start,
        end=end,
        name=EXAMPLE,
        question=_bare(text, marks[0].end if is_labelled else start, marks[-1].start),
        answer=answer if answer[0] < answer[1] else None,
    )


def _moved(example: Example, offset: int) -> Example:
    def moved(span: Span | None) -> Span | None:
        return span and (span[0] + offset, span[1] + offset)

    return replace(
        example,
        start=example.start + offset,
        end=example.end + offset,
        question=moved(example.question),
        answer=moved(example.answer),
    )


def _bare(text: str, start: int, end: int) -> Span:
    # Without white space at its ends.
    words = text[start:end]
    left = start + len(words) - len(words.lstrip())
    return left, max(left, start + len(words.rstrip()))


def _covered(passage: Passage, found: Sequence[Example]) -> tuple[Example, ...]:
    # Number the demonstrations, and name what stands before, between and after them.
    begin, end = passage.contents[0].start, passage.contents[-1].end
    gaps = list(
        pairwise([begin, *(place for part in found for place in (part.start, part.end)), end])
    )[::2]
    names = ["instruction", *["text"] * (len(found) - 1), QUERY]
    parts: list[Example] = []
    for number, (name, (start, stop)) in enumerate(zip(names, gaps, strict=True)):
        if _has_words(passage, start, stop):
            parts.append(Example(start=start, end=stop, name=name))
        for example in found[number : number + 1]:
            name = f"{EXAMPLE} {number + 1}" if example.name == EXAMPLE else example.name
            parts.append(replace(example, name=name))
    return tuple(parts)


def _has_words(passage: Passage, start: int, end: int) -> bool:
    return any(
        passage.text[max(start, content.start) : min(end, content.end)].strip()
        for content in passage.contents
    )
