"""Fact tracing: are documents that are known to state the fact ranked first?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from influence.documents.evaluation.fact_tracing import facts
from pipelines.cluster import Workers
from pipelines.corpus import document_ids
from pipelines.measures.options import EvaluationOptions, Scores, row
from pipelines.queries import Query
from pipelines.runs import Run


def measure(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> list[dict[str, Any]]:
    """Are documents that are known to state the fact ranked first?

    Returns:
        One measure; none where no query names its documents.
    """
    row_of = {name: i for i, name in enumerate(document_ids(run.corpus))}
    asked = [(i, q) for i, q in enumerate(queries) if any(s in row_of for s in q.supports)]
    if not asked:
        return []
    supports = [{row_of[s] for s in q.supports if s in row_of} for _, q in asked]
    chosen = [i for i, _ in asked]
    rows = []
    for name, scores_QN in scores.items():
        found = facts(scores_QN[chosen], supports, seed=options.seed)
        extra = {f"recall at {k}": f"{value.mean:.0%}" for k, value in found.recall.items()}
        rows.append(row(name, found.mrr, len(asked), **extra))
    return [
        {
            "name": "facts",
            "title": "Fact tracing (MRR)",
            "about": "Mean reciprocal rank of the first document that states the queried fact (1: "
            "always first). Use it to ask whether a method retrieves statements; word "
            "overlap (BM25) is strong here, and it can't say which of them moved the "
            "model.",
            "better": "higher",
            "reference": None,
            "setting": {"queries with known documents": len(asked)},
            "rows": rows,
        }
    ]
