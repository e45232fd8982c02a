"""What a worker does to compare forms of a store: sampled documents of one shard, every form at once.

Every form's scores are sums over layers, so layers are taken one by one, as the backward pass hands
them out, and no whole row is ever held.  Pairs of vectors are found for each chunk by itself: a
document of several chunks comes out a little better here than in the store, whose own check is of the
document.

Axes: Q queries, N sampled documents of the shard, L layers, R pairs of vectors, B rows of a batch, O and
I layer outputs and inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import gradients_store
from influence.documents.factors import of_matrices
from influence.documents.gradients import backward
from influence.documents.preconditioner import (
    LayerCurvature,
    document_scale,
    inverse_root,
    query_scale,
    retained_variance,
    rotate,
)
from influence.documents.scores import whitened_queries
from influence.documents.sketch import compress, full, low_rank_factors, probes, random_projection
from pipelines.gradient_files import IndexSpec, load_curvature
from pipelines.store_sample import sample_gradients
from pipelines.tokens import batches, read_chunks, shard_path
from pipelines.worker import language_model, layers_of

FACTOR_DTYPES = {"int8": 8, "int4": 4, "int2": 2}
"""Number formats of factors that are compared, and their bits."""
RANKS = 12
"""Most pairs of vectors of a layer."""


@dataclass(frozen=True, kw_only=True)
class FormSpec:
    """Compare forms on the sampled documents of one shard."""

    spec: IndexSpec
    coordinates: tuple[int, ...]
    """Dimensions of ``top-eigen``, ascending."""
    sides: tuple[int, ...]
    """Sides of ``random``."""
    whole: bool
    """Whether whole rows are a candidate."""
    seed: int
    separable: bool


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Scores of the sample by every form, in nats times N."""

    exact_QN: np.ndarray
    dense: dict[tuple[str, int], np.ndarray]
    """By kind and size ``[Q, N]``, without the rounding to int8."""
    factors: dict[str, np.ndarray]
    """By number format: what each pair of each layer adds, ``[L, R, Q, N]``."""
    gain_LR: np.ndarray
    """Squared length that each pair explains, summed over documents."""


def sample_forms(task: FormSpec) -> Sampled:
    """Score the sample by every form.

    Returns:
        Scores, and what each pair of vectors explains.
    """
    spec = task.spec
    loaded, layers = language_model(spec.model), layers_of(spec.model)
    curvature = load_curvature(spec.curvature, str(loaded.device))
    queries = _queries(spec.of_every_shard())
    kept = _kept(spec.curvature, str(loaded.device), spec.damping, task.coordinates)
    shapes = {x.name: _shape(queries[x.name]) for x in layers}
    place = {name: i for i, name in enumerate(shapes)}
    wanted = {row: i for i, row in enumerate(spec.rows)}
    found = _zeros(task, len(layers), len(wanted))
    random = {p: random_projection(shapes, p, task.seed, task.separable) for p in task.sides}
    pairs = low_rank_factors(shapes, dict.fromkeys(shapes, RANKS), task.seed, task.separable)

    def consume(name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        layer, query_QOI = curvature[name], queries[name]
        rotated_BOI = rotate(layer, inputs_BTI, output_BTO)
        root_OI = inverse_root(layer, spec.damping)
        white_BOI = rotated_BOI if root_OI is None else rotated_BOI * root_OI
        white_QP, white_BP = query_QOI.flatten(1), white_BOI.flatten(1)
        _add(found.exact_QN, columns_B, white_QP @ white_BP.T)
        for size, flat_K in kept.get(name, {}).items():
            _add(
                found.dense["top-eigen", size],
                columns_B,
                white_QP[:, flat_K] @ white_BP[:, flat_K].T,
            )
        if task.separable and root_OI is not None:
            own_OI, theirs_OI = _separable(layer, spec.damping)
            white_BOI = rotated_BOI * own_OI
            query_QOI = query_QOI * (theirs_OI / root_OI.clamp_min(torch.finfo(root_OI.dtype).tiny))
        for side, sketch in random.items():
            part_QB = compress(sketch, name, query_QOI) @ compress(sketch, name, white_BOI).T
            _add(found.dense["random", side], columns_B, part_QB)
        left_BRO, right_BRI = of_matrices(
            white_BOI, probes(pairs, name).to(white_BOI), pairs.ranks[name]
        )
        rank = left_BRO.shape[1]
        found.gain_LR[place[name], :rank] += right_BRI.square().sum(dim=(0, 2)).cpu().numpy()
        for dtype, terms_LRQN in found.factors.items():
            left, right = rounded(left_BRO, dtype), rounded(right_BRI, dtype)
            part_RQB = torch.einsum("qoi,bro,bri->rqb", query_QOI, left, right)
            _add(terms_LRQN[place[name], :rank], columns_B, part_RQB)

    own = read_chunks(shard_path(Path(spec.tokens), spec.shard), wanted)
    for work in batches(own, loaded.pad_id, spec.token_budget):
        columns_B = np.array([wanted[int(d)] for d in work.batch.document])
        backward(loaded.model, layers, work.batch.to(loaded.device), consume)
    if task.whole:
        found.dense["full", sum(o * i for o, i in shapes.values())] = found.exact_QN
    return found


def _zeros(task: FormSpec, layers: int, documents: int) -> Sampled:
    shape = (len(task.spec.queries), documents)
    sizes = [("top-eigen", n) for n in task.coordinates] + [("random", p) for p in task.sides]
    return Sampled(
        exact_QN=np.zeros(shape, dtype=np.float32),
        dense={size: np.zeros(shape, dtype=np.float32) for size in sizes},
        factors={d: np.zeros((layers, RANKS, *shape), dtype=np.float32) for d in FACTOR_DTYPES},
        gain_LR=np.zeros((layers, RANKS), dtype=np.float32),
    )


def _add(scores: np.ndarray, columns_B: np.ndarray, part: Tensor) -> None:
    """Add scores of some rows to their documents; a document may have several rows."""
    np.add.at(scores.T, columns_B, part.cpu().numpy().T)


def _separable(layer: LayerCurvature, damping: float) -> tuple[Tensor, Tensor]:
    own_OI, theirs_OI = document_scale(layer, damping, True), query_scale(layer, damping, True)
    assert own_OI is not None
    assert theirs_OI is not None
    return own_OI, theirs_OI


def rounded(vectors_BRO: Tensor, dtype: str) -> Tensor:
    """Vectors as they come back from a store of factors.

    Returns:
        The same shape.
    """
    flat = vectors_BRO.flatten(0, 1).cpu().numpy()
    back = torch.from_numpy(gradients_store.rounded(flat, dtype))
    return back.view(vectors_BRO.shape).to(vectors_BRO)


@lru_cache(maxsize=1)
def _queries(spec: IndexSpec) -> dict[str, Tensor]:
    """Whitened gradients of the sample's queries, ``[Q, O, I]`` a layer; once in each process."""
    curvature = load_curvature(spec.curvature, str(language_model(spec.model).device))
    gradients = sample_gradients(spec)
    whole = {name: _shape(g) for name, g in gradients.items()}
    rows_QM = whitened_queries(curvature, spec.damping, full(whole), gradients)
    parts = rows_QM.split([o * i for o, i in whole.values()], dim=1)
    return {
        name: part.unflatten(1, shape)
        for (name, shape), part in zip(whole.items(), parts, strict=True)
    }


@lru_cache(maxsize=1)
def _kept(
    folder: str, device: str, damping: float, sizes: tuple[int, ...]
) -> Mapping[str, Mapping[int, Tensor]]:
    """For each layer and size of ``top-eigen`` the kept coordinates."""
    if not sizes:
        return {}
    curvature: Mapping[str, LayerCurvature] = load_curvature(folder, device)
    variances = {n: retained_variance(x, damping).flatten() for n, x in curvature.items()}
    joined = torch.cat(list(variances.values()))
    thresholds = joined.sort(descending=True, stable=True).values
    return {
        name: {
            size: (values >= thresholds[min(size, len(thresholds)) - 1]).nonzero()[:, 0]
            for size in sizes
        }
        for name, values in variances.items()
    }


def _shape(gradient_QOI: Tensor) -> tuple[int, int]:
    return gradient_QOI.shape[1], gradient_QOI.shape[2]
