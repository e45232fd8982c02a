"""Input attribution in children that die, by SIGKILL, at one rename after the other."""

import io
import os
import signal
from pathlib import Path

from rich.console import Console

from influence.inputs.explain import How, Question
from pipelines import inputs as stage
from pipelines.cluster import Workers
from pipelines.input_models import find_model
from pipelines.input_questions import ask
from pipelines.inputs import InputsOptions, run_inputs

ASK = Question(prompt="", completion="", unit="word")
PROMPT = "The road 3 from Oslo to"
QUESTIONS = [
    ask({"id": word, "prompt": PROMPT, "completion": f" {word}"}, ASK, "test")
    for word in ("Lima", "Rome")
]
OPTIONS = {"methods": "occlusion,saliency", "how": How(heldout=6), "attention": True}


def run_until_done(model: Path, root: Path) -> list[dict]:
    """Fork until a child survives; each dies at the next rename, before or after it by turns.

    Returns:
        For each child whether it was killed, and the files that stood then.
    """
    attempts = []
    for number in range(60):
        child = os.fork()
        if child == 0:
            _work(model, root, number)
        _, status = os.waitpid(child, 0)
        files = [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()]
        found = sorted(f for f in files if not Path(f).name.startswith("."))
        attempts.append({"killed": os.WIFSIGNALED(status), "found": found})
        if not attempts[-1]["killed"]:
            assert os.waitstatus_to_exitcode(status) == 0
            return attempts
    raise AssertionError("it never finished")


def _work(model: Path, root: Path, number: int) -> None:
    status = 1
    try:
        replace, before = os.replace, number % 2 == 0

        def dying(source, target):
            if not before:
                replace(source, target)
            os.kill(os.getpid(), signal.SIGKILL)

        if number < 24:
            os.replace = dying
        stage.PART_ROWS = 4
        with Workers(0, None, Console(file=io.StringIO())) as pool:
            found = find_model(str(model), root, device="cpu")
            list(run_inputs(found.spec, QUESTIONS, InputsOptions(**OPTIONS), root, pool))
        status = 0
    finally:
        os._exit(status)
