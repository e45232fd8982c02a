r"""Unlearning: make a model forget some documents, keep the rest, and look at the queries.

From the run's model, steps of AdamW go up the loss of the documents to forget, and down that of a
sample of other documents, both as means over a batch's tokens:
:math:`\min\; retain \cdot L(\text{others}) - L(\text{forget})`. The steps end when the mean loss of
the documents to forget has risen by ``rise`` nats a token (measured after each step, on at most
`PROBE` of them), or after ``steps``. So each kind of document is forgotten by the same amount, however
easily it is forgotten. Ascent on a loss is not the same as never having trained on it: it may
break more than the documents' own traces, which is what the retained sample guards against.

Source: gradient difference, Liu, Liu & Stone (2022), arXiv:2203.12817; Maini et al. (2024),
arXiv:2401.06121, section 3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from influence.text import Chunk, collate
from pipelines.answers import loss_of
from pipelines.cluster import Workers, report_share
from pipelines.errors import RunError
from pipelines.queries import Query
from pipelines.retraining import as_loaded
from pipelines.run_folder import key_of, write_json
from pipelines.runs import Run
from pipelines.tokens import read_table, write_table
from pipelines.training import (
    TrainSpec,
    make_optimizer,
    mean_loss,
    plan_training,
    read_corpus,
    start_model,
    trained_tokenizer,
)
from pipelines.worker import device_here

PROBE = 64
"""Chunks to forget whose loss is measured after each step."""


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """How far, and how, a model forgets."""

    rise: float = 0.5
    """Rise of the forgotten documents' mean loss at which to stop, nats a token."""
    steps: int = 200
    """Steps after which to stop all the same."""
    learning_rate: float = 1e-4
    """AdamW's, without warm-up."""
    retain: float = 1.0
    """Weight of the loss on other documents."""
    batch_documents: int = 32
    """Rows of each of the two batches of a step."""


@dataclass(frozen=True, kw_only=True)
class UnlearnSpec:
    """One model to make forget."""

    train: TrainSpec
    """Its ``start`` is the model, its ``seed`` that of the batches."""
    rows: str
    """Arrow file with boolean columns ``forget`` and ``retain`` over the documents of the corpus."""
    how: Forgetting
    queries: tuple[Query, ...]
    out: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Forgotten:
    """What became of the queries; S sets of documents, R seeds, Q queries."""

    before_Q: np.ndarray
    """Losses under the run's own model, nats."""
    after_SRQ: np.ndarray
    rise_SR: np.ndarray
    """Rise of the forgotten documents' mean loss, nats a token."""
    steps_SR: np.ndarray


def unlearned(
    run: Run,
    sets: Sequence[tuple[np.ndarray, np.ndarray]],
    seeds: int,
    queries: Sequence[Query],
    how: Forgetting,
    workers: Workers,
) -> Forgotten:
    """Make the run's model forget each set of documents, with each seed; run again to resume.

    Args:
        run: The run.
        sets: Booleans ``[N]``: documents to forget, and documents to retain.
        seeds: Of each set; a seed decides the batches.
        queries: What to look at before and after.
        how: How far to go.
        workers: Where to run.

    Returns:
        Losses before and after.
    """
    specs = plan_unlearning(run, sets, seeds, queries, how)
    for spec, (forget_N, retain_N) in zip(specs[1::seeds], sets, strict=True):
        if not Path(spec.rows).exists():
            write_table(Path(spec.rows), pa.table({"forget": forget_N, "retain": retain_N}))
    todo = [spec for spec in specs if not Path(spec.out).exists()]
    workers.map(unlearn, todo, f"Unlearning {len(sets)} sets of documents")
    before, *after = [json.loads(Path(s.out).read_text("utf-8")) for s in specs]
    shape = (len(sets), seeds)
    return Forgotten(
        before_Q=np.array(before["losses"]),
        after_SRQ=np.array([one["losses"] for one in after]).reshape(*shape, len(queries)),
        rise_SR=np.array([one["rise"] for one in after]).reshape(shape),
        steps_SR=np.array([one["steps"] for one in after]).reshape(shape),
    )


def plan_unlearning(
    run: Run,
    sets: Sequence[tuple[np.ndarray, np.ndarray]],
    seeds: int,
    queries: Sequence[Query],
    how: Forgetting,
) -> list[UnlearnSpec]:
    """The model as it is (a spec without rows), then one spec a set and seed; pure.

    Args:
        run: The run.
        sets: Documents to forget and to retain.
        seeds: Of each set.
        queries: What to look at.
        how: How far to go.

    Returns:
        Specs, the seeds of a set side by side.

    Raises:
        RunError: If a set leaves nothing to forget or to retain.
    """
    tokenizer = run.model.tokenizer or run.model.source
    base = replace(
        plan_training(run.config, run.tokens, {"source": tokenizer}),
        start=run.model.source,
        gguf_file=None,
        revision=run.model.revision,
        threads=1,
    )
    key = key_of(
        how=asdict(how),
        tokens=run.tokens.key,
        model=run.model.fingerprint,
        queries=[[q.prompt, q.completion, q.contrast] for q in queries],
    )
    folder = run.root / "unlearning" / key
    first = UnlearnSpec(
        train=base, rows="", how=how, queries=tuple(queries), out=str(folder / "before.json")
    )
    specs = [first]
    for forget_N, retain_N in sets:
        both = int((forget_N & retain_N).sum())
        if both or not forget_N.any() or not retain_N.any():
            raise RunError(
                f"Unlearning: {int(forget_N.sum())} documents to forget, {int(retain_N.sum())} to "
                f"retain, {both} of them in both; some of each and none in both were expected. Choose "
                "a column with several groups."
            )
        name = key_of(forget=forget_N.tolist(), retain=retain_N.tolist())
        specs += [
            replace(
                first,
                train=replace(base, seed=seed),
                rows=str(folder / f"rows-{name}.arrow"),
                out=str(folder / f"rows-{name}-seed-{seed}.json"),
            )
            for seed in range(seeds)
        ]
    return specs


def unlearn(spec: UnlearnSpec) -> str:
    """Forget one set of documents and write down the queries' losses (runs on a worker).

    Returns:
        The file.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tokenizer = trained_tokenizer(spec.train)
        model: Any = start_model(spec.train, tokenizer).to(device_here(spec.train.device)).eval()
        rise, steps = _forget(spec, model, tokenizer) if spec.rows else (0.0, 0)
        loaded = as_loaded(model, tokenizer, spec.train)
        losses = [loss_of(loaded, query) for query in spec.queries]
    finally:
        torch.set_num_threads(threads)
    return str(write_json(Path(spec.out), {"losses": losses, "rise": rise, "steps": steps}))


def _forget(spec: UnlearnSpec, model: nn.Module, tokenizer: Any) -> tuple[float, int]:
    """Change the model in place; rise of the loss in nats a token, and steps taken."""
    how, table = spec.how, read_table(Path(spec.rows))
    flags = {name: table.column(name).to_numpy() for name in ("forget", "retain")}
    chunks = read_corpus(spec.train.tokens)
    forget, retain = ([c for c in chunks if flags[n][c.document]] for n in ("forget", "retain"))
    device, pad = next(model.parameters()).device, tokenizer.pad_token_id or 0
    probe = collate(forget[:: -(-len(forget) // PROBE)], pad).to(device)
    optimizer = make_optimizer(model, how.learning_rate, weight_decay=0.0)
    up = _batches(forget, how.batch_documents, [spec.train.seed, 0])
    down = _batches(retain, how.batch_documents, [spec.train.seed, 1])
    with torch.no_grad():
        start = mean_loss(model, probe).item()
    rise, step = 0.0, 0
    while step < how.steps and rise < how.rise:
        batches = [collate(next(one), pad).to(device) for one in (up, down)]
        loss = how.retain * mean_loss(model, batches[1]) - mean_loss(model, batches[0])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            rise = mean_loss(model, probe).item() - start
        if not np.isfinite(rise):
            raise RunError(
                f"Unlearning: the loss at step {step} is not finite. Lower its learning rate "
                f"({how.learning_rate})."
            )
        report_share(max(step / how.steps, min(1.0, max(0.0, rise / how.rise))))
    return rise, step


def _batches(chunks: Sequence[Chunk], size: int, seed: list[int]) -> Iterator[list[Chunk]]:
    """Batches for ever: one pass after the other, each in a new order."""
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(len(chunks))
        for start in range(0, len(order), size):
            yield [chunks[i] for i in order[start : start + size]]
