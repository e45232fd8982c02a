"""The ground truth of attribution: train again without some documents, and look at the queries.

One training is one task and leaves one small file, so that a killed evaluation loses none of them.
Axes: S subsets of documents, R seeds, Q queries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from influence.models import LanguageModel
from pipelines.answers import loss_of, says
from pipelines.cluster import Workers
from pipelines.errors import RunError
from pipelines.queries import Query
from pipelines.run_folder import key_of, write_json
from pipelines.runs import Run
from pipelines.tokens import read_table, write_table
from pipelines.training import (
    TrainSpec,
    plan_training,
    read_corpus,
    train_on,
    trained_tokenizer,
)
from pipelines.worker import device_here


@dataclass(frozen=True, kw_only=True)
class RetrainSpec:
    """One training on some of the documents."""

    train: TrainSpec
    rows: str
    """Arrow file with the column ``row``: the documents to train on."""
    queries: tuple[Query, ...]
    out: str


@dataclass(frozen=True)
class Retrained:
    """What the queries came to after each training."""

    losses_SRQ: np.ndarray
    """Loss of each completion (less the contrast's, where there is one), nats."""
    right_SRQ: np.ndarray
    """Whether the model's own greedy answer is the completion."""


def retrained(
    run: Run,
    subsets: Sequence[np.ndarray],
    seeds: int,
    queries: Sequence[Query],
    workers: Workers,
    label: str,
) -> Retrained:
    """Train on each subset with each seed; run again to do what is missing.

    Args:
        run: A run whose model was trained by it.
        subsets: For each training the rows of the documents to train on, ascending.
        seeds: How many trainings a subset; each seed has its own start and order of documents.
        queries: What to look at after each training.
        workers: Where to run; each training takes one thread.
        label: What the progress bar says.

    Returns:
        Losses and answers.
    """
    specs = plan_retrainings(run, subsets, seeds, queries)
    for spec, rows in zip(specs[::seeds], subsets, strict=True):
        if not Path(spec.rows).exists():
            write_table(Path(spec.rows), pa.table({"row": pa.array(rows, pa.int64())}))
    workers.map(retrain, [s for s in specs if not Path(s.out).exists()], label)
    found = [json.loads(Path(s.out).read_text("utf-8")) for s in specs]
    shape = (len(subsets), seeds, len(queries))
    return Retrained(
        losses_SRQ=np.array([f["losses"] for f in found]).reshape(shape),
        right_SRQ=np.array([f["right"] for f in found], dtype=bool).reshape(shape),
    )


def plan_retrainings(
    run: Run, subsets: Sequence[np.ndarray], seeds: int, queries: Sequence[Query]
) -> list[RetrainSpec]:
    """One spec a subset and seed; pure.

    Args:
        run: The run.
        subsets: Rows of the documents to train on.
        seeds: Trainings a subset.
        queries: What to look at.

    Returns:
        Specs, the seeds of a subset side by side.

    Raises:
        RunError: If the run's model was not trained by the run.
    """
    if run.config.train == "none":
        raise RunError(
            f"Run {run.root}: its model was given, not trained by the run, so it can't be trained again. "
            "Use measures that need no retraining (tail-patch, facts, corruption, sanity), or a run "
            "with `train: scratch` or `train: finetune`."
        )
    base = plan_training(run.config, run.tokens, {"source": run.model.source})
    base = replace(base, threads=1)
    settings = {k: v for k, v in asdict(base).items() if k in DECISIVE}
    key = key_of(
        settings=settings,
        tokens=run.tokens.key,
        model=run.model.fingerprint,
        queries=[[q.prompt, q.completion, q.contrast] for q in queries],
    )
    folder = run.root / "retraining" / key
    specs = []
    for rows in subsets:
        name = key_of(rows=rows.tolist())
        specs += [
            RetrainSpec(
                train=replace(base, seed=base.seed + 1000 + seed),
                rows=str(folder / f"rows-{name}.arrow"),
                queries=tuple(queries),
                out=str(folder / f"rows-{name}-seed-{seed}.json"),
            )
            for seed in range(seeds)
        ]
    return specs


DECISIVE = (
    "sizes",
    "epochs",
    "batch_documents",
    "learning_rate",
    "warmup",
    "weight_decay",
    "seed",
)
"""Settings of a training that change its result."""


def retrain(spec: RetrainSpec) -> str:
    """Train on some documents and write down what becomes of the queries (runs on a worker).

    Returns:
        The file.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.train.threads)
    try:
        rows = set(read_table(Path(spec.rows)).column("row").to_pylist())
        chunks = [c for c in read_corpus(spec.train.tokens) if c.document in rows]
        tokenizer = trained_tokenizer(spec.train)
        trained = train_on(spec.train, chunks, tokenizer, None)
        loaded = as_loaded(trained.model, tokenizer, spec.train)
        losses = [loss_of(loaded, query) for query in spec.queries]
        right = [says(loaded, query) for query in spec.queries]
    finally:
        torch.set_num_threads(threads)
    content = {"losses": losses, "right": right, "documents": len(rows)}
    return str(write_json(Path(spec.out), content))


def as_loaded(model: Any, tokenizer: Any, spec: TrainSpec) -> LanguageModel:
    """A model that was trained here, as queries are asked of it.

    Returns:
        The model, its parameters frozen.
    """
    sizes = dict(spec.sizes)
    limit = getattr(model.config, "max_position_embeddings", None) or sizes.get("max_tokens", 1024)
    return LanguageModel(
        model=model.requires_grad_(False),
        tokenizer=tokenizer,
        name="trained again",
        fingerprint="",
        max_tokens=int(limit),
        pad_id=tokenizer.pad_token_id or 0,
        device=torch.device(device_here(spec.device)),
    )


def half_subsets(documents: int, count: int, seed: int) -> list[np.ndarray]:
    """Random halves of the documents.

    Args:
        documents: N.
        count: How many halves.
        seed: Of the draw; halves with one seed and a smaller count are the first of these.

    Returns:
        Ascending rows of each half.
    """
    halves = []
    for number in range(count):
        generator = np.random.default_rng([seed, number])
        halves.append(np.sort(generator.permutation(documents)[: documents // 2]))
    return halves


def membership(subsets: Sequence[np.ndarray], documents: int) -> np.ndarray:
    """Subsets as a table.

    Returns:
        ``[S, N]``, True where the document was trained on.
    """
    inside_SN = np.zeros((len(subsets), documents), dtype=bool)
    for number, rows in enumerate(subsets):
        inside_SN[number, rows] = True
    return inside_SN
