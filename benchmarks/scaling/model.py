"""Fit, index and exact scores of models with random weights, on one thread."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import ours
from benchmarks.speed.setting import Job, Size, layer_shapes, load_tokens, prepare
from benchmarks.speed.worker import measured, warm_up

BASE = Size(blocks=2, width=64, mlp=192, vocabulary=256, documents=128, tokens=64)
SERIES: dict[str, list[dict[str, int]]] = {
    "documents": [{"documents": n} for n in (64, 128, 256, 512)],
    "tokens": [{"tokens": n} for n in (32, 64, 128, 256)],
    "blocks": [{"blocks": n} for n in (1, 2, 4, 8)],
    "width": [{"width": n, "mlp": 3 * n} for n in (32, 64, 128, 256)],
}
TINY = {"documents": [{"documents": 16}, {"documents": 32}]}
QUERIES = (1, 4, 16, 64)


def measure(
    series: dict[str, list[dict[str, int]]], queries: tuple[int, ...], repeats: int
) -> Iterator[dict[str, Any]]:
    """Time the stages along each series; all else stays as in ``BASE``.

    Args:
        series: For each axis, the settings to try.
        queries: Numbers of queries for exact scoring of the base's documents.
        repeats: The run with the fewest CPU-seconds counts.

    Yields:
        Records.
    """
    torch.set_num_threads(1)
    for axis, points in series.items():
        for point in points:
            size = replace(BASE, **point)
            with tempfile.TemporaryDirectory() as folder:
                state, jobs = ready(size, Path(folder))
                for stage in ("fit", "index"):
                    found = fewest(state, stage, jobs[stage], repeats)
                    yield {
                        "part": "model",
                        "series": axis,
                        "stage": stage,
                        **asdict(size),
                        "x": point[axis],
                        "work": work(size)[stage],
                        "rate": products_a_second(),
                        **found,
                    }
    with tempfile.TemporaryDirectory() as folder:
        state, jobs = ready(BASE, Path(folder))
        ours.fit(state, jobs["fit"])
        for count in queries:
            job = replace(jobs["scores"], queries=jobs["scores"].queries[:count])
            found = fewest(state, "scores", job, repeats)
            yield {"part": "model", "series": "queries", "stage": "scores", "x": count, **found}


def ready(size: Size, folder: Path) -> tuple[Any, dict[str, Job]]:
    """The model of one size, and a job a stage."""
    prepare(size, folder)
    documents, queries = load_tokens(folder)
    jobs = {}
    for stage in ours.STAGES:
        (folder / stage).mkdir()
        jobs[stage] = Job(
            system="ours",
            stage=stage,
            size=size,
            labels="sampled",
            rows=32,
            documents=documents,
            queries=queries,
            model=folder / "model",
            fitted=folder / "fit",
            out=folder / stage,
        )
    return ours.load(jobs["fit"]), jobs


def fewest(state: Any, stage: str, job: Job, repeats: int) -> dict[str, float]:
    """CPU-seconds, wall seconds and memory above the model's, of the cheapest run."""
    step = ours.STAGES[stage]
    warm_up(step, state, job)
    found = [measured(lambda: step(state, job)) for _ in range(repeats)]
    best = min(found, key=lambda record: record["cpu"])
    return {key: best[key] for key in ("cpu", "wall", "growth")}


def products_a_second(size: int = 512, count: int = 8) -> float:
    """Floating-point operations of float32 matrix products in a second of processor time."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    left @ right
    begun = time.process_time()
    for _ in range(count):
        left @ right
    return 2.0 * size**3 * count / (time.process_time() - begun)


def work(size: Size) -> dict[str, float]:
    """Floating-point operations of the matrix products of each stage, counted from shapes.

    A pass forward, or backward to the activations, is 2 O I a token; a document's gradient is 2 T O I,
    its rotation 2 O I (O + I) or, before the product over tokens, 2 T (O^2 + I^2); a factor is half of
    2 T (O^2 + I^2), as only half of a symmetric product is computed; eigenvectors are 9 (O^3 + I^3).
    """
    tokens, documents = size.documents * size.tokens, size.documents
    shapes = layer_shapes(size)
    head = 2.0 * tokens * size.width * size.vocabulary
    one_pass = head + sum(2.0 * tokens * o * i for o, i, _ in shapes)
    gradients = sum(2.0 * tokens * o * i for o, i, _ in shapes)
    rotation = sum(
        min(2.0 * tokens * (o * o + i * i), 2.0 * documents * o * i * (o + i)) for o, i, _ in shapes
    )
    factors = sum(tokens * (o * o + i * i / shared) for o, i, shared in shapes)
    solve = sum(9.0 * (o**3 + i**3) for o, i, _ in shapes)
    return {
        "fit": 4 * one_pass + factors + gradients + rotation + solve,
        "index": 2 * one_pass + gradients + rotation,
    }
