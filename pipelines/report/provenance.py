"""How the numbers of a trace were made: names and values for the last section of the page."""

import json
from typing import Any

from pipelines.report.numbers import count, percent, plain, seconds

FORMULA = (
    "Score of a document = gradient of the query's loss · (F + λ)⁻¹ · gradient of the document's "
    "loss, divided by N. F is the EK-FAC curvature, λ its damping for each layer. Losses are sums "
    "over tokens, in nats."
)

Facts = list[tuple[str, str]]


def groups(trace: dict[str, Any]) -> list[tuple[str, Facts]]:
    """Return titled lists of names and values; empty ones are left out."""
    run = trace.get("run") or {}
    titled = [("Score", _score(trace)), ("Quality", _quality(trace))]
    loose = {key: value for key, value in run.items() if not isinstance(value, dict)}
    titled += [("Run", flattened(loose))]
    titled += [(str(key), flattened(part)) for key, part in run.items() if isinstance(part, dict)]
    titled += [("Time", _time(trace))]
    return [(title, facts) for title, facts in titled if facts]


def _score(trace: dict[str, Any]) -> Facts:
    scored = trace.get("scored") or {}
    facts = [
        ("unit", str(trace.get("unit") or "")),
        ("sign", str(trace.get("sign") or "")),
        ("N, documents in the corpus", count(trace.get("n_documents"))),
        ("what is measured", str(trace.get("measurement") or "")),
        ("documents scored", count(scored.get("documents"))),
        ("how all were scored", str(scored.get("how") or "")),
    ]
    return _kept(facts)


def _quality(trace: dict[str, Any]) -> Facts:
    quality = trace.get("quality") or {}
    fidelity, recall = quality.get("store_fidelity") or {}, quality.get("recall") or {}
    sample = ", ".join(
        f"{count(fidelity[name])} {name}" for name in ("documents", "queries") if fidelity.get(name)
    )
    found = f"of the exact top {count(recall.get('at'))}" if recall.get("at") else ""
    among = (
        f"among {count(recall.get('candidates'))} candidates" if recall.get("candidates") else ""
    )
    over = f"over {count(recall.get('queries'))} queries" if recall.get("queries") else ""
    facts = [
        ("store against exact, Spearman", plain(fidelity.get("spearman"))),
        ("store against exact, Pearson", plain(fidelity.get("pearson"))),
        ("measured on", sample),
        (
            "search recall",
            " ".join(filter(None, [percent(recall.get("value")), found, among, over])),
        ),
        ("squared gradient covered", percent(quality.get("covered_gradient_share"))),
        ("label sampling, relative standard error", percent(quality.get("label_noise"))),
    ]
    return _kept(facts)


def _time(trace: dict[str, Any]) -> Facts:
    spent = trace.get("seconds") or {}
    return _kept([(str(name), seconds(value)) for name, value in spent.items()])


def flattened(settings: dict[str, Any], prefix: str = "") -> Facts:
    """Return nested plain settings as dotted names and readable values; None is left out."""
    facts: Facts = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            facts += flattened(value, f"{name}.")
        else:
            facts.append((name, readable(value)))
    return _kept(facts)


def readable(value: object) -> str:
    """Return a setting's value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value) if 1900 <= value <= 2100 else f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        simple = all(not isinstance(item, dict | list | tuple) for item in value)
        return ", ".join(readable(item) for item in value) if simple else json.dumps(value)
    return "" if value is None else str(value)


def _kept(facts: Facts) -> Facts:
    return [(name, value) for name, value in facts if value]
