"""Fit a detector to labelled answers: evidence, probe, weights, calibration, and how good it is.

Axes: N attempted answers, S signals, F folds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from influence.evaluation import bootstrap, discrimination
from influence.hallucination.causes import CauseModel
from influence.hallucination.choice import SIGNALS, choose_signals
from influence.hallucination.detector import (
    PROBE,
    Detector,
    ProbeColumn,
    cross_fitted,
    fit_detector,
)
from influence.hallucination.evidence import Training
from influence.hallucination.signal import Signal
from influence.states.probes.choice import LINEAR, choose_kinds
from influence.states.probes.nested import (
    LayerScores,
    Nested,
    Task,
    fit_probe,
    nested,
    score_layer,
    task_of,
)
from influence.states.probes.probe import Probe, calibrated
from influence.states.probes.splits import (
    LEAST_FOLDS,
    check_folds,
    entity_folds,
    given_folds,
    topic_folds,
)
from pipelines.cause_fit import fit_causes
from pipelines.cluster import Workers
from pipelines.detector_files import VALUES, SavedDetector, detectors_folder, save_detector
from pipelines.detector_report import Judged, report
from pipelines.errors import RunError
from pipelines.evidence import Collected, Found, available_fields, find_evidence, places_of
from pipelines.evidence_steps import Output
from pipelines.input_models import FoundModel
from pipelines.labelled_answers import FEWEST, Answer
from pipelines.run_folder import key_of, new_file, write_json
from pipelines.runs import versions

CHEAP = ("reading", "nameless_T", "shares", "probe", "training")
"""Evidence that signals may need without being asked for by name: three passes of the answer's length
(one of them backward), and what a run's documents say."""
DEAR = {"reading.lens", "reading.heads"}
"""Parts of the pass that cost several times the pass itself. On three sets of questions no signal that
needs them added anything to log-probability and probe (benchmarks/results/detectors.md)."""
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How to fit."""

    name: str
    """Of the detector."""
    signals: str | None = None
    """Names, or `all`; None: all that need neither a further answer of the model nor its lens or
    attention."""
    place: str = "answer-end,answer-mean,text-end"
    """Where the probe reads; the states of several places stand side by side."""
    kind: str = "logistic"
    """Of the probe."""
    samples: int = 5
    seed: int = 0
    risk: float = 0.1
    """Share of wrong answers among those given that is allowed."""


def fit(
    model: FoundModel,
    answers: Sequence[Answer],
    options: FitOptions,
    workers: Workers,
    train: Callable[[Sequence[Output]], dict[str, Training]] | None = None,
) -> dict[str, Any]:
    """Fit a detector, judge it, and save it.

    Args:
        model: Whose answers these are.
        answers: Labelled; evasive ones are neither fitted nor judged with the others.
        options: How.
        workers: Where to run.
        train: What training documents say of outputs; None: no run is given.

    Returns:
        The report, a plain dict (see ``docs/hallucination.md``), with its ``folder``.

    Raises:
        RunError: If too few answers could be read.
    """
    begun = time.perf_counter()
    if choose_kinds([options.kind])[0] not in LINEAR:
        raise RunError(
            f"Hallucination: probe kind {options.kind!r}, one of {', '.join(LINEAR)} was expected."
        )
    signals = _signals(options.signals, has_run=train is not None)
    wanted = Collected(
        signals=signals, places=places_of(options.place), samples=options.samples, seed=options.seed
    )
    found = find_evidence(
        model.spec, answers, wanted, model.root, workers, train, only_answers=True
    )
    used = _attempted(answers, found)
    attempted = [answers[n] for n in used]
    wrong_N = np.array([one.label == "wrong" for one in attempted], dtype=bool)
    entities = [one.entity or one.id for one in attempted]
    folds_N = _folds(attempted, entities, wrong_N, options.seed)
    values_NS, probes = found.values(signals)[used], None
    if PROBE in (names := [signal.name for signal in signals]):
        probes = _probes(found, used, wrong_N, folds_N, entities, options, workers)
        values_NS[:, names.index(PROBE)] = probes.column.final_N
    judged = _judged(attempted, signals, values_NS, folds_N, probes)
    weighed = judged.weighed
    detector = fit_detector(weighed, judged.columns(weighed), wrong_N, folds_N)
    told = _announced(workers)
    result = report(judged, detector, probes.layers if probes else None, options.risk, told)
    result["leave_out"] = _unknown_topics(found, used, judged, options, workers)
    trainings = [found.evidence[n].training for n in used]
    causes, result["causes"] = fit_causes(attempted, trainings, folds_N.tolist(), options.seed)
    unknown = [name for name in names if name not in judged.signals]
    result = _described(result, model, answers, found, options, unknown)
    result["seconds"] = round(time.perf_counter() - begun, 1)
    saved = _Fitted(detector=detector, probes=probes, causes=causes)
    return _saved(model, options, saved, judged, result)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Probes:
    kept: Probe
    by_layer: tuple[Probe, ...]
    column: ProbeColumn
    layers: dict[str, Any]
    """Area by layer, for the report."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    """What is kept."""

    detector: Detector
    probes: _Probes | None
    causes: CauseModel | None


def _attempted(answers: Sequence[Answer], found: Found) -> list[int]:
    """Positions of the answers that claim something, are labelled, and could be read."""
    used = [
        n
        for n, one in enumerate(answers)
        if one.label in ("right", "wrong") and found.errors[n] is None
    ]
    wrong = sum(answers[n].label == "wrong" for n in used)
    if min(wrong, len(used) - wrong) < FEWEST:
        failed = Counter(error for error in found.errors if error)
        raise RunError(
            f"Hallucination: {len(used)} of {len(answers)} answers could be read, {wrong} of them "
            f"wrong; at least {FEWEST} right and {FEWEST} wrong ones were expected. Most frequent "
            f"failure: {failed.most_common(1)}."
        )
    return used


def _judged(
    attempted: Sequence[Answer],
    signals: Sequence[Signal],
    values_NS: np.ndarray,
    folds_N: np.ndarray,
    probes: _Probes | None,
) -> Judged:
    """What is judged: the signals that are known of any answer."""
    known_S = ~np.isnan(values_NS).all(0)
    return Judged(
        ids=tuple(one.id for one in attempted),
        prompts=tuple(_text(one) for one in attempted),
        completions=tuple(str(one.completion) for one in attempted),
        signals=tuple(one.name for one, known in zip(signals, known_S, strict=True) if known),
        values_NS=values_NS[:, known_S],
        wrong_N=np.array([one.label == "wrong" for one in attempted], dtype=bool),
        folds_N=folds_N,
        entities=tuple(one.entity or one.id for one in attempted),
        topics=tuple(one.topic or "all" for one in attempted),
        popularity_N=np.array(
            [np.nan if one.popularity is None else one.popularity for one in attempted]
        ),
        probe=probes.column if probes is not None else None,
    )


def _signals(names: str | None, has_run: bool) -> tuple[Signal, ...]:
    available = available_fields(has_probe=True, has_run=has_run)
    if names is None:
        usual = choose_signals(None, [field for field in CHEAP if field in available])
        return tuple(signal for signal in usual if not set(signal.needs) & DEAR)
    return choose_signals(None if names == "all" else names, available)


def _folds(
    answers: Sequence[Answer], entities: Sequence[str], wrong_N: np.ndarray, seed: int
) -> np.ndarray:
    if answers[0].fold is not None:
        folds_N = given_folds([str(one.fold) for one in answers])
    else:
        kinds = [f"{one.topic}:{wrong}" for one, wrong in zip(answers, wrong_N, strict=True)]
        folds_N = entity_folds(entities, kinds, seed=seed)
    check_folds(folds_N, wrong_N.tolist(), entities)
    return folds_N


def _probes(
    found: Found,
    used: Sequence[int],
    wrong_N: np.ndarray,
    folds_N: np.ndarray,
    entities: Sequence[str],
    options: FitOptions,
    workers: Workers,
) -> _Probes:
    """A probe of every layer, and the layer that is kept."""
    task, kind = _task(wrong_N), LINEAR[options.kind]
    scored, best = _scored_probes(found, used, wrong_N, folds_N, options, workers)
    by_layer, curve = [], []
    for one in scored:
        alone = nested([one], folds_N)
        x_ND = found.states(options.place, one.layer)[used]
        probe = fit_probe(
            x_ND, task, kind, layer=one.layer, place=options.place, strength=alone.strength
        )
        by_layer.append(calibrated(probe, alone.final_NQ, task.answers_NQ))
        curve.append(
            bootstrap.measure(discrimination.auroc_of, alone.scores_NQ[:, 0], ~wrong_N, entities)
        )
    layers = {
        "layers": [one.layer for one in scored],
        "auroc": [one.value for one in curve],
        "low": [one.low for one in curve],
        "high": [one.high for one in curve],
        "chosen": best.layer,
        "chosen_in_folds": list(best.layers_F),
        "place": options.place,
        "kind": options.kind,
    }
    chosen = next(probe for probe in by_layer if probe.layer == best.layer)
    states_ND = found.states(options.place, best.layer)[used]
    kept = fit_probe(
        states_ND, task, kind, layer=best.layer, place=options.place, strength=best.strength
    )
    kept = replace(kept, slope_Q=chosen.slope_Q, intercept_Q=chosen.intercept_Q)
    return _Probes(kept=kept, by_layer=tuple(by_layer), column=_column(best), layers=layers)


def _scored_probes(
    found: Found,
    used: Sequence[int],
    wrong_N: np.ndarray,
    folds_N: np.ndarray,
    options: FitOptions,
    workers: Workers,
) -> tuple[list[LayerScores], Nested]:
    """Scores by probes of each layer, and by those of the layers that are chosen for each fold."""
    scored: list[LayerScores] = []
    tick = _announced(workers)
    for layer in found.files.layers:
        tick(f"Probes of layer {layer}")
        x_ND = found.states(options.place, layer)[used]
        scored += score_layer(layer, x_ND, (_task(wrong_N),), folds_N, LINEAR[options.kind])
    return scored, nested(scored, folds_N)


def _task(wrong_N: np.ndarray) -> Task:
    return task_of(["wrong" if wrong else "right" for wrong in wrong_N])


def _unknown_topics(
    found: Found, used: Sequence[int], judged: Judged, options: FitOptions, workers: Workers
) -> list[dict[str, Any]]:
    """How good detectors are on a topic of which they have seen nothing; empty: under three topics."""
    names = sorted(set(judged.topics))
    labels = {
        name: {w for t, w in zip(judged.topics, judged.wrong_N, strict=True) if t == name}
        for name in names
    }
    if len(names) < LEAST_FOLDS or any(len(kinds) < 2 for kinds in labels.values()):
        return []
    folds_N = topic_folds(judged.topics)
    probes = None
    if judged.probe is not None:
        probes = _scored_probes(found, used, judged.wrong_N, folds_N, options, workers)[1]
    weighed = judged.weighed
    log_odds_N = cross_fitted(
        weighed,
        judged.columns(weighed),
        judged.wrong_N,
        folds_N,
        None if probes is None else _column(probes),
    )
    rows = []
    for name in names:
        own_N = np.array([topic == name for topic in judged.topics])
        entities = [one for one, own in zip(judged.entities, own_N, strict=True) if own]
        area = bootstrap.measure(
            discrimination.auroc_of, log_odds_N[own_N], judged.wrong_N[own_N], entities
        )
        rows.append(
            {"name": name, "n": area.rows, **{k: _known(getattr(area, v)) for k, v in AREA.items()}}
        )
    return rows


AREA = {"auroc": "value", "low": "low", "high": "high"}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _column(best: Nested) -> ProbeColumn:
    return ProbeColumn(
        held_out_N=best.scores_NQ[:, 0],
        inside_NF=best.inner_FNQ[:, :, 0].T,
        final_N=best.final_NQ[:, 0],
    )


def _described(
    result: dict[str, Any],
    model: FoundModel,
    answers: Sequence[Answer],
    found: Found,
    options: FitOptions,
    unknown: Sequence[str],
) -> dict[str, Any]:
    labels = Counter(one.label for one in answers)
    topics: dict[str, Counter[str]] = {}
    for one in answers:
        topics.setdefault(one.topic or "all", Counter())[str(one.label)] += 1
    notes = [
        f"{SIGNALS[name].title} ({name}) could be measured in no answer and is left out."
        for name in unknown
    ]
    failed = [error for error in found.errors if error]
    if failed:
        notes.append(f"{len(failed)} answers could not be read and are left out: {failed[0]}")
    return {
        "format": FORMAT,
        "name": options.name,
        "model": {"name": model.name, "fingerprint": model.spec.fingerprint},
        "data": {
            "hash": data_hash(answers),
            "answers": len(answers),
            "right": labels["right"],
            "wrong": labels["wrong"],
            "evasive": labels["evasive"],
            "entities": len({one.entity or one.id for one in answers}),
            "topics": [
                {"name": name, **{label: count[label] for label in ("right", "wrong", "evasive")}}
                for name, count in topics.items()
            ],
        },
        **result,
        "evasive": _evasive(answers, found),
        "notes": notes,
        "provenance": {"versions": versions(), "settings": asdict(options)},
    }


def _evasive(answers: Sequence[Answer], found: Found) -> dict[str, Any]:
    """How well "nothing is claimed" finds the answers that are labelled evasive."""
    said = [
        found.spans[n][0].kind == "text" if found.spans[n] else True for n in range(len(answers))
    ]
    labelled = [one.label == "evasive" for one in answers]
    both = sum(a and b for a, b in zip(said, labelled, strict=True))
    return {
        "n": sum(labelled),
        "found": sum(said),
        "precision": both / sum(said) if any(said) else None,
        "recall": both / sum(labelled) if any(labelled) else None,
    }


def data_hash(answers: Sequence[Answer]) -> str:
    """Names the labelled answers: another answer, label or fold is another hash."""
    return key_of(answers=[asdict(one) for one in answers])


def _saved(
    model: FoundModel,
    options: FitOptions,
    fitted: _Fitted,
    judged: Judged,
    result: dict[str, Any],
) -> dict[str, Any]:
    probes = fitted.probes
    folder = detectors_folder(model.root) / options.name
    everything = next(row for row in result["table"] if row["name"] == "everything")
    about = {
        "name": options.name,
        "model": model.name,
        "fingerprint": model.spec.fingerprint,
        "fitted": datetime.now(UTC).date().isoformat(),
        "data_hash": result["data"]["hash"],
        **{key: result["data"][key] for key in ("answers", "right", "wrong", "evasive")},
        "base_rate": float(judged.wrong_N.mean()),
        "auroc": everything["auroc"],
        "auroc_low": everything["low"],
        "auroc_high": everything["high"],
        "ece": result["calibration"]["ece"],
        "bins": result["calibration"]["bins"],
        "signals": list(fitted.detector.signals),
        "place": options.place if probes else None,
        "layer": probes.kept.layer if probes else None,
        "threshold": result["threshold"],
        "samples": options.samples,
        "seed": options.seed,
    }
    _write_values(folder / VALUES, judged)
    save_detector(
        SavedDetector(
            detector=fitted.detector,
            probe=probes.kept if probes else None,
            layer_probes=probes.by_layer if probes else (),
            about=about,
            folder=folder,
            causes=fitted.causes,
        )
    )
    write_json(folder / "report.json", result)
    return result | {"folder": str(folder), "about": about}


def _write_values(path: Path, judged: Judged) -> None:
    """Every answer's signals, one row an answer."""
    columns: dict[str, Any] = {
        "id": judged.ids,
        "entity": judged.entities,
        "topic": judged.topics,
        "fold": judged.folds_N,
        "wrong": judged.wrong_N,
    }
    columns |= {name: judged.values_NS[:, s] for s, name in enumerate(judged.signals)}
    with new_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def _text(answer: Answer) -> str:
    if isinstance(answer.prompt, str):
        return answer.prompt
    return "\n".join(content for _, content in answer.prompt)


def _announced(workers: Workers) -> Callable[[str], None]:
    """Say what is being computed, on one line."""
    last = [0.0]

    def tick(name: str) -> None:
        now = time.perf_counter()
        if now - last[0] > 5.0:
            workers.console.print(f"[dim]{name} ...[/dim]", highlight=False)
            last[0] = now

    return tick
