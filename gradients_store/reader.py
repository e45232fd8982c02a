"""Reading a store: open and compare, then stream; local files are memory-mapped.

Nothing here holds all vectors: memory is bound by a block of rows, whatever the store's size.
Axes: N rows of the store, b rows of a block, P coordinates of a vector.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from pyarrow import ipc

from gradients_store import storage
from gradients_store.errors import MissingShard, NotAStore, Truncated, UnknownName
from gradients_store.quantise import dequantise
from gradients_store.schema import (
    HEADER_KEY,
    METADATA_COLUMNS,
    Header,
    check_same,
    header_from_dict,
    header_from_json,
    nearest,
)
from gradients_store.writer import MANIFEST, ShardInfo, shard_from_dict, shard_name

_MANIFEST_KEYS = {"header", "n_documents", "bytes", "shards", "quality"}
_SUGGESTIONS = 10_000
BLOCK_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Store:
    """A finished gradient store; made by `open_store`. It holds no open file."""

    root: str
    """The folder, a path or an fsspec URI."""
    header: Header
    """What the store holds and how it was made."""
    shards: tuple[ShardInfo, ...]
    """The shards, in the order of the corpus."""
    quality: Mapping[str, Any]
    """Figures that say how good the store is, as they were sealed."""

    def __len__(self) -> int:
        """Return the number of documents."""
        return self.header.n_documents

    def metadata(self) -> pa.Table:
        """Return the columns METADATA_COLUMNS, N rows; columns of a local store are mapped."""
        return self._columns(METADATA_COLUMNS)

    def block_rows(self) -> int:
        """Return how many rows make a block of about 64 MB of float32."""
        return int(min(1024, max(1, BLOCK_BYTES // (4 * self.header.dimension))))

    def blocks(self, rows: int | None = None) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Stream the vectors in the order of the corpus.

        Args:
            rows: The most rows of a block; a block ends where its shard ends. None: what makes
                about 64 MB.

        Yields:
            The row of the block's first document, and its vectors ``[b, P]``: whitened gradients,
            or their factors.
        """
        for start, table in self.tables(
            self.header.vector_columns, self.block_rows() if rows is None else rows
        ):
            yield start, dequantise(table, self.header)

    def tables(self, columns: Sequence[str], rows: int = 1024) -> Iterator[tuple[int, pa.Table]]:
        """Stream some columns as they are stored, cut as in `blocks`.

        Args:
            columns: Names of columns.
            rows: The most rows of a table.

        Yields:
            The row of the table's first document, and the table.

        Raises:
            UnknownName: If a column is unknown, or `rows` is not positive.
        """
        names = self._check_columns(columns)
        if rows < 1:
            raise UnknownName(
                f"Gradient store {self.root}: blocks of {rows} rows, expected at least 1. Ask for "
                "1024, say."
            )
        folder = storage.folder_of(self.root)
        start = 0
        for shard in self.shards:
            with storage.opened_shard(folder, shard.name, names) as reader:
                for table in _regrouped(reader, names, rows):
                    yield start, table
                    start += table.num_rows

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each document id, in the order asked.

        Args:
            ids: Document ids; one may stand twice.

        Returns:
            Rows ``[len(ids)]``.

        Raises:
            UnknownName: If an id is not in the store; names the nearest known one.
        """
        wanted = pa.array(list(ids), pa.string())
        found: dict[str, int] = {}
        for start, table in self.tables(("id",), 1 << 16):
            id_b = table.column("id")
            hits = np.flatnonzero(pc.is_in(id_b, value_set=wanted).to_numpy())
            for row in hits.tolist():
                found.setdefault(id_b[row].as_py(), start + row)
        for name in ids:
            if name not in found:
                raise UnknownName(
                    f"Gradient store {self.root}: no document {name!r}, expected one of its "
                    f"{len(self)} ids.{nearest(name, self._ids_like(name))} See "
                    "`store.metadata()` for all."
                )
        return np.array([found[name] for name in ids], dtype=np.int64)

    def documents(self, rows: ArrayLike, vectors: bool = False) -> pa.Table:
        """Return chosen rows, in the order asked, reading only the shards that hold them.

        Args:
            rows: Rows of the store, from 0.
            vectors: Whether to add the columns of the vector, as they are stored.

        Returns:
            A table of ``[len(rows)]`` rows.

        Raises:
            UnknownName: If a row is outside the store.
        """
        return self._chosen(rows, self._columns_known() if vectors else [*METADATA_COLUMNS])

    def ids_of(self, rows: ArrayLike) -> list[str]:
        """Return the document ids of chosen rows, in the order asked."""
        row_k = self._checked_rows(rows)
        names = [""] * len(row_k)
        for places, row_j, reader in self._shards_of(row_k, ["id"]):
            table = reader.read_all()
            for place, row in zip(places.tolist(), row_j.tolist(), strict=True):
                names[place] = table.column("id")[row].as_py()
        return names

    def vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors ``[len(ids), P]`` of some documents, as in `blocks`, in order."""
        return dequantise(self.documents(self.rows_of(ids), vectors=True), self.header)

    def _chosen(self, rows: ArrayLike, names: list[str]) -> pa.Table:
        row_k = self._checked_rows(rows)
        found: list[pa.Table] = []
        order: list[NDArray[np.intp]] = []
        for places, row_j, reader in self._shards_of(row_k, names):
            found.append(reader.read_all().select(names).take(pa.array(row_j)))
            order.append(places)
        return pa.concat_tables(found).take(pa.array(np.argsort(np.concatenate(order))))

    def _checked_rows(self, rows: ArrayLike) -> NDArray[np.int64]:
        row_k = np.asarray(rows, dtype=np.int64).reshape(-1)
        if row_k.size and not (0 <= row_k.min() and row_k.max() < len(self)):
            raise UnknownName(
                f"Gradient store {self.root}: row {row_k[(row_k < 0) | (row_k >= len(self))][0]}, "
                f"expected 0 to {len(self) - 1}. Ask for rows of this store."
            )
        return row_k

    def _shards_of(
        self, row_k: NDArray[np.int64], names: list[str]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64], ipc.RecordBatchFileReader]]:
        # Of each shard that holds some of the rows (one at least, for the schema): their places
        # among those asked, their rows within the shard, and the open shard.
        folder = storage.folder_of(self.root)
        size = self.header.shard_documents
        for index in np.unique(row_k // size).tolist() or [0]:
            places = np.flatnonzero(row_k // size == index)
            with storage.opened_shard(folder, self.shards[index].name, names) as reader:
                yield places, row_k[places] - index * size, reader

    def _columns(self, columns: Sequence[str]) -> pa.Table:
        names = self._check_columns(columns)
        folder = storage.folder_of(self.root)
        tables = []
        for shard in self.shards:
            with storage.opened_shard(folder, shard.name, names) as reader:
                tables.append(reader.read_all().select(names))
        return pa.concat_tables(tables)

    def _columns_known(self) -> list[str]:
        return [*METADATA_COLUMNS, *self.header.vector_columns[1:]]

    def _check_columns(self, columns: Sequence[str]) -> list[str]:
        known = self._columns_known()
        for column in columns:
            if column not in known:
                raise UnknownName(
                    f"Gradient store {self.root}: no column {column!r}, expected some of "
                    f"{', '.join(known)}.{nearest(column, known)} Ask for a known one."
                )
        return [name for name in known if name in columns]

    def _ids_like(self, name: str) -> list[str]:
        close: list[str] = []
        for _, table in self.tables(("id",), 1 << 16):
            id_b = table.column("id")
            close += id_b.filter(pc.starts_with(id_b, name[:2])).to_pylist()
            if len(close) >= _SUGGESTIONS:
                break
        return close[:_SUGGESTIONS]


def open_store(root: str | os.PathLike[str], expect: Header | None = None) -> Store:
    """Open a finished store; reads the manifest and looks at the size of each shard.

    Args:
        root: The folder, a path or an fsspec URI.
        expect: If given, every field of the store's header must equal it.

    Returns:
        The store. Bytes are not read yet: `verify` checks them all.

    Raises:
        NotAStore: If the manifest is missing or wrong.
        HeaderMismatch: If a field of the header differs from `expect`; names each.
        Damaged: If a shard is missing or has another size.
    """
    folder = storage.folder_of(root)
    where = f"Gradient store {folder.uri}"
    present = storage.sizes(folder)
    if MANIFEST not in present:
        raise NotAStore(_without_manifest(folder.uri, present))
    values = _manifest(storage.read_bytes(folder, MANIFEST), f"{where}, {MANIFEST}")
    header = header_from_dict(values["header"], f"{where}, {MANIFEST}")
    if expect is not None:
        check_same(header, expect, folder.uri)
    shards = tuple(shard_from_dict(shard, f"{where}, {MANIFEST}") for shard in values["shards"])
    for shard in shards:
        _check_present(shard, present.get(shard.name), where)
    total = sum(shard.rows for shard in shards)
    if total != header.n_documents:
        raise NotAStore(
            f"{where}, {MANIFEST}: shards of {total} documents, expected {header.n_documents} "
            "from the header. Delete it and seal again."
        )
    return Store(root=folder.uri, header=header, shards=shards, quality=values["quality"])


def shard_vectors(
    root: str | os.PathLike[str], index: int, rows: Sequence[int]
) -> NDArray[np.float32]:
    """Read some vectors of one finished shard; the store need not be sealed yet.

    Args:
        root: The folder of the store.
        index: Which shard, from 0.
        rows: Rows within the shard.

    Returns:
        Vectors ``[len(rows), P]``, as in `Store.blocks`.
    """
    name = shard_name(index)
    folder = storage.folder_of(root)
    with storage.opened_shard(folder, name) as reader:
        about = (reader.schema.metadata or {}).get(HEADER_KEY, b"")
        header = header_from_json(about, f"Gradient store {folder.uri}, {name}")
    names = list(header.vector_columns)
    with storage.opened_shard(folder, name, names) as reader:
        parts, start = [], 0
        wanted, order = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i).select(names)
            own = wanted[(wanted >= start) & (wanted < start + batch.num_rows)] - start
            start += batch.num_rows
            if len(own):
                chosen = pa.Table.from_batches([batch]).take(pa.array(own))
                parts.append(dequantise(chosen, header))
    return np.concatenate(parts)[order]


def _manifest(content: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError as error:
        raise NotAStore(
            f"{where}: not JSON ({error}), expected a manifest. Delete it and run again to seal."
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("header"), dict):
        raise NotAStore(
            f"{where}: no header in it, expected a manifest. Delete it and run again to seal."
        )
    header_from_dict(values["header"], where)
    lists = isinstance(values.get("shards"), list) and isinstance(values.get("quality"), dict)
    if set(values) != _MANIFEST_KEYS or not lists:
        raise NotAStore(
            f"{where}: keys {sorted(values)}, expected {sorted(_MANIFEST_KEYS)} with a list of "
            "shards. Delete it and run again to seal."
        )
    return values


def _check_present(shard: ShardInfo, size: int | None, where: str) -> None:
    redo = "delete manifest.json and run again to make it"
    if size is None:
        raise MissingShard(
            f"{where}: shard {shard.name} is missing, and the manifest names it. Copy it back, or "
            f"{redo}."
        )
    if size != shard.bytes:
        raise Truncated(
            f"{where}: shard {shard.name} has {size:,} bytes, expected {shard.bytes:,}. Copy it "
            f"again, or {redo}."
        )


def _without_manifest(uri: str, present: Mapping[str, int]) -> str:
    shards = sum(name.startswith("shard-") and name.endswith(".json") for name in present)
    state = f"{shards} finished shards but no {MANIFEST}" if shards else f"no {MANIFEST}"
    todo = "Run the same command again to finish it" if shards else "Check the path"
    return f"Gradient store {uri}: {state}, expected a finished store. {todo}."


def _regrouped(
    reader: ipc.RecordBatchFileReader, names: list[str], rows: int
) -> Iterator[pa.Table]:
    # Cuts a shard's record batches into tables of `rows` rows; the last one is shorter.
    pieces: list[pa.RecordBatch] = []
    held = 0
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number).select(names)
        offset = 0
        while offset < batch.num_rows:
            pieces.append(batch.slice(offset, rows - held))
            offset += pieces[-1].num_rows
            held += pieces[-1].num_rows
            if held == rows:
                yield pa.Table.from_batches(pieces)
                pieces, held = [], 0
    if pieces:
        yield pa.Table.from_batches(pieces)
