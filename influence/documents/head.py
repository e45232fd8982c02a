r"""A low-rank output factor for large vocabularies.

The exact output factor of a head is ``V x V``; beyond a few thousand tokens its gradient is taken in
the subspace of the R strongest directions of ``S = sum g g^T`` instead (``models.project_head``).
At the logits ``g = softmax - onehot(label)`` is known in closed form, so that a forward pass is
enough to find them: a Nystrom sketch ``Y = S Omega`` is a plain sum over partitions.  The stated
error is the share of ``trace(S)`` outside the subspace.

Axes: V vocabulary, R rank, K counted tokens.
Source: Tropp et al. (2017), arXiv:1706.05736, algorithm 3 (fixed-rank Nystrom approximation).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from influence.documents.gradients import Draw, logits_of
from influence.text import Batch

OVERSAMPLING = 16


@dataclass(frozen=True, kw_only=True)
class OutputSketch:
    """Sums over counted tokens; the sums of two partitions (same seed and rank) add up."""

    product_VR: Tensor
    """``S Omega`` with ``S = sum g g^T``."""
    trace: float
    """``trace(S)`` in squared nats."""
    tokens: int


def test_matrix(vocabulary: int, rank: int, seed: int) -> Tensor:
    """The sketch's Gaussian test matrix, the same in every partition.

    Returns:
        ``[V, R + oversampling]`` in float32.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(vocabulary, min(vocabulary, rank + OVERSAMPLING), generator=generator)


@torch.no_grad()
def sketch_output_factor(
    model: nn.Module,
    batches: Iterable[Batch],
    rank: int,
    seed: int,
    draw: Draw | None = None,
) -> OutputSketch:
    """Sum ``g (g^T Omega)`` over the counted tokens of some batches, by forward passes alone.

    Args:
        model: The causal LM.
        batches: Batches whose targets are the Fisher's labels.
        rank: R.
        seed: Seed of the test matrix.
        draw: Puts the Fisher's labels into a batch, given its logits; None: the targets are they.

    Returns:
        The sums, float32 products with a float64 trace.
    """
    product_VR, omega_VR, trace, tokens = None, None, 0.0, 0
    for batch in batches:
        logits_BTV = logits_of(model, batch)
        if draw is not None:
            batch = draw(batch, logits_BTV)
        counted_BT = batch.targets != -100
        error_KV = logits_BTV[counted_BT].softmax(dim=-1)
        error_KV[torch.arange(len(error_KV)), batch.targets[counted_BT]] -= 1.0
        if omega_VR is None or product_VR is None:
            omega_VR = test_matrix(error_KV.shape[1], rank, seed).to(error_KV)
            product_VR = torch.zeros_like(omega_VR)
        product_VR += error_KV.T @ (error_KV @ omega_VR)
        trace += float(error_KV.double().square().sum())
        tokens += len(error_KV)
    assert product_VR is not None
    return OutputSketch(product_VR=product_VR.cpu(), trace=trace, tokens=tokens)


def merge_sketches(left: OutputSketch, right: OutputSketch) -> OutputSketch:
    """The sums of two disjoint sets of batches, added.

    Returns:
        New sums.
    """
    return OutputSketch(
        product_VR=left.product_VR + right.product_VR,
        trace=left.trace + right.trace,
        tokens=left.tokens + right.tokens,
    )


def output_subspace(sketch: OutputSketch, rank: int, seed: int) -> tuple[Tensor, float]:
    """The strongest directions of the output factor and the share of it that they leave out.

    Args:
        sketch: The merged sums.
        rank: R.
        seed: The seed that the sketch was made with.

    Returns:
        Orthonormal columns ``[V, R]`` (float32) and ``1 - trace(S restricted) / trace(S)``.
    """
    product_VR = sketch.product_VR.double()
    omega_VR = test_matrix(len(product_VR), rank, seed).double()
    shift = torch.finfo(torch.float32).eps * float(product_VR.norm())
    product_VR = product_VR + shift * omega_VR
    core_RR = omega_VR.T @ product_VR
    factor = torch.linalg.cholesky((core_RR + core_RR.T) / 2)
    root_VR = torch.linalg.solve_triangular(factor, product_VR.T, upper=False).T
    directions_VR, singular_R, _ = torch.linalg.svd(root_VR, full_matrices=False)
    captured = float((singular_R[:rank].square() - shift).clamp_min(0.0).sum())
    left_out = max(0.0, 1.0 - captured / sketch.trace) if sketch.trace > 0 else 0.0
    return directions_VR[:, :rank].float().contiguous(), left_out
