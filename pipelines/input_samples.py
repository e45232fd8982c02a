"""What else the model might have said: answers sampled and grouped by meaning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from influence.inputs.explain import Question, as_read
from influence.inputs.meaning import group_answers, sample_answers
from pipelines.cluster import Workers
from pipelines.errors import RunError
from pipelines.input_questions import Asked
from pipelines.run_folder import key_of, write_json
from pipelines.worker import ModelSpec, language_model

TARGETS = ("likelihood", "contrast", "meaning")


@dataclass(frozen=True, kw_only=True)
class SampleTask:
    """One question whose answers are sampled."""

    model: ModelSpec
    question: Question
    count: int
    seed: int
    path: str


def with_meanings(
    model: ModelSpec,
    asked: Sequence[Asked],
    target: str | None,
    samples: tuple[int, int],
    root: Path,
    workers: Workers,
) -> list[Asked]:
    """Check what is explained; where it is the meaning, sample what means the same.

    Args:
        model: The model.
        asked: The questions.
        target: One of `TARGETS`; None: what is given decides.
        samples: Answers to sample, and their seed.
        root: Where what was sampled is kept.
        workers: Where to run.

    Returns:
        The questions; those without paraphrases of their own with sampled ones.

    Raises:
        RunError: If the target does not fit a question.
    """
    for one in asked:
        _check(one, target)
    if target != "meaning":
        return list(asked)
    count, seed = samples
    tasks = [
        SampleTask(
            model=model,
            question=one.question,
            count=count,
            seed=seed,
            path=str(root / "inputs" / "samples" / f"{_key(model, one, count, seed)}.json"),
        )
        for one in asked
        if not one.question.meanings
    ]
    workers.map(sample, [t for t in tasks if not Path(t.path).exists()], "Sampling answers")
    found = {t.question: json.loads(Path(t.path).read_text("utf-8")) for t in tasks}
    return [_with(one, found.get(one.question)) for one in asked]


def sample(task: SampleTask) -> str:
    """Sample answers to a question and group them by meaning.

    Returns:
        The file.
    """
    loaded, prompt = language_model(task.model), as_read(task.question.prompt)
    answers = sample_answers(loaded, prompt, task.count, task.seed)
    grouped = group_answers(loaded, prompt, task.question.completion, answers)
    return str(write_json(Path(task.path), grouped))


def _check(one: Asked, target: str | None) -> None:
    """Refuse a target that is unknown or does not fit what is given."""
    question = one.question
    where = f"Inputs, {one.id}"
    if target is not None and target not in TARGETS:
        near = get_close_matches(target, TARGETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise RunError(
            f"Inputs: target {target!r}, one of {', '.join(TARGETS)} was expected.{hint}"
        )
    if target == "contrast" and question.contrast is None:
        raise RunError(
            f"{where}: the target is a contrast, but none is given. Give --contrast, what it might "
            "have said instead."
        )
    if target not in (None, "contrast") and question.contrast is not None:
        raise RunError(
            f"{where}: the target is {target}, but a contrast is given. Leave one of them out."
        )
    if target == "likelihood" and question.meanings:
        raise RunError(
            f"{where}: the target is likelihood, but paraphrases are given. Leave one of them out."
        )
    if target == "meaning" and question.span is not None:
        raise RunError(f"{where}: a span has no meaning of its own here. Leave --span out.")
    if target != "meaning" and not question.completion:
        raise RunError(f"{where}: no completion, one was expected. Say what the model said.")


def _key(model: ModelSpec, one: Asked, count: int, seed: int) -> str:
    asked = [one.question.prompt, one.question.completion]
    return key_of(model=model.fingerprint, asked=asked, count=count, seed=seed)


def _with(one: Asked, found: dict[str, Any] | None) -> Asked:
    """A question with sampled meanings; without a completion, all of them count by their shares."""
    if found is None:
        return one
    groups = tuple(tuple(group) for group in found["groups"])
    if one.question.completion:
        return replace(one, question=replace(one.question, meanings=groups))
    question = replace(
        one.question, completion=groups[0][0], meanings=groups, shares=tuple(found["shares"])
    )
    return replace(one, question=question)
