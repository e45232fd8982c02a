"""Rows of a store of kept coordinates: the same vectors by fewer products, and honest lengths."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from influence import text
from influence.documents import curvature, fit, preconditioner, scores, sketch, whitening
from influence.documents.gradients import per_document_gradients, squared_norms
from influence.layers import tracked_layers
from tests.toys import assert_matches, random_chunks, toy_gpt2, toy_llama


def fitted(make, count=40):
    model = make()
    layers, chunks = tracked_layers(model), random_chunks(count)
    batch = text.collate(chunks, 0)
    sums = fit.kronecker_sums(model, layers, [batch])
    bases = {x.name: curvature.eigenbasis(sums, x.name) for x in layers}
    squares = fit.eigenvalue_sums(model, layers, bases, [batch])
    fisher = {x.name: curvature.ekfac(bases[x.name], squares, x.name) for x in layers}
    return model, layers, fisher, batch


def full_rows(model, layers, fisher, batch):
    """Every whitened coordinate of every layer, from gradients and the formula alone."""
    found, _ = per_document_gradients(model, layers, batch)
    rows = {}
    for name, gradient_BOI in found.items():
        layer = fisher[name]
        rotated = layer.out_basis_OO.T @ gradient_BOI @ layer.in_basis_II
        rows[name] = rotated * preconditioner.inverse_root(layer, 0.1)
    return rows, found


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2])
@pytest.mark.parametrize("dimension", [1, 5, 40, 200])
def test_few_kept_coordinates_are_those_of_the_whole_row(make, dimension):
    model, layers, fisher, batch = fitted(make)
    kept = sketch.top_eigen(fisher, 0.1, dimension)
    ready = whitening.prepare(fisher, 0.1, kept, exact=False)
    if dimension <= 40:
        assert any(layer.kept is not None for layer in ready.layers.values())
    rows = scores.whitened_rows(model, layers, ready, batch)
    whole, plain = full_rows(model, layers, fisher, batch)
    expected = torch.cat([whole[n].flatten(1)[:, kept.coordinates[n]] for n in kept.shapes], dim=1)
    assert_matches(rows.vectors_BP, expected)
    assert_matches(rows.squared_norm_B, sum(g.square().sum(dim=(1, 2)) for g in plain.values()))


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2])
def test_estimated_self_influence_is_right_on_average_and_exact_with_all_coordinates(make):
    model, layers, fisher, batch = fitted(make)
    whole, _ = full_rows(model, layers, fisher, batch)
    exact_B = sum(row.square().sum(dim=(1, 2)) for row in whole.values())
    for dimension in (1, 40, 400):
        kept = sketch.top_eigen(fisher, 0.1, dimension)
        ready = whitening.prepare(fisher, 0.1, kept, exact=False)
        found_B = scores.whitened_rows(model, layers, ready, batch).self_influence_B
        # the fit's own documents and labels: the mean is exact
        assert_matches(found_B.mean(), exact_B.mean())
    assert float((found_B - exact_B).abs().mean()) < 0.2 * float(exact_B.mean())
    everything = whitening.prepare(fisher, 0.1, sketch.full(kept.shapes))
    assert_matches(scores.whitened_rows(model, layers, everything, batch).self_influence_B, exact_B)


@pytest.mark.parametrize("tokens", [2, 50])
def test_squared_norms_are_those_of_the_gradient_either_way(tokens):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, tokens, 8, dtype=torch.float64, generator=generator)
    g = torch.randn(3, tokens, 6, dtype=torch.float64, generator=generator)
    expected = torch.einsum("bto,bti->boi", g, a).square().sum(dim=(1, 2))
    with FlopCounterMode(display=False) as counter:
        assert_matches(squared_norms(a, g), expected)
    # the lesser work: Gram matrices of the tokens, or the gradient
    assert counter.get_total_flops() == 2 * 3 * tokens * min(tokens * (8 + 6), 8 * 6)
