"""What must not matter: how the work is cut, and who does it."""

import numpy as np
import pytest

from pipelines.cluster import Workers
from pipelines.curvature import cut
from pipelines.runs import describe
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


@pytest.mark.parametrize("parts", [1, 2, 3, 8, 40])
def test_partial_sums_have_like_work_and_every_shard_once(parts):
    work = [1.0] * 20 + [6.0] * 5  # long documents stand at the end, as in the demo's corpus
    pieces = cut(range(25), parts, work)
    assert sorted(shard for piece in pieces for shard in piece) == list(range(25))
    assert len(pieces) == min(parts, 25)
    loads = [sum(work[shard] for shard in piece) for piece in pieces]
    assert max(loads) - min(loads) <= max(work)
    assert len(cut(range(3), parts)) == min(3, parts)


def test_a_part_is_a_mixture_and_its_shards_are_in_order():
    assert cut(range(5), 2, [1, 1, 1, 1, 4]) == [(4,), (0, 1, 2, 3)]
    assert cut(range(6), 2) == [(0, 2, 4), (1, 3, 5)]


def test_a_run_states_the_error_that_its_sample_implies(written, finished, tmp_path):
    error = finished.curvature.info()["sampling_error"]
    assert 0 < error["inverse"] < error["eigenvalues"] < 1
    key = "relative standard error from that sample"
    assert describe(finished, None)["curvature"][key] == error
    one = build(written, tmp_path, partitions=1)
    assert one.curvature.info()["sampling_error"] is None
