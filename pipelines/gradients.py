"""Stage 4: whitened gradients of every document, compressed, into the gradient store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gradients_store
from gradients_store import Header
from influence.documents.preconditioner import LayerCurvature
from influence.documents.sketch import Sketch, full, random_projection, top_eigen
from pipelines.cluster import Workers
from pipelines.config import RunConfig
from pipelines.corpus import read_columns
from pipelines.curvature import read_curvature
from pipelines.errors import RunError
from pipelines.gradient_files import IndexSpec, save_sketch
from pipelines.gradient_steps import index_shard
from pipelines.run_folder import Stage, key_of, seal
from pipelines.store_check import check_store
from pipelines.worker import ModelSpec

BYTES = {"float32": 4, "float16": 2, "int8": 1}
SHARD_GIGABYTES = 1.0
"""Memory for the rows of one shard while it is filled (float32)."""


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
    estimated = {"self_influence": "estimated"} if config.self_influence == "estimated" else {}
    return key_of(
        curvature=curvature.key,
        damping=config.damping,
        sketch=sketch.fingerprint(),
        dtype=config.store_dtype,
        shard=config.documents_per_shard,
        **estimated,
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
            exact_self_influence=config.self_influence == "exact",
        )
        for shard in range(tokens.info()["shards"])
    ]


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
