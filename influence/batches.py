"""Chunks of tokens become padded batches; what is computed from them ignores the padding.

Axes: B rows of a batch, T tokens of a row (padding included).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from influence.errors import TextError

IGNORED = -100
"""Target of a position that is not counted."""

SIDES = ("right", "left")

BATCH_COST = 1 / 4
"""What a batch costs beside its tokens, in token budgets: more means fewer batches and more padding."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """A stretch of a document that the model reads in one piece."""

    document: int
    """Number of the document, as given to `encode`."""
    chunk: int
    """Number of the stretch among those of its document that have counted tokens, from 0."""
    tokens: np.ndarray
    """Token ids `[T]`, int32."""
    loss: np.ndarray
    """`[T]`, bool: is this token counted, as a target? The first never is."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded chunks, ready for the model. All tensors are int64."""

    input_ids: Tensor
    """`[B, T]`."""
    attention_mask: Tensor
    """`[B, T]`: 1 at real tokens, 0 at padding."""
    position_ids: Tensor
    """`[B, T]`: 0 at the first real token of a row, and at padding."""
    targets: Tensor
    """`[B, T]`: the next token where that one is counted, else -100."""
    document: Tensor
    """`[B]`: document number of each row."""
    chunk: Tensor
    """`[B]`: chunk number of each row."""

    @property
    def n_loss_tokens(self) -> int:
        """Number of counted tokens."""
        return int((self.targets != IGNORED).sum())

    def to(self, device: torch.device | str) -> Batch:
        """Copy to another device; to a GPU from pinned memory, so that nobody waits.

        Returns:
            The same batch there.
        """
        if torch.device(device).type != "cuda":
            return Batch(**{name: value.to(device) for name, value in vars(self).items()})
        pinned = {name: value.pin_memory() for name, value in vars(self).items()}
        return Batch(**{n: value.to(device, non_blocking=True) for n, value in pinned.items()})


def collate(
    chunks: Sequence[Chunk], pad_id: int, side: str = "right", extra_padding: int = 0
) -> Batch:
    """Pad chunks to one length; numbers computed from the batch do not depend on the padding.

    Args:
        chunks: Rows of the batch, in order.
        pad_id: Token put at padding; masked, so any valid id will do.
        side: Where padding goes, `right` or `left`.
        extra_padding: Padding beyond the longest chunk, in tokens.

    Returns:
        A batch on the CPU; position ids start at 0 at each row's first real token.

    Raises:
        TextError: If there is no chunk, or the side is unknown.
    """
    if not chunks or side not in SIDES:
        raise TextError(
            f"collate: {len(chunks)} chunks, side {side!r}; expected at least one chunk and a side "
            f"of {SIDES}."
        )
    width = max(len(chunk.tokens) for chunk in chunks) + extra_padding
    shape = (len(chunks), width)
    input_ids, targets = np.full(shape, pad_id), np.full(shape, IGNORED)
    attention_mask, position_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, chunk in enumerate(chunks):
        n = len(chunk.tokens)
        start = width - n if side == "left" else 0
        input_ids[row, start : start + n] = chunk.tokens
        attention_mask[row, start : start + n] = 1
        position_ids[row, start : start + n] = np.arange(n)
        targets[row, start : start + n - 1] = np.where(chunk.loss, chunk.tokens, IGNORED)[1:]
    arrays = (input_ids, attention_mask, position_ids, targets)
    owners = ([chunk.document for chunk in chunks], [chunk.chunk for chunk in chunks])
    return Batch(*(torch.from_numpy(np.asarray(array, np.int64)) for array in arrays + owners))


def with_targets(batch: Batch, labels: Sequence[np.ndarray], chunks: Sequence[Chunk]) -> Batch:
    """Replace the counted targets by other labels, such as labels sampled from the model.

    Args:
        batch: Made by `collate` from these chunks, with any padding.
        labels: For each row its labels, in the order of its counted tokens.
        chunks: The rows' chunks, in order; named in errors.

    Returns:
        A batch that differs in `targets` only.

    Raises:
        TextError: If the number of rows or of labels of a row does not fit.
    """
    if not len(labels) == len(chunks) == len(batch.targets):
        raise TextError(
            f"with_targets: labels of {len(labels)} rows for {len(chunks)} chunks and a batch of "
            f"{len(batch.targets)} rows, expected equal numbers."
        )
    targets = batch.targets.to("cpu", copy=True)  # one copy a batch, not one a row
    for row, (row_labels, chunk) in enumerate(zip(labels, chunks, strict=True)):
        counted = targets[row] != IGNORED
        if len(row_labels) != int(counted.sum()):
            raise TextError(
                f"with_targets, document {chunk.document}, chunk {chunk.chunk}: {len(row_labels)} "
                f"labels, expected {int(counted.sum())}, one for each counted token."
            )
        targets[row, counted] = torch.as_tensor(np.asarray(row_labels, np.int64))
    return replace(batch, targets=targets.to(batch.targets.device))


def plan_batches(lengths: Sequence[int], token_budget: int, max_rows: int = 64) -> list[list[int]]:
    """Group rows of like length, so that padding and batches together cost least.

    Args:
        lengths: Tokens of each row.
        token_budget: Most tokens of a batch, padding included; a longer row goes alone.
        max_rows: Most rows of a batch.

    Returns:
        Batches of row numbers, shortest rows first; every row once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    least, cuts = [0.0], [0]  # of the first n rows: the cost, and where their last batch begins
    for end, longest in enumerate((lengths[i] for i in order), start=1):
        most = min(max_rows, max(1, token_budget // max(longest, 1)), end)
        costs = [
            (least[end - n] + n * longest + BATCH_COST * token_budget, end - n)
            for n in range(most, 0, -1)
        ]
        cost, start = min(costs)
        least.append(cost)
        cuts.append(start)
    batches, end = [], len(order)
    while end:
        batches.append(order[cuts[end] : end])
        end = cuts[end]
    return batches[::-1]
