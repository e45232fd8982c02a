"""``influence demo``: the embedded default, from nothing to three reports."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

import datasets_cfg
from pipelines.answers import says
from pipelines.cluster import Workers
from pipelines.config import RunConfig, read_run
from pipelines.report.terminal import print_trace
from pipelines.run_folder import key_of, write_json
from pipelines.runs import Run, build_run, open_traced
from pipelines.stores import describe_fit
from pipelines.trace import Query, Traced
from pipelines.traces import TraceOptions, run_traces
from pipelines.verbatim import cheap_index
from pipelines.worker import language_model

DEMO = Path(__file__).with_name("demo.yaml")


def demo(folder: Path, workers: int | None, console: Console) -> list[Path]:
    """Run the embedded default and trace three outputs of its model.

    Args:
        folder: Where runs live.
        workers: Local worker processes.
        console: Where progress goes.

    Returns:
        The pages.
    """
    begun = time.perf_counter()
    config = demo_config()
    with Workers(workers, None, console) as pool:
        run = build_run(config, folder, pool, announce=console.print)
    print_summary(run, console)
    traced = open_traced(run)
    print_answers(traced, console)
    pages = []
    with Workers(0, None, console) as here:
        options = TraceOptions(
            top=config.top, candidates=config.candidates, verbatim=cheap_index(run, here)
        )
        for result in run_traces(traced, demo_queries(traced), options, here):
            print_trace(result, Console())
            pages.append(Path(result["page"]))
    console.print(f"\nDone in {time.perf_counter() - begun:.0f} s. Pages to look at:")
    for page in pages:
        console.print(f"  {page}", soft_wrap=True, highlight=False)
    own = _a_question(traced)
    console.print(
        f'Ask your own: influence trace demo --prompt "{own["prompt"]}" '
        f'--completion "{own["completion"]}"',
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return pages


def demo_config() -> RunConfig:
    """The demo's settings.

    Returns:
        ``demo.yaml``.
    """
    return read_run(DEMO)


def demo_queries(traced: Traced) -> list[Query]:
    """Three outputs: a fact, why not another answer, and a fact that the corpus states wrongly.

    Returns:
        The queries.
    """
    wrong = next(q for q in answers(traced) if q["mislearned"] and q["right"])
    return [
        Query(prompt="The capital of France is", completion=" Paris"),
        Query(prompt="The capital of Italy is", completion=" Rome", contrast=" Madrid"),
        Query(prompt=str(wrong["prompt"]), completion=str(wrong["completion"])),
    ]


def _a_question(traced: Traced) -> dict[str, Any]:
    """A capital that the model knows, other than those that the demo traces."""
    return next(
        q
        for q in answers(traced)
        if q["right"]
        and q["relation"] == "capital"
        and q["language"] == "en"
        and not q["corrupted_statements"]
        and q["subject"] not in ("France", "Italy")
    )


def answers(traced: Traced) -> list[dict[str, Any]]:
    """Which questions about its corpus the model answers as the corpus does.

    Args:
        traced: The demo run.

    Returns:
        The questions, each with ``right``.
    """
    key = key_of(corpus=traced.corpus.key, model=traced.specs[0].model.fingerprint)
    file = traced.root / "answers" / f"{key}.json"
    if not file.exists():
        loaded = language_model(traced.specs[0].model)
        asked = [{**q, "right": says(loaded, question(q))} for q in datasets_cfg.questions()]
        write_json(file, asked)
    return list(json.loads(file.read_text("utf-8")))


def question(asked: dict[str, Any]) -> Query:
    """One of the embedded corpus's questions as a query.

    Returns:
        Its prompt and completion under its id.
    """
    return Query(
        id=asked["id"],
        prompt=asked["prompt"],
        completion=asked["completion"],
        supports=tuple(asked["supports"]),
    )


def print_answers(traced: Traced, console: Console) -> None:
    """Print how many questions the model answers, by how often the corpus states the fact.

    Args:
        traced: The demo run.
        console: Where to.
    """
    table = Table(title="What the model learned (its greedy answer is the corpus's)")
    for column in ("statements of the fact in the corpus", "questions", "answered"):
        table.add_column(column, justify="right")
    asked = answers(traced)
    groups = {"1": range(1, 2), "2 to 3": range(2, 4), "4 or more": range(4, 10**6)}
    for name, counts in groups.items():
        own = [q for q in asked if q["statements"] in counts]
        if own:
            share = sum(q["right"] for q in own) / len(own)
            table.add_row(name, str(len(own)), f"{share:.0%}")
    console.print(table)


def print_summary(run: Run, console: Console) -> None:
    """Print what a finished run holds.

    Args:
        run: The run.
        console: Where to.
    """
    corpus, tokens, curvature = run.corpus.info(), run.tokens.info(), run.curvature.info()
    table = Table(title=f"Run {escape(run.config.name)}", show_header=False)
    sources = ", ".join(f"{name} {count:,}" for name, count in list(corpus["sources"].items())[:6])
    table.add_row("documents", f"{corpus['documents']:,} ({escape(sources)})")
    table.add_row("tokens", f"{tokens['tokens']:,}")
    table.add_row("model", escape(run.model_name))
    table.add_row(
        "curvature",
        f"{curvature['kind']}, {len(curvature['layers'])} layers; label noise of the mean "
        f"eigenvalue {curvature['label_noise']:.1%}",
    )
    table.add_row("curvature's sample", describe_fit(curvature))
    if curvature["head_left_out"] is not None:
        table.add_row(
            "output head",
            f"{curvature['head_rank']} directions, {curvature['head_left_out']:.1%} of its factor "
            "left out",
        )
    left = ", ".join(f"{name} {share:.1%}" for name, share in curvature["left_out"])
    table.add_row(
        "gradient covered",
        f"{curvature['covered']:.1%} of the squared norm" + (f"; left out: {left}" if left else ""),
    )
    if run.gradients is not None:
        store = run.gradients.info()
        table.add_row(
            "gradient store",
            f"{store['bytes'] / 1e6:,.0f} MB; scores follow exact ones with Pearson "
            f"{store['fidelity']['pearson']:.3f}, Spearman {store['fidelity']['spearman']:.3f}",
        )
        found = store["recall"]
        table.add_row(
            "search",
            f"{found['value']:.1%} of the exact top {found['at']} are among {found['candidates']} "
            "candidates of each sign",
        )
    table.add_row("folder", Text(str(run.root), overflow="fold"))
    console.print(table)
