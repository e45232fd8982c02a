"""Where the work runs: here, in local processes, on somebody's scheduler."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pipelines.cluster import Workers, default_count, report_share
from pipelines.errors import RunError
from tests.pipelines.small import quiet

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Spec:
    number: int


def square(spec):
    report_share(0.5)
    return spec.number**2


def half(spec):
    report_share(0.5)
    time.sleep(0.02)


class Asked(Sequence):
    """Specs that note how far they were asked for, and by `look` how far that was ahead."""

    last = -1
    ahead: list[int] = []

    def __init__(self, count):
        self.count = count
        Asked.last, Asked.ahead = -1, []

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        Asked.last = max(Asked.last, number)
        return Spec(number)


def look(spec):
    Asked.ahead.append(Asked.last - spec.number)
    return fail(spec) if spec.number == 70 else spec.number**2


def whose(spec):
    return os.getpid(), torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


def where_from(spec):
    import pipelines

    return pipelines.__file__


def fail(spec):
    raise RunError(f"Step {spec.number}: nothing given, a number was expected.")


def die(spec):
    os._exit(9)


SPECS = [Spec(n) for n in range(5)]


def test_work_here_keeps_the_order_and_starts_nothing():
    with Workers(0, None, quiet()) as pool:
        assert pool.map(square, SPECS, "Squares") == [0, 1, 4, 9, 16]
        [(process, threads, _)] = pool.map(whose, SPECS[:1], "Who")
    assert process == os.getpid()
    assert threads == 1


def test_no_specs_start_no_worker():
    with Workers(2, "tcp://127.0.0.1:1", quiet()) as pool:
        assert pool.map(square, [], "Nothing") == []


def test_errors_here_reach_the_caller():
    with Workers(0, None, quiet()) as pool, pytest.raises(RunError, match=r"^Step 0: nothing"):
        pool.map(fail, SPECS, "Failing")


def test_local_processes_keep_the_order_and_their_errors_reach_the_caller():
    with Workers(1, None, quiet()) as pool:
        assert pool.map(square, SPECS, "Squares") == [0, 1, 4, 9, 16]
        [(process, _, threads)] = pool.map(whose, SPECS[:1], "Who")
        assert process != os.getpid()
        assert threads == "1"
        with pytest.raises(RunError, match=r"^Step \d: nothing"):
            pool.map(fail, SPECS, "Failing")
        assert pool.map(square, SPECS[:2], "Still there") == [0, 1]


def test_a_running_scheduler_is_used():
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Workers(None, cluster.scheduler_address, quiet()) as pool,
    ):
        assert pool.map(square, SPECS, "Squares") == [0, 1, 4, 9, 16]


def test_a_scheduler_without_workers_is_reported(monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr("pipelines.cluster.PATIENCE", 1.0)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Workers(None, cluster.scheduler_address, quiet()) as pool,
        pytest.raises(RunError, match=r"no worker for 1 seconds.*dask worker"),
    ):
        pool.map(square, SPECS, "Squares")


@contextmanager
def threads(count):
    """Workers that are threads of this process, so that tests see what runs when."""
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=count, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Workers(None, cluster.scheduler_address, quiet()) as pool,
    ):
        yield cluster, pool


def test_tasks_are_handed_over_a_window_at_a_time(monkeypatch):
    monkeypatch.setattr("pipelines.cluster.LEAST_WINDOW", 6)
    monkeypatch.setattr("pipelines.cluster.WINDOW", 1)
    with threads(1) as (cluster, pool):
        assert pool.map(look, Asked(50), "Squares") == [n**2 for n in range(50)]
        assert len(Asked.ahead) == 50
        assert 2 <= max(Asked.ahead) < 12
        until = time.monotonic() + 20
        while cluster.scheduler.tasks and time.monotonic() < until:
            time.sleep(0.05)
        assert not cluster.scheduler.tasks


def test_the_window_grows_with_the_workers(monkeypatch):
    monkeypatch.setattr("pipelines.cluster.LEAST_WINDOW", 1)
    monkeypatch.setattr("pipelines.cluster.WINDOW", 5)
    with threads(4) as (_, pool):
        pool.map(look, Asked(60), "Looking")
    assert 10 <= max(Asked.ahead) < 40


def test_an_error_stops_the_windows_after_it(monkeypatch):
    monkeypatch.setattr("pipelines.cluster.LEAST_WINDOW", 4)
    monkeypatch.setattr("pipelines.cluster.WINDOW", 1)
    with threads(1) as (_, pool):
        with pytest.raises(RunError, match=r"^Step 70: nothing"):
            pool.map(look, Asked(200), "Failing")
        assert 70 < len(Asked.ahead) < 80
        assert pool.map(square, SPECS, "Still there") == [0, 1, 4, 9, 16]


def test_progress_adds_up_with_shares_of_long_tasks(monkeypatch):
    steps = []

    @contextmanager
    def collected(console, label, total):
        yield steps.append

    monkeypatch.setattr("pipelines.cluster.bar", collected)
    monkeypatch.setattr("pipelines.cluster.LEAST_WINDOW", 4)
    with threads(2) as (_, pool):
        pool.map(half, Asked(20), "Halves")
    assert sum(steps) == pytest.approx(20)
    assert 0.5 in steps


def test_workers_import_nothing_from_the_working_folder(tmp_path):
    """Somebody's folder may well be called `pipelines`."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("raise SystemExit('decoy')")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path[:] = [{str(REPOSITORY)!r}, *sys.path[1:]]\n"
        "from pipelines.cluster import Workers\n"
        "from tests.pipelines.test_cluster import SPECS, where_from\n"
        "if __name__ == '__main__':\n"
        "    with Workers(1) as pool:\n"
        "        print(pool.map(where_from, SPECS[:1], 'Where')[0])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(REPOSITORY / "pipelines" / "__init__.py"), done.stderr


def test_a_worker_that_always_dies_is_reported(monkeypatch):
    import dask

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        with (
            Workers(1, None, quiet()) as pool,
            pytest.raises(RunError, match="memory is the usual"),
        ):
            pool.map(die, SPECS[:1], "Dying")


def test_progress_is_one_line_where_nobody_watches():
    out = io.StringIO()
    with Workers(0, None, Console(file=out)) as pool:
        pool.map(square, SPECS, "Squares")
    assert out.getvalue().count("Squares") == 1
    assert "5/5" in out.getvalue()


def test_default_count_is_at_least_one():
    assert 1 <= default_count() <= 8
