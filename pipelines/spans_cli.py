"""`influence spans` and `influence parroting`: did the model copy?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Folder = Annotated[Path, typer.Option("--runs", help="Where runs live.")]
Scheduler = Annotated[
    str | None, typer.Option(help="A Dask scheduler, tcp://HOST:PORT; default: this machine.")
]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", min=0, help="Local worker processes; 0: none, work here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or name.")]


def spans(
    run: RunName,
    text: Annotated[str | None, typer.Option(help="The output, a whole text.")] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="jsonl of many: text, or prompt and completion; optional id."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the model was given.")] = None,
    completion: Annotated[str | None, typer.Option(help="What it said.")] = None,
    min_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Show all maximal spans of so many tokens; default: those that chance would not give.",
        ),
    ] = None,
    documents: Annotated[int, typer.Option(min=1, help="Documents to name for each span.")] = 3,
    html: Annotated[Path | None, typer.Option(help="Where to write the page.")] = None,
    as_json: AsJson = False,
    runs: Folder = Path("runs"),
    workers: WorkerCount = None,
    scheduler: Scheduler = None,
) -> None:
    """Which spans of an output stand word for word in the training documents? The rarest first."""
    from pipelines.cluster import Workers
    from pipelines.report.spans_terminal import print_spans
    from pipelines.runs import open_run
    from pipelines.verbatim import SpansOptions, asked_for, run_spans

    asked = asked_for(text, texts, prompt, completion)
    opened = open_run(run, runs)
    options = SpansOptions(min_tokens=min_tokens, documents=documents, html=html)
    with Workers(workers, scheduler, Console(stderr=True)) as pool:
        results = run_spans(opened, asked, options, pool)
    out = Console()
    for result in results:
        if as_json:
            print(json.dumps(result, ensure_ascii=False))
        elif len(results) <= MOST_PRINTED:
            print_spans(result, out)
    if not as_json:
        out.print(f"Page:  {results[0]['page']}", soft_wrap=True, highlight=False)
        out.print(f"Spans: {results[0]['folder']}/spans.parquet", soft_wrap=True, highlight=False)


MOST_PRINTED = 20
"""Outputs of which tables are printed; of more only the page is."""


def parroting(
    run: RunName,
    queries: Annotated[
        Path | None, typer.Option(help="jsonl of outputs: prompt, completion, task, id; or text.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the model was given.")] = None,
    completion: Annotated[str | None, typer.Option(help="What it said.")] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="Another run, such as a larger model (repeat).")
    ] = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="All checkpoints of each run's training, too.")
    ] = False,
    alone: Annotated[
        bool,
        typer.Option("--alone", help="Scores of one state, not the mean over those before it."),
    ] = False,
    proponents: Annotated[int, typer.Option(min=1, help="Strongest documents to weigh.")] = 100,
    random: Annotated[int, typer.Option(min=1, help="Random documents of the baseline.")] = 200,
    seed: Annotated[int, typer.Option(help="Of random documents and intervals.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Where to write the page.")] = None,
    as_json: AsJson = False,
    runs: Folder = Path("runs"),
    workers: WorkerCount = None,
    scheduler: Scheduler = None,
) -> None:
    """Was an output copied from training documents or generalised from them? 1: copied, 0: not."""
    from pipelines.cluster import Workers
    from pipelines.parroting import ParrotingOptions, run_parroting
    from pipelines.report.parroting_page import print_parroting
    from pipelines.runs import open_run
    from pipelines.verbatim import asked_for

    asked = asked_for(None, queries, prompt, completion, "Parroting", "--queries")
    opened = [open_run(name, runs) for name in (run, *(compare or []))]
    options = ParrotingOptions(
        proponents=proponents,
        random=random,
        checkpoints=checkpoints,
        alone=alone,
        seed=seed,
        html=html,
    )
    with Workers(workers, scheduler, Console(stderr=True)) as pool:
        result = run_parroting(opened, asked, options, pool)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    out = Console()
    print_parroting(result, out)
    out.print(f"Page:  {result['page']}", soft_wrap=True, highlight=False)
    out.print(f"Index: {result['folder']}/parroting.parquet", soft_wrap=True, highlight=False)
