"""Training again on changed mixtures: each document not at all, once, or several times.

All trainings of a seed start from the same weights. Where documents are only dropped, they are missing
from their batches, and all steps are taken in the same order: what differs between two mixtures is the
documents, and much of the training's noise cancels. Where some are repeated, the corpus holds them
several times and is shuffled into batches anew, as it would be by one who trains on such a mixture: an
optimiser that scales each step hardly sees a document that stands twice in the same batch.

One training is one task and leaves one small file, so that a killed verification loses none of them.

Axes: N documents, M mixtures, R seeds, Q queries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from pipelines.answers import loss_of
from pipelines.cluster import Workers, default_count
from pipelines.errors import RunError
from pipelines.estimate import estimate
from pipelines.queries import Query
from pipelines.retraining import DECISIVE, as_loaded
from pipelines.run_folder import key_of, write_json
from pipelines.runs import Run
from pipelines.tokens import read_table, write_table
from pipelines.training import TrainSpec, plan_training, read_corpus, train_on, trained_tokenizer
from pipelines.worker import layers_of

SEEDS_FROM = 1000
"""Added to the run's own seed: no training here repeats that of the run."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How a model is fine-tuned that was given to the run, not trained by it."""

    epochs: float = 1.0
    """Passes over the corpus."""
    learning_rate: float = 5e-5
    """AdamW's peak learning rate."""


@dataclass(frozen=True, kw_only=True)
class MixtureTraining:
    """One training on a changed mixture."""

    train: TrainSpec
    copies: str
    """Arrow file with the column ``copies``: how often each document of the corpus counts."""
    queries: tuple[Query, ...]
    out: str


def trained_losses(
    run: Run,
    copies_MN: Sequence[np.ndarray],
    seeds: int,
    queries: Sequence[Query],
    workers: Workers,
    tuning: FineTuning | None = None,
) -> np.ndarray:
    """Train on each mixture with each seed; run again to do what is missing.

    Args:
        run: A run. Its model is trained again from scratch or fine-tuned again, as the run did; a
            model that was given is fine-tuned on the run's corpus.
        copies_MN: How often each document counts, whole numbers from 0.
        seeds: Trainings of each mixture.
        queries: What to look at after each training.
        workers: Where to run; each training takes one thread.
        tuning: Of a model that was given; None: the defaults.

    Returns:
        Losses of the completions ``[M, R, Q]``, nats.
    """
    specs = plan_mixture_trainings(run, copies_MN, seeds, queries, tuning or FineTuning())
    for spec, copies_N in zip(specs[::seeds], copies_MN, strict=True):
        if not Path(spec.copies).exists():
            write_table(Path(spec.copies), pa.table({"copies": pa.array(copies_N, pa.int32())}))
    todo = [spec for spec in specs if not Path(spec.out).exists()]
    workers.map(train_mixture, todo, f"Training on {len(copies_MN)} mixtures")
    found = [json.loads(Path(s.out).read_text("utf-8"))["losses"] for s in specs]
    return np.array(found, np.float64).reshape(len(copies_MN), seeds, len(queries))


def plan_mixture_trainings(
    run: Run,
    copies_MN: Sequence[np.ndarray],
    seeds: int,
    queries: Sequence[Query],
    tuning: FineTuning,
) -> list[MixtureTraining]:
    """One spec a mixture and seed; pure.

    Args:
        run: The run.
        copies_MN: How often each document counts.
        seeds: Trainings of each mixture.
        queries: What to look at.
        tuning: Of a model that was given.

    Returns:
        Specs, the seeds of a mixture side by side.
    """
    base = _base(run, tuning)
    key = key_of(
        what="mixtures",
        settings={k: v for k, v in asdict(base).items() if k in DECISIVE},
        tokens=run.tokens.key,
        model=run.model.fingerprint,
        queries=[[q.prompt, q.completion, q.contrast] for q in queries],
    )
    folder = run.root / "retraining" / key
    specs = []
    for copies_N in copies_MN:
        anew = {"repeats": "shuffled anew"} if np.max(copies_N) > 1 else {}
        name = key_of(copies=np.asarray(copies_N).tolist(), **anew)
        specs += [
            MixtureTraining(
                train=replace(base, seed=base.seed + SEEDS_FROM + seed),
                copies=str(folder / f"copies-{name}.arrow"),
                queries=tuple(queries),
                out=str(folder / f"copies-{name}-seed-{seed}.json"),
            )
            for seed in range(seeds)
        ]
    return specs


def _base(run: Run, tuning: FineTuning) -> TrainSpec:
    if run.config.train != "none":
        spec = plan_training(run.config, run.tokens, {"source": run.model.source})
        return replace(spec, threads=1)
    tokenizer = run.model.tokenizer or run.model.source
    spec = plan_training(run.config, run.tokens, {"source": tokenizer})
    return replace(
        spec,
        start=run.model.source,
        gguf_file=None,
        revision=run.model.revision,
        epochs=tuning.epochs,
        learning_rate=tuning.learning_rate,
        threads=1,
    )


def refuse_adapter(run: Run) -> None:
    """Refuse what can't be trained here.

    Raises:
        RunError: If the run's model is an adapter over another one.
    """
    if run.model.adapter is not None:
        raise RunError(
            f"Run {run.root}: its model is an adapter, which is not trained here; a whole model was "
            "expected. Verify a run on the merged model, or one with `train: finetune`."
        )


def train_mixture(spec: MixtureTraining) -> str:
    """Train on one mixture and write down the queries' losses (runs on a worker).

    Returns:
        The file.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.train.threads)
    try:
        copies_N = read_table(Path(spec.copies)).column("copies").to_numpy()
        tokenizer = trained_tokenizer(spec.train)
        chunks = read_corpus(spec.train.tokens)
        if copies_N.max() > 1:
            chunks = [chunk for chunk in chunks for _ in range(copies_N[chunk.document])]
        trained = train_on(spec.train, chunks, tokenizer, None, copies_N > 0)
        loaded = as_loaded(trained.model, tokenizer, spec.train)
        losses = [loss_of(loaded, query) for query in spec.queries]
    finally:
        torch.set_num_threads(threads)
    return str(write_json(Path(spec.out), {"losses": losses}))


def seconds_of_trainings(run: Run, trainings: int, tuning: FineTuning | None = None) -> float:
    """About how long trainings take on this machine, nothing being there yet.

    Args:
        run: The run.
        trainings: How many, each on about the whole corpus.
        tuning: Of a model that was given; None: the defaults.

    Returns:
        Seconds.
    """
    config, info = run.config, run.tokens.info()
    if config.train == "none":
        epochs = (tuning or FineTuning()).epochs
        config = config.model_copy(update={"train": "finetune", "epochs": epochs})
    costs = estimate(
        config, layers_of(run.model), info["documents"], info["tokens"], default_count()
    )
    one = next(c.seconds for c in costs if c.stage == "training") * config.train_threads
    return one * trainings / default_count()
