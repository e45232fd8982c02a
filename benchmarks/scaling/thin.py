"""A Dask scheduler alone in a process, and many thin workers in another one.

A thin worker is a whole Dask worker (its own connection, its own thread for tasks) without a process
of its own, so that a small machine can hold hundreds.  What the scheduler does for each of them is
what it does for a real one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import dask
import psutil

SETTINGS = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "logging": {"distributed": "critical"},
}


@dataclass(frozen=True)
class Thin:
    """A running cluster; each part's CPU-seconds and memory can be read apart."""

    address: str
    scheduler: psutil.Process
    workers: psutil.Process


@contextmanager
def thin_cluster(workers: int) -> Iterator[Thin]:
    """Start a scheduler and so many thin workers, in two processes.

    Args:
        workers: How many.

    Yields:
        The cluster.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    scheduler = context.Process(target=_schedule, args=(there,), daemon=True)
    scheduler.start()
    address = here.recv()
    crowd = context.Process(target=_work, args=(there, address, workers), daemon=True)
    crowd.start()
    assert here.recv() == workers
    try:
        yield Thin(address, psutil.Process(scheduler.pid), psutil.Process(crowd.pid))
    finally:
        for process in (crowd, scheduler):
            process.terminate()
            process.join()


def _schedule(told: Connection) -> None:
    from distributed import Scheduler

    async def run() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as one:
            told.send(one.address)
            await one.finished()

    with dask.config.set(SETTINGS):
        asyncio.run(run())


def _work(told: Connection, address: str, count: int) -> None:
    from distributed import Worker

    async def run() -> None:
        crowd = [Worker(address, nthreads=1, name=str(i), memory_limit=0) for i in range(count)]
        await asyncio.gather(*crowd)
        told.send(count)
        await asyncio.gather(*(worker.finished() for worker in crowd))

    with dask.config.set(SETTINGS):
        asyncio.run(run())
