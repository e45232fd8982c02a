"""Writing a store: one shard at a time, in any order and by any worker; the manifest last.

A shard is complete when its sidecar (`shard-00000.json`) is there; a store when `manifest.json` is.
The same rows and header give the same bytes.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradients_store import storage
from gradients_store.errors import AlreadySealed, Damaged, Incomplete
from gradients_store.rows import Rows, to_ipc
from gradients_store.schema import Header, check_same, header_from_dict, header_to_dict

MANIFEST = "manifest.json"
"""The file that makes a folder a finished store."""
_SIDECAR = re.compile(r"shard-(\d{5,})\.json")


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """A finished shard, as its sidecar and the manifest describe it."""

    name: str
    """File name, such as "shard-00000.arrow"."""
    rows: int
    """Number of documents."""
    bytes: int
    """Size of the file."""
    checksum: str
    """blake2b of the file, 32 bytes in hexadecimal."""


def shard_name(index: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{index:05d}.arrow"


def write_shard(
    root: str | os.PathLike[str], index: int, rows: Rows | Mapping[str, Any], header: Header
) -> ShardInfo:
    """Write one shard and its sidecar; a shard with a sidecar is complete.

    Args:
        root: The folder of the store, a path or an fsspec URI; made if need be.
        index: Which shard, from 0.
        rows: The shard's rows, `header.rows_of_shard(index)` of them; a mapping has the same names.
        header: What the store holds; `header.dtype` says how vectors are stored.

    Returns:
        What was written.

    Raises:
        AlreadySealed: If the store already has its manifest.
    """
    folder = storage.folder_of(root)
    name = shard_name(index)
    where = f"Gradient store {folder.uri}, {name}"
    if folder.files.exists(folder.join(MANIFEST)):
        raise AlreadySealed(
            f"{where}: the store is sealed, expected one without {MANIFEST}. Delete {MANIFEST} "
            "to write shards again, or use another folder."
        )
    data = to_ipc(rows, index, header, where)
    info = ShardInfo(
        name=name,
        rows=header.rows_of_shard(index),
        bytes=data.size,
        checksum=storage.checksum(data),
    )
    sidecar = name.replace(".arrow", ".json")
    storage.delete(folder, sidecar)
    storage.write_whole(folder, name, data)
    content = asdict(info) | {"header": header_to_dict(header)}
    storage.write_whole(folder, sidecar, json.dumps(content).encode())
    return info


def sealed_shards(
    root: str | os.PathLike[str], header: Header | None = None
) -> dict[int, ShardInfo]:
    """Return the finished shards of a folder by index, so that a run can skip them.

    A shard counts when it has a sidecar and its file has the size that the sidecar says.

    Args:
        root: The folder of the store; it need not exist.
        header: If given, a shard that was made with another header is refused.

    Returns:
        The finished shards, in the order of their index.
    """
    folder = storage.folder_of(root)
    present = storage.sizes(folder)
    found = {}
    for name in sorted(present):
        if match := _SIDECAR.fullmatch(name):
            info, made_with = _read_sidecar(folder, name)
            if header is not None:
                check_same(made_with, header, f"{folder.uri} ({info.name})")
            if present.get(info.name) == info.bytes:
                found[int(match[1])] = info
    return dict(sorted(found.items()))


def seal(
    root: str | os.PathLike[str],
    header: Header,
    shards: Iterable[ShardInfo],
    quality: Mapping[str, Any],
) -> Path | str:
    """Write the manifest, which makes the folder a finished store.

    Args:
        root: The folder of the store.
        header: What the store holds.
        shards: Every shard of the store, in any order, such as `sealed_shards(root).values()`.
        quality: Figures that say how good the store is (fidelity, recall), as JSON holds them.

    Returns:
        The manifest: a path on a local disk, else its URI.

    Raises:
        Incomplete: If a shard is missing, extra, of the wrong length, or not what is on disk.
    """
    folder = storage.folder_of(root)
    where = f"Gradient store {folder.uri}"
    by_name = {shard.name: shard for shard in shards}
    names = [shard_name(index) for index in range(header.n_shards)]
    _check_all_there(names, by_name, header, where)
    on_disk = sealed_shards(root, header)
    for index, name in enumerate(names):
        if on_disk.get(index) != by_name[name]:
            raise Incomplete(
                f"{where}: {name} on disk is {on_disk.get(index)}, expected {by_name[name]}. Make "
                "that shard again."
            )
    manifest = _manifest(header, [by_name[name] for name in names], quality, where)
    storage.write_whole(folder, MANIFEST, manifest)
    path = folder.join(MANIFEST)
    return Path(path) if folder.local else f"{folder.uri.rstrip('/')}/{MANIFEST}"


def shard_from_dict(values: Any, where: str) -> ShardInfo:
    """Read what `asdict(ShardInfo)` wrote.

    Args:
        values: The plain dict.
        where: Which file it came from, for messages.

    Returns:
        The shard's description.

    Raises:
        Damaged: If a key is unknown, missing or has a value of the wrong type.
    """
    kinds = {"name": str, "rows": int, "bytes": int, "checksum": str}
    if not isinstance(values, Mapping) or set(values) != set(kinds):
        raise Damaged(
            f"{where}: a shard is described by {values!r}, expected {', '.join(kinds)}. Delete "
            "that file and run again."
        )
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise Damaged(
                f"{where}: {name} of a shard is {values[name]!r}, expected {kind.__name__}. Delete "
                "that file and run again."
            )
    return ShardInfo(**values)


def _check_all_there(
    names: list[str], by_name: Mapping[str, ShardInfo], header: Header, where: str
) -> None:
    if missing := [name for name in names if name not in by_name]:
        raise Incomplete(
            f"{where}: {len(missing)} of {len(names)} shards are missing ({_few(missing)}), "
            "expected all. Run again to make them."
        )
    if extra := sorted(set(by_name) - set(names)):
        raise Incomplete(
            f"{where}: shards {_few(extra)} are too many, expected {header.n_documents} documents "
            f"in {len(names)} shards. Use an empty folder."
        )
    for index, name in enumerate(names):
        if by_name[name].rows != header.rows_of_shard(index):
            raise Incomplete(
                f"{where}: {name} has {by_name[name].rows} documents, expected "
                f"{header.rows_of_shard(index)}. Make that shard again."
            )


def _manifest(
    header: Header, shards: list[ShardInfo], quality: Mapping[str, Any], where: str
) -> bytes:
    content = {
        "header": header_to_dict(header),
        "n_documents": header.n_documents,
        "bytes": sum(shard.bytes for shard in shards),
        "shards": [asdict(shard) for shard in shards],
        "quality": dict(quality),
    }
    try:
        return json.dumps(content, indent=1, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise Incomplete(
            f"{where}: the quality figures are not JSON ({error}), expected finite numbers, "
            "strings, lists and dicts. Convert them and seal again."
        ) from error


def _read_sidecar(folder: storage.Folder, name: str) -> tuple[ShardInfo, Header]:
    where = f"Gradient store {folder.uri}, {name}"
    try:
        values = json.loads(storage.read_bytes(folder, name))
        header = values.pop("header")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(
            f"{where}: not a shard's sidecar ({error!r}), expected JSON with a header. Delete it "
            "and run again."
        ) from error
    made_with = header_from_dict(header, where)
    return shard_from_dict(values, where), made_with


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
