"""The error that a sample implies: independent draws whose error is known."""

import pytest
import torch

from influence.documents.noise import SamplingError, sampling_error


def drawn(counts, scale=1.0, seed=0):
    """Partial sums of squares of normal numbers: relative error sqrt(2 / n) of each mean."""
    generator = torch.Generator().manual_seed(seed)
    values_OI = scale * torch.linspace(0.5, 2.0, 3000, dtype=torch.float64).view(30, 100)
    parts = []
    for count in counts:
        draws_NOI = torch.randn(count, 30, 100, dtype=torch.float64, generator=generator)
        parts.append((draws_NOI.square() * values_OI).sum(dim=0))
    return parts


def error_of(parts, counts):
    return sampling_error(zip(parts, counts, strict=True), sum(parts).double() / sum(counts))


@pytest.mark.parametrize("counts", [(16,) * 8, (64,) * 8, (20, 40, 60, 8), (100, 100)])
def test_the_error_is_that_of_independent_draws(counts):
    found, _ = error_of(drawn(counts), counts).relative()
    assert found == pytest.approx((2 / sum(counts)) ** 0.5, rel=0.06)


def test_the_error_falls_with_the_root_of_the_sample():
    small, large = (error_of(drawn([n] * 8), [n] * 8).relative() for n in (16, 256))
    for few, many in zip(small, large, strict=True):
        assert few / many == pytest.approx(4.0, rel=0.05)


def test_damping_lessens_the_error_of_the_inverse():
    parts = [torch.ones(2, 2).double() * x for x in (8.0, 12.0)]  # means 0.8, 1.2 of ten documents
    error = error_of(parts, [10, 10])
    eigenvalues, inverse = error.relative()
    # standard error of the mean of 0.8 and 1.2: their standard deviation 0.283 over root 2
    assert eigenvalues == pytest.approx(0.2)
    assert inverse == pytest.approx(0.2 / 1.1)
    assert error.weight == pytest.approx(4 / 1.1)


def test_units_do_not_matter_and_layers_add_up():
    one, other = (error_of(drawn([16] * 8, scale), [16] * 8) for scale in (1.0, 1e-12))
    assert one.relative() == pytest.approx(other.relative())
    both = SamplingError(**{k: v + vars(other)[k] for k, v in vars(one).items()})
    assert both.relative() == pytest.approx(one.relative())


def test_a_layer_that_nothing_moves_has_no_error():
    assert error_of([torch.zeros(2, 3)] * 2, [4, 4]).relative() == (0.0, 0.0)
