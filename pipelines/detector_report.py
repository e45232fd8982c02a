"""How good a detector is: every signal, the probe, the stack and the controls in one table.

Higher scores mean "more likely wrong" in every row. All scores are of answers that nothing which gave
them has seen: folds go by entity, and layer, weights, penalty and calibration are fitted anew in each.

Axes: N attempted answers, S signals, K layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from influence.evaluation import abstention, bootstrap, calibration, discrimination
from influence.evaluation.calibration import sigmoid
from influence.hallucination.choice import SIGNALS
from influence.hallucination.detector import PROBE, Detector, ProbeColumn, cross_fitted
from influence.states.probes.controls import (
    bag_of_words,
    judge_features,
    lengths,
    popularities,
    shuffled,
)
from influence.states.probes.nested import Task

BASE = "answer-log-prob"
RISKS = (0.05, 0.1, 0.2, 0.3)
LEAST_GIVEN = 20
"""Answers that must be shown for a line to be drawn: of fewer, the share of wrong ones is not known."""
MISTAKES = 20
CURVE_POINTS = 200
FEWEST_OF_TOPIC = 10
"""Answers of each label that a topic needs for a figure of its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Attempted answers with everything that is known of them."""

    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    signals: tuple[str, ...]
    values_NS: np.ndarray
    """NaN where a signal is missing; the probe's column by probes that did not see the row."""
    wrong_N: np.ndarray
    folds_N: np.ndarray
    entities: tuple[str, ...]
    topics: tuple[str, ...]
    popularity_N: np.ndarray
    """NaN where none is given."""
    probe: ProbeColumn | None

    @property
    def weighed(self) -> tuple[str, ...]:
        """Signals that a detector weighs: all but the controls."""
        return tuple(name for name in self.signals if SIGNALS[name].family != "control")

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """Values of some signals `[N, S]`."""
        return self.values_NS[:, [self.signals.index(name) for name in names]]

    @property
    def task(self) -> Task:
        """The labels as a probe's task; wrong is the second class."""
        return Task(codes_N=self.wrong_N.astype(np.int64), classes=("right", "wrong"))


def report(
    judged: Judged,
    detector: Detector,
    layers: Mapping[str, Any] | None,
    risk: float,
    tick: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Judge a detector and all that goes into it.

    Args:
        judged: The answers.
        detector: As it is kept, fitted to all of them; its weights are told, not judged.
        layers: The probe's area by layer; None: there is no probe.
        risk: Share of wrong answers among those given that is allowed.
        tick: Called with the name of each thing before it is computed.

    Returns:
        A plain dict; see ``docs/hallucination.md``.
    """
    scores = dict(_scores(judged, tick))
    everything_N = scores["everything"][1]
    probability_N = sigmoid(everything_N)
    rows = [_row(name, kind, x_N, judged) for name, (kind, x_N) in scores.items()]
    chosen = _threshold(judged, probability_N, risk)
    return {
        "table": rows,
        "gains": _gains(judged, everything_N, tick),
        "layers": layers,
        "calibration": _calibration(judged, probability_N),
        "curves": _curves(judged, probability_N),
        "topics": _topics(judged, everything_N),
        "threshold": threshold_of(judged, probability_N, chosen),
        "thresholds": [
            threshold_of(judged, probability_N, _threshold(judged, probability_N, one))
            for one in RISKS
        ],
        "weights": _weights(detector),
        "errors": _mistakes(judged, probability_N),
    }


def _threshold(judged: Judged, probability_N: np.ndarray, risk: float) -> abstention.Threshold:
    return abstention.choose_threshold(1 - probability_N, judged.wrong_N, risk, LEAST_GIVEN)


def threshold_of(
    judged: Judged, probability_N: np.ndarray, chosen: abstention.Threshold
) -> dict[str, Any]:
    """What a threshold does, and what it costs.

    Args:
        judged: The answers.
        probability_N: Of a hallucination, of answers that the detector did not see.
        chosen: On confidence, 1 minus that.

    Returns:
        ``probability``: the highest at which an answer is given; None: none is given.
    """
    given_N = 1 - probability_N >= chosen.threshold
    right = int((~judged.wrong_N).sum())
    return {
        "risk": chosen.target,
        "probability": 1 - chosen.threshold if np.isfinite(chosen.threshold) else None,
        "coverage": chosen.coverage,
        "measured_risk": None if np.isnan(chosen.risk) else chosen.risk,
        "bound": chosen.bound,
        "lost_right": float((~given_N & ~judged.wrong_N).sum() / max(right, 1)),
        "caught_wrong": float(
            (~given_N & judged.wrong_N).sum() / max(int(judged.wrong_N.sum()), 1)
        ),
        "rows": chosen.rows,
    }


def _scores(
    judged: Judged, tick: Callable[[str], None]
) -> list[tuple[str, tuple[str, np.ndarray]]]:
    """Name -> kind, and scores of which higher means more likely wrong."""
    found: list[tuple[str, tuple[str, np.ndarray]]] = []
    for s, name in enumerate(judged.signals):
        tick(SIGNALS[name].title)
        kind = "probe" if name == PROBE else "signal"
        values_N = judged.values_NS[:, s]
        if name == PROBE and judged.probe is not None:
            values_N = judged.probe.held_out_N
        found.append((name, (kind, -values_N if SIGNALS[name].doubt < 0 else values_N)))
    probability = [n for n in judged.signals if SIGNALS[n].family == "probability"]
    stacks = {"probability signals": probability}
    if PROBE in judged.signals:
        stacks["probability signals and probe"] = [*probability, PROBE]
    untrained = [n for n in judged.weighed if SIGNALS[n].family != "training"]
    if len(untrained) < len(judged.weighed):
        stacks["everything without training documents"] = untrained
    stacks["everything"] = list(judged.weighed)
    for name, names in stacks.items():
        if names:
            tick(name)
            found.append((name, ("stack", _stacked(judged, names))))
    return found + _controls(judged, tick)


def _controls(
    judged: Judged, tick: Callable[[str], None]
) -> list[tuple[str, tuple[str, np.ndarray]]]:
    task, folds_N = judged.task, judged.folds_N
    texts = [f"{p}\n{c}" for p, c in zip(judged.prompts, judged.completions, strict=True)]
    tick("controls")
    features: dict[str, tuple[np.ndarray, Task, bool]] = {
        "words of prompt and answer": (bag_of_words(texts), task, True),
        "words of the answer": (bag_of_words(judged.completions), task, True),
        "length of the answer": (lengths(judged.completions), task, False),
        "shuffled labels": (_filled(judged.values_NS), shuffled(task), False),
    }
    if not np.isnan(judged.popularity_N).any():
        features["popularity"] = (popularities(judged.popularity_N), task, False)
    return [
        (name, ("control", judge_features(x_ND, labels, folds_N, text=text).scores_NQ[:, 0]))
        for name, (x_ND, labels, text) in features.items()
        if x_ND.shape[1]
    ]


def _filled(values_NS: np.ndarray) -> np.ndarray:
    """Signals with their mean where they are missing; signals that are always missing are left out."""
    known_S = ~np.isnan(values_NS).all(0)
    values_NS = values_NS[:, known_S]
    return np.where(np.isnan(values_NS), np.nanmean(values_NS, 0), values_NS).astype(np.float32)


def _stacked(judged: Judged, names: Sequence[str]) -> np.ndarray:
    return cross_fitted(
        names,
        judged.columns(names),
        judged.wrong_N,
        judged.folds_N,
        judged.probe if PROBE in names else None,
    )


def _row(name: str, kind: str, scores_N: np.ndarray, judged: Judged) -> dict[str, Any]:
    labels_N = shuffled(judged.task).codes_N if name == "shuffled labels" else judged.wrong_N
    auroc = bootstrap.measure(discrimination.auroc_of, scores_N, labels_N, judged.entities)
    within = bootstrap.measure(
        discrimination.within_auroc_of, scores_N, labels_N, judged.entities, judged.topics
    )
    precision = bootstrap.measure(
        discrimination.average_precision_of, scores_N, labels_N, judged.entities
    )
    signal = SIGNALS.get(name)
    return {
        "name": name,
        "title": signal.title if signal else name,
        "kind": "control" if signal and signal.family == "control" else kind,
        "auroc": _number(auroc.value),
        "low": _number(auroc.low),
        "high": _number(auroc.high),
        "within": _number(within.value),
        "within_low": _number(within.low),
        "within_high": _number(within.high),
        "ap": _number(precision.value),
        "n": auroc.rows,
        "missing": auroc.missing,
        "note": auroc.reason,
    }


def _gains(
    judged: Judged, everything_N: np.ndarray, tick: Callable[[str], None]
) -> list[dict[str, Any]]:
    """What each signal adds to the answer's log-probability and the probe, and each family to all."""
    base = [name for name in (BASE, PROBE) if name in judged.signals]
    gains = []
    if base:
        base_N = _stacked(judged, base)
        over = " and ".join(SIGNALS[name].title.lower() for name in base)
        for name in judged.weighed:
            if name not in base:
                tick(f"{SIGNALS[name].title}: what it adds")
                with_N = _stacked(judged, [*base, name])
                gains.append(_gain(SIGNALS[name].title, over, with_N, base_N, judged))
    families = list(dict.fromkeys(SIGNALS[name].family for name in judged.weighed))
    for family in families:
        others = [name for name in judged.weighed if SIGNALS[name].family != family]
        if others and len(families) > 1:
            tick(f"all {family} signals: what they add")
            without_N = _stacked(judged, others)
            name = f"all {family} signals"
            gains.append(_gain(name, "all others", everything_N, without_N, judged))
    return gains


def _gain(
    name: str, over: str, with_N: np.ndarray, without_N: np.ndarray, judged: Judged
) -> dict[str, Any]:
    found = bootstrap.difference(
        discrimination.auroc_of(with_N, judged.wrong_N),
        discrimination.auroc_of(without_N, judged.wrong_N),
        judged.entities,
    )
    return {
        "name": name,
        "over": over,
        "gain": _number(found.value),
        "low": _number(found.low),
        "high": _number(found.high),
        "adds": bool(found.low > 0),
    }


def _calibration(judged: Judged, probability_N: np.ndarray) -> dict[str, Any]:
    from scipy.stats import beta

    wrong_N = judged.wrong_N
    error = bootstrap.interval(calibration.brier_of(probability_N, wrong_N), judged.entities)
    bins = []
    for one in calibration.reliability(probability_N, wrong_N):
        came = round(one.came * one.rows)
        low = beta.ppf(0.025, came, one.rows - came + 1) if came else 0.0
        high = beta.ppf(0.975, came + 1, one.rows - came) if came < one.rows else 1.0
        bins.append(
            {
                "low": one.low,
                "high": one.high,
                "predicted": one.said,
                "observed": one.came,
                "observed_low": float(low),
                "observed_high": float(high),
                "count": one.rows,
            }
        )
    base = float(wrong_N.mean())
    return {
        "ece": calibration.ece(probability_N, wrong_N),
        "brier": error.value,
        "brier_low": _number(error.low),
        "brier_high": _number(error.high),
        "brier_base": base * (1 - base),
        "bins": bins,
    }


def _curves(judged: Judged, probability_N: np.ndarray) -> dict[str, Any]:
    wrong_N = judged.wrong_N
    order = np.argsort(-probability_N, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(probability_N[order]) != 0, True))
    found, false = np.cumsum(wrong_N[order])[ends], np.cumsum(~wrong_N[order])[ends]
    coverage, risk = abstention.risk_coverage(1 - probability_N, wrong_N)
    prr = bootstrap.interval(
        abstention.rejection_ratio_of(1 - probability_N, wrong_N), judged.entities
    )
    return {
        "roc": _points(false / max((~wrong_N).sum(), 1), found / max(wrong_N.sum(), 1), (0, 0)),
        "pr": _points(found / max(wrong_N.sum(), 1), found / (ends + 1), None),
        "base_rate": float(wrong_N.mean()),
        "risk_coverage": _points(coverage, risk, None),
        "prr": _number(prr.value),
        "prr_low": _number(prr.low),
        "prr_high": _number(prr.high),
    }


def _points(
    x_G: np.ndarray, y_G: np.ndarray, first: tuple[float, float] | None
) -> list[list[float]]:
    kept = np.unique(np.linspace(0, len(x_G) - 1, min(CURVE_POINTS, len(x_G))).round().astype(int))
    points = [[float(x_G[g]), float(y_G[g])] for g in kept]
    return [list(map(float, first)), *points] if first is not None else points


def _topics(judged: Judged, scores_N: np.ndarray) -> list[dict[str, Any]]:
    topics_N = np.array(judged.topics)
    entities_N = np.array(judged.entities)
    found = []
    for topic in dict.fromkeys(judged.topics):
        rows = topics_N == topic
        wrong = int(judged.wrong_N[rows].sum())
        enough = min(wrong, rows.sum() - wrong) >= FEWEST_OF_TOPIC
        auroc = (
            asdict(
                bootstrap.measure(
                    discrimination.auroc_of, scores_N[rows], judged.wrong_N[rows], entities_N[rows]
                )
            )
            if enough
            else {}
        )
        found.append(
            {
                "name": topic,
                "n": int(rows.sum()),
                "wrong": wrong,
                "auroc": _number(auroc.get("value")),
                "low": _number(auroc.get("low")),
                "high": _number(auroc.get("high")),
            }
        )
    return found


def _weights(detector: Detector) -> list[dict[str, Any]]:
    weights_S = detector.platt.slope * detector.stack.weights_S
    order = np.argsort(-np.abs(weights_S), kind="stable")
    return [
        {
            "signal": detector.signals[s],
            "title": SIGNALS[detector.signals[s]].title,
            "family": SIGNALS[detector.signals[s]].family,
            "about": SIGNALS[detector.signals[s]].about,
            "weight": float(weights_S[s]),
        }
        for s in order
    ]


def _mistakes(judged: Judged, probability_N: np.ndarray) -> list[dict[str, Any]]:
    """The most confident ones."""
    off_N = np.abs(judged.wrong_N - probability_N)
    order = [n for n in np.argsort(-off_N, kind="stable") if off_N[n] > 0.5][:MISTAKES]
    return [
        {
            "id": judged.ids[n],
            "prompt": judged.prompts[n],
            "completion": judged.completions[n],
            "label": "wrong" if judged.wrong_N[n] else "right",
            "probability": float(probability_N[n]),
        }
        for n in order
    ]


def _number(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
