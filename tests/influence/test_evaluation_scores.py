"""Measures against brute force: every pair is counted, every integral summed, every row drawn."""

import time
from functools import partial
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn import metrics
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from influence.errors import InfluenceError
from influence.evaluation import abstention, calibration, discrimination
from influence.evaluation.bootstrap import difference, interval, measure
from influence.evaluation.classes import f1_by_class, macro_f1_of
from influence.evaluation.discrimination import auroc_of, average_precision_of, mean_of
from tests.toys import assert_matches

STATISTICS = {
    "auroc": (auroc_of, roc_auc_score),
    "average precision": (average_precision_of, average_precision_score),
}


def rows(count=60, seed=0, *, levels=None):
    """Scores (with ties where `levels` are given), labels that follow them, and entities."""
    random = np.random.default_rng(seed)
    labels_N = random.random(count) < 0.4
    labels_N[:2] = True, False
    scores_N = random.normal(size=count) + labels_N
    if levels:
        scores_N = np.round(scores_N * levels) / levels
    return scores_N, labels_N, random.integers(0, count // 3, count)


def pairs(scores_N, labels_N, groups_N=None):
    won = total = 0.0
    groups_N = np.zeros(len(scores_N)) if groups_N is None else groups_N
    for i, j in product(range(len(scores_N)), repeat=2):
        if labels_N[i] and not labels_N[j] and groups_N[i] == groups_N[j]:
            won += (scores_N[i] > scores_N[j]) + 0.5 * (scores_N[i] == scores_N[j])
            total += 1
    return won / total


@pytest.mark.parametrize("levels", [None, 2], ids=["distinct", "ties"])
class TestDiscrimination:
    def test_auroc_counts_pairs(self, levels):
        scores_N, labels_N, _ = rows(levels=levels)
        assert_matches(discrimination.auroc(scores_N, labels_N), pairs(scores_N, labels_N))
        assert_matches(discrimination.auroc(scores_N, labels_N), roc_auc_score(labels_N, scores_N))

    def test_within_auroc_counts_pairs_of_a_group_only(self, levels):
        scores_N, labels_N, groups_N = rows(levels=levels)
        groups_N %= 4
        actual = discrimination.within_auroc(scores_N, labels_N, groups_N)
        assert_matches(actual, pairs(scores_N, labels_N, groups_N))
        shifted_N = scores_N + 10 * groups_N
        assert_matches(discrimination.within_auroc(shifted_N, labels_N, groups_N), actual)

    def test_average_precision_is_scikit_learns(self, levels):
        scores_N, labels_N, _ = rows(levels=levels)
        actual = discrimination.average_precision(scores_N, labels_N)
        assert_matches(actual, average_precision_score(labels_N, scores_N))

    @pytest.mark.parametrize("name", STATISTICS)
    def test_a_weight_of_two_is_a_row_twice(self, levels, name):
        make, reference = STATISTICS[name]
        scores_N, labels_N, _ = rows(levels=levels)
        weights_DN = np.random.default_rng(1).integers(0, 4, (5, len(scores_N)))
        expected = []
        for weights_N in weights_DN:
            drawn = np.repeat(np.arange(len(scores_N)), weights_N)
            expected.append(reference(labels_N[drawn], scores_N[drawn]))
        assert_matches(make(scores_N, labels_N)(weights_DN.astype(float)), np.array(expected))

    def test_rejection_ratio_weighs_rows_as_copies(self, levels):
        scores_N, labels_N, _ = rows(levels=levels)
        weights_N = np.random.default_rng(1).integers(0, 4, len(scores_N))
        drawn = np.repeat(np.arange(len(scores_N)), weights_N)
        statistic = abstention.rejection_ratio_of(scores_N, labels_N)
        expected = abstention.rejection_ratio(scores_N[drawn], labels_N[drawn])
        assert_matches(statistic(weights_N[None].astype(float))[0], expected)

    def test_rejection_ratio_is_a_ratio_of_areas(self, levels):
        scores_N, labels_N, _ = rows(levels=levels)
        random = np.random.default_rng(2)

        def area(order_score_N):  # many copies of each row, in random order where equal
            copies = 2000
            order = np.lexsort(
                (random.random(len(scores_N) * copies), -np.repeat(order_score_N, copies))
            )
            wrong = np.repeat(labels_N, copies)[order].astype(float)
            return (wrong.cumsum() / np.arange(1, len(wrong) + 1)).mean()

        chance, best, own = area(np.zeros(60)), area(-labels_N.astype(float)), area(-scores_N)
        actual = abstention.rejection_ratio(-scores_N, labels_N)
        assert abs(actual - (chance - own) / (chance - best)) < 5e-3


def test_perfect_and_useless_confidence():
    labels_N = np.arange(40) % 4 == 0
    assert_matches(abstention.rejection_ratio(-labels_N.astype(float), labels_N), 1.0)
    assert abs(abstention.rejection_ratio(np.zeros(40), labels_N)) < 1e-12
    assert abstention.rejection_ratio(labels_N.astype(float), labels_N) < -0.5


def test_twin_accuracy_counts_twins():
    twins = ["a", "a", "b", "b", "c", "c", "d"]
    labels = [1, 0, 1, 0, 0, 1, 1]
    scores = [2.0, 1.0, 0.0, 3.0, 1.0, 1.0, 9.0]
    assert_matches(discrimination.twin_accuracy(scores, labels, twins), 0.5)
    weights = np.array([[2.0, 2, 1, 1, 0, 0, 5]])
    assert_matches(discrimination.twin_accuracy_of(scores, labels, twins)(weights)[0], 2 / 3)


class TestBootstrap:
    @pytest.mark.parametrize("name", STATISTICS)
    def test_draws_entities_with_all_their_rows(self, name):
        make, reference = STATISTICS[name]
        scores_N, labels_N, entities_N = rows(90)
        found = interval(make(scores_N, labels_N), entities_N, draws=4000)
        random, names = np.random.default_rng(5), np.unique(entities_N)
        values = []
        for _ in range(400):
            drawn = np.concatenate(
                [np.flatnonzero(entities_N == e) for e in random.choice(names, len(names))]
            )
            values.append(reference(labels_N[drawn], scores_N[drawn]))
        low, high = np.quantile(values, [0.025, 0.975])
        assert_matches(found.value, reference(labels_N, scores_N))
        assert abs(found.low - low) < 0.02
        assert abs(found.high - high) < 0.02
        assert found.clusters == len(names)

    def test_rows_that_say_the_same_make_the_interval_no_smaller(self):
        scores_N, labels_N, _ = rows(60)
        alone = interval(auroc_of(scores_N, labels_N), np.arange(60))
        four = [np.repeat(x, 4) for x in (scores_N, labels_N, np.arange(60))]
        copied = interval(auroc_of(*four[:2]), four[2])
        naive = interval(auroc_of(*four[:2]), np.arange(240))
        assert_matches([copied.low, copied.high], [alone.low, alone.high])
        assert naive.high - naive.low < 0.6 * (alone.high - alone.low)

    def test_a_difference_is_paired(self):
        scores_N, labels_N, entities_N = rows(60)
        better_N = scores_N + 0.2 * labels_N
        a, b = auroc_of(better_N, labels_N), auroc_of(scores_N, labels_N)
        paired = difference(a, b, entities_N)
        single = interval(a, entities_N)
        assert paired.low > 0
        assert paired.high - paired.low < (single.high - single.low) / 2
        same = difference(a, a, entities_N)
        assert (same.low, same.value, same.high) == (0, 0, 0)

    def test_covers_the_truth_as_often_as_it_says(self):
        truth = 0.7602499389065233  # P(z < 1 / sqrt 2)
        random, inside = np.random.default_rng(0), 0
        for _ in range(200):
            labels_N = np.arange(100) % 2 == 0
            found = interval(
                auroc_of(random.normal(size=100) + labels_N, labels_N), np.arange(100), draws=300
            )
            inside += found.low <= truth <= found.high
        assert 180 <= inside <= 198

    def test_is_fast(self):
        scores_N, labels_N, _ = rows(1000)
        begun = time.process_time()
        interval(auroc_of(scores_N, labels_N), np.arange(1000) // 2)
        assert time.process_time() - begun < 2.0

    def test_blocks_change_nothing(self, monkeypatch):
        scores_N, labels_N, entities_N = rows(60)
        whole = interval(auroc_of(scores_N, labels_N), entities_N, draws=50)
        monkeypatch.setattr("influence.evaluation.bootstrap.BLOCK", 180)
        assert interval(auroc_of(scores_N, labels_N), entities_N, draws=50) == whole

    def test_draws_of_one_label_are_counted_not_averaged(self):
        found = interval(auroc_of([1.0, 2, 0, 3], [1, 1, 0, 0]), ["a", "b", "c", "c"])
        assert found.skipped > 0
        assert found.low <= found.value <= found.high
        few = interval(auroc_of([1.0, 2], [1, 0]), ["a", "b"])
        assert few.value == 0
        assert few.skipped > 0
        assert np.isnan(interval(auroc_of([1.0, 2], [1, 0]), ["a", "a"]).low)


class TestMissing:
    def test_nan_is_left_out_and_counted(self):
        scores_N, labels_N, entities_N = rows(60)
        holed_N = np.append(scores_N, [np.nan, np.nan])
        found = measure(
            auroc_of, holed_N, np.append(labels_N, [1, 0]), np.append(entities_N, [0, 1])
        )
        assert_matches(found.value, pairs(scores_N, labels_N))
        assert (found.rows, found.missing, found.reason) == (60, 2, None)

    def test_one_class_is_nan_with_a_reason(self):
        found = measure(auroc_of, [1.0, np.nan], [1, 0], ["a", "b"])
        assert np.isnan(found.value)
        assert "both 0 and 1" in found.reason
        assert found.missing == 1
        none = measure(auroc_of, [np.nan], [1], ["a"])
        assert np.isnan(none.value)
        assert none.reason == "all 1 scores are NaN"

    def test_groups_go_with_their_rows(self):
        found = measure(
            discrimination.within_auroc_of,
            [1.0, 0.0, np.nan, 5.0, 6.0],
            [1, 0, 1, 1, 0],
            list("abcde"),
            list("xxxyy"),
        )
        assert_matches(found.value, 0.5)


class TestCalibration:
    def test_brier_is_scikit_learns(self):
        scores_N, labels_N, _ = rows()
        p_N = calibration.sigmoid(scores_N)
        assert_matches(calibration.brier(p_N, labels_N), brier_score_loss(labels_N, p_N))

    def test_ece_over_ten_bins_of_equal_mass(self):
        random = np.random.default_rng(0)
        p_N = random.permutation(np.arange(200)) / 200
        labels_N = random.random(200) < 0.5
        order = np.argsort(p_N).reshape(10, 20)
        expected = np.mean([abs(p_N[rows].mean() - labels_N[rows].mean()) for rows in order])
        assert_matches(calibration.ece(p_N, labels_N), expected)

    def test_equal_probabilities_share_a_bin(self):
        p_N = np.repeat([0.1, 0.2, 0.9], [45, 5, 50])
        found = calibration.reliability(p_N, np.arange(100) % 2 == 0)
        assert [(one.low, one.high, one.rows) for one in found] == [
            (0.1, 0.1, 45),
            (0.2, 0.2, 5),
            (0.9, 0.9, 50),
        ]

    def test_ece_of_true_probabilities_is_small_and_of_wrong_ones_is_not(self):
        p_N = np.random.default_rng(0).random(20_000)
        labels_N = np.random.default_rng(1).random(20_000) < p_N
        assert calibration.ece(p_N, labels_N) < 0.015
        assert_matches(calibration.ece(np.ones(4), [1, 0, 0, 0]), 0.75)

    @pytest.mark.parametrize("seed", range(3))
    def test_platt_is_the_best_curve_for_its_targets(self, seed):
        scores_N, labels_N, _ = rows(80, seed)
        scores_N = 30 * scores_N + 500
        ones, zeros = labels_N.sum(), (~labels_N).sum()
        target_N = np.where(labels_N, (ones + 1) / (ones + 2), 1 / (zeros + 2))

        def loss(ab):
            z = ab[0] * (scores_N - 500) / 30 + ab[1]
            return (np.logaddexp(0, z) - target_N * z).sum()

        best = minimize(loss, [0, 0], tol=1e-12).x
        found = calibration.fit_platt(scores_N, labels_N)
        expected_N = calibration.sigmoid(best[0] * (scores_N - 500) / 30 + best[1])
        assert np.abs(found.probabilities(scores_N) - expected_N).max() < 1e-5

    def test_platt_stays_finite_where_labels_are_separated(self):
        found = calibration.fit_platt([0.0, 1, 2, 3], [0, 0, 1, 1])
        assert 0 < found.slope < 10

    def test_platt_does_not_hide_scores_that_speak_against_the_labels(self):
        scores_N, labels_N, _ = rows(80)
        assert calibration.fit_platt(-scores_N, labels_N).slope < 0

    @pytest.mark.parametrize("kind", calibration.FITS)
    def test_calibrates_held_out_rows(self, kind):
        random = np.random.default_rng(0)
        log_odds_N = random.normal(size=20_000)
        labels_N = random.random(20_000) < calibration.sigmoid(log_odds_N)
        folds_N = np.arange(20_000) % 5
        raw_N = calibration.sigmoid(4 * log_odds_N)
        p_N = calibration.cross_fitted(4 * log_odds_N, labels_N, folds_N, kind)
        assert calibration.ece(p_N, labels_N) < 0.02 < calibration.ece(raw_N, labels_N)

    def test_a_folds_own_labels_do_not_calibrate_it(self):
        scores_N, labels_N, _ = rows(100)
        folds_N = np.arange(100) % 5
        flipped_N = np.where(folds_N == 2, ~labels_N, labels_N)
        one, other = (calibration.cross_fitted(scores_N, y, folds_N) for y in (labels_N, flipped_N))
        assert (one[folds_N == 2] == other[folds_N == 2]).all()
        assert (one[folds_N == 1] != other[folds_N == 1]).all()

    @pytest.mark.parametrize("kind", calibration.FITS)
    def test_curves_are_plain_numbers_and_keep_nan(self, kind):
        scores_N, labels_N, _ = rows(60, levels=4)
        curve = calibration.FITS[kind](scores_N, labels_N)
        assert calibration.calibration_of(curve.plain()) == curve
        p = curve.probabilities([-99.0, 0.0, np.nan, 99.0])
        assert np.isnan(p[2])
        assert 0 <= p[0] <= p[1] <= p[3] <= 1

    def test_isotonic_rises_and_averages(self):
        curve = calibration.fit_isotonic([0.0, 1, 2, 3], [0, 1, 0, 1])
        assert_matches(curve.probabilities([0.0, 1, 2, 3]), np.array([0, 0.5, 0.5, 1.0]))


class TestAbstention:
    def test_risk_coverage_of_five(self):
        coverage, risk = abstention.risk_coverage([5.0, 4, 4, 2, 1], [0, 1, 0, 0, 1])
        assert_matches(coverage, np.array([0.2, 0.6, 0.8, 1.0]))
        assert_matches(risk, np.array([0, 1 / 3, 0.25, 0.4]))

    def test_threshold_of_the_largest_coverage(self):
        confidence, wrong = [5.0, 4, 3, 2, 1], [0, 1, 0, 0, 1]
        found = abstention.choose_threshold(confidence, wrong, 0.25)
        assert (found.threshold, found.coverage, found.risk) == (2.0, 0.8, 0.25)
        assert found.bound > found.risk
        assert abstention.kept_risk(found, [9.0, 2.0, 1.0], [1, 0, 1]) == (2 / 3, 0.5)

    def test_a_few_sure_rows_are_no_evidence_of_a_risk(self):
        confidence, wrong = np.arange(30.0)[::-1], [0] * 6 + [1] * 4 + [0] * 20
        assert abstention.choose_threshold(confidence, wrong, 0.0).coverage == 0.2
        assert np.isinf(abstention.choose_threshold(confidence, wrong, 0.0, least=7).threshold)
        assert abstention.choose_threshold(confidence, wrong, 0.2, least=7).coverage == 1

    def test_an_impossible_risk_answers_nothing(self):
        found = abstention.choose_threshold([1.0, 2], [0, 1], 0.1)
        assert (found.threshold, found.coverage) == (np.inf, 0)
        assert np.isnan(found.risk)

    def test_threshold_holds_on_other_rows(self):
        random = np.random.default_rng(0)
        p_N = random.random(40_000)
        wrong_N = random.random(40_000) > p_N
        found = abstention.choose_threshold(p_N[:20_000], wrong_N[:20_000], 0.2)
        coverage, risk = abstention.kept_risk(found, p_N[20_000:], wrong_N[20_000:])
        assert abs(risk - 0.2) < 0.02
        assert abs(coverage - 0.4) < 0.02


BAD = {
    "one class": (discrimination.auroc, ([1.0, 2], [1, 1]), "all 2 labels are 1"),
    "one class, precision": (discrimination.average_precision, ([1.0], [0]), "labels are 0"),
    "one class, ratio": (abstention.rejection_ratio, ([1.0], [0]), "labels are 0"),
    "one class, Platt": (calibration.fit_platt, ([1.0, 2], [0, 0]), "all 2 labels are 0"),
    "no mixed group": (discrimination.within_auroc, ([1.0, 2], [1, 0], "ab"), "none of the 2 gro"),
    "no twins": (discrimination.twin_accuracy, ([1.0, 2], [1, 0], "ab"), "no two rows"),
    "NaN": (discrimination.auroc, ([1.0, np.nan], [1, 0]), "1 of 2 scores are NaN"),
    "infinite": (calibration.fit_platt, ([1.0, np.inf], [1, 0]), "1 of 2 scores are infinite"),
    "labels": (discrimination.auroc, ([1.0, 2], ["right", "wrong"]), "label 'right', 0 or 1"),
    "lengths": (discrimination.auroc, ([1.0, 2], [1]), "one score and one label a row"),
    "no rows": (discrimination.auroc, ([], []), "at least one row"),
    "groups": (discrimination.within_auroc, ([1.0, 2], [1, 0], "a"), "1 given for 2 rows"),
    "probability": (calibration.ece, ([1.5], [1]), "probability 1.5, 0 to 1"),
    "no bins": (partial(calibration.ece, bins=0), ([0.5], [1]), "0 bins"),
    "curve": (calibration.calibration_of, ({"kind": "spline"},), "platt or isotonic"),
    "risk": (abstention.choose_threshold, ([1.0], [1], 20), "risk 20"),
    "no draws": (interval, (mean_of([1.0]), ["a"], 0), "0 draws of 1 rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_reason(name):
    call, given, message = BAD[name]
    with pytest.raises(InfluenceError, match=message):
        call(*given)


# -- classes --------------------------------------------------------------------------------------


def test_f1_is_scikit_learns_and_a_row_that_counts_twice_stands_twice():
    draw = np.random.default_rng(0)
    known = draw.choice(["a", "b", "c"], 60).tolist()
    said = draw.choice(["a", "b", "d"], 60).tolist()  # c is never named, d is no class
    classes, f1_DC = f1_by_class(said, known)
    assert classes == ("a", "b", "c")
    expected = metrics.f1_score(known, said, labels=classes, average=None, zero_division=0)
    np.testing.assert_allclose(f1_DC[0], expected)
    times = draw.integers(0, 3, 60)
    repeated = metrics.f1_score(
        np.repeat(known, times), np.repeat(said, times), labels=classes, average="macro"
    )
    both = np.stack([times.astype(float), np.ones(60)])
    np.testing.assert_allclose(macro_f1_of(said, known)(both), [repeated, expected.mean()])


def test_f1_needs_as_many_names_as_rows():
    with pytest.raises(InfluenceError, match="2 names for 1 rows"):
        f1_by_class(["a", "b"], ["a"])
    with pytest.raises(InfluenceError, match="at least one"):
        f1_by_class([], [])
