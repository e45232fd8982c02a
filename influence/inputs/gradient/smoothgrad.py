r"""Saliency of the gradient averaged over noisy copies of the prompt.

.. math:: s_p = \lVert \bar g_p \rVert_2, \quad \bar g = \tfrac1n \sum_i \nabla F(x + e_i)

Noise is normal, with 0.15 of the standard deviation that each coordinate has in the vocabulary:
about a tenth of the distance between two random tokens. It comes in pairs e, -e, which cost
nothing and cancel what is odd in it, and leaves fixed tokens alone. Each pair is one draw of
:math:`g_p \cdot \bar g_p / \lVert \bar g_p \rVert`, whose mean is the score and whose scatter
gives the standard error (to first order; noise also lifts the norm where it is nearly 0).

n rows forward and backward, and one forward for F. Captum's `NoiseTunnel` takes as many, but a
second run for a standard error; it draws from torch's global state and disturbs fixed tokens. It
is the oracle of the tests.
Sign: none. Units of several tokens: summed.
Source: Smilkov et al. (2017), arXiv:1706.03825, section 3.
"""

from __future__ import annotations

import torch

from influence.inputs.gradient.embedded import EmbeddedTarget, paired_normal
from influence.inputs.methods import TokenMethod, TokenScores
from influence.inputs.removal import embedding_moments

PAIRS = 16
NOISE = 0.15
"""Standard deviation of the noise, as a share of the vocabulary's."""


def attribute(
    embedded: EmbeddedTarget, seed: int = 0, *, pairs: int = PAIRS, noise: float = NOISE
) -> TokenScores:
    """Length of the mean gradient around each token; holds all `2 pairs` gradients in memory.

    Args:
        embedded: The target.
        seed: Of the noise; batches do not change it.
        pairs: Draws, of two rows each; at least 2.
        noise: As a share of the vocabulary's standard deviation.

    Returns:
        Scores, nats per unit of embedding, with their draws; `value` is that of the prompt itself.
    """
    prompt_PD = embedded.prompt_PD
    _, spread_D = embedding_moments(embedded.loaded)
    width_PD = embedded.width(noise * spread_D)
    gradients = []
    for part in embedded.parts(2 * pairs):
        noise_BPD = width_PD * paired_normal(seed, part, prompt_PD)
        gradients.append(embedded.value_and_gradient(prompt_PD + noise_BPD)[1].cpu())
    pairs_SPD = torch.cat(gradients).unflatten(0, (pairs, 2)).double().mean(1)
    mean_PD = pairs_SPD.mean(0)
    scores_P = mean_PD.norm(dim=-1)
    along_SP = (pairs_SPD * mean_PD).sum(-1) / scores_P.clamp_min(torch.finfo(torch.float64).tiny)
    return TokenScores(
        scores_P=scores_P.numpy(),
        value=float(embedded.values(prompt_PD[None])[0]),
        samples_SP=along_SP.numpy(),
    )


METHOD = TokenMethod(
    name="smoothgrad",
    title="SmoothGrad",
    about="Length (L2) of the gradient at the token's embedding, averaged over small random "
    "changes of the prompt (Smilkov et al. 2017).",
    unit="nats per unit of embedding",
    signed=False,
    source="Smilkov et al. (2017), arXiv:1706.03825",
    attribute=attribute,
)
