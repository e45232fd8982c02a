"""How faithful is a store of so many bytes a document? Every form, measured on a finished run.

    python -m benchmarks.compression RUN [--budgets 1024 8192 ...] [--queries N] [--workers N]

The forms are those that `store: auto` compares, on the same sample of documents and against the
same exact scores; the run needs no store. Factors are scored as they come back from int8, int4 or
int2; the other forms take the bytes of int8, but are scored before that rounding.

Writes `compression-<name>.json` and a plot of it, and prints a table in Markdown. Memory: about 12
bytes for each query and parameter of the tracked layers, in each worker (`--workers 0`: this very
process).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.scaling.plots import curve, pyplot, titled
from pipelines import Run, Workers, open_run
from pipelines.curvature import read_curvature
from pipelines.form_candidates import SAMPLE_DOCUMENTS
from pipelines.gradients import shapes_of
from pipelines.store_sample import choose_queries
from pipelines.stores import compare_forms

ROOT = Path(__file__).parents[1]
SHOWN = ("kind", "dtype", "bytes", "numbers", "spearman", "pearson", "recall")
FORMS = {
    "factors": "low-rank factors",
    "full": "whole rows",
    "random": "random projection",
    "top-eigen": "top-eigen",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run's folder, or its name below ./runs")
    parser.add_argument("--budgets", type=int, nargs="+", help="bytes a document; powers of two")
    parser.add_argument("--queries", type=int, help="how many; as many as fit into 1 GB")
    parser.add_argument("--workers", type=int, help="local processes; those of the run")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--plots", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    run = open_run(args.run)
    with Workers(run.config.workers if args.workers is None else args.workers) as workers:
        found = measured(run, args.budgets, args.queries, workers)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"compression-{found['run']}.json"
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    draw(found, args.plots)
    print(table(found))


def measured(
    run: Run, budgets: Sequence[int] | None, queries: int | None, workers: Workers
) -> dict[str, Any]:
    """What was measured, and on what; fidelities are correlations with exact scores, over documents."""
    config = run.config
    shapes = shapes_of(run.curvature, read_curvature(run.curvature))
    parameters = sum(o * i for o, i in shapes.values())
    asked = choose_queries(run.tokens, parameters, queries)
    budgets = budgets or [1 << k for k in range(8, 24) if 1 << k < parameters]
    forms = compare_forms(run, budgets, workers, asked)
    tokens, curvature = run.tokens.info(), run.curvature.info()
    documents = tokens["documents"]
    sampled = min(documents, SAMPLE_DOCUMENTS)
    top, candidates = (
        min(sampled, max(1, round(k * sampled / documents)))
        for k in (config.top, config.candidates)
    )
    return {
        "run": config.name,
        "model": run.model_name,
        "layers": config.layers,
        "tracked_layers": len(shapes),
        "parameters": parameters,
        "documents": documents,
        "tokens": tokens["tokens"],
        "tokens_with_loss": tokens["loss_tokens"],
        "most_tokens_of_a_chunk": config.max_tokens,
        "curvature": config.curvature,
        "curvature_documents": curvature["documents"],
        "damping": config.damping,
        "sampled_documents": sampled,
        "queries": len(asked),
        "recall": {"top": top, "candidates": candidates},
        "forms": [{key: rounded(asdict(form)[key]) for key in SHOWN} for form in forms],
    }


def rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def table(found: dict[str, Any]) -> str:
    """What it was measured on in a sentence, and a line a form."""
    wanted, several = found["layers"], not isinstance(found["layers"], str)
    layers = ", ".join(wanted) if several else wanted
    top, candidates = found["recall"]["top"], found["recall"]["candidates"]
    lines = [
        f"{found['model']}: {found['tracked_layers']} layers ({layers}), {found['parameters']:,} "
        f"parameters; {found['documents']:,} documents with {found['tokens']:,} tokens, "
        f"{found['curvature']} fitted on {found['curvature_documents']:,} of them. Sample: "
        f"{found['sampled_documents']} documents, {found['queries']} queries. Recall: share of the "
        f"exact top {top} among the first {candidates}. Factors are scored as rounded; the other "
        "forms take the bytes of int8 and are scored before that rounding.",
        "",
        "| bytes a document | form | numbers | format | Spearman | Pearson | recall |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {f['bytes']:,} | {FORMS[f['kind']]} | {f['numbers']:,} | {f['dtype']} "
        f"| {f['spearman']:.3f} | {f['pearson']:.3f} | {f['recall']:.2f} |"
        for f in found["forms"]
    ]
    return "\n".join(lines)


def draw(found: dict[str, Any], folder: Path) -> Path:
    """Rank agreement against bytes, a line for each form and number format."""
    figure, axis = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for kind, dtype in sorted({(f["kind"], f["dtype"]) for f in found["forms"]}):
        own = [f for f in found["forms"] if (f["kind"], f["dtype"]) == (kind, dtype)]
        label = f"{FORMS[kind]}, {dtype}"
        curve(axis, own, lambda f: f["bytes"], lambda f: f["spearman"], label)
    titled(
        axis,
        f"{found['run']}: {found['sampled_documents']} documents, {found['queries']} queries",
        "bytes a document",
        "Spearman with exact scores",
    )
    axis.set_yscale("linear")
    axis.set_ylim(top=1.02)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"compression-{found['run']}.svg"
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
    return file


if __name__ == "__main__":
    main()
