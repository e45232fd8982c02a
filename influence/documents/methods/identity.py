r"""The gradient dot product: influence with the identity in place of the curvature.

.. math:: s(m) = \nabla f^\top \nabla L_m

Sign: positive is a proponent: a small plain gradient step on m lowers the query's loss.
Unit: nats by which such a step lowers the query's loss, per unit of its step size.
Known weaknesses: dominated by the few directions in which all gradients are large, and by documents
with large gradients; depends on how the model is parametrised.
Source: Charpiat et al. (2019), arXiv:2102.05262; TracIn (arXiv:2002.08484) with one state.
"""

from __future__ import annotations

from collections.abc import Sequence

from influence.documents.methods.families import (
    GradientMethod,
    Gradients,
    Setting,
    State,
    only,
)
from influence.documents.scores import Directions

UNIT = "nats per unit of step size"


def directions(
    gradients: Sequence[Gradients], states: Sequence[State], _setting: Setting
) -> list[Directions]:
    """The queries' gradients as they are.

    Args:
        gradients: Of the queries, at the final state alone.
        states: The final state.
        _setting: Not needed.

    Returns:
        The gradients.
    """
    last, _ = only("identity", gradients, states)
    return [dict(last)]


METHOD = GradientMethod(
    name="identity",
    title="Gradient dot product",
    about="Inner product of the query's and the document's gradients at the final model "
    "(Charpiat et al. 2019).",
    unit=UNIT,
    states="last",
    curvature="",
    moments=False,
    normalised=False,
    directions=directions,
)
