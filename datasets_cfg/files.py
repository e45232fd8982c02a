"""Which files a dataset means, and what is wrong with one that cannot be read."""

import glob
import json
import posixpath
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from datasets_cfg.errors import DatasetError, nearest
from datasets_cfg.schema import DatasetConfig

SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "csv": (".csv",),
    "text": (".txt", ".text", ".md"),
}
_ARRAY = "array"
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")


def resolve(config: DatasetConfig) -> list[str]:
    """Find the files that the paths of a dataset stand for.

    Args:
        config: Settings of a dataset that is made of files.

    Returns:
        Paths and URLs, sorted within each pattern, each once.

    Raises:
        DatasetError: If a path is missing, a glob or folder holds nothing that fits, or a file is
            empty or of another format.
    """
    found: dict[str, None] = {}
    for pattern in config.paths:
        try:
            fs, root = fsspec.core.url_to_fs(pattern)
            names = _matches(fs, root, pattern, config)
        except DatasetError:
            raise
        except (ValueError, ImportError, OSError) as error:
            raise DatasetError(
                f"{config.name}: `{pattern}` cannot be listed: {error}. Check the address, and "
                "that the package for its kind of storage is installed."
            ) from error
        for name in names:
            _check_file(fs, name, config)
            found[_address(fs, name)] = None
    return list(found)


def _matches(fs: AbstractFileSystem, root: str, pattern: str, config: DatasetConfig) -> list[str]:
    """File names of one pattern; never none."""
    suffixes = SUFFIXES[config.format]
    if fs.isfile(root):
        return [root]
    if fs.isdir(root):
        names = [n for n in sorted(fs.find(root)) if _suffix(n) in suffixes and not _hidden(n)]
        wanted = " or ".join(suffixes)
        if not names:
            raise DatasetError(
                f"{config.name}: folder `{pattern}` holds no {wanted} file, expected one or more "
                f"for format {config.format}. Change `paths` or `format`."
            )
        return names
    if glob.has_magic(root):
        names = [str(n) for n in sorted(fs.glob(root)) if fs.isfile(n)]
        if not names:
            raise DatasetError(
                f"{config.name}: no file matches `{pattern}` (looked for {root}). Correct `paths`; "
                "`**` stands for any folders."
            )
        return names
    raise DatasetError(
        f"{config.name}: there is no file `{pattern}` (looked for {root})."
        f"{_neighbour(fs, root)} Correct `paths`."
    )


def _neighbour(fs: AbstractFileSystem, root: str) -> str:
    """A hint at a file of a similar name in the same folder."""
    try:
        beside = [posixpath.basename(str(n)) for n in fs.ls(posixpath.dirname(root), detail=False)]
    except (OSError, ValueError):
        return ""
    return nearest(posixpath.basename(root), beside)


def _check_file(fs: AbstractFileSystem, name: str, config: DatasetConfig) -> None:
    """Refuse a file of no bytes, or whose name says another format."""
    if fs.size(name) == 0:
        raise DatasetError(
            f"{config.name}: file {name} is empty (0 bytes). Fill it, or leave it out of `paths`."
        )
    for form, suffixes in SUFFIXES.items():
        if _suffix(name) in suffixes and form != config.format:
            raise DatasetError(
                f"{config.name}: file {name} looks like {form}, but format is {config.format}. "
                f"Write `format: {form}`, or leave the file out of `paths`."
            )


def _suffix(name: str) -> str:
    """The last suffix, in lower case, that says the format and not the compression."""
    stem, suffix = posixpath.splitext(name.lower())
    return posixpath.splitext(stem)[1] if suffix in COMPRESSED else suffix


def _hidden(name: str) -> bool:
    """Whether a file in a folder is a hidden or a bookkeeping one."""
    return posixpath.basename(name).startswith((".", "_"))


def _address(fs: AbstractFileSystem, name: str) -> str:
    """What `datasets` opens as exactly this file: no character of it works as a glob."""
    local = "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))
    address = name if local else fs.unstrip_protocol(name)
    return address if "://" in address else glob.escape(address)


def diagnose(addresses: list[str], config: DatasetConfig) -> str | None:
    """Look for the line that makes a text, csv or jsonl file unreadable.

    Args:
        addresses: What `resolve` returned.
        config: Settings of the dataset.

    Returns:
        A message that names file and line, or None if nothing was found.
    """
    if config.format == "parquet":
        return None
    for address in addresses:
        name = address if "://" in address else unescape(address)
        try:
            with fsspec.open(name, "rb", compression="infer") as lines:
                for line, content in enumerate(lines, start=1):
                    problem = _line_problem(content, line, config)
                    if problem == _ARRAY:
                        break
                    if problem:
                        return f"{config.name}: file {name}, line {line}: {problem}"
        except (OSError, EOFError) as error:
            return f"{config.name}: file {name} cannot be read: {error}."
    return None


def _line_problem(raw: bytes, line: int, config: DatasetConfig) -> str | None:
    """What is wrong with one line; `_ARRAY` if the file is one JSON array."""
    try:
        content = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 ({error.reason}, byte {error.start + 1}). Save the file as UTF-8."
    if config.format != "jsonl" or not content.strip():
        return None
    if line == 1 and content.lstrip().startswith("["):
        return _ARRAY
    try:
        row: Any = json.loads(content)
    except json.JSONDecodeError as error:
        return f"not valid JSON ({error.msg}, column {error.colno}). Correct or remove the line."
    if not isinstance(row, dict):
        came = type(row).__name__
        return f'came as {came}, expected an object such as {{"text": "..."}}. Correct the line.'
    return None


def unescape(address: str) -> str:
    """Undo `glob.escape`."""
    for char in "*?[":
        address = address.replace(f"[{char}]", char)
    return address
