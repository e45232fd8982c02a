"""Copied or generalised: the index of outputs, as one HTML file and as a table in the terminal.

Outputs and documents are untrusted text: see ``pages``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.report.characters import shortened, visible
from pipelines.report.charts import Span
from pipelines.report.numbers import count, is_number, percent, plain
from pipelines.report.pages import page
from pipelines.report.plots import Axis, Line, plot
from pipelines.report.reading import quoted
from pipelines.run_folder import new_file

MOST_ROWS = 40
"""Outputs in a table of the terminal."""
MOST_NAMED = 2
"""Means that are named one by one in the sentence that begins a page."""
KINDS = ("curve", "against", "random")
"""Classes of the lines of a picture, one a task; more tasks share the last."""


def render_parroting(result: Mapping[str, Any]) -> str:
    """Render the index of some outputs.

    Args:
        result: Of `run_parroting`.

    Returns:
        A whole HTML document.
    """
    return page(
        "parroting.html.j2",
        "inputs.css",
        "spans.css",
        title="Copied, or generalised?",
        result=result,
        answer=answer(result),
        runs=[_run(result, run) for run in result["runs"]],
        summary=[_texts(row) for row in result["summary"]],
        rows=[_texts(row) for row in result["rows"] if row["final"]],
    )


def write_parroting_page(result: Mapping[str, Any], path: Path) -> Path:
    """Render a result into a file, whole or not at all.

    Args:
        result: Of `run_parroting`.
        path: The file to write.

    Returns:
        The path.
    """
    with new_file(path) as temporary:
        temporary.write_text(render_parroting(result), "utf-8", newline="\n")
    return path


def answer(result: Mapping[str, Any]) -> str:
    """The result in words: the mean index of the final models, of many groups the ends."""
    rows = [row for row in result["summary"] if row["final"]]
    known = sorted((row for row in rows if is_number(row["index"])), key=lambda r: -r["index"])
    if not known:
        return "No output has a document that made it likelier, so nothing is known of copying."
    named = known if len(known) <= MOST_NAMED else [known[0], known[-1]]
    between = "; " if len(known) <= MOST_NAMED else " down to "
    said = between.join(
        f"{value_of(row)} ({', '.join(name for name in (row['run'], row['task']) if name)})"
        for row in named
    )
    return f"Mean index of the final models, from 0 (generalised) to 1 (copied): {said}."


def value_of(row: Mapping[str, Any]) -> str:
    """An index with its interval, in words; a missing one is said to be missing."""
    if not is_number(row["index"]):
        return "not known"
    limits = f" [{row['low']:.2f} to {row['high']:.2f}]" if is_number(row["low"]) else ""
    return f"{row['index']:.2f}{limits}"


def _texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row, with its numbers in words."""
    return {
        **row,
        "value": value_of(row),
        "nats": plain(row["loss"], 2),
        "share": percent(row.get("copied")),
        "when": "final" if row["final"] else f"step {count(row['step'])}",
        "top": [
            {**one, "overlap": percent(one["overlap"]), "text": shortened(one["text"], 160)}
            for one in row.get("top") or []
        ],
    }


def _run(result: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    own = [row for row in result["summary"] if row["run"] == run["name"]]
    tasks = dict.fromkeys(str(row["task"] or "all outputs") for row in own)
    return {
        **run,
        "picture": checkpoint_curve(own),
        "lines": list(zip(_lines(), tasks, strict=False)),
    }


def _lines() -> Iterator[str]:
    """How the line of each task looks, as the classes of `KINDS`."""
    yield from ("pro", "opp")
    while True:
        yield "grey"


def checkpoint_curve(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the mean index of each task along the checkpoints of one run.

    Args:
        rows: Of a summary, of one run.

    Returns:
        An SVG element; nothing for fewer than two checkpoints.
    """
    known = [row for row in rows if is_number(row["step"]) and is_number(row["index"])]
    steps = sorted({row["step"] for row in known})
    if len(steps) < 2:
        return Markup("")
    lines = []
    for number, task in enumerate(dict.fromkeys(row["task"] for row in known)):
        own = sorted((row for row in known if row["task"] == task), key=lambda row: row["step"])
        points = [(float(row["step"]), float(row["index"])) for row in own]
        limits = [(row["low"], row["high"]) for row in own if is_number(row["low"])]
        kind = KINDS[min(number, len(KINDS) - 1)]
        both = limits if len(limits) == len(points) else []
        lines.append(Line(points=points, kind=kind, limits=both))
    space = 0.02 * (steps[-1] - steps[0])
    return plot(
        lines,
        Axis(span=Span(low=steps[0] - space, high=steps[-1] + space), name="training step"),
        Axis(span=Span(low=0.0, high=1.0), name="index"),
        "mean index by training step",
    )


def print_parroting(result: Mapping[str, Any], console: Console) -> None:
    """Print the index: the means, then the outputs of the final models.

    Args:
        result: Of `run_parroting`. Texts are printed as they are, with control characters named.
        console: Where to print.
    """
    console.print(Text(visible(answer(result))))
    console.print(Text(result["definition"], style="dim"))
    for note in result["notes"]:
        console.print(Text(visible(f"Note: {note}"), style="yellow"))
    if any(not row["final"] for row in result["summary"]) or len(result["summary"]) > 1:
        console.print(_summary(result["summary"]))
    rows = [row for row in result["rows"] if row["final"]]
    about = [name for name in ("run", "task") if len({row[name] for row in rows}) > 1]
    table = Table(title="Outputs of the final models", title_justify="left", expand=True)
    for name in about:
        table.add_column(name)
    for name in ("index (interval)", "copied", "loss"):
        table.add_column(name, justify="right")
    table.add_column("output", ratio=1)
    table.add_column("strongest proponent", ratio=1)
    for row in rows[:MOST_ROWS]:
        first = row["top"][0] if row["top"] else None
        cells = [*(row[name] or "" for name in about), value_of(row), percent(row["copied"])]
        cells += [plain(row["loss"], 2), quoted(row["prompt"] + row["completion"], 60)]
        cells += [shortened(first["text"], 60) if first else ""]
        table.add_row(*(Text(visible(cell)) for cell in cells))
    if len(rows) > MOST_ROWS:
        table.caption = f"and {count(len(rows) - MOST_ROWS)} more: see the page"
    console.print(table)


def _summary(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Mean index", title_justify="left")
    for name in ("run", "state", "task", "outputs", "index (interval)", "loss, nats"):
        table.add_column(name, justify="left" if name in ("run", "state", "task") else "right")
    for row in rows:
        texts = _texts(row)
        cells = [row["run"], texts["when"], row["task"] or "", count(row["queries"])]
        table.add_row(*(Text(visible(c)) for c in [*cells, texts["value"], texts["nats"]]))
    return table
