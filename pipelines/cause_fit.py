"""Learn from labelled wrong answers why they are wrong, and judge it on answers that were not seen.

Axes: A wrong answers whose cause is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from influence.evaluation import bootstrap
from influence.evaluation.classes import f1_by_class, macro_f1_of
from influence.hallucination import causes
from influence.hallucination.evidence import Training
from pipelines.labelled_answers import Answer

FEWEST_OF_CAUSE = 10
"""Wrong answers of a cause, below which it is not learned."""


def fit_causes(
    answers: Sequence[Answer],
    trainings: Sequence[Training | None],
    folds: Sequence[int],
    seed: int = 0,
) -> tuple[causes.CauseModel | None, dict[str, Any] | None]:
    """Learn causes where labels tell them, in all folds for keeps and across folds for judging.

    Args:
        answers: Labelled ones; those with a cause are used.
        trainings: What the training documents say of each; None: nothing was looked up.
        folds: Of each answer; answers about one entity share a fold.
        seed: Of the bootstrap.

    Returns:
        The model and how good it is (``causes`` of the report); None twice where fewer than two
        causes have enough examples.
    """
    rows = [
        (answer, unaided(training), fold)
        for answer, training, fold in zip(answers, trainings, folds, strict=True)
        if answer.cause is not None and training is not None
    ]
    often = Counter(answer.cause for answer, _, _ in rows)
    rows = [row for row in rows if often[row[0].cause] >= FEWEST_OF_CAUSE]
    known = [str(answer.cause) for answer, _, _ in rows]
    if len(set(known)) < 2:
        return None, None
    found = [training for _, training, _ in rows]
    fold_A = np.array([fold for _, _, fold in rows])
    learned = _across(found, known, fold_A)
    entities = [answer.entity or answer.id for answer, _, _ in rows]
    ruled = [str(causes.cause(training).name) for training in found]
    return causes.fit(found, known), {
        "n": len(known),
        "chance": 1 / len(set(known)),
        "ways": [
            _judged(name, said, known, entities, seed)
            for name, said in (("learned", learned), ("rules", ruled))
        ],
    }


def unaided(training: Training) -> Training:
    """The evidence without trusted sources, which need not be named when an answer is scored."""
    return replace(training, trusted_answer_count=None, trusted_rival_count=None)


def _across(found: Sequence[Training], known: Sequence[str], fold_A: np.ndarray) -> list[str]:
    """What is said of each answer by a model that saw nothing of its fold."""
    said = [""] * len(known)
    for fold in np.unique(fold_A):
        inside = np.flatnonzero(fold_A != fold).tolist()
        outside = np.flatnonzero(fold_A == fold).tolist()
        names = [known[a] for a in inside]
        if len(set(names)) < 2:  # nothing to tell apart: all are called what is left
            own = names[:1] * len(outside)
        else:
            model = causes.fit([found[a] for a in inside], names)
            own = model.predict([found[a] for a in outside])
        for a, name in zip(outside, own, strict=True):
            said[a] = name
    return said


def _judged(
    name: str, said: Sequence[str], known: Sequence[str], entities: Sequence[str], seed: int
) -> dict[str, Any]:
    classes, f1_1C = f1_by_class(said, known)
    macro = bootstrap.interval(macro_f1_of(said, known), entities, seed=seed)
    often = Counter(known)
    return {
        "name": name,
        "macro_f1": macro.value,
        "low": None if np.isnan(macro.low) else macro.low,
        "high": None if np.isnan(macro.high) else macro.high,
        "causes": [
            {"name": one, "n": often[one], "f1": float(f1)}
            for one, f1 in zip(classes, f1_1C[0], strict=True)
        ],
    }
