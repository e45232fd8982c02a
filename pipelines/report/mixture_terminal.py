"""An analysis of a mixture in the terminal: findings, what to do, and compact tables.

Numbers carry their sign; "?" stands after one that is not told apart from zero, "n" after one without
an interval, "-" where nothing was measured: nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.report import matrices
from pipelines.report import mixture_reading as reading
from pipelines.report.characters import shortened, visible
from pipelines.report.mixture_reading import Found, dicts, name_of
from pipelines.report.numbers import count
from pipelines.report.scales import Scale, scale_of

MOST_GROUPS, MOST_SUSPECTS, MOST_WEIGHTS = 20, 8, 12
"""Rows of a table; the page and the files hold all."""

LONGEST_NAME, LONGEST_TEXT = 24, 110
"""Characters of a name and of a document."""

CELL = 11
"""Characters that a column of the matrix needs."""

MARKS = {"helps": " ", "hurts": " ", "unclear": "?", None: "n"}
STYLES = {"helps": "blue", "hurts": "dark_orange3", "unclear": "dim", None: "italic"}


def print_mixture(result: Mapping[str, Any], console: Console) -> None:
    """Print an analysis: findings, what to do, groups by tasks, suspects, weights, checks.

    Args:
        result: The content of mixture.json. Names and texts are printed as they are, never as
            markup, with control characters named; a missing number is "-".
        console: Where to print.
    """
    found = reading.read(result)
    console.print(Text(reading.QUESTION, style="bold"))
    console.print(Text(visible(reading.size(found)), style="dim"))
    for sentence in reading.findings(found):
        console.print(Text(visible(f"- {sentence}")))
    for caution in reading.warnings(found):
        console.print(Text(visible(f"Note: {shortened(caution, 400)}"), style="yellow"))
    todo = reading.advice(found)
    if todo:
        console.print(Text("\nWhat to do", style="bold"))
    for place, sentence in enumerate(todo, start=1):
        console.print(Text(visible(f"{place}. {sentence}")))
    _print_cells(found, console)
    for table in (_suspects(found), _weights(found), *_named(found)):
        if table is not None:
            console.print(table)
    page = found.get("page")
    if page:
        console.print(Text(visible(f"Page: {page}")), soft_wrap=True)


def _name(text: object) -> Text:
    return Text(visible(shortened(str(text), LONGEST_NAME)))


def _print_cells(found: Found, console: Console) -> None:
    """Print groups by tasks, as many tasks side by side as the width holds."""
    cells = {(name_of(c, "task"), name_of(c, "group")): c for c in dicts(found.get("cells"))}
    if not cells:
        return
    tasks, groups = reading.tasks_of(found), matrices.strongest_groups(found, MOST_GROUPS)
    scale = scale_of(cell.get("mean") for cell in cells.values())
    longest = max(len(shortened(group, LONGEST_NAME)) for group in groups)
    side_by_side = max(1, (console.width - longest - 4) // CELL)
    title = f"Mean score, {scale.unit} per document removed (+ helps, - hurts)"
    for start in range(0, len(tasks), side_by_side):
        table = Table(title=title if not start else None, title_justify="left")
        table.add_column(reading.noun(found, 1), max_width=LONGEST_NAME, no_wrap=True)
        shown = tasks[start : start + side_by_side]
        for task in shown:
            table.add_column(_name(task), justify="right", max_width=12)
        for group in groups:
            table.add_row(_name(group), *(_cell(cells.get((task, group)), scale) for task in shown))
        console.print(table)
    left = len(reading.groups_of(found)) - len(groups)
    more = f"; {count(left)} weaker {reading.noun(found)} left out" if left > 0 else ""
    console.print(Text(f"? not told apart from zero; n no interval; - not measured{more}", "dim"))


def _cell(cell: Mapping[str, Any] | None, scale: Scale) -> Text:
    text = scale.text(cell.get("mean")) if cell else ""
    if not text or cell is None:
        return Text("- ", style="dim")
    effect = cell.get("effect")
    return Text(f"{text}{MARKS.get(effect, ' ')}", style=STYLES.get(effect, ""))


def _suspects(found: Found) -> Table | None:
    suspects = dicts(found.get("suspects"))
    if not suspects:
        return None
    kinds = reading.by_kind(suspects)
    each = max(1, MOST_SUSPECTS // len(kinds))
    shown = [entry for _, entries in kinds for entry in entries[:each]]
    more = f", {len(shown)} of {count(len(suspects))}" if len(suspects) > len(shown) else ""
    table = Table(title=f"Suspects: read them{more}", title_justify="left", expand=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("sure?", no_wrap=True)
    table.add_column(reading.noun(found, 1), max_width=14)
    table.add_column("why, and text", ratio=1)
    for entry in shown:
        why = " ".join(str(reason.get("words") or "") for reason in dicts(entry.get("reasons")))
        copies = len(entry.get("others") or [])
        line = Text(visible(shortened(why, LONGEST_TEXT)))
        if copies:
            line.append(
                f" And {count(copies)} near-duplicate{'s' if copies > 1 else ''}.", "magenta"
            )
        text = shortened(str(entry.get("text") or "")[: 4 * LONGEST_TEXT], LONGEST_TEXT)
        line.append(visible(f"\n{text}"), "dim")
        table.add_row(
            Text(count(entry.get("rank"))),
            Text(reading.sureness(entry) or "-"),
            _name(entry.get("group") or ""),
            line,
        )
    return table


def _weights(found: Found) -> Table | None:
    proposal = found.get("reweighting") or {}
    groups = [g for g in dicts(proposal.get("groups")) if g.get("weight") is not None]
    if not groups:
        return None
    groups.sort(key=lambda group: -abs(group["weight"] - 1))
    title = "Proposed weights (1.00: as now)"
    table = Table(title=title, title_justify="left")
    table.add_column(reading.noun(found, 1), max_width=LONGEST_NAME)
    for name in ("weight", "tokens now", "tokens then"):
        table.add_column(name, justify="right")
    for group in groups[:MOST_WEIGHTS]:
        table.add_row(
            _name(name_of(group)),
            Text(f"x {group['weight']:.2f}"),
            Text(count(group.get("tokens_now")) or "-"),
            Text(count(group.get("tokens_then")) or "-"),
        )
    return table


def _named(found: Found) -> list[Table]:
    """Return for each check by training what was named most helpful, and what was found."""
    tables = []
    for key, title in (("verification", "Checked by training"), ("forgetting", "Unlearned")):
        check = found.get(key) or {}
        named = dicts(check.get("named"))
        if not named:
            continue
        scale = scale_of(entry.get("margin") for entry in named)
        table = Table(
            title=f"{title}: {reading.agreement(check, found.get('reweighting'))}",
            title_justify="left",
        )
        for name in ("task", "named by influence", "found by training", "right"):
            table.add_column(name)
        table.add_column(f"lead over the next, {scale.unit}", justify="right")
        for entry in named:
            right = entry.get("right")
            table.add_row(
                _name(name_of(entry, "task")),
                _name(name_of(entry, "predicted_group")),
                _name(name_of(entry, "measured_group")),
                Text("yes" if right is True else "no" if right is False else "-"),
                Text(scale.text(entry.get("margin")) or "-"),
            )
        tables.append(table)
    return tables
