"""The figures of a page: layers, sources, languages, all scores, and probabilities."""

import math
from typing import Any

from markupsafe import Markup

from pipelines.report.cards import MOST_LAYERS, BarRow, short_layer
from pipelines.report.characters import shortened
from pipelines.report.charts import Span, bar, diverging_bar, histogram, paired_bar, span_of
from pipelines.report.numbers import aligned, count, is_number, or_zero, percent, signed

MOST_GROUPS = 15
"""Sources or languages listed one by one, strongest first."""

Pair = tuple[str, float, float]
"""A label, the opponents' (or negative) value, the proponents' (or positive) value."""

MOST_TOKENS = 24
"""Completion tokens shown with their probability."""


def layer_profile(trace: dict[str, Any]) -> list[BarRow]:
    """Return for each layer the summed scores of the proponents and the opponents shown."""
    entries = trace.get("layers") or []
    values = [
        (
            str(e.get("layer") or "not named"),
            or_zero(e.get("opponents")),
            or_zero(e.get("proponents")),
        )
        for e in entries
    ]
    if len(values) > MOST_LAYERS:
        order = sorted(range(len(values)), key=lambda i: -abs(values[i][1]) - abs(values[i][2]))
        kept, rest = sorted(order[: MOST_LAYERS - 1]), order[MOST_LAYERS - 1 :]
        others = (
            f"{len(rest)} weaker layers together",
            sum(values[i][1] for i in sorted(rest)),
            sum(values[i][2] for i in sorted(rest)),
        )
        values = [*(values[i] for i in kept), others]
    return _paired(values)


def group_totals(entries: list[dict[str, Any]], key: str) -> list[BarRow]:
    """Positive and negative totals by source or language, the largest first.

    Args:
        entries: ``{key, "documents", "positive", "negative", ...}``, nats per document removed.
        key: "source" or "language".

    Returns:
        One row a group; many groups end in one row that adds up the rest.
    """
    values = [
        (
            f"{e.get(key) or 'not given'} ({count(e.get('documents'))})"
            if is_number(e.get("documents"))
            else str(e.get(key) or "not given"),
            or_zero(e.get("negative")),
            or_zero(e.get("positive")),
        )
        for e in entries
    ]
    values.sort(key=lambda value: (-max(-value[1], value[2]), value[0]))
    if len(values) > MOST_GROUPS:
        rest = values[MOST_GROUPS - 1 :]
        others = (f"{len(rest)} others", sum(v[1] for v in rest), sum(v[2] for v in rest))
        values = [*values[: MOST_GROUPS - 1], others]
    return _two_sided(values)


def _two_sided(values: list[Pair]) -> list[BarRow]:
    """Return rows with one bar to the left and one to the right of zero, from Pairs."""
    span = span_of([value for _, *pair in values for value in pair])
    return [
        _row_of_two(pair, span, diverging_bar(pair[1], pair[2], span, _in_words(pair)))
        for pair in values
    ]


def _paired(values: list[Pair]) -> list[BarRow]:
    """Return rows with two bars above each other, each on the side of its sign."""
    span = span_of([value for _, *pair in values for value in pair])
    return [
        _row_of_two(pair, span, paired_bar(pair[2], pair[1], span, _in_words(pair)))
        for pair in values
    ]


def _in_words(pair: Pair) -> str:
    return f"{pair[0]}: {signed(pair[2])} and {signed(pair[1])} nats"


def _row_of_two(pair: Pair, span: Span, drawing: Markup) -> BarRow:
    label, against, value = pair
    largest = max(-span.low, span.high)
    return BarRow(
        label=short_layer(label),
        title=label,
        drawing=drawing,
        value=aligned(value, largest),
        against=aligned(against, largest),
    )


def distribution(trace: dict[str, Any]) -> Markup:
    """Return the histogram of all scores with markers for the documents on the page."""
    content = trace.get("distribution") or {}
    edges = [float(edge) for edge in content.get("edges") or [] if is_number(edge)]
    counts = [or_zero(value) for value in content.get("counts") or []]
    shown = {
        kind: [float(row["score"]) for row in trace.get(rows) or [] if is_number(row.get("score"))]
        for kind, rows in (("pro", "proponents"), ("opp", "opponents"))
    }
    return histogram(edges, counts, shown)


def likely_next(query: dict[str, Any]) -> list[BarRow]:
    """Return the model's own most likely next tokens after the prompt."""
    return [
        _probability_row(str(entry.get("text") or ""), or_zero(entry.get("probability")))
        for entry in query.get("most_likely") or []
    ]


def completion_tokens(query: dict[str, Any]) -> list[BarRow]:
    """Return the probability of each token of the completion, given what stands before it."""
    tokens = [
        token
        for token in query.get("tokens") or []
        if token.get("completion") and is_number(token.get("log_probability"))
    ]
    return [
        _probability_row(str(token.get("text") or ""), math.exp(min(0.0, token["log_probability"])))
        for token in tokens[:MOST_TOKENS]
    ]


def left_out(trace: dict[str, Any]) -> list[BarRow]:
    """Return parts of the model that were left out, by their share of the squared gradient."""
    entries = (trace.get("quality") or {}).get("left_out") or []
    return [
        BarRow(
            label=str(entry.get("name") or ""),
            title=str(entry.get("name") or ""),
            drawing=bar(or_zero(entry.get("share")), "neutral", percent(entry.get("share"))),
            value=percent(entry.get("share")),
        )
        for entry in entries[:MOST_GROUPS]
    ]


def _probability_row(text: str, probability: float) -> BarRow:
    shown = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return BarRow(
        label=shortened(shown, 40) or "(empty)",
        title=shortened(shown, 200),
        drawing=bar(probability, "neutral", percent(probability)),
        value=percent(probability),
    )
