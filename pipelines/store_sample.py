"""The sample on which stores are judged: documents spread over the corpus, and queries.

Queries are the last quarters of documents, given what stands before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from influence.documents.gradients import per_document_gradients
from influence.text import Chunk, collate
from pipelines.gradient_files import IndexSpec
from pipelines.run_folder import Stage
from pipelines.tokens import read_chunks, shard_path
from pipelines.worker import language_model, layers_of

SAMPLE_QUERIES, SAMPLE_GIGABYTES = 16, 1.0


def choose_documents(specs: Sequence[IndexSpec], most: int) -> list[IndexSpec]:
    """Documents spread evenly over the corpus.

    Args:
        specs: All shards.
        most: How many documents at most.

    Returns:
        The shards that hold one of them, with their ``rows``.
    """
    documents, size = sum(len(spec.ids) for spec in specs), len(specs[0].ids)
    rows: dict[int, list[int]] = {}
    for row in np.unique(np.linspace(0, documents - 1, min(documents, most)).astype(int)).tolist():
        rows.setdefault(row // size, []).append(row)
    return [replace(specs[shard], rows=tuple(own)) for shard, own in rows.items()]


def choose_queries(
    tokens: Stage, parameters: int, count: int | None = None
) -> tuple[tuple[int, int], ...]:
    """Queries spread over the corpus.

    Args:
        tokens: The sealed token shards.
        parameters: Of the tracked layers together.
        count: How many; None: as many as fit into ``SAMPLE_GIGABYTES``.

    Returns:
        ``(shard, position of the chunk)`` of each.
    """
    if count is None:
        count = int(np.clip(SAMPLE_GIGABYTES * 1e9 / (parameters * 12), 2, SAMPLE_QUERIES))
    shards = tokens.info()["shards"]
    chosen = []
    for i in range(count):
        shard = int(i * shards / count)
        chunks = read_chunks(shard_path(tokens.path, shard))
        position = (i * 7919) % len(chunks)
        if (shard, position) not in chosen:
            chosen.append((shard, position))
    return tuple(chosen)


def sample_gradients(spec: IndexSpec) -> dict[str, Tensor]:
    """Gradients of the queries of a spec.

    Returns:
        For each layer ``[Q, O, I]``.
    """
    loaded, layers = language_model(spec.model), layers_of(spec.model)
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for shard, position in spec.queries:
        chunk = read_chunks(shard_path(Path(spec.tokens), shard))[position]
        loss = chunk.loss.copy()
        counted = np.flatnonzero(loss)
        loss[counted[: (3 * len(counted)) // 4]] = False
        batch = collate([Chunk(0, 0, chunk.tokens, loss)], loaded.pad_id).to(loaded.device)
        rows, _ = per_document_gradients(loaded.model, layers, batch)
        for name, gradient_QOI in rows.items():
            found[name].append(gradient_QOI)
    return {name: torch.cat(parts) for name, parts in found.items()}
