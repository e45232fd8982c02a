"""Sums of the vectors of groups: equal to summed document scores, made once, refused when damaged."""

import dataclasses

import numpy as np
import pytest

from gradients_store import BadRows, Store, all_scores, group_sums, size_of, storage

FACTORS = ((2, 5, 3), (0, 4, 4), (3, 2, 6))
GROUP_N = np.random.default_rng(5).integers(0, 5, 23)
GROUP_N[GROUP_N == 3] = 1  # group 3 is empty


def summed_scores(store, query_QM):
    """Document scores, summed by group one by one."""
    score_QN = np.concatenate([s for _, s in all_scores(store, query_QM)], axis=1)
    found_QK = np.zeros((len(query_QM), GROUP_N.max() + 1))
    for row, group in enumerate(GROUP_N):
        found_QK[:, group] += score_QN[:, row]
    return found_QK


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_products_with_sums_are_sums_of_document_scores(make_store, make_header, root, dtype):
    store = make_store(root, make_header(dtype=dtype))
    query_QM = np.random.default_rng(1).standard_normal((3, 6))
    sum_KM = group_sums(store, GROUP_N)
    assert sum_KM.shape == (5, 6)
    assert_same(query_QM @ sum_KM.T, summed_scores(store, query_QM))
    assert not sum_KM[3].any()


def test_sums_of_factor_rows_are_whole_matrices(make_store, make_header, tmp_path, dtype):
    size = sum(rank * (out + inputs) for rank, out, inputs in FACTORS)
    header = make_header(factors=FACTORS, dimension=size, layers=("a", "b", "c"), dtype=dtype)
    store = make_store(str(tmp_path / "store"), header)
    query_QM = np.random.default_rng(1).standard_normal((3, header.query_dimension))
    sum_KM = group_sums(store, GROUP_N)
    assert sum_KM.shape == (5, 5 * 3 + 4 * 4 + 2 * 6)
    assert_same(query_QM @ sum_KM.T, summed_scores(store, query_QM))
    assert size_of(header, 5) == 8 * 5 * header.query_dimension


@pytest.fixture
def watched(make_store, make_header, root, monkeypatch):
    """A store, and how often its vectors were read through."""
    store = make_store(root, make_header())
    passes = []
    blocks = Store.blocks
    monkeypatch.setattr(Store, "blocks", lambda self: passes.append(1) or blocks(self))
    return store, passes


def test_sums_are_made_once_and_again_for_other_groups(watched):
    store, passes = watched
    rows = []
    first = group_sums(store, GROUP_N, rows.append)
    assert sum(rows) == 23
    np.testing.assert_array_equal(group_sums(store, GROUP_N), first)
    assert len(passes) == 1
    other = group_sums(store, GROUP_N[::-1])
    assert len(passes) == 2
    assert not np.array_equal(other, first)


def test_another_store_in_the_same_place_gets_sums_of_its_own(make_store, make_header, tmp_path):
    header = make_header()
    store = make_store(str(tmp_path / "store"), header)
    old = group_sums(store, GROUP_N)
    vector_NP = np.random.default_rng(9).standard_normal((23, 6)).astype(np.float32)
    (tmp_path / "store" / "manifest.json").unlink()
    store = make_store(str(tmp_path / "store"), header, vector_NP)
    new = group_sums(store, GROUP_N)
    assert not np.array_equal(old, new)
    np.testing.assert_allclose(new.sum(axis=0), vector_NP.sum(axis=0), atol=1e-5)


@pytest.mark.parametrize("suffix", [".float32", ".json"])
def test_a_damaged_file_of_sums_is_made_again(watched, suffix):
    store, passes = watched
    first = group_sums(store, GROUP_N)
    folder = storage.folder_of(f"{store.root}-sums")
    [name] = [name for name in storage.sizes(folder) if name.endswith(suffix)]
    data = bytearray(storage.read_bytes(folder, name))
    data[-3] ^= 0xFF
    storage.write_whole(folder, name, bytes(data))
    np.testing.assert_array_equal(group_sums(store, GROUP_N), first)
    assert len(passes) == 2


def test_blocks_of_rows_change_the_sums_by_rounding_alone(make_store, make_header, tmp_path):
    vector_NP = np.random.default_rng(3).standard_normal((23, 6)).astype(np.float32)
    sums = []
    for size in (1, 4, 23):
        header = dataclasses.replace(make_header(), shard_documents=size)
        store = make_store(str(tmp_path / f"store-{size}"), header, vector_NP)
        sums.append(group_sums(store, GROUP_N))
    for other in sums[1:]:
        np.testing.assert_allclose(other, sums[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("groups", [GROUP_N[:-1], GROUP_N - 1], ids=["too few", "negative"])
def test_groups_that_do_not_fit_are_refused(make_store, make_header, tmp_path, groups):
    store = make_store(str(tmp_path / "store"), make_header())
    with pytest.raises(BadRows, match=r"\(23,\) and numbers from 0 were expected"):
        group_sums(store, groups)
