"""A tiny run: forty short documents, a model of one block, and what the tests ask of a run folder."""

import hashlib
import io
import json
from pathlib import Path

from rich.console import Console

from pipelines.cluster import Workers
from pipelines.config import RunConfig, read_run
from pipelines.run_folder import UNLOCKED
from pipelines.runs import Run, build_run, open_run, open_traced
from pipelines.trace import Query
from pipelines.traces import TraceOptions, run_traces

SETTINGS = {
    "train": "scratch",
    "vocabulary": 300,
    "hidden_size": 16,
    "mlp_size": 32,
    "blocks": 1,
    "heads": 2,
    "max_tokens": 48,
    "epochs": 2,
    "batch_documents": 8,
    "train_threads": 1,
    "checkpoints": 3,
    "documents_per_shard": 8,
    "partitions": 3,
    "token_budget": 256,
    "layers": "all",
    "device": "cpu",
}
BESIDE = tuple(
    f"{name}/"
    for name in (
        *UNLOCKED,
        "scores",
        "retraining",
        "evaluations",
        "untrained",
        "mixtures",
        "duplicates",
    )
)
"""Folders of a run that are made from its stages later, by traces and evaluations."""
QUERIES = (
    Query(id="capital", prompt="The capital of Peru is", completion=" Lima"),
    Query(id="colour", prompt="The sky is", completion=" blue today"),
)


def documents(count=40):
    """Short sentences of two sources; the sixth is long enough for several chunks."""
    places = ("Lima", "Paris", "Rome", "Oslo", "Quito")
    rows = []
    for i in range(count):
        place, other = places[i % 5], places[(i // 5) % 5]
        text = f"The road {i} from {place} to {other} is {3 * i + 1} miles long."
        rows.append(
            {"id": f"d{i:02d}", "text": text, "source": "ab"[i % 2], "language": "en", "number": i}
        )
    miles = (f"Mile {k} of the long road to Lima goes past stone {k * k}." for k in range(9))
    if count > 5:
        rows[5]["text"] = " ".join(miles)
    return rows


def write_run(folder, rows=None, *, dataset=None, **settings):
    """Write documents, dataset YAML and run YAML; returns the run's YAML.

    `settings` are the run's and replace `SETTINGS`; those that are None are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in (documents() if rows is None else rows)]
    (folder / "docs.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    columns = {
        "text_column": "text",
        "id_column": "id",
        "source_column": "source",
        "language_column": "language",
    }
    about = {
        "name": "small",
        "format": "jsonl",
        "paths": [str(folder / "docs.jsonl")],
        **(dataset or columns),
    }
    (folder / "docs.yaml").write_text(json.dumps(about), "utf-8")
    values = {"name": "small", "data": "docs.yaml", **SETTINGS, **settings}
    kept = {key: value for key, value in values.items() if value is not None}
    file = folder / "small.yaml"
    file.write_text(json.dumps(kept, default=str), "utf-8")
    return file


def on_model(model, **settings):
    """Settings for a model that exists, instead of one that is trained here."""
    keys = ("vocabulary", "hidden_size", "mlp_size", "blocks", "heads", "epochs", "checkpoints")
    nothing = dict.fromkeys((*keys, "batch_documents", "train_threads"))
    return {**nothing, "train": "none", "model": str(model), **settings}


def quiet():
    return Console(file=io.StringIO())


def here():
    """Workers that are this very process."""
    return Workers(0, None, quiet())


def build(yaml: Path, runs: Path, workers: Workers | None = None, **changes) -> Run:
    config = RunConfig(**{**read_run(yaml).model_dump(), **changes})
    with workers or here() as pool:
        return build_run(config, runs, pool)


def traces(run, queries=QUERIES, **options):
    """Trace with all documents as candidates; returns the traces."""
    settings = {"top": 40, "candidates": 40, **options}
    opened = run if isinstance(run, Run) else open_run(run)
    traced = open_traced(opened, settings.get("exact", False))
    with here() as pool:
        return list(run_traces(traced, list(queries), TraceOptions(**settings), pool))


def rows_by_id(trace):
    return {row["id"]: row for row in (*trace["proponents"], *trace["opponents"])}


def digests(root: Path, exact: bool = False):
    """Checksums of all files of a run's stages, or of the exact scores beside them."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        wanted = name.startswith("exact/") if exact else not name.startswith(BESIDE)
        if path.is_file() and "/" in name and not hidden and wanted:
            found[name] = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return found


def states(root: Path):
    """Inode and time of change of every file but ``run.yaml`` and the lock."""
    return {
        path.relative_to(root).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in ("run.yaml", ".lock")
    }
