r"""Attention that the target depends on, followed through all layers.

.. math:: R_l = R_{l-1} + \bar A_l R_{l-1}, \quad
    \bar A_l = \tfrac1H \sum_h \max(0, \nabla_{A_{lh}} F \odot A_{lh}), \quad R_0 = I

Read at the positions that predict the target's tokens, averaged, without their own identity.
Heads are query heads, also where groups of them share keys and values. The gradient is of the
whole target at once, so a sequence costs one forward and one backward pass; rows of several
continuations are added. Followed backwards as :math:`v_{l-1} = v_l + v_l \bar A_l`, which
needs a vector where the product of the layers needs a matrix.
Sign: none: what speaks against the output is cut off at 0.
Source: Chefer et al. (2021), arXiv:2103.15679, eqs. 5 and 6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from influence.inputs.attention.layers import attention_gradients
from influence.inputs.gradient.embedded import EmbeddedTarget
from influence.inputs.methods import TokenMethod, TokenScores


def attribute(embedded: EmbeddedTarget, seed: int = 0) -> TokenScores:
    """Relevance of each token by gradient-weighted attention.

    Args:
        embedded: The target.
        seed: Not used; nothing is random.

    Returns:
        Scores: relevance, in no unit.
    """
    read_RN = flow_RN = embedded.read_KN

    def visit(layer: int, weights_RHNN: Tensor, gradient_RHNN: Tensor) -> None:
        nonlocal flow_RN
        mean_RNN = (weights_RHNN * gradient_RHNN).clamp_min(0).mean(1).double()
        flow_RN = flow_RN + torch.einsum("rn,rnm->rm", flow_RN, mean_RNN)

    value = attention_gradients(embedded, visit)
    scores_N = (flow_RN - read_RN).sum(0)
    return TokenScores(scores_P=scores_N[: len(embedded.prompt_PD)].cpu().numpy(), value=value)


METHOD = TokenMethod(
    name="attention-x-gradient",
    title="Attention x gradient",
    about="Attention weighted by what the output gains from it, followed through all layers "
    "(Chefer et al. 2021).",
    unit="relevance, in no unit",
    signed=False,
    source="Chefer et al. (2021), arXiv:2103.15679, eqs. 5 and 6",
    attribute=attribute,
)
