"""Profiles, concentration, languages and re-weighting against slow definitions."""

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import kstest

from influence.errors import InfluenceError
from influence.mixture.concentration import concentration, tail
from influence.mixture.languages import languages
from influence.mixture.profiles import profiles, relation, weighted_correlation
from influence.mixture.reweighting import lower_end, predicted_change, propose, weights
from influence.mixture.rollup import block_sums, in_blocks, roll_up

# -- profiles -------------------------------------------------------------------------------------


def test_correlations_are_numpys_where_tasks_are_equal():
    means = np.random.default_rng(0).standard_normal((20, 4))
    found = profiles(means, np.arange(20) % 4, draws=50)
    np.testing.assert_allclose(found.correlation_GG, np.corrcoef(means.T), atol=1e-12)


def test_every_task_counts_alike_however_many_queries_it_has():
    draw = np.random.default_rng(1)
    means, task = draw.standard_normal((12, 3)), np.array([0] * 9 + [1] * 3)
    repeated = np.concatenate([means[:9], np.repeat(means[9:], 3, axis=0)])
    found = profiles(means, task, draws=50).correlation_GG
    np.testing.assert_allclose(found, np.corrcoef(repeated.T), atol=1e-12)


def test_groups_are_alike_opposite_independent_or_unknown():
    draw = np.random.default_rng(2)
    base, task = draw.standard_normal(600), np.arange(600) % 3
    noise = draw.standard_normal((600, 2))
    means = np.stack([base, base + 0.5 * noise[:, 0], -base + 0.5 * noise[:, 1], noise[:, 0]], 1)
    found = profiles(means, task, draws=200)
    assert found.relation(0, 1) == "alike"
    assert found.relation(0, 2) == "opposite"
    assert found.relation(0, 3) == "independent"
    assert found.relation(2, 2) == "alike"
    few = profiles(means[:12], task[:12], draws=200)
    assert few.relation(0, 3) == "unknown"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.9, "alike"),
        (-0.9, -0.1, "opposite"),
        (-0.2, 0.3, "independent"),
        (0.05, 0.2, "independent"),
        (-0.2, 0.4, "unknown"),
        (float("nan"), float("nan"), "unknown"),
    ],
)
def test_relation_is_said_by_the_interval(low, high, expected):
    assert relation(low, high) == expected


def test_a_group_that_scores_all_queries_alike_has_no_correlation():
    means = np.random.default_rng(3).standard_normal((10, 3))
    means[:, 1] = 0.1
    found = profiles(means, np.zeros(10, int), draws=50)
    assert np.isnan(found.correlation_GG[0, 1])
    assert found.relation(0, 1) == "unknown"
    assert not np.isnan(found.low_GG[0, 2])


def test_tasks_of_one_query_each_have_correlations_without_intervals():
    means = np.random.default_rng(4).standard_normal((5, 2))
    found = profiles(means, np.arange(5), draws=50)
    assert np.isnan(found.low_GG).all()
    assert not np.isnan(found.correlation_GG).any()


def test_intervals_of_correlations_cover_the_truth():
    truth, covered, trials = 0.6, 0, 200
    for trial in range(trials):
        draw = np.random.default_rng([trial, 9])
        a = draw.standard_normal(60)
        b = truth * a + np.sqrt(1 - truth**2) * draw.standard_normal(60)
        found = profiles(np.stack([a, b], 1), np.arange(60) % 2, draws=300, seed=trial)
        covered += bool(found.low_GG[0, 1] <= truth <= found.high_GG[0, 1])
    assert 0.90 <= covered / trials <= 0.99


def test_weighted_correlation_is_that_of_repeated_rows():
    means = np.random.default_rng(5).standard_normal((6, 3))
    times = np.array([1, 0, 3, 2, 1, 1])
    expected = np.corrcoef(np.repeat(means, times, axis=0).T)
    np.testing.assert_allclose(weighted_correlation(means, times.astype(float)), expected)


# -- concentration --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_half_is_the_smallest_number_of_documents_that_carries_half(seed):
    scores = np.random.default_rng(seed).standard_t(2, 300)
    positive = sorted((s for s in scores if s > 0), reverse=True)
    count = next(k for k in range(1, 301) if sum(positive[:k]) >= sum(positive) / 2)
    found = concentration(scores)
    assert found.half == count
    assert len(found.curve) <= 60
    assert len(found.ccdf) <= 60
    for share, carried in found.curve:
        rank = min(round(share * 300), len(positive))
        assert carried == pytest.approx(sum(positive[:rank]) / sum(positive))
    for score, share in found.ccdf:
        assert share == pytest.approx((scores >= score).mean())
    assert [p[0] for p in found.ccdf] == sorted(p[0] for p in found.ccdf)


def test_equal_scores_are_carried_by_half_of_them():
    found = concentration(np.full(100, 0.1))
    assert found.half == 50
    assert found.tail is None
    assert found.ccdf == ((0.1, 1.0),)


def test_without_positive_scores_nothing_is_concentrated():
    found = concentration(np.array([-1.0, 0.0, -2.0]))
    assert (found.half, found.curve, found.ccdf, found.tail) == (0, (), (), None)


def test_the_tail_of_a_power_law_is_found_below_other_scores():
    """Pareto above 1, uniform below: the threshold is near 1 and the interval covers the exponent."""
    covered = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        law = (1 - draw.random(1500)) ** (-1 / 1.5)  # density exponent 2.5
        found = concentration(np.concatenate([law, draw.random(1500), -draw.random(500)])).tail
        assert 0.8 < found.threshold < 3
        covered += found.low <= 2.5 <= found.high
    assert covered >= 32  # nominal 95 %, less what the choice of the threshold costs


def test_the_threshold_has_the_least_distance_of_all(monkeypatch):
    monkeypatch.setattr("influence.mixture.concentration._THRESHOLDS", 10_000)
    falling = np.sort(np.random.default_rng(3).lognormal(size=200))[::-1]
    found = tail(falling)

    def distance(size):
        exponent = 1 + size / np.log(falling[:size] / falling[size - 1]).sum()
        law = lambda x: 1 - (x / falling[size - 1]) ** (1 - exponent)  # noqa: E731
        return kstest(falling[:size], law).statistic, exponent

    best = min(range(50, 201), key=lambda size: distance(size)[0])
    assert found.documents == best
    assert found.exponent == pytest.approx(distance(best)[1])
    assert found.high - found.exponent == pytest.approx(1.96 * (found.exponent - 1) / best**0.5)


def test_fewer_than_fifty_documents_have_no_tail():
    scores = (1 - np.random.default_rng(0).random(49)) ** -1.0
    assert concentration(scores).tail is None
    assert concentration(np.append(scores, 7.0)).tail is not None


# -- languages ------------------------------------------------------------------------------------


def test_languages_are_ranked_within_the_documents_language():
    draw = np.random.default_rng(0)
    query_languages = ["en", "en", "de", "en", "de"]
    document_languages = ["en", "de", "en", "de", "de", "fr", "en"]
    own = np.array(
        [
            [1, 1, 0, 0, 0, 0, 0],
            [0, 0, 1, 1, 0, 0, 0],
            [0, 0, 0, 1, 1, 0, 0],
            [
                0,
                0,
                0,
                0,
                0,
                1,
                0,
            ],  # French is stated by one document: no other fact to rank against
            [0, 1, 0, 0, 0, 0, 1],
        ],
        bool,
    )
    scores, bm25 = draw.standard_normal((5, 7)), draw.standard_normal((5, 7))
    found = languages(scores, own, query_languages, document_languages, {"bm25": bm25})
    assert found.queries == ("en", "de")
    assert found.documents == ("de", "en", "fr")
    for a, asked in enumerate(found.queries):
        for b, read in enumerate(found.documents):
            columns = [f for f in range(7) if document_languages[f] == read]
            same, other, ranks, ranks_bm25 = [], [], [], []
            for q in range(5):
                mine = [f for f in columns if own[q, f]]
                rest = [f for f in columns if not own[q, f]]
                if query_languages[q] != asked or not mine or not rest:
                    continue
                same.append(np.mean(scores[q, mine]))
                other.append(np.mean(scores[q, rest]))
                for table, into in ((scores, ranks), (bm25, ranks_bm25)):
                    best = max(table[q, mine])
                    into.append(1 / (1 + sum(table[q, f] >= best for f in rest)))
            assert found.queries_AB[a, b] == len(same)
            for value, expected in (
                (found.same_fact_AB, same),
                (found.other_facts_AB, other),
                (found.mrr_AB, ranks),
                (found.others["bm25"], ranks_bm25),
            ):
                if expected:
                    assert value[a, b] == pytest.approx(np.mean(expected))
                else:
                    assert np.isnan(value[a, b])
            assert np.isnan(found.mrr_low_AB[a, b]) == (len(same) < 2)


# -- re-weighting ---------------------------------------------------------------------------------


def feasible(draw, tokens):
    """Random weights in [1/2, 2] that keep the tokens."""
    step = draw.standard_normal(len(tokens)) / tokens
    step -= tokens @ step / tokens.sum()
    largest = min(0.5 / -step.min(), 1 / step.max())
    return 1 + step * largest * draw.random()


def sides(gain):
    """Totals of groups as gains: those that help, then those that harm."""
    return np.concatenate([np.maximum(gain, 0), np.minimum(gain, 0)])


@pytest.mark.parametrize("seed", range(6))
def test_without_doubt_harm_alone_is_a_linear_program(seed):
    draw = np.random.default_rng(seed)
    harm, tokens = -np.abs(draw.standard_normal(7)), draw.integers(10, 100, 7).astype(float)
    found = weights(sides(harm), np.zeros((14, 14)), tokens)
    solved = linprog(-harm, A_eq=tokens[None], b_eq=[tokens.sum()], bounds=(0.5, 2))
    assert harm @ found == pytest.approx(-solved.fun, rel=1e-4)
    assert tokens @ found == pytest.approx(tokens.sum())


@pytest.mark.parametrize("seed", range(6))
def test_without_doubt_help_is_shared_out_in_proportion_within_the_bounds(seed):
    """Closed form: a sum of a log w at equal tokens is largest at w = a / (price * tokens), cut off."""
    draw = np.random.default_rng(seed)
    gain, tokens = np.abs(draw.standard_normal(7)), draw.integers(10, 100, 7).astype(float)
    low, high = 1e-9, 1e3
    for _ in range(200):
        price = (low * high) ** 0.5
        expected = np.clip(gain / (price * tokens), 0.5, 2)
        low, high = (price, high) if tokens @ expected > tokens.sum() else (low, price)
    found = weights(sides(gain), np.zeros((14, 14)), tokens)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("seed", range(6))
def test_no_other_weights_have_a_higher_lower_end(seed):
    draw = np.random.default_rng(seed)
    gain, tokens = draw.standard_normal(5), draw.integers(10, 100, 5).astype(float)
    root = 0.1 * draw.standard_normal((10, 10))
    both, covariance = sides(gain), root @ root.T
    found = weights(both, covariance, tokens)
    best = lower_end(both, covariance, found)
    assert found.min() >= 0.5
    assert found.max() <= 2
    others = [feasible(draw, tokens) for _ in range(5000)]
    nearby = [0.9 * found + 0.1 * feasible(draw, tokens) for _ in range(2000)]
    assert best >= max(lower_end(both, covariance, one) for one in [*others, *nearby]) - 1e-6


def test_where_every_gain_is_in_doubt_there_are_no_weights():
    tokens = np.full(3, 10.0)
    assert weights(np.zeros(6), np.eye(6), tokens) is None
    assert weights(sides(np.array([1.0, 0, 0])), np.eye(6), tokens) is None
    assert weights(sides(np.array([1.0, 0, 0])), 0.01 * np.eye(6), tokens) is not None
    with pytest.raises(InfluenceError, match="at least 1 each"):
        weights(np.ones(4), np.eye(4), np.array([3, 0]))


def test_a_change_has_the_scores_slope_and_bends_like_a_power_of_the_data():
    total, loss = np.array([[2.0, -3.0], [0.5, 1.0]]), np.array([4.0, 2.0])
    step = 1e-6
    for group in range(2):
        near = np.ones(2)
        near[group] += step
        slope = predicted_change(total, near, loss) / step
        np.testing.assert_allclose(slope, -total[:, group], rtol=1e-5)
    one, weight = np.array([[1.0]]), np.array([2.0])
    power = 4.0 * weight ** (-1.0 / 4.0)  # L w^(-I / L)
    assert predicted_change(one, weight, np.array([4.0])) == pytest.approx(power - 4.0)
    harm = predicted_change(-one, np.array([0.5]), np.array([4.0]))
    assert harm == pytest.approx(4.0 * np.exp(-0.5 / 4.0) - 4.0)
    np.testing.assert_array_equal(predicted_change(total, np.ones(2), loss), 0)


def test_no_loss_falls_below_nothing_or_rises_without_end():
    huge, loss = np.array([[1e6]]), np.array([2.0])
    assert predicted_change(huge, np.array([2.0]), loss) == pytest.approx(-2.0)
    assert predicted_change(huge, np.array([0.5]), loss) == pytest.approx(2.0 * 999)


def test_losses_must_be_positive():
    with pytest.raises(InfluenceError, match="positive ones were expected"):
        propose(rolled(np.zeros((4, 5)), 1.0), np.full(5, 10.0), np.array([1.0, 0, 1, 1]))


def rolled(effect_TG, noise, seed=0):
    """Cells of five groups of forty documents, and four tasks of thirty queries."""
    draw = np.random.default_rng(seed)
    group, task = np.arange(200) % 5, np.arange(120) % 4
    scores = effect_TG[task][:, group] + noise * draw.standard_normal((120, 200))
    blocks = in_blocks(group, np.arange(200))
    return roll_up(block_sums(scores, blocks.block_N)[1], task, blocks, draws=400, seed=seed)


def test_help_is_doubled_and_harm_is_halved():
    effect = np.zeros((4, 5))
    effect[:, 0], effect[:, 1] = 1.0, -1.0
    cells, tokens = rolled(effect, 0.5), np.array([100.0, 50, 200, 100, 300])
    loss = np.full(4, 50.0)
    found = propose(cells, tokens, loss)
    np.testing.assert_allclose(found.weight_G[:2], [2, 0.5], atol=1e-3)
    assert tokens @ found.weight_G == pytest.approx(tokens.sum())
    expected = predicted_change(cells.total_TG, found.weight_G, loss)
    np.testing.assert_allclose(found.change_T, expected)
    assert (found.high_T < 0).all()
    assert (found.low_T < found.change_T).all()
    assert (found.change_T < found.high_T).all()


def test_a_task_that_counts_more_decides():
    effect = np.zeros((4, 5))
    effect[0, 0], effect[1, 0] = 1.0, -1.0
    cells, tokens = rolled(effect, 0.5), np.full(5, 100.0)
    loss = np.full(4, 50.0)
    more, less = (
        propose(cells, tokens, loss, np.array(w)) for w in ([3.0, 1, 0, 0], [1.0, 3, 0, 0])
    )
    assert more.weight_G[0] == pytest.approx(2, abs=1e-3)
    assert less.weight_G[0] == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_allclose(more.importance_T, [0.75, 0.25, 0, 0])
    # a loss three times as small makes the same nats count three times as much
    same = propose(cells, tokens, loss / np.array([3, 1, 1, 1]), np.array([1.0, 1, 0, 0]))
    np.testing.assert_allclose(same.weight_G, more.weight_G, atol=1e-3)


def test_noise_proposes_nothing():
    found = [
        propose(rolled(np.zeros((4, 5)), 1.0, seed), np.full(5, 10.0), np.ones(4))
        for seed in range(30)
    ]
    assert sum(one is not None for one in found) <= 3


def test_unclear_cells_do_not_count():
    """A large total without an interval (one cluster) gains nothing, however large it is."""
    draw = np.random.default_rng(0)
    group, cluster = np.repeat([0, 1], 20), np.concatenate([np.arange(20), np.full(20, 99)])
    scores = np.repeat([[0.0, 100.0]], 20, axis=1) + draw.standard_normal((30, 40))
    blocks = in_blocks(group, cluster)
    total = block_sums(scores, blocks.block_N)[1]
    cells = roll_up(total, np.zeros(30, int), blocks, draws=200)
    assert cells.total_TG[0, 1] > 1000
    assert propose(cells, np.array([10.0, 10.0]), np.ones(1)) is None
