r"""Influence scores: exact, by layer and by token; contrasts; self-influence; units and sign.

.. math:: I(m) = \nabla f^\top (F + \lambda)^{-1} \nabla L_m

where ``f`` is the query's summed loss over its completion.  POSITIVE: training on document m lowers
the query's loss; m is a proponent and supports the completion.  NEGATIVE: an opponent.  To first
order, removing m changes the query's loss by ``+ I(m) / N`` nats; that quotient is what is printed,
"nats per document removed".

Axes: B rows, T tokens, Q queries, L layers, O layer outputs, I layer inputs (bias included).
Source: Koh & Liang (2017), arXiv:1703.04730, eq. 2, sign negated; Grosse et al. (2023), section 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from influence.documents.gradients import (
    Forward,
    backward,
    gradient,
    refuse_not_finite,
)
from influence.documents.preconditioner import (
    LayerCurvature,
    inverse_root,
    precondition,
    query_scale,
    rotate,
    rotated_back,
)
from influence.documents.sketch import Sketch, compress, compress_query, join
from influence.documents.tokenwise import LayerRows
from influence.documents.whitening import Whitening, layer_rows
from influence.layers import Layer
from influence.text import Batch

GRADIENT_NUMBERS = 1 << 21
"""Full gradients of a batch are formed in slices of about this many numbers (8 MiB)."""

UNIT = "nats per document removed"
SIGN = (
    "positive: a proponent, removing it raises the completion's loss (it supports the output); "
    "negative: an opponent"
)
Directions = Mapping[str, Tensor]
"""For each layer, preconditioned query gradients ``[Q, O, I]``."""


def contrast(loss_a: Mapping[str, Tensor], loss_b: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of "why A rather than B", ``f = loss(A) - loss(B)``.

    Args:
        loss_a: Gradients of A's loss, ``[Q, O, I]`` a layer.
        loss_b: Gradients of B's loss.

    Returns:
        Their difference; a positive score supports A against B.
    """
    return {name: loss_a[name] - loss_b[name] for name in loss_a}


def directions(
    curvature: Mapping[str, LayerCurvature], factor: float, gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Precondition query gradients, once each.

    Args:
        curvature: Every layer's curvature.
        factor: Damping factor.
        gradients: Query gradients ``[Q, O, I]`` a layer.

    Returns:
        ``(F + lambda)^{-1} grad f`` for each layer, ``[Q, O, I]``.
    """
    return {n: precondition(curvature[n], factor, g_QOI) for n, g_QOI in gradients.items()}


@dataclass(frozen=True)
class Solved:
    """Queries, differentiated and preconditioned."""

    directions: dict[str, Tensor]
    """``(F + lambda)^{-1} grad f`` for each layer, ``[Q, O, I]``."""
    self_influence_Q: Tensor
    """``I(q, q)``, in nats times N, never negative."""
    vectors_QP: Tensor | None
    """The queries as vectors of the store (``whitened_queries``); None without a sketch."""
    forward: Forward
    """Losses of the rows ``[B]``."""


def solve_queries(
    model: nn.Module,
    layers: Sequence[Layer],
    batch: Batch,
    curvature: Mapping[str, LayerCurvature],
    factor: float,
    *,
    sketch: Sketch | None = None,
    contrast: bool = False,
) -> Solved:
    """Differentiate and precondition queries layer by layer; only one layer's gradients are held.

    Args:
        model: The causal LM.
        layers: Tracked layers.
        batch: A row a query; with ``contrast`` a query's row, then its contrast's, and so on.
        curvature: Every layer's curvature.
        factor: Damping factor.
        sketch: The store's sketch; None: no vectors.
        contrast: The measurement is a row's loss less that of the next row.

    Returns:
        Directions, self-influence and vectors of the queries.

    Raises:
        GradientError: If a loss is not finite.
    """
    solved: dict[str, Tensor] = {}
    vectors: dict[str, Tensor] = {}
    own: list[Tensor] = []

    def consume(name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        layer = curvature[name]
        rotated_QOI = rotate(layer, inputs_BTI, output_BTO)
        if contrast:
            rotated_QOI = rotated_QOI[0::2] - rotated_QOI[1::2]
        root_OI = inverse_root(layer, factor)
        whitened_QOI = rotated_QOI if root_OI is None else rotated_QOI * root_OI
        own.append(whitened_QOI.square().sum(dim=(1, 2)))
        if sketch is not None:
            scale_OI = query_scale(layer, factor, sketch.separable)
            scaled_QOI = rotated_QOI if scale_OI is None else rotated_QOI * scale_OI
            vectors[name] = compress_query(sketch, name, scaled_QOI)
        solved[name] = rotated_back(
            layer, whitened_QOI if root_OI is None else whitened_QOI * root_OI
        )

    forward = backward(model, layers, batch, consume)
    return Solved(
        directions={layer.name: solved[layer.name] for layer in layers},
        self_influence_Q=torch.stack(own).sum(dim=0),
        vectors_QP=None if sketch is None else join(sketch, vectors),
        forward=forward,
    )


def joined_directions(parts: Iterable[Directions], queries: int) -> dict[str, Tensor]:
    """Directions of many queries, copied into place as they come: one part is held beside them all.

    Args:
        parts: Directions of some queries each, in order.
        queries: How many they are together.

    Returns:
        For each layer ``[Q, O, I]``.
    """
    joined: dict[str, Tensor] = {}
    start = 0
    for part in parts:
        for name, some_QOI in part.items():
            if name not in joined:
                joined[name] = some_QOI.new_empty(queries, *some_QOI.shape[1:])
            joined[name][start : start + len(some_QOI)] = some_QOI
        start += len(next(iter(part.values())))
    return joined


@dataclass(frozen=True)
class ExactScores:
    """Scores of the rows of one batch, not yet divided by N."""

    layers_QLB: Tensor
    """By query and layer; their sum over L is the score."""
    forward: Forward

    @property
    def scores_QB(self) -> Tensor:
        """The scores ``[Q, B]``."""
        return self.layers_QLB.sum(dim=1)


def exact_scores(
    model: nn.Module, layers: Sequence[Layer], batch: Batch, queries: Directions
) -> ExactScores:
    """Score the rows of a batch for every query from full gradients.

    Args:
        model: The causal LM.
        layers: Tracked layers.
        batch: Rows (chunks of documents); a document's score is the sum over its chunks.
        queries: Preconditioned query gradients.

    Returns:
        Scores by layer, in nats times N.
    """
    parts: dict[str, Tensor] = {}

    def consume(name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        parts[name] = _products(queries[name], inputs_BTI, output_BTO)

    forward = backward(model, layers, batch, consume)
    layers_QLB = torch.stack([parts[layer.name] for layer in layers], dim=1)
    refuse_not_finite(layers_QLB.permute(2, 0, 1), batch, "influence")
    return ExactScores(layers_QLB=layers_QLB, forward=forward)


def _products(directions_QOI: Tensor, inputs_BTI: Tensor, output_BTO: Tensor) -> Tensor:
    """``<V_q, sum_t g_t a_t^T>`` as ``[Q, B]``, some layer outputs at a time."""
    rows, _, inputs = inputs_BTI.shape
    step = max(1, GRADIENT_NUMBERS // (rows * inputs))
    total_QB = inputs_BTI.new_zeros(len(directions_QOI), rows)
    for start in range(0, output_BTO.shape[2], step):
        own = slice(start, start + step)
        rows_BSI = gradient(inputs_BTI, output_BTO[..., own])
        total_QB.addmm_(directions_QOI[:, own].flatten(1), rows_BSI.flatten(1).T)
    return total_QB


def token_scores(
    model: nn.Module,
    layers: Sequence[Layer],
    batch: Batch,
    queries: Directions,
    wanted_QB: Tensor | None = None,
) -> Tensor:
    """Score every position of every row: ``sum_layers g_t^T P(V) a_t``.

    A position's score is the influence that flows through the layers at that token; it includes
    what the token does for the prediction of later ones.  The sum over T is the row's score.

    Args:
        model: The causal LM.
        layers: Tracked layers.
        batch: Rows (chunks of documents).
        queries: Preconditioned query gradients.
        wanted_QB: Which queries to score which rows for; None: all for all.

    Returns:
        ``[Q, B, T]``, in nats times N; 0 for pairs that are not wanted.
    """
    rows, tokens = batch.input_ids.shape
    count = len(next(iter(queries.values())))
    if wanted_QB is None:
        wanted_QB = torch.ones(count, rows, dtype=torch.bool)
    asked = [
        (q, own_B.nonzero()[:, 0].to(batch.input_ids.device)) for q, own_B in enumerate(wanted_QB)
    ]
    asked = [(q, rows_R) for q, rows_R in asked if len(rows_R)]
    total_QBT: Tensor | None = None

    def consume(name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        nonlocal total_QBT
        if total_QBT is None:
            total_QBT = inputs_BTI.new_zeros(count, rows, tokens)
        for q, rows_R in asked:
            product_RTI = output_BTO[rows_R] @ queries[name][q]
            part_RT = product_RTI.mul_(inputs_BTI[rows_R]).sum(dim=-1)
            # a layer that is used more than once has its uses one after the other
            total_QBT[q, rows_R] += part_RT.unflatten(-1, (-1, tokens)).sum(dim=1)

    backward(model, layers, batch, consume)
    assert total_QBT is not None
    return total_QBT


@dataclass(frozen=True)
class Rows:
    """Whitened gradients of the rows of one batch, compressed."""

    vectors_BP: Tensor
    """Vectors whose inner products are influences (times N)."""
    self_influence_B: Tensor
    """``I(m, m)``, in nats times N: from the full gradient, or estimated (see ``whitening``)."""
    squared_norm_B: Tensor
    """Squared plain gradient norm over the tracked layers."""
    forward: Forward


def whitened_rows(
    model: nn.Module,
    layers: Sequence[Layer],
    whitening: Whitening,
    batch: Batch,
) -> Rows:
    """Whiten and compress the gradients of a batch on the fly, layer by layer.

    Args:
        model: The causal LM.
        layers: Tracked layers.
        whitening: Curvature, damping and sketch, made ready by ``whitening.prepare``.
        batch: Rows that are whole documents (a document of several chunks: ``document_row``).

    Returns:
        The rows; only one layer's full gradients are held at a time.
    """
    found: dict[str, LayerRows] = {}

    def consume(name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        found[name] = layer_rows(whitening, name, inputs_BTI, output_BTO)

    forward = backward(model, layers, batch, consume)
    vectors_BP = join(whitening.sketch, {name: rows.vectors_BK for name, rows in found.items()})
    refuse_not_finite(vectors_BP, batch, "gradient")
    return Rows(
        vectors_BP=vectors_BP,
        self_influence_B=torch.stack([x.self_influence_B for x in found.values()]).sum(dim=0),
        squared_norm_B=torch.stack([x.squared_norm_B for x in found.values()]).sum(dim=0),
        forward=forward,
    )


def document_row(
    model: nn.Module,
    layers: Sequence[Layer],
    whitening: Whitening,
    batches: Sequence[Batch],
) -> Rows:
    """The row of ONE document of several chunks: whitened gradients are summed, then squared.

    Its self-influence is exact whatever the sketch.

    Args:
        model: The causal LM.
        layers: Tracked layers.
        whitening: As for ``whitened_rows``.
        batches: All chunks of the document; one full gradient is held in memory.

    Returns:
        Rows with B = 1; ``forward`` holds the document's summed loss.
    """
    sums: dict[str, Tensor] = {}

    def consume(name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        layer = whitening.layers[name]
        row_OI = rotate(layer.curvature, inputs_BTI, output_BTO).sum(dim=0)
        sums[name] = sums[name] + row_OI if name in sums else row_OI

    forwards = [backward(model, layers, batch, consume) for batch in batches]
    squared_norm = torch.stack([w_OI.square().sum() for w_OI in sums.values()]).sum()
    sketch, parts, self_influence_1 = whitening.sketch, {}, torch.zeros_like(squared_norm)[None]
    for name, row_OI in sums.items():
        layer = whitening.layers[name]
        parts[name] = compress(sketch, name, layer.scaled(row_OI[None]))
        self_influence_1 = self_influence_1 + layer.self_influence(row_OI[None])
    vectors_BP = join(sketch, parts)
    first = batches[0].document[:1]
    refuse_not_finite(vectors_BP, replace(batches[0], document=first), "gradient")
    loss = torch.stack([f.loss_B.sum() for f in forwards]).sum()
    return Rows(
        vectors_BP=vectors_BP,
        self_influence_B=self_influence_1,
        squared_norm_B=squared_norm[None],
        forward=Forward(loss_B=loss[None], token_loss_BT=forwards[0].token_loss_BT[:1]),
    )


def whitened_queries(
    curvature: Mapping[str, LayerCurvature],
    factor: float,
    sketch: Sketch,
    gradients: Mapping[str, Tensor],
) -> Tensor:
    """Query gradients as the store's rows are multiplied with (see ``sketch.scores``).

    Args:
        curvature: Every layer's curvature.
        factor: Damping factor.
        sketch: The store's sketch.
        gradients: Query gradients ``[Q, O, I]`` a layer (differences, for contrasts).

    Returns:
        Vectors ``[Q, P]``; against factors whole gradients ``[Q, M]``.
    """
    parts = {}
    for name, gradient_QOI in gradients.items():
        layer = curvature[name]
        rotated_QOI = gradient_QOI
        if layer.out_basis_OO is not None and layer.in_basis_II is not None:
            rotated_QOI = layer.out_basis_OO.T @ gradient_QOI @ layer.in_basis_II
        scale_OI = query_scale(layer, factor, sketch.separable)
        parts[name] = compress_query(
            sketch, name, rotated_QOI if scale_OI is None else rotated_QOI * scale_OI
        )
    return join(sketch, parts)


def self_influence(gradients: Mapping[str, Tensor], solved: Directions) -> Tensor:
    """``I(q, q)``: the influence of a query on itself.

    Args:
        gradients: Query gradients ``[Q, O, I]`` a layer.
        solved: The same, preconditioned.

    Returns:
        ``[Q]``, in nats times N, never negative.
    """
    parts = [(gradients[n] * solved[n]).sum(dim=(1, 2)) for n in gradients]
    return torch.stack(parts).sum(dim=0)


def normalised(scores_QN: Tensor, query_Q: Tensor, document_N: Tensor) -> Tensor:
    """``I(q, m) / sqrt(I(q, q) I(m, m))``, between -1 and 1.

    Args:
        scores_QN: Scores, in nats times N.
        query_Q: Self-influence of the queries.
        document_N: Self-influence of the documents.

    Returns:
        ``[Q, N]``; 0 where either self-influence is 0.
    """
    scale_QN = (query_Q[:, None] * document_N[None, :]).sqrt()
    return torch.where(scale_QN > 0, scores_QN / scale_QN.clamp_min(1e-30), scale_QN * 0)
