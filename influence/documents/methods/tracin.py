r"""TracIn: gradient dot products at the saved states, weighted by learning rates.

.. math:: s(m) = \sum_k \eta_k \, \nabla f(\theta_k)^\top \nabla L_m(\theta_k)

with :math:`\eta_k` the sum of the learning rates of the steps that state k stands for.
Sign: positive is a proponent.
Unit: nats, times the corpus' counted tokens W: under plain gradient descent on the mean loss of a
token, a document's steps lower the query's loss by ``s(m) / W``.
Known weaknesses: takes the optimiser as plain gradient descent; ignores that later steps undo
earlier ones; a few states stand for all steps.
Source: Pruthi et al. (2020), arXiv:2002.08484, section 3.2 (TracInCP).
"""

from __future__ import annotations

from collections.abc import Sequence

from influence.documents.methods.families import (
    GradientMethod,
    Gradients,
    Setting,
    State,
    paired,
)
from influence.documents.scores import Directions


def _directions(
    gradients: Sequence[Gradients], states: Sequence[State], _setting: Setting
) -> list[Directions]:
    return [
        {name: state.learning_rates * g_QOI for name, g_QOI in one.items()}
        for one, state in paired("tracin", gradients, states)
    ]


METHOD = GradientMethod(
    name="tracin",
    title="TracIn",
    about="Gradient dot products at the saved states of training, weighted by learning rates "
    "(Pruthi et al. 2020).",
    unit="nats of plain gradient descent, times the corpus' counted tokens",
    states="all",
    curvature="",
    moments=False,
    normalised=False,
    directions=_directions,
)
