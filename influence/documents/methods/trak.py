r"""TRAK: a linear model in the projected gradients of the margin.

A text's probability is that of its mean token, :math:`p = e^{-L/T}` (L its summed loss, T its counted
tokens), and its margin :math:`f = \log \frac{p}{1-p}`.  With :math:`\phi = P^\top \nabla f` in random
projection, of documents as rows of :math:`\Phi`,

.. math:: s(q, m) = \phi_q^\top \Big(\frac{\Phi^\top \Phi}{N} + \rho\Big)^{-1} \phi_m \, (1 - p_m),
    \qquad \rho = 0.1 \; \mathrm{mean} \; \mathrm{diag} \frac{\Phi^\top \Phi}{N}

Sign: positive is a proponent: training on m raises the query's margin.
Unit: log-odds of the query's mean token by which removing m lowers its margin, times N.
Known weaknesses: few numbers a layer; a margin of the mean token is a poor model output for long
texts; one model in place of the paper's ensemble costs most of its accuracy.
Source: Park et al. (2023), arXiv:2303.14186, section 3.  Departures: two-sided random signs a layer
(``sketch``) in place of one dense projection; a ridge; over states the caller takes the mean of the
scores, where the paper multiplies the means of its two parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from influence.batches import IGNORED
from influence.documents.gradients import backward, gradient, refuse_not_finite
from influence.documents.methods.families import FeatureMethod, Features
from influence.documents.sketch import compress, join, random_projection
from influence.errors import GradientError
from influence.layers import Layer
from influence.text import Batch

SIDE = 16
RIDGE = 0.1


def features(model: nn.Module, layers: Sequence[Layer], batch: Batch, seed: int) -> Features:
    r"""The projected gradients of the margins of a batch.

    By the chain rule :math:`\nabla f = -\nabla L / (T (1 - p))`, so one backward pass of the summed
    loss gives all rows.

    Args:
        model: A causal LM in eval mode with frozen parameters.
        layers: Tracked layers.
        batch: One chunk a text.
        seed: Of the projection; the same for queries and documents.

    Returns:
        Vectors ``[B, K]``, K up to 256 a layer; weights ``1 - p``.
    """
    shapes = {x.name: (x.out_features, x.in_features + int(x.bias)) for x in layers}
    sketch = random_projection(shapes, SIDE, seed)
    parts: dict[str, Tensor] = {}

    def consume(name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        parts[name] = compress(sketch, name, gradient(inputs_BTI, output_BTO))

    forward = backward(model, layers, batch, consume)
    counted_B = (batch.targets != IGNORED).sum(dim=1).clamp_min(1)
    # 1 - p; a text that is all but certain has a finite gradient too, but of lost digits
    doubt_B = (-torch.expm1(-forward.loss_B / counted_B)).clamp_min(
        torch.finfo(forward.loss_B.dtype).eps
    )
    vectors_BK = -join(sketch, parts) / (counted_B * doubt_B)[:, None]
    refuse_not_finite(vectors_BK, batch, "margin's gradient")
    return Features(vectors_BK=vectors_BK, weights_B=doubt_B)


def scores(queries: Features, documents: Features) -> Tensor:
    """TRAK's closed form, in float64.

    The system is solved on its smaller side, K or N; both give the same numbers.

    Args:
        queries: Features of the queries.
        documents: Features of all documents.

    Returns:
        ``[Q, N]``, in log-odds times N.

    Raises:
        GradientError: If queries and documents were projected differently.
    """
    query_QK, phi_NK = queries.vectors_BK.double(), documents.vectors_BK.double()
    n_documents, width = phi_NK.shape
    if query_QK.shape[1] != width:
        raise GradientError(
            f"Method trak: queries of {query_QK.shape[1]} numbers and documents of {width}, equal "
            "widths were expected. Compute both with the same layers."
        )
    ridge = RIDGE * float(phi_NK.square().mean())
    if ridge == 0.0:
        return query_QK.new_zeros(len(query_QK), n_documents)
    narrow = width <= n_documents
    gram = (phi_NK.T @ phi_NK if narrow else phi_NK @ phi_NK.T) / n_documents
    gram.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(gram)
    if narrow:
        solved_QN = torch.cholesky_solve(query_QK.T, factor).T @ phi_NK.T
    else:
        solved_QN = torch.cholesky_solve(phi_NK @ query_QK.T, factor).T
    return solved_QN * documents.weights_B.double()


METHOD = FeatureMethod(
    name="trak",
    title="TRAK",
    about="A linear model in randomly projected gradients of each text's margin "
    "(Park et al. 2023), 16 x 16 numbers a layer.",
    unit="log-odds of the mean token per document removed, times N",
    states="all",
    features=features,
    scores=scores,
)
