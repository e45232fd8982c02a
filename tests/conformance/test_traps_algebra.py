"""Traps 2 and 5 to 10: what is squared, how matrices lie, and what damping may not do."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from influence import text
from influence.documents import curvature, gradients, preconditioner, scores
from influence.documents import fit as fits
from influence.documents.curvature import Basis
from influence.documents.preconditioner import LayerCurvature
from influence.documents.whitening import prepare
from influence.errors import GradientError
from influence.models import swap_conv1d, tracked_layers
from tests.conformance import reference, setting
from tests.toys import assert_matches, random_chunks, toy_gpt2, toy_llama


def orthogonal(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def random_bases(layers, seed=0):
    """Orthogonal matrices far from symmetric, that commute with nothing."""
    found = {}
    for number, layer in enumerate(layers):
        out, inputs = layer.out_features, layer.in_features + int(layer.bias)
        found[layer.name] = Basis(
            out_basis_OO=orthogonal(out, seed + 2 * number),
            in_basis_II=orthogonal(inputs, seed + 2 * number + 1),
            out_values_O=torch.ones(out, dtype=torch.float64),
            in_values_I=torch.ones(inputs, dtype=torch.float64),
        )
    return found


def random_layer(out=5, inputs=5, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(out, inputs, generator=generator, dtype=torch.float64) * scale
    return LayerCurvature(
        eigenvalues_OI=values,
        out_basis_OO=orthogonal(out, seed + 100),
        in_basis_II=orthogonal(inputs, seed + 200),
    )


@pytest.mark.parametrize("length", [2, 3], ids=["T=1", "T=2"])
def test_trap_02_lambda_squares_the_documents_gradient_not_the_tokens(toy, length):
    chunks = random_chunks(9, shortest=length, longest=length, loss="all", seed=3)
    asked = replace(toy, chunks=chunks)
    bases = random_bases(toy.layers)
    squares = setting.fit(asked, setting.batched(asked, size=4), bases)[2]
    traced = setting.traces(asked)
    for layer in toy.layers:
        pair = bases[layer.name].out_basis_OO, bases[layer.name].in_basis_II
        found = squares.squares[layer.name] / squares.documents
        assert_matches(found, reference.eigenvalues(traced, layer.name, *pair))
        by_token = reference.token_eigenvalues(traced, layer.name, *pair)
        difference = (by_token - found).norm() / found.norm().clamp_min(1e-9)
        if length == 2:  # one counted token; the last position carries no gradient
            assert difference < 1e-12
    if length == 3:
        assert difference > 0.05


@pytest.mark.parametrize("tied", [True, False])
def test_trap_05_conv1d_is_oriented_by_class(tied):
    model, original = toy_gpt2(tied=tied), toy_gpt2(tied=tied)
    swap_conv1d(model)
    chunk = random_chunks(1)[0]
    found, _ = gradients.per_document_gradients(
        model, tracked_layers(model), text.collate([chunk], 0)
    )
    original.requires_grad_(True)
    tokens = torch.as_tensor(chunk.tokens, dtype=torch.int64)[None]
    logits = original(input_ids=tokens, use_cache=False).logits[0]
    targets = torch.where(torch.as_tensor(chunk.loss), tokens[0], -100)[1:]
    torch.nn.functional.cross_entropy(logits[:-1], targets, reduction="sum").backward()
    for block in range(2):
        square = original.transformer.h[block].attn.c_proj
        assert square.weight.shape == (8, 8)
        name = f"transformer.h.{block}.attn.c_proj"
        assert_matches(found[name][0, :, :-1], square.weight.grad.T)  # Conv1D holds (in, out)
        assert_matches(found[name][0, :, -1], square.bias.grad)
        assert (square.weight.grad - square.weight.grad.T).norm() > 0.1 * square.weight.grad.norm()


@pytest.mark.parametrize("kind", setting.KINDS)
def test_trap_06_the_bias_is_a_column_of_ones_masked_like_the_inputs(kind):
    toy = setting.make_toy(kind, count=8, **({"bias": True} if kind == "llama" else {}))
    biased = [layer for layer in toy.layers if layer.bias]
    assert len(biased) >= 8
    sums, _, _, fisher = setting.fit(toy, setting.batched(toy, extra=4))
    plain = text.collate(toy.chunks, 0, extra_padding=4)
    found, _ = gradients.per_document_gradients(toy.model, toy.layers, plain)
    rows = scores.whitened_rows(
        toy.model,
        toy.layers,
        prepare(
            {x.name: curvature.identity() for x in toy.layers},
            setting.FACTOR,
            setting.full_sketch(toy),
        ),
        plain,
    ).vectors_BP
    traced = [reference.trace(toy.model, toy.layers, chunk) for chunk in toy.chunks]
    start = 0
    for layer in toy.layers:
        own = torch.stack([x.gradients[layer.name] for x in traced])
        if layer.bias:
            assert_matches(found[layer.name][..., -1], own[..., -1])
            assert float(sums.inputs[layer.name][-1, -1]) == sums.tokens  # no padding, no prompt
        flat = own.flatten(1)  # [W|b] row by row
        assert_matches(rows[:, start : start + flat.shape[1]], flat)
        start += flat.shape[1]
    assert fisher[biased[0].name].eigenvalues_OI.shape[1] == biased[0].in_features + 1


def test_trap_07_gradients_are_rotated_by_q_transposed_g_q(toy):
    bases = random_bases(toy.layers, seed=7)
    fisher = setting.fit(toy, setting.batched(toy), bases)[3]
    traced = setting.traces(toy)
    plain = [reference.trace(toy.model, toy.layers, chunk) for chunk in toy.chunks]
    batch = text.collate(toy.chunks, 0)
    rows = scores.whitened_rows(
        toy.model, toy.layers, prepare(fisher, setting.FACTOR, setting.full_sketch(toy)), batch
    ).vectors_BP
    solved, found = setting.query_directions(toy, fisher, toy.chunks)
    queries = scores.whitened_queries(fisher, setting.FACTOR, setting.full_sketch(toy), found)
    expected_rows = []
    for layer in toy.layers:
        basis, own = bases[layer.name], fisher[layer.name].eigenvalues_OI
        q_OO, q_II = basis.out_basis_OO, basis.in_basis_II
        assert_matches(own, reference.eigenvalues(traced, layer.name, q_OO, q_II))
        damped = (own + setting.FACTOR * own.mean()).sqrt()
        rotated = [q_OO.T @ x.gradients[layer.name] @ q_II / damped for x in plain]
        expected_rows.append(torch.stack(rotated).flatten(1))
        for document in (0, 1):
            expected = reference.preconditioned(
                plain[document].gradients[layer.name], q_OO, q_II, own, setting.FACTOR
            )
            assert_matches(solved[layer.name][document], expected)
    assert_matches(rows, torch.cat(expected_rows, dim=1))
    assert_matches(queries, rows)


@pytest.mark.parametrize("tokens", [1, 400], ids=["tokens first", "gradient first"])
def test_trap_07_both_orders_of_rotation_agree_with_the_definition(tokens):
    layer = random_layer(5, 4)
    generator = torch.Generator().manual_seed(1)
    a_BTI = torch.randn(2, tokens, 4, generator=generator, dtype=torch.float64)
    g_BTO = torch.randn(2, tokens, 5, generator=generator, dtype=torch.float64)
    expected = torch.einsum(
        "bto,op,bti,iq->bpq", g_BTO, layer.out_basis_OO, a_BTI, layer.in_basis_II
    )
    assert_matches(preconditioner.rotate(layer, a_BTI, g_BTO), expected)


def test_trap_08_damping_is_each_modules_own_and_leaves_no_trace(toy):
    batches = setting.batched(toy)
    fisher = setting.fit(toy, batches)[3]
    scaled = {  # layers of very different scale, so that another's damping shows
        name: replace(layer, eigenvalues_OI=layer.eigenvalues_OI * 10.0**number)
        for number, (name, layer) in enumerate(fisher.items())
    }
    before = {name: layer.eigenvalues_OI.clone() for name, layer in scaled.items()}
    first, found = setting.query_directions(toy, scaled, toy.chunks[:2])
    for name, layer in scaled.items():
        assert preconditioner.damping(layer, 0.1) == pytest.approx(0.1 * float(before[name].mean()))
        expected = reference.preconditioned(
            found[name][0], layer.out_basis_OO, layer.in_basis_II, before[name], 0.1
        )
        assert_matches(first[name][0], expected)

    def whitened():
        ready, batch = (
            prepare(scaled, 0.1, setting.full_sketch(toy)),
            text.collate(toy.chunks[:2], 0),
        )
        return scores.whitened_rows(toy.model, toy.layers, ready, batch).vectors_BP

    rows = whitened()
    again, _ = setting.query_directions(toy, scaled, toy.chunks[:2])
    rows_again = whitened()
    assert torch.equal(rows, rows_again)
    for name, layer in scaled.items():
        assert torch.equal(first[name], again[name])
        assert torch.equal(layer.eigenvalues_OI, before[name])
    smaller, _ = setting.query_directions(toy, scaled, toy.chunks[:2], factor=0.01)
    name = toy.layers[-1].name
    assert_matches(
        smaller[name][0],
        reference.preconditioned(
            found[name][0], scaled[name].out_basis_OO, scaled[name].in_basis_II, before[name], 0.01
        ),
    )


def test_trap_08_fitting_twice_gives_the_same_eigenvalues(toy):
    batches = setting.batched(toy)
    first, second = setting.fit(toy, batches), setting.fit(toy, batches)
    for layer in toy.layers:
        assert torch.equal(first[0].inputs[layer.name], second[0].inputs[layer.name])
        assert torch.equal(first[2].squares[layer.name], second[2].squares[layer.name])


def test_trap_09_sums_are_float64_whatever_the_models_dtype(toy):
    model = toy_llama(dtype=torch.float32) if toy.kind == "llama" else toy_gpt2(dtype=torch.float32)
    swap_conv1d(model)
    single = replace(toy, model=model)
    sums, _, squares, _ = setting.fit(single, setting.batched(toy))
    expected = setting.fit(toy, setting.batched(toy))[0]
    for name, value in sums.inputs.items():
        assert value.dtype == sums.outputs[name].dtype == squares.squares[name].dtype
        assert value.dtype == torch.float64
        assert_matches(value.float(), expected.inputs[name])


def test_trap_09_many_small_sums_are_not_swallowed_by_a_large_one():
    sums = {}
    curvature.add_wide(sums, "x", torch.full((2, 2), 1e8, dtype=torch.float32))
    for _ in range(1000):
        curvature.add_wide(sums, "x", torch.ones(2, 2, dtype=torch.float32))
    assert_matches(sums["x"], torch.full((2, 2), 1e8 + 1000.0, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_trap_09_half_precision_models_are_refused(dtype):
    toy = setting.make_toy("llama", count=2)
    batches, bases = setting.batched(toy), random_bases(toy.layers)
    model = toy.model.to(dtype)
    with pytest.raises(GradientError, match=r"float32 or float64 was expected"):
        fits.kronecker_sums(model, toy.layers, batches)
    with pytest.raises(GradientError, match=r"float32 or float64 was expected"):
        fits.eigenvalue_sums(model, toy.layers, bases, batches)


def test_trap_10_signs_and_rotations_of_eigenvectors_change_no_result(toy):
    batches = setting.batched(toy)
    _, bases, _, fisher = setting.fit(toy, batches)
    random = np.random.default_rng(0)
    flipped = {
        name: replace(
            basis,
            out_basis_OO=basis.out_basis_OO * _signs(random, len(basis.out_basis_OO)),
            in_basis_II=basis.in_basis_II * _signs(random, len(basis.in_basis_II)),
        )
        for name, basis in bases.items()
    }
    other = setting.fit(toy, batches, flipped)[3]
    expected, _ = setting.query_directions(toy, fisher, toy.chunks[:3])
    found, _ = setting.query_directions(toy, other, toy.chunks[:3])
    for name in expected:
        assert_matches(found[name], expected[name])


def test_trap_10_a_rotation_within_equal_eigenvalues_changes_no_result():
    layer = random_layer(4, 6)
    equal = replace(layer, eigenvalues_OI=torch.full((4, 6), 0.7, dtype=torch.float64))
    turned = replace(equal, in_basis_II=equal.in_basis_II @ orthogonal(6, 5))
    gradient = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(equal.in_basis_II, turned.in_basis_II)
    assert_matches(
        preconditioner.precondition(turned, 0.1, gradient),
        preconditioner.precondition(equal, 0.1, gradient),
    )


def _signs(random, size):
    return torch.from_numpy(random.choice([-1.0, 1.0], size))
