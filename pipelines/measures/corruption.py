"""Corruption: does self-influence find flagged documents better than their loss does?

Axes: N documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from influence.documents.evaluation.corruption import corruption
from pipelines.cluster import Workers
from pipelines.corpus import read_columns
from pipelines.measures.options import EvaluationOptions, Scores, row
from pipelines.queries import Query
from pipelines.runs import Run, open_traced


def measure(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> list[dict[str, Any]]:
    """Does self-influence find flagged documents better than their loss does?

    Returns:
        One measure; none where the corpus has no flags or the run no store.
    """
    names = _columns(run)
    if options.flag not in names or run.gradients is None:
        return []
    table = read_columns(run.corpus, [options.flag, "source"])
    flagged_N = np.array([value is True for value in table.column(options.flag).to_pylist()])
    source_N = np.array([str(value) for value in table.column("source").to_pylist()])
    alike_N = np.isin(source_N, source_N[flagged_N])
    flagged_N = flagged_N[alike_N]
    if flagged_N.all() or not flagged_N.any():
        return []
    store = open_traced(run).store
    assert store is not None
    stored = store.metadata()
    found = corruption(
        stored.column("self_influence").to_numpy()[alike_N],
        stored.column("loss").to_numpy()[alike_N],
        flagged_N,
        seed=options.seed,
    )
    count = int(flagged_N.sum())
    return [
        {
            "name": "corruption",
            "title": "Corruption (AUROC)",
            "about": f"Chance that a document flagged “{options.flag}” has a larger self-influence "
            "than another one of the same sources (0.5: no better than a coin). The loss "
            "is the baseline. Use it to ask whether a corpus can be cleaned by these "
            "numbers.",
            "better": "higher",
            "reference": {"name": "chance", "value": 0.5, "about": "A coin."},
            "setting": {"flagged documents": count, "documents": len(flagged_N)},
            "rows": [
                row("self-influence", found.self_influence, count),
                row("loss", found.loss, count),
            ],
        }
    ]


def _columns(run: Run) -> list[str]:
    return list(pq.read_schema(run.corpus.path / "documents.parquet").names)
