"""The same query by other methods: what each ranks first, beside the trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from influence.documents.evaluation.brittleness import top_k
from influence.documents.methods import choose
from pipelines.cluster import Workers
from pipelines.corpus import document_ids, read_columns
from pipelines.method_scores import document_texts, method_scores
from pipelines.queries import Query
from pipelines.run_folder import locked, new_file
from pipelines.runs import Run

PER_DOCUMENT = ", times N"
"""Units that end so are divided by N before anybody sees them."""


@dataclass(frozen=True)
class Compared:
    """Scores of all documents by several methods, for some queries."""

    ids: list[str]
    methods: Sequence[Mapping[str, Any]]
    """For each method ``name``, ``title``, ``about``, ``unit``."""
    scores: Mapping[str, np.ndarray]
    """For each method ``[Q, N]``, in its unit."""
    queries: Sequence[str]
    """Names of the queries."""
    texts: Sequence[str]
    sources: Sequence[str]


def compare_methods(
    run: Run, queries: Sequence[Query], names: Sequence[str], workers: Workers
) -> Compared:
    """Score all documents for some queries by several methods.

    Args:
        run: A finished run.
        queries: What to explain.
        names: Methods.
        workers: Where to run.

    Returns:
        The scores.
    """
    documents = run.tokens.info()["documents"]
    with locked(run.root):  # curvatures of other kinds may have to be fitted
        scores = method_scores(run, queries, names, workers)
    about = []
    for method in choose(names):
        per_document = method.unit.endswith(PER_DOCUMENT)
        if per_document:
            scores[method.name] = scores[method.name] / documents
        about.append(
            {
                "name": method.name,
                "title": method.title,
                "about": method.about,
                "unit": method.unit.removesuffix(PER_DOCUMENT),
            }
        )
    return Compared(
        ids=document_ids(run.corpus),
        methods=about,
        scores=scores,
        queries=[q.name for q in queries],
        texts=document_texts(run),
        sources=[str(s) for s in read_columns(run.corpus, ["source"]).column("source").to_pylist()],
    )


def beside(
    compared: Compared, query: str, trace: Mapping[str, Any], top: int = 5
) -> list[dict[str, Any]]:
    """What the other methods say of one traced query.

    Args:
        compared: Scores of several methods.
        query: The query's name.
        trace: Its trace.
        top: Documents to name for each method.

    Returns:
        For each method ``name``, ``title``, ``about``, ``unit``; ``shared``, the share of its
        strongest proponents, as many as the trace shows, that the trace shows too (None without
        any); and ``proponents`` with ``id``, ``source``, ``score``, ``text``.
    """
    q = list(compared.queries).index(query)
    shown = {row["id"] for row in trace["proponents"]}
    found = []
    for method in compared.methods:
        scores_N = compared.scores[method["name"]][q]
        best = top_k(scores_N, min(max(top, len(shown)), len(scores_N)))
        same = [i for i in best[: len(shown)] if compared.ids[i] in shown]
        found.append(
            {
                **method,
                "shared": len(same) / len(shown) if shown else None,
                "proponents": [
                    {
                        "id": compared.ids[i],
                        "source": compared.sources[i],
                        "score": float(scores_N[i]),
                        "text": compared.texts[i],
                    }
                    for i in best[:top]
                ],
            }
        )
    return found


def write_methods(compared: Compared, query: str, path: Path) -> Path:
    """Write every document's score by every method: ``id``, then one column a method.

    Returns:
        The path.
    """
    q = list(compared.queries).index(query)
    columns = {"id": compared.ids, **{n: s[q] for n, s in compared.scores.items()}}
    units = {str(m["name"]): str(m["unit"]) for m in compared.methods}
    with new_file(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(units), temporary)
    return path
