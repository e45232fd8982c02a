"""What a worker does for input attribution: masks of one question, or one method on one question."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from influence.inputs.choice import choose
from influence.inputs.evaluate import evaluate_masks
from influence.inputs.explain import Prepared, Question, attribute, prepare
from influence.inputs.methods import TokenMethod
from pipelines.input_files import write_part, write_scores
from pipelines.worker import ModelSpec, language_model


@dataclass(frozen=True, kw_only=True)
class MaskTask:
    """A part of a question's table."""

    model: ModelSpec
    question: Question
    operator: str
    seed: int
    kept: tuple[bytes, ...]
    """Packed rows of masks."""
    path: str
    token_budget: int


@dataclass(frozen=True, kw_only=True)
class TokenTask:
    """One gradient or attention method on one question."""

    model: ModelSpec
    question: Question
    method: str
    seed: int
    path: str


def evaluate_part(task: MaskTask) -> str:
    """What the model says under some masks.

    Returns:
        The file.
    """
    loaded = language_model(task.model)
    prepared = _prepared(task.model, task.question)
    packed_MK = np.frombuffer(b"".join(task.kept), np.uint8).reshape(len(task.kept), -1)
    kept_MU = np.unpackbits(packed_MK, axis=1, count=len(prepared.units)).astype(bool)
    part = evaluate_masks(
        loaded,
        prepared.passages,
        prepared.units,
        task.operator,
        kept_MU,
        token_budget=task.token_budget,
        seed=task.seed,
    )
    return str(write_part(Path(task.path), part))


def attribute_tokens(task: TokenTask) -> str:
    """What a gradient or attention method says of each token of the prompt.

    Returns:
        The file.
    """
    (method,) = choose(task.method)
    assert isinstance(method, TokenMethod)
    prepared = _prepared(task.model, task.question)
    found, passes = attribute(language_model(task.model), prepared, method, task.seed)
    return str(write_scores(Path(task.path), found, passes))


@lru_cache(maxsize=8)
def _prepared(model: ModelSpec, question: Question) -> Prepared:
    return prepare(language_model(model), question)
