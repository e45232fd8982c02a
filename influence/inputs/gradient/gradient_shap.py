r"""Integrated gradients from random baselines: one random step on the way from each.

.. math:: s_p = E_{b, a} [(x_p - b_p) \cdot \nabla_{x_p} F(b + a (x - b))], \quad a \sim U(0, 1)

Baselines are normal with the mean and the standard deviation that each coordinate has in the
vocabulary, and keep fixed tokens. They come in pairs, mirrored at the mean, with one a: a pair is
one draw, and the scatter of the draws gives the standard error. In expectation, scores add up to
F(x) - E F(b).

n rows forward and backward, and one forward for F. Captum's `GradientShap` takes as many, but a
second run for a standard error; it draws from torch's and numpy's global states, and takes its
baselines from a given few. It is the oracle of the tests.
Sign: positive supports the output.
Source: Lundberg & Lee (2017), arXiv:1705.07874; Erion et al. (2021), arXiv:1906.10670, eq. 3
("expected gradients"), with a normal background instead of training examples.
"""

from __future__ import annotations

import numpy as np
import torch

from influence.inputs.gradient.embedded import EmbeddedTarget, paired_normal
from influence.inputs.methods import TokenMethod, TokenScores
from influence.inputs.removal import embedding_moments

PAIRS = 32


def attribute(embedded: EmbeddedTarget, seed: int = 0, *, pairs: int = PAIRS) -> TokenScores:
    """Expected gradients over baselines around the vocabulary's mean embedding.

    Args:
        embedded: The target.
        seed: Of baselines and steps; batches do not change them.
        pairs: Draws, of two rows each; at least 2.

    Returns:
        Scores in nats, with their draws.
    """
    prompt_PD = embedded.prompt_PD
    mean_D, spread_D = embedding_moments(embedded.loaded)
    width_PD = embedded.width(spread_D)
    centre_PD = embedded.baseline(mean_D)
    steps_S = np.random.default_rng([seed, pairs]).random(pairs).repeat(2)
    draws = []
    for part in embedded.parts(2 * pairs):
        way_BPD = prompt_PD - (centre_PD + width_PD * paired_normal(seed, part, prompt_PD))
        left_B = 1 - torch.from_numpy(steps_S[part]).to(prompt_PD)
        points_BPD = prompt_PD - left_B[:, None, None] * way_BPD
        _, gradient_BPD = embedded.value_and_gradient(points_BPD)
        draws.append((way_BPD.double() * gradient_BPD.double()).sum(-1).cpu())
    samples_SP = torch.cat(draws).unflatten(0, (pairs, 2)).mean(1)
    return TokenScores(
        scores_P=samples_SP.mean(0).numpy(),
        value=float(embedded.values(prompt_PD[None])[0]),
        samples_SP=samples_SP.numpy(),
    )


METHOD = TokenMethod(
    name="gradient-shap",
    title="GradientSHAP",
    about="Gradient times the way from a random baseline around the vocabulary's mean embedding, "
    "averaged over baselines and steps (Lundberg & Lee 2017; Erion et al. 2021).",
    source="Erion et al. (2021), arXiv:1906.10670, eq. 3",
    attribute=attribute,
)
