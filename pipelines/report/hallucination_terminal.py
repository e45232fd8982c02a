"""Hallucination detection in the terminal: verdict, coloured answer and reasons; a fitted detector.

A claim is followed by its verdict's sign and probability, as in {Kouile ✗ 87 %}, so that nothing is
said by colour alone; without colour it stands in braces.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.report import detector_reading
from pipelines.report import hallucination_reading as reading
from pipelines.report.characters import shortened, visible
from pipelines.report.claims import claims
from pipelines.report.detector_reading import Place, place_of
from pipelines.report.numbers import count, is_number, nats, percent, plain

LONGEST_ANSWER = 2_000
"""Characters of the answer that are shown."""

MOST_DOCUMENTS, MOST_ROWS, LONGEST_EXCERPT = 4, 40, 160
"""Training documents, rows of a table, and characters of a document."""

STYLES = {
    "wrong": "black on #f0a77c",
    "unsupported": "black on #f2d88a",
    "supported": "black on #a9cdec",
    "evasive": "black on #d0d4d9",
}
"""Background of a claim."""

BADGES = {
    "wrong": "bold white on #a83f00",
    "unsupported": "bold black on #e0b030",
    "supported": "bold white on #005a96",
    "evasive": "bold black on #c0c5cc",
}
"""Style of a verdict."""

WIDTH = 40
"""Characters of the risk's bar."""


def print_hallucination(result: Mapping[str, Any], console: Console) -> None:
    """Print a check: verdict, risk, the answer with its claims, reasons, documents, cautions.

    Args:
        result: The content of hallucination.json. Texts are printed as they are, never as markup,
            with control characters named.
        console: Where to print.
    """
    found = reading.read(result)
    plain_text = console.no_color or console.color_system is None
    verdict, risk = found.get("verdict"), percent(found.get("hallucination_probability"))
    badge = f" {reading.symbol(verdict)} {reading.title(verdict)} "
    head = Text().append(badge, BADGES.get(str(verdict), ""))
    head.append(f"  {risk} likely to be wrong" if risk else "", "bold")
    console.print(head)
    console.print(Text(visible(reading.verdict_words(found))))
    for sentence in [reading.risk_words(found), *reading.abstaining(found)]:
        if sentence:
            console.print(Text(sentence, style="dim"))
    if risk:
        console.print(_bar(found))
    asked = reading.one_line(reading.asked(found), 300)
    console.print()
    console.print(Text.assemble(("Asked: ", "dim"), visible(asked)))
    console.print(Text.assemble(("Said:  ", "dim"), answer_text(found, plain=plain_text)))
    reasons = reading.reasons(found)
    if reasons:
        console.print(Text("\nWhy", style="bold"))
    for reason in reasons:
        _print_reason(reason, console)
    _print_training(found, console)
    for note in found.get("notes") or []:
        console.print(Text(visible(f"Note: {note}"), style="yellow"))


def _bar(found: Mapping[str, Any]) -> Text:
    """Return the risk as a bar of characters, the line to abstain from as |."""
    risk = found["hallucination_probability"]
    line = (found.get("threshold") or {}).get("probability")
    at = min(WIDTH - 1, round(WIDTH * line)) if is_number(line) else -1
    filled = round(WIDTH * min(max(risk, 0.0), 1.0))
    cells = "".join("|" if i == at else "█" if i < filled else "░" for i in range(WIDTH))
    style = "dark_orange3" if reading.is_over(found) else "blue"
    text = Text("0 % ", style="dim").append(cells, style).append(" 100 %", style="dim")
    return text.append(f"   | withhold above {percent(line)}" if at >= 0 else "", style="dim")


def answer_text(found: Mapping[str, Any], *, plain: bool) -> Text:
    """Return the completion with its claims marked.

    Args:
        found: The result.
        plain: Set claims in braces, not in colour.

    Returns:
        One text; a claim is followed by its verdict's sign and probability.
    """
    line = Text()
    for number, group in groupby(claims(found, LONGEST_ANSWER), key=lambda piece: piece.number):
        pieces = list(group)
        if number is None:
            for piece in pieces:
                folded = f" [… {count(len(piece.text))} characters …] "
                line.append(folded if piece.folded else visible(piece.text))
            continue
        span = reading.dicts(found.get("spans"))[number]
        text = "".join("…" if piece.folded else piece.text for piece in pieces)
        label = f" {reading.symbol(span.get('verdict'))}"
        label += f" {percent(span.get('hallucination_probability'))}".rstrip()
        word = text.lstrip()
        line.append(visible(text[: len(text) - len(word)]))
        inner = visible(word) + (label if pieces[-1].ends else "")
        style = STYLES.get(str(span.get("verdict")), "")
        line.append(f"{{{inner}}}" if plain else inner, "" if plain else style)
    return line


def _print_reason(reason: Mapping[str, Any], console: Console) -> None:
    value = reason.get("contribution")
    up = is_number(value) and value > 0
    sign, style = ("+", "dark_orange3") if up else ("-", "blue")
    words = Text(visible(reading.reason_words(reason)))
    facts = [reading.amount(reason), reading.rank_words(reason), reading.contribution_words(reason)]
    line = Text("; ".join(visible(fact) for fact in facts if fact), style="dim")
    table = Table.grid(padding=(0, 1))
    table.add_column(width=2)
    table.add_column()
    table.add_row(Text(f" {sign}", style=f"bold {style}"), words)
    table.add_row("", line)
    console.print(table)


def _print_training(found: Mapping[str, Any], console: Console) -> None:
    """Print what the training documents say of the answer, and the first of them."""
    spans = reading.dicts(found.get("spans"))
    completion = str(found.get("completion") or "")
    for given in reading.dicts(found.get("details")):
        training, number = given.get("training"), given.get("span")
        if not training or not is_number(number) or not 0 <= number < len(spans):
            continue
        span = spans[int(number)]
        console.print(Text("\nTraining documents", style="bold"))
        console.print(
            Text(visible(reading.training_words(training, reading.words_of(span, completion))))
        )
        if span.get("is_answer") and found.get("cause"):
            console.print(Text(visible(reading.cause_words(found["cause"]))))
        documents = reading.dicts(training.get("documents"))[:MOST_DOCUMENTS]
        if documents:
            console.print(_documents(documents))


def _documents(documents: list[dict[str, Any]]) -> Table:
    table = Table(expand=True)
    table.add_column("says", max_width=16)
    table.add_column("influence", justify="right", max_width=13)
    table.add_column("document", ratio=1)
    for document in documents:
        stance = str(document.get("stance") or "silent")
        said = reading.STANCES.get(stance, stance)
        style = {"supports": "blue", "contradicts": "dark_orange3"}.get(stance, "")
        excerpt = shortened(str(document.get("excerpt") or ""), LONGEST_EXCERPT)
        table.add_row(
            Text(visible(said), style=style),
            Text(nats(document.get("influence")) or "not measured"),
            Text(visible(excerpt)),
        )
    return table


def print_detector(report: Mapping[str, Any], console: Console) -> None:
    """Print a fitted detector: headline, comparison with controls, gains, threshold, cautions.

    Args:
        report: The content of detector-report.json. Names are printed as they are, never as
            markup, with control characters named.
        console: Where to print.
    """
    found = detector_reading.read(report)
    console.print(Text(visible(detector_reading.headline(found)), style="bold"))
    line = detector_reading.data_words(found)
    if line:
        console.print(Text(line, style="dim"))
    for sentence in detector_reading.beside(found):
        console.print(Text(visible(sentence)))
    rows = detector_reading.rows(found)[:MOST_ROWS]
    if rows:
        console.print(_comparison(rows))
        console.print(
            Text("AUROC of wrong; 0.5 is a coin, 1 is perfect; 95 % interval.", style="dim")
        )
    gains = [g for g in reading.dicts(found.get("gains")) if is_number(g.get("gain"))]
    if gains:
        console.print(_gains(gains))
    said = [
        detector_reading.calibration_words(found.get("calibration") or {}),
        _line(found.get("threshold") or {}),
        detector_reading.evasive_words(found.get("evasive") or {}),
        detector_reading.causes_words(found.get("causes") or {}),
    ]
    for sentence in said:
        if sentence:
            console.print(Text(sentence))
    for note in found.get("notes") or []:
        console.print(Text(visible(f"Note: {note}"), style="yellow"))


def _line(threshold: Mapping[str, Any]) -> str:
    return " ".join([reading.line_words(threshold), *reading.threshold_words(threshold)]).strip()


def _comparison(rows: list[dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("score", ratio=1)
    table.add_column("kind")
    for name in ("AUROC", "within topics"):
        table.add_column(name, justify="right")
    table.add_column("AP", justify="right")
    table.add_column("n", justify="right")
    for row in rows:
        control = row.get("kind") == "control"
        kind = detector_reading.KINDS.get(str(row.get("kind")), str(row.get("kind") or ""))
        table.add_row(
            Text(visible(row.get("name") or "")),
            Text(visible(kind)),
            Text(_cell(place_of(row, "auroc", "low", "high"))),
            Text(_cell(place_of(row, "within", "within_low", "within_high"))),
            Text(plain(row.get("ap")) or "-"),
            Text(count(row.get("n"))),
            style="dim" if control else "",
        )
    return table


def _gains(gains: list[dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("added")
    table.add_column("to")
    table.add_column("gain in AUROC", justify="right")
    table.add_column("adds")
    for gain in gains:
        place = place_of(gain, "gain", "low", "high")
        table.add_row(
            Text(visible(place.name)),
            Text(visible(gain.get("over") or "")),
            Text(_cell(place)),
            Text("yes" if gain.get("adds") else "not shown"),
        )
    return table


def _cell(place: Place) -> str:
    return "\n".join(part for part in (place.value, place.interval) if part) or "-"


def print_bed(counts: Mapping[tuple[str, str], int], path: Path, console: Console) -> None:
    """Print how many rows of a set of known truth have each label.

    Args:
        counts: By topic and label.
        path: Where the rows were written.
        console: Where to print.
    """
    labels = list(dict.fromkeys(label for _, label in counts))
    table = Table()
    table.add_column("topic")
    for label in labels:
        table.add_column(label, justify="right")
    for topic in dict.fromkeys(topic for topic, _ in counts):
        table.add_row(
            Text(visible(topic)), *(count(counts.get((topic, label), 0)) for label in labels)
        )
    console.print(table)
    console.print(f"Written: {path}", soft_wrap=True, highlight=False)
