"""The numbers behind each picture of an analysis of a mixture, as rows of text with their units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.report import mixture_reading as reading
from pipelines.report.characters import shortened
from pipelines.report.mixture_reading import Found, dicts, fixed, name_of
from pipelines.report.numbers import count, percent, plain

MOST_ROWS, LONGEST_CELL = 2_000, 160
"""Rows of a table on the page, the file holds all; and characters of a cell."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """What stands behind a picture."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    links: list[tuple[str, str]]
    left_out: int
    """Rows that only the file holds."""


def _table(
    head: tuple[str, ...], rows: Iterable[tuple[object, ...]], links: list[tuple[str, str]]
) -> Table:
    every = [tuple(shortened(str(cell), LONGEST_CELL) for cell in row) for row in rows]
    return Table(
        head=head, rows=every[:MOST_ROWS], links=links, left_out=max(0, len(every) - MOST_ROWS)
    )


def _between(entry: Mapping[str, Any], key: str) -> str:
    low, high = plain(entry.get(f"{key}_low")), plain(entry.get(f"{key}_high"))
    return f"{low} to {high}" if low and high else ""


def _cells(found: Found, links: list[tuple[str, str]]) -> Table:
    return _table(
        (
            "Task",
            reading.noun(found, 1).capitalize(),
            "Documents",
            "Mean, nats per document",
            "95 % interval",
            "Total, nats",
            "95 % interval of the total",
            "Positive, nats",
            "Negative, nats",
            "q",
            "Effect",
        ),
        (
            (
                name_of(c, "task"),
                name_of(c, "group"),
                count(c.get("documents")),
                plain(c.get("mean")),
                _between(c, "mean"),
                plain(c.get("total")),
                _between(c, "total"),
                plain(c.get("positive")),
                plain(c.get("negative")),
                plain(c.get("q"), 2),
                reading.EFFECTS.get(c.get("effect"), ""),
            )
            for c in dicts(found.get("cells"))
        ),
        links,
    )


def _groups(found: Found, links: list[tuple[str, str]]) -> Table:
    return _table(
        (
            reading.noun(found, 1).capitalize(),
            "Documents",
            "Near-duplicates counted once",
            "Tokens",
            "Mean self-influence, nats per document",
        ),
        (
            (
                name_of(g),
                count(g.get("documents")),
                count(g.get("clusters")),
                count(g.get("tokens")),
                plain(g.get("self_influence")),
            )
            for g in dicts(found.get("groups"))
        ),
        links,
    )


def _profiles(found: Found, links: list[tuple[str, str]]) -> Table:
    profiles = found.get("profiles") or {}
    names = [str(name) for name in profiles.get("groups") or []]
    noun = reading.noun(found, 1)
    return _table(
        (f"First {noun}", f"Second {noun}", "Correlation", "95 % interval", "They act"),
        (
            (
                first,
                second,
                fixed(reading.at(profiles, "correlation", i, j)),
                " to ".join(
                    filter(
                        None, (fixed(reading.at(profiles, end, i, j)) for end in ("low", "high"))
                    )
                ),
                reading.at(profiles, "relation", i, j) or "",
            )
            for i, first in enumerate(names)
            for j, second in enumerate(names[:i])
        ),
        links,
    )


def _tails(found: Found, links: list[tuple[str, str]]) -> Table:
    entries = [(entry, entry.get("tail") or {}) for entry in dicts(found.get("concentration"))]
    return _table(
        (
            "Task",
            "Documents",
            "Carry half",
            "Share that carries half",
            "Exponent of the tail",
            "95 % interval",
            "Tail from, nats",
            "Documents in the tail",
        ),
        (
            (
                name_of(entry, "task"),
                count(entry.get("documents")),
                count(entry.get("half")),
                percent(entry.get("half_share")),
                plain(tail.get("exponent")),
                f"{plain(tail.get('low'))} to {plain(tail.get('high'))}" if tail.get("low") else "",
                plain(tail.get("from")),
                count(tail.get("documents")),
            )
            for entry, tail in entries
        ),
        links,
    )


def _layers(found: Found, links: list[tuple[str, str]]) -> Table:
    return _table(
        ("Task", "Layer", "Total, nats", "Sum of sizes, nats"),
        (
            (
                name_of(e, "task"),
                name_of(e, "layer"),
                plain(e.get("total")),
                plain(e.get("absolute")),
            )
            for e in dicts(found.get("layers"))
        ),
        links,
    )


def _language_pairs(found: Found, links: list[tuple[str, str]]) -> Table:
    languages = found.get("languages") or {}

    def number(key: str, i: int, j: int) -> str:
        return plain(reading.at(languages, key, i, j))

    return _table(
        (
            "Asked in",
            "Documents in",
            "Questions",
            "Mean reciprocal rank",
            "95 % interval",
            "BM25",
            "Chance",
            "Same fact, nats per document",
            "Other facts, nats per document",
        ),
        (
            (
                query,
                document,
                count(reading.at(languages, "queries_of", i, j)),
                number("mrr", i, j),
                " to ".join(filter(None, (number("mrr_low", i, j), number("mrr_high", i, j)))),
                number("bm25", i, j),
                number("random", i, j),
                number("same_fact", i, j),
                number("other_facts", i, j),
            )
            for i, query in enumerate(languages.get("queries") or [])
            for j, document in enumerate(languages.get("documents") or [])
        ),
        links,
    )


def _suspects(found: Found, links: list[tuple[str, str]]) -> Table:
    return _table(
        ("Rank", "Document", "How sure", "Reasons"),
        (
            (
                count(e.get("rank")),
                name_of(e, "id"),
                reading.sureness(e),
                " ".join(str(reason.get("words") or "") for reason in dicts(e.get("reasons"))),
            )
            for e in dicts(found.get("suspects"))
        ),
        links,
    )


def _check_rows(found: Found, links: list[tuple[str, str]]) -> Table:
    return _changes(found, "verification", links)


def _forgotten(found: Found, links: list[tuple[str, str]]) -> Table:
    return _changes(found, "forgetting", links)


def _changes(found: Found, key: str, links: list[tuple[str, str]]) -> Table:
    return _table(
        (
            "Task",
            reading.noun(found, 1).capitalize(),
            "Predicted change, nats a question",
            "95 % interval",
            "Measured change, nats a question",
            "95 % interval of the measured",
        ),
        (
            (
                name_of(row, "task"),
                name_of(row, "group"),
                plain(row.get("predicted")),
                _between(row, "predicted"),
                plain(row.get("measured")),
                _between(row, "measured"),
            )
            for row in dicts((found.get(key) or {}).get("rows"))
        ),
        links,
    )


def _tasks(found: Found, links: list[tuple[str, str]]) -> Table:
    return _table(
        ("Task", "Questions", "Mean loss, nats a question", "Mean loss, nats a token"),
        (
            (
                name_of(t),
                count(t.get("queries")),
                plain(t.get("loss")),
                plain(t.get("loss_per_token")),
            )
            for t in dicts(found.get("tasks"))
        ),
        links,
    )


def _weights(found: Found, links: list[tuple[str, str]]) -> Table:
    return _table(
        (reading.noun(found, 1).capitalize(), "Weight", "Tokens now", "Tokens then"),
        (
            (
                name_of(g),
                plain(g.get("weight")),
                count(g.get("tokens_now")),
                count(g.get("tokens_then")),
            )
            for g in dicts((found.get("reweighting") or {}).get("groups"))
        ),
        links,
    )


MADE = {
    "tasks": _tasks,
    "reweighting": _weights,
    "cells": _cells,
    "groups": _groups,
    "profiles": _profiles,
    "concentration": _tails,
    "layers": _layers,
    "languages": _language_pairs,
    "suspects": _suspects,
    "verification": _check_rows,
    "forgetting": _forgotten,
}
"""How each table is made, by the name of its files."""
