"""Which sources help or hurt which abilities? Scores rolled up by task and group, with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from influence.documents.scores import SIGN, UNIT
from influence.mixture.profiles import profiles
from influence.mixture.reweighting import Reweighting, propose
from influence.mixture.rollup import Cells, group_totals, in_blocks, roll_up
from pipelines.cluster import Workers
from pipelines.duplicates import find_duplicates, read_clusters
from pipelines.errors import RunError
from pipelines.mixture_files import FORMAT, write_documents, write_mixture, write_rows
from pipelines.mixture_groups import Groups, check_column, group_documents
from pipelines.mixture_languages import compare_languages, find_facts
from pipelines.mixture_options import MixtureOptions
from pipelines.mixture_queries import Tasks, check_tasks, few_queries
from pipelines.mixture_result import (
    cell_rows,
    concentration_rows,
    group_rows,
    language_values,
    layer_group_rows,
    layer_rows,
    profile_values,
    reweighting_values,
    task_rows,
)
from pipelines.mixture_scores import exact_mixture, stored_mixture
from pipelines.queries import Query
from pipelines.run_folder import Stage, clear_leftovers, key_of, locked
from pipelines.runs import Run, open_traced
from pipelines.worker import layers_of

Value = TypeVar("Value")


def run_mixture(
    run: Run, queries: Sequence[Query], options: MixtureOptions, workers: Workers
) -> dict[str, Any]:
    """Roll influence up by task and group; run again to do what is missing.

    Args:
        run: A finished run.
        queries: Each with a task.
        options: How.
        workers: Where to run.

    Returns:
        The content of ``mixture.json`` in its folder.

    Raises:
        RunError: If queries, column or store do not fit.
    """
    if options.store and run.gradients is None:
        raise RunError(
            f"Mixture: --store given, and run {run.root} has no gradient store. Leave it out to score "
            "exactly, or make the store with `influence run` or `influence index`."
        )
    check_column(run, options.by)
    seconds: dict[str, float] = {}
    tasks = _timed(seconds, "queries", lambda: check_tasks(run, queries, options))
    facts, said = find_facts(run, tasks)
    with locked(run.root):
        clear_leftovers(run.root)
        found = _timed(
            seconds,
            "duplicates",
            lambda: find_duplicates(run.corpus, run.root, workers, options.threshold),
        )
        cluster_N = read_clusters(found)
        groups = group_documents(run, options.by, cluster_N)
        documents = in_blocks(groups.group_N, cluster_N, options.blocks, options.seed)
        traced = open_traced(run, exact=not options.store)
        score = stored_mixture if options.store else exact_mixture
        scores = _timed(seconds, "scores", lambda: score(traced, tasks, documents, facts, workers))
    cells = _timed(
        seconds,
        "intervals",
        lambda: roll_up(scores.total_QK, tasks.task_Q, documents, options.draws, options.seed),
    )
    mean_QG = group_totals(scores.total_QK, documents) / documents.documents_G
    alike = _timed(
        seconds, "profiles", lambda: profiles(mean_QG, tasks.task_Q, options.draws, options.seed)
    )
    spoken = compare_languages(run, tasks, facts, scores.fact_QF, options.seed)
    proposal = _proposal(cells, tasks, groups, options)
    names = [layer.name for layer in layers_of(run.model)]
    folder = mixture_folder(run, tasks, options)
    result = {
        "format": FORMAT,
        "run": traced.settings,
        "quality": traced.quality,
        "unit": UNIT,
        "sign": SIGN,
        "column": options.by,
        "n_documents": len(groups.group_N),
        "n_tokens": int(groups.tokens_N.sum()),
        "scores": "store" if options.store else "exact",
        "tasks": task_rows(tasks),
        "groups": group_rows(groups, documents, self_influence(run)),
        "cells": cell_rows(cells, scores.task_TN, tasks, groups),
        "profiles": profile_values(alike, tasks, groups),
        "concentration": concentration_rows(scores.task_TN, tasks),
        "layers": layer_rows(scores.layers_TLG, scores.absolute_TL, tasks, names),
        "languages": None if spoken is None else language_values(spoken),
        "clusters": cluster_values(found),
        "suspects": [],
        "reweighting": reweighting_values(proposal, tasks, groups),
        "verification": None,
        "forgetting": None,
        "notes": [
            *few_queries(tasks),
            *groups.notes,
            *said,
            *scores.notes,
            *_nothing_clear(cells, proposal),
        ],
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "folder": str(folder),
        "page": str(options.html or folder / "mixture.html"),
    }
    by_group = layer_group_rows(scores.layers_TLG, tasks, names, groups)
    if by_group:
        write_rows(folder, "layers_by_group", by_group)
    write_documents(folder, run, scores.task_TN, tasks, groups, cluster_N)
    write_mixture(folder, result)
    return result


def mixture_folder(run: Run, tasks: Tasks, options: MixtureOptions) -> Path:
    """The folder of a mixture, keyed by all that changes its numbers.

    Returns:
        ``<run>/mixtures/<hash>``.
    """
    key = key_of(
        version=FORMAT,
        queries=[
            [q.id, q.prompt, q.completion, q.contrast, q.task, q.language, q.supports]
            for q in tasks.queries
        ],
        options=options.decisive(),
        model=run.model.fingerprint,
        curvature=run.curvature.key,
        damping=run.config.damping,
        store=run.gradients.key if options.store and run.gradients else None,
    )
    return run.root / "mixtures" / key


def self_influence(run: Run) -> np.ndarray | None:
    """Each document's influence on itself, from the store.

    Returns:
        ``[N]`` in nats per document removed; None without a store.
    """
    store = open_traced(run, exact=True).store
    if store is None:
        return None
    column = store.metadata().column("self_influence").to_numpy().astype(np.float64)
    return np.asarray(column / len(column))


def cluster_values(duplicates: Stage) -> dict[str, Any]:
    """How many documents have near-duplicates.

    Returns:
        ``clusters``.
    """
    info = duplicates.info()
    return {
        "count": info["clusters"],
        **{key: info[key] for key in ("documents", "largest", "threshold")},
    }


def _proposal(
    cells: Cells, tasks: Tasks, groups: Groups, options: MixtureOptions
) -> Reweighting | None:
    tokens_G = groups.sums(groups.tokens_N)
    if (tokens_G <= 0).any():
        return None
    importance_T = np.array([options.importance.get(name, 1.0) for name in tasks.names])
    # per token: a task of long texts counts no more than one of short answers
    return propose(cells, tokens_G, importance_T / tasks.means(tasks.tokens_Q))


def _nothing_clear(cells: Cells, proposal: Reweighting | None) -> list[str]:
    if proposal is not None:
        return []
    clear = int((np.abs(cells.sign_TG) == 1).sum())
    return [
        f"No re-weighting is proposed: {clear} of {cells.mean_TG.size} cells are clear, and no group "
        "gains clearly on another."
    ]


def _timed(seconds: dict[str, float], name: str, work: Callable[[], Value]) -> Value:
    begun = time.perf_counter()
    found = work()
    seconds[name] = time.perf_counter() - begun
    return found
