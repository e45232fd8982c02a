"""Stage 4: whitened gradients of every document, compressed, into the gradient store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gradients_store
from gradients_store import Header
from influence.documents.preconditioner import LayerCurvature
from pipelines.cluster import Workers
from pipelines.config import RunConfig
from pipelines.corpus import read_columns
from pipelines.curvature import read_curvature
from pipelines.errors import RunError
from pipelines.form_candidates import Fitted
from pipelines.gradient_files import IndexSpec, StoredForm, save_form
from pipelines.gradient_steps import index_shard
from pipelines.run_folder import Stage, key_of, seal
from pipelines.store_check import check_store
from pipelines.store_forms import choose_form, describe_choice
from pipelines.store_sample import choose_queries
from pipelines.tokens import shard_bytes
from pipelines.worker import ModelSpec


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
    run = fitted(config, corpus, tokens, curvature, model)
    form, forms = choose_form(config, lambda key: Stage("forms", key, root), run, workers)
    if forms is not None:
        workers.console.print(describe_choice(forms, form))
    stage = Stage("gradients", store_key(config, curvature, form), root)
    if stage.is_sealed():
        return stage
    header = make_header(config, corpus, tokens, curvature, model, form)
    if not (stage.path / "sketch.safetensors").exists():
        save_form(stage.path / "sketch.safetensors", form)
    specs = [_stored(spec, stage, header) for spec in run.specs]
    done = gradients_store.sealed_shards(stage.path / "store", header)
    todo = [spec for spec in specs if spec.shard not in done]
    todo.sort(key=lambda spec: -shard_bytes(tokens.path, spec.shard))  # longest first
    workers.map(index_shard, todo, "Gradients of documents")
    quality = check_store(specs, tokens, config, workers)
    shards = gradients_store.sealed_shards(stage.path / "store", header)
    if not (stage.path / "store" / "manifest.json").exists():
        gradients_store.seal(stage.path / "store", header, shards.values(), quality)
    compared = {} if forms is None else {"forms": forms.info()}
    return seal(stage, {**quality, **compared, "bytes": sum(s.bytes for s in shards.values())})


def fitted(
    config: RunConfig, corpus: Stage, tokens: Stage, curvature: Stage, model: ModelSpec
) -> Fitted:
    """What forms of a run's store are measured on.

    Returns:
        Shards without a store, the curvature, and the sample's queries.
    """
    layers = read_curvature(curvature)
    shapes = shapes_of(curvature, layers)
    return Fitted(
        specs=plan_shards(config, corpus, tokens, curvature, model, None, None),
        curvature=layers,
        shapes=shapes,
        queries=choose_queries(tokens, sum(o * i for o, i in shapes.values())),
    )


def shapes_of(curvature: Stage, layers: Mapping[str, LayerCurvature]) -> dict[str, tuple[int, int]]:
    """``(O, I)`` of each layer, bias included.

    Returns:
        Shapes in the order of the vector.
    """
    described = curvature.info().get("shapes")
    if described is not None:
        return {name: (int(o), int(i)) for name, (o, i) in described.items()}
    return {n: tuple(x.eigenvalues_OI.shape) for n, x in layers.items()}  # type: ignore[union-attr]


def store_key(config: RunConfig, curvature: Stage, form: StoredForm) -> str:
    """The key of a store.

    Returns:
        A hash.
    """
    estimated = {"self_influence": "estimated"} if config.self_influence == "estimated" else {}
    return key_of(
        curvature=curvature.key,
        damping=config.damping,
        sketch=form.sketch.fingerprint(),
        dtype=form.dtype,
        shard=config.documents_per_shard,
        **estimated,
    )


def make_header(
    config: RunConfig,
    corpus: Stage,
    tokens: Stage,
    curvature: Stage,
    model: ModelSpec,
    form: StoredForm,
) -> Header:
    """Everything that changes the store's bytes.

    Returns:
        The header.
    """
    sketch = form.sketch
    sizes = {"random": sketch.side, "factors": sum(sketch.ranks.values())}
    factors = tuple((sketch.ranks[n], *shape) for n, shape in sketch.shapes.items() if sketch.ranks)
    return Header(
        model=model.fingerprint,
        tokenizer=tokens.key,
        corpus=corpus.info()["content"],
        layers=tuple(sketch.shapes),
        curvature=curvature.key,
        curvature_kind=curvature.info()["kind"],
        damping=config.damping,
        sketch=sketch.kind,
        sketch_size=sizes.get(sketch.kind, sketch.dimension),
        sketch_seed=sketch.seed if sketch.kind in sizes else None,
        sketch_coordinates=None if sketch.kind == "full" else sketch.fingerprint(),
        dtype=form.dtype,
        dimension=sketch.dimension,
        factors=factors or None,
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
    specs = [
        IndexSpec(
            model=model,
            tokens=str(tokens.path),
            curvature=str(curvature.path),
            damping=config.damping,
            sketch="",
            store="",
            header=None,
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
    if stage is None or header is None:
        return specs
    return [_stored(spec, stage, header) for spec in specs]


def _stored(spec: IndexSpec, stage: Stage, header: Header) -> IndexSpec:
    sketch, store = stage.path / "sketch.safetensors", stage.path / "store"
    return replace(spec, sketch=str(sketch), store=str(store), header=header)


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
