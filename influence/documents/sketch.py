r"""Whitened gradients -> small vectors, with measured fidelity.

Three kinds, behind one interface: ``full`` keeps every coordinate; ``top-eigen`` keeps the K
coordinates of all layers together whose whitened variance ``Lambda / (Lambda + lambda)`` is largest;
``random`` multiplies a layer's whitened gradient by a seeded sign matrix on each side.  An inner
product of two sketched rows estimates their influence on each other.

Axes: B rows, I layer inputs (bias included), O layer outputs, K kept coordinates of a layer,
Q queries, N documents.
Source: LoGra (Choe et al. 2024, arXiv:2405.13954) for two-sided projections; the choice by
whitened variance is the effective-dimension argument of DESIGN section 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from influence.documents.preconditioner import LayerCurvature, retained_variance
from influence.errors import GradientError

KINDS = ("full", "top-eigen", "random")


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """How whitened gradients become vectors; the same for documents and queries."""

    kind: str
    """"full", "top-eigen" or "random"."""
    shapes: Mapping[str, tuple[int, int]]
    """``(O, I)`` of every layer, in the order of the vector."""
    coordinates: Mapping[str, Tensor] = field(default_factory=dict)
    """For "top-eigen": the kept flat indices of each layer, ascending."""
    side: int = 0
    """For "random": p, a layer gives ``min(p, O) * min(p, I)`` numbers."""
    seed: int = 0
    """For "random": joined with the layer's name and side."""

    def size(self, name: str) -> int:
        """How many numbers a layer contributes."""
        out, inputs = self.shapes[name]
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


def random_projection(shapes: Mapping[str, tuple[int, int]], side: int, seed: int) -> Sketch:
    """Two-sided random signs, ``p x p`` numbers a layer.

    Returns:
        A sketch whose inner products are unbiased over seeds.
    """
    return Sketch(kind="random", shapes=dict(shapes), side=side, seed=seed)


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
def projection(seed: int, name: str, side: str, rows: int, columns: int) -> Tensor:
    """The seeded sign matrix of one side of one layer, scaled by ``1 / sqrt(columns)``.

    Returns:
        ``[rows, columns]`` in float32, with ``E[R R^T] = 1``.
    """
    digest = hashlib.blake2b(f"{seed}|{name}|{side}".encode(), digest_size=8).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    signs = generator.integers(0, 2, size=(rows, columns), dtype=np.int8) * 2 - 1
    return torch.from_numpy(signs).float() / columns**0.5


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
    left_OP = projection(sketch.seed, name, "out", out, min(sketch.side, out)).to(whitened_BOI)
    right_IP = projection(sketch.seed, name, "in", inputs, min(sketch.side, inputs))
    return (left_OP.T @ whitened_BOI @ right_IP.to(whitened_BOI)).flatten(1)


def join(sketch: Sketch, parts: Mapping[str, Tensor]) -> Tensor:
    """The layers' parts as one vector a row, in the sketch's order.

    Returns:
        ``[B, P]``.
    """
    return torch.cat([parts[name] for name in sketch.shapes], dim=1)


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How well compressed scores follow exact ones, on a sample."""

    pearson: float
    """Mean over queries of Pearson's correlation over documents."""
    spearman: float
    """Mean over queries of Spearman's correlation over documents."""
    queries: int
    documents: int


def fidelity(compressed_QN: np.ndarray, exact_QN: np.ndarray) -> Fidelity:
    """Rank and linear agreement of compressed scores with exact ones.

    Args:
        compressed_QN: Scores from the store ``[Q, N]``.
        exact_QN: Exact scores of the same pairs.

    Returns:
        The agreement, averaged over queries.
    """
    from scipy.stats import spearmanr  # slow to import, and only a new store needs it

    pearson = [np.corrcoef(a, b)[0, 1] for a, b in zip(compressed_QN, exact_QN, strict=True)]
    spearman = [spearmanr(a, b).statistic for a, b in zip(compressed_QN, exact_QN, strict=True)]
    return Fidelity(
        pearson=float(np.mean(pearson)),
        spearman=float(np.mean(spearman)),
        queries=len(exact_QN),
        documents=exact_QN.shape[1],
    )


def recall(compressed_QN: np.ndarray, exact_QN: np.ndarray, top: int, candidates: int) -> float:
    """Share of the exact top documents of both signs that a search of the store would pass on.

    Args:
        compressed_QN: Scores from the store.
        exact_QN: Exact scores of the same pairs.
        top: How many of each sign are wanted.
        candidates: How many of each sign the search returns.

    Returns:
        Mean over queries and signs, between 0 and 1.
    """

    def best(scores_N: np.ndarray, count: int) -> set[int]:
        return set(np.argsort(-scores_N, kind="stable")[:count].tolist())

    shares: Sequence[float] = [
        len(best(sign * e, top) & best(sign * c, candidates)) / min(top, exact_QN.shape[1])
        for c, e in zip(compressed_QN, exact_QN, strict=True)
        for sign in (1, -1)
    ]
    return float(np.mean(shares))
