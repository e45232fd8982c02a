"""The parroting index: hand-worked values, its range, and what it must not know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influence.mixture.parroting import CONTEXT, overlap, parroting, window_of
from influence.mixture.verbatim import tokens_of

SHARES = st.floats(0, 1)


def test_the_wording_is_the_output_and_the_last_tokens_of_the_prompt():
    tokens = [str(i) for i in range(20)]
    window, first = window_of(tokens, 18)
    assert (window, first) == (tokens[18 - CONTEXT :], CONTEXT)
    assert window_of(tokens, 3) == (tokens, 3)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("The coat of Zimba is red.", 1.0),
        ("The coat of Zimba", 0.0),  # the question alone
        ("The flower of Karla is red.", 2 / 6),
        ("A red coat", 0.0),  # one token of the output is no span
        ("The coat of Zimba is blue; of Zimba is red", 4 / 6),
        ("", 0.0),
    ],
)
def test_overlap_is_the_share_of_the_wording_in_spans_that_hold_the_output(document, expected):
    window, first = window_of(tokens_of("The coat of Zimba is red"), 5)
    assert overlap(window, first, tokens_of(document)) == pytest.approx(expected)


def test_an_output_of_one_token_is_found_alone():
    assert overlap(["Paris"], 0, ["in", "Paris"]) == 1.0


def test_the_index_is_weighted_overlap_above_that_of_random_documents():
    found = parroting([3.0, 1.0, -5.0], [1.0, 0.5, 1.0], [0.0, 0.5])
    assert found.overlap == pytest.approx((3 * 1 + 1 * 0.5) / 4)
    assert found.baseline == 0.25
    assert found.index == pytest.approx((0.875 - 0.25) / 0.75)
    assert found.copied == pytest.approx(0.75)
    assert found.half == 1
    assert 0 <= found.low <= found.index <= found.high <= 1


def test_all_copies_give_one_and_no_more_than_chance_gives_zero():
    assert parroting([1, 1], [1, 1], [0.3]).index == 1.0
    assert parroting([1, 1], [0.1, 0.2], [0.3]).index == 0.0
    assert parroting([1, 1], [1, 1], [1.0]).index == 0.0  # every document holds it: nothing is said


def test_half_counts_documents_that_carry_half_of_the_influence():
    assert parroting([1, 1, 1, 1], [0] * 4, [0.0]).half == 2
    assert parroting([5, 1, 1, 1], [0] * 4, [0.0]).half == 1


def test_without_positive_influence_nothing_is_known():
    found = parroting([-1.0, 0.0], [1.0, 1.0], [0.1])
    assert np.isnan([found.index, found.low, found.high, found.overlap, found.copied]).all()
    one = parroting([2.0, -1.0], [1.0, 1.0], [0.1])
    assert one.index == 1.0
    assert np.isnan([one.low, one.high]).all()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-10, 10), SHARES), min_size=1, max_size=8),
    st.lists(SHARES, min_size=1, max_size=8),
    st.floats(0.01, 100),
)
def test_the_index_lies_between_0_and_1_whatever_the_unit(pairs, random, unit):
    scores, shares = np.array(pairs).T
    found, scaled = parroting(scores, shares, random), parroting(scores * unit, shares, random)
    assert np.isnan(found.index) or 0 <= found.index <= 1
    np.testing.assert_allclose(scaled.index, found.index, rtol=1e-9, atol=1e-9)
