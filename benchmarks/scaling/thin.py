"""A Dask scheduler alone in a process, and many thin workers in another one.

A thin worker is a whole Dask worker (its own connection, its own thread for tasks) without a process
of its own, so that a small machine can hold hundreds. What the scheduler does for each of them is
what it does for a real one.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import dask
import psutil


@dataclass(frozen=True)
class Thin:
    """A running cluster, of which each process can be measured apart."""

    address: str
    scheduler: psutil.Process
    workers: psutil.Process


@contextmanager
def thin_cluster(workers: int, log: int) -> Iterator[Thin]:
    """Start a scheduler and so many thin workers, in two processes.

    Args:
        workers: How many.
        log: Messages to each worker that the scheduler keeps (Dask's own default is 1,000).

    Yields:
        The cluster.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    scheduler = context.Process(target=_schedule, args=(there, log), daemon=True)
    scheduler.start()
    started = [scheduler]
    try:
        address = here.recv()
        crowd = context.Process(target=_work, args=(there, address, workers, log), daemon=True)
        crowd.start()
        started.append(crowd)
        here.recv()
        yield Thin(address, psutil.Process(scheduler.pid), psutil.Process(crowd.pid))
    finally:
        for process in reversed(started):
            process.terminate()
            process.join()


def _settings(log: int) -> dict[str, object]:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    return {
        "distributed.admin.low-level-log-length": log,
        "distributed.worker.profile.enabled": False,
        "logging": {"distributed": "critical"},
    }


def _schedule(told: Connection, log: int) -> None:
    from distributed import Scheduler

    async def run() -> None:
        one = Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0")
        async with one:
            told.send(one.address)
            await one.finished()

    with dask.config.set(_settings(log)):
        asyncio.run(run())


def _work(told: Connection, address: str, count: int, log: int) -> None:
    from distributed import Worker

    async def run() -> None:
        crowd = [
            Worker(address, nthreads=1, name=str(i), memory_limit=0, dashboard=False)
            for i in range(count)
        ]
        await asyncio.gather(*crowd)
        told.send(count)
        await asyncio.gather(*(worker.finished() for worker in crowd))

    with dask.config.set(_settings(log)):
        asyncio.run(run())
