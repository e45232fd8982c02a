r"""The target's slope at each token, times the token: what a zero embedding would take away.

.. math:: s_p = x_p \cdot \nabla_{x_p} F(x)

One forward and one backward pass, as Captum's `InputXGradient`, which does not give F (see
`saliency`); it is the oracle of the tests.
Sign: positive supports the output, to first order.
Known weakness: a token's embedding is far from zero, where the slope says little; on models with
RMSNorm or LayerNorm straight after the embeddings the scores nearly cancel, and hits are near
chance. It is shown for what it is; prefer integrated gradients or occlusion.
Source: Shrikumar et al. (2016), arXiv:1605.01713.
"""

from __future__ import annotations

from influence.inputs.gradient.embedded import EmbeddedTarget
from influence.inputs.methods import TokenMethod, TokenScores


def attribute(embedded: EmbeddedTarget, seed: int = 0) -> TokenScores:
    """Dot product of each token's embedding and gradient.

    Args:
        embedded: The target.
        seed: Not used; nothing is random.

    Returns:
        Scores, nats to first order.
    """
    values_B, gradient_BPD = embedded.value_and_gradient(embedded.prompt_PD[None])
    product_PD = embedded.prompt_PD.double() * gradient_BPD[0].double()
    return TokenScores(scores_P=product_PD.sum(-1).cpu().numpy(), value=float(values_B[0]))


METHOD = TokenMethod(
    name="input-x-gradient",
    title="Input x gradient",
    about="The token's embedding times the gradient there: a first-order guess of what the output "
    "loses without it, often a poor one (Shrikumar et al. 2016).",
    unit="nats, to first order",
    source="Shrikumar et al. (2016), arXiv:1605.01713",
    attribute=attribute,
)
