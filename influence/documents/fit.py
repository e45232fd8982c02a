r"""Both passes of the EK-FAC fit, near their arithmetic bound.

1. ``A = sum a a^T`` and ``S = sum g g^T`` over the counted tokens;
2. ``Lambda = sum_n (Q_S^T G_n Q_A)^2`` over the documents.

What makes it cheap: no weight gradient is ever formed, and the backward pass stops at the first
tracked layer; labels can be drawn from the logits of the same forward pass; layers that read the
same tensor (query, key, value; gate, up) share ``a a^T`` and, as their bases are then equal, ``a Q_A``;
of a symmetric product only the block rows from the diagonal on are computed; each side of a
document's gradient is rotated before or after the product over tokens, whichever is less work.
Products are in the model's dtype, sums over batches in float64.

Axes: I layer inputs (bias included), O layer outputs, D either, B rows, T tokens, K counted tokens.
Source: George et al. (2018), arXiv:1806.03884; Grosse et al. (2023), arXiv:2308.03296, eq. 18-20.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from influence.batches import IGNORED, Batch
from influence.documents.curvature import (
    Basis,
    EigenvalueSums,
    KroneckerSums,
    add_wide,
    refuse_half,
)
from influence.documents.gradients import Draw, backward, same_memory
from influence.layers import Layer

Buffers = dict[int, Tensor]
"""Room for symmetric products, by their width."""

CACHED_NUMBERS = 1 << 18
"""Gradients are squared in groups of documents of about this many numbers: a processor's cache."""


def kronecker_sums(
    model: nn.Module, layers: Sequence[Layer], batches: Iterable[Batch], draw: Draw | None = None
) -> KroneckerSums:
    """First pass: the factors' sums over some batches.

    Args:
        model: A causal LM in eval mode with frozen parameters.
        layers: Tracked layers.
        batches: Batches whose targets are sampled (or empirical) labels, -100 where not counted;
            all chunks of a document, by number, come in one call, since N counts the numbers.
        draw: Puts the Fisher's labels into a batch, given its logits; None: the targets are they.

    Returns:
        Sums in float64, on the CPU.

    Raises:
        GradientError: If the model is in half precision, where sums within a batch overflow.
    """
    refuse_half(model)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    buffers: tuple[Buffers, Buffers] = ({}, {})
    tokens = 0
    documents: set[int] = set()
    for batch in batches:
        _add_factors(model, layers, batch, draw, inputs, outputs, buffers)
        tokens += batch.n_loss_tokens
        documents.update(batch.document.tolist())
    del buffers
    for sums in (inputs, outputs):
        for name in sums:
            sums[name] = _mirrored(sums[name]).cpu()
    return KroneckerSums(
        inputs={layer.name: inputs[layer.name] for layer in layers},
        outputs={layer.name: outputs[layer.name] for layer in layers},
        tokens=tokens,
        documents=len(documents),
    )


def _add_factors(
    model: nn.Module,
    layers: Sequence[Layer],
    batch: Batch,
    draw: Draw | None,
    inputs: dict[str, Tensor],
    outputs: dict[str, Tensor],
    buffers: tuple[Buffers, Buffers],
) -> None:
    counted_K = (batch.targets != IGNORED).flatten().nonzero()[:, 0]
    latest = torch.zeros(0)
    of_inputs, of_outputs = buffers

    def consume(name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        nonlocal latest
        if not same_memory(latest, inputs_BTI):
            latest = inputs_BTI
            gram(counted(inputs_BTI, batch, counted_K), of_inputs)
        add_wide(inputs, name, of_inputs[inputs_BTI.shape[2]])
        add_wide(outputs, name, gram(counted(output_BTO, batch, counted_K), of_outputs))

    backward(model, layers, batch, consume, draw)


def eigenvalue_sums(
    model: nn.Module,
    layers: Sequence[Layer],
    bases: Mapping[str, Basis],
    batches: Iterable[Batch],
    draw: Draw | None = None,
) -> EigenvalueSums:
    """Second pass: squared gradients in the eigenbasis, summed over the documents of some batches.

    Of a document in several chunks, each chunk is squared alone.  With sampled labels that has the
    same expectation: labels are independent given the text, so that cross terms average to zero.
    With empirical labels it leaves the cross terms between chunks out.

    Args:
        model: A causal LM in eval mode with frozen parameters.
        layers: Tracked layers.
        bases: The basis of every layer; ``standard_basis`` gives the diagonal Fisher.
        batches: The same batches, with the same labels, as in the first pass.
        draw: As in the first pass.

    Returns:
        Sums in float64, on the CPU.

    Raises:
        GradientError: If the model is in half precision.
    """
    refuse_half(model)
    like = next(model.parameters())
    out_bases = {x.name: bases[x.name].out_basis_OO.to(like) for x in layers}
    in_bases = _input_bases(layers, bases, like)
    squares: dict[str, Tensor] = {}
    documents: set[int] = set()
    for batch in batches:
        _add_squares(model, layers, batch, draw, out_bases, in_bases, squares)
        documents.update(batch.document.tolist())
    return EigenvalueSums(
        squares={name: squares[name].cpu() for name in squares}, documents=len(documents)
    )


def _add_squares(
    model: nn.Module,
    layers: Sequence[Layer],
    batch: Batch,
    draw: Draw | None,
    out_bases: Mapping[str, Tensor],
    in_bases: Mapping[str, Tensor],
    squares: dict[str, Tensor],
) -> None:
    readers = Counter(id(basis) for basis in in_bases.values())
    latest = latest_basis = rotated_BTI = torch.zeros(0)

    def consume(name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        nonlocal latest, latest_basis, rotated_BTI
        tokens, inputs, outputs = *inputs_BTI.shape[1:], output_BTO.shape[2]
        left_OO, right_II = out_bases[name], in_bases[name]
        before_in = tokens <= outputs * readers[id(right_II)]
        before_out = tokens <= inputs
        if before_in and not (latest_basis is right_II and same_memory(latest, inputs_BTI)):
            latest, latest_basis, rotated_BTI = inputs_BTI, right_II, inputs_BTI @ right_II
        total_OI = _sum_of_squares(
            rotated_BTI if before_in else inputs_BTI,
            output_BTO @ left_OO if before_out else output_BTO,
            None if before_in else right_II,
            None if before_out else left_OO,
        )
        add_wide(squares, name, total_OI)

    backward(model, layers, batch, consume, draw)


def counted(values_BTD: Tensor, batch: Batch, counted_K: Tensor) -> Tensor:
    """The rows of counted tokens.

    Args:
        values_BTD: Inputs or output gradients of a layer; of a layer that is used several times in
            a pass, T is that many times the batch's.
        batch: The batch.
        counted_K: Flat positions of its counted tokens.

    Returns:
        ``[K, D]``, K for each use.
    """
    rows, tokens = batch.targets.shape
    if values_BTD.shape[1] == tokens:
        return values_BTD.flatten(0, 1).index_select(0, counted_K)
    uses_UND = values_BTD.view(rows, -1, tokens, values_BTD.shape[2]).transpose(0, 1).flatten(1, 2)
    return uses_UND.index_select(1, counted_K).flatten(0, 1)


def gram(values_KD: Tensor, buffers: Buffers) -> Tensor:
    """``X^T X``, the part on and above the diagonal; whole blocks below it stay 0.

    Args:
        values_KD: X.
        buffers: Made when missing; the result lies in one.

    Returns:
        ``[D, D]``, valid until the next call with this width and these buffers.
    """
    width = values_KD.shape[1]
    step = -(-width // max(1, min(8, width // 64)))
    found = buffers.get(width)
    if found is None:
        found = buffers[width] = values_KD.new_zeros(width, width)
    for start in range(0, width, step):
        rows_PK = values_KD[:, start : start + step].T
        torch.mm(rows_PK, values_KD[:, start:], out=found[start : start + step, start:])
    return found


def _mirrored(upper_DD: Tensor) -> Tensor:
    return upper_DD.triu_().add_(upper_DD.triu(1).T)


def _input_bases(
    layers: Sequence[Layer], bases: Mapping[str, Basis], like: Tensor
) -> dict[str, Tensor]:
    """Input bases in the model's dtype, one tensor for neighbours whose bases are equal."""
    found: dict[str, Tensor] = {}
    before, there = torch.zeros(0), torch.zeros(0)
    for layer in layers:
        own = bases[layer.name].in_basis_II
        if not torch.equal(before, own):
            before, there = own, own.to(like)
        found[layer.name] = there
    return found


def _sum_of_squares(
    inputs_BTI: Tensor, output_BTO: Tensor, in_basis_II: Tensor | None, out_basis_OO: Tensor | None
) -> Tensor:
    """``sum_n (Q_S^T (sum_t g_t a_t^T) Q_A)^2``; a basis is None where that side is rotated already."""
    size = output_BTO.shape[2] * inputs_BTI.shape[2]
    group = max(1, CACHED_NUMBERS // size)
    total_OI = inputs_BTI.new_zeros(output_BTO.shape[2], inputs_BTI.shape[2])
    buffer_GOI = inputs_BTI.new_empty(min(group, len(inputs_BTI)), *total_OI.shape)
    for start in range(0, len(inputs_BTI), group):
        rows = slice(start, start + group)
        g_GOI = buffer_GOI[: len(inputs_BTI[rows])]
        torch.bmm(output_BTO[rows].transpose(1, 2), inputs_BTI[rows], out=g_GOI)
        if in_basis_II is not None:
            g_GOI = g_GOI @ in_basis_II
        if out_basis_OO is not None:
            g_GOI = out_basis_OO.T @ g_GOI
        if len(g_GOI) == 1:
            total_OI.addcmul_(g_GOI[0], g_GOI[0])
        else:
            total_OI.add_(g_GOI.square_().sum(dim=0))
    return total_OI
