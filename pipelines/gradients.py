"""Stage 4: whitened gradients of every document, compressed, into the gradient store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import gradients_store
from gradients_store import Header
from influence.documents.curvature import to
from influence.documents.gradients import per_document_gradients
from influence.documents.preconditioner import LayerCurvature, effective_dimension
from influence.documents.scores import (
    Rows,
    directions,
    document_row,
    exact_scores,
    whitened_queries,
    whitened_rows,
)
from influence.documents.sketch import (
    Fidelity,
    Sketch,
    fidelity,
    full,
    random_projection,
    recall,
    top_eigen,
)
from influence.text import Batch, Chunk, collate
from pipelines.cluster import Workers
from pipelines.config import RunConfig
from pipelines.corpus import read_columns
from pipelines.curvature import read_curvature, read_tensors
from pipelines.errors import RunError
from pipelines.run_folder import Stage, key_of, new_file, seal
from pipelines.tokens import batches, read_chunks, shard_path
from pipelines.worker import ModelSpec, language_model, layers_of, naming_documents

BYTES = {"float32": 4, "float16": 2, "int8": 1}
SAMPLE_DOCUMENTS, SAMPLE_QUERIES, SAMPLE_GIGABYTES = 1024, 16, 1.0
SHARD_GIGABYTES = 1.0
"""Memory for the rows of one shard while it is filled (float32)."""


@dataclass(frozen=True, kw_only=True)
class IndexSpec:
    """One shard of the store, or one shard of the sample on which it is checked."""

    model: ModelSpec
    tokens: str
    curvature: str
    """Folder of the sealed curvature."""
    damping: float
    sketch: str
    """File of the sketch."""
    store: str
    header: Header | None
    """None: exact scoring only."""
    shard: int
    first: int
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    languages: tuple[str, ...]
    token_budget: int
    rows: tuple[int, ...] = ()
    """Documents of the sample in this shard."""
    queries: tuple[tuple[int, int], ...] = ()
    """``(shard, position of the chunk)`` of the sample's queries."""


# -- the story ------------------------------------------------------------------------------------


def build_store(
    config: RunConfig,
    root: Path,
    corpus: Stage,
    tokens: Stage,
    curvature: Stage,
    model: ModelSpec,
    workers: Workers,
) -> Stage:
    """Fill the gradient store and measure how faithful it is; run again to resume.

    Args:
        config: The run.
        root: The run's folder.
        corpus: The sealed corpus.
        tokens: The sealed token shards.
        curvature: The sealed curvature.
        model: The model, with its head as the curvature left it.
        workers: Where to run.

    Returns:
        The sealed stage; the store itself is its subfolder ``store``.
    """
    sketch = choose_sketch(config, curvature, tokens.info()["documents"])
    stage = Stage("gradients", store_key(config, curvature, sketch), root)
    if stage.is_sealed():
        return stage
    header = make_header(config, corpus, tokens, curvature, model, sketch)
    if not (stage.path / "sketch.safetensors").exists():
        save_sketch(stage.path / "sketch.safetensors", sketch)
    specs = plan_shards(config, corpus, tokens, curvature, model, stage, header)
    done = gradients_store.sealed_shards(stage.path / "store", header)
    workers.map(index_shard, [s for s in specs if s.shard not in done], "Gradients of documents")
    quality = check_store(specs, tokens, config, workers)
    shards = gradients_store.sealed_shards(stage.path / "store", header)
    if not (stage.path / "store" / "manifest.json").exists():
        gradients_store.seal(stage.path / "store", header, shards.values(), quality)
    return seal(stage, {**quality, "bytes": sum(s.bytes for s in shards.values())})


def choose_sketch(config: RunConfig, curvature: Stage, documents: int) -> Sketch:
    """Decide what to keep of each gradient; pure.

    Args:
        config: The run.
        curvature: The sealed curvature.
        documents: N.

    Returns:
        Full rows where they fit (under ``auto``), else the coordinates that matter most.
    """
    layers = read_curvature(curvature)
    shapes = shapes_of(curvature, layers)
    whole = sum(o * i for o, i in shapes.values())
    fitting = int(config.store_gigabytes * 1e9 / documents / BYTES[config.store_dtype])
    fitting = min(fitting, int(SHARD_GIGABYTES * 1e9 / config.documents_per_shard / 4))
    kind = config.store
    if kind == "auto":
        fits = whole <= fitting
        has_values = curvature.info()["kind"] != "identity"
        kind = "full" if fits else "top-eigen" if has_values else "random"
    if kind == "full":
        return full(shapes)
    if kind == "random":
        return random_projection(shapes, config.store_side, config.store_seed)
    return top_eigen(layers, config.damping, min(whole, max(1, fitting)))


def shapes_of(curvature: Stage, layers: Mapping[str, LayerCurvature]) -> dict[str, tuple[int, int]]:
    """``(O, I)`` of each layer, bias included.

    Returns:
        Shapes in the order of the vector.
    """
    described = curvature.info().get("shapes")
    if described is not None:
        return {name: (int(o), int(i)) for name, (o, i) in described.items()}
    return {n: tuple(x.eigenvalues_OI.shape) for n, x in layers.items()}  # type: ignore[union-attr]


def store_key(config: RunConfig, curvature: Stage, sketch: Sketch) -> str:
    """The key of a store.

    Returns:
        A hash.
    """
    return key_of(
        curvature=curvature.key,
        damping=config.damping,
        sketch=sketch.fingerprint(),
        dtype=config.store_dtype,
        shard=config.documents_per_shard,
    )


def make_header(
    config: RunConfig,
    corpus: Stage,
    tokens: Stage,
    curvature: Stage,
    model: ModelSpec,
    sketch: Sketch,
) -> Header:
    """Everything that changes the store's bytes.

    Returns:
        The header.
    """
    return Header(
        model=model.fingerprint,
        tokenizer=tokens.key,
        corpus=corpus.info()["content"],
        layers=tuple(sketch.shapes),
        curvature=curvature.key,
        curvature_kind=curvature.info()["kind"],
        damping=config.damping,
        sketch=sketch.kind,
        sketch_size=sketch.side if sketch.kind == "random" else sketch.dimension,
        sketch_seed=sketch.seed if sketch.kind == "random" else None,
        sketch_coordinates=None if sketch.kind == "full" else sketch.fingerprint(),
        dtype=config.store_dtype,
        dimension=sketch.dimension,
        n_documents=tokens.info()["documents"],
        shard_documents=config.documents_per_shard,
    )


def plan_shards(
    config: RunConfig,
    corpus: Stage,
    tokens: Stage,
    curvature: Stage,
    model: ModelSpec,
    stage: Stage | None,
    header: Header | None,
) -> list[IndexSpec]:
    """One spec a shard; pure.  Without a stage the specs serve exact scoring only.

    Returns:
        Specs in order.
    """
    table = read_columns(corpus, ["id", "source", "language"])
    size = config.documents_per_shard
    columns = {n: table.column(n).to_pylist() for n in ("id", "source", "language")}
    return [
        IndexSpec(
            model=model,
            tokens=str(tokens.path),
            curvature=str(curvature.path),
            damping=config.damping,
            sketch=str(stage.path / "sketch.safetensors") if stage else "",
            store=str(stage.path / "store") if stage else "",
            header=header,
            shard=shard,
            first=shard * size,
            ids=tuple(columns["id"][shard * size : (shard + 1) * size]),
            sources=tuple(columns["source"][shard * size : (shard + 1) * size]),
            languages=tuple(columns["language"][shard * size : (shard + 1) * size]),
            token_budget=config.token_budget,
        )
        for shard in range(tokens.info()["shards"])
    ]


# -- sketch file ----------------------------------------------------------------------------------


def save_sketch(path: Path, sketch: Sketch) -> None:
    """Write what the store keeps of each gradient.

    Args:
        path: A safetensors file.
        sketch: The sketch.
    """
    about = {"kind": sketch.kind, "side": sketch.side, "seed": sketch.seed}
    shapes = [[name, *shape] for name, shape in sketch.shapes.items()]
    # one entry, as safetensors writes several in any order, and equal sketches have equal bytes
    metadata = {"sketch": json.dumps({**about, "shapes": shapes})}
    with new_file(path) as temporary:
        save_file({"": torch.zeros(0), **sketch.coordinates}, temporary, metadata=metadata)


@lru_cache(maxsize=2)
def load_sketch(path: str) -> Sketch:
    """Read a sketch.

    Returns:
        The sketch.
    """
    from safetensors import safe_open

    tensors = read_tensors(Path(path))
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["sketch"])
    about["shapes"] = {name: (out, inputs) for name, out, inputs in about["shapes"]}
    return Sketch(**about, coordinates={n: t for n, t in tensors.items() if n})


@lru_cache(maxsize=1)
def load_curvature(folder: str, device: str) -> dict[str, LayerCurvature]:
    """Read a sealed curvature once in each process.

    Returns:
        Each layer's curvature on a device.
    """
    path = Path(folder)
    stage = Stage(path.parent.name, path.name, path.parent.parent)
    like = torch.zeros((), device=device)
    return {name: to(layer, like) for name, layer in read_curvature(stage).items()}


# -- steps (each runs on a worker) ----------------------------------------------------------------


def index_shard(spec: IndexSpec) -> str:
    """Compute, whiten and compress the gradients of one shard, and write it.

    Returns:
        The shard's file name.
    """
    loaded = language_model(spec.model)
    chunks = read_chunks(shard_path(Path(spec.tokens), spec.shard))
    assert spec.header is not None
    rows = _Rows(len(spec.ids), spec.header.dimension)
    with naming_documents(spec.ids, spec.first):
        for number, result in _shard_rows(spec, chunks):
            rows.put(number, result)
    for chunk in chunks:
        rows.n_tokens[chunk.document - spec.first] += int(chunk.loss.sum())
    del loaded
    info = gradients_store.write_shard(
        spec.store,
        spec.shard,
        gradients_store.Rows(
            id=list(spec.ids),
            source=list(spec.sources),
            language=list(spec.languages),
            n_tokens=rows.n_tokens,
            loss=rows.loss,
            self_influence=rows.self_influence,
            gradient_norm=rows.norm,
            vector=rows.vectors,
        ),
        spec.header,
    )
    return info.name


class _Rows:
    """The rows of one shard while it is filled (``put`` changes it)."""

    def __init__(self, count: int, dimension: int) -> None:
        self.vectors = np.zeros((count, dimension), dtype=np.float32)
        self.loss = np.zeros(count, dtype=np.float32)
        self.self_influence = np.zeros(count, dtype=np.float32)
        self.norm = np.zeros(count, dtype=np.float32)
        self.n_tokens = np.zeros(count, dtype=np.int32)

    def put(self, number: list[int], rows: Rows) -> None:
        self.vectors[number] = rows.vectors_BP.cpu().numpy()
        self.loss[number] = rows.forward.loss_B.cpu().numpy()
        self.self_influence[number] = rows.self_influence_B.cpu().numpy()
        self.norm[number] = rows.squared_norm_B.sqrt().cpu().numpy()


def _shard_rows(spec: IndexSpec, chunks: Sequence[Chunk]) -> Any:
    loaded, layers = language_model(spec.model), layers_of(spec.model)
    curvature = load_curvature(spec.curvature, str(loaded.device))
    sketch = load_sketch(spec.sketch)
    arguments = (loaded.model, layers, curvature, spec.damping, sketch)
    long: dict[int, list[Batch]] = {}
    for work in batches(chunks, loaded.pad_id, spec.token_budget):
        numbers = [chunks[i].document - spec.first for i in work.rows]
        if work.part_of_document:
            long.setdefault(numbers[0], []).append(work.batch)
            continue
        yield numbers, whitened_rows(*arguments, work.batch.to(loaded.device))
    for number, parts in long.items():
        yield [number], document_row(*arguments, [b.to(loaded.device) for b in parts])


# -- fidelity -------------------------------------------------------------------------------------


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
    sample = np.unique(np.linspace(0, documents - 1, min(documents, SAMPLE_DOCUMENTS)).astype(int))
    size = config.documents_per_shard
    queries = _sample_queries(tokens, specs[0])
    sampled = [
        replace(s, rows=tuple(int(i) for i in sample if i // size == s.shard), queries=queries)
        for s in specs
    ]
    parts = workers.map(score_sample, [s for s in sampled if s.rows], "Checking the store")
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


def _sample_queries(tokens: Stage, spec: IndexSpec) -> tuple[tuple[int, int], ...]:
    """As many queries as fit into memory, spread over the corpus."""
    sketch = load_sketch(spec.sketch)
    parameters = sum(o * i for o, i in sketch.shapes.values())
    count = int(np.clip(SAMPLE_GIGABYTES * 1e9 / (parameters * 12), 2, SAMPLE_QUERIES))
    shards = tokens.info()["shards"]
    chosen = []
    for i in range(count):
        shard = int(i * shards / count)
        chunks = read_chunks(shard_path(tokens.path, shard))
        position = (i * 7919) % len(chunks)
        if (shard, position) not in chosen:
            chosen.append((shard, position))
    return tuple(chosen)


def score_sample(spec: IndexSpec) -> tuple[np.ndarray, np.ndarray]:
    """Exact and stored scores of one shard's part of the sample.

    Returns:
        Two arrays ``[Q, documents of the sample in this shard]``, in nats times N.
    """
    loaded, layers = language_model(spec.model), layers_of(spec.model)
    query_QP, solved = _sample_queries_solved(replace(spec, **EVERY_SHARD))
    chunks = read_chunks(shard_path(Path(spec.tokens), spec.shard))
    wanted = {row: i for i, row in enumerate(spec.rows)}
    own = [c for c in chunks if c.document in wanted]
    exact_QN = torch.zeros(len(query_QP), len(wanted))
    for work in batches(own, loaded.pad_id, spec.token_budget):
        scored = exact_scores(loaded.model, layers, work.batch.to(loaded.device), solved)
        columns = torch.tensor([wanted[int(d)] for d in work.batch.document])
        exact_QN.index_add_(1, columns, scored.scores_QB.cpu())
    stored_NP = stored_vectors(spec, [row - spec.first for row in spec.rows])
    return exact_QN.numpy(), query_QP @ stored_NP.T


EVERY_SHARD: dict[str, Any] = {
    "shard": 0,
    "first": 0,
    "ids": (),
    "sources": (),
    "languages": (),
    "rows": (),
}
"""A spec without what differs from shard to shard, to keep the queries of a sample by."""


@lru_cache(maxsize=1)
def _sample_queries_solved(spec: IndexSpec) -> tuple[np.ndarray, dict[str, Tensor]]:
    """The sample's queries as vectors ``[Q, P]`` and preconditioned; once in each process."""
    device = str(language_model(spec.model).device)
    curvature, sketch = load_curvature(spec.curvature, device), load_sketch(spec.sketch)
    gradients = _sample_gradients(spec)
    query_QP = whitened_queries(curvature, spec.damping, sketch, gradients)
    return query_QP.cpu().numpy(), directions(curvature, spec.damping, gradients)


def stored_vectors(spec: IndexSpec, rows: Sequence[int]) -> np.ndarray:
    """Vectors of one finished shard, before the store is sealed.

    Returns:
        ``[len(rows), P]`` float32.
    """
    return gradients_store.shard_vectors(spec.store, spec.shard, list(rows))


def _sample_gradients(spec: IndexSpec) -> dict[str, Tensor]:
    loaded, layers = language_model(spec.model), layers_of(spec.model)
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for shard, position in spec.queries:
        chunk = read_chunks(shard_path(Path(spec.tokens), shard))[position]
        loss = chunk.loss.copy()
        counted = np.flatnonzero(loss)
        loss[counted[: (3 * len(counted)) // 4]] = False
        batch = collate([Chunk(0, 0, chunk.tokens, loss)], loaded.pad_id).to(loaded.device)
        rows, _ = per_document_gradients(loaded.model, layers, batch)
        for name, gradient_QOI in rows.items():
            found[name].append(gradient_QOI)
    return {name: torch.cat(parts) for name, parts in found.items()}


def open_checked(stage: Stage, header: Header) -> gradients_store.Store:
    """Open a sealed stage's store, refusing other settings.

    Returns:
        The store.

    Raises:
        RunError: If the stage is not sealed.
    """
    if not stage.is_sealed():
        raise RunError(
            f"Gradient store {stage.path}: not finished, a sealed store was expected. "
            "Run `influence run` (or `influence index`) again: it goes on where it stopped."
        )
    return gradients_store.open_store(stage.path / "store", expect=header)
