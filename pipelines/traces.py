"""From queries to files: traces, their pages, and every document's scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import gradients_store
from influence.documents.scores import SIGN, UNIT
from pipelines.cluster import Workers
from pipelines.comparison import Compared, beside, write_methods
from pipelines.errors import RunError
from pipelines.report.trace_page import render_index, write_trace_page
from pipelines.run_folder import new_file
from pipelines.trace import (
    QUERIES_AT_ONCE,
    HowToTrace,
    Query,
    Traced,
    blocks,
    exact_everywhere,
    query_vectors,
    solve,
    trace,
    trace_folder,
)
from pipelines.verbatim import VerbatimIndex, beside_trace

LAYOUTS = ("long", "wide")


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """How to trace, and what to write."""

    top: int = 20
    """Rows of each sign."""
    candidates: int = 200
    """Documents of each sign that the search passes on to exact scoring."""
    exact: bool = False
    """Score every document from full gradients."""
    all_scores: Path | None = None
    """Parquet file for every document's score; None: not written."""
    layout: str = "long"
    """Of ``all_scores``: "long" or "wide"."""
    html: Path | None = None
    """Where to write the page; None: beside the trace."""
    compared: Compared | None = None
    """Scores of the same queries by other methods, to show beside."""
    inputs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """By query name: which parts of its prompt mattered (`run_inputs`), to show beside."""
    verbatim: VerbatimIndex | None = None
    """Where to look for what of the output stands word for word in the corpus."""


def run_traces(
    run: Traced, queries: Sequence[Query], options: TraceOptions, workers: Workers
) -> Iterator[dict[str, Any]]:
    """Trace queries, write their pages, and every score where asked.

    Args:
        run: A finished run.
        queries: What to explain.
        options: How.
        workers: Where exact scoring runs.

    Yields:
        One trace a query, with ``page`` naming its HTML file.

    Raises:
        RunError: If the options do not fit.
    """
    if options.layout not in LAYOUTS:
        raise RunError(f"Trace: layout {options.layout!r} given, one of {LAYOUTS} was expected.")
    if options.html is not None and len(queries) > 1:
        raise RunError(
            f"Trace: --html {options.html} given for {len(queries)} queries, one was expected. Leave it "
            "out: each query's page is written beside its trace, and an index of all of them."
        )
    if options.layout == "wide" and "id" in {query.name for query in queries}:
        raise RunError(
            "Trace: a query is called 'id', which is the documents' column in the wide layout. "
            "Call it otherwise, or use `--layout long`."
        )
    if options.html is not None:
        options.html.parent.mkdir(parents=True, exist_ok=True)
    if options.all_scores is not None:
        write_all_scores(run, queries, options, workers)
    results = []
    for result in _cached_or_traced(run, queries, options, workers):
        folder = Path(result["folder"])
        if options.compared is not None:
            name = result["query"]["id"]
            result["methods"] = beside(options.compared, name, result)
            write_methods(options.compared, name, folder / "methods.parquet")
        if result["query"]["id"] in options.inputs:
            result["inputs"] = options.inputs[result["query"]["id"]]
        result = beside_trace(options.verbatim, result)
        page = options.html or folder / "report.html"
        result["page"] = str(write_trace_page(result, page))
        # the index links by folder name
        named = {**result["query"], "id": Path(result["folder"]).name}
        results.append({**result, "query": named})
        yield result
    if len(queries) > 1:
        with new_file(run.root / "traces" / "index.html") as temporary:
            temporary.write_text(render_index(results), "utf-8")


def _cached_or_traced(
    run: Traced, queries: Sequence[Query], options: TraceOptions, workers: Workers
) -> Iterator[dict[str, Any]]:
    """Traces in the order asked; what was traced before with the same settings is read."""
    how = HowToTrace(top=options.top, candidates=options.candidates, exact=options.exact)
    files = {q.name: trace_folder(run, q, how) / "trace.json" for q in queries}
    new = [q for q in queries if not files[q.name].exists()]
    fresh = trace(run, new, how, workers) if new else iter(())
    for query in queries:
        if query in new:
            yield next(fresh)
        else:
            read = json.loads(files[query.name].read_text("utf-8"))
            yield {**read, "folder": str(files[query.name].parent)}


def write_all_scores(
    run: Traced, queries: Sequence[Query], options: TraceOptions, workers: Workers
) -> Path:
    """Write every document's score for every query, in nats per document removed.

    ``long``: columns ``query``, ``id``, ``score``.  ``wide``: ``id``, then one column a query.

    Args:
        run: The run.
        queries: The queries.
        options: ``all_scores``, ``layout``, and ``exact`` (full gradients; else the store).
        workers: Where exact scoring runs.

    Returns:
        The path.
    """
    assert options.all_scores is not None
    if options.exact:
        scores_QN = exact_everywhere(run, queries, workers)
        chunks: Iterator[tuple[int, np.ndarray]] = iter([(0, scores_QN)])
    else:
        chunks = _from_store(run, queries)
    ids = [i for s in run.specs for i in s.ids]
    metadata = {
        "unit": UNIT,
        "sign": SIGN,
        "n_documents": str(len(ids)),
        "exact": str(options.exact),
    }
    schema = _schema(queries, options.layout).with_metadata(metadata)
    with new_file(options.all_scores) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start, scores_Qb in chunks:
            own = ids[start : start + scores_Qb.shape[1]]
            scaled_Qb = scores_Qb / len(ids)
            if options.layout == "wide":
                columns = [pa.array(own), *(pa.array(row) for row in scaled_Qb)]
                writer.write_table(pa.table(columns, schema=schema))
                continue
            for query, row in zip(queries, scaled_Qb, strict=True):
                table = pa.table(
                    [pa.array([query.name] * len(own)), pa.array(own), row], schema=schema
                )
                writer.write_table(table)
    return options.all_scores


def _schema(queries: Sequence[Query], layout: str) -> pa.Schema:
    if layout == "wide":
        return pa.schema([("id", pa.string()), *((q.name, pa.float64()) for q in queries)])
    return pa.schema([("query", pa.string()), ("id", pa.string()), ("score", pa.float64())])


def _from_store(run: Traced, queries: Sequence[Query]) -> Iterator[tuple[int, np.ndarray]]:
    assert run.store is not None
    vectors = [query_vectors(solve(run, block)) for block in blocks(run, queries, QUERIES_AT_ONCE)]
    for start, scores_Qb in gradients_store.all_scores(run.store, np.concatenate(vectors)):
        yield start, scores_Qb.astype(np.float64)
