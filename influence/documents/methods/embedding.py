r"""Cosine of the texts' mean hidden states, as the output head sees them.

.. math:: s(m) = \cos(\bar h_q, \bar h_m), \qquad \bar h = \frac{1}{T} \sum_t h_t

over all real tokens of a text, prompt included.
Sign: positive is taken as a proponent: texts that the model represents alike.
Known weaknesses: similarity, not effect: blind to what a document says of the completion, never truly
an opponent; hidden states share a large common part, so cosines crowd near 1.
Source: the representation similarity of Hanawa et al. (2021), arXiv:2006.04528, and of Li et al.
(2024), arXiv:2409.19998.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from influence.documents.gradients import logits_of, per_row, refuse_not_finite
from influence.documents.methods.families import FeatureMethod, Features
from influence.layers import Layer, head_name
from influence.text import Batch


@torch.no_grad()
def features(model: nn.Module, _layers: Sequence[Layer], batch: Batch, _seed: int) -> Features:
    """Mean of the last hidden states over the real tokens of each row.

    Args:
        model: A causal LM in eval mode.
        _layers: Not needed.
        batch: One chunk a text.
        _seed: Not needed.

    Returns:
        Vectors ``[B, D]``; weights of 1.
    """
    seen: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0].detach())

    head = head_name(model)
    handle = model.get_submodule(head).register_forward_pre_hook(keep)
    try:
        logits_of(model, batch)
    finally:
        handle.remove()
    hidden_BTD = per_row(seen[0], len(batch.input_ids), head)
    real_BT1 = (batch.attention_mask > 0)[..., None]
    total_BD = torch.where(real_BT1, hidden_BTD, torch.zeros_like(hidden_BTD)).sum(dim=1)
    vectors_BD = total_BD / real_BT1.sum(dim=1).clamp_min(1)
    refuse_not_finite(vectors_BD, batch, "hidden state")
    return Features(vectors_BK=vectors_BD, weights_B=vectors_BD.new_ones(len(vectors_BD)))


def scores(queries: Features, documents: Features) -> Tensor:
    """Cosines of all pairs, in float64.

    Args:
        queries: Features of the queries.
        documents: Features of the documents.

    Returns:
        ``[Q, N]``, from -1 to 1; 0 for a vector of zeros.
    """
    query_QK, document_NK = (
        nn.functional.normalize(x.vectors_BK.double(), dim=1, eps=1e-300)
        for x in (queries, documents)
    )
    return query_QK @ document_NK.T


METHOD = FeatureMethod(
    name="embedding",
    title="Hidden-state similarity",
    about="Cosine of the texts' mean last hidden states in the model itself (representation "
    "similarity, Hanawa et al. 2021).",
    unit="cosine, from -1 to 1",
    states="last",
    features=features,
    scores=scores,
)
