"""What no method can go below: passes of the model itself, matrix products, memory, eigenvectors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.speed.setting import Job, layer_shapes, load_model


def load(job: Job) -> Any:
    return load_model(job.model)


def _losses(model: nn.Module, job: Job, weights: bool) -> None:
    model.requires_grad_(weights)
    for tokens in job.documents.split(job.rows):
        embedded = model.get_input_embeddings()(tokens)  # type: ignore[operator]
        root = embedded if weights else embedded.detach().requires_grad_(True)
        logits = model(inputs_embeds=root, use_cache=False).logits[:, :-1].flatten(0, 1)
        cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum").backward()
        model.zero_grad()


def forward(model: nn.Module, job: Job) -> None:
    with torch.no_grad():
        for tokens in job.documents.split(job.rows):
            logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
            cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum")


def with_weights(model: nn.Module, job: Job) -> None:
    _losses(model, job, weights=True)


def without_weights(model: nn.Module, job: Job) -> None:
    _losses(model, job, weights=False)


def _rate(call: Callable[[], Any], amount: float, seconds: float = 0.4) -> float:
    """Median amount per CPU-second of this thread, over calls for some time."""
    call()
    rates: list[float] = []
    end = time.thread_time() + seconds
    while time.thread_time() < end or len(rates) < 5:
        start = time.thread_time()
        call()
        rates.append(amount / (time.thread_time() - start))
    return sorted(rates)[len(rates) // 2]


def _product(tokens: int, out: int, inputs: int) -> tuple[Callable[[], Tensor], float]:
    left, right = torch.randn(tokens, inputs), torch.randn(inputs, out)
    result = torch.empty(tokens, out)
    return lambda: torch.mm(left, right, out=result), 2.0 * tokens * out * inputs


def machine(_model: nn.Module, job: Job) -> dict[str, float]:
    """GFLOP/s of the layers' products and of large ones; GB/s of reading; seconds of `eigh`."""
    shapes = [(out, inputs) for out, inputs, _ in layer_shapes(job.size)]
    tokens = 2048
    rates = [_rate(*_product(tokens, *shape)) / 1e9 for shape in sorted(set(shapes))]
    numbers = torch.randn(2**26)  # 256 MiB, beyond any cache
    factors = [torch.randn(n, n, dtype=torch.float64) for shape in shapes for n in shape]
    start = time.thread_time()
    for factor in factors:
        torch.linalg.eigh(factor @ factor.T)
    eigh = time.thread_time() - start
    return {
        "gflops": sum(rates) / len(rates),
        "gflops_large": _rate(*_product(2048, 1024, 1024)) / 1e9,
        "gigabytes": _rate(lambda: torch.dot(numbers, numbers), numbers.numel() * 4) / 1e9,
        "eigh": eigh,
    }


STAGES = {
    "forward": forward,
    "with_weights": with_weights,
    "without_weights": without_weights,
    "machine": machine,
}
