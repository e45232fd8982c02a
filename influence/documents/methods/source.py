r"""SOURCE: influence through the steps of training, one segment for each saved state.

Training is cut into segments whose curvature and gradients stand still.  In segment l, with the
effective time :math:`\tau_l` and an eigenvalue :math:`\Lambda` of its Fisher, a perturbation that is
already there shrinks by S, and a document adds r times its gradient:

.. math:: S_l = e^{-\tau_l \Lambda}, \qquad r_l = \frac{1 - e^{-\tau_l \Lambda}}{\Lambda}
    \quad (\tau_l \text{ where } \Lambda = 0)
.. math:: I(m) = \sum_l \nabla f(\theta_{end})^\top \Big[ \prod_{k>l} S_k \Big] r_l \nabla L_m(\theta_l)

where the factors of later segments stand further left.  Both matrices are symmetric, so a query's
direction at segment l is :math:`r_l S_{l+1} \cdots S_K \nabla f`, built from the last segment back.

Time: training descends the mean loss of a token, of which the Fisher is N / W times ours (a mean
over documents), by learning rates times Adam's scale, taken as one number a layer:
:math:`\tau_l = (\sum_t \eta_t) \; \mathrm{mean}(1 / (\sqrt{v} + \epsilon)) \; N / W`.  There is no
damping: short training is what keeps r finite.

Sign: positive is a proponent; removing m changes the query's loss by ``+ I(m) / N`` nats.
Limits: :math:`\tau \to 0` gives tau times the dot product, :math:`\tau \to \infty` the undamped inverse.
Known weaknesses: momentum, weight decay, gradient clipping (it lowers the true tau) and the
direction within a layer of Adam's scale are left out; needs states, each with a curvature.
Source: Bae et al. (2024), arXiv:2405.12186, section 3, and its appendix on preconditioned
optimisers, of which one number a layer is our simplification.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from influence.documents.methods.adam import layer_scale
from influence.documents.methods.families import (
    GradientMethod,
    Gradients,
    Setting,
    State,
    needed,
    paired,
)
from influence.documents.preconditioner import LayerCurvature
from influence.documents.scores import UNIT, Directions
from influence.errors import GradientError


def response(eigenvalues_OI: Tensor, tau: float) -> Tensor:
    r"""What a document adds in a segment, :math:`r = (1 - e^{-\tau\Lambda}) / \Lambda`.

    Args:
        eigenvalues_OI: Lambda, not negative.
        tau: Effective time of the segment, in the inverse unit of Lambda; infinity is allowed where
            all eigenvalues are positive.

    Returns:
        ``[O, I]``; tau itself where Lambda is 0, by ``expm1`` exact to the last digits near it.
    """
    flat_OI = eigenvalues_OI <= torch.finfo(eigenvalues_OI.dtype).tiny
    safe_OI = torch.where(flat_OI, torch.ones_like(eigenvalues_OI), eigenvalues_OI)
    return torch.where(
        flat_OI, torch.full_like(safe_OI, tau), -torch.expm1(-tau * safe_OI) / safe_OI
    )


def survival(eigenvalues_OI: Tensor, tau: float) -> Tensor:
    r"""What is left of a perturbation after a segment, :math:`S = e^{-\tau\Lambda}`.

    Args:
        eigenvalues_OI: Lambda, not negative.
        tau: Effective time of the segment.

    Returns:
        ``[O, I]``, between 0 and 1.
    """
    return torch.exp(-tau * eigenvalues_OI)


def effective_time(state: State, name: str, setting: Setting) -> float:
    """The effective time of a layer in a segment, ``learning_rates * p * N / W``.

    Args:
        state: The segment.
        name: The layer.
        setting: Holds N and W.

    Returns:
        tau, in squared parameter units per squared nat.
    """
    scale = layer_scale(state.second_moments[name])
    return state.learning_rates * scale * setting.documents / setting.tokens


def _rotated(layer: LayerCurvature, values_OI: Tensor, gradient_QOI: Tensor) -> Tensor:
    # A function of the Fisher applied to gradients: Q_S [(Q_S^T V Q_A) * values] Q_A^T.
    if layer.out_basis_OO is None or layer.in_basis_II is None:
        return gradient_QOI * values_OI
    inside_QOI = layer.out_basis_OO.T @ gradient_QOI @ layer.in_basis_II
    return layer.out_basis_OO @ (inside_QOI * values_OI) @ layer.in_basis_II.T


def _directions(
    gradients: Sequence[Gradients], states: Sequence[State], setting: Setting
) -> list[Directions]:
    pairs = paired("source", gradients, states)
    if setting.tokens <= 0:
        raise GradientError(
            f"Method source: {setting.tokens} counted tokens, a positive number was expected. Pass "
            "the corpus' counted tokens."
        )
    pulled = dict(pairs[-1][0])  # the final gradient of the query, pulled back through segments
    found: list[Directions] = []
    for _, state in reversed(pairs):
        curvature = needed("source", "EK-FAC curvature", state.curvature, pulled)
        needed("source", "second moments", state.second_moments, pulled)
        here: dict[str, Tensor] = {}
        for name, v_QOI in pulled.items():
            values_OI = curvature[name].eigenvalues_OI
            assert values_OI is not None  # "ekfac" always has eigenvalues
            tau = effective_time(state, name, setting)
            here[name] = _rotated(curvature[name], response(values_OI, tau), v_QOI)
            pulled[name] = _rotated(curvature[name], survival(values_OI, tau), v_QOI)
        found.append(here)
    return found[::-1]


METHOD = GradientMethod(
    name="source",
    title="SOURCE",
    about="Influence unrolled through training, in segments of still curvature, with Adam as one "
    "number a layer (Bae et al. 2024).",
    unit=f"{UNIT}, times N",
    states="all",
    curvature="ekfac",
    moments=True,
    normalised=False,
    directions=_directions,
)
