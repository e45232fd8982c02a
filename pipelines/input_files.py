"""Files of input attribution, in Arrow: parts of a table, scores of tokens, maps of heads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from influence.inputs.gradient.embedded import Passes
from influence.inputs.methods import TokenScores
from influence.inputs.table import Table, merged
from pipelines.errors import RunError
from pipelines.run_folder import new_file

CHECKSUM = b"checksum"


def write_part(path: Path, part: Table) -> Path:
    """Write some rows of a table: ``kept``, and ``log_probs_0`` ... for each continuation.

    Args:
        path: An ``.arrow`` file.
        part: The rows.

    Returns:
        The path.
    """
    columns = {"kept": _matrix(part.kept_MU)}
    columns |= {f"log_probs_{k}": _matrix(rows) for k, rows in enumerate(part.log_probs)}
    return _write(path, pa.table(columns), {"rows": part.rows, "unit": "nats"})


def read_parts(folder: Path) -> Table | None:
    """Everything that is evaluated of a question.

    Args:
        folder: Where its parts lie.

    Returns:
        The table; None where there is none yet. A damaged part counts as missing.
    """
    parts = []
    for path in sorted(folder.glob("masks-*.arrow")):
        content = _read(path)
        if content is None:
            continue
        found, about = content
        names = [n for n in found.column_names if n != "kept"]
        parts.append(
            Table(
                kept_MU=_array(found, "kept"),
                log_probs=tuple(_array(found, n) for n in names),
                rows=about["rows"],
            )
        )
    return merged(parts) if parts else None


def write_scores(path: Path, found: TokenScores, passes: Passes) -> Path:
    """Write what a gradient or attention method says of each token, and what it cost.

    Args:
        path: An ``.arrow`` file.
        found: Scores; random ones with their draws.
        passes: What went through the model.

    Returns:
        The path.
    """
    columns = {"score": pa.array(found.scores_P)}
    if found.samples_SP is not None:
        columns["samples"] = _matrix(found.samples_SP.T)
    about = {k: v for k, v in vars(found).items() if k not in ("scores_P", "samples_SP")}
    return _write(path, pa.table(columns), {"found": about, "passes": vars(passes)})


def read_scores(path: Path) -> tuple[TokenScores, Passes] | None:
    """What ``write_scores`` wrote.

    Args:
        path: The file.

    Returns:
        Scores and passes; None where the file is missing or damaged.
    """
    content = _read(path) if path.exists() else None
    if content is None:
        return None
    table, about = content
    about["found"]["notes"] = tuple(about["found"]["notes"])
    samples_SP = _array(table, "samples").T if "samples" in table.column_names else None
    scores_P = table.column("score").to_numpy()
    found = TokenScores(scores_P=scores_P, samples_SP=samples_SP, **about["found"])
    return found, Passes(**about["passes"])


def write_maps(path: Path, maps_LHUU: np.ndarray, about: Mapping[str, Any]) -> Path:
    """Write what every head looks at: one row a head, layer by layer.

    Args:
        path: An ``.arrow`` file.
        maps_LHUU: Shares of attention, 0 to 1, float32.
        about: ``words``, ``layers``, ``heads`` and more for the page.

    Returns:
        The path.
    """
    layers, heads, units, _ = maps_LHUU.shape
    table = pa.table(
        {
            "layer": np.repeat(np.arange(layers), heads),
            "head": np.tile(np.arange(heads), layers),
            "attention": _matrix(maps_LHUU.reshape(layers * heads, units * units)),
        }
    )
    return _write(path, table, about)


def read_maps(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """What ``write_maps`` wrote.

    Args:
        path: The file.

    Returns:
        ``[L, H, U, U]`` float32, and what was said of it.

    Raises:
        RunError: If the file is damaged.
    """
    content = _read(path)
    if content is None:
        raise RunError(
            f"Inputs {path}: damaged, the file that `influence inputs` wrote was expected. Remove its "
            "folder and run again."
        )
    table, about = content
    words = len(about["words"])
    shape = (about["layers"], about["heads"], words, words)
    return _array(table, "attention").reshape(shape), about


def write_units(path: Path, explanations: Sequence[Mapping[str, Any]]) -> Path:
    """Write every unit's score by every method, one row each.

    Args:
        path: A ``.parquet`` file.
        explanations: Of the result (see ``docs/inputs.md``).

    Returns:
        The path.
    """
    rows = [
        {"method": one["method"], "score_unit": one["unit"], "level": one["level"], **unit}
        for one in explanations
        for unit in one["units"]
    ]
    with new_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=UNIT_SCHEMA), temporary)
    return path


UNIT_SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("score_unit", pa.string()),
        ("level", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("rank", pa.int64()),
    ]
)


def _matrix(rows_MK: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(rows_MK).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, rows_MK.shape[1])


def _array(table: pa.Table, name: str) -> np.ndarray:
    column = table.column(name).combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)


def _write(path: Path, table: pa.Table, about: Mapping[str, Any]) -> Path:
    text = json.dumps(about)
    metadata = {b"about": text.encode(), CHECKSUM: _digest(table, text).encode()}
    table = table.replace_schema_metadata(metadata)
    with new_file(path) as temporary, pa.ipc.new_file(temporary, table.schema) as writer:
        writer.write_table(table)
    return path


def _read(path: Path) -> tuple[pa.Table, dict[str, Any]] | None:
    """A file's table and what it says of itself; None where its checksum does not fit."""
    try:
        with pa.OSFile(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        text = table.schema.metadata[b"about"].decode()
        if table.schema.metadata[CHECKSUM].decode() != _digest(table, text):
            return None
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, UnicodeDecodeError):
        return None
    return table, dict(json.loads(text))


def _digest(table: pa.Table, about: str) -> str:
    digest = blake2b(about.encode(), digest_size=16)
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        digest.update(f"{name} {column.type}".encode())
        digest.update(np.ascontiguousarray(flat.to_numpy(zero_copy_only=False)).tobytes())
    return digest.hexdigest()
