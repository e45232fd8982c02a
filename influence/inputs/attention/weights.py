r"""How much the heads look at each token where the completion is predicted.

.. math:: s_p = \frac{1}{LHT} \sum_{l,h,t} A_{lh}[t, p]

t runs over the positions that predict the target's tokens. One forward pass, no gradient; of
several continuations, the first is read.
Sign: none. The shares of a prompt's tokens add up to at most 1; the rest goes to the completion's.
Known weakness: attention says where a head looks, not what that does to the output; much of it
rests on the first token for want of anything better. It is shown for what it is.
Source: Bahdanau et al. (2015), arXiv:1409.0473; against reading it as an explanation: Jain &
Wallace (2019), arXiv:1902.10186.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from influence.inputs.attention.layers import each_layer
from influence.inputs.gradient.embedded import EmbeddedTarget
from influence.inputs.methods import TokenMethod, TokenScores


def attention_shares(embedded: EmbeddedTarget) -> tuple[np.ndarray, float]:
    """Attention of every head to each token of the prompt, where the target is predicted.

    Args:
        embedded: The target.

    Returns:
        `[layers, H, P]`, float64: shares of a head's attention, averaged over the predicting
        positions; and the target's value in nats.
    """
    read_N = embedded.read_KN[0]
    prompt = len(embedded.prompt_PD)
    shares: list[Tensor] = []

    def visit(layer: int, weights_RHNN: Tensor) -> None:
        shares.append(torch.einsum("n,hnm->hm", read_N, weights_RHNN[0].double())[:, :prompt].cpu())

    with each_layer(embedded.loaded, visit):
        value = float(embedded.values(embedded.prompt_PD[None])[0])
    return torch.stack(shares).numpy(), value


def attribute(embedded: EmbeddedTarget, seed: int = 0) -> TokenScores:
    """Mean attention over heads and layers.

    Args:
        embedded: The target.
        seed: Not used; nothing is random.

    Returns:
        Scores: shares of attention.
    """
    shares_LHP, value = attention_shares(embedded)
    return TokenScores(scores_P=shares_LHP.mean((0, 1)), value=value)


METHOD = TokenMethod(
    name="attention",
    title="Attention weights",
    about="Share of attention on the token where the output is predicted, averaged over heads and "
    "layers; it says where the model looks, not what made the output.",
    unit="share of attention, from 0 to 1",
    signed=False,
    source="Bahdanau et al. (2015), arXiv:1409.0473",
    attribute=attribute,
)
