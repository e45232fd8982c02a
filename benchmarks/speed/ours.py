"""The project's own functions; point these three stages at new ones as they come."""

from __future__ import annotations

import importlib
from typing import Any

import curvlinops  # noqa: F401  # five seconds that belong to no stage
import numpy as np
import torch

from benchmarks.speed.setting import SIDE, Job, load_model
from influence.documents import curvature, gradients, labels, scores, sketch
from influence.documents.preconditioner import LayerCurvature
from influence.models import tracked_layers
from influence.text import Batch, Chunk, collate, with_targets

FACTOR = 0.1


def load(job: Job) -> Any:
    model = load_model(job.model)
    return model, tracked_layers(model, ("attention", "mlp"))


def _batches(job: Job, drawn_from: Any = None) -> list[Batch]:
    counted = np.arange(job.documents.shape[1]) > 0
    tokens = job.documents.numpy().astype(np.int32)
    chunks = [Chunk(number, 0, row, counted) for number, row in enumerate(tokens)]
    found = []
    for start in range(0, len(chunks), job.rows):
        rows = chunks[start : start + job.rows]
        batch = collate(rows, pad_id=0)
        if drawn_from is not None:
            names = [f"document-{chunk.document}" for chunk in rows]
            drawn = labels.sample_labels(drawn_from, batch, names, seed=0)
            batch = with_targets(batch, drawn, rows)
        found.append(batch)
    return found


def _passes(job: Job) -> Any:
    """Where the two passes of the fit are: our own, or curvlinops'."""
    try:
        name = "curvlinops_fit" if job.system == "curvlinops" else "fit"
        return importlib.import_module(f"influence.documents.{name}")
    except ModuleNotFoundError:  # revisions that know curvlinops alone
        return curvature


def fit(state: Any, job: Job) -> None:
    model, layers = state
    passes = _passes(job)
    batches = _batches(job, model if job.labels == "sampled" else None)
    sums = passes.kronecker_sums(model, layers, batches)
    bases = {x.name: curvature.eigenbasis(sums, x.name) for x in layers}
    squares = passes.eigenvalue_sums(model, layers, bases, batches)
    fisher = {x.name: vars(curvature.ekfac(bases[x.name], squares, x.name)) for x in layers}
    torch.save(fisher, job.out / "curvature.pt")


def _fisher(job: Job) -> dict[str, LayerCurvature]:
    found = torch.load(job.fitted / "curvature.pt")
    return {
        name: LayerCurvature(**{key: value.float() for key, value in layer.items()})
        for name, layer in found.items()
    }


def index(state: Any, job: Job) -> None:
    model, layers = state
    fisher = _fisher(job)
    shapes = {x.name: (x.out_features, x.in_features) for x in layers}
    kept = sketch.random_projection(shapes, side=SIDE, seed=0)
    rows = [
        scores.whitened_rows(model, layers, fisher, FACTOR, kept, batch).vectors_BP
        for batch in _batches(job)
    ]
    np.save(job.out / "vectors.npy", torch.cat(rows).numpy())


def score(state: Any, job: Job) -> None:
    model, layers = state
    counted = np.arange(job.queries.shape[1]) > 0
    tokens = job.queries.numpy().astype(np.int32)
    batch = collate([Chunk(n, 0, row, counted) for n, row in enumerate(tokens)], pad_id=0)
    found, _ = gradients.per_document_gradients(model, layers, batch)
    solved = scores.directions(_fisher(job), FACTOR, found)
    parts = [scores.exact_scores(model, layers, b, solved).scores_QB for b in _batches(job)]
    np.save(job.out / "scores.npy", torch.cat(parts, dim=1).numpy())


STAGES = {"fit": fit, "index": index, "scores": score}
