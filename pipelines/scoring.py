"""Exact scores of documents for blocks of queries, here or shard by shard on workers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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
from influence.documents.scores import Solved, exact_scores, joined_directions, solve_queries
from influence.text import Batch, Chunk, collate, plan_batches
from pipelines.cluster import Workers
from pipelines.gradient_files import IndexSpec, load_curvature, load_sketch
from pipelines.queries import Query
from pipelines.query_gradients import encoded
from pipelines.run_folder import Stage, key_of
from pipelines.tokens import read_chunks, read_table, shard_path, write_table
from pipelines.worker import language_model, layers_of, naming_documents

QUERY_GIGABYTES = 1.0
"""Memory of a process for the preconditioned gradients of one block of queries."""


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
    duplicates: Stage | None = None
    """The sealed clusters of near-duplicates; None: not looked for."""


@dataclass(frozen=True)
class SolvedBlock:
    """A block of queries, differentiated and preconditioned."""

    queries: tuple[Query, ...]
    chunks: tuple[Chunk, ...]
    forwards: tuple[Forward, ...]
    """Of each query: the losses of its completion (and of its contrast, in a second row)."""
    directions: dict[str, Tensor]
    """For each layer ``[Q, O, I]``."""
    self_influence_Q: Tensor
    vectors_QP: Tensor | None
    """The queries as vectors of the store; None without a store."""


def solve(run: Traced, queries: Sequence[Query]) -> SolvedBlock:
    """Differentiate and precondition a block of queries: one backward pass each.

    Args:
        run: The run.
        queries: A few queries.

    Returns:
        Preconditioned directions of the measurements; their gradients are not kept.
    """
    return _solve(run.specs[0].of_every_shard(), tuple(queries), run.store is not None)


@lru_cache(maxsize=1)  # the shards of a block of queries share it
def _solve(spec: IndexSpec, queries: tuple[Query, ...], stored: bool) -> SolvedBlock:
    loaded, layers = language_model(spec.model), layers_of(spec.model)
    curvature = load_curvature(spec.curvature, str(loaded.device))
    sketch = load_sketch(spec.sketch) if stored else None
    found: list[Solved] = []
    chunks: list[Chunk] = []

    def each() -> Iterator[dict[str, Tensor]]:
        for query in queries:
            own = encoded(loaded, query)
            batch = collate(own, loaded.pad_id).to(loaded.device)
            one = solve_queries(
                loaded.model,
                layers,
                batch,
                curvature,
                spec.damping,
                sketch=sketch,
                contrast=query.contrast is not None,
            )
            chunks.append(own[0])
            found.append(replace(one, directions={}))
            yield one.directions

    joined = joined_directions(each(), len(queries))
    vectors = [one.vectors_QP for one in found if one.vectors_QP is not None]
    return SolvedBlock(
        queries=queries,
        chunks=tuple(chunks),
        forwards=tuple(one.forward for one in found),
        directions=joined,
        self_influence_Q=torch.cat([one.self_influence_Q for one in found]).cpu(),
        vectors_QP=torch.cat(vectors).cpu() if vectors else None,
    )


def blocks(run: Traced, queries: Sequence[Query], most: int | None = None) -> Iterator[list[Query]]:
    """Cut queries into blocks whose directions fit into ``QUERY_GIGABYTES``, as large as can be.

    A document is differentiated once for each block, which costs as much as scoring it for
    hundreds of queries.

    Args:
        run: The run.
        queries: All queries.
        most: Most queries of a block; None: as many as fit.

    Yields:
        Blocks in order.
    """
    layers = layers_of(run.specs[0].model)
    numbers = sum(x.out_features * (x.in_features + int(x.bias)) for x in layers)
    size = max(1, min(most or len(queries), int(QUERY_GIGABYTES * 1e9 / (4 * numbers))))
    for start in range(0, len(queries), size):
        yield list(queries[start : start + size])


@dataclass(frozen=True)
class DocumentScores:
    """Exact scores of some documents for a block of queries, in nats times N."""

    rows: np.ndarray
    """Row numbers in the corpus ``[D]``."""
    layers_QLD: np.ndarray
    loss_D: np.ndarray


def score_documents(run: Traced, solved: SolvedBlock, rows: Collection[int]) -> DocumentScores:
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
    model = language_model(run.specs[0].model).model
    ids = [i for spec in run.specs for i in spec.ids]
    for _, batch in chunk_batches(run, wanted):
        with naming_documents(ids, run.specs[0].first):
            scored = exact_scores(model, layers, batch, solved.directions)
        columns = torch.tensor([wanted[int(d)] for d in batch.document])
        scores_QLD.index_add_(2, columns, scored.layers_QLB.double().cpu())
        loss_D.index_add_(0, columns, scored.forward.loss_B.double().cpu())
    return DocumentScores(np.array(sorted(wanted)), scores_QLD.numpy(), loss_D.numpy())


def chunk_batches(run: Traced, rows: Collection[int]) -> Iterator[tuple[list[Chunk], Batch]]:
    """The chunks of some documents of all shards, batched by length under the token budget.

    Args:
        run: The run; only the shards that hold a document are read.
        rows: Row numbers of documents, each once.

    Yields:
        The chunks of a batch, and the batch on the model's device.
    """
    chunks: list[Chunk] = []
    for spec in run.specs:
        own = [row for row in rows if spec.first <= row < spec.first + len(spec.ids)]
        if own:
            chunks += read_chunks(shard_path(Path(spec.tokens), spec.shard), own)
    loaded = language_model(run.specs[0].model)
    for plan in plan_batches([len(c.tokens) for c in chunks], run.specs[0].token_budget):
        batched = [chunks[i] for i in plan]
        yield batched, collate(batched, loaded.pad_id).to(loaded.device)


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
