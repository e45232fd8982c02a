"""What must not matter: how the work is cut, and who does it."""

import numpy as np
import pytest

from pipelines.cluster import Workers
from tests.pipelines.small import build, digests, quiet, rows_by_id, states, traces


def scores(run):
    """All exact scores ``[queries, documents]``."""
    found = []
    for trace in traces(run):
        rows = rows_by_id(trace)
        found.append([rows[name]["score"] for name in sorted(rows)])
    return np.array(found)


@pytest.mark.parametrize("partitions", [1, 7])
def test_the_number_of_partial_sums_changes_nothing_beyond_rounding(
    written, finished, tmp_path, partitions
):
    run = build(written, tmp_path, partitions=partitions)
    assert run.curvature.key == finished.curvature.key
    expected, found = scores(finished), scores(run)
    assert expected.shape == (2, 40)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_layers_fitted_in_several_passes_give_the_same(written, finished, tmp_path):
    run = build(written, tmp_path, factor_gigabytes=2e-5)
    expected, found = scores(finished), scores(run)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_worker_process_changes_no_byte(written, finished, tmp_path):
    """Nor do two: see `test_resume.py`."""
    run = build(written, tmp_path, Workers(1, None, quiet()))
    assert digests(run.root) == digests(finished.root)
    before = states(run.root)
    build(written, tmp_path, Workers(1, None, quiet()))  # starts no worker
    assert states(run.root) == before
