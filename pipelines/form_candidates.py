"""Forms that a store's vectors could take, each with its fidelity to exact scores on a sample."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from influence.documents.fidelity import fidelity, recall
from influence.documents.preconditioner import LayerCurvature
from influence.documents.sketch import low_rank_factors
from pipelines.cluster import Workers
from pipelines.config import RunConfig
from pipelines.form_sample import FACTOR_DTYPES, FormSpec, Sampled, sample_forms
from pipelines.gradient_files import NUMBER_BITS, IndexSpec, StoredForm
from pipelines.store_sample import choose_documents

SAMPLE_DOCUMENTS = 256
"""Documents on which forms are compared."""
SHARD_GIGABYTES = 1.0
"""Memory for the rows of one shard while it is filled (float32)."""
SIDE = 64
"""The largest random projection that is compared: others are more faithful by then."""
FACTOR_SCALES = 4
"""Bytes that the scales of a pair of vectors take."""
SCALE = 4
"""Bytes of a row's scale."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One form, and how faithful it was on the sample."""

    kind: str
    dtype: str
    numbers: int
    """Of a document's vector."""
    bytes: int
    """That they take on disk, scales included."""
    detail: dict[str, Any]
    """What rebuilds the sketch: ranks, dimension or side."""
    spearman: float = 0.0
    """Mean over queries of the rank correlation with exact scores."""
    pearson: float = 0.0
    recall: float = 0.0
    """Share of the exact top documents that a search would pass on."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What the forms of a run are measured on."""

    specs: Sequence[IndexSpec]
    """All shards; their store is not needed."""
    curvature: Mapping[str, LayerCurvature]
    shapes: Mapping[str, tuple[int, int]]
    """``(O, I)`` of every layer."""
    queries: tuple[tuple[int, int], ...]
    """Where the sample's queries stand."""

    @property
    def documents(self) -> int:
        """Documents N of the run."""
        return sum(len(spec.ids) for spec in self.specs)


def compared(
    run: Fitted, budgets: Sequence[int], config: RunConfig, workers: Workers
) -> list[Candidate]:
    """Measure every form at every budget against exact scores, on a sample.

    Args:
        run: What to measure on.
        budgets: Bytes of a document's vector.
        config: The run's settings.
        workers: Where to run.

    Returns:
        Candidates in the order of their bytes.
    """
    shapes, documents = run.shapes, run.documents
    has_values = all(layer.eigenvalues_OI is not None for layer in run.curvature.values())
    whole = sum(o * i for o, i in shapes.values())
    plain = config.store_dtype or "int8"
    is_dense = config.store == "auto" and NUMBER_BITS[plain] >= 8
    dense = sorted((b - SCALE) * 8 // NUMBER_BITS[plain] for b in budgets) if is_dense else []
    todo = [
        FormSpec(
            spec=replace(spec, queries=run.queries),
            coordinates=tuple(n for n in dense if n < whole) if has_values else (),
            whole=is_dense,
            sides=tuple(sorted({side for b in dense if 0 < (side := _side(shapes, b)) <= SIDE})),
            seed=config.store_seed,
            separable=config.self_influence == "estimated",
        )
        for spec in choose_documents(run.specs, SAMPLE_DOCUMENTS)
    ]
    parts: list[Sampled] = workers.map(sample_forms, todo, "Comparing forms of the store")
    joined = _joined(parts)
    share = (config.top / documents, config.candidates / documents)
    found = [
        *_factor_candidates(joined, shapes, budgets, share, config.store_dtype),
        *_dense_candidates(joined, shapes, share, plain),
    ]
    held = [c for c in found if c.numbers <= most_numbers(config)]
    return sorted(held, key=lambda c: (c.bytes, c.kind, c.dtype))


def _joined(parts: Sequence[Sampled]) -> Sampled:
    return Sampled(
        exact_QN=np.concatenate([p.exact_QN for p in parts], axis=1),
        dense={k: np.concatenate([p.dense[k] for p in parts], axis=1) for k in parts[0].dense},
        factors={
            k: np.concatenate([p.factors[k] for p in parts], axis=3) for k in parts[0].factors
        },
        gain_LR=np.sum([p.gain_LR for p in parts], axis=0),
    )


def _factor_candidates(
    sampled: Sampled,
    shapes: Mapping[str, tuple[int, int]],
    budgets: Sequence[int],
    share: tuple[float, float],
    dtype: str | None,
) -> list[Candidate]:
    found = []
    for name, terms_LRQN in sampled.factors.items():
        if dtype not in (None, name):
            continue
        seen: set[tuple[int, ...]] = set()
        for budget in sorted(budgets):
            ranks = allocated(sampled.gain_LR, shapes, FACTOR_DTYPES[name], budget)
            if not any(ranks) or tuple(ranks) in seen:
                continue
            seen.add(tuple(ranks))
            scores_QN = sum(
                terms_LRQN[i, :rank].sum(axis=0) for i, rank in enumerate(ranks) if rank
            )
            chosen = dict(zip(shapes, ranks, strict=True))
            form = StoredForm(sketch=low_rank_factors(shapes, chosen, 0), dtype=name)
            how = Candidate(
                kind="factors",
                dtype=name,
                numbers=form.sketch.dimension,
                bytes=form.bytes,
                detail={"ranks": chosen},
            )
            found.append(_measured(how, scores_QN, sampled.exact_QN, share))
    return found


def allocated(
    gain_LR: np.ndarray, shapes: Mapping[str, tuple[int, int]], bits: int, budget: int
) -> list[int]:
    """How many pairs of vectors each layer gets: those that explain most for each byte.

    Args:
        gain_LR: Squared length that each further pair of a layer explains, summed over documents.
        shapes: ``(O, I)`` of every layer.
        bits: Of a stored number.
        budget: Bytes of a document's vector.

    Returns:
        A rank a layer, whose pairs fit the budget together.
    """
    costs = [_pair_bytes(shape, bits) for shape in shapes.values()]
    most = [min(gain_LR.shape[1], *shape) for shape in shapes.values()]
    order = sorted(
        (-gain_LR[i, r] / costs[i], i, r) for i in range(len(costs)) for r in range(most[i])
    )
    ranks, left = [0] * len(costs), float(budget - SCALE)
    for _, i, r in order:
        if r == ranks[i] and costs[i] <= left:
            ranks[i], left = r + 1, left - costs[i]
    return ranks


def _pair_bytes(shape: tuple[int, int], bits: int) -> float:
    return sum(shape) * bits / 8 + FACTOR_SCALES


def _dense_candidates(
    sampled: Sampled,
    shapes: Mapping[str, tuple[int, int]],
    share: tuple[float, float],
    dtype: str,
) -> list[Candidate]:
    found = []
    for (kind, size), scores_QN in sampled.dense.items():
        numbers = _projected(shapes, size) if kind == "random" else size
        how = Candidate(
            kind=kind,
            dtype=dtype,
            numbers=numbers,
            bytes=numbers * NUMBER_BITS[dtype] // 8 + SCALE,
            detail={"side" if kind == "random" else "dimension": size},
        )
        found.append(_measured(how, scores_QN, sampled.exact_QN, share))
    return found


def _projected(shapes: Mapping[str, tuple[int, int]], side: int) -> int:
    return sum(min(side, o) * min(side, i) for o, i in shapes.values())


def _side(shapes: Mapping[str, tuple[int, int]], numbers: int) -> int:
    """The largest side of a projection that gives no more than so many numbers; 0: none."""
    widest = max(max(shape) for shape in shapes.values())
    return bisect_right(range(1, widest + 1), numbers, key=lambda p: _projected(shapes, p))


def _measured(
    form: Candidate, scores_QN: Any, exact_QN: np.ndarray, share: tuple[float, float]
) -> Candidate:
    """The candidate with its fidelity, over the queries that tell documents apart."""
    tells_Q = (np.ptp(scores_QN, axis=1) > 0) & (np.ptp(exact_QN, axis=1) > 0)
    if not tells_Q.any():
        return form
    agreement = fidelity(scores_QN[tells_Q], exact_QN[tells_Q])
    top, candidates = (max(1, round(s * exact_QN.shape[1])) for s in share)
    return replace(
        form,
        spearman=agreement.spearman,
        pearson=agreement.pearson,
        recall=recall(scores_QN, exact_QN, top, candidates),
    )


def most_numbers(config: RunConfig) -> int:
    """The longest vector of which a shard's worth fits into memory.

    Returns:
        Numbers of a vector.
    """
    return int(SHARD_GIGABYTES * 1e9 / config.documents_per_shard / 4)
