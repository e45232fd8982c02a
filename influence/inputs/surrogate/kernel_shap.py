r"""KernelSHAP: the additive surrogate whose weights make its coefficients Shapley values.

.. math:: \min_\phi \sum_S w_{|S|} \Big(v(S) - v(\emptyset) - \sum_{i \in S} \phi_i\Big)^2
    \quad\text{with}\quad \sum_i \phi_i = v(N) - v(\emptyset)

The kernel gives all masks of size :math:`s` together the weight :math:`1/(s(U-s))`; here it is spread
evenly over the masks of that size that were seen.  So with every mask the result is exact, and rows
of another design may be added.  Masks come in complement pairs.  Predictions of held-out masks have
their own constant (the mean of what the scores leave over) instead of :math:`v(\emptyset)`: a bend
of the game that is the same for all units is no fault of the scores.

Sign: positive: supports the output.  The scores add up to v(N) - v(none).
Known weaknesses: needs two rows a unit; removes units in large groups, where a prompt may be far
from anything that the model was trained on.
Source: Lundberg & Lee (2017), arXiv:1705.07874, theorem 2; pairs: Covert & Lee (2021),
arXiv:2012.01536, section 4.2.

Axes: M masks, U units.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from influence.inputs import designs
from influence.inputs.methods import MaskMethod
from influence.inputs.surrogate.fitting import Fit, Surrogate, explain_by


def design(units: int, rows: int, seed: int) -> np.ndarray:
    """Paired masks of the Shapley kernel; at least 2 U, or all there are.

    Args:
        units: U.
        rows: Most masks.
        seed: Of the draws.

    Returns:
        `[M, U]` bool.
    """
    designs.require_rows("kernel-shap", units, rows, min(2 * units, 2**units))
    return designs.kernel_shap_pairs(units, rows, seed)


def fit(kept_MU: np.ndarray, values_M: np.ndarray) -> Surrogate:
    """Weighted least squares with the sum of the scores given.

    With too few masks to tell units apart, the scores nearest to equal shares.

    Args:
        kept_MU: bool: masks, of which one keeps all and one keeps none.
        values_M: In nats.

    Returns:
        The surrogate.
    """
    units = kept_MU.shape[1]
    size_M = kept_MU.sum(axis=1)
    full, empty = values_M[size_M == units][0], values_M[size_M == 0][0]
    share = (full - empty) / units
    inner_M = (size_M > 0) & (size_M < units)
    inner_IU, size_I = kept_MU[inner_M].astype(float), size_M[inner_M]
    weight_I = 1 / (size_I * (units - size_I) * np.bincount(size_I)[size_I])
    centred_IU = inner_IU - size_I[:, None] / units  # no part along "all units alike"
    rest_I = values_M[inner_M] - empty - share * size_I
    root_I = np.sqrt(weight_I)
    scores_U = (
        share + np.linalg.lstsq(centred_IU * root_I[:, None], rest_I * root_I, rcond=1e-10)[0]
    )
    left_I = values_M[inner_M] - inner_IU @ scores_U
    constant = weight_I @ left_I / weight_I.sum() if len(left_I) else empty
    return Surrogate(scores_U=scores_U, predict=lambda kept_NU: constant + kept_NU @ scores_U)


def _choose(kept_MU: np.ndarray, values_M: np.ndarray, seed: int) -> Fit:
    return fit


METHOD = MaskMethod(
    name="kernel-shap",
    title="KernelSHAP",
    about="Shapley value of each unit, from a weighted regression on random masks.",
    source="Lundberg & Lee (2017), arXiv:1705.07874",
    design=design,
    solve=partial(explain_by, _choose),
)
