"""Sketches: what they keep, in which order, and how their fidelity is measured."""

import numpy as np
import pytest
import torch

from influence.documents import fidelity, sketch
from influence.documents.curvature import identity
from influence.documents.preconditioner import LayerCurvature, effective_dimension
from influence.errors import GradientError
from tests.toys import assert_matches


def layer(values):
    values = torch.tensor(values, dtype=torch.float64)
    return LayerCurvature(
        eigenvalues_OI=values,
        out_basis_OO=torch.eye(values.shape[0], dtype=torch.float64),
        in_basis_II=torch.eye(values.shape[1], dtype=torch.float64),
    )


def test_top_eigen_keeps_the_largest_whitened_variances_of_all_layers():
    layers = {"a": layer([[1.0, 100.0], [2.0, 3.0]]), "b": layer([[1e-6, 5e-6, 9e-6]])}
    variances = {}
    for name, one in layers.items():
        values = one.eigenvalues_OI
        variances[name] = (values / (values + 0.1 * values.mean())).flatten()
    joined = torch.cat(list(variances.values()))
    for dimension in range(1, 8):
        found = sketch.top_eigen(layers, 0.1, dimension)
        assert found.dimension == dimension
        kept = torch.cat([variances[n][found.coordinates[n]] for n in layers])
        assert_matches(kept.sort().values, joined.sort().values[-dimension:])
        for one in found.coordinates.values():
            assert torch.equal(one, one.sort().values)
    total = sum(effective_dimension(x, 0.1) for x in layers.values())
    assert total == pytest.approx(float(joined.sum()))


def test_top_eigen_without_eigenvalues_is_refused():
    with pytest.raises(GradientError, match="layer a has no eigenvalues"):
        sketch.top_eigen({"a": identity()}, 0.1, 3)


def test_random_projection_is_unbiased_over_seeds():
    generator = torch.Generator().manual_seed(0)
    x_BOI = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    shapes = {"a": (6, 5)}
    products = []
    for seed in range(600):
        rows = sketch.compress(sketch.random_projection(shapes, 3, seed), "a", x_BOI)
        products.append((rows @ rows.T).flatten())
    found = torch.stack(products)
    expected = (x_BOI.flatten(1) @ x_BOI.flatten(1).T).flatten()
    error = found.std(dim=0) / len(found) ** 0.5
    assert bool(((found.mean(dim=0) - expected).abs() < 5 * error).all())


def test_vectors_join_layers_in_the_sketchs_order_whatever_comes_first():
    shapes = {"b": (2, 2), "a": (1, 3)}
    full = sketch.full(shapes)
    values = {"a": torch.arange(3.0).view(1, 1, 3), "b": 10 + torch.arange(4.0).view(1, 2, 2)}
    parts = {name: sketch.compress(full, name, values[name]) for name in ("a", "b")}
    assert sketch.join(full, parts).tolist() == [[10, 11, 12, 13, 0, 1, 2]]
    assert full.dimension == 7


def test_compressing_a_layer_smaller_than_the_side_keeps_its_size():
    kept = sketch.random_projection({"a": (2, 9)}, 4, seed=0)
    assert kept.size("a") == 8
    assert sketch.compress(kept, "a", torch.ones(3, 2, 9)).shape == (3, 8)


def test_fingerprints_differ_with_all_that_decides_a_coordinate():
    shapes = {"a": (4, 4), "b": (2, 2)}
    one = {"a": layer([[1.0, 2.0]])}
    kinds = [
        sketch.full(shapes),
        sketch.full({"b": (2, 2), "a": (4, 4)}),
        *(sketch.random_projection(shapes, p, s) for p, s in ((2, 0), (2, 1), (3, 0))),
        *(sketch.top_eigen(one, 0.1, n) for n in (1, 2)),
    ]
    assert len({kind.fingerprint() for kind in kinds}) == len(kinds)
    assert sketch.full(shapes).fingerprint() == sketch.full(dict(shapes)).fingerprint()


def test_fidelity_is_the_mean_correlation_over_queries():
    exact = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    compressed = np.array([[2.0, 4.0, 6.0, 8.0], [4.0, 3.0, 2.0, 1.0]])
    found = fidelity.fidelity(compressed, exact)
    assert (found.pearson, found.spearman) == (pytest.approx(0.0), pytest.approx(0.0))
    assert (found.queries, found.documents) == (2, 4)
    found = fidelity.fidelity(compressed[:1] ** 3, exact[:1])
    assert found.spearman == pytest.approx(1.0)
    assert found.pearson == pytest.approx(np.corrcoef([1, 8, 27, 64], [1, 2, 3, 4])[0, 1])


def test_recall_counts_the_exact_top_of_both_signs_among_the_candidates():
    exact = np.array([[5.0, 4.0, 0.0, -1.0, -4.0, -5.0]])
    compressed = np.array([[5.0, -2.0, 3.0, 4.0, 0.0, -5.0]])
    # wanted: {0, 1} and {5, 4}; of the two best: {0, 3} and {5, 1}
    assert fidelity.recall(compressed, exact, top=2, candidates=2) == pytest.approx(0.5)
    assert fidelity.recall(exact, exact, top=2, candidates=2) == 1.0
    assert fidelity.recall(compressed, exact, top=2, candidates=6) == 1.0
    only_proponents = np.array([[5.0, 4.0, 0.0, -1.0, 1.0, 2.0]])
    for found, sign in ((only_proponents, 1), (-only_proponents[:, ::-1], -1)):
        assert fidelity.recall(sign * found, sign * exact, top=2, candidates=2) == 0.5


def test_recall_of_more_documents_than_there_are_is_that_of_all_of_them():
    scores = np.array([[3.0, -1.0, 2.0]])
    assert fidelity.recall(scores, scores, top=20, candidates=200) == 1.0
    assert fidelity.recall(scores, scores, top=20, candidates=1) == pytest.approx(1 / 3)
