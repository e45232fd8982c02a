r"""Kronecker factors, eigenbases and EK-FAC eigenvalues of a causal LM, as sums that add up.

The Fisher of a layer is approximated by ``Q_S Q_A diag(Lambda) Q_S^T Q_A^T``.  The fit is two passes
over the documents, each a plain sum, so that partitions merge exactly:

1. ``A = sum_nt a a^T`` and ``S = sum_nt g g^T`` over the counted tokens -> eigenbases (float64);
2. ``Lambda = sum_n (Q_S^T G_n Q_A)^2``, squared after summing the tokens of a document.

The passes are in ``fit.py``, and by way of curvlinops in ``curvlinops_fit.py``.  Damping is ours,
layer by layer, in ``preconditioner.py``.

Axes: I layer inputs (bias included), O layer outputs.
Source: George et al. (2018), arXiv:1806.03884; Grosse et al. (2023), arXiv:2308.03296, eq. 18-20.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from influence.documents.preconditioner import LayerCurvature
from influence.errors import GradientError
from influence.layers import Layer


@dataclass(frozen=True, kw_only=True)
class KroneckerSums:
    """Sums over counted tokens, float64; the sums of two partitions add up."""

    inputs: Mapping[str, Tensor]
    """For each layer ``sum a a^T`` ``[I, I]``."""
    outputs: Mapping[str, Tensor]
    """For each layer ``sum g g^T`` ``[O, O]``, in squared nats."""
    tokens: int
    """Counted tokens W."""
    documents: int
    """Documents N (whole documents, not chunks)."""


@dataclass(frozen=True, kw_only=True)
class EigenvalueSums:
    """Sums over documents, float64; the sums of two partitions add up."""

    squares: Mapping[str, Tensor]
    """For each layer ``sum_n (Q_S^T G_n Q_A)^2`` ``[O, I]``."""
    documents: int
    """Documents N."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Eigenvectors (columns) and eigenvalues of both factors of one layer."""

    out_basis_OO: Tensor
    in_basis_II: Tensor
    out_values_O: Tensor
    """Eigenvalues of ``S = sum g g^T / W``."""
    in_values_I: Tensor
    """Eigenvalues of ``A = sum a a^T / W``."""


def refuse_half(model: nn.Module) -> None:
    """Stop when a model's weights are in half precision.

    Args:
        model: The model.

    Raises:
        GradientError: If they are.
    """
    dtype = next(model.parameters()).dtype
    if dtype not in (torch.float32, torch.float64):
        raise GradientError(
            f"Curvature: the model's weights are {dtype}, float32 or float64 was expected, since "
            "sums of squares overflow or lose digits in half precision. Load the model with "
            "dtype=torch.float32."
        )


def add_wide(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Add to a sum that is kept in float64, begun with the first value.

    It stays on the value's device, so that no layer waits for a copy, or, where that has no float64,
    on the CPU.

    Args:
        sums: Changed in place.
        name: Which sum.
        value: In any dtype, on any device.
    """
    device = "cpu" if value.device.type == "mps" else value.device
    if name not in sums:
        sums[name] = torch.zeros(value.shape, dtype=torch.float64, device=device)
    sums[name] += value.detach().to(device)


def merge_kronecker(left: KroneckerSums, right: KroneckerSums) -> KroneckerSums:
    """The sums of two disjoint sets of batches, added.

    Returns:
        New sums; the arguments are not changed.
    """
    return KroneckerSums(
        inputs={name: left.inputs[name] + right.inputs[name] for name in left.inputs},
        outputs={name: left.outputs[name] + right.outputs[name] for name in left.outputs},
        tokens=left.tokens + right.tokens,
        documents=left.documents + right.documents,
    )


def merge_eigenvalues(left: EigenvalueSums, right: EigenvalueSums) -> EigenvalueSums:
    """The sums of two disjoint sets of batches, added.

    Returns:
        New sums; the arguments are not changed.
    """
    return EigenvalueSums(
        squares={name: left.squares[name] + right.squares[name] for name in left.squares},
        documents=left.documents + right.documents,
    )


def eigenbasis(sums: KroneckerSums, name: str) -> Basis:
    """Eigenvectors of both factors of a layer, symmetrised and decomposed in float64.

    Args:
        sums: The merged sums of all documents.
        name: The layer.

    Returns:
        The basis; signs and rotations inside equal eigenvalues are arbitrary.

    Raises:
        GradientError: If a factor holds NaN or infinity.
    """
    decomposed = []
    for what, factor in (("A", sums.inputs[name]), ("S", sums.outputs[name])):
        if not bool(torch.isfinite(factor).all()):
            raise GradientError(
                f"Curvature: factor {what} of layer {name} holds NaN or infinity, finite numbers "
                "were expected. Check the model's weights and the documents with large losses."
            )
        mean = factor / max(sums.tokens, 1)
        decomposed.append(torch.linalg.eigh((mean + mean.T) / 2))
    (in_values, in_basis), (out_values, out_basis) = decomposed
    return Basis(
        out_basis_OO=out_basis,
        in_basis_II=in_basis,
        out_values_O=out_values.clamp_min(0.0),
        in_values_I=in_values.clamp_min(0.0),
    )


def narrowed(basis: Basis, dtype: torch.dtype) -> Basis:
    """A basis whose eigenvectors are in the dtype that they are multiplied in: half the memory.

    Returns:
        A new basis; its eigenvalues stay as they are.
    """
    return replace(
        basis,
        out_basis_OO=basis.out_basis_OO.to(dtype),
        in_basis_II=basis.in_basis_II.to(dtype),
    )


def standard_basis(layer: Layer) -> Basis:
    """The basis that turns EK-FAC into the diagonal Fisher.

    Returns:
        Identity matrices in float64.
    """
    out, inputs = layer.out_features, layer.in_features + int(layer.bias)
    return Basis(
        out_basis_OO=torch.eye(out, dtype=torch.float64),
        in_basis_II=torch.eye(inputs, dtype=torch.float64),
        out_values_O=torch.ones(out, dtype=torch.float64),
        in_values_I=torch.ones(inputs, dtype=torch.float64),
    )


def ekfac(basis: Basis, sums: EigenvalueSums, name: str) -> LayerCurvature:
    """EK-FAC of one layer: ``Lambda`` is the mean over documents.

    Returns:
        The layer's curvature, in the dtype of the basis.
    """
    return LayerCurvature(
        eigenvalues_OI=sums.squares[name] / sums.documents,
        out_basis_OO=basis.out_basis_OO,
        in_basis_II=basis.in_basis_II,
    )


def kfac(basis: Basis, tokens: int, documents: int) -> LayerCurvature:
    r"""K-FAC of one layer: ``(W / N) S (x) A``, tokens of a document taken as independent.

    Returns:
        The layer's curvature; its eigenvalues are those of the factors multiplied.
    """
    return LayerCurvature(
        eigenvalues_OI=torch.outer(basis.out_values_O, basis.in_values_I) * tokens / documents,
        out_basis_OO=basis.out_basis_OO,
        in_basis_II=basis.in_basis_II,
    )


def diagonal(sums: EigenvalueSums, name: str) -> LayerCurvature:
    """The diagonal Fisher of one layer (sums taken in the standard basis).

    Returns:
        The layer's curvature without a basis.
    """
    return LayerCurvature(
        eigenvalues_OI=sums.squares[name] / sums.documents, out_basis_OO=None, in_basis_II=None
    )


def identity() -> LayerCurvature:
    """No curvature: influence becomes the gradient dot product.

    Returns:
        A curvature whose damped inverse is the identity.
    """
    return LayerCurvature(eigenvalues_OI=None, out_basis_OO=None, in_basis_II=None)


def to(layer: LayerCurvature, like: Tensor) -> LayerCurvature:
    """A layer's curvature in the dtype and on the device of a tensor.

    Returns:
        A new curvature.
    """

    def moved(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(like)

    return LayerCurvature(
        eigenvalues_OI=moved(layer.eigenvalues_OI),
        out_basis_OO=moved(layer.out_basis_OO),
        in_basis_II=moved(layer.in_basis_II),
    )
