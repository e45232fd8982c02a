"""What a worker does for the gradient store: one shard in, one Arrow file out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gradients_store
from influence.documents.scores import Rows, document_row, whitened_rows
from influence.text import Batch, Chunk
from pipelines.gradient_files import IndexSpec, load_whitening
from pipelines.tokens import batches, read_chunks, shard_path
from pipelines.worker import language_model, layers_of, naming_documents


def index_shard(spec: IndexSpec) -> str:
    """Compute, whiten and compress the gradients of one shard, and write it.

    Returns:
        The shard's file name.
    """
    loaded = language_model(spec.model)
    chunks = read_chunks(shard_path(Path(spec.tokens), spec.shard))
    assert spec.header is not None
    rows = _Rows(len(spec.ids), spec.header.dimension)
    with naming_documents(spec.ids, spec.first):
        for number, result in _shard_rows(spec, chunks):
            rows.put(number, result)
    for chunk in chunks:
        rows.n_tokens[chunk.document - spec.first] += int(chunk.loss.sum())
    del loaded
    info = gradients_store.write_shard(
        spec.store,
        spec.shard,
        gradients_store.Rows(
            id=list(spec.ids),
            source=list(spec.sources),
            language=list(spec.languages),
            n_tokens=rows.n_tokens,
            loss=rows.loss,
            self_influence=rows.self_influence,
            gradient_norm=rows.norm,
            vector=rows.vectors,
        ),
        spec.header,
    )
    return info.name


class _Rows:
    """The rows of one shard while it is filled (``put`` changes it)."""

    def __init__(self, count: int, dimension: int) -> None:
        self.vectors = np.zeros((count, dimension), dtype=np.float32)
        self.loss = np.zeros(count, dtype=np.float32)
        self.self_influence = np.zeros(count, dtype=np.float32)
        self.norm = np.zeros(count, dtype=np.float32)
        self.n_tokens = np.zeros(count, dtype=np.int32)

    def put(self, number: list[int], rows: Rows) -> None:
        self.vectors[number] = rows.vectors_BP.cpu().numpy()
        self.loss[number] = rows.forward.loss_B.cpu().numpy()
        self.self_influence[number] = rows.self_influence_B.cpu().numpy()
        self.norm[number] = rows.squared_norm_B.sqrt().cpu().numpy()


def _shard_rows(spec: IndexSpec, chunks: Sequence[Chunk]) -> Any:
    loaded, layers = language_model(spec.model), layers_of(spec.model)
    whitening = load_whitening(spec.of_every_shard(), str(loaded.device))
    arguments = (loaded.model, layers, whitening)
    long: dict[int, list[Batch]] = {}
    for work in batches(chunks, loaded.pad_id, spec.token_budget):
        numbers = [chunks[i].document - spec.first for i in work.rows]
        if work.part_of_document:
            long.setdefault(numbers[0], []).append(work.batch)
            continue
        yield numbers, whitened_rows(*arguments, work.batch.to(loaded.device))
    for number, parts in long.items():
        yield [number], document_row(*arguments, [b.to(loaded.device) for b in parts])
