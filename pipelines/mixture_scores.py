"""Scores of all documents for the queries of tasks, summed as they come; exact or from the store.

Exact: one task a shard leaves a file with every score of its documents, so that a killed run goes
on, and another grouping of the documents needs no further pass. From the store: blocks of documents
are summed once, and queries are multiplied with these sums; a second pass over the vectors, with one
query a task, gives each document's score for the task.

Axes: N documents, D documents of a shard, Q queries, T tasks, G groups, K blocks of documents,
L layers, F fact documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

import gradients_store
from influence.mixture.rollup import Blocks, block_sums, group_totals
from pipelines.cluster import Workers, bar
from pipelines.gradient_files import load_sketch
from pipelines.mixture_languages import Facts
from pipelines.mixture_queries import Tasks
from pipelines.queries import Query
from pipelines.run_folder import key_of
from pipelines.scoring import Traced, blocks, score_documents, solve
from pipelines.tokens import read_table, shard_path, write_table
from pipelines.worker import layers_of

QUERIES_AT_ONCE = 32
"""Most queries whose full directions, or digits for the store, are held at once."""
COLUMNS = 1 << 14
"""Numbers of a vector that are multiplied at once."""
SUM_GIGABYTES = 2.0
"""Most memory for sums of vectors by block; above, the store is scored query by query."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureScores:
    """What is left of all scores; nats per document removed."""

    total_QK: np.ndarray
    """Sum over each block's documents."""
    task_TN: np.ndarray
    """Each document's mean over the task's queries."""
    layers_TLG: np.ndarray
    """Sum over each group's documents, by layer."""
    absolute_TL: np.ndarray | None
    """Sum over documents of the size of their scores by layer; None: not known from a store."""
    fact_QF: np.ndarray
    """Scores of fact documents for the queries that ask for facts."""
    loss_N: np.ndarray
    """Each document's loss, nats."""
    removed: Callable[[np.ndarray], np.ndarray]
    """From how much of each document is taken away ``[A, N]`` to the change of losses ``[A, Q]``, or
    ``[A, T]`` from a store."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """Score one shard of documents for all queries."""

    run: Traced
    """The run, with the spec of this shard alone and without its store."""
    queries: tuple[Query, ...]
    tasks: tuple[int, ...]
    """Task of each query."""
    out: str


def score_mixture_shard(spec: MixtureSpec) -> str:
    """Score the documents of one shard from full gradients (runs on a worker).

    Returns:
        An Arrow file, a row a document: ``scores`` [Q], ``layers`` [T, L] (mean over a task's
        queries), in nats times N, and ``loss``.
    """
    [shard] = spec.run.specs
    rows = range(shard.first, shard.first + len(shard.ids))
    task_Q = np.array(spec.tasks)
    weight_TQ = (task_Q == np.arange(task_Q.max() + 1)[:, None]) / np.bincount(task_Q)[:, None]
    parts, start, layers_DTL = [], 0, 0.0
    for block in blocks(spec.run, spec.queries):
        scored = score_documents(spec.run, solve(spec.run, block), rows)
        own_TQ = weight_TQ[:, start : start + len(block)]
        layers_DTL = layers_DTL + np.einsum("tq,qld->dtl", own_TQ, scored.layers_QLD)
        parts.append(scored.layers_QLD.sum(axis=1).T)
        loss_D = scored.loss_D
        start += len(block)
    table = pa.table(
        {
            "scores": _lists(np.concatenate(parts, axis=1)),
            "layers": _lists(np.reshape(layers_DTL, (len(rows), -1))),
            "loss": pa.array(loss_D),
        }
    )
    return str(write_table(Path(spec.out), table))


def _lists(values_DX: np.ndarray) -> pa.Array:
    flat = pa.array(values_DX.astype(np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values_DX.shape[1])


def plan_mixture(run: Traced, tasks: Tasks) -> list[MixtureSpec]:
    """One spec a shard; pure.

    Returns:
        Specs in order; their files do not depend on how documents are grouped.
    """
    first = run.specs[0]
    key = key_of(
        what="mixture",
        queries=[[q.prompt, q.completion, q.contrast] for q in tasks.queries],
        tasks=tasks.task_Q.tolist(),
        model=first.model.fingerprint,
        layers=first.model.layers,
        curvature=Path(first.curvature).name,
        damping=first.damping,
        tokens=Path(first.tokens).name,
    )
    bare = replace(run, store=None, settings={}, quality={})
    return [
        MixtureSpec(
            run=replace(bare, specs=(shard,)),
            queries=tasks.queries,
            tasks=tuple(tasks.task_Q.tolist()),
            out=str(shard_path(run.root / "scores" / key, shard.shard)),
        )
        for shard in run.specs
    ]


def exact_mixture(
    run: Traced, tasks: Tasks, documents: Blocks, facts: Facts, workers: Workers
) -> MixtureScores:
    """Score every document from full gradients, one task a shard; run again to resume.

    Args:
        run: The run.
        tasks: The queries.
        documents: How documents are grouped.
        facts: Queries and documents whose scores are kept pair by pair.
        workers: Where to run.

    Returns:
        Sums over documents, and what is kept of each.
    """
    specs = plan_mixture(run, tasks)
    todo = [spec for spec in specs if not Path(spec.out).exists()]
    workers.map(score_mixture_shard, todo, "Scoring every document exactly")

    layers = len(layers_of(run.specs[0].model))
    count, names = len(documents.block_N), len(tasks.names)
    total_QK = np.zeros((len(tasks.queries), len(documents.group_K)))
    task_TN, loss_N = np.empty((names, count)), np.empty(count)
    layers_TLG = np.zeros((names, layers, documents.groups))
    absolute_TL = np.zeros((names, layers))
    fact_QF = np.empty(facts.own_QF.shape)
    row_F, asked = np.array(facts.rows, np.int64), list(facts.queries)
    for first, scores_QD, layers_TLD, loss_D in _scored_shards(specs, (names, layers), count):
        own = slice(first, first + scores_QD.shape[1])
        block_D = documents.block_N[own]
        blocks_k, sums_Qk = block_sums(scores_QD, block_D)
        total_QK[:, blocks_k] += sums_Qk
        task_TN[:, own] = tasks.weights_TQ @ scores_QD
        loss_N[own] = loss_D
        groups_g, sums_TLg = _layer_sums(layers_TLD, documents.group_K[block_D])
        layers_TLG[:, :, groups_g] += sums_TLg
        absolute_TL += np.abs(layers_TLD).sum(axis=2)
        here_F = (row_F >= own.start) & (row_F < own.stop)
        fact_QF[:, here_F] = scores_QD[np.ix_(asked, row_F[here_F] - first)]

    def removed(share_AN: np.ndarray) -> np.ndarray:
        change_AQ = np.zeros((len(share_AN), len(tasks.queries)))
        for first, scores_QD, _, _ in _scored_shards(specs, (names, layers), count):
            change_AQ += share_AN[:, first : first + scores_QD.shape[1]] @ scores_QD.T
        return change_AQ

    return MixtureScores(
        total_QK=total_QK,
        task_TN=task_TN,
        layers_TLG=layers_TLG,
        absolute_TL=absolute_TL,
        fact_QF=fact_QF,
        loss_N=loss_N,
        removed=removed,
    )


def _scored_shards(
    specs: Sequence[MixtureSpec], shape: tuple[int, int], documents: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """First row, scores [Q, D], scores by layer [T, L, D], in nats per document removed, and losses."""
    for spec in specs:
        table = read_table(Path(spec.out))
        rows = len(table)
        columns = [
            table.column(name).combine_chunks().flatten().to_numpy().reshape(rows, -1)
            for name in ("scores", "layers")
        ]
        scores_DQ, layers_DX = (values.astype(np.float64) / documents for values in columns)
        layers_TLD = layers_DX.T.reshape(*shape, rows)
        yield spec.run.specs[0].first, scores_DQ.T, layers_TLD, table.column("loss").to_numpy()


def _layer_sums(layers_TLD: np.ndarray, group_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tasks, layers, documents = layers_TLD.shape
    groups_g, sums_Xg = block_sums(layers_TLD.reshape(-1, documents), group_D)
    return groups_g, sums_Xg.reshape(tasks, layers, -1)


# -- from the store -------------------------------------------------------------------------------


def stored_mixture(
    run: Traced, tasks: Tasks, documents: Blocks, facts: Facts, workers: Workers
) -> MixtureScores:
    """Score documents from the gradient store, as it keeps them.

    Args:
        run: The run, with its store.
        tasks: The queries.
        documents: How documents are grouped.
        facts: Queries and documents whose scores are kept pair by pair.
        workers: Of its console, for progress; the work is done here.

    Returns:
        As ``exact_mixture``; sizes by layer are not known.
    """
    store, count = run.store, len(documents.block_N)
    assert store is not None
    query_QM = np.concatenate(
        [_vectors(run, block) for block in blocks(run, tasks.queries, QUERIES_AT_ONCE)]
    )
    task_TM = tasks.weights_TQ.astype(np.float32) @ query_QM
    needed = gradients_store.size_of(store.header, len(documents.group_K))
    notes: tuple[str, ...] = ()
    if needed <= SUM_GIGABYTES * 1e9:
        with bar(workers.console, "Summing vectors by group", count) as advance:
            sum_KM = gradients_store.group_sums(store, documents.block_N, advance)
        total_QK = products(query_QM, sum_KM) / count
        layers_TLG = _by_layer(run, task_TM, sum_KM, documents) / count
        task_TN = _stored_scores(run, task_TM, workers)
    else:
        notes = (
            f"Sums of the store's vectors by group would take {needed / 1e9:,.1f} GB, "
            f"{SUM_GIGABYTES:g} are allowed: each document was scored for each query instead, and "
            "influence by layer is left out.",
        )
        total_QK = np.zeros((len(query_QM), len(documents.group_K)))
        task_TN = np.empty((len(tasks.names), count))
        for first, scores_QD in _streamed(run, query_QM, workers):
            own = slice(first, first + scores_QD.shape[1])
            blocks_k, sums_Qk = block_sums(scores_QD, documents.block_N[own])
            total_QK[:, blocks_k] += sums_Qk
            task_TN[:, own] = tasks.weights_TQ @ scores_QD
        layers_TLG = np.zeros((len(tasks.names), 0, documents.groups))
    return MixtureScores(
        total_QK=total_QK,
        task_TN=task_TN,
        layers_TLG=layers_TLG,
        absolute_TL=None,
        fact_QF=_fact_scores(run, query_QM[list(facts.queries)], facts.rows),
        loss_N=store.metadata().column("loss").to_numpy().astype(np.float64),
        removed=lambda share_AN: share_AN @ task_TN.T,
        notes=notes,
    )


def _vectors(run: Traced, queries: Sequence[Query]) -> np.ndarray:
    vectors_QP = solve(run, queries).vectors_QP
    assert vectors_QP is not None
    return vectors_QP.float().numpy()


def products(left_XM: np.ndarray, right_YM: np.ndarray) -> np.ndarray:
    """Inner products in float64, some columns at a time.

    Args:
        left_XM: Rows.
        right_YM: Rows of the same length.

    Returns:
        ``[X, Y]``.
    """
    found_XY = np.zeros((len(left_XM), len(right_YM)))
    for start in range(0, left_XM.shape[1], COLUMNS):
        own = slice(start, start + COLUMNS)
        found_XY += left_XM[:, own].astype(np.float64) @ right_YM[:, own].astype(np.float64).T
    return found_XY


def _streamed(
    run: Traced, query_QM: np.ndarray, workers: Workers
) -> Iterator[tuple[int, np.ndarray]]:
    assert run.store is not None
    documents = len(run.store)
    with bar(workers.console, "Scoring the store", documents) as advance:
        for first, scores_QD in gradients_store.all_scores(run.store, query_QM):
            yield first, scores_QD.astype(np.float64) / documents
            advance(scores_QD.shape[1])


def _stored_scores(run: Traced, query_QM: np.ndarray, workers: Workers) -> np.ndarray:
    assert run.store is not None
    found_QN = np.empty((len(query_QM), len(run.store)))
    for first, scores_QD in _streamed(run, query_QM, workers):
        found_QN[:, first : first + scores_QD.shape[1]] = scores_QD
    return found_QN


def _by_layer(
    run: Traced, task_TM: np.ndarray, sum_KM: np.ndarray, documents: Blocks
) -> np.ndarray:
    """Products layer by layer: each has its own stretch of a vector."""
    sketch = load_sketch(run.specs[0].sketch)
    parts, start = [], 0
    for name, (out, inputs) in sketch.shapes.items():
        size = out * inputs if sketch.kind == "factors" else sketch.size(name)
        own = slice(start, start + size)
        parts.append(group_totals(products(task_TM[:, own], sum_KM[:, own]), documents))
        start += size
    return np.stack(parts, axis=1)


def _fact_scores(run: Traced, query_QM: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Scores of some documents, from a pass over the store for each block of queries."""
    assert run.store is not None
    wanted = np.asarray(rows, np.int64)
    found_QF = np.empty((len(query_QM), len(wanted)))
    if not len(wanted):
        return found_QF
    for start in range(0, len(query_QM), QUERIES_AT_ONCE):
        own = slice(start, start + QUERIES_AT_ONCE)
        for first, scores_qD in gradients_store.all_scores(run.store, query_QM[own]):
            here_F = (wanted >= first) & (wanted < first + scores_qD.shape[1])
            found_QF[own, here_F] = scores_qD[:, wanted[here_F] - first]
    return found_QF / len(run.store)
