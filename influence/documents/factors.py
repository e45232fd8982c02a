r"""A layer's gradient as a few pairs of vectors, ``G ~ sum_r u_r v_r^T``, by random probes.

A document's gradient of a layer is a sum over its tokens, and most of its length lies in a few
directions: per byte, a few pairs of vectors in few bits keep more of the ranking of documents than
any choice or mixture of coordinates (docs/compression.md).

Axes: B rows, O and I the two sides of a matrix, W probes, R rank.
Source: Halko, Martinsson & Tropp (2011), arXiv:0909.4061, algorithms 4.1 and 4.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

OVERSAMPLING = 4
"""Probes beyond the rank."""


def of_matrices(matrix_BOI: Tensor, probes_WI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The strongest pairs of each matrix, with one power iteration.

    Args:
        matrix_BOI: Matrices.
        probes_WI: Random signs; W at least ``rank``.
        rank: How many pairs.

    Returns:
        ``[B, R, O]`` orthonormal, and ``[B, R, I]`` that carry the lengths, longest first.
    """
    transposed_BIO = matrix_BOI.transpose(1, 2)
    basis_BWO = orthonormal(probes_WI @ transposed_BIO)
    across_BWI = orthonormal(basis_BWO @ matrix_BOI)
    basis_BWO = orthonormal(across_BWI @ transposed_BIO)
    return truncated(basis_BWO, basis_BWO @ matrix_BOI, rank)


def orthonormal(rows_BWO: Tensor) -> Tensor:
    """An orthonormal basis of what the rows span; rows without a direction of their own become 0.

    Returns:
        ``[B, W, O]``.
    """
    values_BW, vectors_BWW = torch.linalg.eigh(rows_BWO @ rows_BWO.transpose(1, 2))
    floor_B1 = values_BW.amax(dim=1, keepdim=True) * (10 * torch.finfo(values_BW.dtype).eps)
    scale_BW = torch.where(values_BW > floor_B1, values_BW, torch.inf).rsqrt()
    return (vectors_BWW * scale_BW[:, None]).transpose(1, 2) @ rows_BWO


def truncated(basis_BWO: Tensor, across_BWI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The strongest pairs of ``basis^T across``, whose basis is orthonormal.

    Returns:
        ``[B, R, O]`` orthonormal, and ``[B, R, I]`` that carry the lengths, longest first.
    """
    _, vectors_BWW = torch.linalg.eigh(across_BWI @ across_BWI.transpose(1, 2))
    strongest_BRW = vectors_BWW.flip(2)[:, :, :rank].transpose(1, 2)
    return strongest_BRW @ basis_BWO, strongest_BRW @ across_BWI


def flat(left_BRO: Tensor, right_BRI: Tensor) -> Tensor:
    """Pairs of vectors as one row, all left ones first.

    Returns:
        ``[B, R (O + I)]``.
    """
    return torch.cat([left_BRO.flatten(1), right_BRI.flatten(1)], dim=1)


def product(row_BK: Tensor, query_QOI: Tensor) -> Tensor:
    """Inner products of the matrices that flat rows stand for with some queries.

    Returns:
        ``[Q, B]``.
    """
    outputs, inputs = query_QOI.shape[1:]
    rank = row_BK.shape[1] // (outputs + inputs)
    left_BRO = row_BK[:, : rank * outputs].unflatten(1, (rank, outputs))
    right_BRI = row_BK[:, rank * outputs :].unflatten(1, (rank, inputs))
    return torch.einsum("qoi,bro,bri->qb", query_QOI, left_BRO, right_BRI)
