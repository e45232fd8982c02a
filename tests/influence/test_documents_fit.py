"""The fit near its arithmetic bound: its parts against plain formulas, the whole against curvlinops."""

import pytest
import torch

from influence import text
from influence.documents import curvature, curvlinops_fit, fit
from influence.documents.labels import labels_from, sample_labels
from influence.errors import GradientError
from influence.layers import tracked_layers
from influence.text import IGNORED
from tests.toys import assert_matches, random_chunks, toy_gpt2, toy_llama


def seeded(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("width", [1, 7, 63, 64, 127, 128, 129, 200, 511, 513])
def test_gram_is_the_upper_triangle_of_the_product(width):
    buffers = {}
    for seed, rows in enumerate((30, 5)):  # the second call uses the first one's room
        x = seeded(rows, width, seed=seed)
        found = fit.gram(x, buffers)
        assert_matches(found.triu(), (x.T @ x).triu())
        assert_matches(fit._mirrored(found), x.T @ x)
    assert list(buffers) == [width]


@pytest.mark.parametrize("numbers", [1, 50, 10_000], ids=lambda n: f"cache={n}")
@pytest.mark.parametrize("before_in", [True, False])
@pytest.mark.parametrize("before_out", [True, False])
def test_squares_are_those_of_rotated_gradients(numbers, before_in, before_out, monkeypatch):
    monkeypatch.setattr(fit, "CACHED_NUMBERS", numbers)
    a, g, right, left = (
        seeded(*s, seed=i) for i, s in enumerate([(7, 5, 3), (7, 5, 4), (3, 3), (4, 4)])
    )
    rotated = torch.einsum("bto,bti,op,ij->bpj", g, a, left, right)
    found = fit._sum_of_squares(
        a @ right if before_in else a,
        g @ left if before_out else g,
        None if before_in else right,
        None if before_out else left,
    )
    assert_matches(found, rotated.square().sum(dim=0))


def test_counted_rows_of_a_layer_used_twice_are_those_of_both_uses():
    batch = text.collate(random_chunks(3, seed=1), 0)
    own = (batch.targets != IGNORED).flatten().nonzero()[:, 0]
    first, second = (seeded(*batch.targets.shape, 4, seed=s) for s in (0, 1))
    expected = torch.cat([x.flatten(0, 1)[own] for x in (first, second)])
    assert_matches(fit.counted(torch.cat([first, second], dim=1), batch, own), expected)
    assert_matches(fit.counted(first, batch, own), first.flatten(0, 1)[own])


def toy(make):
    model = make().requires_grad_(False).eval()
    return model, tracked_layers(model)


def batches_of(chunks, sizes=(3, 1, 4)):
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [text.collate(chunks[s : s + n], 0) for s, n in zip(starts, sizes, strict=True)]


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2])
@pytest.mark.parametrize("cost", ["tokens first", "gradient first"])
def test_fit_is_that_of_curvlinops(make, cost, monkeypatch):
    model, layers = toy(make)
    longest = 4 if cost == "tokens first" else 60
    chunks = random_chunks(8, seed=2, longest=longest)
    batches = batches_of(chunks)
    ours, theirs = (
        module.kronecker_sums(model, layers, batches) for module in (fit, curvlinops_fit)
    )
    assert (ours.tokens, ours.documents) == (theirs.tokens, theirs.documents)
    for layer in layers:
        assert_matches(ours.inputs[layer.name], theirs.inputs[layer.name])
        assert_matches(ours.outputs[layer.name], theirs.outputs[layer.name])
    bases = {x.name: curvature.eigenbasis(theirs, x.name) for x in layers}
    ours, theirs = (
        module.eigenvalue_sums(model, layers, bases, batches) for module in (fit, curvlinops_fit)
    )
    assert ours.documents == theirs.documents
    for layer in layers:
        assert_matches(ours.squares[layer.name], theirs.squares[layer.name])


def test_layers_that_read_the_same_tensor_share_its_products(monkeypatch):
    model, layers = toy(toy_llama)
    [batch] = batches_of(random_chunks(3, seed=2), (3,))
    made = []
    real = fit.gram

    def counting(values_KD, buffers):
        made.append(values_KD.shape)
        return real(values_KD, buffers)

    monkeypatch.setattr(fit, "gram", counting)
    sums = fit.kronecker_sums(model, layers, [batch])
    blocks = len([x for x in layers if x.name.endswith("q_proj")])
    distinct = 4 * blocks + len([x for x in layers if x.role == "head"])  # qkv, o, gate-up, down
    assert len(made) == distinct + len(layers)
    bases = {x.name: curvature.eigenbasis(sums, x.name) for x in layers}
    shared = fit._input_bases(layers, bases, next(model.parameters()))
    assert len({id(x) for x in shared.values()}) == distinct


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2])
def test_labels_drawn_on_the_way_are_those_drawn_before(make):
    model, layers = toy(make)
    chunks = random_chunks(8, seed=3)

    def ids(batch):
        return [f"d{int(x)}" for x in batch.document]

    def relabelled(batch, drawn):
        return text.with_targets(batch, drawn, [chunks[int(x)] for x in batch.document])

    def draw(batch, logits_BTV):
        return relabelled(batch, labels_from(logits_BTV, batch, ids(batch), seed=5))

    batches = batches_of(chunks)
    before = [relabelled(b, sample_labels(model, b, ids(b), seed=5)) for b in batches]
    assert any(bool((b.targets != c.targets).any()) for b, c in zip(batches, before, strict=True))
    ours = fit.kronecker_sums(model, layers, batches, draw)
    expected = fit.kronecker_sums(model, layers, before)
    for layer in layers:
        assert_matches(ours.outputs[layer.name], expected.outputs[layer.name])
    bases = {x.name: curvature.eigenbasis(expected, x.name) for x in layers}
    found = fit.eigenvalue_sums(model, layers, bases, batches, draw)
    wanted = fit.eigenvalue_sums(model, layers, bases, before)
    for layer in layers:
        assert_matches(found.squares[layer.name], wanted.squares[layer.name])


def test_an_input_that_is_changed_in_place_is_refused(monkeypatch):
    model, layers = toy(toy_llama)
    mlp = model.model.layers[0].mlp

    def forward(x):
        hidden = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
        found = mlp.down_proj(hidden)
        hidden.detach().mul_(2.0)
        return found

    monkeypatch.setattr(mlp, "forward", forward)
    with pytest.raises(GradientError, match=r"input of layer .*down_proj was changed in place"):
        fit.kronecker_sums(model, layers, batches_of(random_chunks(3, seed=2), (3,)))
