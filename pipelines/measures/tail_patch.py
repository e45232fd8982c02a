"""Tail-patch: does one step on a query's strongest proponents make the completion likelier?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from influence.documents.evaluation.bootstrap import interval
from influence.documents.evaluation.brittleness import top_k
from influence.documents.evaluation.tail_patch import tail_patch
from influence.text import collate, encode_query
from pipelines.cluster import Workers
from pipelines.measures.options import EvaluationOptions, Scores, row
from pipelines.queries import Query
from pipelines.runs import Run
from pipelines.tokens import read_chunks, shard_path
from pipelines.worker import ModelSpec, language_model


@dataclass(frozen=True, kw_only=True)
class PatchSpec:
    """Tail-patch of one query under one method."""

    model: ModelSpec
    tokens: str
    shard_size: int
    query: Query
    rows: tuple[int, ...]
    step: float


def patch(spec: PatchSpec) -> float:
    """One gradient step on some documents (runs on a worker).

    Returns:
        Rise of the completion's log-probability (less the contrast's, where there is one), nats.
    """
    loaded = language_model(spec.model)
    chunks = []
    for index in spec.rows:
        shard = read_chunks(shard_path(Path(spec.tokens), index // spec.shard_size))
        chunks += [c for c in shard if c.document == index]
    documents = collate(chunks, loaded.pad_id).to(loaded.device)

    def rise(completion: str) -> float:
        asked = encode_query(loaded.tokenizer, spec.query.prompt, completion, loaded.max_tokens)
        batch = collate([asked], loaded.pad_id).to(loaded.device)
        return tail_patch(loaded.model, documents, batch, spec.step)

    contrast = spec.query.contrast
    return rise(spec.query.completion) - (0.0 if contrast is None else rise(contrast))


def measure(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> list[dict[str, Any]]:
    """One step on the strongest proponents: how much likelier does the completion become?

    Returns:
        One measure.
    """
    k = min(options.patch, run.tokens.info()["documents"])
    rows = []
    for name, scores_QN in scores.items():
        specs = [
            PatchSpec(
                model=replace(run.model, head_basis=None),
                tokens=str(run.tokens.path),
                shard_size=run.config.documents_per_shard,
                query=query,
                rows=tuple(int(i) for i in top_k(scores_QN[q], k)),
                step=options.step,
            )
            for q, query in enumerate(queries)
        ]
        rises = workers.map(patch, specs, f"Tail-patch: {name}")
        rows.append(row(name, interval(np.array(rises), options.seed), len(queries)))
    return [
        {
            "name": "tail-patch",
            "title": "Tail-patch",
            "about": f"One step of gradient descent on the {k} strongest proponents; the number is "
            "the rise of the completion's log-probability, in nats. Use it to ask what "
            "more training on these documents would do; it favours methods close to the "
            "plain gradient.",
            "better": "higher",
            "reference": None,
            "setting": {"documents": k, "learning rate": options.step},
            "rows": rows,
        }
    ]
