r"""Attention followed through all layers, half of it staying where it is.

.. math:: R_l = \tfrac12 (\bar A_l + I) R_{l-1}, \quad R_0 = I, \quad s_p = \tfrac1T \sum_t R_L[t, p]

A is the mean over heads, rows scaled to 1 (some models leave part of a row to a sink); t runs over
the positions that predict the target's tokens. One forward pass, no gradient; of several
continuations, the first is read. Memory: one layer's weights and two N x N matrices.
Sign: none. Shares add up to at most 1; the rest goes to the completion's tokens.
Known weakness: in a causal model much flows to the first tokens, since all rows can reach them.
Source: Abnar & Zuidema (2020), arXiv:2005.00928, eq. 1 and section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from influence.inputs.attention.layers import each_layer
from influence.inputs.gradient.embedded import EmbeddedTarget
from influence.inputs.methods import TokenMethod, TokenScores


def attribute(embedded: EmbeddedTarget, seed: int = 0) -> TokenScores:
    """Attention rollout from the predicting positions to the prompt.

    Args:
        embedded: The target.
        seed: Not used; nothing is random.

    Returns:
        Scores: shares of attention.
    """
    read_N = embedded.read_KN[0]
    flow_NN = torch.eye(len(read_N), dtype=torch.float64, device=read_N.device)

    def visit(layer: int, weights_RHNN: Tensor) -> None:
        nonlocal flow_NN
        mean_NN = weights_RHNN[0].double().mean(0)
        flow_NN = (flow_NN + mean_NN / mean_NN.sum(-1, keepdim=True) @ flow_NN) / 2

    with each_layer(embedded.loaded, visit):
        value = float(embedded.values(embedded.prompt_PD[None])[0])
    scores_N = read_N @ flow_NN
    return TokenScores(scores_P=scores_N[: len(embedded.prompt_PD)].cpu().numpy(), value=value)


METHOD = TokenMethod(
    name="rollout",
    title="Attention rollout",
    about="Attention followed through all layers, half of it staying in place: where the "
    "positions that predict the output take their content from (Abnar & Zuidema 2020).",
    unit="share of attention, from 0 to 1",
    signed=False,
    source="Abnar & Zuidema (2020), arXiv:2005.00928, eq. 1",
    attribute=attribute,
)
