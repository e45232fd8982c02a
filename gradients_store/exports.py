"""One file out of a store, for other tools: Parquet, CSV or Arrow."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, ipc, parquet

from gradients_store import storage
from gradients_store.errors import UnknownName
from gradients_store.quantise import dequantise
from gradients_store.reader import Store, open_store
from gradients_store.schema import METADATA_COLUMNS, Header, arrow_schema, nearest, vector_metadata

_OPENERS: dict[str, Callable[[str, pa.Schema], Any]] = {
    ".parquet": parquet.ParquetWriter,
    ".arrow": ipc.new_file,
    ".csv": csv.CSVWriter,
}
_BLOCK_BYTES = 1 << 25


def export(
    root: str | os.PathLike[str],
    path: str | os.PathLike[str],
    include_vectors: bool | None = None,
) -> str:
    """Write a whole store into one file, streaming; the type is the suffix of its name.

    Vectors are written as float32, unpacked and with their scales already applied (so `scale` and
    `factor_scale` are 1), because few tools read float16.

    Args:
        root: The folder of the store.
        path: A file that ends in .parquet, .arrow or .csv; a path or an fsspec URI.
        include_vectors: Whether to write the vectors; None: yes, except in a CSV file.

    Returns:
        The path that was written.

    Raises:
        UnknownName: If the suffix is unknown, or vectors are asked for in a CSV file.
    """
    target = os.fspath(path)
    suffix = os.path.splitext(target)[1].lower()
    if suffix not in _OPENERS:
        raise UnknownName(
            f"Export to {target}: suffix {suffix!r}, expected one of {', '.join(_OPENERS)}."
            f"{nearest(suffix, _OPENERS)} Name the file with one of these."
        )
    if include_vectors and suffix == ".csv":
        raise UnknownName(
            f"Export to {target}: vectors in a CSV file, expected none. Export to .parquet, or "
            "leave the vectors out."
        )
    store = open_store(root)
    vectors = suffix != ".csv" if include_vectors is None else include_vectors
    folder = storage.folder_of(os.path.dirname(target) or ".")
    if folder.local:
        destination = Path(folder.join(os.path.basename(target)))
        destination.parent.mkdir(parents=True, exist_ok=True)
        _write_and_move(store, destination, suffix, vectors)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / os.path.basename(target)
            _write(store, local, suffix, vectors)
            folder.files.makedirs(folder.path, exist_ok=True)
            folder.files.put_file(str(local), folder.join(local.name))
    return target


def _write_and_move(store: Store, destination: Path, suffix: str, vectors: bool) -> None:
    temporary = storage.temporary_beside(destination)
    try:
        _write(store, temporary, suffix, vectors)
        os.replace(temporary, destination)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write(store: Store, path: Path, suffix: str, vectors: bool) -> None:
    schema = _export_schema(store, vectors)
    rows = max(1, min(1024, _BLOCK_BYTES // (4 * store.header.dimension)))
    with _OPENERS[suffix](str(path), schema) as writer:
        for _, table in store.tables(schema.names, rows if vectors else 1 << 16):
            writer.write_table(
                _plain(table, schema, store.header) if vectors else table.cast(schema)
            )


def _export_schema(store: Store, vectors: bool) -> pa.Schema:
    schema = arrow_schema(store.header)
    if not vectors:
        return pa.schema([schema.field(name) for name in METADATA_COLUMNS], schema.metadata)
    for name in store.header.vector_columns[1:]:
        position = schema.get_field_index(name)
        field = schema.field(position)
        length = field.type.list_size if name == "factor_scale" else store.header.dimension
        schema = schema.set(position, field.with_type(pa.list_(pa.float32(), length)))
    about = vector_metadata(store.header, packed=False)
    return schema.set(len(schema) - 1, schema.field("vector").with_metadata(about))


def _plain(table: pa.Table, schema: pa.Schema, header: Header) -> pa.Table:
    columns = {name: table.column(name) for name in table.column_names}
    columns["scale"] = pa.array(np.ones(table.num_rows, dtype=np.float32))
    numbers = {"vector": dequantise(table, header).reshape(-1)}
    if header.factors is not None:
        length = schema.field("factor_scale").type.list_size
        numbers["factor_scale"] = np.ones(table.num_rows * length, dtype=np.float32)
    for name, flat in numbers.items():
        columns[name] = pa.FixedSizeListArray.from_arrays(
            pa.array(flat), type=schema.field(name).type
        )
    arrays = [columns[name] for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)
