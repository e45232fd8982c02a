"""Whole answers from closed forms: leave-one-out of logistic regression, dense curvature of a tiny LM."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from influence import text
from influence.documents import curvature, gradients, scores
from influence.documents.preconditioner import LayerCurvature, damping
from tests.conformance import reference, setting
from tests.toys import random_chunks

RIDGE = 1e-3
DRAWS = 40
"""Draws of the Fisher's labels: so many that their noise is small."""


# -- logistic regression ----------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def refit(x_NI, y_N, count):
    """Newton's method on `sum log(1 + exp(-y w x)) / count + RIDGE |w|^2 / 2`, to the last digit."""
    w_I = np.zeros(x_NI.shape[1])
    for _ in range(60):
        p_N = sigmoid(x_NI @ w_I)
        slope_I = x_NI.T @ (p_N - y_N) / count + RIDGE * w_I
        hessian = (x_NI * (p_N * (1 - p_N))[:, None]).T @ x_NI / count + RIDGE * np.eye(len(w_I))
        w_I -= np.linalg.solve(hessian, slope_I)
    assert np.abs(slope_I).max() < 1e-12
    return w_I


def logistic_loss(w_I, x_QI, y_Q):
    p_Q = sigmoid(x_QI @ w_I)
    return -(y_Q * np.log(p_Q) + (1 - y_Q) * np.log(1 - p_Q))


def test_influence_is_leave_one_out_on_logistic_regression():
    random = np.random.default_rng(0)
    count, width = 300, 5
    x_NI = np.c_[random.normal(size=(count, width)), np.ones(count)]
    truth_I = random.normal(size=width + 1)
    y_N = (random.random(count) < sigmoid(x_NI @ truth_I)).astype(float)
    x_QI = np.c_[random.normal(size=(8, width)), np.ones(8)]
    y_Q = (random.random(8) < sigmoid(x_QI @ truth_I)).astype(float)
    w_I = refit(x_NI, y_N, count)
    p_N, p_Q = sigmoid(x_NI @ w_I), sigmoid(x_QI @ w_I)
    fisher = (x_NI * (p_N * (1 - p_N))[:, None]).T @ x_NI / count
    values_I, basis_II = torch.linalg.eigh(torch.from_numpy(fisher))
    layer = LayerCurvature(
        eigenvalues_OI=values_I[None],
        out_basis_OO=torch.eye(1, dtype=torch.float64),
        in_basis_II=basis_II,
    )
    factor = RIDGE / float(values_I.mean())  # the ridge is the damping
    assert damping(layer, factor) == pytest.approx(RIDGE)
    query = torch.from_numpy((p_Q - y_Q)[:, None] * x_QI)[:, None]
    solved = scores.directions({"w": layer}, factor, {"w": query})["w"]
    document = torch.from_numpy((p_N - y_N)[:, None] * x_NI)
    found_QN = (solved.flatten(1) @ document.T).numpy() / count
    whole_Q = logistic_loss(w_I, x_QI, y_Q)
    without = [
        logistic_loss(refit(np.delete(x_NI, n, 0), np.delete(y_N, n), count), x_QI, y_Q) - whole_Q
        for n in range(count)
    ]
    expected_QN = np.stack(without, axis=1)
    for one, truth in zip(found_QN, expected_QN, strict=True):
        assert np.corrcoef(one, truth)[0, 1] > 0.995
        assert np.polyfit(one, truth, 1)[0] == pytest.approx(1.0, abs=0.05)


# -- a tiny language model --------------------------------------------------------------------------


def trained(kind):
    """A toy of a few hundred parameters, trained on a few texts until it knows something."""
    toy = setting.make_toy(kind, vocab=6, d=4, layers=1, count=2)
    chunks = random_chunks(24, vocab=6, shortest=4, longest=7, seed=3)
    model = toy.model.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    batch = text.collate(chunks, 0)
    for _ in range(60):
        optimizer.zero_grad()
        losses = gradients.token_losses(gradients.logits_of(model, batch), batch.targets)
        (losses.sum() / batch.n_loss_tokens).backward()
        optimizer.step()
    model.requires_grad_(False)
    return setting.Toy(kind, model, toy.layers, chunks)


def dense_fisher(toy):
    """`F = mean_n sum_t J_t^T (diag p - p p^T) J_t` over the tracked weights, labels summed out."""
    names = [f"{x.name}.{part}" for x in toy.layers for part in parts(x)]
    model = reference.untied(toy.model).requires_grad_(False)
    weights = {n: model.get_parameter(n).detach().clone() for n in names}
    total = 0.0
    for chunk in toy.chunks:
        batch = text.collate([chunk], 0)
        counted = (batch.targets[0] != -100).nonzero()[:, 0]

        def logits(values, batch=batch, counted=counted):
            out = functional_call(
                model,
                values,
                kwargs={
                    "input_ids": batch.input_ids,
                    "attention_mask": batch.attention_mask,
                    "use_cache": False,
                },
            )
            return out.logits[0, counted]

        jacobian = torch.func.jacrev(logits)(weights)
        rows_KVP = torch.cat([flat(jacobian, x) for x in toy.layers], dim=-1)
        p_KV = logits(weights).softmax(dim=-1)
        inner_KVV = torch.diag_embed(p_KV) - p_KV[:, :, None] * p_KV[:, None, :]
        total = total + torch.einsum("kvp,kvw,kwq->pq", rows_KVP, inner_KVV, rows_KVP)
    return total / len(toy.chunks)


def parts(layer):
    return ("weight", "bias") if layer.bias else ("weight",)


def flat(jacobian, layer):
    """``[K, V, O * I]`` of one layer, the bias as its last column."""
    weight = jacobian[f"{layer.name}.weight"]
    if layer.bias:
        weight = torch.cat([weight, jacobian[f"{layer.name}.bias"][..., None]], dim=-1)
    return weight.flatten(2)


def vectors(rows, layers):
    return torch.cat([rows[x.name].flatten(1) for x in layers], dim=1)


def correlation(a_QN, b_QN):
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(a_QN, b_QN, strict=True)]))


@pytest.fixture(scope="module", params=setting.KINDS)
def answers(request):
    """Scores by the dense inverse, by EK-FAC, by its poorer relatives; queries are the first six."""
    toy = trained(request.param)
    fisher_PP = dense_fisher(toy)
    draws = [setting.batched(toy, size=8, seed=seed) for seed in range(DRAWS)]
    _, bases, squares, _ = setting.fit(toy, [batch for draw in draws for batch in draw])
    mean = curvature.EigenvalueSums(
        squares={n: s / DRAWS for n, s in squares.squares.items()}, documents=squares.documents
    )
    ekfac = {x.name: curvature.ekfac(bases[x.name], mean, x.name) for x in toy.layers}
    rows, _ = gradients.per_document_gradients(toy.model, toy.layers, text.collate(toy.chunks, 0))
    rows_NP = vectors(rows, toy.layers)
    damped_PP, start = torch.zeros_like(fisher_PP), 0
    blocks_PP = torch.zeros_like(fisher_PP)
    for layer in toy.layers:
        size = rows[layer.name][0].numel()
        part = slice(start, start + size)
        blocks_PP[part, part] = fisher_PP[part, part]
        lift = setting.FACTOR * torch.trace(fisher_PP[part, part]) / size
        damped_PP[part, part] = lift * torch.eye(size, dtype=fisher_PP.dtype)
        start += size
    query_QP = rows_NP[:6]
    solved = scores.directions(ekfac, setting.FACTOR, {n: g[:6] for n, g in rows.items()})
    return {
        "dense": torch.linalg.solve(fisher_PP + damped_PP, query_QP.T).T @ rows_NP.T,
        "blocks": torch.linalg.solve(blocks_PP + damped_PP, query_QP.T).T @ rows_NP.T,
        "ekfac": vectors(solved, toy.layers) @ rows_NP.T,
        "identity": query_QP @ rows_NP.T,
        "trace": (fisher_PP, ekfac, toy),
    }


def test_ekfac_follows_the_dense_inverse_of_each_layer(answers):
    found = correlation(answers["ekfac"], answers["blocks"])
    plain = correlation(answers["identity"], answers["blocks"])
    assert found > 0.93, found
    assert 1 - found < (1 - plain) / 3, (found, plain)


def test_ekfac_follows_the_dense_inverse_of_the_whole_model(answers):
    found = correlation(answers["ekfac"], answers["dense"])
    plain = correlation(answers["identity"], answers["dense"])
    assert found > 0.85, found
    assert found > plain + 0.1, (found, plain)


def test_ekfac_keeps_the_trace_of_each_layer(answers):
    """Eigenvalues are fitted in an orthonormal basis, so their sum is the block's trace."""
    fisher_PP, ekfac, toy = answers["trace"]
    start = 0
    for layer in toy.layers:
        values = ekfac[layer.name].eigenvalues_OI
        part = slice(start, start + values.numel())
        expected = float(torch.trace(fisher_PP[part, part]))
        assert float(values.sum()) == pytest.approx(expected, rel=0.15), layer.name
        start += values.numel()
