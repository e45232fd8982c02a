"""What is written of a scored output: one plain dict, see ``docs/hallucination.md``.

Axes: S signals, K layers, T tokens.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from influence.hallucination.causes import CauseModel, cause
from influence.hallucination.choice import SIGNALS
from influence.hallucination.evidence import Evidence, Training
from influence.hallucination.signal import Signal
from influence.hallucination.spans import Span
from influence.hallucination.verdict import Verdict, judge
from influence.inputs.methods import unit_scores
from influence.inputs.passage import units_of_tokens
from influence.inputs.units import split_units
from influence.states.lens import emergence
from influence.states.places import span_tokens
from pipelines.cause_fit import unaided
from pipelines.detector_files import SavedDetector
from pipelines.evidence import Found

FORMAT = 1
REASONS = 5
STANCES = ("supports", "contradicts", "silent")


def describe(
    found: Found,
    number: int,
    saved: SavedDetector,
    values_NS: np.ndarray,
) -> dict[str, Any]:
    """One answer's result.

    Args:
        found: The evidence of all answers.
        number: Of the answer.
        saved: The detector.
        values_NS: Signals of all rows of `found`.

    Returns:
        Plain values.
    """
    answer, spans = found.answers[number], found.spans[number]
    rows = [n for n, (i, _) in enumerate(found.owners) if i == number]
    error = next((found.errors[n] for n in rows if found.errors[n]), None)
    best = next((j for j, span in enumerate(spans) if span.is_answer), None)
    scored = [
        _span(saved, span, found.evidence[n], values_NS[n], answer.completion or "")
        for span, n in zip(spans, rows, strict=True)
    ]
    shown = scored[best] if best is not None else None
    evidence = found.evidence[rows[best or 0]] if rows else None
    result: dict[str, Any] = {
        "format": FORMAT,
        "id": answer.id,
        "prompt": evidence.reading.passage.prompt
        if evidence and evidence.reading
        else _text(answer),
        "messages": None if isinstance(answer.prompt, str) else answer.messages,
        "completion": answer.completion,
        "verdict": shown["verdict"] if shown else "evasive",
        "verdict_words": _verdict_words(shown) if shown else None,
        "hallucination_probability": shown["hallucination_probability"] if shown else None,
        "low": shown["low"] if shown else None,
        "high": shown["high"] if shown else None,
        "against": shown["against"] if shown else [],
        "support": shown["support"] if shown else [],
        "threshold": saved.about["threshold"],
        "cause": shown["cause"] if shown else None,
        "reasons": shown["reasons"] if shown else [],
        "signals": shown["signals"] if shown else [],
        "spans": scored,
        "tokens": _tokens(evidence) if evidence else [],
        "details": [
            _details(found, saved, n, number_of_span)
            for number_of_span, n in enumerate(rows)
            if number_of_span == best or scored[number_of_span]["verdict"] != "supported"
        ],
        "notes": [
            *([f"The answer could not be read: {error}"] if error else []),
            *(_unlike(saved, values_NS[rows[best]]) if best is not None else []),
        ],
        "status": "failed" if error else "scored",
    }
    for place, one in enumerate(result["details"]):
        scored[one["span"]]["lookup"] = place
    return result


def _verdict_words(shown: dict[str, Any]) -> str | None:
    """The verdict, with what speaks for another answer and for this one; None: nothing does."""
    against, support = " ".join(shown["against"]), " ".join(shown["support"])
    if not against and not support:
        return None
    if shown["verdict"] == "supported":
        start = "The signals of this answer look like those of right answers."
        return " ".join(part for part in (start, support, against and f"But: {against}") if part)
    if shown["verdict"] == "wrong":
        start = "Do not believe this answer without checking it."
        return " ".join(part for part in (start, against, support and f"But: {support}") if part)
    return f"Its signals are not those of answers that can be shown. But: {support}"


def _unlike(saved: SavedDetector, values_S: np.ndarray) -> list[str]:
    """Whether the answer is unlike all that the detector was fitted to."""
    beyond_S = saved.detector.stack.beyond(values_S[None])[0]
    names = [SIGNALS[saved.detector.signals[s]].title for s in np.flatnonzero(beyond_S)]
    if not names:
        return []
    return [
        f"{len(names)} of {len(beyond_S)} signals lie beyond those of all labelled answers "
        f"({', '.join(names)}). They count as the farthest seen; the probability is less sure than it "
        "looks."
    ]


def _text(answer: Any) -> str:
    return answer.prompt if isinstance(answer.prompt, str) else answer.prompt[-1][1]


def _span(
    saved: SavedDetector, span: Span, evidence: Evidence, values_S: np.ndarray, completion: str
) -> dict[str, Any]:
    """Probability, verdict and reasons of a span."""
    detector = saved.detector
    claims = span.kind != "text" and evidence.reading is not None
    probability = float(detector.probabilities(values_S[None])[0]) if claims else None
    most = saved.about["threshold"]["probability"]
    verdict = judge(probability, -1.0 if most is None else most, evidence)
    signals = _signals(saved, values_S) if claims else []
    low, high = _observed(saved, probability)
    return {
        "start": span.start,
        "end": span.end,
        "text": completion[span.start : span.end],
        "kind": span.kind,
        "is_answer": span.is_answer,
        "hallucination_probability": probability,
        "low": low,
        "high": high,
        "verdict": verdict.name,
        "against": list(verdict.against),
        "support": list(verdict.support),
        "cause": _cause(evidence, verdict, saved.causes),
        "reasons": [one for one in signals if one["contribution"]][:REASONS],
        "signals": signals,
        "lookup": None,
    }


def _observed(saved: SavedDetector, probability: float | None) -> tuple[float | None, float | None]:
    """Between which shares of labelled answers with about this probability were wrong, 95 %."""
    if probability is None:
        return None, None
    bins = saved.about["bins"]
    near = min(bins, key=lambda b: max(b["low"] - probability, probability - b["high"], 0.0))
    return near["observed_low"], near["observed_high"]


def _signals(saved: SavedDetector, values_S: np.ndarray) -> list[dict[str, Any]]:
    """All signals, the one that moved the probability most first."""
    detector = saved.detector
    contributions_S = detector.contributions(values_S[None])[0]
    percentiles_S = detector.percentiles(values_S)
    found = []
    for s in np.argsort(-np.abs(contributions_S), kind="stable"):
        signal = SIGNALS[detector.signals[s]]
        missing = bool(np.isnan(values_S[s]))
        found.append(
            {
                "signal": signal.name,
                "title": signal.title,
                "family": signal.family,
                "about": signal.about,
                "value": None if missing else float(values_S[s]),
                "unit": signal.unit,
                "percentile": None if np.isnan(percentiles_S[s]) else float(percentiles_S[s]),
                "contribution": float(contributions_S[s]),
                "words": _words(signal, contributions_S[s], missing),
                "missing": missing,
            }
        )
    return found


def _words(signal: Signal, contribution: float, missing: bool) -> str:
    if missing:
        return f"{signal.title} was not measured here."
    side = "against" if contribution > 0 else "for"
    return f"{signal.title} speaks {side} the answer. {signal.about}"


def _cause(
    evidence: Evidence, verdict: Verdict, learned: CauseModel | None
) -> dict[str, str] | None:
    """Where a doubted answer may have come from; needs training documents."""
    if evidence.training is None or verdict.name not in ("wrong", "unsupported"):
        return None
    found = cause(evidence.training)
    if learned is not None:
        (name,) = learned.predict([unaided(evidence.training)])
        like = f"Labelled wrong answers with such evidence were mostly {name}."
        return {"name": name, "reason": f"{found.reason} {like}"}
    return None if found.name is None else {"name": found.name, "reason": found.reason}


def _tokens(evidence: Evidence) -> list[dict[str, Any]]:
    reading = evidence.reading
    if reading is None:
        return []
    passage = reading.passage
    spans_T2 = passage.spans_L2[passage.first :] - passage.begin
    return [
        {
            "text": passage.completion[max(start, 0) : max(end, 0)],
            "start": max(int(start), 0),
            "end": max(int(end), 0),
            "log_probability": float(reading.log_probs_T[t]),
            "entropy": float(reading.entropy_T[t]),
            "rank": int(reading.rank_T[t]),
            "rival_log_probability": float(reading.rival_T[t]),
        }
        for t, (start, end) in enumerate(spans_T2)
    ]


def _details(
    found: Found,
    saved: SavedDetector,
    n: int,
    span_number: int,
) -> dict[str, Any]:
    """What a page shows of a span."""
    evidence = found.evidence[n]
    span = found.spans[found.owners[n][0]][span_number]
    return {
        "span": span_number,
        "layers": _layers(found, saved, n),
        "lens": _lens(evidence, span),
        "inputs": _inputs(evidence, span),
        "samples": _samples(evidence),
        "asked": _asked(evidence),
        "training": _training(evidence.training),
    }


def _layers(found: Found, saved: SavedDetector, n: int) -> dict[str, Any] | None:
    if not saved.layer_probes or found.errors[n]:
        return None
    layers, values = [], []
    for probe in saved.layer_probes:
        state_1D = found.states(probe.place, probe.layer)[n : n + 1]
        sign = 1 if probe.classes[-1] == "right" else -1
        layers.append(probe.layer)
        values.append(sign * float(probe.log_odds(state_1D)[0]))
    return {"layers": layers, "probe_log_odds": values, "best_layer": saved.about["layer"]}


def _lens(evidence: Evidence, span: Span) -> dict[str, Any] | None:
    reading = evidence.reading
    if reading is None or reading.lens is None:
        return None
    first = span_tokens(reading.passage, (span.start, span.end))[0] - reading.passage.first
    lens = reading.lens
    return {
        "layers": list(lens.layers),
        "log_probability": lens.log_probs_KT[:, first].tolist(),
        "rank": lens.rank_KT[:, first].tolist(),
        "entropy": lens.entropy_KT[:, first].tolist(),
        "emergence": emergence(lens)[first],
    }


def _inputs(evidence: Evidence, span: Span) -> dict[str, Any] | None:
    shares, reading = evidence.shares, evidence.reading
    if shares is None or reading is None or not shares.scores_L.sum():
        return None
    passage = reading.passage
    units = split_units(passage, "word")
    scores_U = unit_scores(shares.scores_L, units_of_tokens(passage, units), len(units))
    said = float(shares.scores_L[shares.begin : shares.first].sum())
    own_L = np.where(passage.fixed_L, 0.0, shares.scores_L)
    prompt = float(own_L[: shares.begin].sum())
    total = (prompt + said) or 1.0
    return {
        "units": [
            {
                "start": unit.start,
                "end": unit.end,
                "text": passage.text[unit.start : unit.end],
                "label": unit.label,
                "score": float(score),
                "share": float(score) / total,
            }
            for unit, score in zip(units, scores_U, strict=True)
        ],
        "prompt_share": prompt / total,
        "generated_share": said / total,
        "method": "length of the gradient",
        "unit": "nats per unit of embedding",
    }


def _samples(evidence: Evidence) -> dict[str, Any] | None:
    samples = evidence.samples
    if samples is None:
        return None
    counts = Counter(zip(samples.texts, samples.meanings_S.tolist(), strict=True))
    total = len(samples.texts)
    shares = Counter(samples.meanings_S.tolist())
    entropy = -sum(c / total * np.log(c / total) for c in shares.values())
    return {
        "texts": [
            {"text": text, "meaning": int(meaning), "share": times / total}
            for (text, meaning), times in counts.most_common()
        ],
        "agreement": shares[0] / total,
        "semantic_entropy": float(entropy),
    }


def _asked(evidence: Evidence) -> dict[str, Any] | None:
    if evidence.p_true is None and evidence.stated is None and evidence.named is None:
        return None
    stated = evidence.stated
    return {
        "p_true": evidence.p_true,
        "stated": None if stated is None or np.isnan(stated) else stated,
        "named": None if evidence.named is None else list(evidence.named),
    }


def _training(found: Training | None) -> dict[str, Any] | None:
    if found is None:
        return None
    stances = Counter(one.stance for one in found.support)
    return {
        **{stance: stances[stance] for stance in STANCES},
        "rival": found.rival,
        "answer_count": found.answer_count,
        "rival_count": found.rival_count,
        "subject_count": found.subject_count,
        "longest_match": found.longest_match,
        "covered": found.covered,
        "documents": [
            {
                "id": one.id,
                "influence": one.influence,
                "stance": one.stance,
                "answer": one.answer,
                "excerpt": one.excerpt,
            }
            for one in found.support
        ],
    }
