r"""EK-FAC influence, averaged over the saved states of training.

.. math:: s(m) = \frac{1}{K} \sum_k
    \nabla f(\theta_k)^\top (F_k + \lambda_k)^{-1} \nabla L_m(\theta_k)

Each state has its own gradients, curvature and damping; all states weigh the same.
Sign: positive is a proponent.
Known weaknesses: costs K times EK-FAC; early states tell of a model that is not the final one, and
one unlike the others dominates the mean if its scores are large.
Source: ours, a mean in the manner of TracIn (arXiv:2002.08484); SOURCE is the principled form.
"""

from __future__ import annotations

from collections.abc import Sequence

from influence.documents.methods.families import (
    GradientMethod,
    Gradients,
    Setting,
    State,
    needed,
    paired,
)
from influence.documents.scores import UNIT, Directions, directions


def _directions(
    gradients: Sequence[Gradients], states: Sequence[State], setting: Setting
) -> list[Directions]:
    found: list[Directions] = []
    for one, state in paired("ekfac-averaged", gradients, states):
        curvature = needed("ekfac-averaged", "EK-FAC curvature", state.curvature, one)
        solved = directions(curvature, setting.damping, one)
        found.append({name: v_QOI / len(states) for name, v_QOI in solved.items()})
    return found


METHOD = GradientMethod(
    name="ekfac-averaged",
    title="EK-FAC, mean over states",
    about="The mean of EK-FAC influence over the saved states of training, each with its own "
    "curvature.",
    unit=f"{UNIT}, times N",
    states="all",
    curvature="ekfac",
    moments=False,
    normalised=False,
    directions=_directions,
)
