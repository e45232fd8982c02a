"""Did it copy or generalise? The index of `influence.mixture.parroting` for runs and checkpoints.

Scores are means over the saved states of a training: a document that was learned by heart has no
gradient left in the final one, and seems to have no influence there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from influence.documents.evaluation.bootstrap import interval
from influence.documents.evaluation.brittleness import top_k
from influence.documents.methods import METHODS
from influence.documents.methods.families import GradientMethod
from influence.documents.scores import UNIT
from influence.mixture.parroting import (
    DEFINITION,
    Parroting,
    overlap,
    parroting,
    window_of,
)
from influence.mixture.verbatim import token_spans, tokens_of
from pipelines.answers import loss_of
from pipelines.cluster import Workers, default_count
from pipelines.corpus import DOCUMENTS, document_ids, take_documents
from pipelines.curvature import build_curvature
from pipelines.errors import RunError
from pipelines.estimate import estimate, in_words
from pipelines.method_scores import StateSpec, plan_scores, score_gradients
from pipelines.queries import Query
from pipelines.report.parroting_page import write_parroting_page
from pipelines.run_folder import key_of, locked, new_file, write_json
from pipelines.runs import Run, with_head
from pipelines.tokens import read_table
from pipelines.trained_states import TrainedState, final_state, trained_states
from pipelines.worker import language_model, layers_of

FORMAT = 1
METHOD = "ekfac"
FITTED = 0.05
"""Nats; below this median loss of the outputs, documents may have no gradient left."""
SHOWN = 3
"""Proponents that are named for each output."""


@dataclass(frozen=True, kw_only=True)
class ParrotingOptions:
    """How far to look, and where to write."""

    proponents: int = 100
    """Strongest documents that are weighed."""
    random: int = 200
    """Documents drawn at random for the baseline."""
    checkpoints: bool = False
    """Also all checkpoints of each run's training, each with the states up to it."""
    alone: bool = False
    """Scores of each state alone, not their mean over the states up to it."""
    seed: int = 0
    """Of the random documents and the intervals."""
    html: Path | None = None
    """Where to write the page; None: beside the result."""


def run_parroting(
    runs: Sequence[Run], queries: Sequence[Query], options: ParrotingOptions, workers: Workers
) -> dict[str, Any]:
    """Compute the index of some outputs in some runs, and write it: JSON, Parquet, a page.

    Args:
        runs: Finished runs; the result lies in the first one's folder.
        queries: The outputs; `task` groups them.
        options: How.
        workers: Where documents are scored.

    Returns:
        Plain values (see ``docs/spans.md``).

    Raises:
        RunError: If an output holds no word, or two runs have one name.
    """
    for query in queries:
        if not tokens_of(query.completion):
            raise RunError(
                f"Parroting: query {query.name!r} has completion {query.completion[:60]!r}, which holds "
                "no word and no mark; an output was expected."
            )
    names = [run.config.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise RunError(
                f"Parroting: two runs are called {name!r}, distinct names were expected. Give one of "
                "them another `name`."
            )
    rows = [row for run in runs for row in _of_run(run, queries, options, workers)]
    key = key_of(
        queries=[[q.name, q.prompt, q.completion, q.contrast, q.task] for q in queries],
        runs=[[run.config.name, run.model.fingerprint, run.tokens.key] for run in runs],
        how={name: value for name, value in asdict(options).items() if name != "html"},
    )
    folder = runs[0].root / "parroting" / key
    result = {
        "format": FORMAT,
        "definition": DEFINITION,
        "unit": UNIT,
        "scores": ALONE if options.alone else AVERAGED,
        "notes": _notes(runs, rows, options),
        "runs": [{"name": run.config.name, "model": run.model_name} for run in runs],
        "proponents": options.proponents,
        "random": options.random,
        "rows": rows,
        "summary": summarised(rows, options.seed),
        "folder": str(folder),
    }
    write_json(folder / "parroting.json", result)
    with new_file(folder / "parroting.parquet") as temporary:
        pq.write_table(parroting_table(rows), temporary)
    page = write_parroting_page(result, options.html or folder / "parroting.html")
    return {**result, "page": str(page)}


AVERAGED = "exact EK-FAC influence, mean over the states of training up to this one"
ALONE = "exact EK-FAC influence at this state alone"


def _notes(
    runs: Sequence[Run], rows: Sequence[dict[str, Any]], options: ParrotingOptions
) -> list[str]:
    """Reasons to trust an index less."""
    notes = []
    for run in runs:
        last = [row["loss"] for row in rows if row["final"] and row["run"] == run.config.name]
        single = options.alone or run.config.train == "none"
        if single and np.median(last) < FITTED:
            notes.append(
                f"{run.config.name}: one state was looked at, and the median loss of its outputs is "
                f"{np.median(last):.2g} nats. Documents that are learned so well have hardly a gradient "
                "left, so that copies seem to have no influence: do not read a low index as "
                "abstraction. A run that trains its model keeps states where they have."
            )
    return notes


def _of_run(
    run: Run, queries: Sequence[Query], options: ParrotingOptions, workers: Workers
) -> list[dict[str, Any]]:
    states: tuple[TrainedState, ...] = (final_state(run),)
    if run.config.train != "none" and (options.checkpoints or not options.alone):
        states = trained_states(run)
    workers.console.print(_cost(run, len(states)), highlight=False)
    wordings = [_wording(query) for query in queries]
    random_QR = _random_overlaps(run, wordings, options)
    rows = []
    with locked(run.root):  # curvatures of checkpoints may have to be fitted
        total_QN: np.ndarray | float = 0.0
        for number, state in enumerate(states, 1):
            spec, own_QN = _scores(run, queries, state, workers)
            total_QN = total_QN + own_QN
            if not options.checkpoints and number < len(states):
                continue
            scores_QN = own_QN if options.alone else total_QN / number
            loaded = language_model(spec.model)
            for q, query in enumerate(queries):
                best = top_k(scores_QN[q], min(options.proponents, scores_QN.shape[1]))
                about = {
                    "run": run.config.name,
                    "step": _step(state),
                    "final": state is states[-1],
                    "query": query.name,
                    "task": query.task,
                    "prompt": query.prompt or "",
                    "completion": query.completion,
                    "loss": loss_of(loaded, query),
                }
                found = _index(run, wordings[q], scores_QN[q], best, random_QR[q], options)
                rows.append({**about, **found})
    return rows


def _cost(run: Run, states: int) -> str:
    """What scoring all documents at some states takes, the curvature of each to be fitted first."""
    info = run.tokens.info()
    costs = estimate(
        run.config, layers_of(run.model), info["documents"], info["tokens"], default_count()
    )
    one = sum(cost.seconds for cost in costs if cost.stage != "training")
    return (
        f"{run.config.name}, {states} {'state' if states == 1 else 'states'} of its training: "
        f"{in_words(states * one)}, less what is already there."
    )


def _step(state: TrainedState) -> int | None:
    name = Path(state.checkpoint).name
    return int(name.removeprefix("step-")) if name else None


def _scores(
    run: Run, queries: Sequence[Query], state: TrainedState, workers: Workers
) -> tuple[StateSpec, np.ndarray]:
    """Exact scores ``[Q, N]`` of all documents at one state, in nats per document removed."""
    method = METHODS[METHOD]
    assert isinstance(method, GradientMethod)
    config = run.config.model_copy(update={"curvature": method.curvature})
    ids = document_ids(run.corpus)
    stage = build_curvature(config, run.root, run.tokens, ids, state.model, workers)
    spec = StateSpec(
        model=with_head(state.model, stage),
        curvature=str(stage.path),
        learning_rates=1.0,
        checkpoint="",
    )
    specs = plan_scores(run, queries, METHOD, (spec,), seed=0)
    todo = [one for one in specs if not Path(one.out).exists()]
    workers.map(score_gradients, todo, "Scoring every document")
    tables = [read_table(Path(one.out)) for one in specs]
    scores_QN = np.concatenate([np.stack([c.to_numpy() for c in t.columns]) for t in tables], 1)
    return spec, scores_QN / len(ids)


Wording = tuple[list[str], int]
"""Of `window_of`."""


def _wording(query: Query) -> Wording:
    prompt = query.prompt or ""
    text = prompt + query.completion
    first = sum(end <= len(prompt) for _, end in token_spans(text))
    return window_of(tokens_of(text), first)


def _texts(run: Run, rows: Sequence[int]) -> list[dict[str, Any]]:
    columns = ["id", "source", "text"]
    return take_documents(run.corpus.path / DOCUMENTS, rows, columns).to_pylist()


def _random_overlaps(
    run: Run, wordings: Sequence[Wording], options: ParrotingOptions
) -> list[list[float]]:
    """For each output its overlaps with documents drawn at random, the same ones for all."""
    total = run.corpus.info()["documents"]
    generator = np.random.default_rng(options.seed)
    rows = generator.choice(total, min(options.random, total), replace=False)
    documents = [tokens_of(one["text"]) for one in _texts(run, np.sort(rows).tolist())]
    return [[overlap(*wording, tokens) for tokens in documents] for wording in wordings]


def _index(
    run: Run,
    wording: Wording,
    scores_N: np.ndarray,
    best: np.ndarray,
    random_R: Sequence[float],
    options: ParrotingOptions,
) -> dict[str, Any]:
    documents = _texts(run, np.asarray(best).tolist())
    overlaps = [overlap(*wording, tokens_of(one["text"])) for one in documents]
    found = parroting(scores_N[best], overlaps, random_R, options.seed)
    return {
        **_numbers(found),
        "top": [
            {
                "id": document["id"],
                "source": document["source"],
                "score": float(scores_N[row]),
                "overlap": shared,
                "text": document["text"],
            }
            for row, document, shared in zip(best[:SHOWN], documents, overlaps, strict=False)
        ],
    }


def _numbers(found: Parroting) -> dict[str, Any]:
    """What is not known is None, never 0."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in vars(found).items()
    }


def summarised(rows: Sequence[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Mean index of each run, checkpoint and task, with an interval over its outputs.

    Args:
        rows: Of `run_parroting`.
        seed: Of the draws.

    Returns:
        A row each; ``low`` and ``high`` are None where there is one output only.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["run"], row["step"], row["final"], row["task"]), []).append(row)
    found = []
    for (run, step, final, task), own in groups.items():
        values = [row["index"] for row in own if row["index"] is not None]
        bounds = interval(np.array(values), seed) if len(values) > 1 else None
        found.append(
            {
                "run": run,
                "step": step,
                "final": final,
                "task": task,
                "queries": len(own),
                "missing": len(own) - len(values),
                "index": float(np.mean(values)) if values else None,
                "low": bounds.low if bounds else None,
                "high": bounds.high if bounds else None,
                "loss": float(np.mean([row["loss"] for row in own])),
            }
        )
    return found


ROWS = pa.schema(
    [
        ("run", pa.string()),
        ("step", pa.int64()),
        ("final", pa.bool_()),
        ("query", pa.string()),
        ("task", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("index", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("overlap", pa.float64()),
        ("baseline", pa.float64()),
        ("copied", pa.float64()),
        ("half", pa.int64()),
        ("loss", pa.float64()),
    ]
)
"""An output in one state of one run."""


def parroting_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows without their proponents.

    Args:
        rows: Of `run_parroting`.

    Returns:
        The columns of `ROWS`.
    """
    return pa.Table.from_pylist([{n: row[n] for n in ROWS.names} for row in rows], ROWS)
