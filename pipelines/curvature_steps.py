"""What a worker does for a curvature: one small spec in, one file out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from influence.documents import curvature as fisher
from influence.documents import fit
from influence.documents.coverage import coverage
from influence.documents.gradients import logits_of, refuse_not_finite, token_losses
from influence.documents.head import (
    OutputSketch,
    merge_sketches,
    output_subspace,
    sketch_output_factor,
)
from influence.documents.noise import label_noise
from influence.layers import Layer, head_name
from pipelines.curvature_files import (
    FitSpec,
    basis_path,
    partial_path,
    read_basis,
    save_tensors,
    sum_tensors,
)
from pipelines.fisher_labels import FisherBatches
from pipelines.run_folder import write_json
from pipelines.tokens import batches, read_chunks, shard_path
from pipelines.worker import ModelSpec, language_model, layers_of

NOISE_DOCUMENTS, NOISE_DRAWS, COVERAGE_DOCUMENTS = 64, 2, 16


def look_at_layers(model: ModelSpec) -> tuple[Layer, ...]:
    """The tracked layers of a model."""
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


def partial_head(spec: FitSpec) -> str:
    """Sketch the head's output factor over some shards.

    Returns:
        The file.
    """
    model, labelled = language_model(spec.model).model, FisherBatches(spec)
    sketch = sketch_output_factor(model, labelled, spec.rank, spec.seed, labelled.draw)
    return save_tensors(
        partial_path(spec, spec.part),
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
        tensors = load_file(partial_path(spec, part))
        one = OutputSketch(product_VR=tensors["product"], trace=float(tensors["trace"]), tokens=1)
        merged = one if merged is None else merge_sketches(merged, one)
    assert merged is not None
    basis_VR, left_out = output_subspace(merged, spec.rank, spec.seed)
    write_json(Path(spec.out) / "head.json", {"rank": spec.rank, "left_out": left_out})
    return save_tensors(Path(spec.out) / "head.safetensors", {spec.part: basis_VR})


def _pass_layers(spec: FitSpec) -> list[Layer]:
    return [layer for layer in layers_of(spec.model) if layer.name in set(spec.layers)]


def _engine(spec: FitSpec) -> ModuleType:
    if spec.engine == "curvlinops":
        from influence.documents import curvlinops_fit  # slow to import

        return curvlinops_fit
    return fit


def partial_factors(spec: FitSpec) -> str:
    """First pass over some shards.

    Returns:
        The file of the partial sums.
    """
    model, layers = language_model(spec.model).model, _pass_layers(spec)
    labelled = FisherBatches(spec)
    sums = _engine(spec).kronecker_sums(model, layers, labelled, labelled.draw)
    _refuse_not_finite(spec, [*sums.inputs.values(), *sums.outputs.values()])
    tensors = {f"{n}/A": v for n, v in sums.inputs.items()}
    tensors |= {f"{n}/S": v for n, v in sums.outputs.items()}
    return save_tensors(
        partial_path(spec, spec.part), tensors, tokens=sums.tokens, documents=sums.documents
    )


def merge_and_decompose(spec: FitSpec) -> str:
    """Add one layer's partial factors and decompose them; holds one layer's factors only.

    Returns:
        The file of the layer's basis.
    """
    [name] = spec.layers
    paths = [partial_path(spec, part) for part in spec.parts]
    inputs, counts = sum_tensors(paths, f"{name}/A")
    outputs, _ = sum_tensors(paths, f"{name}/S")
    sums = fisher.KroneckerSums(inputs={name: inputs}, outputs={name: outputs}, **counts)
    basis = fisher.eigenbasis(sums, name)
    tensors = {
        "out_basis": basis.out_basis_OO,
        "in_basis": basis.in_basis_II,
        "out_values": basis.out_values_O,
        "in_values": basis.in_values_I,
    }
    return save_tensors(basis_path(spec, name), tensors, **counts)


def partial_eigenvalues(spec: FitSpec) -> str:
    """Second pass over some shards.

    Returns:
        The file of the partial sums.
    """
    model, layers = language_model(spec.model).model, _pass_layers(spec)
    bases = {}
    for layer in layers:
        if spec.diagonal:
            basis = fisher.standard_basis(layer)
        else:
            basis, _ = read_basis(basis_path(spec, layer.name))
        bases[layer.name] = fisher.narrowed(basis, torch.float32)
    labelled = FisherBatches(spec)
    sums = _engine(spec).eigenvalue_sums(model, layers, bases, labelled, labelled.draw)
    _refuse_not_finite(spec, list(sums.squares.values()))
    return save_tensors(partial_path(spec, spec.part), dict(sums.squares), documents=sums.documents)


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

    return dict(json.loads(path.read_text("utf-8")))


@torch.no_grad()
def _refuse_not_finite(spec: FitSpec, sums: Sequence[Tensor]) -> None:
    """Find the document that spoilt a sum; runs the model again only when one is spoilt."""
    if all(bool(torch.isfinite(values).all()) for values in sums):
        return
    labelled = FisherBatches(spec)
    for batch in labelled:
        logits_BTV = logits_of(language_model(spec.model).model, batch)
        targets_BT = labelled.draw(batch, logits_BTV).targets
        refuse_not_finite(token_losses(logits_BTV, targets_BT), batch, "loss")
