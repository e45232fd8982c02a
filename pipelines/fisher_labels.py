"""The Fisher's labels of some shards: read where they are kept, else drawn on the way and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor

from influence.documents.labels import labels_from
from influence.text import Batch, Chunk, with_targets
from pipelines.curvature_files import FitSpec, labels_path
from pipelines.tokens import batches, read_chunks, read_table, shard_path, write_table
from pipelines.worker import language_model


class FisherBatches:
    """Batches whose targets are, or are to become, the Fisher's labels.

    The first pass over a shard draws its labels from the logits that it computes anyhow (``draw``)
    and leaves them in a file; later passes read them.  Iterate once, and let each batch go through
    ``draw`` before the next one is asked for.
    """

    def __init__(self, spec: FitSpec) -> None:
        self._spec = spec
        self._rows: list[Chunk] = []
        self._labels: list[np.ndarray] | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the shards in order, on the worker's device."""
        loaded = language_model(self._spec.model)
        for shard in self._spec.shards:
            chunks = read_chunks(shard_path(Path(self._spec.tokens), shard))
            known = self._known(shard, chunks)
            drawn: list[np.ndarray] = [np.empty(0, dtype=np.int32)] * len(chunks)
            for work in batches(chunks, loaded.pad_id, self._spec.token_budget):
                self._rows = [chunks[i] for i in work.rows]
                self._labels = None if known is None else [known[i] for i in work.rows]
                yield work.batch.to(loaded.device)
                for row, label in zip(work.rows, self._labels or (), strict=True):
                    drawn[row] = label
            if known is None:
                table = pa.table({"labels": pa.array(drawn, pa.list_(pa.int32()))})
                write_table(labels_path(self._spec, shard), table)

    def draw(self, batch: Batch, logits_BTV: Tensor) -> Batch:
        """Put the labels into the batch that was yielded last.

        Args:
            batch: That batch.
            logits_BTV: The model's logits for it.

        Returns:
            The batch with the Fisher's labels as targets.
        """
        if self._labels is None:
            keys = [self._id(chunk.document) for chunk in self._rows]
            self._labels = labels_from(logits_BTV, batch, keys, self._spec.seed)
        return with_targets(batch, self._labels, self._rows)

    def _known(self, shard: int, chunks: Sequence[Chunk]) -> list[np.ndarray] | None:
        if self._spec.labels == "empirical":
            return [chunk.tokens[chunk.loss] for chunk in chunks]
        path = labels_path(self._spec, shard)
        if not path.exists():
            return None
        column = read_table(path).column("labels").combine_chunks()
        return [np.asarray(value.values, dtype=np.int32) for value in column]

    def _id(self, document: int) -> str:
        shard, row = divmod(document, self._spec.shard_size)
        return self._spec.ids[self._spec.shards.index(shard) * self._spec.shard_size + row]
