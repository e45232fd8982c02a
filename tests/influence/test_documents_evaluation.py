"""Measures of scores against answers known by construction, by hand or by another route."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from influence import text
from influence.documents.evaluation.bootstrap import difference, interval
from influence.documents.evaluation.brittleness import brittleness, table, top_k
from influence.documents.evaluation.corruption import auroc, corruption
from influence.documents.evaluation.fact_tracing import best_ranks, facts
from influence.documents.evaluation.lds import MOST_SPLITS, ceiling, lds, splits
from influence.documents.evaluation.ranks import spearman
from influence.documents.evaluation.sanity import agreement, cardinality
from influence.documents.evaluation.tail_patch import tail_patch
from influence.errors import InfluenceError
from tests.toys import assert_matches, random_chunks, toy_gpt2, toy_llama

ADDITIVE_NOISE = {0.5: 0.015, 1.0: 0.045, 2.0: 0.12}
"""How far LDS and ceiling of simulated losses may lie apart, for each level of noise: five standard
deviations over repetitions with two seeds of training (they sample the same losses in two ways)."""


def additive(queries=60, documents=40, subsets=100, seeds=4, noise=1.0, seed=0):
    """Losses that fall by each document's own effect when it is trained on, plus seed noise."""
    random = np.random.default_rng(seed)
    effects_QN = random.standard_normal((queries, documents))
    subsets_SN = np.zeros((subsets, documents), bool)
    for row_N in subsets_SN:
        row_N[random.permutation(documents)[: documents // 2]] = True
    true_SQ = 50 - subsets_SN @ effects_QN.T
    spread_Q = noise * true_SQ.std(axis=0)
    losses_SRQ = true_SQ[:, None] + spread_Q * random.standard_normal((subsets, seeds, queries))
    return effects_QN, subsets_SN, losses_SRQ


# ranks


@pytest.mark.parametrize("decimals", [0, 1, 9], ids=lambda d: f"decimals={d}")
def test_spearman_is_that_of_scipy(decimals):
    random = np.random.default_rng(0)
    a_QS, b_QS = (np.round(random.standard_normal((5, 30)), decimals) for _ in range(2))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(a_QS, b_QS, strict=True)]
    assert_matches(spearman(a_QS, b_QS), np.array(expected))


def test_spearman_of_a_constant_row_is_zero():
    assert spearman(np.ones((1, 4)), np.arange(4.0)[None]).tolist() == [0.0]


# bootstrap


def test_interval_covers_the_true_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    trials, found = 400, 0
    for trial in range(trials):
        drawn = interval(random.exponential(2.0, 60), seed=trial, draws=400)
        found += drawn.low <= 2.0 <= drawn.high
    assert 0.90 <= found / trials <= 0.975


def test_interval_of_a_large_sample_is_that_of_the_normal_distribution():
    values_Q = np.random.default_rng(0).standard_normal(4000)
    found = interval(values_Q)
    half = 1.96 * values_Q.std() / math.sqrt(len(values_Q))
    assert found.mean == values_Q.mean()
    assert found.low == pytest.approx(found.mean - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)


def test_interval_is_seeded_and_narrows_with_the_level():
    values_Q = np.random.default_rng(0).standard_normal(50)
    assert interval(values_Q, seed=3) == interval(values_Q, seed=3)
    assert interval(values_Q, seed=3) != interval(values_Q, seed=4)
    wide, narrow = interval(values_Q, level=0.99), interval(values_Q, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_interval_of_one_value_has_no_width():
    found = interval([0.25])
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_difference_pairs_the_queries():
    random = np.random.default_rng(0)
    easy_Q = 10 * random.standard_normal(80)
    a_Q, b_Q = easy_Q + 0.5 + 0.1 * random.standard_normal(80), easy_Q
    paired = difference(a_Q, b_Q)
    assert paired.mean == pytest.approx((a_Q - b_Q).mean())
    assert 0.4 < paired.low < paired.high < 0.6
    assert difference(b_Q, a_Q).mean == -paired.mean


# linear datamodeling score


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0], ids=lambda n: f"noise={n}")
@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_lds_of_the_true_effects_is_the_ceiling(noise, seeds):
    effects_QN, subsets_SN, losses_SRQ = additive(seeds=seeds, noise=noise)
    found, best = lds(effects_QN, subsets_SN, losses_SRQ), ceiling(losses_SRQ)
    assert found.interval.mean == pytest.approx(best.ceiling, abs=ADDITIVE_NOISE[noise])
    true_reliability = seeds / (seeds + noise**2)
    assert best.reliability == pytest.approx(true_reliability, abs=2 * ADDITIVE_NOISE[noise])
    assert found.interval.low < found.interval.mean < found.interval.high


def test_lds_without_noise_is_one_and_its_sign_counts():
    effects_QN, subsets_SN, losses_SRQ = additive(noise=0.0)
    assert_matches(lds(effects_QN, subsets_SN, losses_SRQ).per_query_Q, np.ones(60))
    assert_matches(lds(-effects_QN, subsets_SN, losses_SRQ).per_query_Q, -np.ones(60))
    scaled = lds(7 * effects_QN + 3, subsets_SN, losses_SRQ)  # halves of one size: a shift is free
    assert_matches(scaled.per_query_Q, np.ones(60))
    assert ceiling(losses_SRQ).ceiling == pytest.approx(1.0)


def test_lds_of_random_scores_is_zero():
    _, subsets_SN, losses_SRQ = additive()
    random_QN = np.random.default_rng(9).standard_normal((60, 40))
    found = lds(random_QN, subsets_SN, losses_SRQ).interval
    assert abs(found.mean) < 5 / math.sqrt(99 * 60)
    assert found.low < 0 < found.high


def test_lds_of_noisier_scores_is_lower():
    effects_QN, subsets_SN, losses_SRQ = additive()
    noise_QN = np.random.default_rng(9).standard_normal(effects_QN.shape)
    means = [
        lds(effects_QN + sigma * noise_QN, subsets_SN, losses_SRQ).interval.mean
        for sigma in (0.0, 0.5, 2.0, 8.0)
    ]
    assert means == sorted(means, reverse=True)


def test_lds_by_hand():
    scores_QN = np.array([[3.0, 1.0, 0.0]])
    subsets_SN = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)
    losses_SRQ = np.array([[2.0, 4.0], [0.0, 2.0], [4.0, 6.0]])[..., None]  # means 3, 1, 5
    found = lds(scores_QN, subsets_SN, losses_SRQ)
    assert found.per_query_Q.tolist() == [0.5]  # ranks 3 2 1 against 2 3 1


def test_constant_losses_and_constant_scores_count_as_zero():
    effects_QN, subsets_SN, losses_SRQ = additive(queries=3)
    losses_SRQ[:, :, 1] = 5.0
    effects_QN[2] = 0.1  # its sums over halves differ by rounding alone
    found = lds(effects_QN, subsets_SN, losses_SRQ)
    assert found.per_query_Q[0] > 0.5
    assert found.per_query_Q[1:].tolist() == [0.0, 0.0]
    constant = ceiling(np.full((10, 3, 2), 0.3))
    assert (constant.split_half, constant.reliability, constant.ceiling) == (0.0, 0.0, 0.0)


def test_ceiling_of_pure_noise_is_low_and_of_one_seed_unknown():
    losses_SRQ = np.random.default_rng(0).standard_normal((100, 4, 60))
    assert ceiling(losses_SRQ).reliability < 0.05
    assert ceiling(losses_SRQ[:, :1]) is None
    reversed_SRQ = np.stack([losses_SRQ[:, 0], -losses_SRQ[:, 0]], axis=1)
    found = ceiling(reversed_SRQ)
    assert (found.split_half, found.ceiling) == (-1.0, 0.0)


def test_ceiling_ignores_what_a_seed_adds_to_all_subsets():
    _, _, losses_SRQ = additive()
    shifted_SRQ = losses_SRQ + 100 * np.arange(4)[None, :, None]
    assert ceiling(shifted_SRQ) == ceiling(losses_SRQ)


@pytest.mark.parametrize(
    ("seeds", "ways"), [(2, 1), (3, 3), (4, 3), (5, 15), (6, 10), (7, 20), (8, 20), (12, 20)]
)
def test_splits_are_disjoint_halves_each_once(seeds, ways):
    found = splits(seeds)
    assert len(found) == ways <= MOST_SPLITS
    assert len({frozenset(map(frozenset, split)) for split in found}) == ways
    for a, b in found:
        assert len(a) == len(b) == seeds // 2
        assert not set(a) & set(b)
        assert set(a) | set(b) <= set(range(seeds))
    assert splits(seeds) == found


# brittleness


def test_top_k_is_highest_first_with_ties_by_row():
    assert top_k(np.array([1.0, 3.0, 2.0, 3.0]), 3).tolist() == [1, 3, 2]
    assert top_k(np.array([1.0]), 0).tolist() == []


def test_brittleness_by_hand():
    removed_RQ = np.array([[2.0, 3.0, 5.0], [4.0, 3.0, 5.0]])
    random_DQ = np.array([[1.5, 2.0, 4.0], [0.5, 2.0, 4.0]])
    flipped_Q = np.array([True, False, True])
    found = brittleness(removed_RQ, np.array([1.0, 2.0, 3.0]), random_DQ, flipped_Q)
    assert found.rise_Q.tolist() == [2.0, 1.0, 2.0]
    assert found.rise.mean == pytest.approx(5 / 3)
    assert found.above_random.mean == pytest.approx((2 + 1 + 1) / 3)
    assert found.flips.mean == pytest.approx(2 / 3)
    assert found.rise.low <= found.rise.mean <= found.rise.high
    assert brittleness(removed_RQ, removed_RQ).above_random is None


def test_removing_the_true_proponents_raises_the_loss_more_than_others():
    effects_QN, _, _ = additive(noise=0.0)
    full_Q = 50 - effects_QN.sum(axis=1)
    random = np.random.default_rng(1)
    guesses_QN = random.standard_normal(effects_QN.shape)

    def without(scores_QN, k):
        return full_Q + np.array(
            [e[top_k(s, k)].sum() for e, s in zip(effects_QN, scores_QN, strict=True)]
        )

    removed = {
        (name, k): without(scores, k)
        for name, scores in (("true", effects_QN), ("guess", guesses_QN))
        for k in (1, 5)
    }
    by_chance = {5: np.stack([without(random.random(effects_QN.shape), 5) for _ in range(4)])}
    found = table(removed, full_Q, by_chance, {("true", 5): np.ones((1, 60), bool)})
    assert list(found) == list(removed)
    assert found["true", 5].rise.mean > found["true", 1].rise.mean > 1.0
    assert found["true", 5].above_random.low > 0
    assert found["guess", 5].above_random.low < 0 < found["guess", 5].above_random.high
    assert found["true", 5].flips.mean == 1.0
    assert found["true", 1].above_random is None


# tail-patch


def snapshot(model):
    """Everything that a step could leave behind: bytes, flags, gradients, which tensors they are."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [
        (name, id(value), value.requires_grad, value.grad is None, value.clone(), value._version)
        for name, value in named
    ], model.training


def assert_untouched(model, before):
    values, training = before
    assert model.training == training
    after, _ = snapshot(model)
    for old, new in zip(values, after, strict=True):
        assert old[:4] == new[:4]
        assert old[5] == new[5]
        assert torch.equal(old[4], new[4])


def log_probability(model, tokens, counted):
    logits_TV = model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
    losses_T = F.cross_entropy(logits_TV, tokens[1:], reduction="none")
    return -losses_T[counted[1:]].sum()


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2], ids=["llama", "gpt2-tied"])
def test_tail_patch_is_one_step_made_by_hand_and_leaves_the_model_alone(make):
    model, chunks, rate = make(), random_chunks(4, seed=1), 0.05
    documents, query = text.collate(chunks[:3], 0, extra_padding=2), text.collate(chunks[3:], 0)
    before = snapshot(model)
    found = tail_patch(model, documents, query, rate)
    assert_untouched(model, before)

    by_hand = make().requires_grad_(True)
    tensors = [(torch.as_tensor(c.tokens).long(), torch.as_tensor(c.loss)) for c in chunks]
    counted = sum(int(loss.sum()) for _, loss in tensors[:3])
    for tokens, loss in tensors[:3]:
        (-log_probability(by_hand, tokens, loss) / counted).backward()
    start = log_probability(by_hand, *tensors[3])
    torch.optim.SGD(by_hand.parameters(), lr=rate).step()
    expected = (log_probability(by_hand, *tensors[3]) - start).detach()
    assert abs(float(expected)) > 1e-4
    assert_matches(torch.tensor(found, dtype=torch.float64), expected)


def test_tail_patch_on_the_query_itself_raises_its_log_probability():
    model, query = toy_llama(), text.collate(random_chunks(1), 0)
    assert tail_patch(model, query, query, 0.05) > 0


def test_two_steps_one_after_the_other_give_the_same_as_each_alone():
    model, chunks = toy_llama(), random_chunks(3)
    batches = [text.collate([chunk], 0) for chunk in chunks]
    first = [tail_patch(model, document, batches[2], 0.1) for document in batches[:2]]
    assert [tail_patch(model, b, batches[2], 0.1) for b in batches[1::-1]] == first[::-1]


@pytest.mark.parametrize("call", [1, 2, 3], ids=["before", "documents", "after"])
def test_tail_patch_leaves_the_model_alone_when_a_pass_fails(call):
    model, batch, calls = toy_llama(), text.collate(random_chunks(2), 0), []

    def fail(*_):
        calls.append(None)
        if len(calls) == call:
            raise RuntimeError("out of memory")

    handle = model.get_submodule("model.layers.1.mlp").register_forward_hook(fail)
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        tail_patch(model, batch, batch, 0.1)
    handle.remove()
    assert_untouched(model, before)


def test_tail_patch_refuses_a_step_that_ends_in_nan():
    model, batch = toy_llama(), text.collate(random_chunks(2), 0)
    before = snapshot(model)
    with pytest.raises(InfluenceError, match="after a step of 1e\\+300 is NaN or infinite"):
        tail_patch(model, batch, batch, 1e300)
    assert_untouched(model, before)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_tail_patch_refuses_steps_that_are_none(rate):
    model, batch = toy_llama(), text.collate(random_chunks(2), 0)
    with pytest.raises(InfluenceError, match="positive numbers were expected"):
        tail_patch(model, batch, batch, rate)


# fact tracing


def test_facts_by_hand():
    scores_QN = np.array([[9.0, 5, 1, 0], [1, 2, 3, 4], [4, 4, 1, 0]])
    found = facts(scores_QN, [{0, 3}, [0, 2], (1,)], tops=(1, 2, 3))
    assert found.ranks_Q.tolist() == [1, 2, 2]
    assert found.mrr.mean == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert [found.recall[k].mean for k in (1, 2, 3)] == [pytest.approx(1 / 3), 1.0, 1.0]
    assert found.mrr.low <= found.mrr.mean <= found.mrr.high
    assert sorted(facts(scores_QN, [{0}, {1}, {2}]).recall) == [1, 5, 20]


def test_equal_scores_put_supports_last_whatever_their_rows():
    flat_QN = np.zeros((2, 10))
    assert best_ranks(flat_QN, [{0}, {9, 1}]).tolist() == [10, 9]


def test_opponents_are_found_by_the_negative_of_the_scores():
    scores_QN = np.array([[5.0, 0.0, -7.0]])
    assert best_ranks(-scores_QN, [{2}]).tolist() == [1]


# corruption


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3, 4], 1.0),
        ([4, 3, 2, 1], 0.0),
        ([1, 3, 2, 4], 0.75),
        ([5, 5, 5, 5], 0.5),
        ([1, 2, 2, 3], 0.875),
        ([2, 2, 2, 3], 0.75),
    ],
    ids=str,
)
def test_auroc_in_closed_form(values, expected):
    assert auroc(values, np.array([False, False, True, True])) == expected


def test_auroc_is_the_share_of_pairs_in_order():
    random = np.random.default_rng(0)
    values_N, flagged_N = np.round(random.standard_normal(60), 1), random.random(60) < 0.3
    pairs = values_N[flagged_N][:, None] - values_N[~flagged_N][None]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert auroc(values_N, flagged_N) == pytest.approx(expected, rel=1e-12)
    assert auroc(-values_N, flagged_N) == pytest.approx(1 - expected, rel=1e-12)


def test_corruption_sets_self_influence_beside_the_loss():
    random = np.random.default_rng(0)
    flagged_N = np.arange(400) < 40
    clear_N, vague_N = (random.standard_normal(400) + lift * flagged_N for lift in (3.0, 0.5))
    found = corruption(clear_N, vague_N, flagged_N, draws=500)
    assert found.self_influence.mean == auroc(clear_N, flagged_N) > 0.95
    assert found.self_influence.low < found.self_influence.mean < found.self_influence.high
    assert found.loss.low < stats.norm.cdf(0.5 / math.sqrt(2)) < found.loss.high
    assert found.difference.low > 0
    assert corruption(clear_N, clear_N, flagged_N, draws=50).difference.high == 0.0


def test_drawn_documents_count_ties_as_half():
    flagged_N = np.arange(50) < 10
    flat = corruption(np.ones(50), np.arange(50) % 3, flagged_N, draws=50)
    assert (flat.self_influence.low, flat.self_influence.high) == (0.5, 0.5)
    assert flat.loss.low < 0.5 < flat.loss.high


def test_the_interval_of_an_auroc_has_the_width_that_theory_gives():
    random = np.random.default_rng(1)
    flagged_N = np.arange(600) < 100
    values_N = random.standard_normal(600) + 1.0 * flagged_N
    found = corruption(values_N, values_N, flagged_N).self_influence
    a, p, m = found.mean, 100, 500  # Hanley & McNeil (1982), eq. 2
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt((a * (1 - a) + (p - 1) * (q1 - a * a) + (m - 1) * (q2 - a * a)) / (p * m))
    assert (found.high - found.low) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.2)


# sanity


def test_cardinality_is_one_without_overlap_and_least_when_all_queries_agree():
    apart_QN = np.kron(np.eye(4), np.ones(3))
    assert cardinality(apart_QN, 3) == 1.0
    assert cardinality(np.tile(np.arange(12.0), (4, 1)), 3) == 0.25
    assert cardinality(apart_QN, 12) == 0.25


def test_agreement_is_one_for_any_increasing_map_and_nothing_for_chance():
    random = np.random.default_rng(0)
    a_QN = random.standard_normal((30, 200))
    assert_matches(np.array(agreement(a_QN, np.exp(a_QN)).mean), np.array(1.0))
    assert_matches(np.array(agreement(a_QN, -a_QN).mean), np.array(-1.0))
    found = agreement(a_QN, random.standard_normal((30, 200)))
    assert found.low < 0 < found.high
    assert abs(found.mean) < 5 / math.sqrt(199 * 30)


# what is refused

NAN_QN = np.array([[1.0, float("nan")]])
HALF_SN = np.array([[True, False], [False, True]])
ONE_QN, TWO_QN = np.ones((1, 2)), np.ones((2, 2))
LOSSES_SRQ = np.ones((2, 1, 1))
REFUSED = {
    "nan-scores": (lambda: lds(NAN_QN, HALF_SN, LOSSES_SRQ), r"lds: scores: 1 of 2 values are NaN"),
    "nan-losses": (lambda: ceiling(NAN_QN[..., None]), r"first at \[S, R, Q\] = \[0, 1, 0\]"),
    "row-numbers": (lambda: lds(ONE_QN, np.ones((2, 2), int), LOSSES_SRQ), "booleans"),
    "documents": (lambda: lds(np.ones((1, 3)), HALF_SN, LOSSES_SRQ), "documents .*: 3 and 2"),
    "subsets": (lambda: lds(ONE_QN, HALF_SN, np.ones((3, 1, 1))), "subsets .*: 2 and 3"),
    "queries": (lambda: lds(TWO_QN, HALF_SN, LOSSES_SRQ), "queries .*: 2 and 1"),
    "axes": (lambda: lds(ONE_QN, HALF_SN, np.ones((2, 1))), r"\[S, R, Q\] with at least one"),
    "one-subset": (lambda: lds(ONE_QN, HALF_SN[:1], LOSSES_SRQ[:1]), "1 subset, at least 2"),
    "no-queries": (lambda: interval([]), r"bootstrap: values of shape \[0\]"),
    "level": (lambda: interval([1.0], level=95), "level 95; at least 1 draw"),
    "pairs": (lambda: difference([1.0], [1.0, 2.0]), "values of a and of b: 1 and 2"),
    "large-k": (lambda: top_k(np.ones(3), 4), "k = 4 of 3 documents"),
    "zero-k": (lambda: cardinality(ONE_QN, 0), "k = 0, at least 1"),
    "removed": (lambda: brittleness(np.ones(3), np.ones(2)), "queries .*: 3 and 2"),
    "no-support": (lambda: facts(ONE_QN, [set()]), "query 0: supports .* at least one row"),
    "support-row": (lambda: facts(ONE_QN, [{2}]), r"query 0: supports \[2\] of 2 documents"),
    "none-flagged": (lambda: auroc(np.ones(3), np.zeros(3, bool)), "0 of 3 documents are flagged"),
    "all-flagged": (lambda: auroc(np.ones(3), np.ones(3, bool)), "3 of 3 documents are flagged"),
    "agreement": (lambda: agreement(ONE_QN, np.ones((1, 3))), "documents of a and of b: 2 and 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_measures_refuse_input_that_has_no_answer(case):
    call, message = REFUSED[case]
    with pytest.raises(InfluenceError, match=message):
        call()


def test_measures_accept_tensors():
    effects_QN, subsets_SN, losses_SRQ = additive(queries=4)
    expected = lds(effects_QN, subsets_SN, losses_SRQ)
    tensors = [torch.from_numpy(x) for x in (effects_QN, subsets_SN, losses_SRQ)]
    assert lds(*tensors).interval == expected.interval
