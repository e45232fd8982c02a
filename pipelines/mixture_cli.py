"""`influence mixture`: which sources help or hurt which abilities?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

EPILOG = (
    "[bold]Examples[/bold]: influence mixture demo\n\n"
    "influence mixture my-run --queries abilities.jsonl --by language --verify drop"
)


def mixture(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or name.")],
    queries: Annotated[
        Path | None,
        typer.Option(
            help="jsonl: task, prompt, completion (or text); optional contrast, id, supports, "
            "language. Default: the abilities of the embedded corpus."
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Column of the documents that groups them; or cluster.")
    ] = "source",
    store: Annotated[
        bool, typer.Option("--store", help="Score from the gradient store: faster, compressed.")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(help="How much tasks count in the re-weighting: capitals=2,code=0; else 1."),
    ] = None,
    verify: Annotated[
        str | None,
        typer.Option(help="Train again and compare: drop, reweight or unlearn (minutes to hours)."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings a mixture (--verify).")] = 3,
    html: Annotated[Path | None, typer.Option(help="Where to write the page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Where runs live.")] = Path("runs"),
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Local worker processes; 0: none, work here."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask scheduler, tcp://HOST:PORT; default: this machine.")
    ] = None,
) -> None:
    """Which sources help or hurt which abilities? Positive: removing the source raises the loss."""
    from pipelines.cluster import Workers
    from pipelines.mixture import run_mixture
    from pipelines.mixture_options import MixtureOptions
    from pipelines.mixture_queries import read_tasks
    from pipelines.report.mixture_terminal import print_mixture
    from pipelines.runs import open_run

    options = MixtureOptions(
        by=by,
        store=store,
        importance=_importance(weights),
        verify=verify,
        seeds=seeds,
        html=html,
    )
    opened = open_run(run, runs)
    asked = read_tasks(queries, opened)
    with Workers(workers, scheduler, Console(stderr=True)) as pool:
        result: dict[str, Any] = run_mixture(opened, asked, options, pool)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    out = Console()
    print_mixture(result, out)
    out.print(f"Tables: {result['folder']}", soft_wrap=True, highlight=False)


def _importance(text: str | None) -> dict[str, float]:
    from pipelines.errors import RunError

    found = {}
    for part in (text or "").split(","):
        name, _, value = part.rpartition("=")
        if not part.strip():
            continue
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise RunError(
                f"Mixture: --weights {part!r} given, TASK=NUMBER was expected, such as capitals=2."
            ) from None
    return found
