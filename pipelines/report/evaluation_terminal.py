"""An evaluation in the terminal: findings, one table of methods and measures, references and notes."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.report import evaluation_reading as reading
from pipelines.report.characters import visible
from pipelines.report.evaluation_reading import Place, fixed

MOST_COLUMNS = 5
"""Measures side by side; more of them make a further table."""

LEGEND = (
    "* best; ~ not clearly worse (its interval overlaps the best one's); 95 % interval below; "
    "- not measured"
)


def print_evaluation(result: dict[str, Any], console: Console) -> None:
    """Print an evaluation: what was found, every number with its interval, what to compare with.

    Args:
        result: Methods, measures and settings. Names are printed as they are, never as markup, with
            control characters named; None and NaN are left out.
        console: Where to print.
    """
    result = reading.checked(result)
    run = str(result.get("run") or "")
    heading = f"{reading.QUESTION} Run {run}" if run else reading.QUESTION
    console.print(Text(visible(heading), style="bold"))
    if reading.size(result):
        console.print(Text(reading.size(result), style="dim"))
    for sentence in reading.findings(result):
        console.print(Text(visible(f"- {sentence}")))
    found = reading.measures(result)
    if not found:
        console.print(Text("Nothing was measured yet."))
    compared = reading.contests(result)
    for start in range(0, len(compared), MOST_COLUMNS):
        console.print(_table(result, compared[start : start + MOST_COLUMNS]))
    if compared:
        console.print(Text(LEGEND, style="dim"))
    for measure in found:
        line = _reference(measure)
        if line:
            console.print(Text(visible(line), style="dim"))
    for note in result.get("notes") or []:
        console.print(Text(visible(f"Note: {note}"), style="yellow"))


def _table(result: dict[str, Any], measures: list[reading.Measure]) -> Table:
    table = Table()
    table.add_column("method")
    by_method = []
    for measure in measures:
        better = reading.BETTER.get(str(measure.get("better")), "")
        heading = (
            f"{reading.title_of(measure)}\n({better})" if better else reading.title_of(measure)
        )
        table.add_column(Text(visible(heading)), justify="right")
        by_method.append({place.method: place for place in reading.places(result, measure)})
    for method, title in reading.titles(result).items():
        shown = any(method in places for places in by_method)
        if not (shown or reading.is_method(result, method)):
            continue
        table.add_row(Text(visible(title)), *(_cell(places.get(method)) for places in by_method))
    return table


def _cell(place: Place | None) -> Text:
    if place is None or not place.value:
        return Text("-", style="dim")
    mark = " *" if place.best else " ~" if place.level else "  "
    cell = Text(f"{place.value}{mark}", style="bold blue" if place.best else "")
    return cell.append(f"\n{place.interval}  ", style="dim") if place.interval else cell


def _reference(measure: reading.Measure) -> str:
    limit = reading.reference(measure)
    if limit is None:
        return ""
    about = str((measure.get("reference") or {}).get("about") or "")
    value = fixed(limit[1], reading.decimals_of(measure))
    return f"{reading.title_of(measure)}: {limit[0]} {value}. {about}".strip()
