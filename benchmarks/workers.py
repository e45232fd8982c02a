"""Fit and index with one worker and with two, in turn: by the clock, and by the tasks' own seconds.

    python -m benchmarks.workers [--repeats 3] [--set blocks=6] [--folder FOLDER]

The corpus and the settings are the demo's, hardly trained, as the weights do not matter here.
`by tasks` is the ratio that idle cores would give: processor time of all tasks, over that of the busiest
worker of each step; both with what this process does itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from rich.console import Console

from pipelines.cluster import Workers
from pipelines.config import validate
from pipelines.corpus import document_ids
from pipelines.curvature import build_curvature
from pipelines.demo import DEMO
from pipelines.gradients import build_store
from pipelines.runs import Run, build_run, with_head

COUNTS = (1, 2)
CHANGED = {"epochs": 0.1, "checkpoints": 1}
"""Beside the demo's settings; stages of half a minute on one idle core."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one task of a step took, on the worker that did it."""

    worker: int
    begun: float
    ended: float
    cpu: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call of `Workers.map`."""

    name: str
    wall: float
    own_cpu: float
    """Processor time of this process meanwhile: the scheduler and the nannies."""
    tasks: tuple[Task, ...]

    @property
    def cpu(self) -> float:
        """Processor time of all tasks."""
        return sum(task.cpu for task in self.tasks)

    @property
    def busiest(self) -> float:
        """Processor time of the worker that had most to do."""
        found: dict[int, float] = defaultdict(float)
        for task in self.tasks:
            found[task.worker] += task.cpu
        return max(found.values())


def timed(step: Callable[[Any], Any], spec: Any) -> tuple[Any, Task]:
    """Run one task on a worker, and say how long it took."""
    begun, cpu = time.time(), time.process_time()
    result = step(spec)
    cpu = time.process_time() - cpu
    return result, Task(worker=os.getpid(), begun=begun, ended=time.time(), cpu=cpu)


class TimedWorkers(Workers):
    """Workers that remember what every step took (`steps` grows)."""

    def __init__(self, count: int) -> None:
        super().__init__(count, None, Console(quiet=True))
        self.steps: list[Step] = []

    def map(self, step: Callable[[Any], Any], specs: Sequence[Any], label: str | None) -> list[Any]:
        """As `Workers.map`."""
        wall, cpu = time.perf_counter(), time.process_time()
        found = super().map(partial(timed, step), specs, label)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if found:
            name = label or getattr(step, "__name__", "?")
            tasks = tuple(task for _, task in found)
            self.steps.append(Step(name=name, wall=wall, own_cpu=cpu, tasks=tasks))
        return [result for result, _ in found]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A stage or one of its steps."""

    name: str
    wall: float
    cpu: float
    """Processor time of its tasks, and of this process between them."""
    path: float
    """The same, counting of each step only the worker that had most to do."""


def measured(run: Run, workers: TimedWorkers) -> list[Row]:
    """Start the workers, fit and index, all from nothing."""
    for name in ("curvature", "gradients"):
        shutil.rmtree(run.root / name, ignore_errors=True)
    plain = replace(run.model, head_basis=None)
    rows: list[Row] = []

    def stage(name: str, build: Callable[[], Any]) -> Any:
        first, wall, cpu = len(workers.steps), time.perf_counter(), time.process_time()
        result = build()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        steps = workers.steps[first:]
        alone = cpu - sum(step.own_cpu for step in steps)
        between = wall - sum(step.wall for step in steps)
        parts = [Row(name=f"- {x.name}", wall=x.wall, cpu=x.cpu, path=x.busiest) for x in steps]
        parts.append(Row(name="- this process", wall=between, cpu=alone, path=alone))
        rows.append(
            Row(
                name=name, wall=wall, cpu=sum(x.cpu for x in parts), path=sum(x.path for x in parts)
            )
        )
        rows.extend(parts)
        return result

    stage("start", lambda: workers.map(len, ["x"], "start"))
    fitted = stage(
        "fit",
        lambda: build_curvature(
            run.config, run.root, run.tokens, document_ids(run.corpus), plain, workers
        ),
    )
    stage(
        "index",
        lambda: build_store(
            run.config, run.root, run.corpus, run.tokens, fitted, with_head(plain, fitted), workers
        ),
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, value in (x.split("=", 1) for x in args.set)}
    values = {**yaml.safe_load(DEMO.read_text("utf-8")), **CHANGED, **changes}
    config = validate(values, where="benchmarks/workers.py")
    with tempfile.TemporaryDirectory() as temporary, Workers(0) as here:
        folder = args.folder or Path(temporary)
        unfitted = config.model_copy(update={"curvature": "identity"})
        run = replace(build_run(unfitted, folder, here, store=False), config=config)
        found: dict[int, list[list[Row]]] = {count: [] for count in COUNTS}
        for _ in range(args.repeats):
            for count in COUNTS:
                with TimedWorkers(count) as workers:
                    found[count].append(measured(run, workers))
    print(table(found))


def table(found: dict[int, list[list[Row]]]) -> str:
    """One line a step: medians, and ratios of one worker's to two workers'."""
    head = ["step", "wall s, 1 worker", "2 workers", "ratio", "CPU-s, 1 worker", "2 workers"]
    lines = [[*head, "ratio by tasks"], ["---", *["---:"] * len(head)]]
    for ones, twos in zip(
        *(list(zip(*found[count], strict=True)) for count in COUNTS), strict=True
    ):
        if max(row.wall for row in ones) < 0.05:
            continue
        figures = []
        for key in ("wall", "cpu"):
            figures.append([median(getattr(row, key) for row in rows) for rows in (ones, twos)])
        wall, tasks = (
            median(
                getattr(a, key) / max(getattr(b, key), 1e-9)
                for a, b in zip(ones, twos, strict=True)
            )
            for key in ("wall", "path")
        )
        numbers = [*figures[0], wall, *figures[1], tasks]
        lines.append([ones[0].name, *(f"{x:.2f}" for x in numbers)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
