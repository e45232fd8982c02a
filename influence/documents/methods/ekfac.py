r"""EK-FAC influence: the damped inverse of the Fisher in its Kronecker eigenbasis.

.. math:: I(m) = \nabla f^\top (F + \lambda)^{-1} \nabla L_m, \qquad
    \lambda = \text{factor} \cdot \mathrm{mean}(\Lambda) \text{ for each layer}

Sign: positive is a proponent; removing m raises the query's loss by ``I(m) / N`` nats.
Known weaknesses: first order; takes training as converged; layers and their cross terms are
independent; the optimiser plays no part; raw scores favour documents with large gradients.
Source: Grosse et al. (2023), arXiv:2308.03296, section 2.2; George et al. (2018), arXiv:1806.03884.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from influence.documents.methods.families import (
    GradientMethod,
    Gradients,
    Setting,
    State,
    needed,
    only,
)
from influence.documents.scores import UNIT, Directions, directions


def preconditioned(
    method: str, curvature: str
) -> Callable[[Sequence[Gradients], Sequence[State], Setting], list[Directions]]:
    """The rule that every influence function of the final state follows: ``(F + lambda)^-1 grad f``.

    Args:
        method: The method's name, for messages.
        curvature: What its curvature is called, for messages.

    Returns:
        ``directions`` of a :class:`GradientMethod`.
    """

    def solve(
        gradients: Sequence[Gradients], states: Sequence[State], setting: Setting
    ) -> list[Directions]:
        last, state = only(method, gradients, states)
        fisher = needed(method, curvature, state.curvature, last)
        return [directions(fisher, setting.damping, last)]

    return solve


METHOD = GradientMethod(
    name="ekfac",
    title="EK-FAC",
    about="Influence functions with the eigenvalue-corrected Kronecker-factored Fisher of the "
    "final model (Grosse et al. 2023).",
    unit=f"{UNIT}, times N",
    states="last",
    curvature="ekfac",
    moments=False,
    normalised=False,
    directions=preconditioned("ekfac", "EK-FAC curvature"),
)
