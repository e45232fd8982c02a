"""Writing and reading: one suite for local folders and memory://, and for each dtype."""

import errno
import os
import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import gradients_store.reader
import gradients_store.storage
from gradients_store import (
    AlreadySealed,
    BadRows,
    HeaderMismatch,
    Incomplete,
    NoSpace,
    Rows,
    ShardInfo,
    UnknownName,
    export,
    open_store,
    seal,
    sealed_shards,
    shard_vectors,
    verify,
    write_shard,
)
from gradients_store.schema import METADATA_COLUMNS
from tests.gradients_store.conftest import DTYPES


def raw(root):
    """Every file of a folder and its bytes, without our code."""
    files, path = fsspec.core.url_to_fs(root)
    if not files.isdir(path):
        return {}
    return {name.rsplit("/", 1)[-1]: files.cat_file(name) for name in files.ls(path, detail=False)}


def bound(vector_NP, dtype, scale_N):
    """The largest error that a dtype may make, for each number."""
    if dtype == "float32":
        return np.zeros((len(vector_NP), 1))
    largest_N1 = np.abs(vector_NP).max(axis=1, keepdims=True)
    if dtype == "float16":
        return largest_N1 * 2.0**-11 + 2.0**-25
    if dtype == "int8":
        return np.maximum(largest_N1 / 127, np.finfo(np.float32).tiny) * 0.5001
    level_L = np.arange(-7.5, 8) if dtype == "int4" else np.arange(-1.5, 2)
    level_NL = level_L * np.asarray(scale_N, dtype=np.float64)[:, None]
    nearest_NP = np.abs(vector_NP[:, :, None] - level_NL[:, None]).min(axis=2)
    return nearest_NP + 1e-6 * level_NL.max(axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 3, 7, 1000])
def test_store_gives_back_what_was_written(
    root, dtype, block, make_header, make_rows, make_store, written
):
    header = make_header(dtype=dtype)
    store = make_store(root, header)
    expected_NP = written(header)
    blocks = list(store.blocks(block))
    starts = [start for start, _ in blocks]
    assert starts == list(np.cumsum([0] + [len(part) for _, part in blocks[:-1]]))
    assert max(len(part) for _, part in blocks) <= block
    vector_NP = np.concatenate([part for _, part in blocks])
    assert vector_NP.dtype == np.float32
    table = store.metadata()
    assert (np.abs(vector_NP - expected_NP) <= bound(expected_NP, dtype, table["scale"])).all()
    assert tuple(table.column_names) == METADATA_COLUMNS
    assert table.num_rows == len(store) == header.n_documents
    for index in range(header.n_shards):
        rows = make_rows(header, index)
        part = table.slice(index * header.shard_documents, header.shard_documents)
        assert part["id"].to_pylist() == list(rows.id)
        assert part["source"].to_pylist() == list(rows.source)
        assert part["language"].to_pylist() == list(rows.language)
        assert part["n_tokens"].to_pylist() == list(rows.n_tokens)
        for name in ("loss", "self_influence", "gradient_norm"):
            assert np.array_equal(part[name].to_numpy(), np.float32(getattr(rows, name)))
    assert verify(root) == []


@settings(max_examples=60, deadline=None)
@given(
    vector_nP=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 9)),
        elements=st.floats(-60000, 60000, width=32),
    ),
    dtype=st.sampled_from(DTYPES),
    text=st.text(max_size=5),
)
def test_shards_round_trip_on_random_rows(make_header_plain, vector_nP, dtype, text):
    count, dimension = vector_nP.shape
    header = make_header_plain(
        dtype=dtype, dimension=dimension, n_documents=count, shard_documents=count
    )
    same = np.zeros(count, dtype=np.float32)
    rows = Rows(
        id=[f"{text}{row}" for row in range(count)],
        source=[text] * count,
        language=[text] * count,
        n_tokens=np.zeros(count, dtype=np.int64),
        loss=same,
        self_influence=same,
        gradient_norm=same,
        vector=vector_nP,
    )
    with tempfile.TemporaryDirectory() as root:
        shard = write_shard(root, 0, rows, header)
        before = raw(root)
        write_shard(root, 0, rows, header)
        assert raw(root) == before
        seal(root, header, [shard], {})
        store = open_store(root, expect=header)
        assert store.metadata()["id"].to_pylist() == rows.id
        assert store.metadata()["source"].to_pylist() == rows.source
        ((_, found_nP),) = store.blocks(count)
        scale_n = store.metadata()["scale"].to_numpy()
    assert (np.abs(found_nP - vector_nP) <= bound(vector_nP, dtype, scale_n)).all()


@pytest.fixture(scope="module")
def make_header_plain():
    from gradients_store import Header

    def make(**changes):
        names = ("model", "tokenizer", "corpus", "curvature", "curvature_kind", "sketch")
        return Header(
            **dict.fromkeys(names, "x"),
            layers=(),
            damping="rule",
            sketch_size=1,
            sketch_seed=None,
            sketch_coordinates=None,
            **changes,
        )

    return make


def test_store_has_the_same_bytes_whatever_the_order_of_writing(
    root, dtype, make_header, make_rows, make_store
):
    header = make_header(dtype=dtype)
    make_store(root, header)
    other = root + "-other"
    for index in reversed(range(header.n_shards)):
        write_shard(other, index, vars(make_rows(header, index)), header)
    seal(other, header, sealed_shards(other, header).values(), {"fidelity": None})
    first, second = raw(root), raw(other)
    first.pop("manifest.json"), second.pop("manifest.json")
    assert first == second


def test_store_reads_many_record_batches_per_shard(root, make_header, make_store, written):
    header = make_header(dimension=1, n_documents=2500, shard_documents=2300, dtype="float16")
    store = make_store(root, header)
    for block in (999, 1024, 5000):
        parts = [part for _, part in store.blocks(block)]
        full, rest = divmod(2300, block)
        assert [len(part) for part in parts] == [block] * full + [rest] * (rest > 0) + [200]
        vector_NP = np.concatenate(parts)
        assert np.array_equal(vector_NP, written(header).astype(np.float16).astype(np.float32))


def test_vectors_come_in_the_order_asked(root, dtype, make_header, make_store):
    store = make_store(root, make_header(dtype=dtype))
    vector_NP = np.concatenate([part for _, part in store.blocks()])
    rows = [22, 0, 10, 9, 22]
    assert np.array_equal(store.vectors([f"doc-{row}" for row in rows]), vector_NP[rows])
    assert store.rows_of([f"doc-{row}" for row in rows]).tolist() == rows
    assert store.documents(rows)["id"].to_pylist() == [f"doc-{row}" for row in rows]
    assert store.documents([]).num_rows == 0
    assert store.ids_of(rows) == [f"doc-{row}" for row in rows]
    assert store.ids_of([]) == []
    assert np.array_equal(shard_vectors(root, 0, [9, 2, 9]), vector_NP[[9, 2, 9]])
    assert store.vectors([]).shape == (0, 6)


def test_store_refuses_what_it_does_not_know(root, make_header, make_store):
    store = make_store(root, make_header())
    with pytest.raises(UnknownName, match=r"no document 'doc-99', expected one of its 23 ids"):
        store.vectors(["doc-1", "doc-99"])
    with pytest.raises(UnknownName, match=r"no document 'doc_7'.*Did you mean 'doc-7'\?"):
        store.vectors(["doc_7"])
    with pytest.raises(UnknownName, match="row 23, expected 0 to 22"):
        store.documents([3, 23])
    with pytest.raises(UnknownName, match=r"no column 'vectr'.*Did you mean 'vector'\?"):
        next(store.tables(["vectr"]))
    with pytest.raises(UnknownName, match="blocks of 0 rows, expected at least 1"):
        next(store.blocks(0))


def test_nearest_id_is_sought_among_some_ids_only(tmp_path, monkeypatch, make_header, make_store):
    store = make_store(str(tmp_path), make_header())
    monkeypatch.setattr(gradients_store.reader, "_SUGGESTIONS", 5)
    with pytest.raises(UnknownName, match=r"no document 'doc_3'.*Did you mean 'doc-3'\?"):
        store.rows_of(["doc_3"])


def test_sealed_shards_let_a_run_resume(root, make_header, make_rows):
    header = make_header()
    assert sealed_shards(root) == {}
    second = write_shard(root, 1, make_rows(header, 1), header)
    assert sealed_shards(root, header) == {1: second}
    with pytest.raises(Incomplete, match=r"2 of 3 shards are missing \(shard-00000.arrow, shard"):
        seal(root, header, [second], {})
    with pytest.raises(HeaderMismatch, match=r"shard-00001.*sketch_seed: store has 0, run wants 1"):
        sealed_shards(root, make_header(sketch_seed=1))
    files, path = fsspec.core.url_to_fs(root)
    files.rm_file(f"{path}/shard-00001.arrow")
    assert sealed_shards(root, header) == {}


def test_seal_refuses_shards_that_are_not_those_on_disk(root, make_header, make_rows):
    header = make_header(n_documents=10)
    shard = write_shard(root, 0, make_rows(header), header)
    extra = ShardInfo(name="shard-00001.arrow", rows=1, bytes=1, checksum="")
    with pytest.raises(Incomplete, match=r"shards shard-00001.arrow are too many, expected 10"):
        seal(root, header, [shard, extra], {})
    short = ShardInfo(**(vars(shard) | {"rows": 9}))
    with pytest.raises(Incomplete, match=r"shard-00000.arrow has 9 documents, expected 10"):
        seal(root, header, [short], {})
    other = ShardInfo(**(vars(shard) | {"checksum": "00"}))
    with pytest.raises(Incomplete, match=r"shard-00000.arrow on disk is ShardInfo.*expected Shard"):
        seal(root, header, [other], {})
    with pytest.raises(Incomplete, match="quality figures are not JSON"):
        seal(root, header, [shard], {"fidelity": float("nan")})
    assert str(seal(root, header, [shard], {})).endswith("manifest.json")
    with pytest.raises(AlreadySealed, match=r"the store is sealed.*Delete manifest.json"):
        write_shard(root, 0, make_rows(header), header)


def with_nan(shape):
    values = np.ones(shape, dtype=np.float32)
    values[2] = np.nan
    return values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vector": np.ones((9, 6))}, r"vectors of shape \(9, 6\), expected \(10, 6\)"),
        ({"vector": with_nan((10, 6))}, "document 'doc-2' has a vector that is not finite"),
        ({"vector": with_nan((10, 6)) * np.inf}, "document 'doc-0' has a vector that is not fin"),
        ({"loss": with_nan(10)}, "document 'doc-2' has a loss that is not finite"),
        ({"gradient_norm": np.full(10, 1e300)}, "document 'doc-0' has a gradient_norm that is"),
        ({"n_tokens": np.full(10, 2**31)}, "document 'doc-0' has a n_tokens that .* does not fit"),
        ({"n_tokens": np.full(10, 1.5)}, "document 'doc-0' has a n_tokens that .* does not fit"),
        ({"loss": ["a"] * 10}, r"column loss has shape \(10,\) and type <U1, expected 10 numbers"),
        ({"id": ["same"] * 10}, "document id 'same' stands twice"),
        ({"id": list(range(10))}, "column id is not text"),
        ({"source": ["\ud800"] * 10}, "column source is not text"),
        ({"source": ["web"] * 9}, "column source has 9 values, expected 10"),
        ({"language": [None] * 10}, "column language has 0 values, expected 10 and none missing"),
    ],
)
def test_writer_refuses_bad_rows(tmp_path, make_header, make_rows, changes, message):
    header = make_header(n_documents=10)
    with pytest.raises(BadRows, match=message):
        write_shard(tmp_path, 0, make_rows(header, **changes), header)
    assert not list(tmp_path.iterdir())


def test_writer_refuses_a_shard_outside_the_store_and_unknown_columns(
    tmp_path, make_header, make_rows
):
    header = make_header()
    for index in (3, -1):
        with pytest.raises(BadRows, match=r"expected \(0, 6\) from the header"):
            write_shard(tmp_path, index, make_rows(header), header)
    with pytest.raises(BadRows, match=r"columns \['id'\], expected \['gradient_norm', 'id',"):
        write_shard(tmp_path, 0, {"id": []}, header)


def test_writer_names_the_document_that_overflows_float16(tmp_path, make_header, make_rows):
    header = make_header(n_documents=10, dtype="float16")
    vector_nP = np.ones((10, 6), dtype=np.float32)
    vector_nP[7, 3] = -70000
    message = r"document 'doc-7' has a coordinate of size 70000, float16 holds up to 65504.*int8"
    with pytest.raises(BadRows, match=message):
        write_shard(tmp_path, 0, make_rows(header, vector=vector_nP), header)


def test_writer_does_not_change_its_rows(tmp_path, dtype, make_header, make_rows):
    header = make_header(n_documents=10, dtype=dtype)
    rows = make_rows(header)
    before = np.array(rows.vector)
    write_shard(tmp_path, 0, rows, header)
    assert np.array_equal(rows.vector, before)


def test_writer_that_crashes_leaves_no_half_shard(tmp_path, monkeypatch, make_header, make_rows):
    header = make_header(n_documents=10)

    def crash(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            write_shard(tmp_path, 0, make_rows(header), header)
    assert list(tmp_path.iterdir()) == []
    assert sealed_shards(tmp_path) == {}
    write_shard(tmp_path, 0, make_rows(header), header)
    assert list(sealed_shards(tmp_path)) == [0]


def test_shard_rewritten_up_to_its_sidecar_is_not_finished(
    tmp_path, monkeypatch, make_header, make_rows
):
    header = make_header(n_documents=10)
    write_shard(tmp_path, 0, make_rows(header), header)
    replace = os.replace

    def crash_on_sidecar(source, target):
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        replace(source, target)

    changed = make_rows(header, loss=np.zeros(10))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash_on_sidecar)
        with pytest.raises(KeyboardInterrupt):
            write_shard(tmp_path, 0, changed, header)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.arrow"]
    assert sealed_shards(tmp_path) == {}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_says_what_was_needed_and_how_to_go_on(
    tmp_path, monkeypatch, make_header, make_rows, number
):
    header = make_header(n_documents=10)

    def full(_descriptor):
        raise OSError(number, "full")

    monkeypatch.setattr(os, "fsync", full)
    message = r"no space for shard-00000.arrow, which needs [\d,]+ bytes \([\d,]+ bytes are free\)"
    with pytest.raises(NoSpace, match=message + ".*run the same command again"):
        write_shard(tmp_path, 0, make_rows(header), header)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_disk_are_passed_on(tmp_path, make_header, make_rows):
    header = make_header(n_documents=10)
    (tmp_path / "shard-00000.arrow").mkdir()
    with pytest.raises(OSError, match=r"shard-00000\.arrow"):
        write_shard(tmp_path, 0, make_rows(header), header)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.arrow"]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv"])
def test_export_writes_one_file_with_every_row(root, dtype, suffix, make_header, make_store):
    store = make_store(root, make_header(dtype=dtype))
    path = f"{root}-export/all{suffix}"
    export(root, path)
    with fsspec.open(path) as file:
        if suffix == ".csv":
            table = pa.csv.read_csv(file)
            assert table.column_names == list(METADATA_COLUMNS)
        else:
            reader = pa.parquet.read_table if suffix == ".parquet" else read_arrow
            table = reader(file)
            vector_NP = np.stack(table["vector"].to_numpy())
            assert np.array_equal(vector_NP, np.concatenate([part for _, part in store.blocks()]))
            assert set(table["scale"].to_pylist()) == {1.0}
    assert table["id"].to_pylist() == store.metadata()["id"].to_pylist()
    assert table["source"].to_pylist() == store.metadata()["source"].to_pylist()


def read_arrow(file):
    return pa.ipc.open_file(file).read_all()


def test_export_can_leave_the_vectors_out(tmp_path, make_header, make_store):
    make_store(str(tmp_path / "store"), make_header())
    export(tmp_path / "store", tmp_path / "small.parquet", include_vectors=False)
    names = pa.parquet.read_table(tmp_path / "small.parquet").column_names
    assert tuple(names) == METADATA_COLUMNS


def test_export_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(UnknownName, match=r"suffix '.parqet'.*Did you mean '.parquet'\?"):
        export(tmp_path, tmp_path / "a.parqet")
    with pytest.raises(UnknownName, match="vectors in a CSV file, expected none"):
        export(tmp_path, tmp_path / "a.csv", include_vectors=True)


def test_export_that_crashes_leaves_nothing(tmp_path, monkeypatch, make_header, make_store):
    make_store(str(tmp_path / "store"), make_header())

    def crash(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "store", tmp_path / "all.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_local_stores_may_be_named_by_a_path_or_a_file_uri(tmp_path, make_header, make_store):
    store = make_store(f"file://{tmp_path}/store", make_header())
    assert open_store(Path(tmp_path) / "store").header == store.header
    assert gradients_store.storage.folder_of(store.root).local


def test_plain_pyarrow_and_duckdb_read_a_shard(tmp_path, dtype, make_header, make_store):
    import duckdb

    store = make_store(str(tmp_path / "store"), make_header(dtype=dtype))
    ((_, expected_bP), *_) = store.blocks(10)
    with pa.memory_map(str(tmp_path / "store" / "shard-00000.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
        number = {"int4": "((vector[1] & 15) - 7.5)", "int2": "((vector[1] & 3) - 1.5)"}
        plain = pa.uint8() if dtype in number else pa.float32()
        plain = pa.list_(plain, table.schema.field("vector").type.list_size)
        position = table.schema.get_field_index("vector")
        shard = table.set_column(position, "vector", table["vector"].cast(plain))
        first = number.get(dtype, "vector[1]") + " * scale"
        query = f"SELECT id, {first}, n_tokens FROM shard WHERE source = 'wiki' ORDER BY 1"
        with duckdb.connect() as connection:
            connection.register("shard", shard)
            found = connection.sql(query).fetchall()
    assert [row[0] for row in found] == ["doc-0", "doc-3", "doc-6", "doc-9"]
    assert [np.float32(row[1]) for row in found] == expected_bP[[0, 3, 6, 9], 0].tolist()
