"""Brittleness: does the loss rise when a query's strongest proponents are left out of training?

Axes: Q queries, D draws, R seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from influence.documents.evaluation.brittleness import brittleness, top_k
from pipelines.cluster import Workers
from pipelines.measures.options import EvaluationOptions, Scores, count_of, row
from pipelines.queries import Query
from pipelines.retraining import retrained
from pipelines.runs import Run


def measure(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> list[dict[str, Any]]:
    """Train without the strongest proponents of a query: how much does its loss rise?

    Returns:
        One measure for each number of documents removed.
    """
    documents = run.tokens.info()["documents"]
    asked = list(range(min(options.brittle_queries, len(queries))))
    names = [n for n in options.brittle_methods if n in scores]
    everything = np.arange(documents)
    full = retrained(
        run, [everything], options.seeds, queries, workers, "Training on all documents"
    )
    full_RQ = full.losses_SRQ[0][:, asked]
    result = []
    for amount in options.remove:
        k = count_of(amount, documents)
        generator = np.random.default_rng([options.seed, 3, k])
        random_sets = [
            np.setdiff1d(everything, generator.permutation(documents)[:k]) for _ in range(4)
        ]
        label = f"Training without {k} documents"
        chance = retrained(run, random_sets, options.seeds, queries, workers, f"{label} at random")
        chance_DQ = chance.losses_SRQ[:, :, asked].reshape(-1, len(asked))
        rows = []
        for name in names:
            sets = [np.setdiff1d(everything, top_k(scores[name][q], k)) for q in asked]
            without = retrained(run, sets, options.seeds, queries, workers, f"{label} ({name})")
            own_RQ = np.stack([without.losses_SRQ[i, :, q] for i, q in enumerate(asked)], axis=1)
            right_RQ = np.stack([without.right_SRQ[i, :, q] for i, q in enumerate(asked)], axis=1)
            was_RQ = full.right_SRQ[0][:, asked]
            found = brittleness(own_RQ, full_RQ, chance_DQ, was_RQ & ~right_RQ, options.seed)
            extra: dict[str, Any] = {}
            if found.flips is not None:
                extra["answers lost"] = f"{found.flips.mean:.0%}"
            if found.above_random is not None:
                low, high = found.above_random.low, found.above_random.high
                extra["above random removal"] = (
                    f"{found.above_random.mean:+.2f} [{low:+.2f}, {high:+.2f}]"
                )
            rows.append(row(name, found.rise, len(asked), **extra))
        result.append(_brittleness(amount, k, rows, options))
    return result


def _brittleness(
    amount: str, k: int, rows: list[dict[str, Any]], options: EvaluationOptions
) -> dict[str, Any]:
    return {
        "name": f"brittleness-{amount}",
        "title": f"Brittleness, {amount} removed",
        "about": f"The model is trained again without the {k} documents that a method ranks "
        "highest for a query; the number is the rise of the query's loss, in nats. Use "
        "it to ask whether a method finds the documents that an output depends on.",
        "better": "higher",
        "reference": None,
        "setting": {
            "documents removed": k,
            "queries": rows[0]["n"] if rows else 0,
            "seeds": options.seeds,
            "interval": "95 %, bootstrap over queries",
        },
        "rows": rows,
    }
