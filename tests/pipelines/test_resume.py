"""Killed at any moment, and run again: the bytes of an undisturbed run, and no work done twice."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipelines.cluster import Workers
from pipelines.runs import open_run
from tests.pipelines import killed
from tests.pipelines.small import QUERIES, build, digests, quiet, states, traces

REPOSITORY = Path(__file__).parents[2]
STEPS = (
    "tokens/*/shard-*.arrow",
    "model/*/checkpoints/step-*",
    "curvature/*/labels-*.arrow",
    "curvature/*/partial/factors-*",
    "curvature/*/partial/basis-*",
    "curvature/*/partial/eigenvalues-*",
    "gradients/*/store/shard-*.json",
)


@pytest.fixture(scope="module")
def survivor(written, tmp_path_factory):
    """A run that was killed some twenty times; its folder and what each attempt found."""
    folder = tmp_path_factory.mktemp("killed")
    log = folder / "log.jsonl"
    command = [sys.executable, killed.__file__, str(written), str(folder / "runs"), str(log)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    attempts = [json.loads(line) for line in log.read_text().splitlines()]
    return folder / "runs" / "small", attempts, done.stderr


def test_every_kill_landed_and_the_last_attempt_finished(survivor):
    _, attempts, errors = survivor
    missed = [f"{a['when']} {a['pattern']}" for a in attempts[:-1] if not a["killed"]]
    assert not missed, errors
    assert attempts[-1]["status"] == 0, errors


def test_a_run_killed_in_every_stage_has_the_bytes_of_an_undisturbed_one(survivor, finished):
    root, _, _ = survivor
    assert digests(root) == digests(finished.root)
    traces(finished, QUERIES[:1], exact=True, top=3)
    expected = digests(finished.root, exact=True)
    found = digests(root, exact=True)
    assert len(found) == 5
    assert found == {name: expected[name] for name in found}


def test_nothing_that_a_kill_left_is_made_again(survivor):
    root, attempts, _ = survivor
    found = [a["found"] for a in attempts]
    last = {k: list(v) for k, v in states(root).items()}
    for earlier, later in zip(found, [*found[1:], last], strict=True):
        for name, state in earlier.items():
            half = "/store/" in name and name.replace(".arrow", ".json") not in earlier
            if not (half or is_temporary(name) or is_last_save(name)):
                assert later.get(name) in (state, None), name  # None: partial sums, removed


def is_last_save(name):
    """The trained weights, written once more from the last checkpoint until they are sealed."""
    return name.startswith("model/") and "/checkpoints/" not in name


def is_temporary(name):
    return any(part.startswith(".") for part in name.split("/"))


def test_kills_leave_no_temporary_files_for_ever(survivor):
    root, _, _ = survivor
    assert [n for n in states(root) if is_temporary(n)] == []


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_in_every_step_change_no_byte(
    written, finished, tmp_path
):
    stop, hits = threading.Event(), []
    killer = threading.Thread(target=kill_workers, args=(tmp_path / "small", stop, hits))
    killer.start()
    try:
        run = build(written, tmp_path, Workers(2, None, quiet()))
    finally:
        stop.set()
        killer.join()
    assert hits == list(STEPS)
    assert digests(run.root) == digests(finished.root)
    assert traces(open_run(run.root), QUERIES[:1])


def kill_workers(root, stop, hits):
    """Kill one worker process each time that a step's first file appears."""
    todo = list(STEPS)
    while todo and not stop.is_set():
        for pattern in list(todo):
            if next(root.glob(pattern), None) is not None:
                with contextlib.suppress(psutil.Error, IndexError):  # try again
                    busiest(workers())[0].kill()
                    hits.append(pattern)
                    todo.remove(pattern)
        time.sleep(0.002)


def workers():
    """Worker processes of this process: forked from a server, or spawned."""
    found = []
    for server in psutil.Process().children():
        command = " ".join(server.cmdline())
        if "forkserver" in command:
            found += server.children()
        elif "spawn_main" in command:
            found.append(server)
    return found


def busiest(processes):
    """The one that has worked most stands first: it is likely to hold a task."""
    return sorted(processes, key=lambda p: -sum(p.cpu_times()[:2]))
