r"""The damped inverse of a curvature, and its square root, applied to gradients.

With eigenbases ``Q_S`` (outputs) and ``Q_A`` (inputs) and eigenvalues ``Lambda``,

.. math:: P(V) = Q_S [ (Q_S^T V Q_A) / (\Lambda + \lambda) ] Q_A^T,
    \qquad \lambda = 0.1 \, \mathrm{mean}(\Lambda) \text{ for each layer afresh.}

A *whitened* gradient is ``(Q_S^T G Q_A) / sqrt(Lambda + lambda)``: the influence of one gradient on
another is the plain inner product of their whitened rows, so nothing is ever rotated back.

Axes: B rows, T tokens, I layer inputs (bias included), O layer outputs.
Source: Grosse et al. (2023), arXiv:2308.03296, section 2.2 and eq. 20; George et al. (2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from influence.documents.gradients import gradient


@dataclass(frozen=True, kw_only=True)
class LayerCurvature:
    """The curvature of one layer in its eigenbasis; eigenvalues are means over documents."""

    eigenvalues_OI: Tensor | None
    """Lambda, in squared nats per squared parameter unit; None: the identity (no curvature)."""
    out_basis_OO: Tensor | None
    """Eigenvectors of S in columns; None: the standard basis."""
    in_basis_II: Tensor | None
    """Eigenvectors of A in columns; None: the standard basis."""


def damping(layer: LayerCurvature, factor: float) -> float:
    """The layer's own damping, ``factor * mean(Lambda)``; computed afresh, never stored.

    Args:
        layer: A layer's curvature; it is not changed.
        factor: Usually 0.1.

    Returns:
        Lambda's damping in the units of Lambda; 1.0 for the identity.
    """
    if layer.eigenvalues_OI is None:
        return 1.0
    return factor * float(layer.eigenvalues_OI.mean())


def inverse_root(layer: LayerCurvature, factor: float) -> Tensor | None:
    """``(Lambda + lambda)^(-1/2)``, the whitening scale of each coordinate.

    A layer that no document moves (all eigenvalues 0) gets 0: it can carry no influence.

    Returns:
        Scales ``[O, I]``, or None for the identity.
    """
    if layer.eigenvalues_OI is None:
        return None
    damped_OI = layer.eigenvalues_OI + damping(layer, factor)
    if not bool((damped_OI > 0).any()):
        return torch.zeros_like(damped_OI)
    return damped_OI.clamp_min(torch.finfo(damped_OI.dtype).tiny).rsqrt()


def separable_root(layer: LayerCurvature, factor: float) -> tuple[Tensor, Tensor] | None:
    """The outer product ``s t^T`` nearest to ``(Lambda + lambda)^(-1/2)``, in logarithms.

    Returns:
        ``s [O]`` and ``t [I]``; None for the identity.  A layer that no document moves gets 0.
    """
    scale_OI = inverse_root(layer, factor)
    if scale_OI is None:
        return None
    if not bool((scale_OI > 0).any()):
        return scale_OI[:, 0], scale_OI[0]
    log_OI = scale_OI.log()
    return (log_OI.mean(dim=1) - log_OI.mean() / 2).exp(), (
        log_OI.mean(dim=0) - log_OI.mean() / 2
    ).exp()


def document_scale(layer: LayerCurvature, factor: float, separable: bool) -> Tensor | None:
    """The scale of each coordinate of a stored document.

    Args:
        layer: A layer's curvature.
        factor: Damping factor.
        separable: Scale by ``separable_root`` rather than by ``inverse_root``.

    Returns:
        ``[O, I]``, or None for the identity.
    """
    if not separable:
        return inverse_root(layer, factor)
    sides = separable_root(layer, factor)
    return None if sides is None else torch.outer(*sides)


def query_scale(layer: LayerCurvature, factor: float, separable: bool) -> Tensor | None:
    """The scale of a query's coordinates: times the document's it is ``(Lambda + lambda)^(-1)``.

    Returns:
        ``[O, I]``, or None for the identity.
    """
    root_OI = inverse_root(layer, factor)
    if root_OI is None or not separable:
        return root_OI
    own_OI = document_scale(layer, factor, separable)
    assert own_OI is not None
    return torch.where(own_OI > 0, root_OI.square() / own_OI, 0.0)


def rotate(layer: LayerCurvature, inputs_BTI: Tensor, output_BTO: Tensor) -> Tensor:
    """The gradient of each row in the eigenbasis, ``Q_S^T (sum_t g_t a_t^T) Q_A``.

    Whichever order of products is cheaper is taken: rotate the tokens first when they are few,
    else form the gradient first; the result is the same up to rounding.

    Returns:
        Rotated gradients ``[B, O, I]``.
    """
    if layer.out_basis_OO is None or layer.in_basis_II is None:
        return gradient(inputs_BTI, output_BTO)
    tokens, inputs, outputs = inputs_BTI.shape[1], inputs_BTI.shape[2], output_BTO.shape[2]
    if tokens * (inputs**2 + outputs**2) <= inputs * outputs * (inputs + outputs):
        return gradient(inputs_BTI @ layer.in_basis_II, output_BTO @ layer.out_basis_OO)
    return layer.out_basis_OO.T @ gradient(inputs_BTI, output_BTO) @ layer.in_basis_II


def precondition(layer: LayerCurvature, factor: float, gradient_BOI: Tensor) -> Tensor:
    """The damped inverse applied to gradients, ``P(V)``, back in the parameters' own axes.

    Meant for queries, once each: a document's exact score is then ``sum_t g_t^T P(V) a_t``
    without any rotation of the document.

    Returns:
        ``[B, O, I]``.
    """
    rotated_BOI = gradient_BOI
    if layer.out_basis_OO is not None and layer.in_basis_II is not None:
        rotated_BOI = layer.out_basis_OO.T @ gradient_BOI @ layer.in_basis_II
    scale_OI = inverse_root(layer, factor)
    return rotated_back(layer, rotated_BOI if scale_OI is None else rotated_BOI * scale_OI**2)


def rotated_back(layer: LayerCurvature, rotated_BOI: Tensor) -> Tensor:
    """From the eigenbasis to the parameters' own axes, ``Q_S V Q_A^T``.

    Returns:
        ``[B, O, I]``.
    """
    if layer.out_basis_OO is None or layer.in_basis_II is None:
        return rotated_BOI
    return layer.out_basis_OO @ rotated_BOI @ layer.in_basis_II.T


def effective_dimension(layer: LayerCurvature, factor: float) -> float:
    """How many coordinates of a layer are worth keeping, ``sum Lambda / (Lambda + lambda)``.

    Returns:
        A number between 0 and the layer's number of parameters.
    """
    if layer.eigenvalues_OI is None:
        return float("nan")
    return float(retained_variance(layer, factor).sum())


def retained_variance(layer: LayerCurvature, factor: float) -> Tensor:
    """Variance of each whitened coordinate over documents, ``Lambda / (Lambda + lambda)``.

    Returns:
        ``[O, I]``, each between 0 and 1.
    """
    assert layer.eigenvalues_OI is not None
    scale_OI = inverse_root(layer, factor)
    assert scale_OI is not None
    return layer.eigenvalues_OI * scale_OI**2
