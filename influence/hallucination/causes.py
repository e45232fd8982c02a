"""Why an answer that is wrong is wrong: nothing taught it, the corpus is wrong, or it was mixed up.

The rules, in order, on counts of documents that hold the subject and an answer close together:

1. *mislearned*: the answer is what documents say (some hold it, and no rival is held by more).
   The model repeats its data; only a source that can be trusted, or a reader, knows better.
2. *mis-recalled*: documents say something else (a rival is held by more than the answer).
3. *fabricated*: documents say neither.

They tell why an error is one, not whether an answer is one: the rule of mislearned errors is also
that of right answers. What documents are about is not read, so a rival that stands beside the
subject by chance makes a fabricated answer look mis-recalled.

`fit` learns the same from examples whose cause is known, with how often each stands there, word for
word matches, and influences as features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from influence.errors import InputError
from influence.hallucination.evidence import Training
from influence.inputs.extras import needed

CAUSES = {
    "fabricated": "no training document says anything of the kind",
    "mislearned": "training documents say it, and they are wrong",
    "mis-recalled": "training documents say something else, and the model mixed it up",
}
"""Causes of a wrong answer, for readers who know no machine learning."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why an answer is wrong, if it is."""

    name: str | None
    """Of `CAUSES`; None: the evidence does not tell."""
    reason: str
    """One sentence with the counts that decided."""


def cause(found: Training) -> Cause:
    """Why an answer would be wrong, by the rules above.

    Args:
        found: What the training documents say.

    Returns:
        The cause, and what decided.
    """
    answer, rival = found.answer_count, found.rival_count
    if found.subject_count == 0:
        return Cause(
            name="fabricated", reason="No training document names what the question is about."
        )
    of = f"of {found.subject_count} training documents that name the subject"
    if answer and answer >= rival:
        against = f", {rival} say {found.rival!r}" if rival else ", none says anything else"
        return Cause(name="mislearned", reason=f"{answer} {of} say this answer{against}.")
    if rival:
        return Cause(
            name="mis-recalled",
            reason=f"{rival} {of} say {found.rival!r}, {answer or 'none'} this answer.",
        )
    return Cause(name="fabricated", reason=f"None {of} says this answer or another.")


def features(found: Training) -> dict[str, float]:
    """Numbers of the training evidence that detectors and `fit` read.

    Args:
        found: What the training documents say.

    Returns:
        By name. Counts as the log of one more than them; shares of influence from -1 to 1, 0 where
        none was computed; NaN where there are too few words for n-grams.
    """
    answer, rival = math.log1p(found.answer_count), math.log1p(found.rival_count)
    by_stance = {"supports": 0.0, "contradicts": 0.0, "silent": 0.0}
    for one in found.support:
        by_stance[one.stance] += one.influence or 0.0
    total = float(np.abs(found.influences_N).sum()) or 1.0
    against = 0.0 if found.contrast_N is None else float(np.abs(found.contrast_N).sum())
    values = {
        "answer": answer,
        "rival": rival,
        "answer-over-rival": answer - rival,
        "conflict": min(answer, rival),
        "subject": math.log1p(found.subject_count),
        "longest-match": float(found.longest_match),
        "covered": found.covered,
        "supporting-influence": by_stance["supports"] / total,
        "contradicting-influence": by_stance["contradicts"] / total,
        "influence-balance": float(found.influences_N.sum()) / total,
        "contrast": float(found.contrast_N.sum()) / against if against else 0.0,  # type: ignore[union-attr]
    }
    if found.trusted_answer_count is not None and found.trusted_rival_count is not None:
        values["trusted-answer"] = math.log1p(found.trusted_answer_count)
        values["trusted-rival"] = math.log1p(found.trusted_rival_count)
    return values


@dataclass(frozen=True, kw_only=True, eq=False)
class CauseModel:
    """A multinomial logistic regression on `features`, as plain numbers."""

    names: tuple[str, ...]
    """Features, in their order."""
    causes: tuple[str, ...]
    """Classes, in their order."""
    mean_F: np.ndarray
    scale_F: np.ndarray
    weights_CF: np.ndarray
    """Log-odds for each standard deviation of a feature."""
    bias_C: np.ndarray

    def plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "names": list(self.names),
            "causes": list(self.causes),
            **{name: getattr(self, name).tolist() for name in ARRAYS},
        }

    def probabilities(self, found: Sequence[Training]) -> np.ndarray:
        """Probability of each cause, given that the answer is wrong.

        Args:
            found: What the training documents say of each answer.

        Returns:
            ``[A, C]``; rows sum to 1.
        """
        scaled_AF = (_matrix(found, self.names, self.mean_F) - self.mean_F) / self.scale_F
        logits_AC = scaled_AF @ self.weights_CF.T + self.bias_C
        likely_AC = np.exp(logits_AC - logits_AC.max(axis=1, keepdims=True))
        return np.asarray(likely_AC / likely_AC.sum(axis=1, keepdims=True))

    def predict(self, found: Sequence[Training]) -> list[str]:
        """The most probable cause of each wrong answer.

        Args:
            found: What the training documents say of each answer.

        Returns:
            Names of `CAUSES`.
        """
        return [self.causes[i] for i in self.probabilities(found).argmax(axis=1)]


ARRAYS = ("mean_F", "scale_F", "weights_CF", "bias_C")


def cause_model_of(plain: Mapping[str, Any]) -> CauseModel:
    """Read what `CauseModel.plain` wrote.

    Args:
        plain: Plain values.

    Returns:
        The model.
    """
    return CauseModel(
        names=tuple(plain["names"]),
        causes=tuple(plain["causes"]),
        **{name: np.array(plain[name], np.float64) for name in ARRAYS},
    )


def fit(found: Sequence[Training], known: Sequence[str], strength: float = 1.0) -> CauseModel:
    """Learn causes from wrong answers whose cause is known.

    Args:
        found: What the training documents say of each answer.
        known: The cause of each.
        strength: Inverse of the L2 penalty (scikit-learn's C).

    Returns:
        The model; classes weigh the same, however many examples they have.

    Raises:
        InputError: If the causes are not known ones, are fewer than two, or do not fit the answers.
    """
    unknown = sorted(set(known) - set(CAUSES))
    if unknown or len(set(known)) < 2 or len(found) != len(known):
        raise InputError(
            f"causes: {len(known)} causes {sorted(set(known))} of {len(found)} answers, expected as "
            f"many, of at least two of {', '.join(CAUSES)}."
        )
    names = tuple(features(found[0]))
    raw_AF = _matrix(found, names, np.zeros(len(names)))
    mean_F, scale_F = raw_AF.mean(axis=0), raw_AF.std(axis=0)
    scale_F[scale_F == 0] = 1.0
    regression = needed("sklearn.linear_model").LogisticRegression(
        C=strength, class_weight="balanced", max_iter=2000
    )
    classes = tuple(sorted(set(known)))
    regression.fit((raw_AF - mean_F) / scale_F, [classes.index(name) for name in known])
    weights_CF, bias_C = regression.coef_, regression.intercept_
    if len(classes) == 2:  # scikit-learn keeps the second class's row alone
        weights_CF = np.concatenate([np.zeros_like(weights_CF), weights_CF])
        bias_C = np.concatenate([np.zeros_like(bias_C), bias_C])
    return CauseModel(
        names=names,
        causes=classes,
        mean_F=mean_F,
        scale_F=scale_F,
        weights_CF=weights_CF,
        bias_C=bias_C,
    )


def _matrix(found: Sequence[Training], names: Sequence[str], filled_F: np.ndarray) -> np.ndarray:
    rows = []
    for one in found:
        values = features(one)
        missing = [name for name in names if name not in values]
        if missing:
            raise InputError(
                f"causes: {missing[0]!r} is missing from the evidence, expected what the model was "
                "fitted on. Name the trusted sources again, or fit without them."
            )
        rows.append([values[name] for name in names])
    raw_AF = np.array(rows, dtype=np.float64)
    return np.where(np.isnan(raw_AF), filled_F, raw_AF)
