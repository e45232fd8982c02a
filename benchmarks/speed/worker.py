"""One process: one stage of one system, measured; prints one line of JSON.

    python -m benchmarks.speed.worker SYSTEM STAGE SIZE FOLDER [--labels L] [--rows R ...] [--share S]

Model, documents and imports come before the clock starts, then a warm-up on one batch.  With
several ROWS each batch size is tried once, and the smallest within 2 % of the fewest CPU-seconds is told.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.setting import SIZES, Job, load_tokens

MODULES = {
    "ours": "benchmarks.speed.ours",
    "curvlinops": "benchmarks.speed.ours",
    "kronfluence": "benchmarks.speed.kronfluence_peer",
    "bergson": "benchmarks.speed.bergson_peer",
    "bounds": "benchmarks.speed.bounds",
}
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("system")
    parser.add_argument("stage")
    parser.add_argument("size")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", default="sampled")
    parser.add_argument("--rows", type=int, nargs="+", default=[64])
    parser.add_argument("--share", type=float, default=1.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    job = job_of(args)
    module = importlib.import_module(MODULES[args.system])
    state = module.load(job)
    stage = module.STAGES[args.stage]
    found = []
    for rows in sorted({min(rows, len(job.documents)) for rows in args.rows}):
        one = replace(job, rows=rows)
        warm_up(stage, state, one)
        found.append({"rows": one.rows, **measured(lambda one=one: stage(state, one))})
        if len(args.rows) > 1:
            empty(job.out)
    fewest = min(record["cpu"] for record in found)
    best = next(record for record in found if record["cpu"] <= 1.02 * fewest)
    tried = [{"rows": record["rows"], "cpu": record["cpu"]} for record in found]
    print(json.dumps({**best, "tried": tried, "torch": torch.__version__}))


def job_of(args: argparse.Namespace) -> Job:
    documents, queries = load_tokens(args.folder)
    results = args.folder / f"{args.system}-{args.labels}"
    out = results / args.stage
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return Job(
        system=args.system,
        stage=args.stage,
        size=SIZES[args.size],
        labels=args.labels,
        rows=args.rows[0],
        documents=documents[: int(len(documents) * args.share)],
        queries=queries,
        model=args.folder / "model",
        fitted=results / "fit",
        out=out,
    )


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def warm_up(stage: Callable[[Any, Job], Any], state: Any, job: Job) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stage(state, replace(job, documents=job.documents[: job.rows], out=Path(folder)))


def measured(call: Callable[[], Any]) -> dict[str, Any]:
    """CPU-seconds (user and system, children included), wall seconds and memory of one call."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident()
    forget_peak()
    cpu, wall = cpu_seconds(), time.perf_counter()
    extra = call()
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    peak = peak_resident()
    return {
        "cpu": cpu,
        "wall": wall,
        "peak": peak / MIB,
        "growth": max(peak - before, 0) / MIB,
        **(extra or {}),
    }


def cpu_seconds() -> float:
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, both))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # then the peak is that of the whole process
        pass


def peak_resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
