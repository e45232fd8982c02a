"""`compute: bfloat16`: what it changes, and by how much."""

import numpy as np
import pytest
import torch

from pipelines.curvature import read_curvature
from pipelines.worker import language_model
from tests.pipelines.small import build
from tests.pipelines.test_partitions import scores


def test_half_precision_inside_the_model_hardly_changes_the_scores(written, finished, tmp_path):
    run = build(written, tmp_path, compute="bfloat16")
    assert run.curvature.key != finished.curvature.key
    assert run.gradients.key != finished.gradients.key
    model = language_model(run.model).model
    assert {x.dtype for x in model.parameters()} == {torch.float32}
    one = torch.ones(1, 1, dtype=torch.int64)
    assert model(input_ids=one).logits.dtype == torch.bfloat16
    for name, layer in read_curvature(run.curvature).items():
        exact = read_curvature(finished.curvature)[name]
        assert layer.eigenvalues_OI.dtype == torch.float32
        ratio = float(layer.eigenvalues_OI.sum() / exact.eigenvalues_OI.sum())
        assert ratio == pytest.approx(1.0, abs=0.02)  # measured: within 0.004
    expected, found = scores(finished), scores(run)
    assert not np.array_equal(found, expected)
    for one, other in zip(found, expected, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.998  # measured: 0.9996, 0.9998
