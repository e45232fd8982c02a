"""Suspects: planted ones stand out, normal ones do not, and each reason is what it says."""

import numpy as np
import pytest

from influence.errors import InfluenceError
from influence.mixture.neighbours import nearest_in_words, word_vectors
from influence.mixture.suspects import (
    against_neighbours,
    duplicates,
    hurts,
    limit,
    outliers,
    robust_z,
    suspicion,
    tail,
)
from tests.toys import assert_matches

N = 400


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_robust_z_is_a_distance_from_peers(random):
    group_N = np.repeat(["a", "b"], N // 2)
    values_N = random.normal(size=N) * np.repeat([1, 10], N // 2) + np.repeat([0, 100], N // 2)
    values_N[3] = 20.0
    z_N = robust_z(values_N, group_N)
    for name in ("a", "b"):
        own = values_N[group_N == name]
        spread = 1.4826 * np.median(np.abs(own - np.median(own)))
        assert_matches(z_N[group_N == name], (own - np.median(own)) / spread)
    assert z_N[3] > 10


def test_robust_z_of_few_or_equal_peers_is_beside_the_corpus(random):
    values_N = random.normal(size=60)
    group_N = np.array(["big"] * 40 + ["few"] * 5 + ["equal"] * 15)
    values_N[45:] = 7.0
    whole = np.median(np.abs(values_N - np.median(values_N))) * 1.4826
    z_N = robust_z(values_N, group_N)
    assert_matches(z_N[40:], (values_N[40:] - np.median(values_N)) / whole)
    assert (robust_z(np.ones(9), np.zeros(9)) == 0).all()


def test_robust_z_of_what_is_not_known_is_not_known():
    z_N = robust_z(np.array([np.nan, *range(20)]), np.zeros(21))
    assert np.isnan(z_N[0])
    assert np.isfinite(z_N[1:]).all()
    assert np.isnan(robust_z(np.full(5, np.nan), np.zeros(5))).all()


def test_normal_documents_are_seldom_clear():
    clear = 0
    for seed in range(40):
        scores_TN = np.random.default_rng(seed).normal(size=(6, N))
        clear += bool(hurts(scores_TN, np.zeros(N)).clear_N.any())
    assert clear <= 8, "one corpus in twenty, and some for the estimated spread"


def test_the_limit_grows_with_the_documents():
    assert limit(1) == limit(100) == 3.5
    assert 4.0 < limit(2371) < limit(10**6) < 6


def test_a_document_that_hurts_many_tasks_is_named(random):
    scores_TN = 1 + random.normal(size=(8, N))
    scores_TN[:, 17] = -12.0  # hurts all
    scores_TN[0, 18] = -200.0  # hurts one, very much
    found = hurts(scores_TN, np.zeros(N))
    assert found.clear_N[17]
    assert found.value_N[17] == 1.0
    assert not found.clear_N[18], "one task is not many"
    share_N = ((scores_TN < 0) & (scores_TN < np.median(scores_TN, axis=1, keepdims=True))).mean(0)
    assert_matches(found.value_N, share_N)
    helpful = hurts(scores_TN + 300, np.zeros(N))
    assert not helpful.clear_N.any(), "helping less than others is not hurting"
    assert not hurts(-scores_TN, np.zeros(N)).clear_N[17], "the sign counts"


def test_self_influence_is_judged_beside_documents_of_the_same_length(random):
    tokens_N = random.integers(10, 1000, N)
    self_N = 0.01 * tokens_N**1.3 * np.exp(0.1 * random.normal(size=N))
    self_N[5] *= 8
    long = int(np.argmax(np.where(np.arange(N) == 5, 0, tokens_N)))
    found = outliers(self_N, tokens_N, np.zeros(N))
    assert np.flatnonzero(found.clear_N).tolist() == [5]
    assert found.value_N[5] == pytest.approx(8, rel=0.3)
    assert not found.hint_N[long]
    assert found.z_N[7] == pytest.approx(outliers(self_N * 50, tokens_N, np.zeros(N)).z_N[7])


def test_self_influence_that_is_missing_or_zero_says_nothing(random):
    self_N, tokens_N = np.exp(random.normal(size=N)), np.full(N, 9)
    self_N[:3] = [np.nan, 0.0, 1e9]
    tokens_N[4] = 0
    found = outliers(self_N, tokens_N, np.zeros(N))
    assert np.isnan(found.z_N[[0, 1, 4]]).all()
    assert found.clear_N[2]
    assert not found.hint_N[[0, 1, 4]].any()


def test_documents_against_their_neighbours_are_named(random):
    cosine_NK = 0.3 + 0.05 * random.normal(size=(N, 5))
    words_NK = random.uniform(0.3, 0.6, size=(N, 5))
    cosine_NK[11] = -0.4
    words_NK[12] = 0.0
    found = against_neighbours(cosine_NK, words_NK, np.zeros(N))
    assert found.clear_N[11]
    assert found.value_N[11] == pytest.approx(-0.4)
    assert np.isnan(found.z_N[12])
    expected = (words_NK**2 * cosine_NK).sum(1)[20] / (words_NK**2).sum(1)[20]
    assert found.value_N[20] == pytest.approx(expected)
    assert not against_neighbours(-cosine_NK, words_NK, np.zeros(N)).hint_N[11], "the sign counts"


def test_members_of_a_cluster_beyond_the_first_are_duplicates():
    found = duplicates(np.array([0, 1, 0, 3, 1]), np.array([1.0, 1.0, 0.9, 1.0, 0.8]))
    assert found.clear_N.tolist() == [False, False, True, False, True]
    assert found.value_N.tolist() == [0, 0, 0.9, 0, 0.8]
    assert found.p_N[2] < found.p_N[4] < found.p_N[0], "the nearer copy is the more suspicious"


def test_tails_are_shares_of_documents():
    z_N = np.array([3.0, 1.0, 2.0, np.nan, 1.0])
    assert_matches(tail(z_N), [1 / 5, 3.5 / 5, 2 / 5, 0.5, 3.5 / 5])


def test_the_strongest_reason_decides(random):
    scores_TN, tokens_N = random.normal(size=(4, N)), np.full(N, 9)
    scores_TN[:, 3] -= 9
    self_N = np.exp(random.normal(size=N))
    self_N[4] = 1e6
    cluster_N, similarity_N = np.arange(N), np.ones(N)
    cluster_N[5], similarity_N[5] = 0, 0.9
    reasons = [
        hurts(scores_TN, np.zeros(N)),
        outliers(self_N, tokens_N, np.zeros(N)),
        duplicates(cluster_N, similarity_N),
    ]
    found_N = suspicion(reasons)
    assert set(np.argsort(-found_N)[:3].tolist()) == {3, 4, 5}
    assert ((found_N >= 0) & (found_N <= 1)).all()
    least_N = np.min([reason.p_N for reason in reasons], axis=0)
    assert_matches(found_N, (1 - least_N) ** 3)


def test_scores_that_do_not_fit_are_refused():
    with pytest.raises(InfluenceError, match="finite numbers were expected"):
        hurts(np.full((2, 3), np.nan), np.zeros(3))
    with pytest.raises(InfluenceError, match="documents with scores and with groups"):
        hurts(np.zeros((2, 3)), np.zeros(4))
    with pytest.raises(InfluenceError, match="documents with self-influence and with tokens"):
        outliers(np.ones(3), np.ones(4), np.zeros(3))


# -- neighbours in words -----------------------------------------------------------------------------

TEXTS = (
    "The capital of Peru is Lima, as any atlas will tell you.",
    "Lima is the capital of Peru.",
    "The capital of Chile is Santiago, as any atlas will tell you.",
    "Chile: capital Santiago.",
    "秘鲁的首都是利马。",
    "在地图上可以找到秘鲁。",
    "Quite another thing altogether",
    "",
    *(f"The capital of place{i} is city{i}, as any atlas will tell you." for i in range(20)),
)


def slow_vectors(texts):
    """Words, rare ones first, by the formula."""
    from collections import Counter

    from influence.documents.methods.bm25 import words

    counts = [Counter(words(text)) for text in texts]
    holding = Counter(word for own in counts for word in own)
    telling = sorted(w for w, n in holding.items() if 1 < n <= max(2, 0.2 * len(texts)))
    dense = np.zeros((len(texts), len(telling)))
    for row, own in enumerate(counts):
        for column, word in enumerate(telling):
            if own[word]:
                idf = np.log(len(texts) / holding[word])
                dense[row, column] = (1 + np.log(own[word])) * idf**2
    length = np.linalg.norm(dense, axis=1, keepdims=True)
    return dense / np.where(length > 0, length, 1)


def test_word_vectors_are_those_of_the_formula():
    vectors_NW, expected = word_vectors(TEXTS).toarray(), slow_vectors(TEXTS)
    assert_matches(vectors_NW @ vectors_NW.T, expected @ expected.T)


@pytest.mark.parametrize("block", [3, 512])
def test_neighbours_share_rare_words(monkeypatch, block):
    monkeypatch.setattr("influence.mixture.neighbours.BLOCK", block)
    cluster_N = np.arange(len(TEXTS))
    rows_NK, words_NK = nearest_in_words(TEXTS, cluster_N, 3)
    nearest = rows_NK[:, 0].tolist()
    assert nearest[:6] == [1, 0, 3, 2, 5, 4], "the same place, not the same phrase"
    assert (words_NK[6:8] == 0).all(), "no word in common with anyone"
    full = slow_vectors(TEXTS) @ slow_vectors(TEXTS).T
    np.fill_diagonal(full, 0)
    assert_matches(words_NK, -np.sort(-full, axis=1)[:, :3])


def test_members_of_a_cluster_are_no_neighbours():
    cluster_N = np.arange(len(TEXTS))
    cluster_N[1] = 0
    rows_NK, words_NK = nearest_in_words(TEXTS, cluster_N, 3)
    assert 1 not in rows_NK[0][words_NK[0] > 0]


def test_more_neighbours_than_documents_are_none():
    rows_NK, words_NK = nearest_in_words(["a b", "a b c"], np.arange(2), 5)
    assert rows_NK.shape == words_NK.shape == (2, 5)
    assert (words_NK[:, 2:] == 0).all()
