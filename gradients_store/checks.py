"""Reading every byte of a store and saying what is wrong with it."""

import hashlib
import os
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradients_store import storage
from gradients_store.columns import numbers
from gradients_store.errors import ChecksumMismatch, StoreError
from gradients_store.quantise import dequantise
from gradients_store.reader import Store, open_store
from gradients_store.schema import HEADER_KEY, Header, arrow_schema, check_same, header_from_json
from gradients_store.writer import ShardInfo

_FLOATS = ("loss", "self_influence", "gradient_norm", "scale")


def verify(
    root: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Check a store: manifest, sizes, checksums, schemas, row counts, finite numbers, unique ids.

    Memory: one record batch, and 8 bytes a document.

    Args:
        root: The folder, a path or an fsspec URI.
        progress: Called with the shards checked so far and their total.

    Returns:
        One message per problem; empty for a good store.
    """
    try:
        store = open_store(root)
    except StoreError as error:
        return [str(error)]
    problems: list[str] = []
    digests: list[NDArray[np.uint64]] = []
    for done, shard in enumerate(store.shards, start=1):
        try:
            problems += _shard_problems(store, shard, digests)
        except StoreError as error:
            problems.append(str(error))
        if progress is not None:
            progress(done, len(store.shards))
    return problems + _repeated_ids(store, digests)


def _shard_problems(store: Store, shard: ShardInfo, digests: list[NDArray[np.uint64]]) -> list[str]:
    folder = storage.folder_of(store.root)
    where = f"Gradient store {store.root}, {shard.name}"
    found = storage.checksum_of(folder, shard.name)
    if found != shard.checksum:
        raise ChecksumMismatch(
            f"{where}: checksum {found[:16]}..., expected {shard.checksum[:16]}... from the "
            "manifest; its bytes have changed. Copy it again, or delete it, its .json and "
            "manifest.json and run again to make it."
        )
    problems = []
    with storage.opened_shard(folder, shard.name) as reader:
        if not reader.schema.equals(arrow_schema(store.header), check_metadata=False):
            return [f"{where}: columns {reader.schema.names} and types differ from the header's."]
        embedded = (reader.schema.metadata or {}).get(HEADER_KEY, b"")
        try:
            check_same(header_from_json(embedded, where), store.header, where)
        except StoreError as error:
            problems.append(str(error))
        rows = 0
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            rows += batch.num_rows
            problems += _not_finite(batch, store.header, where)
            digests.append(_digests(batch.column("id")))
    if rows != shard.rows:
        problems.append(f"{where}: {rows} rows, expected {shard.rows} from the manifest.")
    return problems


def _not_finite(batch: pa.RecordBatch, header: Header, where: str) -> list[str]:
    good_b = np.isfinite(dequantise(pa.Table.from_batches([batch]), header)).all(axis=1)
    for name in _FLOATS:
        good_b &= np.isfinite(numbers(batch.column(name)))
    bad = np.flatnonzero(~good_b)
    if not bad.size:
        return []
    first = batch.column("id")[int(bad[0])].as_py()
    return [f"{where}: {bad.size} documents have numbers that are not finite, first {first!r}."]


def _digests(id_b: pa.Array) -> NDArray[np.uint64]:
    raw = b"".join(
        hashlib.blake2b(name.encode(), digest_size=8).digest() for name in id_b.to_pylist()
    )
    return np.frombuffer(raw, dtype=np.uint64)


def _repeated_ids(store: Store, digests: list[NDArray[np.uint64]]) -> list[str]:
    if not digests:
        return []
    digest_N, count_N = np.unique(np.concatenate(digests), return_counts=True)
    suspects = set(digest_N[count_N > 1].tolist())
    if not suspects:
        return []
    seen: set[str] = set()
    repeated: set[str] = set()
    for _, table in store.tables(("id",), 1 << 16):
        id_b = table.column("id").combine_chunks()
        for row in np.flatnonzero(np.isin(_digests(id_b), list(suspects))).tolist():
            name = id_b[row].as_py()
            (repeated if name in seen else seen).add(name)
    where = f"Gradient store {store.root}"
    return [f"{where}: document id {name!r} stands more than once." for name in sorted(repeated)]
