"""What must not matter: how the work is cut, and who does it."""

import numpy as np
import pytest

from pipelines.cluster import Workers
from pipelines.curvature import cut
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
    assert [shard for piece in pieces for shard in piece] == list(range(25))
    assert 1 <= len(pieces) <= parts
    assert all(pieces)
    heaviest = max(sum(work[shard] for shard in piece) for piece in pieces)
    assert heaviest <= sum(work) / parts + max(work)
    assert len(cut(range(3), parts)) == min(3, parts)


def test_two_workers_get_equal_halves():
    work = [1.0] * 20 + [5.0] * 4
    first, second = cut(range(24), 2, work)
    assert (len(first), len(second)) == (20, 4)
