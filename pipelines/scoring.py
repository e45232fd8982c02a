"""Exact scores of documents for blocks of queries, here or shard by shard on workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

import gradients_store
from influence.documents.gradients import Forward
from influence.documents.scores import (
    directions,
    exact_scores,
    self_influence,
)
from influence.text import Batch, Chunk
from pipelines.cluster import Workers
from pipelines.gradient_files import IndexSpec, load_curvature
from pipelines.queries import Query
from pipelines.query_gradients import differentiate
from pipelines.run_folder import key_of
from pipelines.tokens import batches, read_chunks, read_table, shard_path, write_table
from pipelines.worker import language_model, layers_of, naming_documents

QUERY_GIGABYTES = 1.0
"""Memory for the preconditioned gradients of one block of queries."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A finished run, as tracing sees it."""

    name: str
    root: Path
    corpus: Any
    """The sealed corpus stage."""
    specs: tuple[IndexSpec, ...]
    """One spec a shard."""
    store: gradients_store.Store | None
    """None: exact scoring only."""
    settings: dict[str, Any]
    """What the report prints about how the numbers were made."""
    quality: dict[str, Any]


@dataclass(frozen=True)
class Solved:
    """A block of queries, differentiated and preconditioned."""

    queries: tuple[Query, ...]
    chunks: tuple[Chunk, ...]
    forward: Forward
    gradients: dict[str, Tensor]
    directions: dict[str, Tensor]
    self_influence_Q: Tensor
    contrast_losses: tuple[float | None, ...]
    """Loss of each query's contrast in nats; None where it has none."""


def solve(run: Traced, queries: Sequence[Query]) -> Solved:
    """Differentiate and precondition a block of queries: one backward pass each.

    Args:
        run: The run.
        queries: A few queries.

    Returns:
        Gradients of the measurement, and its preconditioned directions.
    """
    return _solve(run.specs[0].of_every_shard(), tuple(queries))


@lru_cache(maxsize=1)  # the shards of a block of queries share it
def _solve(spec: IndexSpec, queries: tuple[Query, ...]) -> Solved:
    loaded, layers = language_model(spec.model), layers_of(spec.model)
    curvature = load_curvature(spec.curvature, str(loaded.device))
    found = [differentiate(spec.model, query) for query in queries]
    joined = {layer.name: torch.cat([f.gradients[layer.name] for f in found]) for layer in layers}
    solved = directions(curvature, spec.damping, joined)
    return Solved(
        queries=queries,
        chunks=tuple(f.chunk for f in found),
        forward=_join([f.forward for f in found]),
        gradients=joined,
        directions=solved,
        self_influence_Q=self_influence(joined, solved).cpu(),
        contrast_losses=tuple(f.contrast_loss for f in found),
    )


def _join(forwards: Sequence[Forward]) -> Forward:
    width = max(f.token_loss_BT.shape[1] for f in forwards)
    padded = [
        torch.nn.functional.pad(f.token_loss_BT, (0, width - f.token_loss_BT.shape[1]))
        for f in forwards
    ]
    return Forward(
        loss_B=torch.cat([f.loss_B for f in forwards]).cpu(), token_loss_BT=torch.cat(padded).cpu()
    )


def blocks(run: Traced, queries: Sequence[Query]) -> Iterator[list[Query]]:
    """Cut queries into blocks whose gradients fit into memory.

    Yields:
        Blocks in order.
    """
    layers = layers_of(run.specs[0].model)
    parameters = sum(x.out_features * (x.in_features + int(x.bias)) for x in layers)
    size = int(np.clip(QUERY_GIGABYTES * 1e9 / (parameters * 12), 1, 64))
    for start in range(0, len(queries), size):
        yield list(queries[start : start + size])


@dataclass(frozen=True)
class DocumentScores:
    """Exact scores of some documents for a block of queries, in nats times N."""

    rows: np.ndarray
    """Row numbers in the corpus ``[D]``."""
    layers_QLD: np.ndarray
    loss_D: np.ndarray


def score_documents(run: Traced, solved: Solved, rows: Sequence[int]) -> DocumentScores:
    """Score some documents exactly, in this process.

    Args:
        run: The run.
        solved: The queries.
        rows: Row numbers of documents.

    Returns:
        Scores by layer; chunks of a document are summed.
    """
    wanted = {row: i for i, row in enumerate(sorted(set(rows)))}
    layers = layers_of(run.specs[0].model)
    queries = len(solved.queries)
    scores_QLD = torch.zeros(queries, len(layers), len(wanted), dtype=torch.float64)
    loss_D = torch.zeros(len(wanted), dtype=torch.float64)
    for spec in run.specs:
        own = {row for row in wanted if spec.first <= row < spec.first + len(spec.ids)}
        for batch in _batches(spec, own):
            with naming_documents(spec.ids, spec.first):
                model = language_model(spec.model).model
                scored = exact_scores(model, layers, batch, solved.directions)
            columns = torch.tensor([wanted[int(d)] for d in batch.document])
            scores_QLD.index_add_(2, columns, scored.layers_QLB.double().cpu())
            loss_D.index_add_(0, columns, scored.forward.loss_B.double().cpu())
    return DocumentScores(np.array(sorted(wanted)), scores_QLD.numpy(), loss_D.numpy())


def _batches(spec: IndexSpec, rows: set[int]) -> Iterator[Batch]:
    if not rows:
        return
    loaded = language_model(spec.model)
    chunks = [
        c for c in read_chunks(shard_path(Path(spec.tokens), spec.shard)) if c.document in rows
    ]
    for work in batches(chunks, loaded.pad_id, spec.token_budget):
        yield work.batch.to(loaded.device)


@dataclass(frozen=True, kw_only=True)
class ExactSpec:
    """Score one shard of documents for some queries, from full gradients."""

    run: Traced
    """The run, with the spec of this shard alone."""
    queries: tuple[Query, ...]
    out: str


def score_shard(spec: ExactSpec) -> str:
    """Score every document of one shard (runs on a worker).

    Returns:
        An Arrow file of ``score`` columns, one a query, in nats times N.
    """
    [shard] = spec.run.specs
    rows = range(shard.first, shard.first + len(shard.ids))
    parts = []
    for block in blocks(spec.run, spec.queries):
        scored = score_documents(spec.run, solve(spec.run, block), rows)
        parts.append(scored.layers_QLD.sum(axis=1))
    scores_QD = np.concatenate(parts)
    table = pa.table({q.name: scores_QD[i] for i, q in enumerate(spec.queries)})

    return str(write_table(Path(spec.out), table))


def exact_everywhere(run: Traced, queries: Sequence[Query], workers: Workers) -> np.ndarray:
    """Exact scores of every document for every query, shard by shard; resumes.

    Args:
        run: The run.
        queries: The queries.
        workers: Where to run.

    Returns:
        ``[Q, N]`` in nats times N, memory-mapped shard by shard while it is put together.
    """
    folder = _exact_folder(run, queries)
    bare = replace(run, store=None, settings={}, quality={})
    specs = [
        ExactSpec(
            run=replace(bare, specs=(shard,)),
            queries=tuple(queries),
            out=str(shard_path(folder, shard.shard)),
        )
        for shard in run.specs
    ]
    todo = [s for s in specs if not Path(s.out).exists()]
    workers.map(score_shard, todo, "Scoring every document exactly")

    tables = [read_table(Path(s.out)) for s in specs]
    return np.stack(
        [np.concatenate([t.column(q.name).to_numpy() for t in tables]) for q in queries]
    )


def _exact_folder(run: Traced, queries: Sequence[Query]) -> Path:
    first = run.specs[0]
    key = key_of(
        queries=[[q.name, q.prompt, q.completion, q.contrast] for q in queries],
        curvature=Path(first.curvature).name,
        damping=first.damping,
        tokens=Path(first.tokens).name,
    )
    return run.root / "exact" / key
