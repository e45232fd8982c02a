"""Scores, their parts and their units; layers of odd shape and use; errors that name a document."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from influence import text
from influence.documents import curvature, gradients, scores, sketch
from influence.documents import fit as fits
from influence.documents.whitening import prepare
from influence.errors import GradientError
from influence.layers import Layer
from influence.models import swap_conv1d, tracked_layers
from tests.toys import assert_matches, random_chunks, toy_gpt2, toy_llama


class Odd(nn.Module):
    """A causal toy: one layer used twice, one that sees `[B * T, I]`, one that sees `[B, T, I]`."""

    def __init__(self, mixed=False):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Embedding(11, 6)
        self.twice = nn.Linear(6, 6)
        self.flat = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 11)
        self.mixed = mixed
        self.double().eval().requires_grad_(False)
        for parameter in self.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask, position_ids, use_cache):
        hidden = self.table(input_ids)
        hidden = hidden + self.twice(torch.tanh(self.twice(hidden)))
        hidden = hidden.cumsum(dim=1) / (1 + torch.arange(hidden.shape[1])[:, None])
        rows = hidden.flatten(0, 1)
        if self.mixed:
            rows = rows[:-1]  # like an expert that gets some tokens only
            out = nn.functional.pad(self.flat(rows), (0, 0, 0, 1))
        else:
            out = self.flat(rows)
        return SimpleNamespace(logits=self.head(torch.tanh(out.view_as(hidden))))


def autograd(model, chunk):
    """The gradient of one document by autograd on the parameters, with the bias as last column."""
    model.requires_grad_(True)
    batch = text.collate([chunk], 0)
    gradients.token_losses(gradients.logits_of(model, batch), batch.targets).sum().backward()
    found = {}
    for layer in tracked_layers(model):
        module = model.get_submodule(layer.name)
        parts = [module.weight.grad] + ([module.bias.grad[:, None]] if layer.bias else [])
        found[layer.name] = torch.cat(parts, dim=1)
    model.requires_grad_(False)
    model.zero_grad()
    return found


@pytest.fixture
def odd():
    model = Odd()
    return model, tracked_layers(model), random_chunks(9)


def test_gradients_of_layers_used_twice_and_of_flat_inputs_are_autograds(odd):
    model, layers, chunks = odd
    found, _ = gradients.per_document_gradients(
        model, layers, text.collate(chunks, 0, extra_padding=3)
    )
    for row, chunk in enumerate(chunks):
        for name, value in autograd(model, chunk).items():
            assert_matches(found[name][row], value)


def test_token_and_layer_scores_of_layers_used_twice_add_up(odd):
    model, layers, chunks = odd
    batch = text.collate(chunks, 0, extra_padding=2)
    found, _ = gradients.per_document_gradients(model, layers, batch)
    solved = {name: g[:2] for name, g in found.items()}
    exact = scores.exact_scores(model, layers, batch, solved)
    expected = sum(torch.einsum("qoi,boi->qb", solved[n], found[n]) for n in found)
    assert_matches(exact.scores_QB, expected)
    by_token = scores.token_scores(model, layers, batch, solved)
    assert by_token.shape == (2, *batch.input_ids.shape)
    assert_matches(by_token.sum(dim=2), expected)


@pytest.mark.parametrize("numbers", [1, 200, 1 << 21])
def test_scores_are_sums_over_slices_of_any_size(odd, monkeypatch, numbers):
    monkeypatch.setattr(scores, "GRADIENT_NUMBERS", numbers)
    model, layers, chunks = odd
    batch = text.collate(chunks, 0, side="left", extra_padding=2)
    found, _ = gradients.per_document_gradients(model, layers, batch)
    solved = {name: g[:3] for name, g in found.items()}
    exact = scores.exact_scores(model, layers, batch, solved)
    by_layer = [torch.einsum("qoi,boi->qb", solved[x.name], found[x.name]) for x in layers]
    assert_matches(exact.layers_QLB, torch.stack(by_layer, dim=1))


def test_token_scores_of_chosen_pairs_are_those_of_all_pairs(odd):
    model, layers, chunks = odd
    batch = text.collate(chunks, 0, extra_padding=2)
    found, _ = gradients.per_document_gradients(model, layers, batch)
    solved = {name: g[:3] for name, g in found.items()}
    wanted_QB = torch.zeros(3, len(chunks), dtype=torch.bool)
    wanted_QB[0, [1, 4]] = wanted_QB[2, [0, 1, 8]] = True
    every = scores.token_scores(model, layers, batch, solved)
    some = scores.token_scores(model, layers, batch, solved, wanted_QB)
    assert_matches(some, every * wanted_QB[..., None])
    assert bool(every[~wanted_QB].any())


@pytest.mark.parametrize("side", ["right", "left"])
def test_losses_and_their_gradient_are_autograds_cross_entropy(side):
    batch = text.collate(random_chunks(5), 0, side=side, extra_padding=2)
    generator = torch.Generator().manual_seed(0)
    shape = (*batch.targets.shape, 11)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(True)
    expected = gradients.token_losses(logits, batch.targets)
    (slope,) = torch.autograd.grad(expected.sum(), logits)
    losses, found = gradients.losses_and_gradient(logits.detach(), batch.targets)
    assert_matches(losses, expected)
    assert_matches(found, slope)


def test_what_is_not_finite_where_nothing_is_counted_does_not_matter():
    logits = torch.zeros(1, 2, 3)
    logits[0, 1] = float("nan")
    losses, slope = gradients.losses_and_gradient(logits, torch.tensor([[2, -100]]))
    assert bool(losses.isfinite().all())
    assert not slope[0, 1].any()


def test_curvature_of_flat_inputs_is_by_document(odd):
    model, _, chunks = odd
    layers = tracked_layers(model, "flat,head")
    batch = text.collate(chunks, 0, extra_padding=2)
    found, _ = gradients.per_document_gradients(model, layers, batch)
    bases = {x.name: curvature.standard_basis(x) for x in layers}
    squares = fits.eigenvalue_sums(model, layers, bases, [batch])
    for layer in layers:
        assert_matches(squares.squares[layer.name], found[layer.name].square().sum(dim=0))
        diagonal = curvature.diagonal(squares, layer.name)
        assert_matches(diagonal.eigenvalues_OI, squares.squares[layer.name] / len(chunks))
    sums = fits.kronecker_sums(model, layers, [batch])
    alone = [fits.kronecker_sums(model, layers, [text.collate([c], 0)]) for c in chunks]
    assert_matches(sums.inputs["flat"], sum(x.inputs["flat"] for x in alone))
    assert_matches(sums.outputs["flat"], sum(x.outputs["flat"] for x in alone))


def test_curvature_of_a_layer_used_twice_is_that_of_its_one_gradient(odd):
    model, _, chunks = odd
    layers = tracked_layers(model, "twice")
    batch = text.collate(chunks, 0)
    found, _ = gradients.per_document_gradients(model, layers, batch)
    bases = {x.name: curvature.standard_basis(x) for x in layers}
    squares = fits.eigenvalue_sums(model, layers, bases, [batch])
    assert_matches(squares.squares["twice"], found["twice"].square().sum(dim=0))


def test_a_layer_that_mixes_documents_is_refused():
    model = Odd(mixed=True)
    chunks = random_chunks(3)
    with pytest.raises(GradientError, match="layer flat works on a tensor of shape"):
        gradients.per_document_gradients(model, tracked_layers(model), text.collate(chunks, 0))


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2], ids=["llama", "gpt2"])
def test_weights_that_are_nan_name_the_documents_that_meet_them(make):
    model = make(tied=False)
    swap_conv1d(model)
    model.get_input_embeddings().weight[7] = float("nan")
    chunks = random_chunks(8, vocab=7)
    for document in (2, 5):
        chunks[document].tokens[0] = 7
    layers, batch = tracked_layers(model), text.collate(chunks, 0)
    with pytest.raises(GradientError, match=r"the loss of document\(s\) \[2, 5\]") as caught:
        gradients.per_document_gradients(model, layers, batch)
    assert caught.value.documents == (2, 5)
    model.get_input_embeddings().weight[7] = 0.0
    gradients.per_document_gradients(model, layers, batch)  # all hooks are gone


def test_infinite_factors_are_refused():
    bad = torch.full((2, 2), float("inf"), dtype=torch.float64)
    sums = curvature.KroneckerSums(inputs={"x": bad}, outputs={"x": bad}, tokens=1, documents=1)
    with pytest.raises(GradientError, match="factor A of layer x holds NaN or infinity"):
        curvature.eigenbasis(sums, "x")


@pytest.fixture
def fitted():
    model = toy_llama()
    layers, chunks = tracked_layers(model), random_chunks(12)
    batch = text.collate(chunks, 0)
    sums = fits.kronecker_sums(model, layers, [batch])
    bases = {x.name: curvature.eigenbasis(sums, x.name) for x in layers}
    squares = fits.eigenvalue_sums(model, layers, bases, [batch])
    fisher = {x.name: curvature.ekfac(bases[x.name], squares, x.name) for x in layers}
    return model, layers, batch, fisher


def test_a_contrast_is_the_difference_of_its_two_scores(fitted):
    model, layers, batch, fisher = fitted
    found, _ = gradients.per_document_gradients(model, layers, batch)
    a, b = ({n: g[i : i + 1] for n, g in found.items()} for i in (0, 1))
    both = scores.contrast(a, b)
    measured = [
        scores.exact_scores(model, layers, batch, scores.directions(fisher, 0.1, g)).scores_QB
        for g in (a, b, both)
    ]
    assert_matches(measured[2], measured[0] - measured[1])


def curvatures(fisher):
    """EK-FAC, and curvature without bases and without eigenvalues, layer by layer in turn."""
    kinds = [
        lambda x: x,
        lambda x: replace(x, out_basis_OO=None, in_basis_II=None),
        lambda _: curvature.identity(),
    ]
    return {name: kinds[i % 3](x) for i, (name, x) in enumerate(fisher.items())}


@pytest.mark.parametrize("against", [False, True], ids=["loss", "contrast"])
def test_solved_queries_are_their_gradients_preconditioned(fitted, against):
    model, layers, batch, fisher = fitted
    fisher = curvatures(fisher)
    found, _ = gradients.per_document_gradients(model, layers, batch)
    if against:
        found = {n: g[0::2] - g[1::2] for n, g in found.items()}
    expected = scores.directions(fisher, 0.1, found)
    kept = sketch.full({n: tuple(g.shape[1:]) for n, g in found.items()})
    solved = scores.solve_queries(model, layers, batch, fisher, 0.1, sketch=kept, contrast=against)
    for name, direction in expected.items():
        assert_matches(solved.directions[name], direction)
    assert_matches(solved.self_influence_Q, scores.self_influence(found, expected))
    assert_matches(solved.vectors_QP, scores.whitened_queries(fisher, 0.1, kept, found))


def test_joined_directions_are_in_order():
    parts = [{"x": torch.full((n, 2, 1), float(n))} for n in (2, 1, 3)]
    joined = scores.joined_directions(iter(parts), 6)
    assert_matches(joined["x"], torch.cat([part["x"] for part in parts]))


def test_self_influence_is_the_score_of_a_document_on_itself_and_bounds_the_others(fitted):
    model, layers, batch, fisher = fitted
    found, _ = gradients.per_document_gradients(model, layers, batch)
    solved = scores.directions(fisher, 0.1, found)
    exact = scores.exact_scores(model, layers, batch, solved).scores_QB
    own = scores.self_influence(found, solved)
    assert_matches(own, exact.diagonal())
    assert bool((own > 0).all())
    view = scores.normalised(exact, own, own)
    assert float(view.abs().max()) <= 1 + 1e-12
    assert_matches(view.diagonal(), torch.ones(12, dtype=torch.float64))
    assert_matches(view, exact / torch.outer(own, own).sqrt())


def test_normalised_scores_of_documents_without_gradient_are_zero():
    found = scores.normalised(torch.zeros(1, 2), torch.ones(1), torch.tensor([0.0, 4.0]))
    assert found.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("kind", ["full", "top-eigen", "random"])
def test_whitened_rows_of_a_cut_document_are_those_of_its_summed_gradient(fitted, kind):
    model, layers, batch, fisher = fitted
    shapes = {n: tuple(x.eigenvalues_OI.shape) for n, x in fisher.items()}
    kept = {
        "full": sketch.full(shapes),
        "top-eigen": sketch.top_eigen(fisher, 0.1, 50),
        "random": sketch.random_projection(shapes, 3, seed=0),
    }[kind]
    rows = scores.whitened_rows(model, layers, prepare(fisher, 0.1, kept), batch)
    chunks = random_chunks(12)
    batches = [text.collate(chunks[:5], 0), text.collate(chunks[5:], 0, extra_padding=2)]
    whole = scores.document_row(model, layers, prepare(fisher, 0.1, kept), batches)
    assert_matches(whole.vectors_BP, rows.vectors_BP.sum(dim=0, keepdim=True))
    found, _ = gradients.per_document_gradients(model, layers, batch)
    summed = {n: g.sum(dim=0, keepdim=True) for n, g in found.items()}
    own = scores.self_influence(summed, scores.directions(fisher, 0.1, summed))
    assert_matches(whole.self_influence_B, own)
    assert_matches(whole.squared_norm_B[0], sum(g.square().sum() for g in summed.values()))
    assert_matches(whole.forward.loss_B[0], rows.forward.loss_B.sum())
    assert_matches(rows.squared_norm_B, sum(g.square().sum(dim=(1, 2)) for g in found.values()))


def test_without_curvature_influence_is_the_dot_product_of_gradients(fitted):
    model, layers, batch, _ = fitted
    nothing = {x.name: curvature.identity() for x in layers}
    found, _ = gradients.per_document_gradients(model, layers, batch)
    solved = scores.directions(nothing, 0.1, found)
    expected = sum(torch.einsum("qoi,boi->qb", g, g) for g in found.values())
    assert_matches(scores.exact_scores(model, layers, batch, solved).scores_QB, expected)


def test_a_layer_that_no_document_moves_carries_no_influence():
    zero = curvature.LayerCurvature(
        eigenvalues_OI=torch.zeros(2, 2), out_basis_OO=torch.eye(2), in_basis_II=torch.eye(2)
    )
    assert not scores.directions({"x": zero}, 0.1, {"x": torch.ones(1, 2, 2)})["x"].any()


def test_kfac_is_the_kronecker_product_of_the_factors():
    layer = Layer(name="x", in_features=3, out_features=2, bias=False, role="mlp", tied=False)
    assert curvature.standard_basis(layer).in_basis_II.shape == (3, 3)
    generator = torch.Generator().manual_seed(0)
    roots = [torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (3, 2)]
    a_II, s_OO = (x @ x.T for x in roots)
    sums = curvature.KroneckerSums(inputs={"x": a_II}, outputs={"x": s_OO}, tokens=8, documents=4)
    found = curvature.kfac(curvature.eigenbasis(sums, "x"), sums.tokens, sums.documents)
    basis = torch.kron(found.out_basis_OO.contiguous(), found.in_basis_II.contiguous())
    dense = basis @ torch.diag(found.eigenvalues_OI.flatten()) @ basis.T
    assert_matches(dense, torch.kron(s_OO / 8, a_II / 8) * 8 / 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_gradient_at_the_logits_is_that_of_autograd(dtype):
    generator = torch.Generator().manual_seed(0)
    logits_BTV = (5 * torch.randn(3, 4, 11, dtype=torch.float64, generator=generator)).to(dtype)
    targets_BT = torch.randint(11, (3, 4), generator=generator)
    targets_BT[0, 1:] = -100
    targets_BT[2] = -100
    leaf = logits_BTV.clone().requires_grad_(True)
    expected_BT = gradients.token_losses(leaf, targets_BT)
    expected_BT.sum().backward()
    losses_BT, found_BTV = gradients.losses_and_gradient(logits_BTV, targets_BT)
    assert_matches(losses_BT, expected_BT.detach())
    assert_matches(found_BTV, leaf.grad)
