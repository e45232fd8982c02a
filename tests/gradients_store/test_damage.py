"""Stores that are unfinished, damaged, newer or made otherwise: each says so and what to do."""

import json
import re

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from gradients_store import (
    BadHeader,
    Damaged,
    HeaderMismatch,
    MissingShard,
    NotAStore,
    Truncated,
    UnreadableVersion,
    arrow_schema,
    open_store,
    seal,
    sealed_shards,
    verify,
    write_shard,
)
from gradients_store.rows import to_ipc
from gradients_store.storage import checksum

SECOND = "shard-00001.arrow"


class Disk:
    """The files of a store, changed without the store's own methods."""

    def __init__(self, root):
        self.files, self.path = fsspec.core.url_to_fs(root)

    def read(self, name):
        return self.files.cat_file(f"{self.path}/{name}")

    def write(self, name, data):
        self.files.pipe_file(f"{self.path}/{name}", data)

    def delete(self, name):
        self.files.rm_file(f"{self.path}/{name}")

    def change(self, name, **changes):
        values = json.loads(self.read(name))
        for key, value in changes.items():
            if value is None:
                del values[key]
            else:
                values[key] = value
        self.write(name, json.dumps(values).encode())

    def replace_shard(self, name, table):
        """Write another table as a shard, with a manifest that agrees with it."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue().to_pybytes()
        self.write(name, data)
        self.redescribe(name, data)

    def redescribe(self, name, data):
        shards = json.loads(self.read("manifest.json"))["shards"]
        for shard in shards:
            if shard["name"] == name:
                shard |= {"bytes": len(data), "checksum": checksum(data)}
        self.change("manifest.json", shards=shards)


@pytest.fixture
def disk(root, make_header, make_store):
    make_store(root, make_header())
    return Disk(root)


def refuses(root, kind, message):
    """Both open_store and verify say it."""
    with pytest.raises(kind, match=message):
        open_store(root)
    (problem,) = verify(root)
    assert re.search(message, problem)


def test_folder_without_a_store_is_refused(root):
    refuses(root, NotAStore, "no manifest.json, expected a finished store. Check the path")


def test_unfinished_store_says_how_far_it_is(root, disk):
    disk.delete("manifest.json")
    refuses(root, NotAStore, "3 finished shards but no manifest.json.*Run the same command again")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"header"', "manifest.json: not JSON"),
        (b"\xff\xfe\xfd", "manifest.json: not JSON"),
        (b"[]", "manifest.json: no header in it"),
        (b'{"header": 3}', "manifest.json: no header in it"),
    ],
)
def test_manifest_that_is_not_one_is_refused(root, disk, content, message):
    disk.write("manifest.json", content)
    refuses(root, NotAStore, message)


@pytest.mark.parametrize("change", [{"shards": 3}, {"quality": None}, {"extra": 1}])
def test_manifest_with_other_keys_is_refused(root, disk, change):
    disk.change("manifest.json", **change)
    refuses(root, NotAStore, r"manifest.json: keys \[.*\], expected \['bytes', 'header', ")


def test_manifest_with_a_bad_header_is_refused(root, disk):
    disk.change("manifest.json", header={"format_version": 1, "modle": "x"})
    refuses(root, BadHeader, r"unknown header key 'modle'.*Did you mean 'model'\?")


def test_newer_store_names_the_release_that_reads_it(root, disk):
    header = {"format_version": 3, "readable_from": "0.9.0", "something": "new"}
    disk.change("manifest.json", header=header, anything="new")
    refuses(root, UnreadableVersion, r"written in format 3.*Install release 0\.9\.0 or newer")


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([{"name": "a"}], r"a shard is described by \{'name': 'a'\}, expected name, rows"),
        (
            [{"name": 3, "rows": 1, "bytes": 1, "checksum": ""}],
            "name of a shard is 3, expected str",
        ),
    ],
)
def test_manifest_with_a_bad_shard_is_refused(root, disk, shards, message):
    disk.change("manifest.json", shards=shards)
    refuses(root, Damaged, message)


def test_manifest_that_lost_a_shard_is_refused(root, disk):
    shards = json.loads(disk.read("manifest.json"))["shards"]
    disk.change("manifest.json", shards=shards[:2])
    refuses(root, NotAStore, "shards of 20 documents, expected 23 from the header")


def test_missing_shard_is_named(root, disk):
    store = open_store(root)
    disk.delete(SECOND)
    refuses(root, MissingShard, f"shard {SECOND} is missing.*delete manifest.json and run again")
    with pytest.raises(MissingShard, match=f"shard {SECOND} is missing"):
        list(store.blocks())


def test_truncated_shard_is_named(root, disk):
    store = open_store(root)
    data = disk.read(SECOND)
    disk.write(SECOND, data[:-100])
    refuses(root, Truncated, rf"shard {SECOND} has [\d,]+ bytes, expected [\d,]+\. Copy it again")
    with pytest.raises(Damaged, match=f"shard {SECOND} cannot be read as Arrow"):
        list(store.blocks())


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_flipped_byte_is_found_by_its_checksum(root, disk, place):
    data = bytearray(disk.read(SECOND))
    data[int(place * len(data))] ^= 1
    disk.write(SECOND, bytes(data))
    open_store(root)
    seen = []
    (problem,) = verify(root, lambda done, total: seen.append((done, total)))
    assert re.search(
        rf"{SECOND}: checksum \w+\.\.\., expected \w+.*its bytes have changed", problem
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_deleted_shard_is_made_again_with_the_same_bytes(root, disk, make_header, make_rows):
    header = make_header()
    before = {name: disk.read(name) for name in (SECOND, "manifest.json")}
    quality = dict(open_store(root).quality)
    disk.delete(SECOND)
    disk.delete("manifest.json")
    assert set(sealed_shards(root, header)) == {0, 2}
    write_shard(root, 1, make_rows(header, 1), header)
    seal(root, header, sealed_shards(root, header).values(), quality)
    assert {name: disk.read(name) for name in before} == before
    assert verify(root) == []


def test_store_with_other_settings_is_refused_field_by_field(root, disk, make_header):
    message = (
        r"was made with other settings \(model: store has 'model-1', run wants 'model-2'; "
        r"sketch_seed: store has 0, run wants 1\)\. Use another folder, or rebuild"
    )
    with pytest.raises(HeaderMismatch, match=message):
        open_store(root, expect=make_header(model="model-2", sketch_seed=1))


@pytest.mark.parametrize("content", [b"{", b"[]", b"3", b'{"name": "x"}'])
def test_sidecar_that_is_not_one_is_refused(root, disk, content):
    disk.write("shard-00001.json", content)
    with pytest.raises(Damaged, match=r"shard-00001.json: not a shard's sidecar.*Delete it"):
        sealed_shards(root)


def test_sidecar_of_a_newer_format_is_refused(root, disk):
    disk.change("shard-00001.json", header={"format_version": 3, "readable_from": "0.9.0"})
    with pytest.raises(UnreadableVersion, match=r"shard-00001.json: written in format 3"):
        sealed_shards(root)


def second_table(make_header, make_rows, **changes):
    header = make_header()
    data = to_ipc(make_rows(header, 1, **changes), 1, header, "here")
    return pa.ipc.open_file(data).read_all()


def test_verify_finds_repeated_ids(root, disk, make_header, make_rows):
    ids = [f"doc-{row}" for row in (3, *range(11, 19), 21)]
    disk.replace_shard(SECOND, second_table(make_header, make_rows, id=ids))
    store = f"Gradient store {root}"
    assert verify(root) == [
        f"{store}: document id 'doc-21' stands more than once.",
        f"{store}: document id 'doc-3' stands more than once.",
    ]


@pytest.mark.parametrize("column", ["loss", "scale", "vector"])
def test_verify_finds_numbers_that_are_not_finite(root, disk, make_header, make_rows, column):
    table = second_table(make_header, make_rows)
    position = table.schema.get_field_index(column)
    count = 60 if column == "vector" else 10
    values = pa.array(np.where(np.arange(count) == count - 1, np.nan, 1).astype(np.float32))
    if column == "vector":
        values = pa.FixedSizeListArray.from_arrays(values, 6)
    table = table.set_column(position, table.schema.field(position), values)
    disk.replace_shard(SECOND, table)
    (problem,) = verify(root)
    assert problem.endswith("1 documents have numbers that are not finite, first 'doc-19'.")


def test_verify_compares_rows_columns_and_header_of_a_shard(root, disk, make_header, make_rows):
    table = second_table(make_header, make_rows)
    disk.replace_shard(SECOND, table.slice(0, 9))
    assert "9 rows, expected 10 from the manifest" in verify(root)[0]
    disk.replace_shard(SECOND, table.drop(["loss"]))
    assert "types differ from the header's" in verify(root)[0]
    other = arrow_schema(make_header(sketch_seed=5)).metadata
    disk.replace_shard(SECOND, table.replace_schema_metadata(other))
    assert "sketch_seed: store has 5, run wants 0" in verify(root)[0]
    disk.replace_shard(SECOND, table.replace_schema_metadata(None))
    assert "not JSON" in verify(root)[0]


def test_verify_reports_a_shard_that_is_no_arrow_and_goes_on(root, disk):
    disk.write(SECOND, b"x" * 1000)
    disk.redescribe(SECOND, b"x" * 1000)
    (problem,) = verify(root)
    assert f"shard {SECOND} cannot be read as Arrow" in problem


def test_verify_reports_nothing_more_when_no_shard_can_be_read(root, make_header, make_store):
    make_store(root, make_header(n_documents=3))
    disk = Disk(root)
    data = disk.read("shard-00000.arrow")
    disk.write("shard-00000.arrow", bytes(len(data)))
    (problem,) = verify(root)
    assert "its bytes have changed" in problem
