"""Measure how cost grows, write the records and draw the plots.

    python -m benchmarks.scaling [--size small] [--parts search model workers scheduler] [--out FOLDER]

``small`` takes some ten minutes on two cores, ``tiny`` seconds; ``large`` simulates 100,000 tasks. Parts
that are not asked for are kept from the file that is there (``--parts`` alone: tables and plots
from that file). Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.scaling import model, plots, rows, scheduler, workers
from benchmarks.scaling.lines import line
from benchmarks.scaling.plan import MODELS, Assumptions, plan

PARTS = ("search", "model", "workers", "scheduler")
ROOT = Path(__file__).parents[2]
CASES: dict[str, list[tuple[int, int, str, str, int]]] = {
    "tiny": [(40, 4, "ids", "windowed", 0), (40, 4, "ids", "at once", 1000)],
    "small": [
        *((tasks, 100, "thin", "windowed", 0) for tasks in (1000, 10_000)),
        *((tasks, 100, "ids", "windowed", 0) for tasks in (1000, 10_000)),
        *((tasks, 100, "ids", "at once", 1000) for tasks in (1000, 10_000)),
    ],
}
CASES["large"] = [*CASES["small"], (100_000, 100, "thin", "windowed", 0)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="small", choices=CASES)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--plots", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    file = args.out / "scaling.json"
    old = json.loads(file.read_text()) if file.exists() else []
    found = [record for record in old if record["part"] not in args.parts]
    for part in args.parts:
        for record in measured(part, args.size):
            print(json.dumps(record), file=sys.stderr, flush=True)
            found.append(record)
            args.out.mkdir(parents=True, exist_ok=True)
            file.write_text("[\n" + ",\n".join(json.dumps(r) for r in found) + "\n]\n")
    plots.draw(found, args.plots)
    print(tables(found))


def measured(part: str, size: str) -> Iterator[dict[str, Any]]:
    tiny = size == "tiny"
    if part == "search":
        counts = [50, 100] if tiny else [1000, 10_000, 100_000]
        yield from rows.measure(
            counts, 64 if tiny else 8000, [25 if tiny else 100], 1 + 2 * (not tiny)
        )
    elif part == "model":
        series, queries = (model.TINY, (1, 2)) if tiny else (model.SERIES, model.QUERIES)
        yield from model.measure(series, queries, 1 if tiny else 2)
    elif part == "workers":
        for count in (1, 2):
            yield from workers.measure(count, 48 if tiny else 512)
    else:
        for case in CASES[size]:
            yield scheduler.measure(*case)


def tables(records: list[dict[str, Any]]) -> str:
    """Straight lines, stages against workers, tasks, and the arithmetic of 10^9 documents."""
    text = [
        "| cost of | against | fixed | for each | worst error | off the line at | growth at the end |"
    ]
    text.append("|---|---|---|---|---|---|---|")
    for what, axis, points in series(records):
        fit = line([x for x, _ in points], [cost for _, cost in points])
        off = ", ".join(f"{x:,g}" for x in fit.off) or "nowhere"
        text.append(
            f"| {what} | {axis} | {fit.fixed:.3g} s | {fit.slope:.3g} s | {fit.worst:.0%} | {off} "
            f"| power {fit.power:.2f} |"
        )
    text += ["", "| stage | tasks | workers | CPU-s | wall s |", "|---|---|---|---|---|"]
    for r in (r for r in records if r["part"] == "workers"):
        text.append(
            f"| {r['stage']} | {r['tasks']} | {r['workers']} | {r['cpu']:.2f} | {r['wall']:.2f} |"
        )
    text += [
        "",
        "| tasks | workers | way | bytes of a spec | tasks/s | µs of client, scheduler, worker ",
    ]
    text[-1] += "a task | MB grown: client, scheduler |"
    text.append("|---|---|---|---|---|---|---|")
    for r in (r for r in records if r["part"] == "scheduler"):
        cpu, grown = r["cpu_us"], r["peak_growth_mb"]
        text.append(
            f"| {r['tasks']:,} | {r['workers']} | {r['way']}, log {r['log']} | {r['spec_bytes']:,} "
            f"| {r['tasks'] / r['wall']:.0f} "
            f"| {cpu['client']:.0f}, {cpu['scheduler']:.0f}, {cpu['workers']:.0f} "
            f"| {grown['client']:.0f}, {grown['scheduler']:.0f} |"
        )
    plans = [plan(one, Assumptions()) for one in MODELS]
    text += ["", "| figure | " + " | ".join(one.name for one in MODELS) + " |", "|---|---|---|"]
    text += [f"| {key} | " + " | ".join(f"{p[key]:.3g}" for p in plans) + " |" for key in plans[0]]
    return "\n".join(text)


def series(records: list[dict[str, Any]]) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """What was measured at several points: what, against what, and pairs of x and CPU-seconds."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for r in records:
        if r["part"] == "search" and r["series"] == "rows":
            key = (f"search, queries: {r['queries']}", "documents")
            found.setdefault(key, []).append((r["rows"], r["cpu"]))
        elif r["part"] == "model":
            found.setdefault((r["stage"], r["series"]), []).append((r["x"], r["cpu"]))
    for (what, axis), points in found.items():
        yield what, axis, sorted(points)


if __name__ == "__main__":
    main()
