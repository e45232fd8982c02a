"""The stages of a real run on one and on two local worker processes."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
from rich.console import Console

from pipelines.cluster import WORKER_ENVIRONMENT, Workers
from pipelines.config import RunConfig
from pipelines.runs import build_run

SETTINGS: dict[str, Any] = {
    "name": "scaling",
    "train": "scratch",
    "vocabulary": 300,
    "hidden_size": 64,
    "mlp_size": 192,
    "blocks": 2,
    "heads": 4,
    "epochs": 1.0,
    "checkpoints": 1,
    "train_threads": 1,
    "max_tokens": 64,
    "documents_per_shard": 16,
    "partitions": 8,
    "device": "cpu",
}
WORDS = ("the", "road", "to", "a", "hill", "is", "long", "and", "green", "says", "Ada", "twice")


class Timed:
    """Workers that note wall seconds and the workers' processor time of each step."""

    def __init__(self, pool: Workers, client: Any) -> None:
        self.pool, self.client = pool, client
        self.records: list[dict[str, Any]] = []

    def map(self, step: Callable[[Any], Any], specs: Sequence[Any], label: str | None) -> list[Any]:
        wall, before = time.perf_counter(), self._used()
        results = self.pool.map(step, specs, label)
        record = {"stage": label or step.__name__, "tasks": len(specs)}
        record |= {"wall": time.perf_counter() - wall, "cpu": self._used() - before}
        self.records.append(record)
        return results

    def _used(self) -> float:
        return sum(self.client.run(time.process_time).values())


def measure(workers: int, documents: int) -> Iterator[dict[str, Any]]:
    """Run every stage from nothing.

    Args:
        workers: Local processes of one thread.
        documents: Synthetic documents of some 40 tokens.

    Yields:
        One record a stage.
    """
    from distributed import Client, LocalCluster

    settings = {"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(settings),
        LocalCluster(workers, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        Workers(None, cluster.scheduler_address, Console(file=io.StringIO())) as pool,
    ):
        client.run(imported)
        timed = Timed(pool, client)
        build_run(RunConfig(**SETTINGS, data=corpus(Path(folder), documents)), folder, timed)
        for record in timed.records:
            yield {"part": "workers", "workers": workers, **record}


def imported() -> None:
    """Import what tasks need, before the clock starts."""
    import pipelines.preloaded  # noqa: F401


def corpus(folder: Path, documents: int) -> list[str]:
    draw = np.random.default_rng(0)
    lines = [
        json.dumps({"text": f"{number}: " + " ".join(draw.choice(WORDS, 16))})
        for number in range(documents)
    ]
    (folder / "docs.jsonl").write_text("\n".join(lines))
    about = {"name": "docs", "format": "jsonl", "paths": [str(folder / "docs.jsonl")]}
    (folder / "docs.yaml").write_text(json.dumps(about))
    return [str(folder / "docs.yaml")]
