"""Which masks are evaluated: what every design promises, on random sizes and budgets."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influence.errors import InputError
from influence.inputs import designs
from influence.inputs.choice import METHODS, choose
from influence.inputs.games import check_game, complete, find, pairs_of
from influence.inputs.methods import MaskMethod
from influence.inputs.perturbation import occlusion

RANDOM = {
    "paired_random": designs.paired_random,
    "kernel_shap_pairs": designs.kernel_shap_pairs,
    "permutations": designs.permutations,
}
MASK_METHODS = {name: m for name, m in METHODS.items() if isinstance(m, MaskMethod)}
FEWEST = {
    "occlusion": lambda units: units + 1,
    "leave-one-out": lambda units: units + 1,
    "shapley": lambda units: min(2**units, 4 * units - 2),
    "kernel-shap": lambda units: min(2**units, 2 * units),
    "lime": lambda units: min(2**units, 12),
    "sparse": lambda units: min(2**units, 12),
    "tree": lambda units: min(2**units, 12),
}
"""Rows that each method asks for."""


def masks_of(kept_MU):
    return {tuple(row) for row in kept_MU.tolist()}


# random designs


@pytest.mark.parametrize("name", RANDOM)
@settings(deadline=None, max_examples=60)
@given(units=st.integers(1, 40), rows=st.integers(2, 120), seed=st.integers(0, 2**32))
def test_random_designs_keep_their_promises(name, units, rows, seed):
    kept_MU = RANDOM[name](units, rows, seed)
    assert kept_MU.dtype == bool
    assert kept_MU.shape[1] == units
    assert kept_MU[0].all()
    assert 2 <= len(kept_MU) <= rows
    assert len(masks_of(kept_MU)) == len(kept_MU)
    assert masks_of(kept_MU) == masks_of(~kept_MU)
    assert complete(kept_MU) == (rows >= 2**units)


@pytest.mark.parametrize("name", ["paired_random", "kernel_shap_pairs"])
@settings(deadline=None, max_examples=60)
@given(units=st.integers(2, 30), rows=st.integers(2, 120), seed=st.integers(0, 99))
def test_random_designs_use_the_whole_budget(name, units, rows, seed):
    expected = min(2**units, rows - rows % 2)
    assert len(RANDOM[name](units, rows, seed)) == expected


@pytest.mark.parametrize("name", RANDOM)
def test_random_designs_are_seeded(name):
    first, again, other = (RANDOM[name](12, 60, seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert masks_of(first) != masks_of(other)


def test_paired_random_keeps_as_many_as_asked():
    share = designs.paired_random(30, 2000, 0, keep=0.8)[2::2].mean()
    assert share == pytest.approx(0.8, abs=5 * math.sqrt(0.16 / (30 * 999)))


def test_paired_random_stops_where_other_masks_are_too_unlikely():
    kept_MU = designs.paired_random(12, 4000, 0, keep=0.9999)
    assert 2 <= len(kept_MU) < 4000


@pytest.mark.parametrize("name", ["paired_random", "kernel_shap_pairs"])
def test_random_designs_tell_units_apart_better_than_their_first_candidates(name, monkeypatch):
    def variance(seed):
        kept_MU = RANDOM[name](10, 32, seed) - 0.5
        return np.trace(np.linalg.inv(kept_MU.T @ kept_MU))

    spread = np.mean([variance(seed) for seed in range(10)])
    monkeypatch.setattr(designs, "CANDIDATES", 1)
    assert spread < 0.8 * np.mean([variance(seed) for seed in range(10)])


@pytest.mark.parametrize("units", [9, 10])
def test_kernel_shap_pairs_have_the_sizes_of_the_kernel(units):
    pairs = 12
    size_M = designs.kernel_shap_pairs(units, 2 * pairs + 2, 0)[2:].sum(axis=1)
    kernel_S = np.array([1 / (s * (units - s)) for s in range(1, units)])
    expected_S = 2 * pairs * kernel_S / kernel_S.sum()
    assert (expected_S[[0, -1]] < units).all()  # no size is used up
    found_S = np.bincount(size_M, minlength=units)[1:]
    assert (np.abs(found_S - expected_S) <= 2).all()  # one pair more or less


def test_kernel_shap_pairs_take_all_of_a_size_before_they_repeat():
    size_M = designs.kernel_shap_pairs(6, 62, 0).sum(axis=1)
    assert (np.bincount(size_M, minlength=7) >= [1, 6, 14, 18, 14, 6, 1]).all()


def test_permutations_hold_each_prefix_of_each_order_and_of_its_reverse():
    kept_MU = designs.permutations(7, 2 + 3 * 12, 5)
    orders = designs.orders(7, 5)
    for order_U in (next(orders) for _ in range(3)):
        for members in (order_U, order_U[::-1]):
            for size in range(8):
                assert tuple(np.isin(np.arange(7), members[:size])) in masks_of(kept_MU)


def test_a_larger_budget_continues_the_permutations_of_a_smaller_one():
    small, large = designs.permutations(9, 40, 1), designs.permutations(9, 90, 1)
    assert len(large) > len(small)
    assert np.array_equal(large[: len(small)], small)


# other designs


@pytest.mark.parametrize("units", [1, 2, 5])
def test_every_mask_holds_each_once_with_its_complement_next(units):
    kept_MU = designs.every_mask(units)
    assert len(masks_of(kept_MU)) == len(kept_MU) == 2**units
    assert kept_MU[0].all()
    assert np.array_equal(kept_MU[1::2], ~kept_MU[::2])


def test_sliding_removes_each_window():
    assert designs.sliding(4, 2).astype(int).tolist() == [
        [1, 1, 1, 1],
        [0, 0, 1, 1],
        [1, 0, 0, 1],
        [1, 1, 0, 0],
    ]
    assert np.array_equal(designs.leave_one_out(3)[1:], ~np.eye(3, dtype=bool))


@pytest.mark.parametrize("width", [0, 4])
def test_sliding_refuses_windows_that_do_not_fit(width):
    with pytest.raises(InputError, match=rf"a window of {width} units, expected 1 to 3"):
        designs.sliding(3, width)
    with pytest.raises(InputError, match=rf"a window of {width} units"):
        occlusion.windows(width).design(3, 100, 0)


# what methods ask for


@pytest.mark.parametrize("name", MASK_METHODS)
@settings(deadline=None, max_examples=40)
@given(units=st.integers(1, 30), more=st.integers(0, 60), seed=st.integers(0, 99))
def test_designs_of_methods_stay_within_a_budget_that_is_enough(name, units, more, seed):
    rows = FEWEST[name](units) + more
    kept_MU = MASK_METHODS[name].design(units, rows, seed)
    check_game(kept_MU, np.arange(len(kept_MU)) * 1.0)
    assert len(kept_MU) <= rows


@pytest.mark.parametrize("name", MASK_METHODS)
@pytest.mark.parametrize("units", [1, 2, 3, 4, 20])
def test_designs_of_methods_refuse_a_budget_that_is_too_small(name, units):
    needed = FEWEST[name](units)
    with pytest.raises(
        InputError, match=rf"{name}: a budget of {needed - 1} rows, at least {needed}"
    ):
        MASK_METHODS[name].design(units, needed - 1, 0)
    with pytest.raises(InputError, match=rf"Allow {needed} rows, choose a coarser unit"):
        MASK_METHODS[name].design(units, needed - 1, 0)


@pytest.mark.parametrize("name", MASK_METHODS)
def test_designs_of_methods_refuse_a_prompt_without_units(name):
    with pytest.raises(InputError, match=rf"{name}: no units"):
        MASK_METHODS[name].design(0, 100, 0)


# choice


def test_choose_keeps_the_order_and_says_twice_once():
    assert [m.name for m in choose("tree, lime tree")] == ["tree", "lime"]
    assert [m.name for m in choose(["occlusion"])] == ["occlusion"]


def test_choose_names_the_nearest():
    with pytest.raises(InputError, match=r"'kernelshap' is not a method. Nearest: kernel-shap"):
        choose("kernelshap")
    with pytest.raises(InputError, match="an empty choice"):
        choose(" , ")


# tables


def test_find_and_pairs():
    kept_MU = np.array([[1, 1], [0, 1], [1, 0], [0, 0]], bool)
    assert find(kept_MU, np.array([[0, 0], [1, 1]], bool)).tolist() == [3, 0]
    assert find(kept_MU[:2], np.array([[0, 0], [0, 1]], bool)).tolist() == [-1, 1]
    assert pairs_of(kept_MU).tolist() == [0, 1, 1, 0]
    assert pairs_of(kept_MU[[0, 2]]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("kept", "values", "message"),
    [
        (np.ones((2, 2)), np.zeros(2), "expected bool"),
        (np.ones((2, 2), bool), np.zeros(3), "expected bool"),
        (np.zeros((1, 2), bool), np.zeros(1), "first does not keep all"),
        (np.zeros((0, 2), bool), np.zeros(0), "first does not keep all"),
        (np.ones((2, 2), bool), np.zeros(2), "1 of 2 masks repeat others"),
        (~np.eye(2, 2, -1, dtype=bool), np.array([0, -np.inf]), "row 1 is -inf"),
        (~np.eye(2, 2, -1, dtype=bool), np.array([np.nan, 0]), "row 0 is nan"),
    ],
)
def test_tables_that_make_no_sense_are_refused(kept, values, message):
    with pytest.raises(InputError, match=message):
        check_game(kept, values)
