r"""What is computed of each layer's gradients for the store, prepared once for all batches.

A vector needs the whitened gradient ``(Q_S^T G Q_A) / sqrt(Lambda + lambda)``.  Where self-influence
may be estimated, less is computed.  A separable sketch (random, factors) is taken from the tokens
directly, in ``tokenwise``.  Of kept coordinates (top-eigen) only the eigenvectors that they touch are
multiplied by.  Self-influence then is their part, exactly, and for the rest an estimate from the
length of the gradient outside them:

.. math:: I(m, m) \approx \sum_{kept} \frac{G'^2}{\Lambda + \lambda} +
    \Big(\lVert G \rVert^2 - \sum_{kept} G'^2\Big)
    \frac{\sum_{rest} \Lambda / (\Lambda + \lambda)}{\sum_{rest} \Lambda}

whose mean over documents with labels from the model is right.  The squared length itself is exact,
from Gram matrices of the tokens where that is less work than the gradient.

Axes: B rows, T tokens, I layer inputs (bias included), O layer outputs, P and R the used directions of
outputs and inputs, K kept coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from influence.documents.gradients import gradient, squared_norms
from influence.documents.preconditioner import (
    LayerCurvature,
    document_scale,
    inverse_root,
    retained_variance,
    rotate,
)
from influence.documents.sketch import Sketch, compress
from influence.documents.tokenwise import LayerRows, TokenMaps, token_maps, token_rows


@dataclass(frozen=True, kw_only=True)
class KeptCoordinates:
    """The coordinates of one layer that are stored, and the directions that they need."""

    out_basis_OP: Tensor
    in_basis_IR: Tensor
    flat_K: Tensor
    """Where the coordinates lie in ``[P, R]``, flat."""
    scale_K: Tensor
    rest: float
    """Self-influence of a unit of squared gradient length outside of the kept coordinates."""


@dataclass(frozen=True, kw_only=True)
class LayerWhitening:
    """One layer of a store."""

    curvature: LayerCurvature
    root_OI: Tensor | None
    """``(Lambda + lambda)^(-1/2)``; None for the identity."""
    scale_OI: Tensor | None
    """What a document's coordinates are scaled by: the same, unless the sketch is separable."""
    kept: KeptCoordinates | None = None
    """Compute these coordinates only."""
    maps: TokenMaps | None = None
    """Compute the vectors token by token."""

    def self_influence(self, rotated_BOI: Tensor) -> Tensor:
        """Self-influence ``[B]`` of rotated gradients, in nats times N."""
        whitened_BOI = rotated_BOI if self.root_OI is None else rotated_BOI * self.root_OI
        return whitened_BOI.square().sum(dim=(1, 2))

    def scaled(self, rotated_BOI: Tensor) -> Tensor:
        """Rotated gradients as the store's sketch takes them ``[B, O, I]``."""
        return rotated_BOI if self.scale_OI is None else rotated_BOI * self.scale_OI


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """A whole store."""

    sketch: Sketch
    layers: Mapping[str, LayerWhitening]


def prepare(
    curvature: Mapping[str, LayerCurvature], factor: float, sketch: Sketch, exact: bool = True
) -> Whitening:
    """Everything about a store's vectors that does not depend on the documents.

    Args:
        curvature: Every layer's curvature, on the model's device.
        factor: Damping factor.
        sketch: What to keep.
        exact: Compute every coordinate, kept or not, for the sake of self-influence.

    Returns:
        What ``whitened_rows`` takes.
    """
    layers = {
        name: LayerWhitening(
            curvature=curvature[name],
            root_OI=inverse_root(curvature[name], factor),
            scale_OI=document_scale(curvature[name], factor, sketch.separable),
            kept=None if exact else _kept(curvature[name], factor, sketch, name),
            maps=None if exact else token_maps(curvature[name], factor, sketch, name),
        )
        for name in sketch.shapes
    }
    return Whitening(sketch=sketch, layers=layers)


def _kept(
    layer: LayerCurvature, factor: float, sketch: Sketch, name: str
) -> KeptCoordinates | None:
    if sketch.kind != "top-eigen" or layer.out_basis_OO is None or layer.in_basis_II is None:
        return None
    assert layer.eigenvalues_OI is not None
    outputs, inputs = sketch.shapes[name]
    flat_K = sketch.coordinates[name].to(layer.eigenvalues_OI.device)
    used_P, row_K = torch.unique(flat_K // inputs, return_inverse=True)
    used_R, column_K = torch.unique(flat_K % inputs, return_inverse=True)
    if len(used_P) + len(used_R) > 0.9 * (outputs + inputs):
        return None
    scale_OI = inverse_root(layer, factor)
    assert scale_OI is not None
    outside_OI = torch.ones_like(layer.eigenvalues_OI, dtype=torch.bool)
    outside_OI.view(-1)[flat_K] = False
    variance = float(layer.eigenvalues_OI[outside_OI].double().sum())
    whitened = float(retained_variance(layer, factor)[outside_OI].double().sum())
    return KeptCoordinates(
        out_basis_OP=layer.out_basis_OO[:, used_P].contiguous(),
        in_basis_IR=layer.in_basis_II[:, used_R].contiguous(),
        flat_K=row_K * len(used_R) + column_K,
        scale_K=scale_OI.flatten()[flat_K],
        rest=whitened / variance if variance > 0 else 0.0,
    )


def layer_rows(
    whitening: Whitening, name: str, inputs_BTI: Tensor, output_BTO: Tensor
) -> LayerRows:
    """One layer's part of the vectors of some rows, each a whole document.

    Args:
        whitening: Made by ``prepare``.
        name: The layer.
        inputs_BTI: Its inputs.
        output_BTO: Gradients at its outputs.

    Returns:
        Vectors ``[B, K]``, self-influence and squared gradient length ``[B]``.
    """
    layer = whitening.layers[name]
    if layer.maps is not None:
        return token_rows(layer.maps, inputs_BTI, output_BTO)
    if layer.kept is None:
        rotated_BOI = rotate(layer.curvature, inputs_BTI, output_BTO)
        squared_norm_B = rotated_BOI.square().sum(dim=(1, 2))
        own_B = layer.self_influence(rotated_BOI) if whitening.sketch.separable else None
        scaled_BOI = rotated_BOI if layer.scale_OI is None else rotated_BOI.mul_(layer.scale_OI)
        return LayerRows(
            vectors_BK=compress(whitening.sketch, name, scaled_BOI),
            self_influence_B=scaled_BOI.square().sum(dim=(1, 2)) if own_B is None else own_B,
            squared_norm_B=squared_norm_B,
        )
    kept = layer.kept
    small_BPR = gradient(inputs_BTI @ kept.in_basis_IR, output_BTO @ kept.out_basis_OP)
    plain_BK = small_BPR.flatten(1).index_select(1, kept.flat_K)
    squared_norm_B = squared_norms(inputs_BTI, output_BTO)
    outside_B = (squared_norm_B - plain_BK.square().sum(dim=1)).clamp_min(0.0)
    vectors_BK = plain_BK * kept.scale_K
    return LayerRows(
        vectors_BK=vectors_BK,
        self_influence_B=vectors_BK.square().sum(dim=1) + outside_B * kept.rest,
        squared_norm_B=squared_norm_B,
    )
