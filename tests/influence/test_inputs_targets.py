"""What is explained: likelihood, contrast, meaning; numbers in nats that gradients flow through."""

from math import exp, log

import numpy as np
import pytest
import torch

from influence.errors import InputError
from influence.inputs.table import Table
from influence.inputs.targets import Target, target_value, values_of
from tests.toys import assert_matches


def log_probs(lengths=(4, 2, 3), masks=5, seed=0):
    random = np.random.default_rng(seed)
    return tuple(-random.exponential(2.0, (masks, length)) for length in lengths)


def table(values):
    masks = len(values[0])
    kept_MU = np.array([[bool(m >> u & 1) for u in range(3)] for m in range(masks)])
    return Table(kept_MU=kept_MU, log_probs=values, rows=masks)


def loop(values, row, value):
    return value(*(list(values_MT[row]) for values_MT in values))


def group_value(*continuations):
    return log(sum(exp(sum(tokens)) for tokens in continuations))


TARGETS = {
    "likelihood": (Target(), lambda a, _b, _c: sum(a)),
    "likelihood of a span": (Target(tokens=(1, 3)), lambda a, _b, _c: a[1] + a[2]),
    "contrast": (Target(kind="contrast"), lambda a, b, _c: sum(a) - sum(b)),
    "contrast of a span": (
        Target(kind="contrast", tokens=(0, 1)),
        lambda a, b, _c: a[0] - sum(b),
    ),
    "meaning of all": (Target(kind="meaning"), group_value),
    "meaning of a group": (
        Target(kind="meaning", groups=((0, 2),)),
        lambda a, _b, c: group_value(a, c),
    ),
    "meanings by their shares": (
        Target(kind="meaning", groups=((2, 0), (1,)), shares=(0.7, 0.3)),
        lambda a, b, c: 0.7 * group_value(a, c) + 0.3 * sum(b),
    ),
    "meanings alike": (
        Target(kind="meaning", groups=((0,), (1,))),
        lambda a, b, _c: (sum(a) + sum(b)) / 2,
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_values_are_what_a_loop_finds(name):
    target, value = TARGETS[name]
    values = log_probs()
    found_M = values_of(target, table(values))
    assert found_M.dtype == np.float64
    assert_matches(found_M, np.array([loop(values, row, value) for row in range(5)]))


@pytest.mark.parametrize("name", TARGETS)
def test_gradients_flow_through_every_leading_axis(name):
    target, _ = TARGETS[name]
    leaves = [
        torch.from_numpy(values_MT).reshape(5, 1, -1).requires_grad_()
        for values_MT in log_probs(lengths=(4, 2, 3))
    ]
    used = leaves[: {"likelihood": 1, "contrast": 2}.get(target.kind, 3)]
    assert target_value(target, leaves).shape == (5, 1)
    counted = [leaf for leaf in used if target.groups != ((0,), (1,)) or leaf is not leaves[2]]
    counted = [leaf for leaf in counted if target.groups != ((0, 2),) or leaf is not leaves[1]]
    assert torch.autograd.gradcheck(
        lambda *_: target_value(target, leaves), tuple(counted), raise_exception=True
    )


def test_a_meaning_is_likelier_than_any_of_its_wordings():
    values = log_probs()
    whole_M = values_of(Target(kind="meaning"), table(values))
    assert (whole_M > np.max([values_MT.sum(axis=1) for values_MT in values], axis=0)).all()


def test_very_unlikely_wordings_stay_finite():
    values = tuple(np.full((1, 2), -2000.0) for _ in range(2))
    (found,) = values_of(Target(kind="meaning"), table(values))
    assert found == pytest.approx(-4000 + log(2), abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "likelyhood"}, "one of likelihood, contrast, meaning. Did you mean 'likelihood'"),
        ({"tokens": (2, 2)}, "expected \\(from, to\\) with 0 <= from < to"),
        ({"tokens": (-1, 2)}, "expected \\(from, to\\)"),
        ({"kind": "meaning", "tokens": (0, 1)}, "none for a meaning"),
        ({"groups": ((0,),)}, "groups of a likelihood"),
        ({"kind": "meaning", "groups": ((0, 1), (1,))}, "expected disjoint ones"),
        ({"kind": "meaning", "groups": ((0,), ())}, "not empty"),
        ({"kind": "meaning", "groups": ()}, "not empty"),
        ({"kind": "meaning", "groups": ((0,), (1,)), "shares": (0.5, 0.6)}, "1 in all"),
        ({"kind": "meaning", "groups": ((0,),), "shares": (0.5, 0.5)}, "one for each"),
        ({"kind": "meaning", "groups": ((0,), (1,)), "shares": (1.5, -0.5)}, "none negative"),
    ],
)
def test_bad_targets_get_one_clear_message(settings, message):
    with pytest.raises(InputError, match=message):
        Target(**settings)


@pytest.mark.parametrize(
    ("target", "lengths", "message"),
    [
        (Target(kind="contrast"), (4,), "a contrast of 1 continuations, expected 2"),
        (Target(kind="meaning", groups=((0, 3),)), (4, 2), "of 2 continuations, expected 4"),
        (Target(tokens=(1, 5)), (4,), "of a completion of 4 tokens"),
        (Target(), (), "of 0 continuations, expected 1"),
    ],
)
def test_continuations_that_do_not_fit_get_one_clear_message(target, lengths, message):
    with pytest.raises(InputError, match=message):
        target_value(target, [torch.zeros(1, length) for length in lengths])
