"""What a trace says, in sentences: used by the page, the index and the terminal alike."""

import math
from collections import Counter
from typing import Any

from pipelines.report.characters import shortened
from pipelines.report.numbers import count, is_number, or_zero, percent, plain

LOW_RECALL = 0.8
"""Below this share of found documents the page says that strong documents may be missing."""

LOW_FIDELITY = 0.7
"""Below this rank agreement of store and exact scores the page says so."""

LOW_COVERAGE = 0.8
"""Below this share of the gradient the page says that much of the model was left out."""

LARGE_SCORE = 0.5
"""Nats per document removed beyond which a linear estimate is said to reach too far."""


def quoted(text: object, limit: int = 90) -> str:
    """Return a text on one line in quotation marks, shortened."""
    return f"“{shortened(str(text), limit)}”"


def question(trace: dict[str, Any]) -> str:
    """Return the question in one line."""
    query = trace.get("query") or {}
    completion = quoted(query.get("completion") or "")
    if query.get("contrast"):
        return f"Why {completion} rather than {quoted(query['contrast'])}?"
    return f"Why did the model say {completion}?"


def result(trace: dict[str, Any]) -> str:
    """Return the result in words: where the proponents come from, what the first is worth."""
    proponents, opponents = trace.get("proponents") or [], trace.get("opponents") or []
    if not proponents and not opponents:
        return "No document with a score came out of this trace."
    sentences = [_origin(trace, proponents)] if proponents else ["No proponent was found."]
    sentences += [_effect(trace, rows[0]) for rows in (proponents, opponents) if rows]
    return " ".join(sentence for sentence in sentences if sentence)


def _origin(trace: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    named = Counter(str(row["source"]) for row in rows if row.get("source"))
    if not named:
        return ""
    source, hits = named.most_common(1)[0]
    which = "strongest proponent" if len(rows) == 1 else f"{len(rows)} strongest proponents"
    start = f"The {which} is" if len(rows) == 1 else f"{hits} of the {which} {_be(hits)}"
    share = _share_of_corpus(trace, source)
    return f"{start} from “{source}”" + (
        f", which holds {share} of the documents." if share else "."
    )


def _be(hits: int) -> str:
    return "is" if hits == 1 else "are"


def _share_of_corpus(trace: dict[str, Any], source: str) -> str:
    sources = trace.get("sources") or []
    total = sum(or_zero(entry.get("documents")) for entry in sources)
    own = sum(or_zero(entry.get("documents")) for entry in sources if entry.get("source") == source)
    return percent(own / total) if total and own else ""


def _effect(trace: dict[str, Any], row: dict[str, Any]) -> str:
    """Return what removing one document would do, to first order."""
    if not is_number(row.get("score")) or or_zero(row.get("score")) == 0:
        return ""
    score = float(row["score"])
    name = "strongest proponent" if score > 0 else "strongest opponent"
    size = plain(abs(score), 2)
    direction = "raise" if score > 0 else "lower"
    if (trace.get("query") or {}).get("contrast"):
        return f"Removing the {name} would {direction} the loss difference by about {size} nats."
    return f"Removing the {name} would {direction} the loss by about {size} nats{_chance(score)}."


def _chance(score: float) -> str:
    """Return what a small change of the loss means for the probability of the whole completion."""
    change = math.expm1(-score) if abs(score) < 0.5 else 0.0
    if abs(change) < 1e-4:
        return ""
    return f" (its probability {'falls' if change < 0 else 'grows'} by {percent(abs(change))})"


def cautions(trace: dict[str, Any]) -> list[str]:
    """Return reasons to trust this trace less, each a sentence; none when none was measured."""
    quality = trace.get("quality") or {}
    found = []
    recall = quality.get("recall") or {}
    if is_number(recall.get("value")) and recall["value"] < LOW_RECALL:
        found.append(
            f"The search found {percent(recall['value'])} of the strongest documents on a sample:"
            " some may be missing here."
        )
    spearman = (quality.get("store_fidelity") or {}).get("spearman")
    if is_number(spearman) and spearman < LOW_FIDELITY:
        found.append(
            f"Compressed and exact scores agree only loosely in rank (Spearman {plain(spearman)}):"
            " totals by source and language are rough."
        )
    covered = quality.get("covered_gradient_share")
    if is_number(covered) and covered < LOW_COVERAGE:
        found.append(f"The tracked layers hold only {percent(covered)} of the squared gradient.")
    rows = [*(trace.get("proponents") or []), *(trace.get("opponents") or [])]
    largest = max((abs(or_zero(row.get("score"))) for row in rows), default=0.0)
    if largest > LARGE_SCORE:
        found.append(
            f"The largest score is {plain(largest, 2)} nats, too far for a first-order estimate: trust"
            " the order more than the size."
        )
    flags = Counter(flag for row in rows for flag in flags_of(row))
    found += [
        f"{hits} of the {len(rows)} documents shown {_be(hits)} flagged “{flag}”."
        for flag, hits in sorted(flags.items())
    ]
    return found


def flags_of(row: dict[str, Any]) -> list[str]:
    """Return names of the document's own columns that hold True, such as ``corrupted``."""
    return sorted(str(name) for name, value in (row.get("meta") or {}).items() if value is True)


def quality_line(trace: dict[str, Any]) -> str:
    """Return the measured quality in one line; "" when nothing was measured."""
    quality = trace.get("quality") or {}
    fidelity, recall = quality.get("store_fidelity") or {}, quality.get("recall") or {}
    at = f" at {count(recall.get('at'))}" if recall.get("at") else ""
    parts = {
        "store against exact scores: Spearman ": plain(fidelity.get("spearman")),
        "Pearson ": plain(fidelity.get("pearson")),
        f"search recall{at}: ": percent(recall.get("value")),
        "squared gradient covered: ": percent(quality.get("covered_gradient_share")),
        "label sampling error: ": percent(quality.get("label_noise")),
    }
    return "; ".join(name + value for name, value in parts.items() if value)
