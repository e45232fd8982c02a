r"""What the tracked layers leave out, as shares of the squared gradient norm of whole documents.

Every parameter's full gradient is taken by autograd, one document at a time, and compared with the
part that the tracked layers carry.  A tied matrix counts as two: its use as the head and its use as
the embedding's table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from influence.documents.gradients import captured, gradient, logits_of, token_losses
from influence.layers import LOW_RANK, Layer, ProjectedHead, head_name
from influence.text import Batch


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Mean over documents of shares of the squared gradient norm."""

    covered: float
    """Carried by the tracked layers, between 0 and 1."""
    left_out: tuple[tuple[str, float], ...]
    """Everything else, by group of parameters, largest first; with ``covered`` it sums to 1."""
    documents: int


def coverage(model: nn.Module, layers: Sequence[Layer], batches: Iterable[Batch]) -> Coverage:
    """Measure the share of the gradient that the tracked layers cover.

    Args:
        model: A causal LM with frozen parameters.
        layers: Tracked layers.
        batches: Batches of one row each.

    Returns:
        The shares, averaged over the rows.
    """
    totals: dict[str, float] = defaultdict(float)
    rows = 0
    for batch in batches:
        norms = _squared_norms(model, layers, batch)
        whole = sum(norms.values())
        if whole > 0:
            rows += 1
            for name, value in norms.items():
                totals[name] += value / whole
    shares = {name: value / max(rows, 1) for name, value in totals.items()}
    covered = shares.pop("", 0.0)
    left_out = sorted(((n, s) for n, s in shares.items() if s > 1e-9), key=lambda x: -x[1])
    return Coverage(covered=covered, left_out=tuple(left_out), documents=rows)


def _squared_norms(model: nn.Module, layers: Sequence[Layer], batch: Batch) -> dict[str, float]:
    """Squared norms by group of one document; the covered part has the empty name."""
    parts: dict[str, Tensor] = {}

    def consume(name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        parts[name] = gradient(inputs_BTI, output_BTO)[0]

    tracked = {layer.name for layer in layers}
    watched = [*layers, *(x for x in _special_head(model, layers) if x.name not in tracked)]
    trained = _trained_parameters(model, layers)
    try:
        for parameter in trained.values():
            parameter.requires_grad_(True)
        with captured(model, watched, 1, consume), torch.enable_grad():
            token_losses(logits_of(model, batch), batch.targets).sum().backward()
        whole = {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}
    finally:
        for parameter in trained.values():
            parameter.requires_grad_(False)
            parameter.grad = None
    return _assign(model, layers, parts, whole)


def _assign(
    model: nn.Module, layers: Sequence[Layer], parts: dict[str, Tensor], whole: dict[str, Tensor]
) -> dict[str, float]:
    norms: dict[str, float] = defaultdict(float)
    norms[""] = sum(_square(parts[layer.name]) for layer in layers)
    covered = {f"{layer.name}.{part}" for layer in layers for part in ("weight", "bias")}
    heads = {id(model.get_submodule(x.name).weight): x for x in _special_head(model, layers)}
    for name, full in whole.items():
        head = heads.get(id(model.get_parameter(name)))
        if head is not None:
            use = parts[head.name][:, : full.shape[1]]
            kept = sum(_square(parts[x.name]) for x in layers if x.role == "head")
            norms["output head, outside the kept directions"] += max(0.0, _square(use) - kept)
            norms["embeddings"] += _square(full - use)
        elif name not in covered:
            norms[_group(model, name)] += _square(full)
    return dict(norms)


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())


def _special_head(model: nn.Module, layers: Sequence[Layer]) -> list[Layer]:
    """The head, where it is tied to the embeddings or tracked in a subspace only."""
    name = head_name(model)
    weight = model.get_parameter(f"{name}.weight")
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    if id(weight) not in tables and not isinstance(model.get_submodule(name), ProjectedHead):
        return []
    return [
        Layer(
            name=name,
            in_features=weight.shape[1],
            out_features=weight.shape[0],
            bias=any(x.name == name and x.bias for x in layers),
            role="head",
            tied=id(weight) in tables,
        )
    ]


def _trained_parameters(model: nn.Module, layers: Sequence[Layer]) -> dict[str, nn.Parameter]:
    """The parameters that count: what an adapter trains where there is one, else the original ones."""
    named = dict(model.named_parameters())
    if any("lora_" in name for name in named):
        return {n: p for n, p in named.items() if "lora_" in n or ".modules_to_save." in n}
    own = {f"{layer.name}.weight" for layer in layers if layer.name.endswith(f".{LOW_RANK}")}
    return {n: p for n, p in named.items() if n not in own}


def _group(model: nn.Module, name: str) -> str:
    module = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, nn.Embedding):
        return "embeddings"
    if isinstance(module, nn.Linear | ProjectedHead):
        return "linear layers not chosen"
    return "norms" if "norm" in type(module).__name__.lower() else "other parameters"
