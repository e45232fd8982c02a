"""Labels drawn from the model, once a document, for the sampled Fisher.

The Fisher's expectation runs over ``y ~ p_theta``.  Each document's labels come from a counter-based
generator keyed on (seed, document id, chunk, draw) and are turned into tokens by inverting the
cumulative distribution, so that they depend on nothing else: not on the batch, the padding, the
partition, the worker or a resume.

Source: Grosse et al. (2023), arXiv:2308.03296, section 2.2 (sampled, not empirical, labels).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from influence.documents.gradients import logits_of, refuse_not_finite
from influence.text import Batch

BLOCK = 32
"""Tokens whose probabilities are summed at once, before the block that holds the draw is looked at."""


def generator(seed: int, document_id: str, chunk: int, draw: int = 0) -> np.random.Generator:
    """The generator of one chunk's labels; equal keys give equal streams on every machine.

    Args:
        seed: The run's label seed.
        document_id: The document's id.
        chunk: Which chunk of the document.
        draw: Which of several independent draws.

    Returns:
        A Philox generator.
    """
    key = f"{seed}\x1f{document_id}\x1f{chunk}\x1f{draw}".encode()
    digest = hashlib.blake2b(key, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@torch.no_grad()
def sample_labels(
    model: nn.Module, batch: Batch, document_ids: Sequence[str], seed: int, draw: int = 0
) -> list[np.ndarray]:
    """Draw one label for every counted target of every row.

    Args:
        model: The causal LM.
        batch: The rows; its mask of counted targets is the mask of the labels.
        document_ids: The id of each row's document ``[B]``.
        seed: The run's label seed.
        draw: Which of several independent draws.

    Returns:
        For each row, int32 labels in the order of its counted targets.

    Raises:
        GradientError: If the logits of a document hold NaN or infinity.
    """
    return labels_from(logits_of(model, batch), batch, document_ids, seed, draw)


@torch.no_grad()
def labels_from(
    logits_BTV: Tensor, batch: Batch, document_ids: Sequence[str], seed: int, draw: int = 0
) -> list[np.ndarray]:
    """Draw labels from logits that are there already.

    Args:
        logits_BTV: The model's logits for the batch.
        batch: The rows; its mask of counted targets is the mask of the labels.
        document_ids: The id of each row's document ``[B]``.
        seed: The run's label seed.
        draw: Which of several independent draws.

    Returns:
        For each row, int32 labels in the order of its counted targets.

    Raises:
        GradientError: If the logits of a document hold NaN or infinity.
    """
    largest_BT = logits_BTV.amax(dim=-1).masked_fill(batch.targets == -100, 0.0)
    refuse_not_finite(largest_BT, batch, "prediction")
    targets_BT, chunk_B = batch.targets.cpu(), batch.chunk.tolist()
    labels, counts = [], []
    for row, document_id in enumerate(document_ids):
        counted_K = (targets_BT[row] != -100).nonzero()[:, 0]
        counts.append(len(counted_K))
        uniform_K = generator(seed, document_id, chunk_B[row], draw).random(counts[-1])
        logits_KV = logits_BTV[row].index_select(0, counted_K.to(logits_BTV.device))
        labels.append(_invert(logits_KV, uniform_K))
    return [x.numpy() for x in torch.cat(labels).cpu().split(counts)]


def _invert(logits_KV: Tensor, uniform_K: np.ndarray) -> Tensor:
    # Where the cumulative distribution passes `uniform`: first the block of tokens, then inside it.
    # Terms are in the logits' dtype, sums in float64; a token without probability is never chosen.
    vocabulary = logits_KV.shape[1]
    weights_KV = (logits_KV - logits_KV.amax(dim=1, keepdim=True)).exp_()
    weights_KNB = nn.functional.pad(weights_KV, (0, -vocabulary % BLOCK)).unflatten(1, (-1, BLOCK))
    sums_KN = weights_KNB.sum(dim=2, dtype=torch.float64).cumsum(dim=1)
    draws_K1 = torch.from_numpy(uniform_K).to(sums_KN.device)[:, None] * sums_KN[:, -1:]
    block_K1, draws_K1 = _first_above(sums_KN, draws_K1)
    before_K1 = nn.functional.pad(sums_KN, (1, 0)).gather(1, block_K1)
    own_KB = weights_KNB.take_along_dim(block_K1[..., None], dim=1)[:, 0].double()
    inside_K1, _ = _first_above(own_KB.cumsum(dim=1), draws_K1 - before_K1)
    return (block_K1 * BLOCK + inside_K1)[:, 0].to(torch.int32)


def _first_above(sums_KN: Tensor, draws_K1: Tensor) -> tuple[Tensor, Tensor]:
    """The first running sum above each draw, and the draw, kept below the last sum by rounding."""
    below_K1 = torch.nextafter(sums_KN[:, -1:], torch.zeros_like(draws_K1))
    draws_K1 = torch.minimum(draws_K1, below_K1)
    return torch.searchsorted(sums_KN, draws_K1, right=True), draws_K1
