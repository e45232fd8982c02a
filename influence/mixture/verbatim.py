r"""Which spans of an output stand word for word in a corpus: all maximal ones, the rarest first.

A token here is a word, a number, one character of a script without spaces, or one mark; white space
is none. A span of an output stands in a document where the same tokens follow each other in it. So
no tokenizer of a model can hide a match at the edge of a span (" Paris" and "Paris"), "Paris" is not
found in "Parisian", and a line break in place of a space does not matter. Upper and lower case do.

A span is maximal if it stands in the corpus and no longer span of the output that holds it does. At
most one begins at each token.

How many times words drawn independently would give a span w in a corpus of N tokens, of which
:math:`n_w` are w:

.. math:: E(w_1 \dots w_k) = N \prod_i \frac{n_{w_i}}{N}

A span is telling if E is below 0.01, so that chance would give it in less than one of a hundred such
corpora, and two of its tokens at least are words: single words never are (theirs is the number of
times that they stand there), nor is "of the". OLMoTrace keeps the 5 % of
spans with the smallest product instead, however likely these are.
Source: Liu et al. (2025), OLMoTrace, arXiv:2504.07096, section 3; its spans end at tokens of a model.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from influence.documents.methods.bm25 import word_pattern

FEWEST_WORDS = 2
"""Words, not marks, of a telling span."""
CHANCE = 0.01
"""A span that independent words would give more often in a corpus of this size is not telling."""
RULE = (
    "A span is shown if words drawn independently, each as often as in the corpus, would give it in "
    "less than one of a hundred corpora of this size, and two of its tokens are words."
)
QUICK = r"[A-Za-z0-9]++(?![^\x00-\x7f])|[!-/:-@\[-`{-~]"
"""Words and marks of ASCII alone, which need no look at the tables of other scripts."""


@cache
def _pattern() -> re.Pattern[str]:
    return re.compile(rf"{QUICK}|{word_pattern().pattern}|\S")


def token_spans(text: str) -> list[tuple[int, int]]:
    """Where the tokens of a text stand.

    Args:
        text: Any text.

    Returns:
        First character of each, and one past the last.
    """
    return [match.span() for match in _pattern().finditer(text)]


def tokens_of(text: str) -> list[str]:
    """The tokens of a text.

    Args:
        text: Any text.

    Returns:
        Words as they are written, numbers, marks.
    """
    return _pattern().findall(text)


def is_word(token: str) -> bool:
    """Whether a token is a word or a number rather than a mark.

    Args:
        token: Of `tokens_of`.

    Returns:
        True where it holds a letter or a digit.
    """
    return any(char.isalnum() for char in token)


class Corpus(Protocol):
    """What is known of the tokens of some documents."""

    @property
    def size(self) -> int:
        """Tokens of all documents."""

    def reach(self, tokens: Sequence[str]) -> Callable[[int], int]:
        """From a token's number: the most tokens from it on that stand in one document in a row."""

    def count(self, tokens: Sequence[str]) -> int:
        """How many times these tokens follow each other in a document; overlapping ones count."""


@dataclass(frozen=True)
class Span:
    """A span of an output that stands in a corpus."""

    first: int
    """Its first token."""
    last: int
    """One past its last token."""
    count: int
    """How many times it stands in the corpus."""
    expected: float
    """How many times independent words would give it; see the module."""
    telling: bool
    """Chance would hardly give it, and it has two words at least."""


def maximal_spans(
    count: int, longest: Callable[[int], int], first: int = 0
) -> list[tuple[int, int]]:
    """The spans that stand in a corpus, without those that a longer one holds.

    Args:
        count: Tokens of the output.
        longest: The most tokens from one on that stand in the corpus in a row.
        first: Spans that end before this token are left out.

    Returns:
        First token of each, and one past the last, in order.
    """
    spans: list[tuple[int, int]] = []
    end = first
    for start in range(count):
        if end == count:
            break  # every later span lies in the one that reached the end
        reached = start + longest(start)
        if reached > max(end, start):
            spans.append((start, reached))
            end = reached
    return spans


def spans_of(tokens: Sequence[str], corpus: Corpus, first: int = 0) -> list[Span]:
    """All maximal spans of an output, the rarest first.

    Args:
        tokens: Of the output, and of what stood before it.
        corpus: What they are looked for in.
        first: First token of the output itself; spans that end before it are left out.

    Returns:
        Spans by rising `expected`, then as they stand.
    """
    found = [
        _span(tokens, corpus, *place)
        for place in maximal_spans(len(tokens), corpus.reach(tokens), first)
    ]
    return sorted(found, key=lambda span: (span.expected, span.first))


def _span(tokens: Sequence[str], corpus: Corpus, first: int, last: int) -> Span:
    own = tokens[first:last]
    expected = by_chance([corpus.count([token]) for token in own], corpus.size)
    words = sum(is_word(token) for token in own)
    telling = expected < CHANCE and words >= FEWEST_WORDS
    return Span(first, last, corpus.count(own), expected, telling)


def by_chance(counts: Sequence[int], size: int) -> float:
    """How many times independent words would give a span.

    Args:
        counts: Of each of its words in the corpus.
        size: Tokens of the corpus.

    Returns:
        A number of occurrences; 0.0 where it is too small for a float.
    """
    return size * math.exp(sum(math.log(count / size) for count in counts))


def covered(spans: Sequence[Span], first: int, last: int) -> float:
    """The share of an output's tokens that lie in some spans.

    Args:
        spans: Of the output.
        first: Its first token.
        last: One past its last token; it has at least one.

    Returns:
        0 to 1.
    """
    inside = {i for span in spans for i in range(max(first, span.first), min(last, span.last))}
    return len(inside) / (last - first)


class Texts:
    """Documents that fit into memory, as `Corpus`: by looking through all of them.

    Args:
        documents: The tokens of each.
    """

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        # a token holds no white space, so a line is a token, and no match crosses an empty line
        self._lines = "\n".join(_lines(tokens) for tokens in documents if tokens)
        self.size = sum(len(tokens) for tokens in documents)

    def reach(self, tokens: Sequence[str]) -> Callable[[int], int]:
        """From a token's number: the most tokens from it on that stand in one document in a row."""

        def stand(start: int, size: int) -> bool:
            return (
                start + size <= len(tokens) and _lines(tokens[start : start + size]) in self._lines
            )

        def longest(start: int) -> int:
            size = 0
            while stand(start, 2 * size + 1):
                size = 2 * size + 1
            return size + bisect_left(
                range(1, size + 2), True, key=lambda k: not stand(start, size + k)
            )

        return longest

    def count(self, tokens: Sequence[str]) -> int:
        """How many times these tokens follow each other in a document."""
        wanted, found, place = _lines(tokens), 0, -1
        while (place := self._lines.find(wanted, place + 1)) >= 0:
            found += 1
        return found


def _lines(tokens: Sequence[str]) -> str:
    return "\n" + "\n".join(tokens) + "\n"


def shared_spans(tokens: Sequence[str], other: Sequence[str]) -> list[tuple[int, int]]:
    """The maximal spans of one text that stand in another one.

    Args:
        tokens: Of the text.
        other: Of the other one.

    Returns:
        First token of each, and one past the last, in order.
    """
    return maximal_spans(len(tokens), Texts([other]).reach(tokens))
