r"""Vectors of a store from a layer's tokens, with no gradient formed.

With a separable scale ``s t^T`` the stored gradient is a sum over tokens of outer products of mapped
vectors, ``sum_t (M_S^T g_t) (M_A^T a_t)^T`` with ``M_S = Q_S diag(s)`` and ``M_A = Q_A diag(t)``.  Both
sketches need it only through its products with few vectors, so tokens are multiplied by those and
never by a whole ``[O, O]`` or ``[I, I]`` matrix.  Source: LoGra (Choe et al. 2024,
arXiv:2405.13954) for projections; Halko et al. (2011), arXiv:0909.4061, algorithm 4.1, for factors.

Self-influence and the gradient's length are estimated: from the projection (``random``), or exactly
for what the factors' probes span and by further random signs for the rest (``factors``), as in
Hutch++ (Meyer et al. 2021, arXiv:2010.09649).  A layer's estimate under ``s t^T`` times
``sum Lambda / (Lambda + lambda) / sum Lambda (s t^T)^2`` is right on average over documents with
labels from the model.

Axes: B rows, T tokens, I layer inputs (bias included), O layer outputs, P and R sides of a projection,
W probes, E probes of lengths, K numbers of a layer in a vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from influence.documents.factors import flat, orthonormal, truncated
from influence.documents.gradients import gradient
from influence.documents.preconditioner import LayerCurvature, retained_variance, separable_root
from influence.documents.sketch import Sketch, probes, projection, signs

LENGTH_PROBES = 8
"""Random signs by which lengths are estimated, for each layer."""


@dataclass(frozen=True, kw_only=True)
class LayerRows:
    """One layer's part of some rows."""

    vectors_BK: Tensor
    self_influence_B: Tensor
    squared_norm_B: Tensor


@dataclass(frozen=True, kw_only=True)
class TokenMaps:
    """What a layer's tokens are multiplied by."""

    rank: int | None
    """Pairs of vectors; None: a projection."""
    out_OP: Tensor
    """``M_S`` whole, or times the projection of the outputs."""
    in_IR: Tensor
    """``M_A`` whole, or times the projection of the inputs."""
    lengths_IE: Tensor
    """Signs for the length of the plain gradient."""
    probes_IW: Tensor
    """``M_A`` times the signs that find the factors, and LENGTH_PROBES more."""
    whitened: float
    """Self-influence of a unit of squared length under the separable scale."""

    def like(self, tokens_BTI: Tensor) -> TokenMaps:
        """The maps where the tokens are and in their numbers; the identity's come in neither."""
        return replace(
            self,
            out_OP=self.out_OP.to(tokens_BTI),
            in_IR=self.in_IR.to(tokens_BTI),
            lengths_IE=self.lengths_IE.to(tokens_BTI),
            probes_IW=self.probes_IW.to(tokens_BTI),
        )


def token_maps(layer: LayerCurvature, factor: float, sketch: Sketch, name: str) -> TokenMaps | None:
    """Prepare a layer of a separable sketch.

    Args:
        layer: Its curvature.
        factor: Damping factor.
        sketch: The sketch.
        name: The layer.

    Returns:
        The maps; None where the sketch needs whole gradients.
    """
    if not sketch.separable or sketch.kind not in ("random", "factors"):
        return None
    outputs, inputs = sketch.shapes[name]
    out_OO, in_II = _mapped(layer, factor, (outputs, inputs))
    lengths_IE = signs(sketch.seed, name, "length", inputs, LENGTH_PROBES).to(in_II)
    whitened = _whitened_share(layer, factor)
    if sketch.kind == "random":
        left = projection(sketch.seed, name, "out", outputs, min(sketch.side, outputs))
        right = projection(sketch.seed, name, "in", inputs, min(sketch.side, inputs))
        return TokenMaps(
            rank=None,
            out_OP=out_OO @ left.to(out_OO),
            in_IR=in_II @ right.to(in_II),
            lengths_IE=lengths_IE,
            probes_IW=in_II[:, :0],
            whitened=whitened,
        )
    more_IE = signs(sketch.seed, name, "rest", inputs, LENGTH_PROBES)
    drawn_IW = torch.cat([probes(sketch, name).T, more_IE], dim=1).to(in_II)
    return TokenMaps(
        rank=sketch.ranks[name],
        out_OP=out_OO,
        in_IR=in_II,
        lengths_IE=lengths_IE,
        probes_IW=in_II @ drawn_IW,
        whitened=whitened,
    )


def _mapped(layer: LayerCurvature, factor: float, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    sides = separable_root(layer, factor) or (torch.ones(shape[0]), torch.ones(shape[1]))
    bases = (layer.out_basis_OO, layer.in_basis_II)
    out_OO, in_II = (
        torch.diag(side) if basis is None else basis * side
        for side, basis in zip(sides, bases, strict=True)
    )
    return out_OO, in_II


def _whitened_share(layer: LayerCurvature, factor: float) -> float:
    sides = separable_root(layer, factor)
    if sides is None or layer.eigenvalues_OI is None:
        return 1.0
    separable = float((layer.eigenvalues_OI * torch.outer(*sides).square()).double().sum())
    whitened = float(retained_variance(layer, factor).double().sum())
    return whitened / separable if separable > 0 else 0.0


def token_rows(maps: TokenMaps, inputs_BTI: Tensor, output_BTO: Tensor) -> LayerRows:
    """A layer's part of the vectors of some rows, each a whole document.

    Args:
        maps: Made by ``token_maps``.
        inputs_BTI: The layer's inputs.
        output_BTO: Gradients at its outputs.

    Returns:
        Vectors ``[B, K]``, estimated self-influence and squared gradient length ``[B]``.
    """
    maps = maps.like(inputs_BTI)
    squared_norm_B = _outward(inputs_BTI @ maps.lengths_IE, output_BTO).square().sum(dim=(1, 2))
    if maps.rank is None:
        vectors_BK = gradient(inputs_BTI @ maps.in_IR, output_BTO @ maps.out_OP).flatten(1)
        length_B = vectors_BK.square().sum(dim=1)
    else:
        seen_BWO = _outward(inputs_BTI @ maps.probes_IW, output_BTO) @ maps.out_OP
        seen_BWO, more_BEO = seen_BWO[:, :-LENGTH_PROBES], seen_BWO[:, -LENGTH_PROBES:]
        basis_BWO = orthonormal(seen_BWO)
        mixed_BTW = output_BTO @ (basis_BWO @ maps.out_OP.T).transpose(1, 2)
        across_BWI = _outward(mixed_BTW, inputs_BTI) @ maps.in_IR
        vectors_BK = flat(*truncated(basis_BWO, across_BWI, maps.rank))
        found_BEW = more_BEO @ basis_BWO.transpose(1, 2)
        rest_B = more_BEO.square().sum(dim=(1, 2)) - found_BEW.square().sum(dim=(1, 2))
        length_B = across_BWI.square().sum(dim=(1, 2)) + rest_B.clamp_min(0.0) / LENGTH_PROBES
    return LayerRows(
        vectors_BK=vectors_BK,
        self_influence_B=length_B * maps.whitened,
        squared_norm_B=squared_norm_B / LENGTH_PROBES,
    )


def _outward(weights_BTW: Tensor, tokens_BTO: Tensor) -> Tensor:
    return weights_BTW.transpose(1, 2) @ tokens_BTO
