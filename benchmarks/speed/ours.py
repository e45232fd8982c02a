"""The project's own functions; point these three stages at new ones as they come."""

from __future__ import annotations

from typing import Any

import curvlinops  # noqa: F401  # five seconds that belong to no stage
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import gradients_store
from benchmarks.speed.setting import RANK, SIDE, Job, load_model
from influence.documents import (
    curvature,
    curvlinops_fit,
    labels,
    scores,
    sketch,
    whitening,
)
from influence.documents import fit as hooks_fit
from influence.documents.preconditioner import LayerCurvature
from influence.models import tracked_layers
from influence.text import Batch, Chunk, collate, with_targets

FACTOR = 0.1


def load(job: Job) -> Any:
    model = load_model(job.model)
    return model, tracked_layers(model, ("attention", "mlp"))


def _chunks(tokens: Tensor) -> list[Chunk]:
    counted = np.arange(tokens.shape[1]) > 0
    rows = tokens.numpy().astype(np.int32)
    return [Chunk(number, 0, row, counted) for number, row in enumerate(rows)]


def _batches(job: Job) -> list[Batch]:
    chunks = _chunks(job.documents)
    return [collate(chunks[i : i + job.rows], 0) for i in range(0, len(chunks), job.rows)]


def fit(state: Any, job: Job) -> None:
    """As the pipeline does it: the first pass draws the labels, the second has them again."""
    model, layers = state
    passes = curvlinops_fit if job.system == "curvlinops" else hooks_fit
    chunks, labelled = _chunks(job.documents), []

    def draw(batch: Batch, logits_BTV: Tensor) -> Batch:
        if job.labels == "sampled":
            rows = [chunks[number] for number in batch.document.tolist()]
            names = [f"document-{chunk.document}" for chunk in rows]
            batch = with_targets(batch, labels.labels_from(logits_BTV, batch, names, 0), rows)
        labelled.append(batch)
        return batch

    sums = passes.kronecker_sums(model, layers, _batches(job), draw)
    bases = {
        x.name: curvature.narrowed(curvature.eigenbasis(sums, x.name), torch.float32)
        for x in layers
    }
    del sums
    squares = passes.eigenvalue_sums(model, layers, bases, labelled)
    tensors = {
        f"{x.name}/{key}": value.float().contiguous()
        for x in layers
        for key, value in vars(curvature.ekfac(bases[x.name], squares, x.name)).items()
    }
    save_file(tensors, job.out / "curvature.safetensors")


def _fisher(job: Job) -> dict[str, LayerCurvature]:
    layers: dict[str, dict[str, Tensor]] = {}
    for place, value in load_file(job.fitted / "curvature.safetensors").items():
        name, key = place.rsplit("/", 1)
        layers.setdefault(name, {})[key] = value
    return {name: LayerCurvature(**parts) for name, parts in layers.items()}


def index(state: Any, job: Job) -> None:
    _, layers = state
    fisher = _fisher(job)
    shapes = {x.name: (x.out_features, x.in_features) for x in layers}
    kept = sketch.random_projection(shapes, side=SIDE, seed=0, separable=True)
    _store(state, job, fisher, kept, "int8")


def factors(state: Any, job: Job) -> None:
    _, layers = state
    fisher = _fisher(job)
    shapes = {x.name: (x.out_features, x.in_features) for x in layers}
    kept = sketch.low_rank_factors(shapes, dict.fromkeys(shapes, RANK), seed=0, separable=True)
    _store(state, job, fisher, kept, "int2")


def _store(
    state: Any, job: Job, fisher: dict[str, LayerCurvature], kept: sketch.Sketch, dtype: str
) -> None:
    """As the pipeline does it: rows of a batch at a time into a shard, which is then written."""
    model, layers = state
    ready = whitening.prepare(fisher, FACTOR, kept, exact=False)
    count = len(job.documents)
    vectors = np.zeros((count, kept.dimension), dtype=np.float32)
    columns = {n: np.zeros(count, dtype=np.float32) for n in ("loss", "own", "norm")}
    for batch in _batches(job):
        rows, number = scores.whitened_rows(model, layers, ready, batch), batch.document.numpy()
        vectors[number] = rows.vectors_BP.numpy()
        columns["loss"][number] = rows.forward.loss_B.numpy()
        columns["own"][number] = rows.self_influence_B.numpy()
        columns["norm"][number] = rows.squared_norm_B.sqrt().numpy()
    header = gradients_store.Header(
        **dict.fromkeys(("model", "tokenizer", "corpus", "curvature"), "bench"),
        layers=tuple(kept.shapes),
        curvature_kind="ekfac",
        damping=FACTOR,
        sketch=kept.kind,
        sketch_size=kept.dimension,
        sketch_seed=kept.seed,
        sketch_coordinates=kept.fingerprint(),
        dtype=dtype,
        dimension=kept.dimension,
        factors=tuple((kept.ranks[n], *shape) for n, shape in kept.shapes.items() if kept.ranks)
        or None,
        n_documents=count,
        shard_documents=count,
    )
    gradients_store.write_shard(
        job.out / "store",
        0,
        gradients_store.Rows(
            id=[str(number) for number in range(count)],
            source=["bench"] * count,
            language=["none"] * count,
            n_tokens=np.full(count, job.documents.shape[1] - 1, dtype=np.int32),
            loss=columns["loss"],
            self_influence=columns["own"],
            gradient_norm=columns["norm"],
            vector=vectors,
        ),
        header,
    )


def score(state: Any, job: Job) -> None:
    model, layers = state
    fisher, queries = _fisher(job), _chunks(job.queries)
    asked = (collate(queries[i : i + 8], 0) for i in range(0, len(queries), 8))
    found = (scores.solve_queries(model, layers, batch, fisher, FACTOR) for batch in asked)
    solved = scores.joined_directions((x.directions for x in found), len(queries))
    parts = [scores.exact_scores(model, layers, b, solved).scores_QB for b in _batches(job)]
    np.save(job.out / "scores.npy", torch.cat(parts, dim=1).numpy())


STAGES = {"fit": fit, "index": index, "factors": factors, "scores": score}
