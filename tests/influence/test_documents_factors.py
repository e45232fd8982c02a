"""Pairs of vectors for a matrix, and vectors token by token, against dense matrices in float64."""

from dataclasses import replace

import pytest
import torch

from influence import text
from influence.documents import curvature, factors, fit, scores, sketch
from influence.documents.gradients import per_document_gradients
from influence.documents.preconditioner import document_scale, query_scale, retained_variance
from influence.documents.tokenwise import LENGTH_PROBES
from influence.documents.whitening import prepare
from influence.models import swap_conv1d, tracked_layers
from tests.influence.test_documents_scores import Odd
from tests.toys import assert_matches, random_chunks, toy_gpt2, toy_llama

DAMPING = 0.1


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def signs(count, inputs, seed=0):
    return normal(count, inputs, seed=seed).sign()


def with_spectrum(values, out, inputs, seed=0):
    """A matrix ``[1, O, I]`` with these singular values."""
    left, right = (
        torch.linalg.qr(normal(size, len(values), seed=seed + i))[0]
        for i, size in enumerate((out, inputs))
    )
    return ((left * torch.tensor(values, dtype=torch.float64)) @ right.T)[None]


def rebuilt(left_BRO, right_BRI):
    return torch.einsum("bro,bri->boi", left_BRO, right_BRI)


@pytest.mark.parametrize(("out", "inputs"), [(9, 14), (14, 9), (2, 30), (30, 2)])
@pytest.mark.parametrize("rank", [1, 2])
def test_matrices_of_low_rank_are_rebuilt(out, inputs, rank):
    matrix = normal(5, out, rank) @ normal(5, rank, inputs, seed=1)
    for seed in range(10):
        kept = sketch.low_rank_factors(
            {"a": (out, inputs)}, {"a": 2}, seed
        )  # at times one too many
        left, right = factors.of_matrices(matrix, sketch.probes(kept, "a").double(), 2)
        assert_matches(rebuilt(left, right), matrix)
        basis = left[:, :rank] @ left[:, :rank].transpose(1, 2)
        assert_matches(basis, torch.eye(rank, dtype=torch.float64).expand(5, -1, -1))


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("out", "inputs"), [(40, 60), (60, 40)])
def test_errors_are_close_to_those_of_the_best_pairs(out, inputs, decay):
    values = [(k + 1.0) ** -decay for k in range(40)]
    matrix = with_spectrum(values, out, inputs)
    for rank in (1, 3, 8):
        best = sum(v * v for v in values[rank:]) ** 0.5
        for seed in range(5):
            probes = signs(rank + factors.OVERSAMPLING, inputs, seed)
            left, right = factors.of_matrices(matrix, probes, rank)
            assert best <= float((rebuilt(left, right) - matrix).norm()) * (1 + 1e-12)
            assert float((rebuilt(left, right) - matrix).norm()) < 1.06 * best
            assert_matches(left[0] @ left[0].T, torch.eye(rank, dtype=torch.float64))
            across = right[0] @ right[0].T
            assert_matches(across, torch.diag(across.diag()))
            assert bool((across.diag().diff() <= 0).all())  # longest first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_without_a_direction_of_their_own_become_zero(dtype):
    rows = torch.zeros(3, 4, 6, dtype=dtype)
    rows[1, :, 2] = torch.tensor([1.0, -1.0, 2.0, 0.0])  # one direction
    rows[2, :2] = normal(2, 6).to(dtype)
    rows[2, 2:] = rows[2, :2].flip(0)  # two directions
    basis = factors.orthonormal(rows)
    assert bool(basis.isfinite().all())
    spans = basis.transpose(1, 2) @ basis  # projections onto what the rows span
    assert not spans[0].any()
    close = 1e-4 if dtype == torch.float32 else 1e-7
    torch.testing.assert_close(spans @ spans, spans, rtol=0, atol=close)
    torch.testing.assert_close(
        spans.diagonal(dim1=1, dim2=2).sum(1), torch.tensor([0, 1, 2]).to(dtype), rtol=0, atol=close
    )
    assert_matches(rows @ spans, rows)


def test_matrices_of_zeros_have_factors_of_zeros():
    found = factors.of_matrices(torch.zeros(2, 5, 4, dtype=torch.float64), signs(4, 4), 3)
    assert all(not part.isnan().any() for part in found)
    assert not found[1].any()


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_products_of_flat_rows_are_those_of_their_matrices(rank):
    left, right = normal(4, rank, 5), normal(4, rank, 7, seed=1)
    query = normal(2, 5, 7, seed=2)
    row = factors.flat(left, right)
    assert row.shape == (4, rank * 12)
    expected = query.flatten(1) @ rebuilt(left, right).flatten(1).T
    assert_matches(factors.product(row, query), expected)


def fitted(make):
    model = make()
    swap_conv1d(model)
    layers, chunks = tracked_layers(model), random_chunks(12)
    batch = text.collate(chunks, 0)
    sums = fit.kronecker_sums(model, layers, [batch])
    bases = {x.name: curvature.eigenbasis(sums, x.name) for x in layers}
    squares = fit.eigenvalue_sums(model, layers, bases, [batch])
    fisher = {x.name: curvature.ekfac(bases[x.name], squares, x.name) for x in layers}
    return model, layers, fisher, batch


def dead(layer):
    return replace(layer, eigenvalues_OI=torch.zeros_like(layer.eigenvalues_OI))


KINDS = {
    "ekfac": lambda x: x,
    "diagonal": lambda x: replace(x, out_basis_OO=None, in_basis_II=None),
    "identity": lambda _: curvature.identity(),
    "dead": dead,
}


def mixed(fisher):
    """Every kind of curvature, layer by layer in turn."""
    kinds = list(KINDS.values())
    return {name: kinds[i % len(kinds)](x) for i, (name, x) in enumerate(fisher.items())}


@pytest.fixture(scope="module", params=[toy_llama, toy_gpt2, Odd])
def setting(request):
    """A toy, every kind of curvature on it, a padded batch and its plain gradients."""
    model, layers, fisher, _ = fitted(request.param)
    batch = text.collate(random_chunks(9, seed=1), 0, extra_padding=3)
    plain, _ = per_document_gradients(model, layers, batch)
    shapes = {name: tuple(g.shape[1:]) for name, g in plain.items()}
    return model, layers, mixed(fisher), batch, plain, shapes


def scaled(layers, plain, scale):
    """Rotated gradients of all layers, scaled, by the formula."""
    rows = {}
    for name, gradient_BOI in plain.items():
        layer, values = layers[name], scale(layers[name], DAMPING, True)
        if layer.out_basis_OO is not None:
            gradient_BOI = layer.out_basis_OO.T @ gradient_BOI @ layer.in_basis_II
        rows[name] = gradient_BOI if values is None else gradient_BOI * values
    return rows


def matrices(kept, row_BP):
    """What rows of factors stand for, a layer each."""
    found = {}
    parts = row_BP.split([kept.size(name) for name in kept.shapes], dim=1)
    for (name, (out, inputs)), part in zip(kept.shapes.items(), parts, strict=True):
        rank = kept.ranks[name]
        left, right = part.split([rank * out, rank * inputs], dim=1)
        found[name] = rebuilt(left.unflatten(1, (rank, out)), right.unflatten(1, (rank, inputs)))
    return found


def whole_ranks(shapes):
    return {name: min(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("kind", ["full", "factors"])
def test_scores_of_whole_rows_are_exact_whatever_the_scale(setting, kind, separable):
    model, layers, fisher, batch, plain, shapes = setting
    kept = {
        "full": replace(sketch.full(shapes), separable=separable),
        "factors": sketch.low_rank_factors(shapes, whole_ranks(shapes), 0, separable),
    }[kind]
    asked = {name: g[:3] for name, g in plain.items()}
    expected = scores.exact_scores(
        model, layers, batch, scores.directions(fisher, DAMPING, asked)
    ).scores_QB
    query_QM = scores.whitened_queries(fisher, DAMPING, kept, asked)
    for exact in (False, True):
        ready = prepare(fisher, DAMPING, kept, exact)
        rows = scores.whitened_rows(model, layers, ready, batch)
        found = sketch.scores(kept, query_QM, rows.vectors_BP)
        torch.testing.assert_close(
            found, expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max())
        )


@pytest.mark.parametrize("exact", [False, True])
def test_factors_of_every_rank_are_those_of_the_dense_matrix(setting, exact):
    """Whole ranks give the matrix itself; ranks cut short give its projection, within its best."""
    model, layers, fisher, batch, plain, shapes = setting
    dense = scaled(fisher, plain, document_scale)
    for most in (99, 2, 1):
        ranks = {name: min(most, *shape) for name, shape in shapes.items()}
        kept = sketch.low_rank_factors(shapes, ranks, 0, True)
        rows = scores.whitened_rows(model, layers, prepare(fisher, DAMPING, kept, exact), batch)
        assert rows.vectors_BP.shape == (len(batch.document), kept.dimension)
        for name, found in matrices(kept, rows.vectors_BP).items():
            error = (found - dense[name]).norm(dim=(1, 2))
            size = dense[name].norm(dim=(1, 2))
            best = torch.linalg.svdvals(dense[name])[:, ranks[name] :].norm(dim=1)
            assert bool((error >= best - 1e-7 * size).all())
            assert bool((error <= 1.5 * best + 1e-7 * size).all()), name


@pytest.mark.parametrize("side", [2, 5, 50])
def test_projections_token_by_token_are_those_of_the_dense_gradient(setting, side):
    model, layers, fisher, batch, plain, shapes = setting
    kept = sketch.random_projection(shapes, side, 3, separable=True)
    dense = scaled(fisher, plain, document_scale)
    expected = sketch.join(kept, {n: sketch.compress(kept, n, x) for n, x in dense.items()})
    for exact in (False, True):
        ready = prepare(fisher, DAMPING, kept, exact)
        assert all((x.maps is None) == exact for x in ready.layers.values())
        rows = scores.whitened_rows(model, layers, ready, batch)
        assert_matches(rows.vectors_BP, expected)


@pytest.mark.parametrize("kind", ["random", "factors"])
def test_exact_self_influence_and_lengths_stay_those_of_the_gradient(setting, kind):
    model, layers, fisher, batch, plain, shapes = setting
    kept = made(kind, shapes, 0)
    rows = scores.whitened_rows(model, layers, prepare(fisher, DAMPING, kept), batch)
    solved = scores.directions(fisher, DAMPING, plain)
    assert_matches(rows.self_influence_B, scores.self_influence(plain, solved))
    assert_matches(rows.squared_norm_B, sum(g.square().sum(dim=(1, 2)) for g in plain.values()))


def made(kind, shapes, seed, rank=1):
    if kind == "random":
        return sketch.random_projection(shapes, 3, seed, separable=True)
    return sketch.low_rank_factors(shapes, dict.fromkeys(shapes, rank), seed, separable=True)


def expected_lengths(fisher, plain):
    """What the estimates aim at: separable lengths, each layer brought to its whitened mean."""
    total = 0.0
    for name, row in scaled(fisher, plain, document_scale).items():
        layer, share = fisher[name], 1.0
        if layer.eigenvalues_OI is not None:
            separable = layer.eigenvalues_OI * document_scale(layer, DAMPING, True).square()
            whitened = retained_variance(layer, DAMPING)
            share = float(whitened.sum() / separable.sum()) if separable.any() else 0.0
        total = total + share * row.square().sum(dim=(1, 2))
    return total


@pytest.mark.parametrize("kind", ["random", "factors"])
def test_estimated_lengths_are_unbiased_over_seeds(setting, kind):
    model, layers, fisher, batch, plain, shapes = setting
    found = []
    for seed in range(80):
        ready = prepare(fisher, DAMPING, made(kind, shapes, seed, rank=0), exact=False)
        rows = scores.whitened_rows(model, layers, ready, batch)
        found.append(torch.stack([rows.self_influence_B, rows.squared_norm_B]))
    found_S2B = torch.stack(found)
    norms = sum(g.square().sum(dim=(1, 2)) for g in plain.values())
    expected_2B = torch.stack([expected_lengths(fisher, plain), norms])
    error_2B = found_S2B.std(dim=0) / len(found) ** 0.5
    off_2B = (found_S2B.mean(dim=0) - expected_2B).abs()
    assert bool((off_2B < 5 * error_2B + 1e-9 * expected_2B).all())
    # E random signs: the variance of |G z|^2 is at most 2 |G|^4, and layers draw apart
    band = (2 / LENGTH_PROBES) ** 0.5
    assert bool((found_S2B[:, 1].std(dim=0) < 1.2 * band * norms).all())
    if kind == "factors":
        assert bool((found_S2B[:, 0].std(dim=0) < 1.2 * band * expected_2B[0]).all())


def test_self_influence_from_whole_ranks_is_the_separable_length(setting):
    model, layers, fisher, batch, plain, shapes = setting
    kept = sketch.low_rank_factors(shapes, whole_ranks(shapes), 0, True)
    rows = scores.whitened_rows(model, layers, prepare(fisher, DAMPING, kept, False), batch)
    expected = expected_lengths(fisher, plain)
    torch.testing.assert_close(rows.self_influence_B, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2])
def test_estimated_self_influence_is_right_on_average_over_the_fits_own_documents(make):
    model, layers, fisher, batch = fitted(make)
    shapes = {name: tuple(x.eigenvalues_OI.shape) for name, x in fisher.items()}
    kept = sketch.low_rank_factors(shapes, whole_ranks(shapes), 0, True)
    found = scores.whitened_rows(model, layers, prepare(fisher, DAMPING, kept, False), batch)
    plain, _ = per_document_gradients(model, layers, batch)
    exact_B = scores.self_influence(plain, scores.directions(fisher, DAMPING, plain))
    torch.testing.assert_close(found.self_influence_B.mean(), exact_B.mean(), rtol=1e-7, atol=0)
    assert float((found.self_influence_B - exact_B).abs().mean()) < 0.2 * float(exact_B.mean())


@pytest.mark.parametrize("exact", [False, True])
def test_layers_of_rank_zero_are_left_out_of_vectors_but_not_of_lengths(setting, exact):
    model, layers, fisher, batch, plain, shapes = setting
    ranks = {name: min(i % 2 * 99, *shape) for i, (name, shape) in enumerate(shapes.items())}
    kept = sketch.low_rank_factors(shapes, ranks, 0, True)
    rows = scores.whitened_rows(model, layers, prepare(fisher, DAMPING, kept, exact), batch)
    asked = {name: g[:2] for name, g in plain.items()}
    found = sketch.scores(
        kept, scores.whitened_queries(fisher, DAMPING, kept, asked), rows.vectors_BP
    )
    own, theirs = scaled(fisher, plain, document_scale), scaled(fisher, asked, query_scale)
    expected = sum(theirs[n].flatten(1) @ own[n].flatten(1).T for n, rank in ranks.items() if rank)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max()))
    none = sketch.low_rank_factors(shapes, dict.fromkeys(shapes, 0), 0, True)
    ready = prepare(fisher, DAMPING, none, exact)
    nothing = scores.whitened_rows(model, layers, ready, batch)
    assert nothing.vectors_BP.shape == (len(batch.document), 0)
    assert bool((nothing.self_influence_B > 0).all())
    assert bool((nothing.squared_norm_B > 0).all())


@pytest.mark.parametrize("kind", ["random", "factors"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_row(setting, kind, side):
    model, layers, fisher, _, _, shapes = setting
    chunks = random_chunks(9, seed=1)
    ready = prepare(fisher, DAMPING, made(kind, shapes, 0, rank=99), exact=False)
    alone = [scores.whitened_rows(model, layers, ready, text.collate([c], 0)) for c in chunks]
    if isinstance(model, Odd):
        side = "right"  # its mean over positions counts padding before them
    batch = text.collate(chunks, 0, side=side, extra_padding=4)
    rows = scores.whitened_rows(model, layers, ready, batch)
    for part in ("self_influence_B", "squared_norm_B"):
        expected = torch.cat([getattr(x, part) for x in alone])
        torch.testing.assert_close(getattr(rows, part), expected, rtol=1e-7, atol=0)
    expected = torch.cat([x.vectors_BP for x in alone])
    if kind == "random":
        assert_matches(rows.vectors_BP, expected)
        return
    found, expected = matrices(ready.sketch, rows.vectors_BP), matrices(ready.sketch, expected)
    for name, matrix in expected.items():
        largest = float(matrix.abs().max())
        torch.testing.assert_close(found[name], matrix, rtol=0, atol=1e-7 * largest)


@pytest.mark.parametrize("exact", [False, True])
def test_documents_of_several_chunks_are_their_summed_gradient(setting, exact):
    model, layers, fisher, _, _, shapes = setting
    chunks = random_chunks(9, seed=1)
    batches = [text.collate(chunks[:4], 0), text.collate(chunks[4:], 0, extra_padding=2)]
    plain, _ = per_document_gradients(model, layers, text.collate(chunks, 0))
    summed = {name: g.sum(dim=0, keepdim=True) for name, g in plain.items()}
    dense = scaled(fisher, summed, document_scale)
    own = scores.self_influence(summed, scores.directions(fisher, DAMPING, summed))
    for kind in ("random", "factors"):
        kept = made(kind, shapes, 0, rank=99)
        ready = prepare(fisher, DAMPING, kept, exact)
        row = scores.document_row(model, layers, ready, batches)
        assert_matches(row.self_influence_B, own)
        if kind == "random":
            joined = sketch.join(kept, {n: sketch.compress(kept, n, x) for n, x in dense.items()})
            assert_matches(row.vectors_BP, joined)
        else:
            for name, matrix in matrices(kept, row.vectors_BP).items():
                largest = float(dense[name].abs().max())
                torch.testing.assert_close(matrix, dense[name], rtol=0, atol=1e-7 * largest)


@pytest.mark.parametrize("against", [False, True], ids=["loss", "contrast"])
@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("kind", ["full", "random", "factors"])
def test_solved_queries_have_the_vectors_of_their_gradients(setting, kind, separable, against):
    model, layers, fisher, _, _, shapes = setting
    batch = text.collate(random_chunks(8, seed=1), 0)
    plain, _ = per_document_gradients(model, layers, batch)
    if against:
        plain = {name: g[0::2] - g[1::2] for name, g in plain.items()}
    kept = sketch.full(shapes) if kind == "full" else made(kind, shapes, 0)
    kept = replace(kept, separable=separable)
    solved = scores.solve_queries(
        model, layers, batch, fisher, DAMPING, sketch=kept, contrast=against
    )
    assert_matches(solved.vectors_QP, scores.whitened_queries(fisher, DAMPING, kept, plain))
    if kind == "factors":
        rows = scaled(fisher, plain, lambda x, f, _: query_scale(x, f, separable))
        assert_matches(solved.vectors_QP, torch.cat([x.flatten(1) for x in rows.values()], dim=1))


def test_float32_models_take_any_curvature():
    model, layers, fisher, batch = fitted(lambda: toy_llama(dtype=torch.float32))
    shapes = {name: tuple(x.eigenvalues_OI.shape) for name, x in fisher.items()}
    for kind, turned in KINDS.items():
        own = {name: turned(x) for name, x in fisher.items()}
        own = {name: curvature.to(x, torch.zeros(())) for name, x in own.items()}
        kept = sketch.low_rank_factors(shapes, dict.fromkeys(shapes, 3), 0, True)
        rows = scores.whitened_rows(model, layers, prepare(own, DAMPING, kept, False), batch)
        assert rows.vectors_BP.dtype == torch.float32, kind
        assert bool(rows.vectors_BP.isfinite().all()), kind
