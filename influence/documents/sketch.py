r"""Whitened gradients -> small vectors.

Four kinds, behind one interface.  ``full`` keeps every coordinate; ``top-eigen`` the K coordinates
of all layers together whose whitened variance ``Lambda / (Lambda + lambda)`` is largest; ``random``
multiplies a layer's whitened gradient by a seeded sign matrix on each side; ``factors`` keeps a few
pairs of vectors for each layer (see ``factors``).  Of the first three, an inner product of two rows
estimates their influence on each other; a row of factors stands for a matrix a layer, whose inner
product with the query's whole whitened gradient is the estimate.

A document's gradient is scaled by ``(Lambda + lambda)^(-1/2)``, a query's as well.  A *separable*
sketch scales a document's by an outer product close to it, ``s t^T``, which can be applied token by
token before any gradient is formed, and a query's by ``(Lambda + lambda)^(-1) / s t^T``: their inner
product is the same, only what the compression leaves out differs.

Axes: B rows, I layer inputs (bias included), O layer outputs, K numbers of a layer in a vector,
Q queries, P numbers of a vector, M numbers of all layers' gradients.
Source: LoGra (Choe et al. 2024, arXiv:2405.13954) for two-sided projections; the choice by
whitened variance is the effective-dimension argument of DESIGN section 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from influence.documents.factors import OVERSAMPLING, flat, of_matrices, product
from influence.documents.preconditioner import LayerCurvature, retained_variance
from influence.errors import GradientError

KINDS = ("full", "top-eigen", "random", "factors")


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """How whitened gradients become vectors; the same for documents and queries."""

    kind: str
    """One of ``KINDS``."""
    shapes: Mapping[str, tuple[int, int]]
    """``(O, I)`` of every layer, in the order of the vector."""
    coordinates: Mapping[str, Tensor] = field(default_factory=dict)
    """For "top-eigen": the kept flat indices of each layer, ascending."""
    side: int = 0
    """For "random": p, a layer gives ``min(p, O) * min(p, I)`` numbers."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """For "factors": how many pairs of vectors each layer gets; 0 leaves a layer out."""
    seed: int = 0
    """For "random" and "factors": joined with the layer's name and side."""
    separable: bool = False
    """Whether documents are scaled by an outer product close to ``(Lambda + lambda)^(-1/2)``."""

    def size(self, name: str) -> int:
        """How many numbers a layer contributes."""
        out, inputs = self.shapes[name]
        if self.kind == "factors":
            return self.ranks[name] * (out + inputs)
        if self.kind == "top-eigen":
            return len(self.coordinates[name])
        if self.kind == "random":
            return min(self.side, out) * min(self.side, inputs)
        return out * inputs

    @property
    def dimension(self) -> int:
        """Length P of a vector."""
        return sum(self.size(name) for name in self.shapes)

    def fingerprint(self) -> str:
        """Hash of everything that decides what a coordinate means.

        Returns:
            32 hexadecimal digits.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{self.kind}|{self.side}|{self.seed}".encode())
        if self.ranks or self.separable:
            digest.update(f"|{list(self.ranks.values())}|{self.separable}".encode())
        for name, shape in self.shapes.items():
            digest.update(f"|{name}|{shape}|".encode())
            if name in self.coordinates:
                digest.update(self.coordinates[name].numpy().tobytes())
        return digest.hexdigest()


def full(shapes: Mapping[str, tuple[int, int]]) -> Sketch:
    """Keep every coordinate.

    Returns:
        A sketch that loses nothing.
    """
    return Sketch(kind="full", shapes=dict(shapes))


def random_projection(
    shapes: Mapping[str, tuple[int, int]], side: int, seed: int, separable: bool = False
) -> Sketch:
    """Two-sided random signs, ``p x p`` numbers a layer.

    Returns:
        A sketch whose inner products are unbiased over seeds.
    """
    return Sketch(kind="random", shapes=dict(shapes), side=side, seed=seed, separable=separable)


def low_rank_factors(
    shapes: Mapping[str, tuple[int, int]],
    ranks: Mapping[str, int],
    seed: int,
    separable: bool = False,
) -> Sketch:
    """The strongest pairs of singular vectors of every layer, each pair ``O + I`` numbers.

    Args:
        shapes: ``(O, I)`` of every layer, in the order of the vector.
        ranks: How many pairs each layer gets; no more than the smaller of O and I are kept.
        seed: Of the probes that find them.
        separable: See ``Sketch``.

    Returns:
        The sketch.
    """
    kept = {name: min(ranks[name], *shape) for name, shape in shapes.items()}
    return Sketch(kind="factors", shapes=dict(shapes), ranks=kept, seed=seed, separable=separable)


def top_eigen(curvature: Mapping[str, LayerCurvature], factor: float, dimension: int) -> Sketch:
    """Keep the coordinates with the largest whitened variance, over all layers together.

    Args:
        curvature: Every layer's curvature, in the order of the vector.
        factor: Damping factor.
        dimension: How many coordinates to keep in all.

    Returns:
        The sketch.

    Raises:
        GradientError: If a layer has no eigenvalues to choose by.
    """
    missing = [name for name, layer in curvature.items() if layer.eigenvalues_OI is None]
    if missing:
        raise GradientError(
            f"Sketch: layer {missing[0]} has no eigenvalues, 'top-eigen' needs a curvature "
            "(ekfac, kfac or diagonal). Use `sketch: random` with the identity."
        )
    wide = {n: retained_variance(x, factor) for n, x in curvature.items()}
    variances = {n: x.flatten() for n, x in wide.items()}
    joined = torch.cat(list(variances.values()))
    kept = torch.zeros(len(joined), dtype=torch.bool)
    kept[torch.sort(joined, descending=True, stable=True).indices[:dimension]] = True
    coordinates, start = {}, 0
    for name, values in variances.items():
        coordinates[name] = kept[start : start + len(values)].nonzero()[:, 0]
        start += len(values)
    shapes = {n: (x.shape[0], x.shape[1]) for n, x in wide.items()}
    return Sketch(kind="top-eigen", shapes=shapes, coordinates=coordinates)


@lru_cache(maxsize=1024)  # every batch asks for the same few
def signs(seed: int, name: str, side: str, rows: int, columns: int) -> Tensor:
    """A seeded matrix of signs for one side of one layer.

    Returns:
        ``[rows, columns]`` of -1 and 1 in float32.
    """
    digest = hashlib.blake2b(f"{seed}|{name}|{side}".encode(), digest_size=8).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    drawn = generator.integers(0, 2, size=(rows, columns), dtype=np.int8) * 2 - 1
    return torch.from_numpy(drawn).float()


def projection(seed: int, name: str, side: str, rows: int, columns: int) -> Tensor:
    """``signs`` scaled by ``1 / sqrt(columns)``, so that ``E[R R^T] = 1``.

    Returns:
        ``[rows, columns]`` in float32.
    """
    return signs(seed, name, side, rows, columns) / columns**0.5


def compress(sketch: Sketch, name: str, whitened_BOI: Tensor) -> Tensor:
    """A layer's part of the vector.

    Args:
        sketch: The sketch.
        name: The layer.
        whitened_BOI: Its whitened gradients.

    Returns:
        ``[B, K]``.
    """
    if sketch.kind == "full":
        return whitened_BOI.flatten(1)
    if sketch.kind == "top-eigen":
        return whitened_BOI.flatten(1)[:, sketch.coordinates[name].to(whitened_BOI.device)]
    out, inputs = sketch.shapes[name]
    if sketch.kind == "factors":
        return flat(
            *of_matrices(whitened_BOI, probes(sketch, name).to(whitened_BOI), sketch.ranks[name])
        )
    left_OP = projection(sketch.seed, name, "out", out, min(sketch.side, out)).to(whitened_BOI)
    right_IP = projection(sketch.seed, name, "in", inputs, min(sketch.side, inputs))
    return (left_OP.T @ whitened_BOI @ right_IP.to(whitened_BOI)).flatten(1)


def probes(sketch: Sketch, name: str) -> Tensor:
    """The seeded signs by which a layer's factors are found.

    Returns:
        ``[W, I]`` in float32; W is the layer's rank and a few more.  As many as inputs would be the
        unit vectors, as square matrices of signs are often singular.
    """
    inputs = sketch.shapes[name][1]
    count = sketch.ranks[name] + OVERSAMPLING
    if count >= inputs:
        return torch.eye(inputs)
    return signs(sketch.seed, name, "probes", count, inputs)


def compress_query(sketch: Sketch, name: str, whitened_QOI: Tensor) -> Tensor:
    """A layer's part of a query's vector; against factors the query stays whole.

    Returns:
        ``[Q, K]``, or ``[Q, O I]`` for factors.
    """
    if sketch.kind == "factors":
        return whitened_QOI.flatten(1)
    return compress(sketch, name, whitened_QOI)


def scores(sketch: Sketch, query_QM: Tensor, row_BP: Tensor) -> Tensor:
    """What a store's rows say of their influence on some queries.

    Args:
        sketch: The sketch of both.
        query_QM: Queries, from ``compress_query``, layers joined.
        row_BP: Rows, from ``compress``, layers joined.

    Returns:
        ``[Q, B]``, in nats times N.
    """
    if sketch.kind != "factors":
        return query_QM @ row_BP.T
    shapes = sketch.shapes
    queries = query_QM.split([out * inputs for out, inputs in shapes.values()], dim=1)
    rows = row_BP.split([sketch.size(name) for name in shapes], dim=1)
    parts = [
        product(row_BK, query.unflatten(1, shape))
        for row_BK, query, shape in zip(rows, queries, shapes.values(), strict=True)
    ]
    return torch.stack(parts).sum(dim=0)


def join(sketch: Sketch, parts: Mapping[str, Tensor]) -> Tensor:
    """The layers' parts as one vector a row, in the sketch's order.

    Returns:
        ``[B, P]`` (of queries against factors ``[Q, M]``).
    """
    return torch.cat([parts[name] for name in sketch.shapes], dim=1)
