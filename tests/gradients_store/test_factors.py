"""Factor rows and few-bit numbers: what is stored, and search against whole matrices in float64."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradients_store import (
    BadQuery,
    Damaged,
    HeaderMismatch,
    all_scores,
    export,
    factor_products,
    open_store,
    products,
    search,
    shard_vectors,
    verify,
)
from gradients_store.quantise import quantise
from gradients_store.schema import arrow_schema
from gradients_store.storage import checksum
from tests.gradients_store.conftest import DTYPES

FACTORS = ((2, 5, 3), (0, 4, 4), (1, 7, 2), (3, 2, 6))  # odd sizes: factors start within bytes
LEVELS = {"int4": np.arange(-7.5, 8), "int2": np.arange(-1.5, 2), "int8": np.arange(-127, 128.0)}


@pytest.fixture(scope="session")
def factor_header(make_header):
    def make(factors=FACTORS, **changes):
        size = sum(rank * (out + inputs) for rank, out, inputs in factors)
        layers = tuple(f"h.{layer}" for layer in range(len(factors)))
        return make_header(**{"factors": factors, "dimension": size, "layers": layers} | changes)

    return make


def places(factors):
    """Where each factor stands in a row, by its layer and side."""
    start = 0
    for layer, (rank, out, inputs) in enumerate(factors):
        for side, size in [("u", out)] * rank + [("v", inputs)] * rank:
            yield layer, side, slice(start, start + size)
            start += size


def matrices(vector_NP, factors):
    """The matrices ``[N, sum O I]`` that rows stand for, in float64, one outer product a time."""
    rows = []
    for vector_P in np.asarray(vector_NP, dtype=np.float64):
        row = []
        for layer, (rank, out, inputs) in enumerate(factors):
            parts = [(side, part) for own, side, part in places(factors) if own == layer]
            left = [vector_P[part] for side, part in parts if side == "u"]
            right = [vector_P[part] for side, part in parts if side == "v"]
            total = np.zeros((out, inputs))
            for k in range(rank):
                total += np.outer(left[k], right[k])
            row.append(total.reshape(-1))
        rows.append(np.concatenate(row))
    return np.stack(rows)


def queries(factors, count, seed=0, rank=None):
    """Query matrices ``[Q, M]``; of a low rank if one is given."""
    draw = np.random.default_rng(seed)
    parts = []
    for _, out, inputs in factors:
        part = draw.standard_normal((count, out, inputs))
        if rank is not None:
            part = draw.standard_normal((count, out, rank)) @ draw.standard_normal(
                (count, rank, inputs)
            )
        parts.append((part * 10.0 ** draw.integers(-3, 4)).reshape(count, -1))
    return np.concatenate(parts, axis=1)


def check_scores(store, query_QM, found_QN):
    """Against float64, with the bound that `factor_products` states."""
    factors, vector_NP = store.header.factors, whole(store)
    expected_QN = query_QM.astype(np.float64) @ matrices(vector_NP, factors).T
    terms_NM = matrices(np.abs(vector_NP), factors)
    limit_QN, start = 2.0**-24 * np.abs(expected_QN) + 1e-30, 0
    for _, out, inputs in factors:
        part = slice(start, start + out * inputs)
        own_Qm, terms_Nm = np.abs(query_QM[:, part]), terms_NM[:, part]
        limit_QN += 2.0**-24 * (out + inputs) * own_Qm @ terms_Nm.T
        limit_QN += (
            1e-6 * np.linalg.norm(own_Qm, axis=1)[:, None] * np.linalg.norm(terms_Nm, axis=1)
        )
        start += out * inputs
    assert (np.abs(found_QN - expected_QN) <= limit_QN).all()
    assert (limit_QN < 1e-4 * np.abs(expected_QN).max(axis=1, keepdims=True)).sum() > 0


@pytest.fixture(params=["compiled", "numpy"])
def engine(request, monkeypatch):
    monkeypatch.setattr(factor_products, "COMPILED_FROM", 0)
    if request.param == "numpy":
        monkeypatch.setattr(factor_products, "compiled", lambda: None)
    else:
        assert products.compiled() is not None


@pytest.mark.parametrize("block", [1, 4, 1000])
def test_factor_rows_come_back_within_half_a_step_of_each_factor(
    root, dtype, block, factor_header, make_store, written
):
    header = factor_header(dtype=dtype)
    store = make_store(root, header)
    vector_NP, exact_NP = np.concatenate([p for _, p in store.blocks(block)]), written(header)
    table = store.documents(range(len(store)), vectors=True)
    factor_scale_NF = np.array(table["factor_scale"].to_pylist(), dtype=np.float64)
    step_NF = table["scale"].to_numpy()[:, None] * factor_scale_NF
    assert vector_NP.dtype == np.float32
    assert factor_scale_NF.shape == (23, 12)
    for factor, (_, _, part) in enumerate(places(FACTORS)):
        own_Nk, exact_Nk = vector_NP[:, part], exact_NP[:, part]
        step_N1 = step_NF[:, factor, None]
        if dtype in LEVELS:
            level_NkL = step_N1[:, :, None] * LEVELS[dtype]
            nearest_Nk = np.abs(exact_Nk[:, :, None] - level_NkL).min(axis=2)
            assert (np.abs(own_Nk - exact_Nk) <= nearest_Nk + 1e-6 * step_N1).all()
            assert np.isin(own_Nk / step_N1, LEVELS[dtype]).all()
        else:
            assert (step_N1 == 1).all()
            assert np.array_equal(own_Nk, exact_Nk.astype(dtype).astype(np.float32))
        if dtype == "int8":
            largest_N1 = np.abs(exact_Nk).max(axis=1, keepdims=True)
            assert (np.abs(own_Nk - exact_Nk) <= largest_N1 / 127 * 0.501).all()
    assert verify(root) == []
    assert np.array_equal(shard_vectors(root, 1, [9, 0]), vector_NP[[19, 10]])
    assert np.array_equal(store.vectors(["doc-22", "doc-4"]), vector_NP[[22, 4]])


@pytest.mark.parametrize("dtype", LEVELS)
def test_factors_of_any_length_survive(tmp_path, dtype, factor_header, make_store, written):
    """Tiny and huge rows, and within a row factors a million times as long as others."""
    header = factor_header(dtype=dtype)
    plain = make_store(str(tmp_path / "plain"), header)
    exact_NP = written(header)
    power_NP = np.zeros((23, header.dimension), dtype=np.int64)
    for factor, (_, _, part) in enumerate(places(FACTORS)):
        power_NP[:, part] = (factor * 7) % 24
    power_NP += np.random.default_rng(0).integers(-60, 60, (23, 1))
    scaled = make_store(str(tmp_path / "scaled"), header, np.ldexp(exact_NP, power_NP))
    assert np.array_equal(whole(scaled), np.ldexp(whole(plain), power_NP))


def whole(store):
    return np.concatenate([part for _, part in store.blocks()])


@pytest.mark.parametrize("factors", [None, FACTORS], ids=["plain", "factors"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_and_the_ends_of_float32_are_stored(
    tmp_path, dtype, factors, factor_header, make_header, make_store
):
    header = factor_header(dtype=dtype) if factors else make_header(dtype=dtype)
    value_S = [0.0, 1e-45, 1e-30, 1.0, 60000.0, 1e30, 3.4e38, -3.4e38]
    if dtype == "float16":
        value_S = [0.0, 1e-45, 1.0, 60000.0]
    size = len(value_S)
    vector_NP = np.zeros((23, header.dimension), dtype=np.float32)
    vector_NP[:size] = np.array(value_S, dtype=np.float32)[:, None]
    with np.errstate(over="raise"):
        found_NP = whole(make_store(str(tmp_path / "store"), header, vector_NP))
    assert np.isfinite(found_NP).all()
    assert not found_NP[size:].any()
    error_NP = np.abs(found_NP.astype(np.float64) - vector_NP)
    part_N1 = np.where(np.abs(vector_NP[:, :1]) > 1e38, 0.26, 0.01)  # the largest level is finite
    tiny = 1e-7 if dtype == "float16" else 1e-36
    assert (error_NP <= part_N1 * np.abs(vector_NP) + tiny).all()


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "outlier", "one number"])
def test_few_bit_steps_are_near_the_best_of_all(make_header, bits, kind):
    draw = np.random.default_rng(0)
    vector_nP = draw.standard_normal((20, 501))
    if kind == "laplace":
        vector_nP = draw.laplace(size=(20, 501)) * 1e-9
    if kind == "uniform":
        vector_nP = draw.uniform(-1, 1, (20, 501))
    if kind == "outlier":
        vector_nP[:, 7] = 40.0
    if kind == "one number":
        vector_nP = draw.standard_normal((20, 1))
    vector_nP = vector_nP.astype(np.float32)
    header = make_header(dtype=f"int{bits}", dimension=vector_nP.shape[1])
    stored_nW, scale_n, _ = quantise(vector_nP, header, ["doc"] * 20, "shard")
    level_L = LEVELS[f"int{bits}"]
    for row, (vector_P, scale) in enumerate(zip(vector_nP, scale_n, strict=True)):
        alone_1W, alone_1, _ = quantise(vector_nP[row : row + 1], header, ["doc"], "shard")
        assert np.array_equal(alone_1W[0], stored_nW[row])
        assert alone_1[0] == scale

        def error(step, vector_P=vector_P):
            return (np.abs(vector_P[:, None] - step * level_L).min(axis=1) ** 2).sum()

        steps = np.abs(vector_P).max() * np.geomspace(1e-3, 2, 2000)
        least = min(error(step) for step in steps)
        assert error(float(scale)) <= 1.03 * least + 1e-8 * (vector_P**2).sum()


def test_gaussian_numbers_keep_the_known_part_of_their_length(make_header):
    """The least error of uniform quantisers of a Gaussian: 0.01154 at 4 bits, 0.1188 at 2."""
    vector_nP = np.random.default_rng(0).standard_normal((50, 20_000)).astype(np.float32)
    for dtype, expected in (("int4", 0.01154), ("int2", 0.1188)):
        header = make_header(dtype=dtype, dimension=20_000)
        _, scale_n, _ = quantise(vector_nP, header, ["doc"] * 50, "shard")
        half = LEVELS[dtype].max() + 0.5
        code_nP = np.clip(np.floor(vector_nP / scale_n[:, None]), -half, half - 1) + 0.5
        error = ((code_nP * scale_n[:, None] - vector_nP) ** 2).mean()
        assert abs(error / expected - 1) < 0.01


@pytest.mark.parametrize("rows", [None, 1, 7])
@pytest.mark.parametrize("rank", [None, 1, 0])
def test_search_of_factors_equals_the_inner_product_of_matrices(
    root, engine, dtype, rows, rank, factor_header, make_store
):
    store = make_store(root, factor_header(dtype=dtype))
    query_QM = queries(FACTORS, 3, rank=rank)
    parts = list(all_scores(store, query_QM, rows))
    score_QN = np.concatenate([part for _, part in parts], axis=1)
    if rank == 0:
        assert not score_QN.any()
        return
    check_scores(store, query_QM, score_QN)
    found = search(store, query_QM, 5, rows=rows, group_by=("source",), skip=["doc-3"])
    kept = np.delete(np.arange(23), 3)
    for part, sign in ((found.proponents, 1), (found.opponents, -1)):
        order = np.argsort(-sign * score_QN[:, kept], axis=1, kind="stable")[:, :5]
        assert np.array_equal(part.rows, kept[order])
        assert np.array_equal(part.scores, np.take_along_axis(score_QN[:, kept], order, axis=1))
    assert found.moments.count == 22 == found.groups["source"].count.sum()
    np.testing.assert_allclose(found.moments.total, score_QN[:, kept].sum(axis=1, dtype=float))
    assert [part.counts.sum() for part in found.histograms] == [22] * 3


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (32, 32)])
def test_low_rank_queries_are_factorised_and_give_the_same_scores(
    tmp_path, shape, factor_header, make_store
):
    """Queries of rank 0, 2, 5 and full beside each other, and of the shapes of any layer."""
    factors = ((2, *shape), (1, *shape[::-1]))
    header = factor_header(factors, n_documents=300, shard_documents=90, dtype="int4")
    store = make_store(str(tmp_path / "store"), header)
    query_QM = np.concatenate([queries(factors, 1, seed, seed) for seed in (5, 2, 0)])
    query_QM = np.concatenate([query_QM, queries(factors, 2, 9)])[[3, 0, 1, 4, 2]]
    layers = list(factor_products._layers(query_QM, header))
    for layer in layers:
        assert [query for query, _ in layer.whole] == [0, 3]
        assert layer.factorised == (1, 2)
        assert layer.left_OR.shape[1] == layer.right_IR.shape[1] == 7
    score_QN = np.concatenate([part for _, part in all_scores(store, query_QM)], axis=1)
    check_scores(store, query_QM, score_QN)
    assert not score_QN[4].any()


def test_queries_are_factorised_only_where_the_store_is_large_enough(factor_header):
    factors = ((1, 40, 40),)
    query_QM = queries(factors, 1, rank=1)
    for documents, factorised in ((400, ()), (1000, (0,))):  # 2 O I^2 + 10 I^3 over 2 O I: 240
        header = factor_header(factors, n_documents=documents // 2)
        (layer,) = factor_products._layers(query_QM, header)
        assert layer.factorised == factorised


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_search_of_factors_is_the_same_in_any_threads(
    tmp_path, engine, dtype, threads, factor_header, make_store, monkeypatch
):
    monkeypatch.setattr("gradients_store.scores._FEW_BYTES", 0)
    monkeypatch.setattr(factor_products, "_TILE_BYTES", 1 << 10)
    header = factor_header(n_documents=400, shard_documents=90, dtype=dtype)
    store = make_store(str(tmp_path / "store"), header)
    query_QM = queries(FACTORS, 3).astype(np.float32)
    one = np.concatenate([part for _, part in all_scores(store, query_QM, 13, 1)], axis=1)
    many = np.concatenate([part for _, part in all_scores(store, query_QM, 13, threads)], axis=1)
    assert np.array_equal(one, many)
    check_scores(store, query_QM, one)


SIZES = st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=60, deadline=None)
@given(
    factors=st.lists(SIZES, min_size=1, max_size=4).filter(lambda f: any(r for r, _, _ in f)),
    dtype=st.sampled_from(DTYPES),
    count=st.integers(1, 5),
    shard=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_factors_are_found(
    tmp_path_factory, factor_header, make_store, factors, dtype, count, shard, seed
):
    header = factor_header(tuple(factors), n_documents=count, shard_documents=shard, dtype=dtype)
    draw = np.random.default_rng(seed)
    vector_NP = draw.standard_normal((count, header.dimension)).astype(np.float32)
    root, other = (str(tmp_path_factory.mktemp(name)) for name in ("store", "other"))
    store = make_store(root, header, vector_NP)
    make_store(other, header, vector_NP)
    for one, two in zip(store.shards, open_store(other).shards, strict=True):
        assert one == two
    query_QM = queries(factors, 2, seed)
    score_QN = np.concatenate([part for _, part in all_scores(store, query_QM)], axis=1)
    expected_QN = query_QM @ matrices(whole(store), factors).T
    size_QN = np.abs(query_QM) @ matrices(np.abs(whole(store)), factors).T
    assert (np.abs(score_QN - expected_QN) <= 3e-6 * size_QN).all()


def test_search_of_factors_refuses_other_queries(tmp_path, factor_header, make_store):
    header = factor_header()
    store = make_store(str(tmp_path / "store"), header)
    message = r"queries of shape \(1, 36\), expected \(queries, 57\).*whole gradient of each layer"
    assert header.dimension == 49
    with pytest.raises(BadQuery, match=message):
        search(store, np.ones((1, 36)), 1)
    with pytest.raises(BadQuery, match="query 0 has numbers that are not finite"):
        search(store, np.full((1, 57), np.nan), 1)
    with pytest.raises(BadQuery, match=r"a score in .* is larger than float32 holds"):
        search(store, np.full((1, 57), 1e60), 1)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_export_of_factors_is_plain_float32(root, dtype, suffix, factor_header, make_store):
    import fsspec
    import pyarrow as pa

    store = make_store(root, factor_header(dtype=dtype))
    path = f"{root}-export/all{suffix}"
    export(root, path)
    with fsspec.open(path) as file:
        if suffix == ".parquet":
            table = pa.parquet.read_table(file)
        else:
            table = pa.ipc.open_file(file).read_all()
    assert np.array_equal(np.stack(table["vector"].to_numpy()), whole(store))
    assert np.unique(np.stack(table["factor_scale"].to_numpy())).tolist() == [1.0]
    about = table.schema.field("vector").metadata
    assert b"low-rank factors" in about[b"about"]
    assert b"packing" not in about


def test_schema_says_how_to_unpack(make_header, factor_header):
    field = arrow_schema(make_header(dtype="int4", dimension=7)).field("vector")
    assert field.type.list_size == 4
    assert field.metadata[b"packing"] == (
        b"7 numbers of 4 bits in uint8, 2 in a byte, lowest bits first: code = (byte >> 4 * "
        b"(i % 2)) & 15 of byte i // 2, number = code - 7.5"
    )
    field = arrow_schema(factor_header(dtype="int2")).field("vector")
    assert field.type.list_size == 13
    assert b"number = code - 1.5" in field.metadata[b"packing"]
    assert b"packing" not in arrow_schema(make_header(dtype="int8")).field("vector").metadata


def test_stores_of_other_factors_are_refused(tmp_path, factor_header, make_store):
    root = str(tmp_path / "store")
    make_store(root, factor_header(((1, 3, 3), (1, 3, 3))))
    message = r"factors: \(rank, O, I\) of 1 layers differ, of layer 1 store has \(1, 3, 3\), run"
    with pytest.raises(HeaderMismatch, match=message):
        open_store(root, expect=factor_header(((1, 3, 3), (1, 2, 4))))


def test_verify_finds_factor_scales_that_are_not_finite(tmp_path, factor_header, make_store):
    import pyarrow as pa

    store = make_store(str(tmp_path / "store"), factor_header(n_documents=10, dtype="int4"))
    path = tmp_path / "store" / "shard-00000.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    position = table.schema.get_field_index("factor_scale")
    flat = np.ones(120, dtype=np.float16)
    flat[40] = np.nan
    scales = pa.FixedSizeListArray.from_arrays(pa.array(flat), 12)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table.set_column(position, table.schema.field(position), scales))
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    data = path.read_bytes()
    manifest["shards"][0] |= {"bytes": len(data), "checksum": checksum(data)}
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(manifest))
    (problem,) = verify(store.root)
    assert problem.endswith("1 documents have numbers that are not finite, first 'doc-3'.")
    path.write_bytes(data[:-200])
    with pytest.raises(Damaged):
        open_store(store.root)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_store_of_format_1_is_read_and_searched(tmp_path, dtype, make_header, make_store):
    """Headers as format 1 wrote them, by hand: version 1 and no `factors`."""
    import pyarrow as pa

    header = make_header(dtype=dtype)
    root = tmp_path / "store"
    expected = make_store(str(root), header)
    vector_NP = whole(expected)
    old = {"format_version": 1, "readable_from": "0.1.0"} | dataclasses.asdict(header)
    del old["factors"]
    manifest = json.loads((root / "manifest.json").read_text()) | {"header": old}
    for shard in manifest["shards"]:
        path = root / shard["name"]
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        schema = table.schema.with_metadata({b"gradients_store": json.dumps(old)})
        with pa.ipc.new_file(path, schema) as writer:
            writer.write_table(table.replace_schema_metadata(schema.metadata))
        data = path.read_bytes()
        shard |= {"bytes": len(data), "checksum": checksum(data)}
        sidecar = shard | {"header": old}
        (root / shard["name"].replace(".arrow", ".json")).write_text(json.dumps(sidecar))
    (root / "manifest.json").write_text(json.dumps(manifest))
    store = open_store(root, expect=header)
    assert store.header.factors is None
    assert verify(root) == []
    assert np.array_equal(whole(store), vector_NP)
    assert np.array_equal(shard_vectors(root, 2, [1]), vector_NP[[21]])
    assert np.array_equal(
        search(store, vector_NP[:2], 3).proponents.rows,
        np.argsort(-vector_NP[:2] @ vector_NP.T, axis=1, kind="stable")[:, :3],
    )


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_factorised_queries_keep_singular_values_down_to_a_millionth(shape):
    draw = np.random.default_rng(0)
    left_OR, right_IR = (np.linalg.qr(draw.standard_normal((size, 5)))[0] for size in shape)
    matrix_OI = (left_OR * [7.0, 7e-2, 7e-4, 1.4e-5, 3.5e-6]) @ right_IR.T
    found_OR, found_IR = factor_products._factorised(matrix_OI, uses=10**6)
    assert found_OR.shape[1] == found_IR.shape[1] == 4
    assert np.linalg.norm(found_OR @ found_IR.T - matrix_OI, ord=2) <= 1e-6 * 7.0
