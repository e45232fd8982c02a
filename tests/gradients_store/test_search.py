"""Search against the brute-force matrix product, and what must not matter."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gradients_store import BadQuery, UnknownName, all_scores, search
from gradients_store.histogram import MOST_BINS, histogram

BLOCKS = (1, 3, 7, 10, 1000)


def brute(store, query_QP):
    """All scores ``[Q, N]`` by one product in float64."""
    vector_NP = np.concatenate([part for _, part in store.blocks()]).astype(np.float64)
    return (np.asarray(query_QP, dtype=np.float64) @ vector_NP.T).astype(np.float32)


def brute_top(score_QN, top, sign):
    """Rows of the strongest scores; of equal ones the lower row, by a plain sort."""
    order = [sorted(range(len(row)), key=lambda n: (-sign * row[n], n))[:top] for row in score_QN]
    return np.array(order)


def check_against_brute(store, query_QP, top, rows):
    score_QN = brute(store, query_QP)
    found = search(store, query_QP, top, rows=rows, group_by=("source", "language"))
    for part, sign in ((found.proponents, 1), (found.opponents, -1)):
        expected = brute_top(score_QN, top, sign)
        assert np.array_equal(part.rows, expected)
        assert np.array_equal(part.scores, np.take_along_axis(score_QN, expected, axis=1))
        assert part.ids == tuple(tuple(f"doc-{row}" for row in query) for query in expected)
    assert found.moments.count == len(store)
    wide_QN = score_QN.astype(np.float64)
    close(found.moments.total, wide_QN.sum(axis=1), wide_QN)
    close(found.moments.total_squares, (wide_QN**2).sum(axis=1), wide_QN**2)
    check_groups(found, store, wide_QN)
    return found


def close(found, expected, terms):
    """Equal up to float64 rounding of a sum of these terms."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * (np.abs(terms).sum() + 1e-300))


def check_groups(found, store, score_QN):
    table = store.metadata()
    for column in ("source", "language"):
        sums = found.groups[column]
        value_N = np.array(table[column].to_pylist())
        assert sorted(sums.names) == sorted(set(value_N))
        for group, name in enumerate(sums.names):
            part_Qn = score_QN[:, value_N == name]
            assert sums.count[group] == part_Qn.shape[1]
            close(sums.total[:, group], part_Qn.sum(axis=1), part_Qn)
            close(sums.positive[:, group], np.maximum(part_Qn, 0).sum(axis=1), part_Qn)
            close(sums.negative[:, group], np.minimum(part_Qn, 0).sum(axis=1), part_Qn)


@pytest.mark.parametrize("rows", BLOCKS)
def test_search_equals_the_matrix_product(root, dtype, rows, make_header, make_store):
    store = make_store(root, make_header(dtype=dtype))
    query_QP = np.random.default_rng(5).standard_normal((3, 6))
    check_against_brute(store, query_QP, 4, rows)
    parts = list(all_scores(store, query_QP, rows))
    assert np.array_equal(
        np.concatenate([part for _, part in parts], axis=1), brute(store, query_QP)
    )
    assert [start for start, _ in parts] == [start for start, _ in store.blocks(rows)]


@settings(max_examples=25, deadline=None)
@given(
    vector_NP=arrays.arrays(np.float32, (23, 2), elements=st.sampled_from([-1.0, 0.0, 0.5])),
    top=st.integers(1, 23),
    rows=st.sampled_from(BLOCKS),
)
def test_search_breaks_ties_by_row_in_any_blocks(
    tmp_path_factory, make_header, make_store, vector_NP, top, rows
):
    header = make_header(dimension=2)
    store = make_store(str(tmp_path_factory.mktemp("ties")), header, vector_NP)
    found = check_against_brute(store, [[1.0, 0.25], [0.0, 0.0]], top, rows)
    assert found.proponents.rows[1].tolist() == found.opponents.rows[1].tolist() == [*range(top)]


def test_search_does_not_depend_on_blocks_or_other_queries(tmp_path, make_header, make_store):
    """To the last bit, with every row standing five times at different places of the tiles."""
    header = make_header(n_documents=1000, shard_documents=300, dimension=331)
    draw = np.random.default_rng(0)
    vector_NP = np.tile(draw.standard_normal((200, 331)).astype(np.float32), (5, 1))
    store = make_store(str(tmp_path / "store"), header, vector_NP)
    query_QP = draw.standard_normal((17, 331))
    whole = search(store, query_QP, 50, rows=1000)
    for rows in (1, 13, 64, 300):
        part = search(store, query_QP[3:4], 50, rows=rows)
        for one, all_ in ((part.proponents, whole.proponents), (part.opponents, whole.opponents)):
            assert np.array_equal(one.scores[0], all_.scores[3])
            assert np.array_equal(one.rows[0], all_.rows[3])
            assert np.array_equal(one.rows[0] % 200, np.repeat(one.rows[0, ::5], 5))
            assert (np.diff(one.rows[0].reshape(-1, 5)) == 200).all()
        assert np.array_equal(part.histograms[0].edges, whole.histograms[3].edges)
        assert np.array_equal(part.histograms[0].counts, whole.histograms[3].counts)


def test_blocks_of_small_shards_are_joined_unless_their_rows_are_asked_for(
    tmp_path, make_header, make_store, monkeypatch
):
    store = make_store(str(tmp_path / "store"), make_header(shard_documents=2))
    query_QP = np.random.default_rng(5).standard_normal((3, 6))
    for most, starts in ((5, [0, 4, 8, 12, 16, 20]), (1, list(range(23))), (99, [0])):
        monkeypatch.setattr("gradients_store.scores._BLOCK_ROWS", most)
        parts = list(all_scores(store, query_QP))
        assert [start for start, _ in parts] == starts
        score_QN = np.concatenate([part for _, part in parts], axis=1)
        assert np.array_equal(score_QN, brute(store, query_QP))
        check_against_brute(store, query_QP, 4, None)
    assert [start for start, _ in all_scores(store, query_QP, 99)] == list(range(0, 23, 2))


def test_search_returns_fewer_rows_when_fewer_are_scored(root, make_header, make_store):
    store = make_store(root, make_header())
    found = check_against_brute(store, np.ones((1, 6)), 99, 10)
    assert found.proponents.rows.shape == found.opponents.rows.shape == (1, 23)


@pytest.mark.parametrize("rows", BLOCKS)
def test_search_leaves_skipped_documents_out_of_everything(root, rows, make_header, make_store):
    store = make_store(root, make_header())
    query_QP = np.random.default_rng(6).standard_normal((2, 6))
    skipped = [0, 5, *range(10, 20)]
    kept = np.setdiff1d(np.arange(23), skipped)
    score_QN = brute(store, query_QP)
    skip = [f"doc-{row}" for row in skipped]
    found = search(store, query_QP, 3, skip=skip, group_by=["source"], rows=rows)
    assert np.array_equal(found.proponents.rows, kept[brute_top(score_QN[:, kept], 3, 1)])
    assert np.array_equal(found.opponents.rows, kept[brute_top(score_QN[:, kept], 3, -1)])
    assert found.moments.count == found.groups["source"].count.sum() == len(kept)
    assert [part.counts.sum() for part in found.histograms] == [len(kept)] * 2
    close(found.moments.total, score_QN[:, kept].astype(np.float64).sum(axis=1), score_QN)


def test_search_refuses_what_does_not_fit_the_store(root, make_header, make_store):
    store = make_store(root, make_header())
    for query in (np.ones(6), np.ones((1, 5)), np.ones((0, 6))):
        with pytest.raises(BadQuery, match=r"queries of shape \(.*\), expected \(queries, 6\)"):
            search(store, query, 1)
        with pytest.raises(BadQuery, match="Compress the query as the store was compressed"):
            next(all_scores(store, query))
    with pytest.raises(BadQuery, match="query 1 has numbers that are not finite"):
        search(store, [[1.0] * 6, [np.inf] * 6], 1)
    with pytest.raises(BadQuery, match="top is 0, expected at least 1"):
        search(store, np.ones((1, 6)), 0)
    with pytest.raises(BadQuery, match="group_by has 'loss', expected some of id, source, lang"):
        search(store, np.ones((1, 6)), 1, group_by=["source", "loss"])
    with pytest.raises(UnknownName, match="no document 'doc-23'"):
        search(store, np.ones((1, 6)), 1, skip=["doc-1", "doc-23"])
    with pytest.raises(BadQuery, match="every document is skipped"):
        search(store, np.ones((1, 6)), 1, skip=[f"doc-{row}" for row in range(23)])
    with pytest.raises(BadQuery, match=r"a score in .* is larger than float32 holds"):
        search(store, np.full((1, 6), 1e60), 1)


def test_int8_scores_are_within_half_a_step_per_coordinate(
    tmp_path, make_header, make_store, written
):
    header = make_header(dtype="int8", dimension=200)
    store = make_store(str(tmp_path / "store"), header)
    query_P = np.random.default_rng(7).standard_normal(200)
    exact_NP = written(header).astype(np.float64)
    limit_N = np.abs(exact_NP).max(axis=1) / 127 * 0.5001 * np.abs(query_P).sum()
    ((_, first_1b), *rest) = all_scores(store, query_P[None])
    score_N = np.concatenate([first_1b[0], *(part[0] for _, part in rest)])
    assert (np.abs(score_N - exact_NP @ query_P) <= limit_N).all()


def peak_of_search(store):
    query_QP = np.ones((2, store.header.dimension))
    tracemalloc.start()
    search(store, query_QP, 5, rows=64, group_by=("source",), skip=["doc-3"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_search_needs_no_more_memory_for_ten_times_the_documents(tmp_path, make_header, make_store):
    sizes = {"n_documents": 500, "shard_documents": 250, "dimension": 512}
    small = make_store(str(tmp_path / "small"), make_header(**sizes))
    large = make_store(str(tmp_path / "large"), make_header(**sizes | {"n_documents": 5000}))
    peak_of_search(small)  # imports and caches
    little, much = peak_of_search(small), peak_of_search(large)
    assert much < 1.15 * little
    assert much < 1_500_000 < 5000 * 512 * 4


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=40), st.data())
def test_histogram_does_not_depend_on_the_cut_into_blocks(values, data):
    value_n = np.array(values, dtype=np.float32)
    whole = histogram(value_n)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(values) - 1)), max_size=4)))
    parts = [histogram(part) for part in np.split(value_n, cuts) if len(part)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part)
    assert np.array_equal(merged.edges, whole.edges)
    assert np.array_equal(merged.counts, whole.counts)


@given(st.lists(FLOATS, min_size=1, max_size=40))
def test_histogram_counts_every_value_between_its_edges(values):
    value_n = np.array(values, dtype=np.float32)
    found = histogram(value_n)
    assert 1 <= len(found.counts) <= MOST_BINS
    assert found.edges[0] <= found.low
    assert found.high < found.edges[-1]
    position = np.searchsorted(found.edges, value_n.astype(np.float64), side="right") - 1
    assert np.array_equal(found.counts, np.bincount(position, minlength=len(found.counts)))
    if found.high > found.low:
        assert len(found.counts) > MOST_BINS // 2


@pytest.mark.parametrize("value", [1.0, -1.0, 1.5, 1e30, -3e-38, 1e-45, 0.0])
@pytest.mark.parametrize("toward", [-np.inf, np.inf])
def test_histogram_of_equal_values_can_still_be_merged_with_a_neighbour(value, toward):
    one_n = np.full(3, value, dtype=np.float32)
    next_n = np.nextafter(one_n, np.float32(toward))
    assert next_n[0] != one_n[0]
    whole = histogram(np.concatenate([one_n, next_n]))
    merged = histogram(one_n).merged(histogram(next_n))
    assert np.array_equal(merged.edges, whole.edges)
    assert np.array_equal(merged.counts, whole.counts)
    assert merged.counts.tolist()[0] == merged.counts.tolist()[-1] == 3
