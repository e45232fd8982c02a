"""The run folder: names, keys, atomic writes, seals, resume.

A stage's output lies in ``runs/<name>/<stage>/<key>/`` where the key hashes all that changes its
bytes.  ``sealed.json`` is written last; a folder without it is unfinished work that goes on.  A
changed setting makes a new folder beside the old one, never a mix.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipelines.errors import RunError

FORMAT = 1
"""Version of the run folder's layout; part of every key."""
RUN_FILE = "run.yaml"
SEAL = "sealed.json"
UNLOCKED = (
    "traces",
    "exact",
    "inputs",
    "states",
    "words",
    "support",
    "hallucination",
    "probes",
    "suffixes",
    "spans",
    "parroting",
)
"""Subfolders of a run that are written without its lock."""
PARTIAL = "partial"
"""Subfolder of a stage for what is only needed until the stage is sealed."""


def key_of(**parts: Any) -> str:
    """Hash of everything that changes a stage's bytes.

    Args:
        **parts: JSON values.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def digest_of(path: Path) -> str:
    """Checksum of a file's bytes.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Stage:
    """One stage's output folder."""

    name: str
    key: str
    root: Path

    @property
    def path(self) -> Path:
        """``runs/<name>/<stage>/<key>``."""
        return self.root / self.name / self.key

    def is_sealed(self) -> bool:
        """Whether the stage is complete.

        Returns:
            True when nothing of it is missing.
        """
        return (self.path / SEAL).is_file()

    def info(self) -> dict[str, Any]:
        """What the stage wrote about itself when it was sealed.

        Returns:
            The ``info`` of ``seal``.

        Raises:
            RunError: If the seal can't be read.
        """
        try:
            return dict(json.loads((self.path / SEAL).read_text("utf-8"))["info"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"Stage {self.path}: its seal can't be read ({error}), a complete stage was "
                "expected. Remove this folder and run again."
            ) from None


def seal(stage: Stage, info: Mapping[str, Any]) -> Stage:
    """Declare a stage complete: checksums of its files, and what it says of itself.

    Args:
        stage: The stage; all its files are in place.
        info: JSON values to keep.

    Returns:
        The same stage.
    """
    kept = [p for p in sorted(stage.path.rglob("*")) if p.is_file() and _is_kept(stage, p)]
    files = {str(path.relative_to(stage.path)): digest_of(path) for path in kept}
    write_json(stage.path / SEAL, {"key": stage.key, "info": dict(info), "files": files})
    return stage


def _is_kept(stage: Stage, path: Path) -> bool:
    """Whether a file is part of the output: no seal, no partial sum, no leftover of a kill."""
    parts = path.relative_to(stage.path).parts
    hidden = any(part.startswith(".") for part in parts)
    return not hidden and parts[0] != PARTIAL and path.name != SEAL


def damaged_files(stage: Stage) -> list[str]:
    """Compare a sealed stage's files with their checksums.

    Returns:
        Names of files that are missing or changed.
    """
    stage.info()  # refuses a damaged seal
    files = json.loads((stage.path / SEAL).read_text("utf-8"))["files"]
    return [
        name
        for name, digest in files.items()
        if not (stage.path / name).is_file() or digest_of(stage.path / name) != digest
    ]


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes ``path`` when the block succeeds.

    Args:
        path: The final name.

    Yields:
        The temporary path to write to.

    Raises:
        RunError: If the disk is full; nothing already written is lost.
        OSError: If the file can't be written for another reason.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except Exception as error:
        if is_disk_full(error):
            full = no_space(path)
            raise full from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or a quota, is used up.

    Returns:
        True for the operating system's errors, and for those of safetensors, which wrap them.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, SafetensorError) and "No space left" in str(error)


def no_space(path: Path) -> RunError:
    """The error for a full disk.

    Returns:
        A RunError that says how much is free and how to go on.
    """
    free = shutil.disk_usage(path.parent).free / 1e9
    return RunError(
        f"Writing {path}: no space left on the disk ({free:.2f} GB free). Make room, or choose a "
        "smaller `store_gigabytes`; then run again: finished work is kept and not repeated."
    )


def explain_os_error(error: OSError) -> str:
    """An operating-system error as a message for people.

    Returns:
        What came and what to do.
    """
    if is_disk_full(error):
        return str(no_space(Path(error.filename or ".").absolute()))
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror or error}. Check that the file or folder exists, may be read and "
        "written, and that the disk is well; then run again: finished work is kept."
    )


def write_json(path: Path, value: Any) -> Path:
    """Write JSON under a temporary name and rename it.

    Returns:
        The path.
    """
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False), "utf-8")
    return path


def clear_leftovers(root: Path) -> None:
    """Remove the temporary files that a killed run left in its stages; call it while locked.

    Args:
        root: The run's folder.
    """
    for path in [*root.glob(f".{RUN_FILE}.*"), *root.glob("*/*/**/.*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.relative_to(root).parts[0] not in UNLOCKED:
            path.unlink(missing_ok=True)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """One process at a time works in a run folder; the lock vanishes with the process.

    Args:
        root: The run's folder.

    Yields:
        Nothing.

    Raises:
        RunError: If another process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"Run folder {root}: another process is working in it, one at a time was "
                "expected. Wait for it, or use another `name`."
            ) from None
        yield
