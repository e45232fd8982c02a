"""The low-rank output factor, the projected head, and the noise of the eigenvalues."""

import numpy as np
import pytest
import torch

from influence import text
from influence.documents import curvature, gradients, head, labels, noise, scores, sketch
from influence.documents import fit as fits
from influence.documents.whitening import prepare
from influence.models import project_head, swap_conv1d, tracked_layers
from tests.toys import assert_matches, random_chunks, toy_gpt2, toy_llama

VOCABULARY = 40


def batches_of(chunks, size=3):
    return [
        text.collate(chunks[i : i + size], 0, extra_padding=1) for i in range(0, len(chunks), size)
    ]


def dense_factor(model, batches):
    total = 0.0
    for batch in batches:
        counted = batch.targets != -100
        p_KV = gradients.logits_of(model, batch)[counted].softmax(dim=-1)
        g_KV = p_KV - torch.nn.functional.one_hot(batch.targets[counted], p_KV.shape[1])
        total = total + g_KV.T @ g_KV
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_output_subspace_spans_the_factor_of_low_rank(dtype):
    model = toy_llama(vocab=VOCABULARY, dtype=dtype)
    chunks = random_chunks(3, vocab=VOCABULARY, shortest=3, longest=3, loss="all")  # 6 tokens
    batches = batches_of(chunks)
    factor_VV = dense_factor(model, batches).double()
    rank = int(torch.linalg.matrix_rank(factor_VV, rtol=1e-6))
    assert rank == 6
    found = head.sketch_output_factor(model, batches, rank=8, seed=0)
    basis_VR, left_out = head.output_subspace(found, rank=8, seed=0)
    assert_matches(basis_VR.T @ basis_VR, torch.eye(8))
    strongest = torch.linalg.eigh(factor_VV).eigenvectors[:, -rank:]
    kept = basis_VR.double() @ (basis_VR.double().T @ strongest)
    assert float((kept - strongest).norm()) < 1e-3
    assert found.trace == pytest.approx(float(factor_VV.trace()), rel=1e-5)
    assert found.tokens == 6
    assert left_out == pytest.approx(0, abs=1e-3)


def test_output_subspace_states_what_it_leaves_out():
    model = toy_llama(vocab=VOCABULARY)
    batches = batches_of(random_chunks(30, vocab=VOCABULARY))
    factor_VV = dense_factor(model, batches)
    ideal = float(torch.linalg.eigvalsh(factor_VV)[-4:].sum() / factor_VV.trace())
    found = head.sketch_output_factor(model, batches, rank=4, seed=0)
    basis_VR, left_out = head.output_subspace(found, rank=4, seed=0)
    wide = basis_VR.double()
    true = 1 - float((wide.T @ factor_VV @ wide).trace() / factor_VV.trace())
    assert 1 - ideal <= true + 1e-9
    assert true < 1 - ideal + 0.05
    assert left_out == pytest.approx(true, abs=0.05)
    assert left_out >= true - 1e-6  # never flattering


def test_output_subspace_of_nearly_the_whole_vocabulary():
    model = toy_llama(vocab=12, dtype=torch.float32)
    found = head.sketch_output_factor(model, batches_of(random_chunks(12)), rank=10, seed=0)
    basis_VR, left_out = head.output_subspace(found, rank=10, seed=0)
    assert basis_VR.shape == (12, 10)
    assert left_out < 0.05


def test_output_sketches_of_partitions_add_up():
    model = toy_llama(vocab=VOCABULARY)
    batches = batches_of(random_chunks(10, vocab=VOCABULARY), size=2)
    whole = head.sketch_output_factor(model, batches, 6, seed=3)
    parts = [
        head.sketch_output_factor(model, part, 6, seed=3) for part in (batches[:2], batches[2:])
    ]
    merged = head.merge_sketches(*parts)
    assert_matches(merged.product_VR, whole.product_VR)
    assert (merged.trace, merged.tokens) == (pytest.approx(whole.trace), whole.tokens)


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2], ids=["llama", "gpt2"])
def test_a_projected_head_goes_through_both_passes_and_scoring(make):
    exact, low = make(), make()
    basis = torch.linalg.qr(torch.randn(11, 4, generator=torch.Generator().manual_seed(0)).double())
    name = "lm_head"
    for model in (exact, low):
        swap_conv1d(model)
    project_head(low, name, basis.Q)
    batch = text.collate(random_chunks(20), 0, extra_padding=2)
    found, _ = gradients.per_document_gradients(low, tracked_layers(low), batch)
    whole, _ = gradients.per_document_gradients(exact, tracked_layers(exact), batch)
    assert_matches(found[f"{name}.low_rank"], basis.Q.T @ whole[name])
    layers = [x for x in tracked_layers(low) if x.role == "head"]
    sums = fits.kronecker_sums(low, layers, [batch])
    full = fits.kronecker_sums(exact, [x for x in tracked_layers(exact) if x.name == name], [batch])
    assert_matches(sums.outputs[f"{name}.low_rank"], basis.Q.T @ full.outputs[name] @ basis.Q)
    assert_matches(sums.inputs[f"{name}.low_rank"], full.inputs[name])
    bases = {x.name: curvature.eigenbasis(sums, x.name) for x in layers}
    squares = fits.eigenvalue_sums(low, layers, bases, [batch])
    own = bases[f"{name}.low_rank"]
    rotated = own.out_basis_OO.T @ found[f"{name}.low_rank"] @ own.in_basis_II
    assert_matches(squares.squares[f"{name}.low_rank"], rotated.square().sum(dim=0))
    fisher = {x.name: curvature.ekfac(bases[x.name], squares, x.name) for x in layers}
    query = {x.name: found[x.name][:2] for x in layers}
    solved = scores.directions(fisher, 0.1, query)
    shapes = {x.name: (x.out_features, x.in_features) for x in layers}
    rows = scores.whitened_rows(
        low, layers, prepare(fisher, 0.1, sketch.full(shapes)), batch
    ).vectors_BP
    assert_matches(scores.exact_scores(low, layers, batch, solved).scores_QB, rows[:2] @ rows.T)


def test_label_noise_is_the_standard_error_over_draws():
    model = toy_llama()
    layers = tracked_layers(model)
    chunks = random_chunks(8)
    batches = batches_of(chunks)
    found = noise.label_noise(model, layers, batches, seed=5, draws=3, documents=100)
    norms_DN = np.zeros((3, 8))
    for draw in (1, 2, 3):
        for chunk in chunks:
            batch = text.collate([chunk], 0)
            drawn = labels.sample_labels(model, batch, [f"noise-{chunk.document}"], 5, draw)
            rows, _ = gradients.per_document_gradients(
                model, layers, text.with_targets(batch, drawn, [chunk])
            )
            norms_DN[draw - 1, chunk.document] = sum(float(g.square().sum()) for g in rows.values())
    within = norms_DN.var(axis=0, ddof=1).mean()
    overall = norms_DN.var(axis=1, ddof=1).mean()
    assert found.labels == pytest.approx((within / 100) ** 0.5 / norms_DN.mean(), rel=1e-9)
    assert found.documents == pytest.approx((overall / 100) ** 0.5 / norms_DN.mean(), rel=1e-9)
    assert found.sample == 8


def test_label_noise_of_a_model_without_gradient_is_zero():
    model = toy_llama()
    model.model.norm.weight.zero_()  # the head sees nothing, and nothing reaches the rest
    layers = [x for x in tracked_layers(model) if x.role == "head"]
    found = noise.label_noise(
        model, layers, batches_of(random_chunks(4)), seed=0, draws=2, documents=4
    )
    assert (found.labels, found.documents) == (0.0, 0.0)
