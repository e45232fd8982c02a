"""The gradient store of a run: what it holds, whether it is intact, handing it over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import gradients_store
from pipelines.cluster import Workers, bar
from pipelines.errors import RunError
from pipelines.form_candidates import Candidate, compared
from pipelines.gradients import fitted
from pipelines.run_folder import damaged_files
from pipelines.runs import Run, open_run


def _store(run: Run) -> gradients_store.Store:
    if run.gradients is None:
        raise RunError(
            f"Run {run.root}: it has no gradient store, one was expected. Make it with "
            "`influence run` or `influence index`."
        )
    return gradients_store.open_store(run.gradients.path / "store")


def info(name: str, folder: Path) -> dict[str, Any]:
    """What a run's store holds and how it was made.

    Args:
        name: The run.
        folder: Where runs live.

    Returns:
        Plain values.
    """
    run = open_run(name, folder)
    store, fit = _store(run), run.curvature.info()
    return {
        "folder": str(store.root),
        "documents": len(store),
        "shards": len(store.shards),
        "bytes": sum(shard.bytes for shard in store.shards),
        "header": {**asdict(store.header), "layers": list(store.header.layers)},
        "quality": dict(store.quality),
        "forms": run.gradients.info().get("forms") if run.gradients else None,
        "curvature": {
            "documents": fit["documents"],
            "sampling_error": fit.get("sampling_error"),
        },
    }


def compare_forms(
    run: Run,
    budgets: Sequence[int],
    workers: Workers,
    queries: Sequence[tuple[int, int]] | None = None,
) -> list[Candidate]:
    """Measure every form that the run's store could have, on a sample of its documents.

    Args:
        run: A finished run; its store is not needed.
        budgets: Bytes that a document's vector may take.
        workers: Where to run.
        queries: Where the sample's queries stand (``choose_queries``); None: as a run chooses them.

    Returns:
        Forms in the order of their bytes, with their fidelity to exact scores.
    """
    config = run.config.model_copy(update={"store": "auto", "store_dtype": None})
    found = fitted(config, run.corpus, run.tokens, run.curvature, run.model)
    if queries is not None:
        found = replace(found, queries=tuple(queries))
    return compared(found, budgets, config, workers)


def print_info(content: dict[str, Any], console: Console) -> None:
    """Print what ``info`` found as a table.

    Args:
        content: From ``info``.
        console: Where to.
    """
    table = Table(title="Gradient store", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a path is for copying
    header, quality = content["header"], content["quality"]
    rows = {
        "folder": content["folder"],
        "documents": f"{content['documents']:,} in {content['shards']} shards",
        "size": f"{content['bytes'] / 1e6:,.1f} MB "
        f"({content['bytes'] / content['documents'] / 1e3:,.1f} kB a document)",
        "vector": f"{header['dimension']:,} x {header['dtype']}, {header['sketch']}",
        "layers": f"{len(header['layers'])}: {header['layers'][0]} ... {header['layers'][-1]}",
        "curvature": f"{header['curvature_kind']}, damping {header['damping']} x mean eigenvalue",
        "curvature's sample": describe_fit(content["curvature"]),
        "fidelity to exact scores": _fidelity(quality),
        "recall of the search": _recall(quality),
        "model's fingerprint": header["model"],
        "corpus's fingerprint": header["corpus"],
    }
    for key, value in rows.items():
        table.add_row(key, str(value))
    console.print(table)
    if content["forms"] is not None:
        console.print(_compared(content["forms"]))


def _compared(forms: dict[str, Any]) -> Table:
    """All candidates of the comparison, the chosen one marked."""
    table = Table(
        title="Forms that were compared",
        caption=f"Sample of {forms['documents']} documents x {forms['queries']} queries. Chosen "
        f"(>): {forms['wanted']}. Spearman, Pearson: with exact scores; recall: of the exact top.",
    )
    for name in ("form", "numbers", "bytes a document", "Spearman", "Pearson", "recall"):
        table.add_column(name, justify="left" if name == "form" else "right")
    for one in forms["candidates"]:
        chosen = one == forms["chosen"]
        table.add_row(
            f"{'> ' if chosen else ''}{one['kind']}, {one['dtype']}",
            f"{one['numbers']:,}",
            f"{one['bytes']:,}",
            *(f"{one[name]:.3f}" for name in ("spearman", "pearson", "recall")),
            style="bold" if chosen else None,
        )
    return table


def describe_fit(curvature: dict[str, Any]) -> str:
    """The sample that a curvature was fitted on, and the error that it implies.

    Args:
        curvature: ``documents`` and ``sampling_error``.

    Returns:
        One line.
    """
    documents, error = f"{curvature['documents']:,} documents", curvature.get("sampling_error")
    if error is None:
        return f"{documents}; its error is not known (one part, no scatter)"
    return (
        f"{documents}; relative standard error of an eigenvalue {error['eigenvalues']:.1%}, of its "
        f"damped inverse {error['inverse']:.1%}"
    )


def _fidelity(quality: dict[str, Any]) -> str:
    found = quality["fidelity"]
    return (
        f"Pearson {found['pearson']:.3f}, Spearman {found['spearman']:.3f} "
        f"({found['queries']} queries x {found['documents']} documents)"
    )


def _recall(quality: dict[str, Any]) -> str:
    found = quality["recall"]
    return (
        f"{found['value']:.1%} of the exact top {found['at']} are among {found['candidates']} "
        "candidates of each sign"
    )


def verify(name: str, folder: Path, console: Console) -> list[str]:
    """Compare every file of a run with its checksum.

    Args:
        name: The run.
        folder: Where runs live.
        console: Where progress goes.

    Returns:
        Problems, each a sentence; empty when all is well.
    """
    run = open_run(name, folder)
    problems = []
    for stage in (run.corpus, run.tokens, run.curvature):
        problems += [f"{stage.path}/{file}: changed or missing." for file in damaged_files(stage)]
    if run.gradients is not None:
        store = _store(run)
        with bar(console, "Verifying the store", len(store.shards)) as advance:
            problems += gradients_store.verify(store.root, lambda *_: advance(1.0))
    return problems


def export(name: str, folder: Path, out: Path, vectors: bool | None) -> str:
    """Write the store as one file.

    Returns:
        A sentence that says what was written.
    """
    store = _store(open_run(name, folder))
    gradients_store.export(store.root, out, include_vectors=vectors)
    return f"{out}: {len(store):,} documents, {out.stat().st_size / 1e6:,.1f} MB."
