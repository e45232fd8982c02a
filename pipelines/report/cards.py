"""One traced document as a card, and the small bar rows that cards and figures are made of."""

import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipelines.report.characters import shortened
from pipelines.report.charts import Span, bar, diverging_bar, span_of
from pipelines.report.heat import Heat, heat_map, plain_text
from pipelines.report.numbers import aligned, count, is_number, nats, or_zero, plain, signed
from pipelines.report.reading import flags_of

MOST_LAYERS = 24
"""Layers listed one by one; weaker ones are added up in one row."""

BLOCK = re.compile(r"^(?:.*\.)?(?:layers|layer|h|blocks|block)\.(\d+)\.(.+)$")
"""Module names inside a numbered block, in the common naming schemes."""

MOST_TOKENS = 5
"""Tokens named with their value in the details."""

MOST_COPIES = 50
"""Near-duplicates that are named on a card."""

LONGEST_SHARED = 120
"""Characters of a span that the document shares with the output."""

LONGEST_VALUE = 2_000
"""Characters of one metadata value that are shown."""


@dataclass(frozen=True, kw_only=True)
class BarRow:
    """A labelled bar."""

    label: str
    """What is measured, short."""
    title: str
    """What is measured, in full."""
    drawing: Markup
    """The bar."""
    value: str
    """The number in words; of two bars the proponents' or positive one."""
    against: str = ""
    """Of two bars the opponents' or negative number."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One document, ready for the page."""

    anchor: str
    """Element id, unique on the page."""
    kind: str
    """``pro`` or ``opp``."""
    rank: str
    """Place among its kind, from 1."""
    score: str
    """Signed score with its unit."""
    drawing: Markup
    """Bar scaled to the strongest document of either kind."""
    source: str
    """Source, or ""."""
    language: str
    """Language, or ""."""
    normalised: str
    """Signed normalised score, or ""."""
    flags: tuple[str, ...]
    """Columns that hold True."""
    heat: Heat
    """The text, coloured by token."""
    shared: tuple[str, ...]
    """Its longest spans that stand in prompt and completion word for word."""
    stored_text: str
    """The text as stored, when the tokens do not join back to it; else ""."""
    layers: tuple[BarRow, ...]
    """Score by layer."""
    facts: tuple[tuple[str, str], ...]
    """Names and values for the details."""
    copies: int
    """Near-duplicates in the corpus that this card stands for, itself not counted."""
    cluster_score: str
    """Sum of the scores of the cluster's documents that were scored, or ""."""
    others: tuple[tuple[str, str], ...]
    """Names and scores of the near-duplicates that were scored, strongest first."""
    others_left_out: int
    """Near-duplicates that were not scored or are not named."""


def cards(trace: dict[str, Any], kind: str) -> list[Card]:
    """Cards of the proponents or opponents of a trace.

    Args:
        trace: The content of trace.json.
        kind: ``pro`` or ``opp``.

    Returns:
        One card a row, in the order of the trace.
    """
    rows = trace.get("proponents" if kind == "pro" else "opponents") or []
    everyone = [*(trace.get("proponents") or []), *(trace.get("opponents") or [])]
    strongest = max((abs(or_zero(row.get("score"))) for row in everyone), default=0.0)
    return [_card(row, kind, place, strongest) for place, row in enumerate(rows, start=1)]


def _card(row: dict[str, Any], kind: str, place: int, strongest: float) -> Card:
    rank = count(row.get("rank")) or str(place)
    score = nats(row.get("score"), strongest)
    share = abs(or_zero(row.get("score"))) / strongest if strongest > 0 else 0.0
    text, tokens = str(row.get("text") or ""), row.get("tokens") or []
    joined = "".join(str(token.get("text") or "") for token in tokens)
    copies = copies_of(row)
    others = tuple(
        (str(other.get("id") or ""), nats(other.get("score"), strongest))
        for other in (row.get("others") or [])[:MOST_COPIES]
    )
    return Card(
        anchor=f"{kind}-{place}",
        kind=kind,
        rank=rank,
        score=score,
        drawing=bar(share, kind, f"score {score}"),
        source=str(row.get("source") or ""),
        language=str(row.get("language") or ""),
        normalised=signed(row.get("normalised"), 2),
        flags=tuple(flags_of(row)),
        heat=heat_map(tokens) if joined else plain_text(text),
        shared=tuple(shortened(span, LONGEST_SHARED) for span in row.get("shared") or []),
        stored_text=text if joined and joined != text else "",
        layers=tuple(layer_rows(row.get("layers") or [])),
        facts=tuple(_facts(row)),
        copies=copies,
        cluster_score=nats(row.get("cluster_score"), strongest) if copies else "",
        others=others,
        others_left_out=copies - len(others),
    )


def copies_of(row: dict[str, Any]) -> int:
    """Return how many near-duplicates a row stands for, itself not counted."""
    documents = row.get("cluster_documents")
    known = round(documents) - 1 if is_number(documents) else 0
    return max(known, len(row.get("others") or []))


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    named = [
        ("id", str(row.get("id") or "")),
        ("strongest tokens", _strongest_tokens(row.get("tokens") or [])),
        ("loss", f"{plain(row['loss'])} nats" if is_number(row.get("loss")) else ""),
        ("tokens", count(row.get("n_tokens"))),
        ("self-influence", nats(row.get("self_influence"))),
        ("score in the store", nats(row.get("store_score"))),
    ]
    meta = sorted((row.get("meta") or {}).items(), key=lambda item: str(item[0]))
    named += [(str(name), _value(value)) for name, value in meta if value is not None]
    return [(name, value) for name, value in named if value]


def _strongest_tokens(tokens: list[dict[str, Any]]) -> str:
    """Return the strongest tokens with their values, for those who cannot hover."""
    scored = [token for token in tokens if or_zero(token.get("score"))]
    scored.sort(key=lambda token: -abs(or_zero(token.get("score"))))
    named = [
        f"“{shortened(str(token.get('text') or ''), 30)}” {signed(token.get('score'), 2)}"
        for token in scored[:MOST_TOKENS]
    ]
    return ", ".join(named)


def _value(value: object) -> str:
    text = str(value)
    rest = len(text) - LONGEST_VALUE
    return text if rest <= 0 else f"{text[:LONGEST_VALUE]}… ({count(rest)} more characters)"


def layer_rows(layers: list[dict[str, Any]]) -> list[BarRow]:
    """Score by layer, in the model's order, the weakest of many layers added up.

    Args:
        layers: ``{"layer", "score"}``, nats per document removed; they sum to the score.

    Returns:
        Rows whose values still sum to the score.
    """
    pairs = [
        (str(entry.get("layer") or "not named"), or_zero(entry.get("score"))) for entry in layers
    ]
    pairs = _strongest(pairs)
    span = span_of([score for _, score in pairs])
    return [_signed_row(name, score, span) for name, score in pairs]


def short_layer(name: str) -> str:
    """Return ``model.layers.3.mlp.up_proj`` as ``block 3 · mlp.up_proj``, others unchanged."""
    inside = BLOCK.match(name)
    return f"block {inside[1]} · {inside[2]}" if inside else name


def _signed_row(name: str, score: float, span: Span) -> BarRow:
    drawing = diverging_bar(min(score, 0.0), max(score, 0.0), span, f"{name}: {nats(score)}")
    value = aligned(score, max(-span.low, span.high))
    return BarRow(label=short_layer(name), title=name, drawing=drawing, value=value)


def _strongest(pairs: list[tuple[str, float]]) -> list[tuple[str, float]]:
    if len(pairs) <= MOST_LAYERS:
        return pairs
    by_size = sorted(range(len(pairs)), key=lambda index: -abs(pairs[index][1]))
    kept, rest = sorted(by_size[: MOST_LAYERS - 1]), by_size[MOST_LAYERS - 1 :]
    total = sum(pairs[index][1] for index in sorted(rest))
    return [*(pairs[index] for index in kept), (f"{len(rest)} weaker layers together", total)]
