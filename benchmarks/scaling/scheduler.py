"""What tasks cost besides their work: CPU-seconds and memory of scheduler and client, tasks a second.

The tasks do nothing and return what a real one returns, a file's name; their specs are those of the
gradient store, with the ids of 256 documents (``ids``), or a number alone (``thin``).
"""

from __future__ import annotations

import io
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from rich.console import Console

from benchmarks.scaling.thin import Thin, thin_cluster
from gradients_store import Header
from pipelines.cluster import Workers
from pipelines.gradient_files import IndexSpec
from pipelines.worker import ModelSpec

DOCUMENTS = 256
KEY = "0123456789abcdef"


@dataclass(frozen=True)
class ThinSpec:
    """A spec that carries the number of its shard."""

    shard: int


class Specs(Sequence[Any]):
    """Specs that are made when they are asked for."""

    def __init__(self, count: int, kind: str) -> None:
        self.count, self.make = count, {"ids": index_spec, "thin": ThinSpec}[kind]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: Any) -> Any:
        if number >= self.count:
            raise IndexError(number)
        return self.make(number)


def index_spec(shard: int) -> IndexSpec:
    """A spec as the gradient store's, for a model of 210 tracked layers."""
    layers = [f"model.layers.{i}.part.{j}_proj" for i in range(30) for j in range(7)]
    header = Header(
        **dict.fromkeys(("model", "tokenizer", "corpus", "curvature"), KEY),
        layers=tuple(layers),
        curvature_kind="ekfac",
        damping=0.1,
        sketch="top-eigen",
        sketch_size=4096,
        sketch_seed=None,
        sketch_coordinates=KEY,
        dtype="int8",
        dimension=4096,
        n_documents=10**9,
        shard_documents=DOCUMENTS,
    )
    first = shard * DOCUMENTS
    return IndexSpec(
        model=ModelSpec(source="/shared/model", fingerprint=KEY),
        tokens=f"/shared/runs/big/tokens/{KEY}",
        curvature=f"/shared/runs/big/curvature/{KEY}",
        damping=0.1,
        sketch=f"/shared/runs/big/gradients/{KEY}/sketch.safetensors",
        store=f"/shared/runs/big/gradients/{KEY}/store",
        header=header,
        shard=shard,
        first=first,
        ids=tuple(f"{first + i:032x}" for i in range(DOCUMENTS)),
        sources=("web",) * DOCUMENTS,
        languages=("en",) * DOCUMENTS,
        token_budget=2048,
        exact_self_influence=True,
    )


def named(spec: Any) -> str:
    """The task: what `index_shard` returns, without its work."""
    return f"shard-{spec.shard:05d}.arrow"


def at_once(address: str, specs: Sequence[Any]) -> list[str]:
    """All tasks handed over at once, and all results fetched at the end."""
    from distributed import Client, as_completed

    with Client(address) as client:
        futures = [client.submit(named, spec, pure=False) for spec in specs]
        for future in as_completed(futures):
            future.result()
        return [future.result() for future in futures]


def windowed(address: str, specs: Sequence[Any]) -> list[str]:
    """As the pipelines do it."""
    with Workers(None, address, Console(file=io.StringIO())) as pool:
        return pool.map(named, specs, "Tasks")


WAYS: dict[str, Callable[[str, Sequence[Any]], list[str]]] = {
    "at once": at_once,
    "windowed": windowed,
}


def measure(tasks: int, workers: int, kind: str, way: str, log: int) -> dict[str, Any]:
    """Run so many tasks on a fresh cluster of thin workers.

    Args:
        tasks: How many.
        workers: Thin workers.
        kind: ``ids`` or ``thin`` specs.
        way: A key of ``WAYS``.
        log: Messages to each worker that the scheduler keeps.

    Returns:
        A record: microseconds of processor time and bytes a task, by process.
    """
    specs = Specs(tasks, kind)
    with thin_cluster(workers, log) as thin:
        WAYS["windowed"](thin.address, Specs(2 * workers, "thin"))
        with watched(thin) as growth:
            begun, before = time.perf_counter(), used(thin)
            names = WAYS[way](thin.address, specs)
            wall, after = time.perf_counter() - begun, used(thin)
    assert names == [f"shard-{i:05d}.arrow" for i in range(tasks)]
    return {
        "part": "scheduler",
        "tasks": tasks,
        "workers": workers,
        "specs": kind,
        "spec_bytes": len(pickle.dumps(specs[1])),
        "way": way,
        "log": log,
        "wall": wall,
        "cpu_us": {k: (after[k] - before[k]) / tasks * 1e6 for k in after},
        "peak_growth_mb": {k: v / 1e6 for k, v in growth.items()},
    }


def processes(thin: Thin) -> dict[str, psutil.Process]:
    return {"client": psutil.Process(), "scheduler": thin.scheduler, "workers": thin.workers}


def used(thin: Thin) -> dict[str, float]:
    """Seconds of processor time of each process."""
    return {k: sum(p.cpu_times()[:2]) for k, p in processes(thin).items()}


@contextmanager
def watched(thin: Thin) -> Iterator[dict[str, int]]:
    """By how much each process's memory grew at most."""
    first = {k: p.memory_info().rss for k, p in processes(thin).items()}
    growth = dict.fromkeys(first, 0)
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for k, p in processes(thin).items():
                growth[k] = max(growth[k], p.memory_info().rss - first[k])

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield growth
    finally:
        over.set()
        watcher.join()
