r"""The cosine of EK-FAC influence, averaged over the saved states of training.

.. math:: s(m) = \frac{1}{K} \sum_k \frac{I_k(q, m)}{\sqrt{I_k(q, q) \, I_k(m, m)}}

with :math:`I_k` the EK-FAC influence at state k, by its own gradients and curvature.  A mean of
influences is led by states and documents with large gradients; here each state has one voice.
Sign: positive is a proponent.
Known weaknesses: costs K times EK-FAC and more for the documents' own lengths; says nothing of the
size of an effect.
Source: ours, of ``ekfac-averaged`` and ``ekfac-cosine``.
"""

from __future__ import annotations

from dataclasses import replace

from influence.documents.methods import averaged

METHOD = replace(
    averaged.METHOD,
    name="ekfac-averaged-cosine",
    title="EK-FAC, mean cosine over states",
    about="The mean over the saved states of training of EK-FAC influence as a cosine.",
    unit="cosine, from -1 to 1",
    normalised=True,
)
