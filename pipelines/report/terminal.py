"""A trace in the terminal: tables of proponents, opponents and sources."""

import re
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.report.cards import copies_of
from pipelines.report.characters import shortened, visible
from pipelines.report.heat import LEVELS, level, strongest_token
from pipelines.report.numbers import aligned, count, or_zero, percent, signed
from pipelines.report.reading import cautions, flags_of, quality_line, question, result

LONGEST_TEXT = 240
"""Characters of a document in a table cell."""

LEAD = 60
"""Characters shown before the strongest token of a long document."""

COLOURS = {"proponents": "blue", "opponents": "dark_orange3"}


def print_trace(trace: dict[str, Any], console: Console) -> None:
    """Print a trace: question, result, sign and N, documents, sources, quality.

    Args:
        trace: The content of trace.json. Texts are printed as they are, never as markup, with
            control characters named.
        console: Where to print.
    """
    console.print(Text(visible(question(trace)), style="bold"))
    console.print(Text(visible(result(trace))))
    console.print(Text(_header(trace), style="dim"))
    for kind in ("proponents", "opponents"):
        rows = trace.get(kind) or []
        console.print(_documents(kind, rows) if rows else Text(f"\nNo {kind} in this trace."))
    if trace.get("sources"):
        console.print(_sources(trace["sources"]))
    if trace.get("methods"):
        console.print(_methods(trace["methods"]))
    line = quality_line(trace)
    if line:
        console.print(Text(f"Quality: {line}"))
    for caution in cautions(trace):
        console.print(Text(visible(f"Note: {caution}"), style="yellow"))


def snippet(row: dict[str, Any], limit: int = LONGEST_TEXT) -> Text:
    """A document on one line around its strongest token, the strong tokens highlighted.

    Args:
        row: A proponent or opponent of trace.json.
        limit: Characters of the document to show.

    Returns:
        Text with the strongest tokens in bold; tokens of negative score are underlined.
    """
    tokens = [token for token in row.get("tokens") or [] if not token.get("special")]
    if not tokens:
        return Text(visible(shortened(str(row.get("text") or ""), limit)))
    strongest = strongest_token(tokens)
    start = _start(tokens, limit)
    line, position = Text("…" if start else ""), 0
    for token in tokens:
        text, score = str(token.get("text") or ""), or_zero(token.get("score"))
        shown = text[max(0, start - position) : max(0, start + limit - position)]
        position += len(text)
        joined = _one_line(shown)
        joined = joined.lstrip(" ") if line.plain.endswith(" ") else joined
        line.append(visible(joined), style=_style(score, strongest))
    return line.append("…") if start + limit < position else line


def _header(trace: dict[str, Any]) -> str:
    documents = count(trace.get("n_documents"))
    parts = [
        f"Scores in {trace.get('unit') or 'nats per document removed'}",
        f"N = {documents}" if documents else "",
        str(trace.get("sign") or "positive: a proponent, removing it would raise the loss"),
    ]
    return visible("; ".join(part for part in parts if part))


def _start(tokens: list[dict[str, Any]], limit: int) -> int:
    """Return where the snippet begins: 0, or a little before a long text's strongest token."""
    lengths = [len(str(token.get("text") or "")) for token in tokens]
    if sum(lengths) <= limit:
        return 0
    best = max(range(len(tokens)), key=lambda index: abs(or_zero(tokens[index].get("score"))))
    return max(0, min(sum(lengths[:best]) - LEAD, sum(lengths) - limit))


def _one_line(text: str) -> str:
    """Line breaks and indentation as single blanks."""
    return re.sub(r"[ \n\t]+", " ", text)


def _style(score: float, strongest: float) -> str:
    strength = level(score, strongest)
    if strength * 2 < LEVELS:
        return ""
    return "bold blue" if score > 0 else "bold dark_orange3 underline"


def _documents(kind: str, rows: list[dict[str, Any]]) -> Table:
    sign = "+" if kind == "proponents" else "-"
    table = Table(title=f"{kind.capitalize()} ({sign})", title_justify="left", expand=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("nats per document removed", justify="right", width=12, style=COLOURS[kind])
    table.add_column("source", max_width=18)
    table.add_column("lang", max_width=8)
    table.add_column("text", ratio=1)
    strongest = max(abs(or_zero(row.get("score"))) for row in rows)
    for place, row in enumerate(rows, start=1):
        text = snippet(row)
        for flag in reversed(flags_of(row)):
            text = Text.assemble((f"[{visible(flag)}] ", "bold magenta"), text)
        copies = copies_of(row)
        if copies:
            text = text.copy().append(
                f" and {count(copies)} near-duplicate{'s' if copies > 1 else ''}", "magenta"
            )
        table.add_row(
            Text(str(row.get("rank") or place)),
            Text(aligned(row.get("score"), strongest)),
            Text(visible(row.get("source") or "")),
            Text(visible(row.get("language") or "")),
            text,
        )
    return table


def _methods(entries: list[dict[str, Any]]) -> Table:
    table = Table(title="Strongest proponents by other methods", title_justify="left", expand=True)
    table.add_column("method")
    table.add_column("shared", justify="right")
    table.add_column("first three", ratio=1)
    for entry in entries:
        rows = entry.get("proponents") or []
        lines = [
            f"{signed(row.get('score'))}  {shortened(_one_line(str(row.get('text') or '')), 60)}"
            for row in rows[:3]
        ]
        table.add_row(
            Text(visible(f"{entry.get('title')}\n{entry.get('unit')}")),
            Text(percent(entry.get("shared"))),
            Text(visible("\n".join(lines))),
        )
    return table


def _sources(entries: list[dict[str, Any]]) -> Table:
    table = Table(title="Sources, over all documents scored", title_justify="left")
    table.add_column("source")
    for name in ("documents", "share", "total nats", "positive", "negative"):
        table.add_column(name, justify="right")
    documents = sum(or_zero(entry.get("documents")) for entry in entries)
    for entry in sorted(entries, key=lambda entry: -abs(or_zero(entry.get("total")))):
        share = percent(or_zero(entry.get("documents")) / documents) if documents else ""
        values = [signed(entry.get(name), 2) for name in ("total", "positive", "negative")]
        cells = [visible(entry.get("source") or "not given"), count(entry.get("documents")), share]
        table.add_row(*(Text(cell) for cell in [*cells, *values]))
    return table
