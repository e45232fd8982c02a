r"""LIME: a linear surrogate, fitted best near the whole prompt.

.. math:: \min_{\beta_0, \phi} \frac{\sum_S \pi_S \big(v(S) - \beta_0 - \sum_{i \in S} \phi_i\big)^2}
    {\sum_S \pi_S} + \lambda \lVert\phi\rVert^2,
    \qquad \pi_S = \exp\frac{-(1 - \sqrt{|S|/U})^2}{2 \cdot 0.25^2}

where :math:`1 - \sqrt{|S|/U}` is the cosine distance of the mask from the one that keeps all (1 for
the mask that keeps none).  The ridge :math:`\lambda` is the one of `STRENGTHS` that predicts held-out
pairs best, rather than a fixed 1; masks are complement pairs, rather than single draws.

Sign: positive: supports the output.  The scores don't add up to v(N) - v(none) exactly.
Known weaknesses: what "near" means (the kernel's width, 0.25) is a convention that changes scores;
with fewer than about six rows a unit the intervals are too narrow, since they don't see the ridge.
Source: Ribeiro, Singh & Guestrin (2016), arXiv:1602.04938, eq. 2 and section 3.4.

Axes: M masks, U units, L strengths.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from influence.inputs import designs
from influence.inputs.games import pairs_of
from influence.inputs.methods import MaskMethod
from influence.inputs.surrogate.fitting import FEWEST, Fit, Surrogate, explain_by, splits

WIDTH = 0.25
"""Of the kernel, in cosine distance."""
STRENGTHS = (1e-14, *(10.0**k for k in range(-6, 2)))
"""Ridges to choose from, in units of a unit's variance over the masks (at most 1/4)."""


def design(units: int, rows: int, seed: int) -> np.ndarray:
    """Random masks in pairs; at least 12, or all there are.

    Args:
        units: U.
        rows: Most masks.
        seed: Of the draws.

    Returns:
        `[M, U]` bool.
    """
    designs.require_rows("lime", units, rows, min(FEWEST, 2**units))
    return designs.paired_random(units, rows, seed)


def kernel(kept_MU: np.ndarray) -> np.ndarray:
    """How near each mask is to the one that keeps all.

    Args:
        kept_MU: bool: masks.

    Returns:
        `[M]`, from 0 to 1.
    """
    return np.exp(-((1 - np.sqrt(kept_MU.mean(axis=1))) ** 2) / (2 * WIDTH**2))


def fit(kept_MU: np.ndarray, values_M: np.ndarray, *, strength: float) -> Surrogate:
    """Weighted ridge regression with a free constant.

    Args:
        kept_MU: bool: masks.
        values_M: In nats.
        strength: Ridge.

    Returns:
        The surrogate.
    """
    weight_M = kernel(kept_MU)
    weight_M /= weight_M.sum()
    mean_U, mean = weight_M @ kept_MU, weight_M @ values_M
    centred_MU = kept_MU - mean_U
    gram_UU = (centred_MU * weight_M[:, None]).T @ centred_MU
    right_U = (centred_MU * weight_M[:, None]).T @ (values_M - mean)
    scores_U = np.linalg.solve(gram_UU + strength * np.eye(len(gram_UU)), right_U)
    return Surrogate(
        scores_U=scores_U, predict=lambda kept_NU: mean + (kept_NU - mean_U) @ scores_U
    )


def _choose(kept_MU: np.ndarray, values_M: np.ndarray, seed: int) -> Fit:
    # Errors count by the kernel, as in the fit; with nothing to test on, the weakest ridge.
    error_L = np.zeros(len(STRENGTHS))
    for seen, tested in splits(pairs_of(kept_MU), seed):
        for number, strength in enumerate(STRENGTHS):
            found = fit(kept_MU[seen], values_M[seen], strength=strength)
            error_M = found.predict(kept_MU[tested]) - values_M[tested]
            error_L[number] += kernel(kept_MU[tested]) @ error_M**2
    return partial(fit, strength=STRENGTHS[int(error_L.argmin())])


METHOD = MaskMethod(
    name="lime",
    title="LIME",
    about="Coefficient of the unit in a linear fit to random masks, those near the whole prompt first.",
    source="Ribeiro, Singh & Guestrin (2016), arXiv:1602.04938",
    design=design,
    solve=partial(explain_by, _choose),
)
