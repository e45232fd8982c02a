"""Where the work runs: local Dask processes, somebody's Dask scheduler, or this very process.

``Workers.map`` is the one line of a pipeline on which Dask stands.  A task gets a small frozen spec
and returns a path or a few numbers; models and gradients never travel in the graph.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipelines.errors import RunError

Spec = TypeVar("Spec")
Result = TypeVar("Result")
TOPIC = "influence-progress"
PATIENCE = 60.0
"""Seconds without any worker after which a stage gives up."""
WINDOW, LEAST_WINDOW = 4, 64
"""Tasks that are handed to Dask at once, for each thread of the workers, and at least."""

WORKER_ENVIRONMENT = {
    # one thread a worker; waiting threads must not spin on shared cores; freed memory is kept, as
    # giving it back at every step costs a quarter of the time in page faults
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_TRIM_THRESHOLD_": "134217728",
    "MALLOC_MMAP_THRESHOLD_": "67108864",
    "MALLOC_TOP_PAD_": "33554432",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "PYTHONSAFEPATH": "1",
}

PRELOADED = "pipelines.preloaded"
"""Imported once by the server that local workers are forked from, which saves each of them ten
seconds and 300 MB.  (Never with a GPU: CUDA does not survive a fork.)"""


class Workers:
    """Workers that start when the first task needs them (a context manager, hence its state).

    Args:
        count: Local processes; None: one a core (at most 8) or one a GPU; 0: this very process.
        scheduler: Address of a running Dask scheduler (``tcp://...``, ``tls://...``), or None.
        console: Where progress goes; None: standard error.
    """

    def __init__(
        self, count: int | None = None, scheduler: str | None = None, console: Console | None = None
    ) -> None:
        self.count = count
        self.scheduler = scheduler
        self.console = console or Console(stderr=True)
        self._stack = ExitStack()
        self._client: Any = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._client = None

    def map(
        self, step: Callable[[Spec], Result], specs: Sequence[Spec], label: str | None
    ) -> list[Result]:
        """Run a step for every spec, with a progress bar.

        Args:
            step: A module-level function of one spec.
            specs: Small, picklable, frozen.
            label: What the progress bar says; None: too short for a bar.

        Returns:
            The results in the order of the specs.
        """
        if not specs:
            return []
        shown = bar(self.console, label, len(specs)) if label else nullcontext(_no_bar)
        with shown as advance:
            if self.scheduler is None and self.count == 0:
                return _here(step, specs, advance)
            return _on_dask(self._started(), step, specs, advance)

    def _started(self) -> Any:
        if self._client is None:
            self._client = self._stack.enter_context(_client(self.count, self.scheduler))
        return self._client


def _no_bar(_steps: float) -> None:
    pass


def default_count() -> int:
    """Local workers by default.

    Returns:
        One a GPU, else one a usable core, at most 8.
    """
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(1, min(8, len(os.sched_getaffinity(0))))


def _here(
    step: Callable[[Spec], Result], specs: Sequence[Spec], advance: Callable[[float], None]
) -> list[Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on a worker, so that the bytes are the same
    try:
        results = []
        for spec in specs:
            results.append(step(spec))
            advance(1.0)
        return results
    finally:
        torch.set_num_threads(threads)


def _on_dask(
    client: Any,
    step: Callable[[Spec], Result],
    specs: Sequence[Spec],
    advance: Callable[[float], None],
) -> list[Result]:
    from distributed.scheduler import KilledWorker

    reported: dict[str, float] = {}
    lock = threading.Lock()  # events come in a thread of their own

    def on_event(event: tuple[float, dict[str, Any]]) -> None:
        task, share = event[1]["task"], float(event[1]["share"])
        with lock:
            if task in reported:  # else it is finished, or another stage's
                advance(share - reported[task])
                reported[task] = share

    client.subscribe_topic(TOPIC, on_event)
    outstanding: dict[Any, int] = {}
    results: dict[int, Result] = {}
    try:
        with _watched(client, outstanding):
            for future, result in _windowed(client, step, specs, outstanding, reported):
                results[outstanding.pop(future)] = result
                with lock:
                    advance(1.0 - reported.pop(future.key))
        return [results[number] for number in range(len(specs))]
    except KilledWorker as error:
        raise RunError(
            f"Workers: a worker died several times on one task ({error}), memory is the usual "
            "cause. Lower `token_budget` or `workers`, then run again: finished work is kept."
        ) from None
    finally:
        client.cancel(list(outstanding))
        client.unsubscribe_topic(TOPIC)


def _windowed(
    client: Any,
    step: Callable[[Spec], Result],
    specs: Sequence[Spec],
    outstanding: dict[Any, int],
    reported: dict[str, float],
) -> Iterator[tuple[Any, Result]]:
    """Results as they come; tasks are handed over a window at a time.

    Client and scheduler hold some 100 kB a task that is not finished, and the specs are pickled when
    their window comes: so both stay flat however many tasks a stage has.

    Yields:
        A finished future and its result.
    """
    from distributed import as_completed

    finished, begun = as_completed(), 0
    while begun < len(specs) or outstanding:
        window = _window(client)
        if begun < len(specs) and len(outstanding) <= window // 2:
            numbers = range(begun, min(len(specs), begun + window - len(outstanding)))
            futures = client.map(step, [specs[n] for n in numbers], pure=False)
            reported.update((future.key, 0.0) for future in futures)
            outstanding.update(zip(futures, numbers, strict=True))
            finished.update(futures)
            begun = numbers.stop
        batch = finished.next_batch()
        yield from zip(batch, client.gather(batch), strict=True)


def _window(client: Any) -> int:
    """How many tasks may be handed over at once; more as workers come."""
    return max(LEAST_WINDOW, WINDOW * client.scheduler_info(n_workers=0)["total_threads"])


@contextmanager
def _watched(client: Any, outstanding: Mapping[Any, int]) -> Iterator[None]:
    """Give up, with a message, when no worker is left to do the work (Dask waits for ever)."""
    from distributed import CancelledError

    done, lost = threading.Event(), threading.Event()

    def watch() -> None:
        empty = 0
        while not done.wait(PATIENCE / 4):
            empty = 0 if client.scheduler_info(n_workers=-1)["workers"] else empty + 1
            if empty >= 4:
                lost.set()
                client.cancel(list(outstanding))
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except CancelledError:
        if not lost.is_set():
            raise
        raise RunError(
            f"Workers: scheduler {client.scheduler.address} has had no worker for {PATIENCE:g} "
            "seconds, at least one was expected. Start workers (`dask worker ADDRESS --nthreads 1`), "
            "or leave out --scheduler; then run again: finished work is kept."
        ) from None
    finally:
        done.set()
        watcher.join()


def report_share(share: float) -> None:
    """From inside a long task: how much of it is done, between 0 and 1; a no-op elsewhere.

    Args:
        share: The share that is done.
    """
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return
    task = worker.get_current_task()
    worker.log_event(TOPIC, {"task": task, "share": min(share, 0.999)})


@contextmanager
def _client(count: int | None, scheduler: str | None) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    settings = {
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.admin.log-format": "%(message)s",
        # else the scheduler keeps the last 1,000 messages to each worker, with the specs in them
        "distributed.admin.low-level-log-length": 0,
        "distributed.worker.multiprocessing-method": _start_method(),
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        if scheduler is None:
            _preload()
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=count or default_count(),
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address="127.0.0.1:0",  # any free port
                    silence_logs=logging.CRITICAL,
                )
            )
            yield stack.enter_context(Client(cluster))
            return
        try:
            client = Client(scheduler, timeout=10)
        except (OSError, ValueError) as error:
            raise RunError(
                f"Scheduler {scheduler}: not reachable ({type(error).__name__}: {error}), a running Dask "
                "scheduler was expected. Start one with `dask scheduler`, check the address and the "
                "TLS settings, or leave out --scheduler to use this machine."
            ) from None
        yield stack.enter_context(client)


def _start_method() -> str:
    servers = "forkserver" in multiprocessing.get_all_start_methods()
    return "forkserver" if servers and not torch.cuda.is_available() else "spawn"


def _preload() -> None:
    """Tell the server of the workers what to import; distributed's own list is set first."""
    from distributed.utils import get_mp_context

    context = get_mp_context()
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([PRELOADED])


@contextmanager
def bar(console: Console, label: str, total: float) -> Iterator[Callable[[float], None]]:
    """A progress bar on a terminal; one line when it ends elsewhere.

    Args:
        console: Where to.
        label: What is going on.
        total: How many steps.

    Yields:
        ``advance(steps)``.
    """
    progress = Progress(
        TextColumn("{task.description:<42}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=False,
    )
    with progress:
        task = progress.add_task(label, total=total)

        def advance(steps: float) -> None:
            progress.advance(task, steps)

        yield advance
