"""Perturbation and surrogate methods: axioms, games with known answers, toy models, Captum's core."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from captum._utils.models.linear_model import SkLearnLinearRegression, SkLearnRidge
from captum.attr import FeatureAblation, KernelShap, Lime, Occlusion, ShapleyValues
from captum.attr._core.lime import get_exp_kernel_similarity_function
from sklearn.tree import DecisionTreeRegressor

from influence.errors import InputError
from influence.inputs import designs
from influence.inputs.choice import METHODS
from influence.inputs.games import find
from influence.inputs.perturbation import occlusion, shapley
from influence.inputs.surrogate import fitting, kernel_shap, lime, tree
from tests.toys import assert_matches, toy_gpt2, toy_llama

LINEAR = ["occlusion", "leave-one-out", "shapley", "kernel-shap", "lime"]
"""Exact on games without interaction."""
SURROGATES = ["kernel-shap", "lime", "sparse", "tree"]
SAMPLED = ["shapley", *SURROGATES]
CORRELATION = 0.95
"""With exact Shapley values at 32 paired masks of 10 units, mean over designs."""


def random_game(units, seed=0, triples=4):
    """Single effects, all pairs, and some triples: values of masks, in float64."""
    random = np.random.default_rng(seed)
    single_U = random.standard_normal(units)
    pair_UU = 0.5 * np.triu(random.standard_normal((units, units)), 1)
    groups = [random.permutation(units)[:3] for _ in range(triples)]
    weights = random.standard_normal(triples)

    def value(kept_MU):
        kept = kept_MU.astype(float)
        parts = [w * kept[:, g].prod(axis=1) for w, g in zip(weights, groups, strict=True)]
        return 1.5 + kept @ single_U + np.einsum("mu,uv,mv->m", kept, pair_UU, kept) + sum(parts)

    return value


def solved(name, value, units, rows=64, seed=0):
    kept_MU = METHODS[name].design(units, rows, seed)
    return METHODS[name].solve(kept_MU, value(kept_MU), seed)


def shapley_by_definition(value, units):
    """Mean over all orders of what each unit adds."""
    scores_U = np.zeros(units)
    for order in itertools.permutations(range(units)):
        kept_U = np.zeros(units, bool)
        before = value(kept_U[None])[0]
        for unit in order:
            kept_U[unit] = True
            after = value(kept_U[None])[0]
            scores_U[unit] += after - before
            before = after
    return scores_U / math.factorial(units)


# games with known answers


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("units", [1, 2, 3, 5, 16])
def test_methods_agree_where_units_do_not_interact(name, units):
    effect_U = np.random.default_rng(1).standard_normal(units)
    found = solved(name, lambda kept_MU: 3.0 + kept_MU @ effect_U, units)
    assert_matches(found.scores_U, effect_U)


def test_sparse_differs_from_a_linear_game_by_no_more_than_it_says():
    effect_U = np.array([2.0, -1.0, 0.5, *[0.0] * 13])
    found = solved("sparse", lambda kept_MU: 3.0 + kept_MU @ effect_U, 16)
    pull = float(found.notes[-1].split("by up to ")[1].split()[0])
    assert np.abs(found.scores_U - effect_U).max() <= 2 * pull < 0.1
    outward_U = found.high_U + found.low_U - 2 * found.scores_U  # further from 0 by the pull
    assert outward_U[:3] == pytest.approx(pull * np.sign(effect_U[:3]), rel=0.05)
    assert np.argsort(-np.abs(found.scores_U))[:3].tolist() == [0, 1, 2]


def test_what_works_only_together_is_shared_by_shapley_and_counted_twice_by_leave_one_out():
    def both(kept_MU):
        return kept_MU.all(axis=1).astype(float)

    for name in ("shapley", "kernel-shap", "tree"):
        assert_matches(solved(name, both, 2).scores_U, np.array([0.5, 0.5]))
    for name in ("leave-one-out", "occlusion"):
        assert_matches(solved(name, both, 2).scores_U, np.array([1.0, 1.0]))


def test_what_is_said_twice_is_found_by_wider_windows_only():
    def either(kept_MU):
        return kept_MU[:, 1:3].any(axis=1).astype(float)

    assert solved("occlusion", either, 4).scores_U.tolist() == [0, 0, 0, 0]
    wide = occlusion.windows(2)
    kept_MU = wide.design(4, 10, 0)
    assert wide.solve(kept_MU, either(kept_MU), 0).scores_U.tolist() == [0, 0.5, 0.5, 0]


@pytest.mark.parametrize("name", [*LINEAR, "sparse", "tree"])
@pytest.mark.parametrize("units", [1, 2, 7])
def test_constant_values_give_zeros(name, units):
    found = solved(name, lambda kept_MU: np.full(len(kept_MU), -2.5), units)
    assert found.scores_U.tolist() == [0.0] * units
    assert found.measures["heldout_r2"] is None
    assert found.measures["lds"] is None
    assert found.trusted


# Shapley values


@pytest.mark.parametrize("units", [1, 2, 3, 6])
def test_exact_shapley_is_the_mean_over_all_orders(units):
    value = random_game(max(units, 3), seed=units)

    def game(kept_MU):  # units that don't exist stand
        more = max(3 - kept_MU.shape[1], 0)
        return value(np.pad(kept_MU, ((0, 0), (0, more)), constant_values=True))

    expected_U = shapley_by_definition(game, units)
    for name in ("shapley", "kernel-shap"):
        found = solved(name, game, units)
        assert_matches(found.scores_U, expected_U)
        assert found.low_U is None


@pytest.mark.parametrize("name", ["shapley", "kernel-shap"])
@pytest.mark.parametrize("rows", [30, 50, 10_000], ids=lambda r: f"rows={r}")
def test_shapley_scores_add_up_to_what_all_units_are_worth(name, rows):
    value = random_game(8)
    found = solved(name, value, 8, rows=rows)
    whole, none = value(np.array([[True] * 8, [False] * 8]))
    assert_matches(found.scores_U.sum(), whole - none)
    assert found.measures["completeness_error"] == pytest.approx(0, abs=1e-12)


def test_shapley_of_units_that_do_the_same_is_the_same_and_of_idle_ones_zero():
    def value(kept_MU):
        return np.tanh(kept_MU[:, 0] + kept_MU[:, 1] - 0.5 * kept_MU[:, 2])

    scores_U = solved("shapley", value, 4).scores_U
    assert scores_U[0] == pytest.approx(scores_U[1], abs=1e-12)
    assert scores_U[3] == pytest.approx(0, abs=1e-12)
    sampled_U = solved("shapley", lambda kept_MU: value(kept_MU), 20, rows=80).scores_U
    assert_matches(sampled_U[3:] + 1, np.ones(17))


@pytest.mark.parametrize("name", ["occlusion", "leave-one-out", "shapley", "kernel-shap"])
def test_scores_of_a_sum_of_targets_are_the_sums_of_their_scores(name):
    first, second = random_game(8, seed=1), random_game(8, seed=2)
    kept_MU = METHODS[name].design(8, 40, 0)
    of = lambda values_M: METHODS[name].solve(kept_MU, values_M, 0).scores_U  # noqa: E731
    together_U = of(first(kept_MU) - 2 * second(kept_MU))
    assert_matches(together_U, of(first(kept_MU)) - 2 * of(second(kept_MU)))


def test_sampled_shapley_is_unbiased_and_its_intervals_hold_the_truth():
    units, trials = 7, 60
    value = random_game(units)
    truth_U = shapley_by_definition(value, units)
    found = [solved("shapley", value, units, rows=40, seed=seed) for seed in range(trials)]
    scores_TU = np.stack([f.scores_U for f in found])
    error_U = scores_TU.std(axis=0, ddof=1) / math.sqrt(trials)
    assert (np.abs(scores_TU.mean(axis=0) - truth_U) <= 5 * error_U + 1e-12).all()
    inside = [(f.low_U <= truth_U) & (truth_U <= f.high_U) for f in found]
    assert np.mean(inside) >= 0.95


def test_sampled_shapley_uses_antithetic_orders():
    value = random_game(9, triples=0)  # with pairs only, an order and its reverse are exact
    scores_U = solved("shapley", value, 9, rows=40).scores_U
    every_MU = designs.every_mask(9)
    assert_matches(scores_U, shapley.exact(every_MU, value(every_MU)))


def test_shapley_refuses_a_table_without_its_orders():
    kept_MU = designs.leave_one_out(6)
    with pytest.raises(InputError, match="0 pairs of orders of seed 3 stand in a table of 7 masks"):
        shapley.solve(kept_MU, np.arange(7.0), 3)


# designs and fits


def test_kernel_shap_is_the_weighted_regression_by_definition():
    value, units = random_game(7), 7
    kept_MU = designs.kernel_shap_pairs(units, 40, 0)
    values_M, size_M = value(kept_MU), kept_MU.sum(axis=1)
    seen = np.bincount(size_M)
    kernel_M = [1 / (s * (units - s)) / seen[s] if 0 < s < units else 1e9 for s in size_M]
    design_MK = np.concatenate([np.ones((len(kept_MU), 1)), kept_MU], axis=1)
    root_M = np.sqrt(kernel_M)
    expected = np.linalg.lstsq(design_MK * root_M[:, None], values_M * root_M, rcond=None)[0]
    found = kernel_shap.fit(kept_MU, values_M)
    torch.testing.assert_close(
        torch.tensor(found.scores_U), torch.tensor(expected[1:]), rtol=1e-6, atol=1e-6
    )


def test_lime_is_the_weighted_ridge_by_definition():
    value = random_game(6)
    kept_MU = designs.paired_random(6, 24, 0)
    values_M = value(kept_MU)
    ones_U = np.ones(6)
    cosine_M = [k @ ones_U / max(np.linalg.norm(k) * math.sqrt(6), 1e-9) for k in kept_MU * 1.0]
    weight_M = np.exp(-((1 - np.array(cosine_M)) ** 2) / (2 * 0.25**2))
    design_MK = np.concatenate([np.ones((len(kept_MU), 1)), kept_MU], axis=1)
    ridge_KK = 0.01 * weight_M.sum() * np.diag([0.0, *ones_U])
    gram_KK = (design_MK.T * weight_M) @ design_MK + ridge_KK
    expected = np.linalg.solve(gram_KK, (design_MK.T * weight_M) @ values_M)
    found = lime.fit(kept_MU, values_M, strength=0.01)
    assert_matches(found.scores_U, expected[1:])
    assert_matches(found.predict(kept_MU), design_MK @ expected)


def test_tree_scores_are_the_shapley_values_of_the_tree():
    kept_MU = designs.paired_random(5, 24, 0)
    for depth in (1, 3, 5):
        found = tree.fit(kept_MU, random_game(5)(kept_MU), depth=depth, seed=0)
        assert_matches(found.scores_U, shapley_by_definition(found.predict, 5))


def test_tree_says_what_it_asks():
    kept_MU = designs.every_mask(3)
    fitted = DecisionTreeRegressor().fit(kept_MU * 1.0, (kept_MU[:, 0] & ~kept_MU[:, 2]) * 1.0)
    said = {tree.sentence(leaf) for leaf in tree.leaves(fitted.tree_)}
    assert "With unit 1 and without unit 3: 1.00 nats (mean of 2 rows)." in said
    assert len(said) == 3
    empty = tree.Leaf(standing=(), gone=(), value=-2.0, rows=4)
    assert tree.sentence(empty) == "Always: -2.00 nats (mean of 4 rows)."


def test_tree_finds_units_that_work_only_together():
    def both(kept_MU):
        return 4.0 * (kept_MU[:, 2] & kept_MU[:, 7])

    found = solved("tree", both, 12, rows=64)
    expected_U = np.zeros(12)
    expected_U[[2, 7]] = 2
    assert_matches(found.scores_U, expected_U)
    assert found.measures["heldout_r2"] == pytest.approx(1)
    assert any("With unit 3, unit 8: 4.00 nats" in note for note in found.notes)


# what comes with every surrogate


@pytest.mark.parametrize("name", SURROGATES)
def test_held_out_masks_and_their_complements_are_never_seen(name):
    kept_MU = METHODS[name].design(9, 42, 0)
    values_M = random_game(9)(kept_MU)
    seen = []

    def spying(kept, values, seed):
        def fit(kept, values):
            return fitting.Surrogate(
                scores_U=np.zeros(9),
                predict=lambda tested: seen.append((kept, tested)) or tested[:, 0],
            )

        return fit

    predicted_M = fitting.held_out(spying, kept_MU, values_M, 0)
    assert np.isnan(predicted_M[:2]).all()
    assert np.array_equal(predicted_M[2:], kept_MU[2:, 0])
    assert len(seen) == 5
    assert sum(len(tested) for _, tested in seen) == 40
    for kept, tested in seen:
        assert (find(kept, tested) < 0).all()
        assert (find(kept, ~tested) < 0).all()
        assert (find(tested, ~tested) >= 0).all()
        assert len(kept) + len(tested) == len(kept_MU)


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_of_noise_is_refused(name):
    random = np.random.default_rng(0)
    kept_MU = METHODS[name].design(10, 64, 0)
    found = METHODS[name].solve(kept_MU, random.standard_normal(len(kept_MU)), 0)
    assert not found.trusted
    assert found.measures["heldout_r2"] < fitting.LEAST_R2
    assert "Don't trust these scores" in found.notes[0]
    assert "Allow more rows, choose coarser units, or another method" in found.notes[0]


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_that_predicts_is_trusted(name):
    found = solved(name, lambda kept_MU: 3.0 * kept_MU[:, 4] - kept_MU[:, 1], 10)
    assert found.trusted
    assert not any("trust" in note for note in found.notes)
    assert found.measures["heldout_r2"] > 0.9
    assert found.measures["lds"] > 0.75  # values have many ties
    assert found.scores_U.argmax() == 4
    assert found.scores_U.argmin() == 1


@pytest.mark.parametrize("name", SAMPLED)
def test_intervals_hold_the_score_narrow_with_rows_and_vanish_with_every_mask(name):
    value = random_game(7)
    widths = []
    for rows in (32, 100):
        found = solved(name, value, 7, rows=rows)
        assert (found.low_U <= found.scores_U).all()
        assert (found.scores_U <= found.high_U).all()
        widths.append((found.high_U - found.low_U).mean())
    if name != "tree":  # with more rows a deeper tree is chosen, which changes more
        assert widths[1] < widths[0]
    assert solved(name, value, 7, rows=128).high_U is None


def test_intervals_of_kernel_shap_hold_the_truth_as_often_as_they_say():
    every_MU = designs.every_mask(8)
    inside = []
    for seed in range(40):
        value = random_game(8, seed=seed)
        found = solved("kernel-shap", value, 8, rows=60, seed=seed)
        truth_U = shapley.exact(every_MU, value(every_MU))
        inside.append((found.low_U <= truth_U) & (truth_U <= found.high_U))
    assert np.mean(inside) >= 0.93


@pytest.mark.parametrize("name", SAMPLED)
def test_scores_are_seeded_and_do_not_depend_on_the_order_of_rows(name):
    kept_MU = METHODS[name].design(7, 60, 0)
    values_M = random_game(7)(kept_MU)
    found = METHODS[name].solve(kept_MU, values_M, 0)
    again = METHODS[name].solve(kept_MU, values_M, 0)
    assert np.array_equal(found.scores_U, again.scores_U)
    assert np.array_equal(found.low_U, again.low_U)
    assert found.measures == again.measures
    if name in ("shapley", "kernel-shap"):
        moved = [0, *np.random.default_rng(0).permutation(np.arange(1, len(kept_MU)))]
        other = METHODS[name].solve(kept_MU[moved], values_M[moved], 0)
        assert_matches(other.scores_U, found.scores_U)


@pytest.mark.parametrize("name", [*LINEAR, "sparse", "tree"])
def test_further_rows_are_welcome_and_missing_ones_are_named(name):
    value = random_game(8)
    kept_MU = METHODS[name].design(8, 60, 0)
    more_MU = np.concatenate([kept_MU, designs.kernel_shap_pairs(8, 100, 9)])
    more_MU = more_MU[np.sort(np.unique(more_MU, axis=0, return_index=True)[1])]
    found = METHODS[name].solve(more_MU, value(more_MU), 0)
    assert np.isfinite(found.scores_U).all()
    assert found.measures["heldout_r2"] is not None
    assert -1 <= found.measures["lds"] <= 1
    with pytest.raises(InputError, match=r"missing in the table|at least 2 expected|keeps none"):
        METHODS[name].solve(kept_MU[:1], value(kept_MU[:1]), 0)
    with pytest.raises(InputError, match="repeat others"):
        METHODS[name].solve(np.repeat(kept_MU, 2, 0), np.repeat(value(kept_MU), 2), 0)
    with pytest.raises(InputError, match="not finite"):
        METHODS[name].solve(kept_MU, np.full(len(kept_MU), -np.inf), 0)


def test_leave_one_out_is_tested_on_further_rows_of_its_table_only():
    value = random_game(6)
    more_MU = np.concatenate([designs.leave_one_out(6), designs.paired_random(6, 20, 0)])
    kept_MU = np.unique(more_MU, axis=0)[::-1]
    found = METHODS["leave-one-out"].solve(kept_MU, value(kept_MU), 0)
    other_MU = kept_MU[kept_MU.sum(axis=1) < 5]
    whole = value(kept_MU[:1])[0]
    predicted_M = whole - (~other_MU).astype(float) @ found.scores_U
    error = ((value(other_MU) - predicted_M) ** 2).mean() / value(other_MU).var()
    assert found.measures["heldout_r2"] == pytest.approx(1 - error)
    assert found.measures["heldout_r2"] < 0.99


# toy models


@cache
def toy_game(family, seed):
    """Log-probability of 3 tokens when attention to any subset of 10 prompt tokens is masked."""
    model = {"llama": toy_llama, "gpt2": toy_gpt2}[family](seed=seed)
    random = np.random.default_rng([seed, 4])
    prompt, target = random.integers(3, 11, 10), random.integers(3, 11, 3)
    every_MU = designs.every_mask(10)
    rows = torch.tensor([[1, *prompt, *target]]).expand(1024, -1)
    seen = torch.tensor(np.pad(every_MU, ((0, 0), (1, 3)), constant_values=True))
    log_probs = model(rows, attention_mask=seen.long()).logits.log_softmax(-1)[:, -4:-1]
    values = np.empty(1024)
    picked = log_probs.gather(2, rows[:, -3:, None]).sum((1, 2))
    values[every_MU @ 2 ** np.arange(10)] = picked.numpy()
    return lambda kept_MU: values[kept_MU @ 2 ** np.arange(10)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_32_paired_masks_of_10_units_are_close_to_exact_shapley(family):
    every_MU = designs.every_mask(10)
    found = []
    for seed in range(6):
        value = toy_game(family, seed)
        exact_U = shapley.exact(every_MU, value(every_MU))
        found += [
            np.corrcoef(solved("kernel-shap", value, 10, 32, s).scores_U, exact_U)[0, 1]
            for s in range(4)
        ]
    assert np.mean(found) >= CORRELATION


# Captum's core


def torch_game(units):
    value = random_game(units)
    return value, lambda kept: torch.tensor(value(kept.numpy().astype(bool)))


def close(found_U, captum_1U):
    expected = torch.as_tensor(captum_1U, dtype=torch.float64)[0]
    torch.testing.assert_close(torch.tensor(found_U), expected, rtol=1e-5, atol=1e-5)


def test_captum_agrees_on_shapley_values_ablation_and_occlusion():
    value, forward = torch_game(6)
    ones = torch.ones(1, 6, dtype=torch.float64)
    close(solved("shapley", value, 6).scores_U, ShapleyValues(forward).attribute(ones))
    close(solved("leave-one-out", value, 6).scores_U, FeatureAblation(forward).attribute(ones))
    for width in (1, 2, 4):
        kept_MU = designs.sliding(6, width)
        found = occlusion.windows(width).solve(kept_MU, value(kept_MU), 0)
        close(found.scores_U, Occlusion(forward).attribute(ones, (width,)))


def captum_lime(forward, kept_MU, model, similarity):
    rows = iter(torch.tensor(kept_MU))

    def perturb(original, **kwargs):
        return next(rows)[None].long()

    method = Lime(
        forward, interpretable_model=model, similarity_func=similarity, perturb_func=perturb
    )
    ones = torch.ones(1, kept_MU.shape[1], dtype=torch.float64)
    return method.attribute(ones, n_samples=len(kept_MU))


def test_captum_agrees_on_lime():
    value, forward = torch_game(6)
    kept_MU = designs.paired_random(6, 40, 0)
    strength = 0.01
    ridge = SkLearnRidge(alpha=strength * lime.kernel(kept_MU).sum())
    kernel = get_exp_kernel_similarity_function("cosine", kernel_width=0.25)
    found = lime.fit(kept_MU, value(kept_MU), strength=strength)
    close(found.scores_U, captum_lime(forward, kept_MU, ridge, kernel))


def test_captum_agrees_on_kernel_shap():
    value, forward = torch_game(6)
    kept_MU = designs.kernel_shap_pairs(6, 40, 0)
    seen = np.bincount(kept_MU.sum(axis=1))

    def kernel(original, perturbed, mask, **kwargs):
        size = int(mask.sum())
        weight = 1 / (size * (6 - size) * seen[size]) if 0 < size < 6 else 1e6
        return torch.tensor([weight], dtype=torch.float64)

    captum = captum_lime(forward, kept_MU, SkLearnLinearRegression(), kernel)
    close(kernel_shap.fit(kept_MU, value(kept_MU)).scores_U, captum)
    effect_U = torch.arange(6.0)
    own = KernelShap(lambda kept: kept @ effect_U).attribute(torch.ones(1, 6), n_samples=60)
    close(
        solved("kernel-shap", lambda kept_MU: kept_MU @ effect_U.double().numpy(), 6).scores_U, own
    )
