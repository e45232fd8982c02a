"""One system in one process: reads the name of a run, prints a line of JSON, until the input ends.

    python -m benchmarks.inputs.worker SYSTEM FOLDER THREADS

The model is loaded before, and every run is done once on a short question before it is timed.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch


def main() -> None:
    system, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    said, sys.stdout = sys.stdout, sys.stderr  # libraries print
    module = importlib.import_module(f"benchmarks.inputs.{system}")
    short, state = module.load(folder / "short"), module.load(folder)
    warm: set[str] = set()
    for line in sys.stdin:
        name = line.strip()
        try:
            if name not in warm:
                module.RUNS[name](short)
                warm.add(name)
            answer = measured(module.RUNS[name], state, folder / f"{system}-{name}.npz")
        except Exception as error:  # a system that fails is left out, with its message
            answer = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(answer), file=said, flush=True)


def measured(run, state, path: Path) -> dict[str, float]:  # type: ignore[no-untyped-def]
    cpu, wall = time.process_time(), time.perf_counter()
    found = run(state)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    np.savez(path, **found)
    return {"cpu": cpu, "wall": wall}


if __name__ == "__main__":
    main()
