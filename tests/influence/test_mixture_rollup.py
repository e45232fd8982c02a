"""Roll-ups against brute force over dense scores, and intervals that cover what they should."""

import itertools

import numpy as np
import pytest

from influence.mixture.rollup import (
    adjusted,
    block_sums,
    group_totals,
    in_blocks,
    roll_up,
    two_sided,
)

DRAW = np.random.default_rng(0)
GROUP_N = np.array([0, 1, 1, 0, 2, 1, 0, 1, 1, 0, 1, 3, 3])  # group 2 has one document
CLUSTER_N = np.array([0, 1, 1, 3, 4, 5, 3, 7, 8, 9, 1, 11, 11])  # group 3 is one cluster
TASK_Q = np.array([0, 1, 0, 1, 0, 2])  # task 2 has one query
SCORES_QN = DRAW.standard_normal((6, 13)) + 0.3


def rolled(scores_QN=SCORES_QN, task_Q=TASK_Q, group_N=GROUP_N, cluster_N=CLUSTER_N, **options):
    blocks = in_blocks(group_N, cluster_N, options.pop("most", 64))
    own, sums = block_sums(scores_QN, blocks.block_N)
    np.testing.assert_array_equal(own, np.arange(len(blocks.group_K)))
    return roll_up(sums, task_Q, blocks, **options)


def test_means_and_totals_are_those_of_the_dense_table():
    cells = rolled(draws=100)
    for t, g in itertools.product(range(3), range(4)):
        own = SCORES_QN[TASK_Q == t][:, GROUP_N == g]
        assert cells.mean_TG[t, g] == pytest.approx(own.mean(), rel=1e-12)
        assert cells.total_TG[t, g] == pytest.approx(own.mean(axis=0).sum(), rel=1e-12)


def test_totals_of_queries_are_sums_over_documents():
    blocks = in_blocks(GROUP_N, CLUSTER_N)
    totals = group_totals(block_sums(SCORES_QN, blocks.block_N)[1], blocks)
    expected = [[row[GROUP_N == g].sum() for g in range(4)] for row in SCORES_QN]
    np.testing.assert_allclose(totals, expected, rtol=1e-12)


def test_sums_by_block_do_not_depend_on_how_documents_are_cut():
    blocks = in_blocks(GROUP_N, CLUSTER_N, most=2)
    whole = block_sums(SCORES_QN, blocks.block_N)[1]
    parts = np.zeros_like(whole)
    for shard in (slice(0, 5), slice(5, 6), slice(6, 13)):
        own, sums = block_sums(SCORES_QN[:, shard], blocks.block_N[shard])
        parts[:, own] += sums
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


@pytest.mark.parametrize("most", [2, 5, 64])
def test_blocks_keep_clusters_whole_and_groups_apart(most):
    group_N, cluster_N = DRAW.integers(0, 3, 200), DRAW.integers(0, 60, 200)
    blocks = in_blocks(group_N, cluster_N, most)
    np.testing.assert_array_equal(blocks.group_K[blocks.block_N], group_N)
    assert (np.diff(blocks.group_K) >= 0).all()
    for g in range(3):
        own = group_N == g
        pairs = set(zip(cluster_N[own].tolist(), blocks.block_N[own].tolist(), strict=True))
        clusters = {c for c, _ in pairs}
        assert len(pairs) == len(clusters)  # one block a cluster
        assert blocks.clusters_G[g] == len(clusters)
        assert blocks.blocks_G[g] == min(most, len(clusters))
        held = np.bincount([b for _, b in pairs])
        assert held[held > 0].max() - held[held > 0].min() <= 1
    np.testing.assert_array_equal(blocks.documents_G, np.bincount(group_N))


def test_draws_are_those_of_queries_and_documents_both():
    """Two queries, two documents: each of sixteen draws is known, and so is how often it comes."""
    scores = np.array([[1.0, 10.0], [100.0, 1000.0]])
    two, draws = np.zeros(2, int), 20_000
    cells = rolled(scores, two, two, np.arange(2), draws=draws)
    picks = list(itertools.product(range(2), repeat=2))
    mean, a, b = scores.mean(), scores.mean(axis=1), scores.mean(axis=0)
    by_query, by_document = ((a - mean) ** 2).sum() / 4, ((b - mean) ** 2).sum() / 4
    by_pair = ((scores - a[:, None] - b + mean) ** 2).sum() / 16
    # two values each: without bias their variances are twice, of pairs four times as large
    wanted = max(2 * by_query + 2 * by_document - 4 * by_pair, 2 * by_query, 2 * by_document)
    factor = np.sqrt(wanted / (by_query + by_document + by_pair))
    drawn = np.array([scores[np.ix_(q, d)].mean() for q in picks for d in picks])
    expected = mean + factor * (drawn - mean)
    values, chances = np.unique(np.round(expected, 6), return_counts=True)
    found, times = np.unique(np.round(cells.drawn_RTG[:, 0, 0] / 2, 6), return_counts=True)
    np.testing.assert_allclose(found, values)
    chance = chances / 16
    five_errors = 5 * np.sqrt(chance * (1 - chance) / draws)
    assert (np.abs(times / draws - chance) < five_errors).all()


def test_draws_have_the_two_way_clustered_variance():
    scores = DRAW.standard_normal((9, 12)) + DRAW.standard_normal((9, 1))
    mean, a, b = scores.mean(), scores.mean(axis=1), scores.mean(axis=0)
    by_query, by_document = ((a - mean) ** 2).sum() / 81, ((b - mean) ** 2).sum() / 144
    by_pair = ((scores - a[:, None] - b + mean) ** 2).sum() / (81 * 144)
    cells = rolled(scores, np.zeros(9, int), np.zeros(12, int), np.arange(12), draws=40_000)
    found = (cells.drawn_RTG[:, 0, 0] / 12).var()
    expected = by_query * 9 / 8 + by_document * 12 / 11 - by_pair * 9 / 8 * 12 / 11
    assert found == pytest.approx(expected, rel=0.03)


def test_near_duplicates_are_drawn_as_one():
    """Twenty copies of one document and one other: as uncertain as two documents."""
    scores = np.tile(np.array([[1.0] * 20 + [-1.0]]), (4, 1)) + DRAW.standard_normal((4, 1)) * 1e-3
    group = np.zeros(21, int)
    apart = rolled(scores, np.zeros(4, int), group, np.arange(21), draws=500)
    joined = rolled(scores, np.zeros(4, int), group, np.array([0] * 20 + [20]), draws=500)
    assert apart.mean_low_TG[0, 0] > 0.5
    assert joined.mean_low_TG[0, 0] < -0.9
    assert joined.mean_TG[0, 0] == pytest.approx(apart.mean_TG[0, 0])


def test_a_group_of_one_document_or_one_cluster_has_no_interval():
    cells = rolled(draws=200)
    for values in (cells.mean_low_TG, cells.mean_high_TG, cells.p_TG, cells.q_TG, cells.sign_TG):
        assert np.isnan(values[:, [2, 3]]).all()
        assert not np.isnan(values[:, [0, 1]]).any()
    assert not np.isnan(cells.mean_TG).any()


def test_a_task_of_one_query_has_intervals_over_documents_alone():
    cells = rolled(draws=4000)
    low, high = cells.mean_low_TG[2, 0], cells.mean_high_TG[2, 0]
    row = SCORES_QN[5, GROUP_N == 0]
    clusters = [row[[0]], row[[1, 2]], row[[3]]]  # documents 3 and 6 are one cluster
    means = [
        np.concatenate(picked).mean() for picked in itertools.product(clusters, repeat=3)
    ]  # every draw of three clusters
    widest = np.sqrt(3 / 2)  # three clusters: the unbiased variance is 3 / 2 of that of draws
    assert low >= row.mean() + widest * (min(means) - row.mean()) - 1e-12
    assert high <= row.mean() + widest * (max(means) - row.mean()) + 1e-12
    assert low < row.mean() < high


@pytest.mark.parametrize(
    "parts", [(1.0, 1.0, 1.0), (0.0, 1.0, 0.3), (1.0, 0.0, 0.3), (0.0, 0.0, 1.0), (0.1, 0.1, 1.0)]
)
def test_intervals_cover_the_true_mean(parts):
    """Nominal 95 %, over simulated queries and documents; the truth is 0."""
    by_query, by_document, rest = parts
    queries, documents, trials, covered = 24, 40, 300, 0
    group, task = np.zeros(documents, int), np.zeros(queries, int)
    for trial in range(trials):
        draw = np.random.default_rng([trial, 7])
        scores = by_query * draw.standard_normal((queries, 1))
        scores = scores + by_document * draw.standard_normal((1, documents))
        scores = scores + rest * draw.standard_normal((queries, documents))
        cells = rolled(scores, task, group, np.arange(documents), draws=400, seed=trial)
        covered += bool(cells.mean_low_TG[0, 0] <= 0 <= cells.mean_high_TG[0, 0])
    assert 0.90 <= covered / trials <= 0.99


@pytest.mark.parametrize("sizes", [(24, 40), (24, 160)], ids=str)
def test_intervals_cover_the_mean_of_sparse_matches(sizes):
    """As facts do: a document matters for one query alone, and heavily; near copies are in clusters."""
    queries, clusters = sizes
    trials, covered = 200, 0
    task, cluster = np.zeros(queries, int), np.repeat(np.arange(clusters), 2)
    truth = 3.0 / 40  # a cluster matches a query with probability 1 / 40, and scores 3 then
    for trial in range(trials):
        draw = np.random.default_rng([trial, 11])
        match = draw.random((queries, clusters)) < 1 / 40
        scores = np.repeat(3.0 * match, 2, axis=1) + draw.standard_normal((queries, 2 * clusters))
        cells = rolled(scores, task, np.zeros(2 * clusters, int), cluster, draws=400, seed=trial)
        covered += bool(cells.mean_low_TG[0, 0] <= truth <= cells.mean_high_TG[0, 0])
    assert 0.90 <= covered / trials <= 0.99


def test_pure_noise_is_rarely_called_help_or_harm():
    false = 0
    for trial in range(40):
        scores = np.random.default_rng([trial, 8]).standard_normal((40, 300))
        group, task = np.arange(300) % 6, np.arange(40) % 5
        cells = rolled(scores, task, group, np.arange(300), draws=300, seed=trial)
        false += bool((cells.sign_TG != 0).any())
    assert false <= 4  # a tenth; 5 % are expected at most, and interactions make draws wide


def test_opponents_count_as_much_as_proponents():
    cells, mirrored = rolled(draws=300), rolled(-SCORES_QN, draws=300)
    np.testing.assert_allclose(mirrored.mean_low_TG, -cells.mean_high_TG, rtol=1e-9)
    np.testing.assert_array_equal(mirrored.p_TG, cells.p_TG)
    np.testing.assert_array_equal(mirrored.sign_TG, -cells.sign_TG)
    strong = rolled(SCORES_QN - 5, draws=300)
    assert (strong.sign_TG[:2, :2] == -1).all()


def test_p_values_are_twice_the_smaller_side_and_never_0():
    drawn = np.array([-1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10])[:, None, None]
    assert two_sided(drawn)[0, 0] == pytest.approx(0.2)
    assert two_sided(np.abs(drawn))[0, 0] == pytest.approx(1 / 11)
    assert two_sided(drawn * 0)[0, 0] == 1.0


def test_q_values_are_adjusted_over_all_cells_that_have_p():
    p = np.array([[0.01, np.nan, 0.04], [0.03, 0.5, 0.002]])
    known = np.sort(p[~np.isnan(p)])
    steps = known * 5 / np.arange(1, 6)
    expected = dict(zip(known, np.minimum.accumulate(steps[::-1])[::-1], strict=True))
    found = adjusted(p)
    assert np.isnan(found[0, 1])
    for value, q in zip(p[~np.isnan(p)], found[~np.isnan(p)], strict=True):
        assert q == pytest.approx(min(1, expected[value]))
    assert np.isnan(adjusted(np.full((2, 2), np.nan))).all()


def test_equal_seeds_give_equal_intervals_whatever_is_held_at_a_time(monkeypatch):
    first = rolled(draws=250, seed=3)
    monkeypatch.setattr("influence.mixture.rollup._HELD", 30)
    again, other = rolled(draws=250, seed=3), rolled(draws=250, seed=4)
    np.testing.assert_allclose(again.mean_low_TG, first.mean_low_TG, rtol=1e-12)
    assert not np.allclose(other.mean_low_TG[:, :2], first.mean_low_TG[:, :2])
