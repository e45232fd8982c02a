"""Every way of multiplying rows with queries, against one plain product in float64."""

import os
import subprocess
import sys

import numpy as np
import pytest

from gradients_store import all_scores, products, search
from gradients_store.digits import digits, joined
from gradients_store.packing import packed, unpacked
from gradients_store.products import compiled
from gradients_store.quantise import quantise

DIMENSIONS = (1, 3, 15, 16, 31, 32, 33, 1000, 4096, 8211)
TYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
    "int4": np.uint8,
    "int2": np.uint8,
}
BITS = {"int4": 4, "int2": 2}


def exact(size):
    return 2.0**-44 * np.sqrt(size) + 2.0**-50  # see `digits`; float64 joins them


BOUND = {
    **dict.fromkeys(("int8", "int4", "int2"), exact),
    "float32": lambda size: 2.0**-53 * size,
    "float16": lambda size: 2.0**-53 * size,
}


@pytest.fixture(params=["compiled", "BLAS"])
def engine(request, monkeypatch):
    """Both ways, whatever the size of the work."""
    if request.param == "compiled":
        assert compiled() is not None
        monkeypatch.setattr(products, "COMPILED_FROM", 0)
    else:
        monkeypatch.setattr(products, "compiled", lambda: None)
    return request.param


def rows_of(dtype, rows, size, draw):
    """Stored rows with the extremes of their type and zeros among them."""
    if dtype == "int8":
        row_bP = draw.integers(-127, 128, (rows, size)).astype(np.int8)
        row_bP[0], row_bP[-1] = 127, -127
    elif dtype in BITS:
        code_bP = draw.integers(0, 1 << BITS[dtype], (rows, size)).astype(np.uint8)
        code_bP[0], code_bP[-1] = (1 << BITS[dtype]) - 1, 0
        row_bP = packed(code_bP, BITS[dtype])
    else:
        row_bP = (draw.standard_normal((rows, size)) * 10.0 ** draw.integers(-6, 5)).astype(
            TYPES[dtype]
        )
        row_bP[0, ::2] = np.finfo(TYPES[dtype]).smallest_subnormal
    if dtype not in BITS:
        row_bP[rows // 2] = 0
    row_bP.flags.writeable = False  # as Arrow gives them
    return row_bP


def widened(row_bP, dtype, size):
    """The numbers of stored rows; packed ones are taken apart one by one."""
    if dtype not in BITS:
        return row_bP.astype(np.float64)
    bits = BITS[dtype]
    code_bP = np.empty((len(row_bP), size))
    for place in range(size):
        byte, shift = divmod(place * bits, 8)
        code_bP[:, place] = (row_bP[:, byte] >> shift) % (1 << bits)
    return code_bP - (1 << (bits - 1)) + 0.5


def reference(wide_bP, query_QP):
    length_bQ = np.outer(np.linalg.norm(wide_bP, axis=1), np.linalg.norm(query_QP, axis=1))
    return wide_bP @ query_QP.T, length_bQ


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", DIMENSIONS)
def test_products_are_within_the_stated_bound_of_float64(engine, dtype, size):
    draw = np.random.default_rng(size)
    for rows in (1, 2, 3, 4, 5, 27, 70):
        for queries in (1, 2, 9):
            row_bP = rows_of(dtype, rows, size, draw)
            query_QP = draw.standard_normal((queries, size)) * draw.lognormal(0, 3, size)
            query_QP[-1, :: max(1, size // 2)] *= 1e9
            found_bQ = products.products(query_QP, dtype, rows)([row_bP])
            expected_bQ, length_bQ = reference(widened(row_bP, dtype, size), query_QP)
            assert (np.abs(found_bQ - expected_bQ) <= BOUND[dtype](size) * length_bQ).all()
            assert BOUND[dtype](size) <= 1e-6


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", DIMENSIONS)
def test_a_product_depends_on_its_row_and_query_alone(dtype, size, monkeypatch):
    """To the last bit: alone, in any block, beside any other queries, at any place of the tiles."""
    monkeypatch.setattr(products, "COMPILED_FROM", 0)
    draw = np.random.default_rng(size)
    row_bP = np.tile(rows_of(dtype, 11, size, draw), (7, 1))
    query_QP = draw.standard_normal((6, size))
    whole_bQ = products.products(query_QP, dtype, len(row_bP))([row_bP[:5], row_bP[5:]])
    assert np.array_equal(whole_bQ, np.tile(whole_bQ[:11], (7, 1)))
    for q in range(6):
        one = products.products(query_QP[q : q + 1], dtype, len(row_bP))
        for start, stop in ((0, 1), (3, 5), (10, 37), (0, 77)):
            assert np.array_equal(one([row_bP[start:stop]])[:, 0], whole_bQ[start:stop, q])


@pytest.mark.parametrize("dtype", ["int8", *BITS])
@pytest.mark.parametrize("size", DIMENSIONS)
def test_integer_products_are_the_same_compiled_and_by_blas(dtype, size, monkeypatch):
    draw = np.random.default_rng(size)
    row_bP = rows_of(dtype, 50, size, draw)
    query_QP = draw.standard_normal((3, size)) * draw.lognormal(0, 3, size)
    monkeypatch.setattr(products, "COMPILED_FROM", 0)
    by_kernel = products.products(query_QP, dtype, 1)
    monkeypatch.setattr(products, "compiled", lambda: None)
    by_blas = products.products(query_QP, dtype, 1)
    assert np.array_equal(by_kernel([row_bP]), by_blas([row_bP]))


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("size", DIMENSIONS)
def test_packed_products_equal_those_of_the_same_numbers_in_int8(engine, dtype, size):
    """To the last bit: twice a packed number is an odd integer."""
    draw = np.random.default_rng(size)
    for rows in (1, 26, 90):
        row_bW = rows_of(dtype, rows, size, draw)
        odd_bP = (2 * widened(row_bW, dtype, size)).astype(np.int8)
        for queries in (1, 5):
            query_QP = draw.standard_normal((queries, size)) * draw.lognormal(0, 3, size)
            found_bQ = products.products(query_QP, dtype, rows)([row_bW])
            expected_bQ = products.products(query_QP, "int8", rows)([odd_bP])
            assert np.array_equal(2 * found_bQ, expected_bQ)


def test_digits_are_exact_multiples_of_a_power_of_two():
    draw = np.random.default_rng(0)
    query_QP = draw.standard_normal((4, 999)) * draw.lognormal(0, 9, 999)
    query_QP[1] = 0.0
    query_QP[2] = 2.0**-1070
    query_QP[3, 0] = -np.finfo(np.float64).max / 2
    parts = digits(query_QP)
    assert np.abs(parts.digit_DP.astype(np.int64)).max() <= 1 << 14
    back_PQ = joined(parts.digit_DP.T.astype(np.int64), parts.exponent_Q)
    limit_Q = 2.0**-44 * np.abs(query_QP).max(axis=1)
    assert (np.abs(back_PQ.T - query_QP) <= limit_Q[:, None]).all()


def test_int8_sums_do_not_overflow_at_the_largest_digits():
    kernels = compiled()
    for size in (4096, 16 * 4096 + 5):
        row_bP = np.full((4, size), -128, dtype=np.int8)
        row_bP[1::2] = 127
        digit_DP = np.full((6, size), -(1 << 14), dtype=np.int16)
        digit_DP[3:] = 1 << 14
        sum_bD = np.empty((4, 6), dtype=np.int64)
        kernels.int8_sums(row_bP, digit_DP, sum_bD)
        assert np.array_equal(sum_bD, row_bP.astype(np.int64) @ digit_DP.T.astype(np.int64))


def test_every_float16_is_widened_exactly():
    half_n = np.arange(1 << 16, dtype=np.uint16)
    half_n = half_n[np.isfinite(half_n.view(np.float16))]
    single_n = np.empty(len(half_n), dtype=np.float32)
    compiled().widen(half_n, single_n)
    assert np.array_equal(single_n, half_n.view(np.float16).astype(np.float32))


@pytest.mark.parametrize("bits", [4, 2])
def test_every_byte_is_unpacked_the_same_compiled_or_not(bits):
    byte_nW = np.random.default_rng(0).permutation(np.arange(512, dtype=np.uint16) % 256)
    byte_nW = byte_nW.astype(np.uint8).reshape(4, 128)
    single_nP = np.empty((4, 128 * 8 // bits), dtype=np.float32)
    compiled().unpack(byte_nW[:, 1:], bits, single_nP[:, 8 // bits :])
    expected_nP = unpacked(byte_nW, bits)
    assert np.array_equal(single_nP[:, 8 // bits :], expected_nP[:, 8 // bits :])
    assert np.array_equal(expected_nP, widened(byte_nW, f"int{bits}", expected_nP.shape[1]))


def test_stored_int8_times_scale_is_exact_in_float32(make_header):
    draw = np.random.default_rng(0)
    vector_nP = draw.standard_normal((300, 40)).astype(np.float32)
    vector_nP *= 10.0 ** draw.integers(-37, 38, (300, 1)).astype(np.float32)
    vector_nP[0], vector_nP[1] = np.finfo(np.float32).max, 0.0
    header = make_header(dtype="int8", dimension=40)
    small_nP, scale_n, _ = quantise(vector_nP, header, ["doc"] * 300, "shard")
    single_nP = small_nP * scale_n[:, None]
    assert single_nP.dtype == np.float32
    assert np.array_equal(
        single_nP.astype(np.float64), small_nP * scale_n.astype(np.float64)[:, None]
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_search_is_the_same_in_any_threads(
    tmp_path, engine, dtype, threads, make_header, make_store, monkeypatch
):
    monkeypatch.setattr("gradients_store.scores._FEW_BYTES", 0)
    header = make_header(n_documents=400, shard_documents=90, dimension=33, dtype=dtype)
    store = make_store(str(tmp_path / "store"), header)
    query_QP = np.random.default_rng(1).standard_normal((3, 33))
    skip = [f"doc-{row}" for row in range(0, 400, 7)]
    one = search(store, query_QP, 9, skip, ("source",), threads=1)
    found = search(store, query_QP, 9, skip, ("source",), rows=13, threads=threads)
    for part, expected in ((found.proponents, one.proponents), (found.opponents, one.opponents)):
        assert part.ids == expected.ids
        assert np.array_equal(part.scores, expected.scores)
        assert not np.isin(part.rows % 7, 0).any()
    assert found.moments.count == len(store) - len(skip)
    for mine, theirs in zip(found.histograms, one.histograms, strict=True):
        assert np.array_equal(mine.counts, theirs.counts)
    np.testing.assert_allclose(found.moments.total, one.moments.total, rtol=1e-12)
    np.testing.assert_allclose(found.groups["source"].total, one.groups["source"].total, rtol=1e-12)
    stream = np.concatenate([part for _, part in all_scores(store, query_QP, 13, threads)], axis=1)
    vector_NP = np.concatenate([part for _, part in store.blocks()]).astype(np.float64)
    assert np.array_equal(stream, (query_QP @ vector_NP.T).astype(np.float32))


def test_an_error_in_a_thread_reaches_the_caller(tmp_path, make_header, make_store, monkeypatch):
    monkeypatch.setattr("gradients_store.scores._FEW_BYTES", 0)
    store = make_store(str(tmp_path / "store"), make_header(dtype="int8"))
    with pytest.raises(ValueError, match="larger than float32 holds"):
        search(store, np.full((1, 6), 1e60), 1, rows=1, threads=2)


def test_a_small_search_does_not_load_the_compiler(tmp_path, make_header, make_store):
    store = make_store(str(tmp_path / "store"), make_header(dtype="int8"))
    code = (
        "import sys, numpy as np, gradients_store as g; "
        f"g.search(g.open_store({store.root!r}), np.ones((1, 6)), 3); "
        "assert not {'numba', 'pandas', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env={**os.environ})


def test_kernels_are_compiled_where_no_cache_can_be_written(monkeypatch):
    kernels = compiled()

    def refused(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", function)

    monkeypatch.setattr(kernels, "njit", refused)
    assert kernels._compiled()(len) == ("compiled", len)
