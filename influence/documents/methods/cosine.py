r"""The cosine of two gradients.

.. math:: s(m) = \frac{\nabla f^\top \nabla L_m}{\lVert\nabla f\rVert \lVert\nabla L_m\rVert}

Sign: positive is a proponent: a small plain gradient step on m lowers the query's loss.
Known weaknesses: says nothing of the size of an effect, so sums over documents mean little; a
document with a tiny gradient counts as much as any other.
Source: Hanawa et al. (2021), arXiv:2006.04528 (there "GC").
"""

from __future__ import annotations

from dataclasses import replace

from influence.documents.methods import identity

METHOD = replace(
    identity.METHOD,
    name="cosine",
    title="Gradient cosine",
    about="Cosine of the query's and the document's gradients at the final model "
    "(Hanawa et al. 2021).",
    unit="cosine, from -1 to 1",
    normalised=True,
)
