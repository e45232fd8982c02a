r"""How much the target moves when a token's embedding does, in the worst direction.

.. math:: s_p = \lVert \nabla_{x_p} F(x) \rVert_2

One forward and one backward pass. Captum's `Saliency` takes as many but does not give F, which
every result states and which would cost one more forward; it is the oracle of the tests.
Sign: none; says how much, not in which direction. Units of several tokens: summed.
Source: Simonyan et al. (2014), arXiv:1312.6034, section 3; there the largest entry of a pixel's
gradient, here its norm, as Li et al. (2016), arXiv:1506.01066, do for words up to the norm.
"""

from __future__ import annotations

from influence.inputs.gradient.embedded import EmbeddedTarget
from influence.inputs.methods import TokenMethod, TokenScores


def attribute(embedded: EmbeddedTarget, seed: int = 0) -> TokenScores:
    """Length of the gradient at each token.

    Args:
        embedded: The target.
        seed: Not used; nothing is random.

    Returns:
        Scores, nats per unit of embedding.
    """
    values_B, gradient_BPD = embedded.value_and_gradient(embedded.prompt_PD[None])
    return TokenScores(
        scores_P=gradient_BPD[0].cpu().double().norm(dim=-1).numpy(), value=float(values_B[0])
    )


METHOD = TokenMethod(
    name="saliency",
    title="Saliency",
    about="Length (L2) of the gradient at the token's embedding: how much the output's "
    "log-probability can move with it (Simonyan et al. 2014).",
    unit="nats per unit of embedding",
    signed=False,
    source="Simonyan et al. (2014), arXiv:1312.6034",
    attribute=attribute,
)
