"""Stage 3: the Fisher's approximation, in two passes of partial sums over the shards.

(output subspace of a large head) -> factors -> eigenbases -> eigenvalues -> quality; the first of
these to pass over a shard draws its labels.
Every step leaves its own file, so that a killed fit goes on inside the step.  Partial sums are plain
sums merged in a fixed order: their number changes nothing beyond rounding.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from influence.documents import curvature as fisher
from influence.documents.preconditioner import LayerCurvature
from influence.layers import Layer
from pipelines.cluster import Workers
from pipelines.config import RunConfig
from pipelines.curvature_files import (
    FitSpec,
    basis_path,
    layer_path,
    part_error,
    partial_path,
    read_basis,
    read_error,
    read_tensors,
    save_tensors,
    sum_tensors,
)
from pipelines.curvature_steps import (
    describe_head,
    look_at_layers,
    measure_quality,
    merge_and_decompose,
    merge_head,
    partial_eigenvalues,
    partial_factors,
    partial_head,
)
from pipelines.run_folder import PARTIAL, Stage, key_of, seal, write_json
from pipelines.tokens import shard_bytes
from pipelines.worker import ModelSpec, naming_documents


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
        shard_size=config.documents_per_shard,
        token_budget=config.token_budget,
        labels=config.labels,
        seed=config.label_seed,
        diagonal=config.curvature == "diagonal",
        rank=config.head_rank,
        engine=config.fit,
    )
    base = _with_head(base, config, ids, workers)
    layers = describe_layers(base, workers)
    passes = _passes(config, layers)
    if config.curvature in ("ekfac", "kfac"):
        _each(partial_factors, "factors", base, passes, config.partitions, ids, workers)
        _bases(base, passes, layers, config.partitions, workers)
    if config.curvature in ("ekfac", "diagonal"):
        _each(partial_eigenvalues, "eigenvalues", base, passes, config.partitions, ids, workers)
    shapes = {x.name: [x.out_features, x.in_features + int(x.bias)] for x in layers}
    return {**_finish(config, base, passes, workers), "shapes": shapes}


def curvature_key(config: RunConfig, tokens: Stage, model: ModelSpec) -> str:
    """The key of a curvature: everything that changes it beyond rounding.

    Returns:
        A hash.
    """
    lower = {} if config.compute == "float32" else {"compute": config.compute}
    return key_of(
        **lower,
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


def cut(
    shards: Sequence[int], parts: int, work: Sequence[float] | None = None
) -> list[tuple[int, ...]]:
    """Parts of nearly equal work, each a mixture of the whole; pure.

    Args:
        shards: What to cut.
        parts: How many are wanted.
        work: Of each shard, in any unit; None: all alike.

    Returns:
        At most ``parts`` non-empty tuples; the largest shards are dealt out first, each to the part
        that has least.
    """
    work = work or [1.0] * len(shards)
    found: list[list[int]] = [[] for _ in range(min(parts, len(shards)))]
    loads = [0.0] * len(found)
    for place in sorted(range(len(shards)), key=lambda i: (-work[i], i)):
        least = loads.index(min(loads))
        found[least].append(shards[place])
        loads[least] += work[place]
    return [tuple(sorted(part)) for part in found]


def _with_head(base: FitSpec, config: RunConfig, ids: Sequence[str], workers: Workers) -> FitSpec:
    """Give a large vocabulary's head a low-rank output factor."""
    out = Path(base.out) / "head.safetensors"
    if not out.exists():
        [name, vocabulary] = workers.map(describe_head, [base], None)[0]
        if not name or vocabulary <= config.exact_head:
            return base
        names = _parts("head", base, config.partitions)
        specs = [_on(base, s, ids, part=p) for p, s in names if not partial_path(base, p).exists()]
        workers.map(partial_head, specs, "Finding the head's directions")
        workers.map(
            merge_head, [replace(base, part=name, parts=tuple(p for p, _ in names))], "Merging them"
        )
    return replace(base, model=replace(base.model, head_basis=str(out)))


def _on(base: FitSpec, shards: tuple[int, ...], ids: Sequence[str], **changes: Any) -> FitSpec:
    """The spec of some shards, with their documents' ids."""
    size = base.shard_size
    own = tuple(i for shard in shards for i in ids[shard * size : (shard + 1) * size])
    return replace(base, shards=shards, ids=own, **changes)


def _parts(what: str, base: FitSpec, count: int) -> list[tuple[str, tuple[int, ...]]]:
    """Parts of like work, named by a hash of their shards: a resumed fit may cut them anew."""
    work = [shard_bytes(Path(base.tokens), shard) for shard in base.shards]
    pieces = cut(base.shards, count, work)
    return [
        (f"{what}-{key_of(shards=piece)}-{i}-of-{len(pieces)}", piece)
        for i, piece in enumerate(pieces, start=1)
    ]


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
    ids: Sequence[str],
    workers: Workers,
) -> None:
    specs = [
        _on(base, shards, ids, layers=names, part=part)
        for names in passes
        for part, shards in _parts(_pass_name(what, names), base, partitions)
    ]
    todo = [spec for spec in specs if not partial_path(base, spec.part).exists()]
    workers.map(step, todo, f"Curvature: {what}")


def _bases(
    base: FitSpec,
    passes: Sequence[tuple[str, ...]],
    layers: Sequence[Layer],
    partitions: int,
    workers: Workers,
) -> None:
    specs = []
    for names in passes:
        parts = tuple(p for p, _ in _parts(_pass_name("factors", names), base, partitions))
        specs += [replace(base, layers=(name,), parts=parts) for name in names]
    todo = [spec for spec in specs if not basis_path(base, spec.layers[0]).exists()]
    work = {x.name: x.out_features**3 + x.in_features**3 for x in layers}
    todo.sort(key=lambda spec: -work[spec.layers[0]])  # longest first, so that none is left waiting
    workers.map(merge_and_decompose, todo, "Curvature: eigenbases")


def _finish(
    config: RunConfig, base: FitSpec, passes: Sequence[tuple[str, ...]], workers: Workers
) -> dict[str, Any]:
    out = Path(base.out)
    for names in passes:
        what = _pass_name("eigenvalues", names)
        parts = [p for p, _ in _parts(what, base, config.partitions)]
        for name in names:
            if not layer_path(out, name).exists():
                _write_layer(config, base, name, parts)
    every = [name for group in passes for name in group]
    quality_path = out / PARTIAL / "quality.json"
    if not quality_path.exists():
        spec = replace(base, layers=tuple(every))
        [quality] = workers.map(measure_quality, [spec], "Measuring quality")
        write_json(quality_path, quality)
    head = base.model.head_basis
    return {
        "kind": config.curvature,
        "labels": config.labels,
        "layers": every,
        "head": str(Path(head).name) if head else None,
        "sampling_error": read_error([layer_path(out, name) for name in every]),
        **json.loads(quality_path.read_text("utf-8")),
    }


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
    basis, error, counts = None, None, {"tokens": 0, "documents": 1}
    if config.curvature != "diagonal":
        basis, counts = read_basis(basis_path(base, name))
    if config.curvature == "kfac":
        assert basis is not None
        layer = fisher.kfac(basis, counts["tokens"], counts["documents"])
    else:
        paths = [partial_path(base, p) for p in parts]
        squares, counts = sum_tensors(paths, name)
        error = part_error(paths, name, squares.double() / counts["documents"])
        sums = fisher.EigenvalueSums(squares={name: squares}, documents=counts["documents"])
        layer = fisher.ekfac(basis, sums, name) if basis else fisher.diagonal(sums, name)
    tensors = {
        "eigenvalues": layer.eigenvalues_OI,
        "out_basis": layer.out_basis_OO,
        "in_basis": layer.in_basis_II,
    }
    kept = {k: v.float() for k, v in tensors.items() if v is not None}
    save_tensors(out, kept, **({"error": json.dumps(vars(error))} if error else {}))


def describe_layers(base: FitSpec, workers: Workers) -> tuple[Layer, ...]:
    """The tracked layers, asked of a worker so that this process needs no model.

    Returns:
        Layers in module order.
    """
    return workers.map(look_at_layers, [base.model], None)[0]
