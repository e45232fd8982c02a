r"""A sparse linear surrogate: few units get a score, the others 0.

.. math:: \min_{\beta_0, \phi} \frac{1}{2M} \sum_S \big(v(S) - \beta_0 - \sum_{i \in S} \phi_i\big)^2
    + \lambda \sum_i |\phi_i|

The strength is chosen by cross-validation over pairs of masks (scikit-learn's `LassoCV`); masks are
complement pairs, where ContextCite draws single masks and fixes the strength.  The value is the
log-probability itself, where ContextCite takes the logit of the probability.

Sign: positive: supports the output.
Known weaknesses: scores are pulled towards 0, in a balanced design by up to 4 lambda (a note says
how many nats); of two units that say the same, one may get all.
Source: Cohen-Wang et al. (2024), arXiv:2409.00729, section 3.

Axes: M masks, U units.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from influence.inputs import designs
from influence.inputs.extras import needed
from influence.inputs.games import pairs_of
from influence.inputs.methods import MaskMethod
from influence.inputs.surrogate.fitting import FEWEST, Fit, Surrogate, explain_by, splits

WEAKEST = 1e-4
"""Least strength that is tried, as a share of the one that makes all scores 0."""
STEPS = 60
"""Strengths that are tried, evenly spaced in their logarithm."""


def design(units: int, rows: int, seed: int) -> np.ndarray:
    """Random masks in pairs; at least 12, or all there are.

    Args:
        units: U.
        rows: Most masks.
        seed: Of the draws.

    Returns:
        `[M, U]` bool.
    """
    designs.require_rows("sparse", units, rows, min(FEWEST, 2**units))
    return designs.paired_random(units, rows, seed)


def fit(kept_MU: np.ndarray, values_M: np.ndarray, *, strength: float) -> Surrogate:
    """Lasso with a free constant.

    Args:
        kept_MU: bool: masks.
        values_M: In nats.
        strength: Lambda, in nats.

    Returns:
        The surrogate.
    """
    linear = needed("sklearn.linear_model")
    model = linear.Lasso(alpha=strength, tol=1e-6, max_iter=100_000)
    model.fit(kept_MU.astype(float), values_M)
    return Surrogate(
        scores_U=model.coef_,
        predict=lambda kept_NU: model.predict(kept_NU.astype(float)),
        pull=4 * strength,
        notes=(
            f"The lasso's strength, chosen by cross-validation, pulls scores towards 0 by up to "
            f"{4 * strength:.2g} nats; the intervals allow for that.",
        ),
    )


def _choose(kept_MU: np.ndarray, values_M: np.ndarray, seed: int) -> Fit:
    linear = needed("sklearn.linear_model")
    kept = kept_MU.astype(float)
    centred_MU = kept - kept.mean(axis=0)
    strongest = np.abs(centred_MU.T @ (values_M - values_M.mean())).max() / len(values_M)
    strengths = strongest * np.logspace(0, np.log10(WEAKEST), STEPS)
    folds = splits(pairs_of(kept_MU), seed)
    if not folds:  # nothing to choose by
        return partial(fit, strength=strengths[-1])
    chosen = linear.LassoCV(alphas=strengths, cv=folds, tol=1e-6, max_iter=100_000)
    chosen.fit(kept, values_M)
    return partial(fit, strength=float(chosen.alpha_))


METHOD = MaskMethod(
    name="sparse",
    title="Sparse surrogate",
    about="Coefficient of the unit in a sparse linear fit to random masks (as in ContextCite).",
    source="Cohen-Wang et al. (2024), arXiv:2409.00729",
    design=design,
    solve=partial(explain_by, _choose),
)
