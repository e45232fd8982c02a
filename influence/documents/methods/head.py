r"""EK-FAC influence through the output head alone.

.. math:: I(m) = \nabla_h f^\top (F_h + \lambda)^{-1} \nabla_h L_m, \qquad h: \text{the head}

Sign: positive is a proponent; removing m raises the query's loss by ``I(m) / N`` nats through h.
Known weaknesses: what documents teach the lower layers is left out; it leans on shared tokens, as
the head's gradient is the prediction error of each token times the hidden state there.
Source: as EK-FAC; the last layer alone is common since Yeh et al. (2018), arXiv:1811.09720.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import zeros_like

from influence.documents.methods.families import (
    GradientMethod,
    Gradients,
    Setting,
    State,
    needed,
    only,
)
from influence.documents.scores import UNIT, Directions, directions
from influence.errors import GradientError


def _directions(
    gradients: Sequence[Gradients], states: Sequence[State], setting: Setting
) -> list[Directions]:
    # Zero for all other layers, so that callers need not know which layers take part.
    last, state = only("ekfac-head", gradients, states)
    if setting.head not in last:
        raise GradientError(
            f"Method ekfac-head: the output head is {setting.head or 'not tracked'!r}, one of the "
            f"tracked layers ({', '.join(list(last)[-3:])}) was expected. Track the head "
            "(`layers: all`), or leave this method out."
        )
    alone = {setting.head: last[setting.head]}
    curvature = needed("ekfac-head", "EK-FAC curvature", state.curvature, alone)
    solved = directions(curvature, setting.damping, alone)
    return [{name: solved.get(name, zeros_like(g_QOI)) for name, g_QOI in last.items()}]


METHOD = GradientMethod(
    name="ekfac-head",
    title="EK-FAC, head only",
    about="EK-FAC influence that counts the gradient of the output head alone.",
    unit=f"{UNIT}, times N",
    states="last",
    curvature="ekfac",
    moments=False,
    normalised=False,
    directions=_directions,
)
