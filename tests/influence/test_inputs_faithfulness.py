"""Measures of a ranking, from tables whose answers are known by hand or by a slow loop."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from influence.errors import InputError
from influence.inputs import designs
from influence.inputs import faithfulness as f
from influence.inputs.choice import METHODS
from tests.toys import assert_matches

EFFECT_U = np.array([0.5, 4.0, -1.0, 2.0])


def additive(kept_MU):
    return 3.0 + kept_MU @ EFFECT_U


def bent(kept_MU):
    return np.tanh(kept_MU @ np.linspace(-1, 2, kept_MU.shape[1])) + kept_MU[:, 0] * kept_MU[:, -1]


def exact_table(game=additive):
    kept_MU = designs.every_mask(4)
    return kept_MU, game(kept_MU)


# curves


def test_curves_of_a_complete_table_follow_the_ranking():
    found = f.measure(*exact_table(), EFFECT_U)  # best first: 1, 3, 0, 2
    assert found.deletion.exact
    assert found.insertion.exact
    assert_matches(found.deletion.shares_K, np.array([0, 0.25, 0.5, 0.75, 1]))
    assert_matches(found.deletion.values_K, np.array([8.5, 4.5, 2.5, 2.0, 3.0]))
    assert_matches(found.insertion.values_K, np.array([3.0, 7.0, 9.0, 9.5, 8.5]))
    assert_matches(found.deletion.errors_K, np.zeros(5))
    assert found.deletion.area == pytest.approx((8.5 / 2 + 4.5 + 2.5 + 2.0 + 3.0 / 2) / 4)


def test_the_random_line_of_exact_curves_is_the_mean_of_other_rows_of_each_size():
    kept_MU, values_M = exact_table(bent)
    found = f.measure(kept_MU, values_M, EFFECT_U)
    own = {(1,), (1, 3), (0, 1, 3), (0, 2, 3), (0, 2), (2,)}  # of both curves
    for step, expected in enumerate(found.insertion.random_K):
        groups = [g for g in itertools.combinations(range(4), step) if g not in own or step == 0]
        masks_NU = np.array([[u in g for u in range(4)] for g in groups])
        assert expected == pytest.approx(bent(masks_NU).mean())
    assert_matches(found.deletion.random_K, found.insertion.random_K[::-1].copy())


@pytest.mark.parametrize("units", [1, 2, 7, 20, 33])
def test_curve_masks_make_curves_exact(units):
    scores_U = np.random.default_rng(units).standard_normal(units)
    kept_MU = f.curve_masks(scores_U)
    assert kept_MU[0].all()
    assert len(np.unique(kept_MU, axis=0)) == len(kept_MU) <= min(2 * units, 40)
    found = f.measure(kept_MU, bent(kept_MU), scores_U)
    best = np.argsort(-scores_U)
    for curve, keeps in ((found.insertion, True), (found.deletion, False)):
        assert curve.exact
        assert len(curve.values_K) == min(units, 20) + 1
        for share, value in zip(curve.shares_K, curve.values_K, strict=True):
            mask_U = np.full(units, not keeps)
            mask_U[best[: round(share * units)]] = keeps
            assert value == pytest.approx(bent(mask_U[None])[0])
    assert np.isnan(found.deletion.random_K[1:-1]).all()  # no other row of these sizes
    assert found.deletion.random_K[0] == found.deletion.values_K[0]


def test_curve_masks_of_random_rankings_give_the_random_line():
    scores_U = np.arange(9.0)
    kept_MU = f.curve_masks(scores_U, random_rankings=4, seed=1)
    found = f.measure(kept_MU, kept_MU @ scores_U, scores_U)
    assert np.isfinite(found.deletion.random_K).all()
    assert (found.deletion.random_K[1:-1] > found.deletion.values_K[1:-1]).all()
    assert (found.insertion.random_K[1:-1] < found.insertion.values_K[1:-1]).all()


def test_curves_over_random_contexts_are_means_of_the_rows_that_agree():
    kept_MU = designs.paired_random(10, 100, 0)
    values_M = bent(kept_MU)
    scores_U = np.arange(10.0)[::-1].copy()  # best first: 0, 1, ...
    found = f.measure(kept_MU, values_M, scores_U)
    assert not found.deletion.exact
    for curve, state in ((found.deletion, False), (found.insertion, True)):
        steps = len(curve.values_K)
        assert 3 <= steps < 11
        for k in range(steps):
            rows = [i for i, m in enumerate(kept_MU) if all(m[u] == state for u in range(k))]
            drawn = values_M[rows]
            assert curve.values_K[k] == pytest.approx(drawn.mean())
            assert curve.errors_K[k] == pytest.approx(drawn.std(ddof=1) / math.sqrt(len(rows)))
            assert len(rows) >= f.LEAST_CONTEXTS
        rows = [m for m in kept_MU if all(m[u] == state for u in range(steps))]
        assert len(rows) < f.LEAST_CONTEXTS


def test_the_random_line_of_averaged_curves_lies_between_the_best_and_the_worst_ranking():
    kept_MU = designs.paired_random(10, 200, 0)
    scores_U = np.linspace(-1, 3, 10)
    best = f.measure(kept_MU, kept_MU @ scores_U, scores_U)
    worst = f.measure(kept_MU, kept_MU @ scores_U, -scores_U)
    for k in (1, 2, 3):
        assert best.deletion.values_K[k] < best.deletion.random_K[k] < worst.deletion.values_K[k]
        assert best.insertion.values_K[k] > best.insertion.random_K[k] > worst.insertion.values_K[k]


def test_curves_are_none_where_the_table_does_not_tell():
    kept_MU = designs.leave_one_out(12)
    found = f.measure(kept_MU, bent(kept_MU), np.arange(12.0))
    assert found.deletion is None


# effects


def test_comprehensiveness_and_sufficiency_are_those_of_eraser_where_masks_stand():
    found = f.measure(*exact_table(), EFFECT_U, shares=(0.25, 0.5, 1.0))
    values = {share: e.value for share, e in found.comprehensiveness.items()}
    assert values == {0.25: pytest.approx(4.0), 0.5: pytest.approx(6.0), 1.0: pytest.approx(5.5)}
    values = {share: e.value for share, e in found.sufficiency.items()}
    assert values == {0.25: pytest.approx(1.5), 0.5: pytest.approx(-0.5), 1.0: pytest.approx(0.0)}
    assert found.comprehensiveness[0.25].exact
    assert found.comprehensiveness[0.25].error == 0
    assert found.comprehensiveness_aopc == pytest.approx(15.5 / 3)
    assert found.sufficiency_aopc == pytest.approx(1 / 3)


def test_aopc_counts_each_number_of_units_once():
    found = f.measure(*exact_table(), EFFECT_U, shares=(0.01, 0.05, 0.25, 0.5))
    assert found.comprehensiveness_aopc == pytest.approx((4.0 + 6.0) / 2)


def test_effects_over_random_contexts_hold_the_truth_as_often_as_they_say():
    effect_U = np.linspace(-1, 3, 9)
    inside = []
    for seed in range(200):
        kept_MU = designs.paired_random(9, 80, seed)
        kept_MU = kept_MU[kept_MU.sum(axis=1) != 7]  # or else the effect may be exact
        found = f.effect(kept_MU, kept_MU @ effect_U, np.array([2, 8]))
        assert not found.exact
        inside.append(abs(found.value - effect_U[[2, 8]].sum()) <= 2 * found.error)
    assert np.mean(inside) >= 0.93


def test_effects_over_random_contexts_are_differences_of_means():
    kept_MU = designs.paired_random(9, 60, 0)
    values_M = bent(kept_MU)
    found = f.effect(kept_MU, values_M, np.array([1, 4]))
    with_them = values_M[kept_MU[:, 1] & kept_MU[:, 4]]
    without = values_M[~kept_MU[:, 1] & ~kept_MU[:, 4]]
    assert found.value == pytest.approx(with_them.mean() - without.mean())
    variance = with_them.var(ddof=1) / len(with_them) + without.var(ddof=1) / len(without)
    assert found.error == pytest.approx(math.sqrt(variance))


def test_effects_are_none_without_enough_contexts():
    kept_MU = designs.leave_one_out(8)
    found = f.measure(kept_MU, bent(kept_MU), np.arange(8.0), shares=(0.1, 0.5))
    assert found.comprehensiveness[0.1].exact
    assert found.comprehensiveness[0.5] is None
    assert found.comprehensiveness_aopc is None
    assert found.completeness_error is None


# single numbers


def test_r_squared_rank_agreement_and_completeness():
    values_M, predicted_M = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.0, 2.5, 3.0, 3.5])
    assert f.r_squared(predicted_M, values_M) == pytest.approx(1 - (0.25 + 1 + 0.25) / 5)
    assert f.r_squared(values_M, values_M) == 1
    assert f.r_squared(np.full(4, values_M.mean()), values_M) == 0
    assert f.r_squared(predicted_M, np.full(4, 0.1)) is None
    assert f.r_squared(predicted_M[:2], values_M[:2]) is None
    expected = spearmanr(predicted_M, values_M).statistic
    assert f.rank_agreement(predicted_M, values_M) == pytest.approx(expected)
    assert f.rank_agreement(np.zeros(4), values_M) == 0
    assert f.rank_agreement(predicted_M, np.full(4, 0.1)) is None
    kept_MU, game_M = exact_table()
    assert f.completeness_error(kept_MU, game_M, EFFECT_U) == pytest.approx(0)
    assert f.completeness_error(kept_MU, game_M, EFFECT_U + 0.5) == pytest.approx(2)


def test_lds_is_measured_on_held_out_rows_only():
    kept_MU, values_M = exact_table()
    scores_U = np.array([0.0, 1.0, 2.0, 0.3])
    held_M = np.arange(16) % 2 == 1
    found = f.measure(kept_MU, values_M, scores_U, heldout_M=held_M)
    expected = spearmanr((kept_MU @ scores_U)[held_M], values_M[held_M]).statistic
    assert found.lds == pytest.approx(expected)
    assert f.measure(kept_MU, values_M, EFFECT_U).lds == pytest.approx(1)


def test_sensitivity_is_the_mean_relative_change():
    scores_U = np.array([3.0, 4.0])
    assert f.sensitivity(scores_U, np.array([[3.0, 4.0], [3.0, 9.0]])) == pytest.approx(0.5)
    assert f.sensitivity(np.zeros(2), np.ones((3, 2))) is None


def test_equal_scores_rank_in_the_order_of_the_text():
    assert f.ranking(np.array([1.0, 2.0, 1.0, 2.0])).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("scores_U", [np.zeros(3), np.array([0, np.nan, 0, 0])])
def test_scores_that_do_not_fit_the_table_are_refused(scores_U):
    with pytest.raises(InputError, match="one finite score for each of 4 units"):
        f.measure(*exact_table(), scores_U)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if hasattr(m, "design")])
@pytest.mark.parametrize("units", [1, 2, 12])
def test_measures_read_the_table_of_every_method(name, units):
    method = METHODS[name]
    kept_MU = method.design(units, 64, 0)
    values_M = bent(kept_MU)
    found = f.measure(kept_MU, values_M, method.solve(kept_MU, values_M, 0).scores_U)
    for curve in (found.deletion, found.insertion):
        if curve is not None:
            assert np.isfinite(curve.values_K).all()
            assert np.isfinite(curve.errors_K).all()
