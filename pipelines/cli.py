"""``influence ...``: the commands. Exit codes: 0 done, 1 the run failed, 2 the input is wrong."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer
from rich.console import Console

from pipelines.hallucination_cli import app as hallucination_app
from pipelines.mixture_cli import EPILOG as EPILOG_MIXTURE
from pipelines.mixture_cli import mixture
from pipelines.spans_cli import parroting, spans

app = typer.Typer(
    name="influence",
    help="Why did the language model say that? Training documents and words of the prompt behind it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
store_app = typer.Typer(
    help="Look into, check and hand over a run's gradient store.", no_args_is_help=True
)
app.add_typer(store_app, name="store")
app.add_typer(hallucination_app, name="hallucination")
app.command("mixture", epilog=EPILOG_MIXTURE)(mixture)

Folder = Annotated[Path, typer.Option("--runs", help="Where runs live.")]
Scheduler = Annotated[
    str | None, typer.Option(help="A Dask scheduler, tcp://HOST:PORT; default: this machine.")
]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", min=0, help="Local worker processes; 0: none, work here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or name.")]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        help="Names such as ekfac identity bm25, by blanks or commas; see README, 'Can you trust it?'.",
    ),
]
RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="A run's YAML.")]

EPILOG_RUN = """[bold]Example[/bold] my.yaml:

name: mine

model: ./my-model

data: my-dataset.yaml

See README, "Your own model and documents", for every key."""


def console() -> Console:
    """Where people read: standard error, so that standard output stays for results."""
    return Console(stderr=True)


def main() -> None:
    """Entry point of the ``influence`` command."""
    sys.argv[1:] = joined_methods(sys.argv[1:])
    sys.exit(guarded(app))


def joined_methods(words: list[str]) -> list[str]:
    """``--methods ekfac bm25`` as the one value ``ekfac,bm25``; other words stay as they are."""
    if "--methods" not in words:
        return words
    from influence.documents.methods import METHODS

    first = words.index("--methods") + 1
    last = min(first + 1, len(words))
    while last < len(words) and words[last].strip(",") in METHODS:
        last += 1
    value = ",".join(word.strip(",") for word in words[first:last])
    return [*words[:first], *([value] if value else []), *words[last:]]


def guarded(command: Callable[..., Any]) -> int:
    """Run a command; a user's mistake is one message and exit code 2, a failure exit code 1."""
    from datasets_cfg import DatasetError
    from gradients_store import StoreError
    from influence.errors import InfluenceError
    from pipelines.errors import RunError

    try:
        code = command(standalone_mode=False)  # the code of a typer.Exit, else None
        if code == 130:  # typer's for Ctrl-C
            raise KeyboardInterrupt
    except typer.Exit as end:
        return end.exit_code
    except (RunError, StoreError, DatasetError, InfluenceError) as error:
        _say_error(error)
        return 2
    except OSError as error:
        from pipelines.run_folder import explain_os_error

        _say_error(explain_os_error(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        console().print("Stopped. Finished work is kept: run the same command again to go on.")
        return 130
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "show"):
            error.show()
            return int(getattr(error, "exit_code", 2))
        console().print_exception(show_locals=False)
        console().print(
            "[bold red]The run failed.[/bold red] Finished work is kept; run again to go on. "
            "If it fails again, please report the lines above."
        )
        return 1
    return code if isinstance(code, int) else 0


def _say_error(error: object) -> None:
    """One message; lines are not broken, so that paths in it stay whole."""
    from rich.markup import escape

    message = f"[bold red]Error[/bold red] {escape(str(error))}"
    console().print(message, highlight=False, soft_wrap=True)


# -- demo, run, index -----------------------------------------------------------------------------


@app.command(epilog="[bold]Example[/bold]: influence demo")
def demo(runs: Folder = Path("runs"), workers: WorkerCount = None) -> None:
    """The embedded default: corpus, small model, curvature, gradients, three traces with reports."""
    from pipelines.demo import demo as run_demo

    run_demo(runs, workers, console())


@app.command("run", epilog=EPILOG_RUN)
def run_command(
    config: RunFile,
    runs: Folder = Path("runs"),
    workers: WorkerCount = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Every stage that is missing: corpus, (training), curvature, gradients. Run again to resume."""
    _build(config, runs, workers, scheduler, as_json, train=True)


@app.command(epilog="[bold]Example[/bold]: influence index my.yaml")
def index(
    config: RunFile,
    runs: Folder = Path("runs"),
    workers: WorkerCount = None,
    scheduler: Scheduler = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Leave out the gradient store; trace with --exact.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Corpus, curvature and gradients of a finished model, without training."""
    _build(config, runs, workers, scheduler, as_json, train=False, store=not no_store)


def _build(
    path: Path,
    runs: Path,
    workers: int | None,
    scheduler: str | None,
    as_json: bool,
    train: bool,
    store: bool = True,
) -> None:
    from pipelines.cluster import Workers
    from pipelines.config import read_run
    from pipelines.doctor import summary
    from pipelines.errors import RunError
    from pipelines.runs import build_run

    config = read_run(path)
    if not train and config.train != "none":
        raise RunError(
            f"Run {path}: `train: {config.train}` given, `index` works on a finished model. "
            "Use `influence run`, or set `train: none`."
        )
    out = console()
    with Workers(workers or config.workers if workers != 0 else 0, scheduler, out) as pool:
        run = build_run(config, runs, pool, store=store, announce=out.print)
    if as_json:
        print(json.dumps({"run": str(run.root), **summary(run)}, indent=1))
    else:
        from pipelines.demo import print_summary

        print_summary(run, out)


# -- trace ----------------------------------------------------------------------------------------


@app.command(
    "trace",
    epilog='[bold]Example[/bold]: influence trace demo --prompt "The capital of France is" '
    '--completion " Paris"',
)
def trace_command(
    run: RunName,
    prompt: Annotated[str | None, typer.Option(help="What the model was given.")] = None,
    completion: Annotated[
        str | None, typer.Option(help="What it said; the output to explain (mind a leading space).")
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Explain the completion rather than this one.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="jsonl of many: prompt, completion, contrast, id; or text (a whole text)."
        ),
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Rows of each sign.")] = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Documents of each sign passed on to exact scoring.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Score every document from full gradients.")
    ] = False,
    all_scores: Annotated[
        Path | None,
        typer.Option(help="Write every document's score for every query to this .parquet."),
    ] = None,
    methods: Methods = None,
    layout: Annotated[
        str,
        typer.Option(help="Of --all-scores: long (query, id, score) or wide (a column a query)."),
    ] = "long",
    inputs: Annotated[
        str | None,
        typer.Option(help="Show also which words of the prompt mattered, by such a method."),
    ] = None,
    unit: Annotated[str, typer.Option(help="Of --inputs: word, sentence, example, ...")] = "word",
    html: Annotated[Path | None, typer.Option(help="Where to write the page (one query).")] = None,
    as_json: AsJson = False,
    runs: Folder = Path("runs"),
    workers: WorkerCount = None,
    scheduler: Scheduler = None,
) -> None:
    """Which training documents made the model say it? Positive scores support the completion."""
    from influence.documents.methods import choose
    from pipelines.cluster import Workers
    from pipelines.comparison import compare_methods
    from pipelines.inputs import inputs_of_queries
    from pipelines.runs import open_run, open_traced
    from pipelines.traces import TraceOptions, run_traces
    from pipelines.verbatim import cheap_index

    opened = open_run(run, runs)
    options = TraceOptions(
        top=top or opened.config.top,
        candidates=candidates or opened.config.candidates,
        exact=exact,
        all_scores=all_scores,
        layout=layout,
        html=html,
    )
    asked = _queries(prompt, completion, contrast, queries)
    traced = open_traced(opened, exact)
    out = console()
    with Workers(workers, scheduler, out) as pool:
        if methods:
            names = [m.name for m in choose(methods)]
            compared = compare_methods(opened, asked, names, pool)
            options = replace(options, compared=compared)
        if inputs:
            found = inputs_of_queries(opened, asked, inputs, unit, pool)
            options = replace(options, inputs=found)
        options = replace(options, verbatim=cheap_index(opened, pool))
        for result in run_traces(traced, asked, options, pool):
            if as_json:
                print(json.dumps(result, ensure_ascii=False))
            else:
                _show(result, len(asked))
    if all_scores is not None:
        out.print(f"All scores: {all_scores}", soft_wrap=True, highlight=False)
    if len(asked) > 1:
        index = opened.root / "traces" / "index.html"
        out.print(f"All traces: {index}", soft_wrap=True, highlight=False)


def _queries(
    prompt: str | None, completion: str | None, contrast: str | None, path: Path | None
) -> list[Any]:
    from pipelines.errors import RunError
    from pipelines.queries import Query, read_queries

    if (path is None) == (completion is None):
        raise RunError(
            "Trace: give either --completion (with --prompt), or --queries FILE.jsonl. "
            'Example: --prompt "The capital of France is" --completion " Paris".'
        )
    if path is not None:
        if prompt is not None or contrast is not None:
            raise RunError(
                "Trace: --prompt or --contrast given together with --queries; in a file they are "
                "keys of each line. Leave them out."
            )
        return read_queries(path)
    assert completion is not None
    return [Query(prompt=prompt, completion=completion, contrast=contrast)]


def _show(result: dict[str, Any], count: int) -> None:
    from pipelines.report.terminal import print_trace

    out = Console()
    print_trace(result, out)
    if count > 1:
        out.print()
    out.print(f"Page:   {result['page']}", soft_wrap=True, highlight=False)
    out.print(f"Scores: {result['folder']}/scores.parquet", soft_wrap=True, highlight=False)


# -- spans ----------------------------------------------------------------------------------------

app.command(
    "spans",
    epilog='[bold]Example[/bold]: influence spans demo --text "The capital of France is Paris."',
)(spans)
app.command(
    "parroting",
    epilog='[bold]Example[/bold]: influence parroting demo --prompt "The capital of France is" '
    '--completion " Paris" --checkpoints',
)(parroting)


# -- inputs ---------------------------------------------------------------------------------------


@app.command(
    "inputs",
    epilog="[bold]Examples[/bold]: influence inputs demo --prompt "
    '"The capital of France is" --completion " Paris" --unit word\n\n'
    "influence inputs ./my-model --texts questions.jsonl --method sparse,saliency --unit sentence",
)
def inputs_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A folder, hub id, .gguf file, LoRA adapter, or a run's name."
        ),
    ],
    prompt: Annotated[str | None, typer.Option(help="What the model was given.")] = None,
    completion: Annotated[
        str | None, typer.Option(help="What it said; the output to explain (mind a leading space).")
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Explain the completion rather than this one.")
    ] = None,
    paraphrase: Annotated[
        list[str] | None,
        typer.Option(help="Other words for the completion (repeat); all count as one output."),
    ] = None,
    span: Annotated[
        str | None,
        typer.Option(help="Explain these words of the completion, or its characters START:END."),
    ] = None,
    before: Annotated[
        bool, typer.Option("--before", help="What it said before the span counts as prompt too.")
    ] = False,
    texts: Annotated[
        Path | None,
        typer.Option(help="jsonl of many: prompt or messages, completion, contrast, id, ..."),
    ] = None,
    methods: Annotated[
        str,
        typer.Option("--method", help="Names such as occlusion,sparse,saliency; or all."),
    ] = "occlusion",
    unit: Annotated[
        str,
        typer.Option(help="token, word, phrase, sentence, paragraph, section, example or prompt."),
    ] = "word",
    target: Annotated[
        str | None,
        typer.Option(help="likelihood, contrast or meaning; default: what is given decides."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=2, help="Answers to sample where the target is meaning.")
    ] = 16,
    operator: Annotated[
        str, typer.Option(help="Of a removed unit: delete, replace, mask, mean or noise.")
    ] = "delete",
    rows: Annotated[
        int | None, typer.Option(min=2, help="Most prompts a method may evaluate.")
    ] = None,
    heldout: Annotated[
        int, typer.Option(min=0, help="Random prompts on which methods are judged; 0: none.")
    ] = 32,
    curves: Annotated[
        bool, typer.Option("--curves", help="Exact deletion and insertion curves (more prompts).")
    ] = False,
    attention: Annotated[
        bool, typer.Option("--attention", help="Show what every head looks at, unit by unit.")
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(help="Another model with this tokenizer: which heads look elsewhere?"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Where to write the page (one text).")] = None,
    as_json: AsJson = False,
    runs: Folder = Path("runs"),
    workers: WorkerCount = None,
    scheduler: Scheduler = None,
) -> None:
    """Which parts of the prompt made the model say it? Positive scores support the completion."""
    from influence.inputs.explain import How, Question
    from pipelines.cluster import Workers
    from pipelines.input_models import find_model
    from pipelines.input_questions import asked_of
    from pipelines.inputs import InputsOptions, run_inputs

    found = find_model(model, runs)
    asked = asked_of(
        {
            "prompt": prompt,
            "completion": completion,
            "contrast": contrast,
            "paraphrases": paraphrase,
            "span": span,
        },
        texts,
        Question(prompt="", completion="", unit=unit, before=before),
    )
    options = InputsOptions(
        methods=methods,
        how=How(operator=operator, rows=rows, heldout=heldout, curves=curves, seed=seed),
        target=target,
        samples=samples,
        attention=attention,
        compare=None if compare is None else find_model(compare, runs).spec,
        html=html,
        model_name=found.name,
    )
    with Workers(workers, scheduler, console()) as pool:
        for result in run_inputs(found.spec, asked, options, found.root, pool):
            if as_json:
                print(json.dumps(result, ensure_ascii=False))
            else:
                _show_inputs(result, len(asked))


def _show_inputs(result: dict[str, Any], count: int) -> None:
    from pipelines.report.inputs_terminal import print_inputs

    out = Console()
    print_inputs(result, out)
    if count > 1:
        out.print()
    out.print(f"Page:   {result['page']}", soft_wrap=True, highlight=False)
    out.print(f"Scores: {result['folder']}/units.parquet", soft_wrap=True, highlight=False)


# -- probe ----------------------------------------------------------------------------------------


@app.command(
    "probe",
    epilog="[bold]Example[/bold]: influence probe ./my-model --data statements.jsonl --kind all",
)
def probe_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A folder, hub id, .gguf file, LoRA adapter, or a run's name."
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="jsonl: text (or prompt and completion), label, entity, topic, span, popularity."
        ),
    ],
    label: Annotated[str, typer.Option(help="Key of the label.")] = "label",
    place: Annotated[
        str,
        typer.Option(
            help="prompt-end, before-answer, answer-end, answer-mean, text-end or text-mean."
        ),
    ] = "answer-end",
    kind: Annotated[
        str,
        typer.Option(help="logistic, ridge, mass-mean, mass-mean-corrected, mlp; or all."),
    ] = "logistic",
    layers: Annotated[str | None, typer.Option(help="Such as 8,12-16; default: all.")] = None,
    split: Annotated[
        str, typer.Option(help="entity, or topic: each topic judged by probes of the others.")
    ] = "entity",
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights/--no-random-weights", help="A random copy as a control."),
    ] = True,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Where to write the page.")] = None,
    as_json: AsJson = False,
    runs: Folder = Path("runs"),
    workers: WorkerCount = None,
    scheduler: Scheduler = None,
) -> None:
    """Can a labelled property be read off the hidden states, and is it more than the words say?"""
    from pipelines.cluster import Workers
    from pipelines.input_models import find_model
    from pipelines.probing import ProbeOptions, run_probe
    from pipelines.report.probe_page import print_probe

    found = find_model(model, runs)
    options = ProbeOptions(
        data=data,
        label=label,
        place=place,
        kinds=kind,
        layers=layers,
        split=split,
        random_weights=random_weights,
        seed=seed,
        html=html,
        model_name=found.name,
    )
    with Workers(workers, scheduler, console()) as pool:
        result = run_probe(found.spec, options, found.root, pool)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    out = Console()
    print_probe(result, out)
    out.print(f"Page:   {result['page']}", soft_wrap=True, highlight=False)
    out.print(f"Probes: {result['folder']}", soft_wrap=True, highlight=False)


# -- evaluate -------------------------------------------------------------------------------------


@app.command(
    "evaluate",
    epilog="[bold]Examples[/bold]: influence evaluate demo\n\n"
    "influence evaluate demo lds facts --methods ekfac identity bm25 random",
)
def evaluate_command(
    run: RunName,
    measures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MEASURE]...",
            help="lds, brittleness, tail-patch, facts, corruption, sanity; default: what fits.",
        ),
    ] = None,
    methods: Methods = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="jsonl; `supports` (ids of documents) for facts; default: chosen from the run."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=2, help="Queries to choose, without --queries.")] = 50,
    minutes: Annotated[
        float,
        typer.Option(min=0, help="Time for scores and retraining, where no measure is named."),
    ] = 30.0,
    subsets: Annotated[int, typer.Option(min=3, help="Random halves to train on (lds).")] = 40,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings a half or removal.")] = 2,
    remove: Annotated[
        str, typer.Option(help="Documents to remove (brittleness), such as 10,50,5%.")
    ] = "5%",
    brittle_queries: Annotated[
        int, typer.Option(min=1, help="Queries for brittleness; each removal is a training.")
    ] = 10,
    flag: Annotated[
        str, typer.Option(help="Boolean column of documents that corruption detection shall find.")
    ] = "corrupted",
    seed: Annotated[
        int, typer.Option(help="Of every choice; the same seed, the same numbers.")
    ] = 0,
    as_json: AsJson = False,
    runs: Folder = Path("runs"),
    workers: WorkerCount = None,
    scheduler: Scheduler = None,
) -> None:
    """Can these scores be trusted? Methods side by side against retraining and known answers."""
    from influence.documents.methods import choose
    from pipelines.cluster import Workers
    from pipelines.evaluation import evaluate, fitting_measures, usable_methods
    from pipelines.measures import EvaluationOptions, known_measures
    from pipelines.queries import read_queries
    from pipelines.report.evaluation_terminal import print_evaluation
    from pipelines.runs import open_run

    opened, out = open_run(run, runs), console()
    names = tuple(m.name for m in choose(methods)) if methods else usable_methods(opened)
    options = EvaluationOptions(
        measures=known_measures(measures or []),
        methods=names,
        queries=count,
        subsets=subsets,
        seeds=seeds,
        remove=tuple(part.strip() for part in remove.split(",")),
        brittle_queries=brittle_queries,
        flag=flag,
        seed=seed,
    )
    if methods:  # named ones; else only a few, as each removal is a training
        options = replace(options, brittle_methods=names)
    if not measures:
        fitting, said = fitting_measures(opened, options, minutes)
        options = replace(options, measures=fitting)
        for line in said:
            out.print(line)
    asked = read_queries(queries) if queries else []
    with Workers(workers, scheduler, out) as pool:
        result = evaluate(opened, asked, options, pool, announce=out.print)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    print_evaluation(result, Console())
    Console().print(f"Page: {result['page']}", soft_wrap=True, highlight=False)


# -- doctor ---------------------------------------------------------------------------------------


@app.command(epilog="[bold]Example[/bold]: influence doctor my.yaml")
def doctor(config: RunFile, runs: Folder = Path("runs"), as_json: AsJson = False) -> None:
    """What a run will do, what it costs (time, memory, disk), and what looks wrong."""
    from pipelines.config import read_run
    from pipelines.doctor import examine, print_examination

    report = examine(read_run(config), runs)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print_examination(report, Console())
    if any(finding["level"] == "error" for finding in report["findings"]):
        raise typer.Exit(2)


# -- store ----------------------------------------------------------------------------------------


@store_app.command("info", epilog="[bold]Example[/bold]: influence store info demo")
def store_info(run: RunName, runs: Folder = Path("runs"), as_json: AsJson = False) -> None:
    """What the store holds and how it was made."""
    from pipelines.stores import info, print_info

    content = info(run, runs)
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        print_info(content, Console())


@store_app.command("verify", epilog="[bold]Example[/bold]: influence store verify demo")
def store_verify(run: RunName, runs: Folder = Path("runs"), as_json: AsJson = False) -> None:
    """Compare every file of a run with its checksum; exit code 2 when something is damaged."""
    from pipelines.stores import verify

    problems = verify(run, runs, console())
    if as_json:
        print(json.dumps({"problems": problems}, indent=1))
    elif not problems:
        print("All files are as they were written.")
    else:
        for problem in problems:
            print(problem)
    if problems:
        raise typer.Exit(2)


@store_app.command(
    "export", epilog="[bold]Example[/bold]: influence store export demo gradients.parquet"
)
def store_export(
    run: RunName,
    out: Annotated[Path, typer.Argument(help="A .parquet, .arrow or .csv file.")],
    vectors: Annotated[
        bool | None,
        typer.Option(
            "--vectors/--no-vectors", help="With the gradient vectors; default: not in a CSV."
        ),
    ] = None,
    runs: Folder = Path("runs"),
) -> None:
    """One file with a row a document: id, source, language, loss, self-influence, vector."""
    from pipelines.stores import export

    print(export(run, runs, out, vectors))


if __name__ == "__main__":
    main()
