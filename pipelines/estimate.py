"""What a run costs before it starts: floating-point work, seconds, memory, disk.

Work is counted from shapes; seconds come from a short measurement of this machine's matrix products.
Estimates are for telling minutes from hours.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from influence.layers import Layer
from pipelines.config import RunConfig

OVERHEAD = 3.0
"""Measured time over pure matrix-product time of small models on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one stage."""

    stage: str
    work: float
    """Floating-point operations."""
    seconds: float
    """On this machine, with the run's workers."""
    disk: float
    """Bytes written and kept."""


def products_per_second(size: int = 256, seconds: float = 0.25) -> float:
    """This machine's rate of float32 matrix products on one thread.

    Returns:
        Floating-point operations a second.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        left, right = torch.randn(size, size), torch.randn(size, size)
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            left @ right
            count += 1
        return 2.0 * size**3 * count / (time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)


def estimate(
    config: RunConfig, layers: Sequence[Layer], documents: int, tokens: int, workers: int
) -> list[Cost]:
    """Estimate every stage of a run.

    Args:
        config: The run.
        layers: Tracked layers.
        documents: N.
        tokens: Tokens of all documents.
        workers: Worker processes.

    Returns:
        Costs, stage by stage.
    """
    rate = products_per_second()
    sizes = [(x.out_features, x.in_features + int(x.bias)) for x in layers]
    parameters = sum(o * i for o, i in sizes)
    one_pass = 2.0 * parameters * tokens  # forward; backward to the activations is as much again
    rotation = sum(
        min(tokens * (o * o + i * i), documents * o * i * (o + i)) + tokens * o * i
        for o, i in sizes
    )
    factors = sum(tokens * (o * o + i * i) for o, i in sizes)
    solve = sum(9.0 * (o**3 + i**3) for o, i in sizes)
    share = 1.0
    if config.curvature_documents is not None:
        share = min(1.0, config.curvature_documents / max(1, documents))
    curvature = share * (one_pass + 3 * one_pass + 2 * factors) + 2 * solve
    if config.curvature in ("ekfac", "diagonal"):
        curvature += share * (3 * one_pass + 2 * rotation)
    from pipelines.gradient_files import NUMBER_BITS
    from pipelines.store_forms import budget_of

    whole = parameters * NUMBER_BITS[config.store_dtype or "int8"] / 8
    vector = whole if config.store == "full" else min(whole, budget_of(config, documents))
    stages = [("curvature", curvature), ("gradients", 2 * one_pass + 2 * rotation)]
    if config.train != "none":
        stages.insert(0, ("training", 3 * one_pass * config.epochs))
    disk = {
        "training": parameters * 4.0 * (1 + 3 * config.checkpoints),
        "curvature": sum(4.0 * (o * o + i * i + o * i) for o, i in sizes),
        "gradients": vector * documents,
    }
    return [
        Cost(
            stage=name,
            work=work,
            seconds=OVERHEAD
            * work
            / rate
            / (config.train_threads if name == "training" else max(1, workers)),
            disk=disk[name],
        )
        for name, work in stages
    ]


def planned_layers(config: RunConfig) -> list[Layer]:
    """The layers that ``train: scratch`` will have, before there is a model.

    Returns:
        One entry a layer.
    """
    wide, inner = config.hidden_size, config.mlp_size

    def layer(name: str, inputs: int, out: int, role: str) -> Layer:
        return Layer(
            name=name, in_features=inputs, out_features=out, bias=False, role=role, tied=False
        )

    block = [layer(f"attention.{n}", wide, wide, "attention") for n in "qkvo"]
    block += [layer(f"mlp.{n}", wide, inner, "mlp") for n in ("gate", "up")]
    block += [layer("mlp.down", inner, wide, "mlp")]
    return [*(block * config.blocks), layer("head", wide, config.vocabulary, "head")]


def in_words(seconds: float) -> str:
    """A duration as people say it.

    Returns:
        ``about 40 s``, ``about 12 min``, ``about 3 h``.
    """
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
