"""`make bench`: every system, stage by stage, in turn; see README.md.

    python -m benchmarks.speed [--size small] [--repeats 3] [--systems ours kronfluence bergson]
                               [--revision COMMIT] [--rows 32]

With `--rows` no batch sizes are tried: all systems get this one.

The code is copied at the start (or taken from a commit), so that edits during a run do not matter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.setting import SIZES, prepare
from benchmarks.speed.table import table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
STAGES = {
    "ours": ("fit", "index", "factors", "scores"),
    "curvlinops": ("fit",),
    "kronfluence": ("fit", "scores"),
    "bergson": ("fit", "index", "scores"),
}
BOUNDS = ("forward", "without_weights", "with_weights", "machine")
ROWS = (8, 16, 32, 64)
TUNED_ON = 1 / 8
COMPARED = ("tiny", "small")
"""Sizes that are also run with empirical labels, where all systems must agree."""
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--systems", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--revision", default="")
    parser.add_argument("--rows", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        code = copy_code(args.revision, Path(folder))
        prepare(SIZES[args.size], Path(folder))
        print(write(run(args, code, Path(folder))))


def write(found: dict[str, Any]) -> str:
    """Write the page and its records, and return the page."""
    text = table(found)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"speed-{found['size']}.md").write_text(text)
    (RESULTS / f"speed-{found['size']}.json").write_text(json.dumps(found, indent=1) + "\n")
    return text


def copy_code(revision: str, folder: Path) -> str:
    """Put the library, as it is or as it was, and this benchmark into `folder/code`; name it."""
    code = folder / "code"
    shutil.copytree(ROOT / "benchmarks" / "speed", code / "benchmarks" / "speed")
    if not revision:
        shutil.copytree(ROOT / "influence", code / "influence")
        changed = git("status", "--porcelain", "influence")
        return git("rev-parse", "--short", "HEAD").decode().strip() + " with changes" * bool(
            changed
        )
    archive = git("archive", revision, "influence")
    subprocess.run(["tar", "-x", "-C", str(code)], input=archive, check=True)
    return git("rev-parse", "--short", revision).decode().strip()


def git(*command: str) -> bytes:
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, check=True).stdout


def run(args: argparse.Namespace, code: str, folder: Path) -> dict[str, Any]:
    """Tune the batch sizes, time everything in turn, and compare the scores.

    What there is so far is written after every process, so that a run that is cut short is not lost.
    """
    systems: list[str] = args.systems
    stages = [
        (x, s) for s in ("fit", "index", "factors", "scores") for x in systems if s in STAGES[x]
    ]
    bounds = [("bounds", stage) for stage in BOUNDS]
    runner = Runner(size=args.size, folder=folder)
    tuned = [] if args.rows else tune(runner, [*stages, *bounds[:-1]])
    chosen = {(found["system"], found["stage"]): found["rows"] for found in tuned}
    rows = {pair: chosen.get(pair, args.rows or 64) for pair in [*stages, *bounds]}
    records: list[dict[str, Any]] = []
    agreements: dict[str, dict[str, float]] = {"sampled": {}, "empirical": {}}
    found = {
        "size": args.size,
        "code": code,
        "setting": vars(SIZES[args.size]),
        "repeats": args.repeats,
        "systems": systems,
        "machine": describe_machine(),
        "tuned": tuned,
        "records": records,
        "failed": runner.failed,
        "agreement": agreements,
    }
    for repeat in range(args.repeats):
        for pair in rows:
            one = runner.run(*pair, [rows[pair]])
            if one:
                records.append({**one, "repeat": repeat})
                write(found)
    for pair in stages if args.size in COMPARED else []:
        if pair[1] in ("fit", "scores"):
            runner.run(*pair, [rows[pair]], labels="empirical")
    for labels in agreements:
        agreements[labels] = agreement({x: load_scores(folder, x, labels) for x in systems})
    return found


def tune(runner: Runner, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The best batch size of every stage, on a part of the documents."""
    tuned = []
    for pair in pairs:
        found = runner.run(*pair, ROWS, share=TUNED_ON)
        if found:
            tuned.append(found)
            if pair[1] == "fit":  # tuning the later stages needs some fit
                runner.run(*pair, [found["rows"]], share=TUNED_ON)
    return tuned


@dataclass(kw_only=True)
class Runner:
    """Runs stages in processes of their own; `failed` says why a system is left out (it changes)."""

    size: str
    folder: Path
    failed: dict[str, str] = field(default_factory=dict)

    def run(
        self, system: str, stage: str, rows: Sequence[int], *, share: float = 1.0, labels: str = ""
    ) -> dict[str, Any] | None:
        """One stage of one system; None if the system has failed, now or before."""
        if not Path(interpreter(system)).exists():
            self.failed[system] = "it is not installed"
        if system in self.failed:
            return None
        labels = labels or "sampled"
        command = [interpreter(system), "-m", "benchmarks.speed.worker", system, stage, self.size]
        command += [str(self.folder), "--labels", labels, "--share", str(share), "--rows"]
        done = subprocess.run(
            command + [str(r) for r in rows],
            cwd=self.folder / "code",
            env={**os.environ, **ONE_THREAD},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            why = (done.stderr.strip() or "no message").splitlines()[-1]
            self.failed[system] = f"{stage}: {why}".replace(f"{ROOT}/", "")
            print(f"{system} {self.failed[system]}", file=sys.stderr, flush=True)
            return None
        found = json.loads(done.stdout.strip().splitlines()[-1])
        figures = f"{found['cpu']:8.2f} CPU-s {found['wall']:8.2f} s {found['peak']:7.0f} MiB"
        what = f"{system} {stage}, {labels} labels, {found['rows']} rows, {share:.0%}"
        print(f"{what:60}{figures}", file=sys.stderr, flush=True)
        return {"system": system, "stage": stage, **found}


def interpreter(system: str) -> str:
    own = ROOT / ".venv-bergson" / "bin" / "python"
    return str(own) if system == "bergson" else sys.executable


def load_scores(folder: Path, system: str, labels: str) -> np.ndarray | None:
    path = folder / f"{system}-{labels}" / "scores" / "scores.npy"
    return np.load(path) if path.exists() else None


def agreement(scores: dict[str, np.ndarray | None]) -> dict[str, float]:
    """Pearson's correlation over all pairs of query and document, for every two systems."""
    there = [(name, value) for name, value in scores.items() if value is not None]
    return {
        f"{a} / {b}": float(np.corrcoef(x.ravel(), y.ravel())[0, 1])
        for i, (a, x) in enumerate(there)
        for b, y in there[i + 1 :]
    }


def describe_machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {"cores": os.cpu_count(), "processor": models[0] if models else "unknown"}


if __name__ == "__main__":
    main()
