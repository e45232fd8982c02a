"""Run a script's stages and be killed with SIGKILL at chosen renames; started as a process.

    python killed.py RUN.yaml RUNS LOG

Every file of a run folder gets its name by one `os.replace`.  This process forks: each child runs the
whole run and dies just before, or just after, the first rename to each of `KINDS` in turn, until one
child finishes.  LOG gets one JSON line a child: what killed it, and the files that it found.
"""

import contextlib
import fnmatch
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import datasets.packaged_modules.json.json  # noqa: F401  (here, not once in every child)
import torch
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

import pipelines.report.trace_page  # noqa: F401
from tests.pipelines import small

torch.set_num_threads(1)
KINDS = (
    ("before", "*/corpus/*/documents.parquet"),
    ("after", "*/corpus/*/documents.parquet"),
    ("before", "*/tokens/*/shard-00002.arrow"),
    ("after", "*/tokens/*/sealed.json"),
    ("after", "*/model/*/checkpoints/step-000004"),
    ("before", "*/model/*/checkpoints/step-000008"),
    ("before", "*/model/*/sealed.json"),
    ("before", "*/curvature/*/partial/factors-*-2-of-3.safetensors"),
    ("after", "*/curvature/*/labels-00003.arrow"),
    ("after", "*/curvature/*/partial/basis-*down_proj.safetensors"),
    ("after", "*/curvature/*/partial/eigenvalues-*-2-of-3.safetensors"),
    ("before", "*/curvature/*/layer-*down_proj.safetensors"),
    ("before", "*/curvature/*/sealed.json"),
    ("after", "*/curvature/*/sealed.json"),
    ("after", "*/gradients/*/store/shard-*.arrow"),  # any: the largest comes first
    ("after", "*/gradients/*/store/shard-*.json"),
    ("before", "*/gradients/*/store/manifest.json"),
    ("after", "*/gradients/*/store/manifest.json"),
    ("before", "*/run.yaml"),
    ("after", "*/exact/*/shard-00002.arrow"),
)


def work(yaml, runs):
    """The run, and an exact trace."""
    run = small.build(Path(yaml), Path(runs))
    small.traces(run, small.QUERIES[:1], exact=True, top=3)


def child(yaml, runs, when, pattern):
    """Work, and die at the first rename to the pattern."""
    replace = os.replace

    def deadly(source, target):
        fatal = fnmatch.fnmatch(str(target), pattern)
        if fatal and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = deadly
    work(yaml, runs)


def main(yaml, runs, log):
    root = Path(runs) / "small"
    for when, pattern in (*KINDS, ("never", "")):
        begun = time.perf_counter()
        before = {k: list(v) for k, v in small.states(root).items()} if root.exists() else {}
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                try:
                    child(yaml, runs, when, pattern)
                    code = 0
                except BaseException:
                    traceback.print_exc()
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status)
        line = {"when": when, "pattern": pattern, "killed": killed, "status": status}
        line["seconds"] = time.perf_counter() - begun
        with Path(log).open("a") as file:
            file.write(json.dumps({**line, "found": before}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
