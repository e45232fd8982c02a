r"""Influence with the diagonal Fisher: every parameter on its own.

.. math:: I(m) = \sum_i \frac{\partial_i f \; \partial_i L_m}{F_{ii} + \lambda}

Sign: positive is a proponent; removing m raises the query's loss by ``I(m) / N`` nats.
Known weaknesses: parameters of a layer are strongly correlated, which a diagonal can't see.
Source: Koh & Liang (2017), arXiv:1703.04730, eq. 2 (sign negated), with the Hessian replaced by the
diagonal of the Fisher; damping as for EK-FAC.
"""

from __future__ import annotations

from dataclasses import replace

from influence.documents.methods import ekfac

METHOD = replace(
    ekfac.METHOD,
    name="diagonal",
    title="Diagonal Fisher",
    about="Influence functions with the diagonal of the final model's Fisher (Koh & Liang 2017, "
    "with a diagonal in place of the Hessian).",
    curvature="diagonal",
    directions=ekfac.preconditioned("diagonal", "diagonal curvature"),
)
