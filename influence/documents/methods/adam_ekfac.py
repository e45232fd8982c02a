r"""EK-FAC influence whose damping follows how far Adam moves each layer.  Ours.

.. math:: I(m) = \nabla f^\top (F + c / p_l)^{-1} \nabla L_m

with :math:`p_l` the mean of :math:`1 / (\sqrt{v} + \epsilon)` over layer l.  Why: an optimiser that
moves layer l by ``p_l`` times the gradient for an effective time t answers to a document by
``(1 - exp(-t p_l Lambda)) / Lambda`` in each eigendirection (SOURCE), which is ``t p_l`` for small
and ``1 / Lambda`` for large eigenvalues.  ``1 / (Lambda + 1 / (t p_l))`` has the same two limits:
stopping early acts as a damping, and a layer that moved more has less of it.  The unknown ``c = 1/t``
is set such that the geometric mean over layers of the damping equals plain EK-FAC's, so the two
methods differ in how damping is spread over layers, and in nothing else.

Sign: positive is a proponent; removing m raises the query's loss by ``I(m) / N`` nats.
Known weaknesses: those of EK-FAC; one number for a layer's Adam; v at the final state stands for
all of training.
Source: ours, from SOURCE (Bae et al. 2024, arXiv:2405.12186, section 3) and the damping of Grosse et
al. (2023), arXiv:2308.03296.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from influence.documents.methods.adam import layer_scale
from influence.documents.methods.families import (
    GradientMethod,
    Gradients,
    Setting,
    State,
    needed,
    only,
)
from influence.documents.preconditioner import LayerCurvature, damping, precondition
from influence.documents.scores import UNIT, Directions


def factors(
    curvature: Mapping[str, LayerCurvature], factor: float, scales: Mapping[str, float]
) -> dict[str, float]:
    r"""The damping factor of each layer, such that its damping is :math:`c / p_l`.

    Args:
        curvature: Every layer's curvature.
        factor: Plain EK-FAC's damping factor.
        scales: :math:`p_l`, positive.

    Returns:
        Factors of the mean eigenvalue; the plain one for layers that no document moves.
    """
    plain = {name: damping(layer, factor) for name, layer in curvature.items()}
    alive = [name for name, value in plain.items() if value > 0]
    if not alive:
        return dict.fromkeys(curvature, factor)
    log_c = sum(math.log(plain[name] * scales[name]) for name in alive) / len(alive)
    return {
        name: factor * math.exp(log_c) / (scales[name] * plain[name]) if name in alive else factor
        for name in curvature
    }


def _directions(
    gradients: Sequence[Gradients], states: Sequence[State], setting: Setting
) -> list[Directions]:
    last, state = only("adam-ekfac", gradients, states)
    curvature = needed("adam-ekfac", "EK-FAC curvature", state.curvature, last)
    moments = needed("adam-ekfac", "second moments", state.second_moments, last)
    scales = {name: layer_scale(v_OI) for name, v_OI in moments.items()}
    own = factors(curvature, setting.damping, scales)
    return [{n: precondition(curvature[n], own[n], g_QOI) for n, g_QOI in last.items()}]


METHOD = GradientMethod(
    name="adam-ekfac",
    title="EK-FAC, Adam's damping",
    about="EK-FAC influence with less damping for the layers that Adam moves further; our own "
    "variant, derived from SOURCE (Bae et al. 2024).",
    unit=f"{UNIT}, times N",
    states="last",
    curvature="ekfac",
    moments=True,
    normalised=False,
    directions=_directions,
)
