"""Traps 18 and 19: problems whose answer is known: linear regression, and the enumerated Fisher."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from influence import text
from influence.documents import fit as fits
from influence.documents import scores, sketch, whitening
from influence.documents.preconditioner import LayerCurvature
from tests.conformance import reference, setting
from tests.toys import assert_matches

STANDARD_ERRORS = 5.0
DRAWS = 60


@pytest.fixture(scope="module")
def regression():
    """Noisy linear data: one layer, squared loss `(w x - y)^2 / 2`, a bias as a ones column."""
    random = np.random.default_rng(0)
    count, width = 200, 6
    mixing = random.normal(size=(width, width))
    x_NI = np.c_[random.normal(size=(count, width)) @ mixing, np.ones(count)]
    y_N = x_NI @ random.normal(size=width + 1) + random.normal(size=count)
    x_QI = np.c_[random.normal(size=(8, width)) @ mixing, np.ones(8)]
    y_Q = x_QI @ random.normal(size=width + 1)
    return x_NI, y_N, x_QI, y_Q


def solve(x_NI, y_N):
    return np.linalg.solve(x_NI.T @ x_NI, x_NI.T @ y_N)


def loss(w_I, x_QI, y_Q):
    return (x_QI @ w_I - y_Q) ** 2 / 2


def influence_of_regression(x_NI, y_N, x_QI, y_Q, damping):
    """Scores through the project's own functions, with the exact Gauss-Newton as curvature."""
    x, q = torch.from_numpy(x_NI), torch.from_numpy(x_QI)
    w_I = torch.from_numpy(solve(x_NI, y_N))
    values_I, basis_II = torch.linalg.eigh(x.T @ x / len(x))
    layer = LayerCurvature(
        eigenvalues_OI=values_I[None],
        out_basis_OO=torch.eye(1, dtype=torch.float64),
        in_basis_II=basis_II,
    )
    document_g = (x @ w_I - torch.from_numpy(y_N))[:, None, None]
    query_g = (q @ w_I - torch.from_numpy(y_Q))[:, None, None]
    solved = scores.directions({"w": layer}, damping, {"w": query_g * q[:, None]})["w"]
    exact_QN = solved.flatten(1) @ (document_g * x[:, None]).flatten(1).T
    kept = sketch.full({"w": (1, x.shape[1])})
    ready = whitening.prepare({"w": layer}, damping, kept)
    rows = whitening.layer_rows(ready, "w", x[:, None], document_g).vectors_BK
    asked = scores.whitened_queries({"w": layer}, damping, kept, {"w": query_g * q[:, None]})
    assert_matches(asked @ rows.T, exact_QN)
    return exact_QN.numpy() / len(x)


def test_trap_18_influence_is_leave_one_out_on_linear_regression(regression):
    x_NI, y_N, x_QI, y_Q = regression
    found = influence_of_regression(*regression, damping=1e-6)
    whole = loss(solve(x_NI, y_N), x_QI, y_Q)
    without = [
        loss(solve(np.delete(x_NI, n, 0), np.delete(y_N, n)), x_QI, y_Q) - whole
        for n in range(len(x_NI))
    ]
    expected = np.stack(without, axis=1)
    for one, truth in zip(found, expected, strict=True):
        assert np.corrcoef(one, truth)[0, 1] > 0.99  # positive: removing it raises the loss
        assert np.polyfit(one, truth, 1)[0] == pytest.approx(1.0, abs=0.1)  # in nats, as printed


def tiny(kind):
    """Vocabulary 3, chunks of 4 tokens: all labels can be written down."""
    toy = setting.make_toy(kind, vocab=4, d=4, layers=1, count=3)
    chunks = setting.random_chunks(3, vocab=4, shortest=4, longest=4, seed=1)
    return replace(toy, chunks=chunks)


def exact_lambda(toy, bases):
    """`E[(Q^T G Q)^2]` and its variance for one draw a document, over all label sequences."""
    found = {layer.name: [0.0, 0.0] for layer in toy.layers}
    for chunk in toy.chunks:
        batch = text.collate([chunk], 0)
        logits = toy.model(input_ids=batch.input_ids, use_cache=False).logits[0]
        where = (batch.targets[0] != -100).nonzero()[:, 0]
        log_p_KV = logits[where].log_softmax(dim=-1)
        choices = torch.cartesian_prod(*[torch.arange(4)] * len(where)).view(-1, len(where))
        moments = {layer.name: [0.0, 0.0] for layer in toy.layers}
        for labels_K in choices:
            p = float(log_p_KV.gather(1, labels_K[:, None]).sum().exp())
            traced = reference.trace(toy.model, toy.layers, chunk, labels_K)
            for layer in toy.layers:
                basis = bases[layer.name]
                square = (
                    basis.out_basis_OO.T @ traced.gradients[layer.name] @ basis.in_basis_II
                ) ** 2
                moments[layer.name][0] += p * square
                moments[layer.name][1] += p * square**2
        for name, (mean, second) in moments.items():
            found[name][0] = found[name][0] + mean
            found[name][1] = found[name][1] + second - mean**2
    return found


@pytest.mark.parametrize("kind", setting.KINDS)
def test_trap_19_the_sampled_fisher_converges_to_the_enumerated_one(kind):
    toy = tiny(kind)
    assert all(c.loss.sum() <= 3 for c in toy.chunks)
    assert any(c.loss.sum() == 2 for c in toy.chunks)
    bases = setting.fit(toy, setting.batched(toy))[1]
    exact = exact_lambda(toy, bases)
    totals = {layer.name: 0.0 for layer in toy.layers}
    for seed in range(DRAWS):
        squares = fits.eigenvalue_sums(
            toy.model, toy.layers, bases, setting.batched(toy, seed=seed)
        )
        for name, value in squares.squares.items():
            totals[name] = totals[name] + value
    for name, (mean, variance) in exact.items():
        error = (variance / DRAWS).clamp_min(0.0).sqrt()
        floor = 1e-9 * mean.max()
        assert bool(((totals[name] / DRAWS - mean).abs() <= STANDARD_ERRORS * error + floor).all())
        whole, spread = mean.sum(), error.sum()
        assert abs(float(totals[name].sum() / DRAWS - whole)) <= STANDARD_ERRORS * float(spread)
    share = sum(float((v / DRAWS).sqrt().sum()) for _, v in exact.values())
    share /= sum(float(m.sum()) for m, _ in exact.values())
    assert share < 0.3, "too few draws to see anything"
