"""Predicted against measured changes: on least squares both are known in closed form."""

import numpy as np
import pytest

from influence.errors import InfluenceError
from influence.mixture.forgetting import (
    CORRELATIONS,
    agreement,
    beside_groups,
    ceiling,
    cells,
    named,
    pearson,
    relations,
    task_means,
)
from tests.toys import assert_matches

GROUPS, TASKS, EACH = 5, 3, 8


@pytest.fixture(scope="module")
def linear():
    """Ridge regression: groups of documents, each with an inclination; exact retraining without one."""
    generator = np.random.default_rng(0)
    size, per = 12, 40  # beside the groups, 600 documents that always stay
    truth = generator.normal(size=size)
    inclined = generator.normal(size=(GROUPS, size)) * 0.8
    x = generator.normal(size=(GROUPS, per, size)) + inclined[:, None]
    y = x @ truth + generator.normal(size=(GROUPS, per)) + 0.3 * np.arange(GROUPS)[:, None]
    x_q = generator.normal(size=(TASKS * EACH, size)) + np.repeat(inclined[:TASKS], EACH, axis=0)
    y_q = x_q @ truth + 0.3 * np.repeat(np.arange(TASKS), EACH)

    rest_x = generator.normal(size=(600, size))
    rest_y = rest_x @ truth + generator.normal(size=600)

    def fit(kept):
        own_x = np.concatenate([rest_x, x[kept].reshape(-1, size)])
        own_y = np.concatenate([rest_y, y[kept].reshape(-1)])
        hessian = own_x.T @ own_x + np.eye(size)
        return np.linalg.solve(hessian, own_x.T @ own_y), hessian

    whole, hessian = fit(np.arange(GROUPS))
    gradient_Q = (x_q @ whole - y_q)[:, None] * x_q
    gradient_GN = ((x @ whole) - y)[..., None] * x
    # influence of a document: grad f (H)^-1 grad L; removing it raises f by that
    score_GQ = np.einsum("qp,pr,gnr->gq", gradient_Q, np.linalg.inv(hessian), gradient_GN)
    losses = [
        0.5 * (x_q @ fit(np.delete(np.arange(GROUPS), g))[0] - y_q) ** 2 for g in range(GROUPS)
    ]
    change_GQ = np.stack(losses) - 0.5 * (x_q @ whole - y_q) ** 2
    return score_GQ, change_GQ, np.repeat(np.arange(TASKS), EACH)


def test_influence_predicts_exact_retraining(linear):
    score_GQ, change_GQ, task_Q = linear
    predicted_GT = task_means(score_GQ, task_Q)
    measured_GRT = task_means(change_GQ, task_Q)[:, None]
    for name, correlation in CORRELATIONS.items():
        found = agreement(correlation, predicted_GT, measured_GRT)
        assert found.value > 0.9, name
        assert found.low <= found.value <= found.high
        wrong = agreement(correlation, -predicted_GT, measured_GRT)
        assert wrong.value < -0.9, f"{name}: the sign counts"


def test_an_offset_of_a_task_is_left_out(linear):
    score_GQ, change_GQ, task_Q = linear
    predicted_GT, measured_GT = task_means(score_GQ, task_Q), task_means(change_GQ, task_Q)
    shifted_GT = predicted_GT + 100 * np.array([1, -1, 0])
    spearman = CORRELATIONS["spearman"]
    assert agreement(spearman, shifted_GT, measured_GT[:, None]).value < 0.5
    found = agreement(spearman, beside_groups(shifted_GT), beside_groups(measured_GT[:, None]))
    assert found.value > 0.9
    assert_matches(beside_groups(shifted_GT).mean(axis=0) + 1, np.ones(3))


def test_named_is_the_group_whose_absence_hurts_most(linear):
    score_GQ, change_GQ, task_Q = linear
    measured = cells(change_GQ[:, None].repeat(2, axis=1), task_Q)
    change_GT = task_means(change_GQ, task_Q)
    for task, one in enumerate(named(task_means(score_GQ, task_Q), measured)):
        assert one.predicted == task_means(score_GQ, task_Q)[:, task].argmax()
        assert one.measured == change_GT[:, task].argmax()
        others = np.delete(change_GT[:, task], one.predicted)
        assert one.margin.value == pytest.approx(change_GT[one.predicted, task] - others.max())
        assert (one.margin.value > 0) == (one.predicted == one.measured)
        assert one.margin.low <= one.margin.value <= one.margin.high


def test_task_means_are_means_over_a_tasks_queries():
    values_GQ = np.arange(8.0).reshape(2, 4)
    assert_matches(task_means(values_GQ, np.array([1, 0, 1, 1])), [[1, 5 / 3], [5, 17 / 3]])


def test_an_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(3)
    seeds, each, held, tries = 6, 12, 0, 200
    for trial in range(tries):
        noise = generator.normal(size=(1, seeds, each))
        found = cells(noise + 0.5, np.zeros(each, int), seed=trial, draws=300).estimate(0, 0)
        held += found.low <= 0.5 <= found.high
    assert 0.87 <= held / tries  # percentile intervals of few seeds are somewhat narrow


def test_one_seed_gives_no_interval_and_two_do():
    change_GRQ = np.random.default_rng(0).normal(size=(3, 2, 6))
    task_Q = np.array([0, 0, 0, 1, 1, 1])
    alone = cells(change_GRQ[:, :1], task_Q).estimate(1, 0)
    assert (alone.low, alone.high) == (None, None)
    assert alone.value == pytest.approx(change_GRQ[1, 0, :3].mean())
    both = cells(change_GRQ, task_Q).estimate(1, 0)
    assert both.value == pytest.approx(change_GRQ[1, :, :3].mean())
    assert both.low < both.value < both.high


def test_two_groups_have_a_correlation_without_an_interval():
    predicted_GT = np.array([[1.0, 2.0], [3.0, 5.0]])
    found = agreement(CORRELATIONS["spearman"], predicted_GT, predicted_GT[:, None])
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_two_cells_have_no_correlation():
    found = agreement(pearson, np.array([[1.0, 2.0]]), np.array([[[1.0, 2.0]]]))
    assert found.value is None


def test_a_constant_prediction_has_no_pearson_correlation():
    assert np.isnan(pearson(np.ones((1, 4)), np.arange(4.0)[None]))[0]
    generator = np.random.default_rng(2)
    a_XS, b_XS = generator.normal(size=(2, 3, 9))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(a_XS, b_XS, strict=True)]
    assert_matches(pearson(a_XS, b_XS), expected)


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_the_ceiling_is_what_the_truth_itself_reaches(noise):
    generator = np.random.default_rng(4)
    truth_GT = generator.normal(size=(40, 30))
    measured_GRT = truth_GT[:, None] + noise * generator.normal(size=(40, 4, 30))
    reached = agreement(CORRELATIONS["spearman"], truth_GT, measured_GRT, draws=2).value
    assert abs(ceiling(measured_GRT) - reached) < 0.03


def test_the_ceiling_needs_two_seeds():
    assert ceiling(np.zeros((4, 1, 3))) is None


def test_relations_are_found_in_spite_of_shared_noise():
    generator = np.random.default_rng(5)
    task_Q = np.repeat(np.arange(6), 10)
    a, other = generator.normal(size=(2, 60))
    profiles = np.stack([a, a, -a, other])
    base_RQ = 2.0 * generator.normal(size=(8, 60))  # the unchanged model's noise, in every change
    own = 0.5 * generator.normal(size=(4, 8, 60))
    found = relations(profiles, profiles[:, None] + own - base_RQ, task_Q, draws=200)
    by_pair = {(one.a, one.b): one for one in found}
    assert len(by_pair) == 6
    assert by_pair[0, 1].measured.low > 0
    assert by_pair[0, 2].measured.high < 0
    assert by_pair[0, 3].measured.low < 0 < by_pair[0, 3].measured.high
    assert by_pair[0, 1].predicted.value == pytest.approx(1)
    assert by_pair[0, 2].predicted.value == pytest.approx(-1)
    plain = profiles + (own - base_RQ).mean(axis=1)
    shared = np.corrcoef(plain[0], plain[3])[0, 1]
    assert abs(by_pair[0, 3].measured.value) < shared, "noise that is shared looks like agreement"


def test_one_group_names_nothing():
    measured = cells(np.ones((1, 2, 3)), np.zeros(3, int))
    with pytest.raises(InfluenceError, match="at least 2 were expected"):
        named(np.ones((1, 1)), measured)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InfluenceError, match="finite numbers were expected"):
        cells(np.full((1, 1, 2), np.nan), np.zeros(2, int))
