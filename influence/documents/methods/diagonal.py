r"""Influence with the diagonal Fisher: every parameter on its own.

.. math:: I(m) = \sum_i \frac{\partial_i f \; \partial_i L_m}{F_{ii} + \lambda}

Sign: positive is a proponent; removing m raises the query's loss by ``I(m) / N`` nats.
Known weaknesses: parameters of a layer are strongly correlated, which a diagonal can't see.
Source: Koh & Liang (2017), arXiv:1703.04730, eq. 2 (sign negated), with the Hessian replaced by the
diagonal of the Fisher; damping as for EK-FAC.
"""

from __future__ import annotations

from collections.abc import Sequence

from influence.documents.methods.families import (
    GradientMethod,
    Gradients,
    Setting,
    State,
    needed,
    only,
)
from influence.documents.scores import UNIT, Directions, directions


def _directions(
    gradients: Sequence[Gradients], states: Sequence[State], setting: Setting
) -> list[Directions]:
    last, state = only("diagonal", gradients, states)
    curvature = needed("diagonal", "diagonal curvature", state.curvature, last)
    return [directions(curvature, setting.damping, last)]


METHOD = GradientMethod(
    name="diagonal",
    title="Diagonal Fisher",
    about="Influence functions with the diagonal of the final model's Fisher (Koh & Liang 2017, "
    "with a diagonal in place of the Hessian).",
    unit=f"{UNIT}, times N",
    states="last",
    curvature="diagonal",
    moments=False,
    normalised=False,
    directions=_directions,
)
