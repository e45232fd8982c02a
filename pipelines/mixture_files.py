"""The files of a mixture: ``mixture.json``, and each picture's table as Parquet and CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from influence.documents.scores import SIGN, UNIT
from pipelines.corpus import document_ids
from pipelines.errors import RunError
from pipelines.mixture_groups import Groups
from pipelines.mixture_queries import Tasks
from pipelines.run_folder import new_file, write_json
from pipelines.runs import Run

FORMAT = 1
RESULT = "mixture.json"


def write_mixture(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write the result and its tables; each file appears complete or not at all.

    Args:
        folder: Where.
        result: The content of ``mixture.json``.

    Returns:
        ``mixture.json``, written last.
    """
    for name, rows in tables_of(result):
        write_rows(folder, name, rows)
    return write_json(folder / RESULT, dict(result))


def read_mixture(folder: str | Path) -> dict[str, Any]:
    """A mixture as it was written.

    Args:
        folder: Its folder.

    Returns:
        The result.

    Raises:
        RunError: If there is none, or it has another format.
    """
    path = Path(folder) / RESULT
    try:
        result = json.loads(path.read_text("utf-8"))
        known = result["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"Mixture {path}: unreadable ({error}), a file of `influence mixture` was expected. "
            "Run it again."
        ) from None
    if not known:
        raise RunError(
            f"Mixture {path}: format {result['format']}, {FORMAT} was expected. Run `influence "
            "mixture` again."
        )
    return dict(result)


def tables_of(result: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The tables behind the pictures of a result.

    Yields:
        Names and rows; tables without rows are left out.
    """
    tables = {
        "cells": result["cells"],
        "groups": _groups(result),
        "tasks": result["tasks"],
        "profiles": _pairs(result["profiles"]),
        "concentration": _points(result["concentration"]),
        "layers": result["layers"],
        "languages": _languages(result["languages"]),
        "suspects": [_flat(row) for row in result["suspects"]],
        "reweighting": [] if not result["reweighting"] else result["reweighting"]["tasks"],
        "verification": [] if not result["verification"] else result["verification"]["rows"],
        "forgetting": [] if not result["forgetting"] else result["forgetting"]["rows"],
    }
    yield from ((name, rows) for name, rows in tables.items() if rows)


def write_rows(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table twice, as Parquet with unit and sign in its metadata, and as CSV.

    Args:
        folder: Where.
        name: Of the files.
        rows: Plain values, all with the same keys.
    """
    table = pa.Table.from_pylist(list(rows))
    described = table.replace_schema_metadata({"unit": UNIT, "sign": SIGN})
    with new_file(folder / f"{name}.parquet") as temporary:
        pq.write_table(described, temporary)
    plain = [pa.string() if pa.types.is_null(kind) else kind for kind in table.schema.types]
    named = pa.schema(list(zip(table.column_names, plain, strict=True)))
    with new_file(folder / f"{name}.csv") as temporary:
        pyarrow.csv.write_csv(table.cast(named), temporary)


def write_documents(
    folder: Path,
    run: Run,
    task_TN: np.ndarray,
    tasks: Tasks,
    groups: Groups,
    cluster_N: np.ndarray,
) -> Path:
    """Write every document's score for every task: ``documents.parquet``.

    Args:
        folder: Where.
        run: The run.
        task_TN: Each document's mean over a task's queries.
        tasks: The tasks.
        groups: Of the documents.
        cluster_N: Cluster of each document: the row of its first.

    Returns:
        The file.
    """
    ids = pa.array(document_ids(run.corpus))
    names = pa.array(groups.names)
    columns = {"id": ids, "group": names.take(pa.array(groups.group_N))}
    columns |= {"cluster": ids.take(pa.array(cluster_N)), "tokens": pa.array(groups.tokens_N)}
    columns |= {
        f"score: {task}": pa.array(scores_N)
        for task, scores_N in zip(tasks.names, task_TN, strict=True)
    }
    about = {"unit": UNIT, "sign": SIGN, "n_documents": str(len(ids))}
    path = folder / "documents.parquet"
    with new_file(path) as temporary:
        pq.write_table(pa.table(columns, metadata=about), temporary)
    return path


# -- rows -----------------------------------------------------------------------------------------


def _groups(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    proposed = result["reweighting"]
    weights = {} if not proposed else {g["name"]: g for g in proposed["groups"]}
    return [
        {
            **group,
            "weight": weights.get(group["name"], {}).get("weight"),
            "tokens_then": weights.get(group["name"], {}).get("tokens_then"),
        }
        for group in result["groups"]
    ]


def _pairs(profiles: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = profiles["groups"]
    matrices = ("correlation", "low", "high", "relation")
    return [
        {"a": a, "b": b, **{key: profiles[key][i][j] for key in matrices}}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i < j
    ]


def _points(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The numbers of each task, and the points of both its curves."""
    found = []
    for row in rows:
        tail = row["tail"] or {}
        about = {
            "task": row["task"],
            "half": row["half"],
            "half_share": row["half_share"],
            "tail_exponent": tail.get("exponent"),
            "tail_low": tail.get("low"),
            "tail_high": tail.get("high"),
            "tail_from": tail.get("from"),
            "tail_documents": tail.get("documents"),
        }
        for curve in ("curve", "ccdf"):
            found += [{**about, "curve": curve, "x": x, "y": y} for x, y in row[curve]]
    return found


def _languages(values: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if not values:
        return []
    matrices = [key for key in values if key not in ("queries", "documents")]
    return [
        {"query": a, "document": b, **{key: values[key][i][j] for key in matrices}}
        for i, a in enumerate(values["queries"])
        for j, b in enumerate(values["documents"])
    ]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as one text each, for tables."""
    words = "; ".join(str(reason["words"]) for reason in row["reasons"])
    kinds = ", ".join(str(reason["kind"]) for reason in row["reasons"])
    rest = {key: value for key, value in row.items() if key not in ("reasons", "others")}
    return {**rest, "kinds": kinds, "reasons": words, "others": " ".join(map(str, row["others"]))}
