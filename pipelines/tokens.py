"""Token shards: documents as chunks of token ids on disk, and the batches cut from them.

A shard is the unit of work of every stage.  Batches are cut inside a shard, so that they are the
same for any number of partitions, workers and resumes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from influence.text import Batch, Chunk, collate, plan_batches
from pipelines.errors import RunError
from pipelines.run_folder import new_file

SCHEMA = pa.schema(
    [
        ("document", pa.int64()),
        ("chunk", pa.int32()),
        ("tokens", pa.list_(pa.int32())),
        ("loss", pa.list_(pa.bool_())),
    ]
)


def shard_path(folder: Path, index: int, stem: str = "shard") -> Path:
    """The file of one shard.

    Returns:
        ``folder/shard-00000.arrow``.
    """
    return folder / f"{stem}-{index:05d}.arrow"


def shard_bytes(folder: Path, index: int) -> int:
    """Size of a shard's file, which goes with its tokens: how much work it is beside others.

    Returns:
        Bytes.
    """
    return shard_path(folder, index).stat().st_size


def write_chunks(path: Path, chunks: Sequence[Chunk]) -> Path:
    """Write the chunks of one shard.

    Returns:
        The path.
    """
    table = pa.table(
        {
            "document": [c.document for c in chunks],
            "chunk": [c.chunk for c in chunks],
            "tokens": [c.tokens for c in chunks],
            "loss": [c.loss for c in chunks],
        },
        schema=SCHEMA,
    )
    return write_table(path, table)


def write_table(path: Path, table: pa.Table) -> Path:
    """Write an Arrow IPC file under a temporary name and rename it.

    Returns:
        The path.
    """
    with new_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return path


def read_table(path: Path) -> pa.Table:
    """Read an Arrow IPC file, memory-mapped.

    Returns:
        The table.

    Raises:
        RunError: If the file is missing or truncated.
    """
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(
            f"File {path}: unreadable ({error}), an Arrow file of this run was expected. Remove "
            "the folder it lies in and run again."
        ) from None


def read_chunks(path: Path, documents: Collection[int] | None = None) -> list[Chunk]:
    """Read the chunks of one shard.

    Args:
        path: The shard's file.
        documents: Row numbers of the documents to read; None: all.

    Returns:
        Chunks in the order of the documents.
    """
    table = read_table(path)
    if documents is not None:
        wanted = pa.array(sorted(documents), pa.int64())
        table = table.filter(pc.is_in(table.column("document"), value_set=wanted))
    return [
        Chunk(
            document=row["document"].as_py(),
            chunk=row["chunk"].as_py(),
            tokens=np.asarray(row["tokens"].values, dtype=np.int32),
            loss=np.asarray(row["loss"].values.to_numpy(zero_copy_only=False), dtype=bool),
        )
        for row in _rows(table)
    ]


def _rows(table: pa.Table) -> Iterator[dict[str, pa.Scalar]]:
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    for i in range(len(table)):
        yield {name: column[i] for name, column in columns.items()}


@dataclass(frozen=True)
class Work:
    """One batch of a shard."""

    rows: list[int]
    """Positions of the batch's chunks in the shard."""
    batch: Batch
    part_of_document: bool
    """Whether the batch holds chunks of one long document (all its chunks follow each other)."""


def batches(chunks: Sequence[Chunk], pad_id: int, token_budget: int) -> Iterator[Work]:
    """Cut a shard into right-padded batches under a token budget.

    Short documents are batched by length; the chunks of a long document come in batches of their
    own, one document after the other, so that its gradient can be summed before it is squared.

    Args:
        chunks: The shard's chunks.
        pad_id: Token id for padding.
        token_budget: Rows x longest row of a batch.

    Yields:
        The batches, in an order that depends on nothing else.
    """
    groups: dict[int, list[int]] = {}
    for position, chunk in enumerate(chunks):
        groups.setdefault(chunk.document, []).append(position)
    short = [rows[0] for rows in groups.values() if len(rows) == 1]
    plans = [
        (False, [short[i] for i in plan])
        for plan in plan_batches([len(chunks[i].tokens) for i in short], token_budget)
    ]
    for rows in groups.values():
        if len(rows) > 1:
            plan = plan_batches([len(chunks[i].tokens) for i in rows], token_budget)
            plans += [(True, [rows[i] for i in part]) for part in plan]
    for long, rows in plans:
        yield Work(rows, collate([chunks[i] for i in rows], pad_id), long)
