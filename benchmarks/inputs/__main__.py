"""`make bench-inputs`: every system on one question, in turn; writes results/inputs.md.

    python -m benchmarks.inputs [--repeats 3] [--model FOLDER] [--prompt-tokens 200]
                                [--target-tokens 30] [--steps 32] [--slow-repeats 1] [--name inputs]

Without `--model`, a random Llama: width 256, 4 layers, MLP 768, vocabulary 4096, 1 thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.inputs.setting import prepare
from benchmarks.inputs.table import agreement, page
from benchmarks.speed.__main__ import ONE_THREAD, RESULTS, ROOT, describe_machine, git

RUNS = (
    ("ours", "leave-one-out"),
    ("ours", "integrated gradients"),
    ("ours", "integrated gradients, steps by need"),
    ("ours", "integrated gradients, first token only"),
    ("ours", "surrogate"),
    ("captum_peer", "leave-one-out, forward_in_tokens=False"),
    ("context_cite_peer", "surrogate"),
    ("context_cite_peer", "surrogate, batch_size=16"),
    ("ours", "surrogate of their masks"),
    ("captum_peer", "integrated gradients"),
    ("inseq_peer", "integrated gradients"),
    ("captum_peer", "leave-one-out, use_cached_outputs=False"),
    ("captum_peer", "leave-one-out, default"),
    ("inseq_peer", "leave-one-out"),
)
"""System and run, in the order of a turn; the last of ours reads ContextCite's masks."""
TOKEN_BY_TOKEN = {
    ("captum_peer", "leave-one-out, use_cached_outputs=False"),
    ("captum_peer", "leave-one-out, default"),
    ("captum_peer", "integrated gradients"),
    ("inseq_peer", "leave-one-out"),
    ("inseq_peer", "integrated gradients"),
}
"""Minutes each, so they come last and once, unless asked for."""
SHORT = {"prompt_tokens": 24, "target_tokens": 2, "steps": 8}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slow-repeats", type=int, default=1)
    parser.add_argument("--model", default="")
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--target-tokens", type=int, default=30)
    parser.add_argument("--steps", type=int, default=32, help="8, 16, 32, ... of the gradients")
    parser.add_argument("--name", default="inputs", help="of the page in benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {"prompt_tokens": args.prompt_tokens, "target_tokens": args.target_tokens}
        prepare(folder, model=args.model, steps=args.steps, **sizes)
        prepare(folder / "short", model=args.model, **SHORT)
        found: dict[str, Any] = {
            "setting": vars(args),
            "machine": describe_machine(),
            "code": git("rev-parse", "--short", "HEAD").decode().strip(),
            "load": [os.getloadavg()[0]],
            "records": [],
        }
        for record in run(folder, args.repeats, args.slow_repeats):
            found["records"].append(record)
            found["agreement"] = agreement(folder)
            found["load"] = [found["load"][0], os.getloadavg()[0]]
            write(found, args.name)
    print(page(found))


def write(found: dict[str, Any], name: str) -> None:
    """What there is so far, so that a run that is cut short is not lost."""
    (RESULTS / f"{name}.md").write_text(page(found))
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def run(folder: Path, repeats: int, slow_repeats: int) -> Iterator[dict[str, Any]]:
    """Time every run of every system, all in turn; after each of the slow ones ours again."""
    workers = {system: start(system, folder) for system in dict(RUNS)}
    fast = [pair for pair in RUNS if pair not in TOKEN_BY_TOKEN]
    slow = [pair for pair in RUNS if pair in TOKEN_BY_TOKEN]
    beside = [pair for one in slow for pair in (one, ("ours", one[1].partition(",")[0]))]
    try:
        for system, name in fast * repeats + beside * slow_repeats:
            yield {"system": system, "name": name, **ask(workers[system], system, name)}
    finally:
        for worker in workers.values():
            if worker is not None:
                worker.kill()
                worker.communicate()


def start(system: str, folder: Path) -> subprocess.Popen[str] | None:
    """A process with the system and the model loaded; None where it is not installed."""
    own = system in ("inseq_peer", "context_cite_peer")
    python = ROOT / ".venv-attribution" / "bin" / "python" if own else Path(sys.executable)
    if not python.exists():
        print(f"{system}: {python.relative_to(ROOT)} is not there", file=sys.stderr)
        return None
    command = [str(python), "-m", "benchmarks.inputs.worker", system, str(folder)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def ask(worker: subprocess.Popen[str] | None, system: str, name: str) -> dict[str, Any]:
    """One run of one system: seconds, or why there are none."""
    found: dict[str, Any] = {"failed": "it is not installed"}
    if worker is not None and worker.poll() is None:
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(name + "\n")
            worker.stdin.flush()
            found = json.loads(worker.stdout.readline() or '{"failed": "its process ended"}')
        except BrokenPipeError:
            found = {"failed": "its process ended"}
    seconds = (
        f"{found['cpu']:8.2f} CPU-s {found['wall']:8.2f} s" if "cpu" in found else found["failed"]
    )
    print(f"{system:20}{name:45}{seconds}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
