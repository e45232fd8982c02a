r"""EK-FAC influence divided by the geometric mean of both self-influences: a cosine.

.. math:: s(m) = \frac{I(q, m)}{\sqrt{I(q, q) \, I(m, m)}}, \qquad
    I(a, b) = \nabla L_a^\top (F + \lambda)^{-1} \nabla L_b

Sign: positive is a proponent.
Known weaknesses: those of EK-FAC but its taste for large gradients; says nothing of the size of an
effect.
Source: the normalised view of MATHEMATICS section 1; of the family of RelatIF, Barshan et al.
(2020), arXiv:2003.11630, which divides by the document's norm alone.
"""

from __future__ import annotations

from dataclasses import replace

from influence.documents.methods import ekfac

METHOD = replace(
    ekfac.METHOD,
    name="ekfac-cosine",
    title="EK-FAC, normalised",
    about="EK-FAC influence as a cosine: divided by the root of both self-influences (compare "
    "RelatIF, Barshan et al. 2020).",
    unit="cosine, from -1 to 1",
    normalised=True,
)
