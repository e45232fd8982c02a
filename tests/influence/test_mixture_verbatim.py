"""Spans that stand in a corpus: against a search for every span, and what a token is."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influence.documents.methods.bm25 import word_pattern
from influence.mixture.verbatim import (
    Texts,
    by_chance,
    covered,
    maximal_spans,
    shared_spans,
    spans_of,
    token_spans,
    tokens_of,
)

WORDS = st.lists(st.sampled_from("ab"), max_size=12)
DOCUMENTS = st.lists(WORDS, min_size=1, max_size=5)


def stands(span, documents):
    """How many times a span stands in the documents, by comparing it with every stretch of them."""
    size = len(span)
    return sum(
        document[i : i + size] == span for document in documents for i in range(len(document))
    )


def brute_force(tokens, documents, first=0):
    """All spans that stand in a document and that no longer one holds, with their counts."""
    count = len(tokens)
    every = [(i, j) for i in range(count) for j in range(i + 1, count + 1)]
    found = {span: stands(tokens[slice(*span)], documents) for span in every}
    held = {span: n for span, n in found.items() if n}
    return {
        (i, j): n
        for (i, j), n in held.items()
        if j > first and not any(a <= i and j <= b and (a, b) != (i, j) for a, b in held)
    }


@settings(deadline=None)
@given(WORDS, DOCUMENTS, st.integers(0, 12))
def test_maximal_spans_are_those_of_a_search_for_every_span(tokens, documents, first):
    found = spans_of(tokens, Texts(documents), min(first, len(tokens)))
    expected = brute_force(tokens, documents, min(first, len(tokens)))
    assert {(span.first, span.last): span.count for span in found} == expected


@settings(deadline=None)
@given(st.text(), st.text())
def test_tokens_are_words_characters_and_marks_and_hold_all_but_white_space(one, other):
    text = f"{one} naïve Ｗide 東京 e\u0301t\u00e9 {other}"
    slow = re.compile(rf"{word_pattern().pattern}|\S")
    assert tokens_of(text) == slow.findall(text)
    assert [text[a:b] for a, b in token_spans(text)] == tokens_of(text)
    assert "".join(tokens_of(text)) == re.sub(r"\s", "", text)


def test_a_token_ends_where_a_word_does():
    assert tokens_of("Paris's café, 12.5 km_x\t東京へ!") == [
        *("Paris", "'", "s", "café", ",", "12", ".", "5", "km", "_", "x", "東", "京", "へ", "!"),
    ]


@pytest.mark.parametrize("output", ["Paris", " Paris", "\n\tParis ", "in  Paris"])
def test_white_space_at_the_edge_of_a_span_hides_no_match(output):
    [span] = spans_of(tokens_of(output), Texts([tokens_of("He lives in Paris.")]))
    assert (span.last - span.first, span.count) == (len(tokens_of(output)), 1)


def test_a_word_is_not_found_inside_another_word_or_in_other_case():
    corpus = Texts([tokens_of("A Parisian in PARIS")])
    assert spans_of(["Paris"], corpus) == []


def test_no_span_crosses_from_one_document_into_another():
    apart = Texts([["one", "two"], ["three"], [], ["four"]])
    tokens = ["one", "two", "three", "four"]
    assert [(s.first, s.last) for s in sorted(spans_of(tokens, apart), key=lambda s: s.first)] == [
        (0, 2),
        (2, 3),
        (3, 4),
    ]


def test_overlapping_occurrences_count():
    assert Texts([["a"] * 5]).count(["a", "a"]) == 4


def test_the_rarest_come_first_and_single_words_or_marks_tell_nothing():
    documents = [["the", "cat", "sat", "."] * 5, ["an", "old", "quokka", ".", "."], ["the"] * 400]
    corpus = Texts(documents)
    found = spans_of(["an", "old", "quokka", "the", "the", ".", "."], corpus)
    texts = [(span.first, span.last, span.telling) for span in found]
    assert texts == [(0, 3, True), (5, 7, False), (3, 5, False)]
    size = sum(map(len, documents))
    assert found[0].expected == pytest.approx(size * (1 / size) ** 3)
    assert found[2].expected == pytest.approx(size * (405 / size) ** 2)
    assert found[1].expected > 0.01  # ". ." stands once, but marks are no words either way
    [alone] = spans_of(["quokka"], corpus)
    assert (alone.expected, alone.telling) == (pytest.approx(1.0), False)


def test_marks_alone_tell_nothing_however_rare_they_are():
    corpus = Texts([[":", ";"], ["a", "b"], ["the"] * 1000])
    marks, words = spans_of([":", ";", "a", "b"], corpus)
    assert marks.expected == words.expected < 0.01
    assert (marks.telling, words.telling) == (False, True)


def test_chance_of_a_very_long_span_is_zero_not_an_error():
    assert by_chance([1] * 200, 10**6) == 0.0
    assert by_chance([3], 100) == pytest.approx(3.0)
    assert math.isfinite(by_chance([1, 2], 10**12))


def test_covered_counts_the_outputs_tokens_once():
    tokens = ["a", "b", "c", "x", "d"]
    found = spans_of(tokens, Texts([["a", "b"], ["b", "c"], ["d"]]))
    assert covered(found, 0, 5) == 4 / 5
    assert covered(found, 2, 5) == 2 / 3
    assert covered([], 0, 5) == 0.0


def test_a_text_that_stands_whole_is_one_span():
    text = [str(i % 7) for i in range(5000)]
    assert shared_spans(text, ["x", *text, "y"]) == [(0, 5000)]
    assert maximal_spans(3, lambda i: 3 - i) == [(0, 3)]
    assert maximal_spans(0, lambda i: 0) == []
