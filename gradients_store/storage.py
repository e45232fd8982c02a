"""The folder of a store: local disk, or anything that fsspec reaches (s3, memory, ...).

A local file is written under a unique temporary name in the same folder, flushed to the disk and
renamed; a remote one is sent in a single put, which object stores make visible all at once. So a
file either has all its bytes or is not there.
"""

import contextlib
import errno
import hashlib
import mmap
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from pyarrow import ipc

from gradients_store.errors import Damaged, MissingShard, NoSpace

_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder and the file system it lives on."""

    uri: str
    """The folder as the user wrote it, for messages."""
    path: str
    """The folder as its file system names it."""
    local: bool
    """Whether the files can be memory-mapped and renamed."""
    files: Any = field(repr=False)
    """The fsspec file system."""

    def join(self, name: str) -> str:
        """Return the path of a file of this folder, for its own file system."""
        return os.path.join(self.path, name) if self.local else f"{self.path.rstrip('/')}/{name}"


def folder_of(root: str | os.PathLike[str]) -> Folder:
    """Return the folder behind a path or an fsspec URI; nothing is read or created."""
    uri = os.fspath(root)
    files, path = fsspec.core.url_to_fs(uri)
    return Folder(uri=uri, path=path, local=isinstance(files, LocalFileSystem), files=files)


def sizes(folder: Folder) -> dict[str, int]:
    """Return the size in bytes of each file of a folder; empty where there is no folder."""
    folder.files.invalidate_cache()
    if not folder.files.isdir(folder.path):
        return {}
    entries = folder.files.ls(folder.path, detail=True)
    return {entry["name"].rsplit("/", 1)[-1]: int(entry["size"] or 0) for entry in entries}


def read_bytes(folder: Folder, name: str) -> bytes:
    """Return the content of a small file."""
    content: bytes = folder.files.cat_file(folder.join(name))
    return content


def checksum_of(folder: Folder, name: str) -> str:
    """Return the blake2b checksum of a file, read in pieces."""
    digest = hashlib.blake2b(digest_size=32)
    with folder.files.open(folder.join(name), "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def checksum(data: bytes | pa.Buffer) -> str:
    """Return the blake2b checksum of bytes in memory."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def delete(folder: Folder, name: str) -> None:
    """Delete a file if it is there."""
    with contextlib.suppress(FileNotFoundError):
        folder.files.rm_file(folder.join(name))


def write_whole(folder: Folder, name: str, data: bytes | pa.Buffer) -> None:
    """Write a file so that it is seen complete or not at all.

    Args:
        folder: Where; made if need be.
        name: The file name.
        data: The whole content.

    Raises:
        NoSpace: If the disk is full or a quota is used up; nothing is left behind.
        OSError: If the file cannot be written for another reason; nothing is left behind.
    """
    folder.files.makedirs(folder.path, exist_ok=True)
    try:
        if folder.local:
            _write_and_rename(Path(folder.join(name)), data)
        else:
            folder.files.pipe_file(folder.join(name), bytes(data))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpace(_no_space(folder, name, len(data))) from error


def temporary_beside(path: Path) -> Path:
    """Return a unique, hidden, temporary name in the folder of a file."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _write_and_rename(path: Path, data: bytes | pa.Buffer) -> None:
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _no_space(folder: Folder, name: str, needed: int) -> str:
    free = f"{shutil.disk_usage(folder.path).free:,} bytes are free" if folder.local else "full"
    return (
        f"Gradient store {folder.uri}: no space for {name}, which needs {needed:,} bytes ({free}). "
        "Free some space and run the same command again: finished shards are kept, and the rest "
        "is made."
    )


@contextlib.contextmanager
def opened_shard(
    folder: Folder, name: str, columns: Sequence[str] | None = None
) -> Iterator[ipc.RecordBatchFileReader]:
    """Open a shard for reading; memory-mapped on a local disk.

    Args:
        folder: The folder of the store.
        name: The file name of the shard.
        columns: The columns that are fetched from a remote file; None fetches all. A mapped file
            gives all in any case: Arrow would copy chosen ones (measured: 6 GB/s, for nothing).

    Yields:
        A reader of the shard's record batches.

    Raises:
        MissingShard: If the shard is not there.
        Damaged: If Arrow cannot make sense of its bytes.
    """
    path = folder.join(name)
    try:
        with _mapped(path) if folder.local else folder.files.open(path, "rb") as source:
            yield _reader(source, None if folder.local else columns)
    except FileNotFoundError as error:
        raise MissingShard(
            f"Gradient store {folder.uri}: shard {name} is missing, and the manifest names it. "
            "Copy it back, or delete manifest.json and run again to make the shard."
        ) from error
    except (pa.ArrowInvalid, pa.ArrowSerializationError, OSError) as error:
        raise Damaged(
            f"Gradient store {folder.uri}: shard {name} cannot be read as Arrow ({error}). "
            "Delete it, its .json and manifest.json, and run again to make it."
        ) from error


def _mapped(path: str) -> pa.BufferReader:
    # Python's map: Arrow's own takes three times as long to open, a twentieth of a warm search.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if not os.fstat(descriptor).st_size:
            raise OSError("it is empty")
        return pa.BufferReader(pa.py_buffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)))
    finally:
        os.close(descriptor)


def _reader(source: Any, columns: Sequence[str] | None) -> ipc.RecordBatchFileReader:
    reader = ipc.open_file(source)
    if columns is None:
        return reader
    fields = [reader.schema.get_field_index(column) for column in columns]
    return ipc.open_file(source, options=ipc.IpcReadOptions(included_fields=fields))
