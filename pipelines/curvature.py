"""Stage 3: the Fisher's approximation, in two passes of partial sums over the shards.

labels -> (output subspace of a large head) -> factors -> eigenbases -> eigenvalues -> quality.
Every step leaves its own file, so that a killed fit goes on inside the step.  Partial sums are plain
sums merged in a fixed order: their number changes nothing beyond rounding.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from influence.documents import curvature as fisher
from influence.documents.coverage import coverage
from influence.documents.gradients import logits_of, refuse_not_finite, token_losses
from influence.documents.head import (
    OutputSketch,
    merge_sketches,
    output_subspace,
    sketch_output_factor,
)
from influence.documents.labels import sample_labels
from influence.documents.noise import label_noise
from influence.documents.preconditioner import LayerCurvature
from influence.layers import Layer, head_name
from influence.text import Batch, Chunk, with_targets
from pipelines.cluster import Workers
from pipelines.config import RunConfig
from pipelines.errors import RunError
from pipelines.run_folder import PARTIAL, Stage, key_of, new_file, seal, write_json
from pipelines.tokens import batches, read_chunks, read_table, shard_path, write_table
from pipelines.worker import ModelSpec, language_model, layers_of, naming_documents

NOISE_DOCUMENTS, NOISE_DRAWS, COVERAGE_DOCUMENTS = 64, 2, 16


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """One task of the fit."""

    model: ModelSpec
    tokens: str
    """Folder of the token shards."""
    out: str
    """Folder of the curvature."""
    shards: tuple[int, ...]
    token_budget: int
    labels: str
    seed: int
    ids: tuple[str, ...] = ()
    """Document ids of the shards, in order (label sampling only)."""
    first: int = 0
    """Row of the first of these ids."""
    layers: tuple[str, ...] = ()
    """Layers of this pass."""
    diagonal: bool = False
    rank: int = 0
    part: str = ""
    """Name of the partial file."""
    parts: tuple[str, ...] = ()
    """Names of the partial files to merge, in order."""


# -- the story ------------------------------------------------------------------------------------


def build_curvature(
    config: RunConfig,
    root: Path,
    tokens: Stage,
    ids: Sequence[str],
    model: ModelSpec,
    workers: Workers,
) -> Stage:
    """Fit the curvature of the tracked layers; run again to resume inside its steps.

    Args:
        config: The run.
        root: The run's folder.
        tokens: The sealed token shards.
        ids: All documents' ids.
        model: The model, with an exact head.
        workers: Where to run.

    Returns:
        The sealed stage: one safetensors file a layer, and quality figures in its info.
    """
    stage = Stage("curvature", curvature_key(config, tokens, model), root)
    if stage.is_sealed():
        shutil.rmtree(stage.path / PARTIAL, ignore_errors=True)
        return stage
    with naming_documents(ids, 0):
        seal(stage, _fit(config, stage, tokens, ids, model, workers))
    shutil.rmtree(stage.path / PARTIAL, ignore_errors=True)
    return stage


def _fit(
    config: RunConfig,
    stage: Stage,
    tokens: Stage,
    ids: Sequence[str],
    model: ModelSpec,
    workers: Workers,
) -> dict[str, Any]:
    base = FitSpec(
        model=model,
        tokens=str(tokens.path),
        out=str(stage.path),
        shards=chosen_shards(config, tokens),
        token_budget=config.token_budget,
        labels=config.labels,
        seed=config.label_seed,
        diagonal=config.curvature == "diagonal",
        rank=config.head_rank,
    )
    if config.labels == "sampled":
        _labels(base, config, ids, workers)
    base = _with_head(base, config, workers)
    layers = describe_layers(base, workers)
    passes = _passes(config, layers)
    if config.curvature in ("ekfac", "kfac"):
        _each(partial_factors, "factors", base, passes, config.partitions, workers)
        _bases(base, passes, config.partitions, workers)
    if config.curvature in ("ekfac", "diagonal"):
        _each(partial_eigenvalues, "eigenvalues", base, passes, config.partitions, workers)
    shapes = {x.name: [x.out_features, x.in_features + int(x.bias)] for x in layers}
    return {**_finish(config, base, passes, workers), "shapes": shapes}


def curvature_key(config: RunConfig, tokens: Stage, model: ModelSpec) -> str:
    """The key of a curvature: everything that changes it beyond rounding.

    Returns:
        A hash.
    """
    return key_of(
        tokens=tokens.key,
        model=model.fingerprint,
        layers=config.layers,
        kind=config.curvature,
        labels=config.labels,
        seed=config.label_seed,
        documents=config.curvature_documents,
        exact_head=config.exact_head,
        head_rank=config.head_rank,
        token_budget=config.token_budget,
    )


def chosen_shards(config: RunConfig, tokens: Stage) -> tuple[int, ...]:
    """The shards that the curvature is fitted on, evenly spaced.

    Returns:
        Shard numbers.
    """
    count = tokens.info()["shards"]
    if config.curvature_documents is None:
        return tuple(range(count))
    wanted = -(-config.curvature_documents // config.documents_per_shard)
    wanted = min(wanted, count)
    return tuple(sorted({int(i * count / wanted) for i in range(wanted)}))


def cut(shards: Sequence[int], parts: int) -> list[tuple[int, ...]]:
    """Contiguous, nearly equal parts; pure.

    Returns:
        At most ``parts`` non-empty tuples.
    """
    parts = min(parts, len(shards))
    edges = [round(i * len(shards) / parts) for i in range(parts + 1)]
    return [tuple(shards[a:b]) for a, b in pairwise(edges)]


def _labels(base: FitSpec, config: RunConfig, ids: Sequence[str], workers: Workers) -> None:
    size = config.documents_per_shard
    specs = [
        replace(
            base,
            shards=(s,),
            first=s * size,
            ids=tuple(ids[s * size : (s + 1) * size]),
        )
        for s in base.shards
        if not _labels_path(base, s).exists()
    ]
    workers.map(draw_labels, specs, "Drawing labels for the Fisher")


def _with_head(base: FitSpec, config: RunConfig, workers: Workers) -> FitSpec:
    """Give a large vocabulary's head a low-rank output factor."""
    out = Path(base.out) / "head.safetensors"
    if not out.exists():
        [name, vocabulary] = workers.map(describe_head, [base], "Looking at the head")[0]
        if not name or vocabulary <= config.exact_head:
            return base
        names = _parts("head", base.shards, config.partitions)
        specs = [
            replace(base, shards=s, part=p) for p, s in names if not _partial(base, p).exists()
        ]
        workers.map(partial_head, specs, "Finding the head's directions")
        workers.map(
            merge_head, [replace(base, part=name, parts=tuple(p for p, _ in names))], "Merging them"
        )
    return replace(base, model=replace(base.model, head_basis=str(out)))


def _parts(what: str, shards: Sequence[int], count: int) -> list[tuple[str, tuple[int, ...]]]:
    pieces = cut(shards, count)
    return [(f"{what}-{i + 1}-of-{len(pieces)}", piece) for i, piece in enumerate(pieces)]


def _passes(config: RunConfig, layers: Sequence[Layer]) -> list[tuple[str, ...]]:
    """Group layers so that the factors of a pass fit into memory (float64 sums beside float32)."""
    budget, passes, used = config.factor_gigabytes * 1e9, [[]], 0.0  # type: ignore[var-annotated]
    for layer in layers:
        size = 12.0 * (layer.out_features**2 + (layer.in_features + 1) ** 2)
        if passes[-1] and used + size > budget:
            passes.append([])
            used = 0.0
        passes[-1].append(layer.name)
        used += size
    return [tuple(names) for names in passes]


def _pass_name(what: str, layers: Sequence[str]) -> str:
    """Names the layers of a pass by a hash: a resumed fit may cut them into passes anew."""
    return f"{what}-{key_of(layers=layers)}"


def _each(
    step: Any,
    what: str,
    base: FitSpec,
    passes: Sequence[tuple[str, ...]],
    partitions: int,
    workers: Workers,
) -> None:
    specs = [
        replace(base, layers=names, shards=shards, part=part)
        for names in passes
        for part, shards in _parts(_pass_name(what, names), base.shards, partitions)
    ]
    todo = [spec for spec in specs if not _partial(base, spec.part).exists()]
    workers.map(step, todo, f"Curvature: {what}")


def _bases(
    base: FitSpec, passes: Sequence[tuple[str, ...]], partitions: int, workers: Workers
) -> None:
    specs = []
    for names in passes:
        parts = tuple(p for p, _ in _parts(_pass_name("factors", names), base.shards, partitions))
        specs += [replace(base, layers=(name,), parts=parts) for name in names]
    todo = [spec for spec in specs if not _basis_path(base, spec.layers[0]).exists()]
    workers.map(merge_and_decompose, todo, "Curvature: eigenbases")


def _finish(
    config: RunConfig, base: FitSpec, passes: Sequence[tuple[str, ...]], workers: Workers
) -> dict[str, Any]:
    out = Path(base.out)
    for names in passes:
        what = _pass_name("eigenvalues", names)
        parts = [p for p, _ in _parts(what, base.shards, config.partitions)]
        for name in names:
            if not layer_path(out, name).exists():
                _write_layer(config, base, name, parts)
    every = [name for group in passes for name in group]
    quality_path = out / PARTIAL / "quality.json"
    quality = workers.map(
        measure_quality, [replace(base, layers=tuple(every))], "Measuring quality"
    )
    write_json(quality_path, quality[0])
    head = base.model.head_basis
    return {
        "kind": config.curvature,
        "labels": config.labels,
        "layers": every,
        "head": str(Path(head).name) if head else None,
        **quality[0],
    }


# -- files ----------------------------------------------------------------------------------------


def _labels_path(spec: FitSpec, shard: int) -> Path:
    return shard_path(Path(spec.out), shard, "labels")


def _partial(spec: FitSpec, name: str) -> Path:
    return Path(spec.out) / PARTIAL / f"{name}.safetensors"


def _basis_path(spec: FitSpec, layer: str) -> Path:
    return Path(spec.out) / PARTIAL / f"basis-{layer}.safetensors"


def layer_path(folder: Path, layer: str) -> Path:
    """The file of one layer's curvature.

    Returns:
        ``folder/layer-<name>.safetensors``.
    """
    return folder / f"layer-{layer}.safetensors"


def _save(path: Path, tensors: dict[str, Tensor], **metadata: Any) -> str:
    with new_file(path) as temporary:
        save_file(
            {k: v.contiguous() for k, v in tensors.items()},
            temporary,
            metadata={k: str(v) for k, v in metadata.items()},
        )
    return str(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of a run.

    Returns:
        Its tensors.

    Raises:
        RunError: If the file is missing or damaged.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"File {path}: unreadable ({error}), a safetensors file of this run was expected. "
            "Remove the folder it lies in and run again."
        ) from None


def _sum(paths: Sequence[Path], key: str) -> tuple[Tensor, dict[str, int]]:
    """Add one tensor of several partial files, in a tree of fixed shape."""
    tensors, counts = [], {"tokens": 0, "documents": 0}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            tensors.append(file.get_tensor(key))
            for name in counts:
                counts[name] += int((file.metadata() or {}).get(name, 0))
    while len(tensors) > 1:
        pairs = zip(tensors[::2], [*tensors[1::2], None], strict=False)
        tensors = [a if b is None else a + b for a, b in pairs]
    return tensors[0], counts


def read_curvature(stage: Stage) -> dict[str, LayerCurvature]:
    """Read a sealed curvature.

    Returns:
        For each tracked layer, float32 tensors.
    """
    info = stage.info()
    if info["kind"] == "identity":
        return {name: fisher.identity() for name in info["layers"]}
    result = {}
    for name in info["layers"]:
        tensors = read_tensors(layer_path(stage.path, name))
        result[name] = LayerCurvature(
            eigenvalues_OI=tensors["eigenvalues"],
            out_basis_OO=tensors.get("out_basis"),
            in_basis_II=tensors.get("in_basis"),
        )
    return result


def _write_layer(config: RunConfig, base: FitSpec, name: str, parts: Sequence[str]) -> None:
    out = layer_path(Path(base.out), name)
    if config.curvature == "identity":
        return
    basis, counts = None, {"tokens": 0, "documents": 1}
    if config.curvature != "diagonal":
        basis, counts = _read_basis(_basis_path(base, name))
    if config.curvature == "kfac":
        assert basis is not None
        layer = fisher.kfac(basis, counts["tokens"], counts["documents"])
    else:
        squares, counts = _sum([_partial(base, p) for p in parts], name)
        sums = fisher.EigenvalueSums(squares={name: squares}, documents=counts["documents"])
        layer = fisher.ekfac(basis, sums, name) if basis else fisher.diagonal(sums, name)
    tensors = {
        "eigenvalues": layer.eigenvalues_OI,
        "out_basis": layer.out_basis_OO,
        "in_basis": layer.in_basis_II,
    }
    _save(out, {k: v.float() for k, v in tensors.items() if v is not None})


def _read_basis(path: Path) -> tuple[fisher.Basis, dict[str, int]]:
    tensors = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        counts = {k: int(v) for k, v in (file.metadata() or {}).items()}
    basis = fisher.Basis(
        out_basis_OO=tensors["out_basis"],
        in_basis_II=tensors["in_basis"],
        out_values_O=tensors["out_values"],
        in_values_I=tensors["in_values"],
    )
    return basis, counts


# -- steps (each runs on a worker) ----------------------------------------------------------------


def describe_layers(base: FitSpec, workers: Workers) -> tuple[Layer, ...]:
    """The tracked layers, asked of a worker so that this process needs no model.

    Returns:
        Layers in module order.
    """
    return workers.map(_layers_step, [base.model], "Looking at the layers")[0]


def _layers_step(model: ModelSpec) -> tuple[Layer, ...]:
    return layers_of(model)


def describe_head(spec: FitSpec) -> tuple[str, int]:
    """Name and vocabulary of the head, if it is tracked.

    Returns:
        ``("", 0)`` when it is not.
    """
    name = head_name(language_model(spec.model).model)
    for layer in layers_of(spec.model):
        if layer.name == name:
            return name, layer.out_features
    return "", 0


def draw_labels(spec: FitSpec) -> str:
    """Draw the Fisher's labels of one shard and keep them.

    Returns:
        The file.
    """
    loaded = language_model(spec.model)
    [shard] = spec.shards
    chunks = read_chunks(shard_path(Path(spec.tokens), shard))
    labels: list[np.ndarray] = [np.empty(0, dtype=np.int32)] * len(chunks)
    for work in batches(chunks, loaded.pad_id, spec.token_budget):
        batch = work.batch.to(loaded.device)
        keys = [spec.ids[chunks[i].document - spec.first] for i in work.rows]
        drawn = sample_labels(loaded.model, batch, keys, spec.seed)
        for row, label in zip(work.rows, drawn, strict=True):
            labels[row] = label
    table = pa.table({"labels": pa.array(labels, pa.list_(pa.int32()))})
    return str(write_table(_labels_path(spec, shard), table))


def fisher_batches(spec: FitSpec) -> Iterator[Batch]:
    """The batches of some shards with the Fisher's labels as targets.

    Yields:
        Batches on the worker's device.
    """
    loaded = language_model(spec.model)
    for shard in spec.shards:
        chunks = read_chunks(shard_path(Path(spec.tokens), shard))
        labels = _read_labels(spec, shard, chunks)
        for work in batches(chunks, loaded.pad_id, spec.token_budget):
            rows = [chunks[i] for i in work.rows]
            own = [labels[i] for i in work.rows]
            yield with_targets(work.batch, own, rows).to(loaded.device)


def _read_labels(spec: FitSpec, shard: int, chunks: Sequence[Chunk]) -> list[np.ndarray]:
    if spec.labels == "empirical":
        return [chunk.tokens[chunk.loss] for chunk in chunks]
    column = read_table(_labels_path(spec, shard)).column("labels").combine_chunks()
    return [np.asarray(value.values, dtype=np.int32) for value in column]


@torch.no_grad()
def _refuse_not_finite(spec: FitSpec, sums: Sequence[Tensor]) -> None:
    """Find the document that spoilt a sum; runs the model again only when one is spoilt."""
    if all(bool(torch.isfinite(values).all()) for values in sums):
        return
    for batch in fisher_batches(spec):
        losses_BT = token_losses(logits_of(language_model(spec.model).model, batch), batch.targets)
        refuse_not_finite(losses_BT, batch, "loss")


def partial_head(spec: FitSpec) -> str:
    """Sketch the head's output factor over some shards.

    Returns:
        The file.
    """
    model = language_model(spec.model).model
    sketch = sketch_output_factor(model, fisher_batches(spec), spec.rank, spec.seed)
    return _save(
        _partial(spec, spec.part),
        {"product": sketch.product_VR, "trace": torch.tensor(sketch.trace, dtype=torch.float64)},
        tokens=sketch.tokens,
    )


def merge_head(spec: FitSpec) -> str:
    """Merge the sketches and keep the strongest directions of the head's output factor.

    Returns:
        The file ``head.safetensors``.
    """
    merged: OutputSketch | None = None
    for part in spec.parts:
        tensors = load_file(_partial(spec, part))
        one = OutputSketch(product_VR=tensors["product"], trace=float(tensors["trace"]), tokens=1)
        merged = one if merged is None else merge_sketches(merged, one)
    assert merged is not None
    basis_VR, left_out = output_subspace(merged, spec.rank, spec.seed)
    write_json(Path(spec.out) / "head.json", {"rank": spec.rank, "left_out": left_out})
    return _save(Path(spec.out) / "head.safetensors", {spec.part: basis_VR})


def _pass_layers(spec: FitSpec) -> list[Layer]:
    return [layer for layer in layers_of(spec.model) if layer.name in set(spec.layers)]


def partial_factors(spec: FitSpec) -> str:
    """First pass over some shards.

    Returns:
        The file of the partial sums.
    """
    model, layers = language_model(spec.model).model, _pass_layers(spec)
    sums = fisher.kronecker_sums(model, layers, fisher_batches(spec))
    _refuse_not_finite(spec, [*sums.inputs.values(), *sums.outputs.values()])
    tensors = {f"{n}/A": v for n, v in sums.inputs.items()}
    tensors |= {f"{n}/S": v for n, v in sums.outputs.items()}
    return _save(_partial(spec, spec.part), tensors, tokens=sums.tokens, documents=sums.documents)


def merge_and_decompose(spec: FitSpec) -> str:
    """Add one layer's partial factors and decompose them; holds one layer's factors only.

    Returns:
        The file of the layer's basis.
    """
    [name] = spec.layers
    paths = [_partial(spec, part) for part in spec.parts]
    inputs, counts = _sum(paths, f"{name}/A")
    outputs, _ = _sum(paths, f"{name}/S")
    sums = fisher.KroneckerSums(inputs={name: inputs}, outputs={name: outputs}, **counts)
    basis = fisher.eigenbasis(sums, name)
    tensors = {
        "out_basis": basis.out_basis_OO,
        "in_basis": basis.in_basis_II,
        "out_values": basis.out_values_O,
        "in_values": basis.in_values_I,
    }
    return _save(_basis_path(spec, name), tensors, **counts)


def partial_eigenvalues(spec: FitSpec) -> str:
    """Second pass over some shards.

    Returns:
        The file of the partial sums.
    """
    model, layers = language_model(spec.model).model, _pass_layers(spec)
    if spec.diagonal:
        bases = {layer.name: fisher.standard_basis(layer) for layer in layers}
    else:
        bases = {layer.name: _read_basis(_basis_path(spec, layer.name))[0] for layer in layers}
    sums = fisher.eigenvalue_sums(model, layers, bases, fisher_batches(spec))
    _refuse_not_finite(spec, list(sums.squares.values()))
    return _save(_partial(spec, spec.part), dict(sums.squares), documents=sums.documents)


def measure_quality(spec: FitSpec) -> dict[str, Any]:
    """Label noise of the eigenvalues and the share of the gradient that is covered, on a sample.

    Returns:
        Figures for people.
    """
    loaded, layers = language_model(spec.model), layers_of(spec.model)
    chunks = [
        c
        for s in spec.shards
        for c in read_chunks(shard_path(Path(spec.tokens), s))
        if c.chunk == 0
    ]
    sample = [
        chunks[int(i)] for i in np.linspace(0, len(chunks) - 1, min(NOISE_DOCUMENTS, len(chunks)))
    ]
    single = [
        w.batch.to(loaded.device)
        for c in sample[:: max(1, len(sample) // COVERAGE_DOCUMENTS)]
        for w in batches([c], loaded.pad_id, spec.token_budget)
    ]
    covered = coverage(loaded.model, layers, single)
    works = [w.batch.to(loaded.device) for w in batches(sample, loaded.pad_id, spec.token_budget)]
    noise = label_noise(
        loaded.model, layers, works, seed=spec.seed, draws=NOISE_DRAWS, documents=len(chunks)
    )
    head = Path(spec.out) / "head.json"
    return {
        "documents": len(chunks),
        "covered": covered.covered,
        "left_out": [list(x) for x in covered.left_out],
        "label_noise": noise.labels if spec.labels == "sampled" else 0.0,
        "sampling_noise": noise.documents,
        "head_left_out": _json(head)["left_out"] if head.exists() else None,
        "head_rank": spec.rank if head.exists() else None,
    }


def _json(path: Path) -> dict[str, Any]:
    import json

    return dict(json.loads(path.read_text("utf-8")))
