"""What a page shows of one claim: words, layers, depth, prompt, samples and training documents."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipelines.report import hallucination_reading as reading
from pipelines.report.cards import BarRow
from pipelines.report.characters import marked, shortened
from pipelines.report.charts import Span, bar, diverging_bar, span_of
from pipelines.report.claims import coloured
from pipelines.report.numbers import (
    count,
    is_number,
    nats,
    or_zero,
    percent,
    plain,
    signed,
)
from pipelines.report.plots import Axis, Line, Mark, plot, room
from pipelines.report.strip_html import strip_html

LONGEST_STRIP, LONGEST_EXCERPT = 900, 4_000
"""Characters shown of a strip, and of a training document's excerpt."""

MOST_DETAILS, MOST_TOKENS, MOST_UNITS, MOST_TEXTS, MOST_DOCUMENTS, MOST_LISTED = (
    12,
    60,
    8,
    12,
    12,
    400,
)
"""Spans looked at closer; tokens, prompt parts, samples, documents of one; rows of a table."""

MARKS = {
    "subject": "the question's subject",
    "answer": "this answer",
    "rival": "another answer",
    "verbatim": "word for word as in question or answer",
}
"""What is marked in a training document."""

STANCES = {"supports": "pro", "contradicts": "opp"}
"""Colour of a document that takes a side."""

PARTS = ("layers", "lens", "inputs", "samples", "asked", "training")
"""What can be known of a span, by the keys of its details."""


def details(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is known of spans, one entry a span, that of the answer first."""
    spans = reading.dicts(found.get("spans"))
    seen: dict[int, dict[str, Any]] = {}
    for given in reading.dicts(found.get("details")):
        number = span_number(given)
        if 0 <= number < len(spans):
            seen.setdefault(number, given)
    order = sorted(seen, key=lambda number: not spans[number].get("is_answer"))
    return [seen[number] for number in order[:MOST_DETAILS]]


def span_number(given: Mapping[str, Any]) -> int:
    """Which span details are about.

    Returns:
        Its number among the answer's spans.
    """
    return int(given["span"]) if is_number(given.get("span")) else 0


def detail(found: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the page shows of one span."""
    number, completion = span_number(given), str(found.get("completion") or "")
    span = reading.dicts(found.get("spans"))[number]
    text = reading.words_of(span, completion)
    first, last = reading.limits_of(span, len(completion))
    parts = {
        "tokens": _tokens(found, first, last),
        "layers": _layers(given.get("layers") or {}),
        "lens": _lens(given.get("lens") or {}, text),
        "inputs": _inputs(found, given.get("inputs") or {}, first, last),
        "samples": _samples(given.get("samples") or {}),
        "asked": reading.asked_words(given.get("asked") or {}),
        "training": _training(given.get("training") or {}, text),
    }
    risk = percent(span.get("hallucination_probability"))
    return {
        **parts,
        "has": [name for name, value in parts.items() if value],
        "number": number,
        "text": shortened(text, 120) or "(empty)",
        "kind": str(span.get("kind") or ""),
        "is_answer": span.get("is_answer"),
        "verdict": str(span.get("verdict") or "none"),
        "title": reading.title(span.get("verdict")),
        "symbol": reading.symbol(span.get("verdict")),
        "risk": risk,
        "reasons": [reason_of(reason) for reason in reading.reasons(span)],
        "cause": reading.cause_words(found.get("cause") or {}) if span.get("is_answer") else "",
    }


def _tokens(found: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
    """Return the strips of surprise and of indecision, and the table of the span's tokens."""
    completion = str(found.get("completion") or "")
    tokens = [t for t in reading.dicts(found.get("tokens")) if is_number(t.get("log_probability"))]
    inside = [t for t in tokens if or_zero(t.get("end")) > first and or_zero(t.get("start")) < last]
    if not inside:
        return {}
    strips = []
    for title, key, unit, sign in (
        ("Surprise", "log_probability", "nats of surprise", -1),
        ("Indecision", "entropy", "nats of entropy", 1),
    ):
        units = [
            {
                **limits,
                "score": sign * token[key],
                "label": reading.chance(token["log_probability"]),
            }
            for token in tokens
            if is_number(token.get(key))
            for limits in [{"start": token.get("start"), "end": token.get("end")}]
        ]
        if units:
            everything = coloured(completion, units, unit, first, (first, last))
            strips.append((title, strip_html(*everything, LONGEST_STRIP)))
    rows = [
        (
            reading.one_line(token.get("text"), 30) or "␣",
            reading.chance(token["log_probability"]),
            f"{plain(token.get('entropy'), 2)} nats" if is_number(token.get("entropy")) else "",
            count(token.get("rank")),
            _rival(token),
        )
        for token in inside[:MOST_TOKENS]
    ]
    return {
        "words": reading.hesitation(inside),
        "strips": strips,
        "bars": [_token_bar(token) for token in inside[:MOST_TOKENS]],
        "rows": rows,
    }


def _rival(token: Mapping[str, Any]) -> str:
    """Return the other token and its probability."""
    if not token.get("rival"):
        return ""
    share = reading.chance(token.get("rival_log_probability"))
    return f"“{shortened(str(token['rival']), 30)}”{f' {share}' if share else ''}"


def _token_bar(token: Mapping[str, Any]) -> BarRow:
    text = shortened(str(token.get("text") or ""), 30) or "␣"
    share = reading.chance(token["log_probability"])
    drawing = bar(math.exp(min(0.0, token["log_probability"])), "neutral", f"{text}: {share}")
    return BarRow(label=text, title=text, drawing=drawing, value=share)


def _layers(layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the probe's log-odds of being right by layer."""
    points = reading.pairs(layers.get("layers"), layers.get("probe_log_odds"))
    if not points:
        return {}
    said, best = reading.layers_words(layers), layers.get("best_layer")
    marks = [Mark(at=0.0, name="", upright=False)]
    marks += [Mark(at=best, name=f"layer {count(best)}")] if is_number(best) else []
    return {
        "words": said,
        "plot": plot(
            [Line(points=points), Line(points=points, dots=True)],
            _layer_axis([u for u, _ in points]),
            Axis(
                span=room([v for _, v in points], around=[0.0]),
                name="log-odds of being right; below 0: wrong",
            ),
            said,
            marks,
        ),
        "rows": [
            (f"layer {count(u)}", f"{signed(v, 2)} log-odds", percent(reading.right(v)))
            for u, v in points
        ],
    }


def _layer_axis(layers: Sequence[float]) -> Axis:
    low, high = min(layers), max(layers)
    return Axis(
        span=Span(low=low - 0.02 * (high - low or 1), high=high + 0.02 * (high - low or 1)),
        name="layer, from the first to the last",
    )


def _lens(lens: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return the log-probability of the span's first token by layer, read by the logit lens."""
    points = reading.pairs(lens.get("layers"), lens.get("log_probability"))
    if not points:
        return {}
    said, start = reading.lens_words(lens, text), reading.emergence(lens)
    ranks = dict(reading.pairs(lens.get("layers"), lens.get("rank")))
    entropies = dict(reading.pairs(lens.get("layers"), lens.get("entropy")))
    return {
        "words": said,
        "plot": plot(
            [Line(points=points), Line(points=points, dots=True)],
            _layer_axis([u for u, _ in points]),
            Axis(span=room([v for _, v in points], around=[0.0]), name="log-probability, nats"),
            said,
            [Mark(at=start, name=f"first choice from layer {count(start)}")]
            if start is not None
            else [],
        ),
        "rows": [
            (
                f"layer {count(u)}",
                f"{plain(v)} nats",
                reading.chance(v),
                count(ranks.get(u)),
                f"{plain(entropies[u], 2)} nats" if u in entropies else "",
            )
            for u, v in points
        ],
    }


def _inputs(
    found: Mapping[str, Any], inputs: Mapping[str, Any], first: int, last: int
) -> dict[str, Any]:
    """Return how much the answer rests on each part of the prompt."""
    units = [u for u in reading.dicts(inputs.get("units")) if is_number(u.get("score"))]
    if not units:
        return {}
    prompt, completion = str(found.get("prompt") or ""), str(found.get("completion") or "")
    begin, unit = len(prompt), str(inputs.get("unit") or "score")
    named = [
        {**u, "label": " ".join(filter(None, [str(u.get("label") or ""), percent(u.get("share"))]))}
        for u in units
    ]
    everything = coloured(prompt + completion, named, unit, begin, (begin + first, begin + last))
    ranked = sorted(units, key=lambda u: -abs(or_zero(u.get("share")) or u["score"]))
    return {
        "words": reading.inputs_words(inputs),
        "method": str(inputs.get("method") or ""),
        "unit": unit,
        "strip": strip_html(*everything, LONGEST_STRIP),
        "bars": [_unit_bar(u) for u in ranked[:MOST_UNITS]],
        "rows": [
            (_unit_name(u), percent(u.get("share")), f"{plain(u['score'])} {unit}")
            for u in ranked[:MOST_LISTED]
        ],
    }


def _unit_name(unit: Mapping[str, Any]) -> str:
    words = shortened(str(unit.get("text") or ""), 60) or "␣"
    return f"{unit['label']}: {words}" if unit.get("label") else words


def _unit_bar(unit: Mapping[str, Any]) -> BarRow:
    name, share = _unit_name(unit), percent(unit.get("share"))
    drawing = bar(abs(or_zero(unit.get("share"))), "much", f"{name}: {share}")
    return BarRow(label=name, title=name, drawing=drawing, value=share)


def _samples(samples: Mapping[str, Any]) -> dict[str, Any]:
    """Return the texts that the model gave when asked again, by meaning."""
    texts = reading.dicts(samples.get("texts"))
    if not texts:
        return {}
    groups: dict[Any, list[dict[str, Any]]] = {}
    for entry in texts:
        groups.setdefault(entry.get("meaning"), []).append(entry)
    rows = []
    for meaning, group in groups.items():
        known = [e["share"] for e in texts if is_number(e.get("share"))]
        total = sum(known) if len(known) == len(texts) and sum(known) > 0 else None
        own = sum(e["share"] for e in group) / total if total else len(group) / len(texts)
        rows.append(
            {
                "share": percent(own),
                "size": own,
                "same": meaning == 0,
                "drawing": bar(own, "pro" if meaning == 0 else "neutral", percent(own)),
                "texts": [shortened(str(e.get("text") or ""), 300) or "(empty)" for e in group],
            }
        )
    rows.sort(key=lambda row: (not row["same"], -row["size"]))
    return {"words": reading.samples_words(samples), "groups": rows[:MOST_TEXTS]}


def _training(training: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return what the training documents say, the documents as cards."""
    if not training:
        return {}
    given = reading.dicts(training.get("documents"))
    documents = [{**d, "marks": d.get("marks") or _found(d, text, training)} for d in given]
    largest = max((abs(or_zero(d.get("influence"))) for d in documents), default=0.0)
    verbatim = [
        (shortened(str(v.get("text") or ""), 200), count(v.get("words")), count(v.get("documents")))
        for v in reading.dicts(training.get("verbatim"))
    ]
    return {
        "words": reading.training_words(training, text),
        "run": str(training.get("run") or ""),
        "facts": reading.training_facts(training),
        "cards": [_card(d, largest) for d in documents[:MOST_DOCUMENTS]],
        "more": max(0, len(documents) - MOST_DOCUMENTS),
        "verbatim": verbatim,
        "marks": [
            (kind, words)
            for kind, words in MARKS.items()
            if any(kind in [m[2] for m in _marks(d)] for d in documents)
        ],
    }


def _card(document: Mapping[str, Any], largest: float) -> dict[str, Any]:
    influence, stance = document.get("influence"), str(document.get("stance") or "silent")
    other = document.get("answer")
    words = reading.STANCES.get(stance, stance)
    return {
        "id": str(document.get("id") or ""),
        "source": str(document.get("source") or ""),
        "kind": STANCES.get(stance, "neutral"),
        "stance": f"{words}: says “{shortened(str(other), 60)}”" if other else words,
        "influence": nats(influence, largest) if is_number(influence) else "",
        "drawing": diverging_bar(
            min(influence, 0.0),
            max(influence, 0.0),
            span_of([-largest, largest]),
            f"influence {nats(influence, largest)}",
        )
        if is_number(influence) and largest
        else "",
        "text": marked_excerpt(document),
    }


def _found(
    document: Mapping[str, Any], text: str, training: Mapping[str, Any]
) -> list[list[object]]:
    """Return where a document that comes without marks names this answer or another one."""
    excerpt = str(document.get("excerpt") or "")[:LONGEST_EXCERPT]
    named = {"answer": text, "rival": document.get("answer") or training.get("rival")}
    marks: list[list[object]] = []
    for kind, words in named.items():
        wanted = str(words or "").strip()
        found = re.finditer(re.escape(wanted), excerpt, re.IGNORECASE) if wanted else ()
        marks += [[match.start(), match.end(), kind] for match in found]
    return marks


def _marks(document: Mapping[str, Any]) -> list[tuple[int, int, str]]:
    """Return start, end and kind of marked words in order; of two that overlap the first."""
    length, found, at = len(str(document.get("excerpt") or "")[:LONGEST_EXCERPT]), [], 0
    given = [
        (int(m[0]), min(int(m[1]), length), str(m[2]))
        for m in document.get("marks") or []
        if isinstance(m, list) and len(m) > 2 and is_number(m[0]) and is_number(m[1])
    ]
    for start, end, kind in sorted(given):
        if at <= start < end and kind in MARKS:
            found.append((start, end, kind))
            at = end
    return found


def marked_excerpt(document: Mapping[str, Any]) -> Markup:
    """Return a training document's excerpt with its words marked.

    Args:
        document: ``excerpt`` and ``marks``, lists of start, end and kind.

    Returns:
        HTML whose text is the excerpt, cut to `LONGEST_EXCERPT` characters.
    """
    text, parts, at = str(document.get("excerpt") or ""), [], 0
    shown = text[:LONGEST_EXCERPT]
    for start, end, kind in _marks(document):
        parts += [
            marked(shown[at:start]),
            Markup('<span class="word {}" title="{}">{}</span>').format(
                kind, MARKS[kind], marked(shown[start:end])
            ),
        ]
        at = end
    rest = len(text) - len(shown)
    cut = (
        Markup('<span class="cut">… {} more characters</span>').format(count(rest)) if rest else ""
    )
    return Markup("").join([*parts, marked(shown[at:]), cut])


def reason_of(reason: Mapping[str, Any]) -> dict[str, str]:
    """A reason for a verdict, ready for the page.

    Returns:
        Its words, its facts in one line, and its colour.
    """
    value = or_zero(reason.get("contribution"))
    facts = [reading.amount(reason), reading.rank_words(reason), reading.contribution_words(reason)]
    return {
        "kind": "opp" if value > 0 else "pro" if value < 0 else "neutral",
        "symbol": "▲" if value > 0 else "▼" if value < 0 else "·",
        "words": reading.reason_words(reason),
        "facts": " · ".join(fact for fact in facts if fact),
    }
