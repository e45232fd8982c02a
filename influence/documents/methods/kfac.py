r"""K-FAC influence: as EK-FAC, with the eigenvalues of the two factors multiplied.

.. math:: I(m) = \nabla f^\top (\tfrac{W}{N} S \otimes A + \lambda)^{-1} \nabla L_m

Sign: positive is a proponent; removing m raises the query's loss by ``I(m) / N`` nats.
Known weaknesses: those of EK-FAC; inputs and output gradients are taken as independent, and the
tokens of a document too, so that its eigenvalues are wrong where EK-FAC's are measured.
Source: Martens & Grosse (2015), arXiv:1503.05671, as the curvature of Grosse et al. (2023),
arXiv:2308.03296, section 2.2.
"""

from __future__ import annotations

from dataclasses import replace

from influence.documents.methods import ekfac

METHOD = replace(
    ekfac.METHOD,
    name="kfac",
    title="K-FAC",
    about="Influence functions with the Kronecker-factored Fisher of the final model, its "
    "eigenvalues not corrected (Martens & Grosse 2015).",
    curvature="kfac",
    directions=ekfac.preconditioned("kfac", "K-FAC curvature"),
)
