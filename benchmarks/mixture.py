"""Does influence say what a source is good for? Predicted against retraining, written to Markdown.

    influence demo
    python benchmarks/mixture.py runs/demo --seeds 2 --out benchmarks/results/mixture.md

Of each source as many tokens are left out as the smallest source holds; the model is trained again
from scratch; each task's mean loss is compared with that of the unchanged mixture.  Trainings are
kept in the run's folder and are not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import Query, Run, Workers, open_run
from pipelines.corpus import read_columns
from pipelines.duplicates import find_duplicates, read_clusters
from pipelines.mixture_changes import Predicted
from pipelines.mixture_groups import counted_tokens
from pipelines.mixture_queries import read_tasks
from pipelines.mixture_verify import VerifyOptions, verify_mixture
from pipelines.runs import open_traced
from pipelines.scoring import exact_everywhere
from pipelines.unlearning import Forgetting


def predict(run: Run, queries: Sequence[Query], column: str, workers: Workers) -> Predicted:
    """The mixture by a column, and what exact scores predict of it."""
    count = run.tokens.info()["documents"]
    scores_QN = exact_everywhere(open_traced(run, exact=True), queries, workers) / count
    names, group_N = np.unique(
        read_columns(run.corpus, [column]).column(column).to_pylist(), return_inverse=True
    )
    return Predicted(
        names=tuple(names.tolist()),
        group_N=group_N,
        cluster_N=read_clusters(find_duplicates(run.corpus, run.root, workers)),
        tokens_N=counted_tokens(run),
        removed=lambda weights_AN: weights_AN @ scores_QN.T,
    )


def table(found: dict[str, Any]) -> list[str]:
    """Predicted and measured changes, a row a task, a column a source."""
    groups = list(dict.fromkeys(row["group"] for row in found["rows"]))
    lines = [
        "Change of the task's mean loss, nats a query: predicted / measured [95 %].",
        "",
        f"| task | {' | '.join(groups)} | named by influence | named by retraining | margin [95 %] |",
        "|---|" + "---|" * (len(groups) + 3),
    ]
    named = {one["task"]: one for one in found["named"]}
    for task, one in named.items():
        cells = []
        for group in groups:
            row = next(r for r in found["rows"] if (r["task"], r["group"]) == (task, group))
            cells.append(f"{row['predicted']:+.3f} / {_interval(row, 'measured')}")
        lines.append(
            f"| {task} | {' | '.join(cells)} | {one['predicted_group']} | {one['measured_group']} | "
            f"{_interval(one, 'margin')} |"
        )
    return lines


def _interval(row: dict[str, Any], name: str) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")


def summary(found: dict[str, Any]) -> list[str]:
    right = sum(one["right"] for one in found["named"])
    lines = [f"- Named right: {right} of {len(found['named'])} tasks."]
    for name in [key for key in found if key.startswith(("spearman", "pearson"))]:
        one = found[name]
        interval = "" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]"
        title = name.replace("_", " ").capitalize()
        lines.append(f"- {title} over {len(found['rows'])} cells: {one['value']:.2f}{interval}.")
    if found["ceiling"] is not None:
        lines.append(
            f"- Ceiling from the agreement of seeds (Spearman): {found['ceiling']:.2f}. A perfect "
            "prediction would reach about this."
        )
    return lines


def relations(found: dict[str, Any]) -> list[str]:
    lines = ["| sources | measured [95 %] | predicted |", "|---|---|---|"]
    for one in found["relations"]:
        predicted = "none" if one["predicted"] is None else f"{one['predicted']:+.2f}"
        lines.append(f"| {one['a']} and {one['b']} | {_interval(one, 'measured')} | {predicted} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--column", default="source")
    parser.add_argument("--kind", default="drop")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=Forgetting().learning_rate)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    run, begun = open_run(asked.run), time.perf_counter()
    queries = read_tasks(asked.queries, run)
    options = VerifyOptions(
        kind=asked.kind,
        seeds=asked.seeds,
        share=asked.share,
        forgetting=Forgetting(learning_rate=asked.rate),
    )
    with Workers(asked.workers) as workers:
        predicted = predict(run, queries, asked.column, workers)
        found = verify_mixture(run, queries, predicted, options, workers, print)
    sizes = np.bincount(predicted.group_N, predicted.tokens_N).astype(int).tolist()
    lines = [
        f"{len(predicted.group_N):,} documents, {len(queries)} queries; tokens of the sources: "
        + ", ".join(f"{name} {size:,}" for name, size in zip(predicted.names, sizes, strict=True))
        + f". From each, {found['tokens']:,} tokens at least were taken away. {asked.seeds} seeds, "
        f"{time.perf_counter() - begun:.0f} s this time.",
        *(f"- {note}" for note in found["notes"]),
        *summary(found),
        "",
        *table(found),
        "",
        "Correlation of the sources' profiles over queries:",
        "",
        *relations(found),
        "",
    ]
    asked.out.write_text("\n".join(lines), "utf-8")
    asked.out.with_suffix(".json").write_text(json.dumps(found, indent=1), "utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
