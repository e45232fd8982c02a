"""How faithful a store is: its scores against exact ones, on a sample of documents and queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gradients_store
from influence.documents.fidelity import Fidelity, fidelity, recall
from influence.documents.preconditioner import effective_dimension
from influence.documents.scores import directions, exact_scores, whitened_queries
from influence.documents.sketch import scores
from pipelines.cluster import Workers
from pipelines.config import RunConfig
from pipelines.errors import RunError
from pipelines.gradient_files import IndexSpec, load_curvature, load_sketch
from pipelines.run_folder import Stage
from pipelines.store_sample import choose_documents, choose_queries, sample_gradients
from pipelines.tokens import batches, read_chunks, shard_path
from pipelines.worker import language_model, layers_of

SAMPLE_DOCUMENTS = 1024


def check_store(
    specs: Sequence[IndexSpec], tokens: Stage, config: RunConfig, workers: Workers
) -> dict[str, Any]:
    """Compare the store's scores with exact ones on a sample of documents and queries.

    The queries are the last quarters of documents, given what stands before them.

    Args:
        specs: All shards.
        tokens: The sealed token shards.
        config: The run.
        workers: Where to run.

    Returns:
        Fidelity, recall, dimensions; what the header calls quality.
    """
    header = specs[0].header
    assert header is not None
    documents = header.n_documents
    shapes = load_sketch(specs[0].sketch).shapes.values()
    queries = choose_queries(tokens, sum(o * i for o, i in shapes))
    sampled = [replace(s, queries=queries) for s in choose_documents(specs, SAMPLE_DOCUMENTS)]
    parts = workers.map(score_sample, sampled, "Checking the store")
    exact_QN = np.concatenate([p[0] for p in parts], axis=1)
    stored_QN = np.concatenate([p[1] for p in parts], axis=1)
    agreement = _agreement(stored_QN, exact_QN)
    share = min(1.0, config.candidates / documents)
    candidates = max(1, round(share * exact_QN.shape[1]))
    top = max(1, round(config.top * exact_QN.shape[1] / documents))
    return {
        "fidelity": vars(agreement),
        "recall": {
            "at": config.top,
            "candidates": config.candidates,
            "value": recall(stored_QN, exact_QN, top, candidates),
            "queries": len(exact_QN),
            "documents": exact_QN.shape[1],
        },
        "effective_dimension": _effective_dimension(specs[0]),
        "dimension": header.dimension,
    }


def _agreement(stored_QN: np.ndarray, exact_QN: np.ndarray) -> Fidelity:
    """Over the queries that tell documents apart."""
    tells_Q = (np.ptp(stored_QN, axis=1) > 0) & (np.ptp(exact_QN, axis=1) > 0)
    if not tells_Q.any():
        raise RunError(
            f"Checking the store: {exact_QN.shape[1]} documents score alike for each of "
            f"{len(exact_QN)} queries, documents that differ were expected. Look at the corpus; if "
            "its texts differ, the model has learned nothing or `layers` leaves everything out."
        )
    return fidelity(stored_QN[tells_Q], exact_QN[tells_Q])


def _effective_dimension(spec: IndexSpec) -> float | None:
    layers = load_curvature(spec.curvature, "cpu").values()
    if any(layer.eigenvalues_OI is None for layer in layers):
        return None
    return sum(effective_dimension(layer, spec.damping) for layer in layers)


def score_sample(spec: IndexSpec) -> tuple[np.ndarray, np.ndarray]:
    """Exact and stored scores of one shard's part of the sample.

    Returns:
        Two arrays ``[Q, documents of the sample in this shard]``, in nats times N.
    """
    loaded, layers = language_model(spec.model), layers_of(spec.model)
    query_QP, solved = _sample_queries_solved(spec.of_every_shard())
    chunks = read_chunks(shard_path(Path(spec.tokens), spec.shard))
    wanted = {row: i for i, row in enumerate(spec.rows)}
    own = [c for c in chunks if c.document in wanted]
    exact_QN = torch.zeros(len(query_QP), len(wanted))
    for work in batches(own, loaded.pad_id, spec.token_budget):
        scored = exact_scores(loaded.model, layers, work.batch.to(loaded.device), solved)
        columns = torch.tensor([wanted[int(d)] for d in work.batch.document])
        exact_QN.index_add_(1, columns, scored.scores_QB.cpu())
    stored_NP = stored_vectors(spec, [row - spec.first for row in spec.rows])
    stored_QN = scores(load_sketch(spec.sketch), query_QP, torch.from_numpy(stored_NP).to(query_QP))
    return exact_QN.numpy(), stored_QN.cpu().numpy()


@lru_cache(maxsize=1)
def _sample_queries_solved(spec: IndexSpec) -> tuple[Tensor, dict[str, Tensor]]:
    """The sample's queries as vectors ``[Q, P]`` and preconditioned; once in each process."""
    device = str(language_model(spec.model).device)
    curvature, sketch = load_curvature(spec.curvature, device), load_sketch(spec.sketch)
    gradients = sample_gradients(spec)
    query_QP = whitened_queries(curvature, spec.damping, sketch, gradients)
    return query_QP, directions(curvature, spec.damping, gradients)


def stored_vectors(spec: IndexSpec, rows: Sequence[int]) -> np.ndarray:
    """Vectors of one finished shard, before the store is sealed.

    Returns:
        ``[len(rows), P]`` float32.
    """
    return gradients_store.shard_vectors(spec.store, spec.shard, list(rows))
