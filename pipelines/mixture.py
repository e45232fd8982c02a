"""Which sources help or hurt which abilities? Scores rolled up by task and group, with intervals.

The story: find near-duplicates, group documents, score them, roll the scores up, check them by
training again where asked, list suspects, and write it all down.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from influence.documents.scores import SIGN, UNIT
from influence.mixture.profiles import profiles
from influence.mixture.reweighting import Reweighting, propose
from influence.mixture.rollup import Blocks, Cells, group_totals, in_blocks, roll_up
from pipelines.cluster import Workers
from pipelines.duplicates import find_duplicates, read_clusters
from pipelines.errors import RunError
from pipelines.mixture_changes import Predicted
from pipelines.mixture_files import FORMAT, write_documents, write_mixture, write_rows
from pipelines.mixture_groups import Groups, check_column, group_documents
from pipelines.mixture_languages import Facts, compare_languages, find_facts
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
from pipelines.mixture_scores import MixtureScores, exact_mixture, stored_mixture
from pipelines.mixture_verify import VerifyOptions, verify_mixture
from pipelines.queries import Query
from pipelines.report.mixture_page import write_mixture_page
from pipelines.run_folder import Stage, clear_leftovers, key_of, locked
from pipelines.runs import Run, open_traced
from pipelines.scoring import Traced
from pipelines.suspects import find_suspects
from pipelines.worker import layers_of

LEAST_LOSS = 0.1
"""Nats a token. A task below it counts in the re-weighting as if its loss were this high."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixed:
    """A mixture, scored and rolled up."""

    tasks: Tasks
    groups: Groups
    documents: Blocks
    duplicates: Stage
    facts: Facts
    scores: MixtureScores
    cells: Cells
    proposal: Reweighting | None
    notes: tuple[str, ...]


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
        The content of ``mixture.json`` in its folder; ``page`` names the HTML file beside it.
    """
    check_fit(run, options)
    clock = Clock()
    with locked(run.root):
        clear_leftovers(run.root)
        mixed = score_and_roll_up(run, queries, options, workers, clock)
        with clock.of("verification"):
            checked = verify(run, mixed, options, workers)
    with clock.of("suspects"):
        groups = [mixed.groups.names[group] for group in mixed.groups.group_N]
        suspects = find_suspects(run, mixed.scores.task_TN, groups, mixed.duplicates, workers)
    result = describe(run, mixed, checked, suspects, options, clock)
    folder = Path(result["folder"])
    write_documents(
        folder,
        run,
        mixed.scores.task_TN,
        mixed.tasks,
        mixed.groups,
        read_clusters(mixed.duplicates),
    )
    by_group = layer_group_rows(
        mixed.scores.layers_TLG, mixed.tasks, layer_names(run), mixed.groups
    )
    if by_group:
        write_rows(folder, "layers_by_group", by_group)
    write_mixture(folder, result)
    write_mixture_page(result, Path(result["page"]))
    return result


def check_fit(run: Run, options: MixtureOptions) -> None:
    """Refuse what the run can't do, before any work.

    Args:
        run: The run.
        options: What is asked for.

    Raises:
        RunError: If there is no store to score from, or no column to group by.
    """
    if options.store and run.gradients is None:
        raise RunError(
            f"Mixture: --store given, and run {run.root} has no gradient store. Leave it out to score "
            "exactly, or make the store with `influence run` or `influence index`."
        )
    check_column(run, options.by)


def score_and_roll_up(
    run: Run, queries: Sequence[Query], options: MixtureOptions, workers: Workers, clock: Clock
) -> Mixed:
    """Group documents, score them, and roll the scores up.

    Args:
        run: A finished run, locked by the caller.
        queries: Each with a task.
        options: How.
        workers: Where to run.
        clock: For the seconds of each step.

    Returns:
        All that pages and checks are made of.
    """
    with clock.of("queries"):
        tasks = check_tasks(run, queries, options)
        facts, said = find_facts(run, tasks)
    with clock.of("duplicates"):
        duplicates = find_duplicates(run.corpus, run.root, workers, options.threshold)
        cluster_N = read_clusters(duplicates)
        groups = group_documents(run, options.by, cluster_N)
        documents = in_blocks(groups.group_N, cluster_N, options.blocks, options.seed)
    with clock.of("scores"):
        traced = open_traced(run, exact=not options.store)
        score = stored_mixture if options.store else exact_mixture
        scores = score(traced, tasks, documents, facts, workers)
    with clock.of("intervals"):
        cells = roll_up(scores.total_QK, tasks.task_Q, documents, options.draws, options.seed)
        proposal = _proposal(cells, tasks, groups, options)
    notes = (*few_queries(tasks), *groups.notes, *said, *scores.notes)
    return Mixed(
        tasks=tasks,
        groups=groups,
        documents=documents,
        duplicates=duplicates,
        facts=facts,
        scores=scores,
        cells=cells,
        proposal=proposal,
        notes=(*notes, *_nothing_proposed(cells, proposal)),
    )


def verify(
    run: Run, mixed: Mixed, options: MixtureOptions, workers: Workers
) -> dict[str, Any] | None:
    """Train again, or unlearn, and compare with what the scores predict.

    Args:
        run: The run, locked by the caller.
        mixed: The mixture.
        options: Its ``verify`` says what to check.
        workers: Where to run.

    Returns:
        ``verification`` or ``forgetting`` of mixture.json; None where nothing was asked for.

    Raises:
        RunError: If a re-weighting is to be checked and none is proposed.
    """
    if options.verify is None:
        return None
    how = VerifyOptions(kind="drop", seeds=options.seeds, seed=options.seed)
    if options.verify == "reweight":
        if mixed.proposal is None:
            raise RunError(
                "Mixture: --verify reweight given, and no re-weighting is proposed, as no gain is "
                "clear. Ask more queries of each task, weigh tasks with --weights, or use drop."
            )
        how = replace(
            how,
            kind="reweight",
            weights=dict(zip(mixed.groups.names, mixed.proposal.weight_G.tolist(), strict=True)),
            changes=dict(zip(mixed.tasks.names, mixed.proposal.change_T.tolist(), strict=True)),
        )
    elif options.verify == "unlearn":
        how = replace(how, kind="unlearn")
    predicted = Predicted(
        names=mixed.groups.names,
        group_N=mixed.groups.group_N,
        cluster_N=read_clusters(mixed.duplicates),
        tokens_N=mixed.groups.tokens_N,
        removed=mixed.scores.removed,
    )
    return verify_mixture(run, mixed.tasks.queries, predicted, how, workers, workers.console.print)


def describe(
    run: Run,
    mixed: Mixed,
    checked: dict[str, Any] | None,
    suspects: list[dict[str, Any]],
    options: MixtureOptions,
    clock: Clock,
) -> dict[str, Any]:
    """Put the result together.

    Args:
        run: The run.
        mixed: The mixture.
        checked: Its verification, where one was asked for.
        suspects: Documents to look at.
        options: What was asked for.
        clock: Seconds of each step.

    Returns:
        The content of ``mixture.json``.
    """
    tasks, groups, scores = mixed.tasks, mixed.groups, mixed.scores
    traced = open_traced(run, exact=True)
    mean_QG = group_totals(scores.total_QK, mixed.documents) / mixed.documents.documents_G
    with clock.of("profiles"):
        alike = profiles(mean_QG, tasks.task_Q, options.draws, options.seed)
    with clock.of("languages"):
        spoken = compare_languages(run, tasks, mixed.facts, scores.fact_QF, options.seed)
    folder = mixture_folder(run, tasks, options)
    unlearned = options.verify == "unlearn"
    return {
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
        "groups": group_rows(groups, mixed.documents, self_influence(traced)),
        "cells": cell_rows(mixed.cells, scores.task_TN, tasks, groups),
        "profiles": profile_values(alike, tasks, groups),
        "concentration": concentration_rows(scores.task_TN, tasks),
        "layers": layer_rows(scores.layers_TLG, scores.absolute_TL, tasks, layer_names(run)),
        "languages": None if spoken is None else language_values(spoken),
        "clusters": cluster_values(mixed.duplicates),
        "suspects": suspects,
        "reweighting": reweighting_values(mixed.proposal, tasks, groups),
        "verification": None if unlearned else checked,
        "forgetting": checked if unlearned else None,
        "notes": list(mixed.notes),
        "seconds": clock.seconds(),
        "folder": str(folder),
        "page": str(options.html or folder / "mixture.html"),
    }


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


def self_influence(traced: Traced) -> np.ndarray | None:
    """Each document's influence on itself, from the store.

    Returns:
        ``[N]`` in nats per document removed; None without a store.
    """
    if traced.store is None:
        return None
    column = traced.store.metadata().column("self_influence").to_numpy().astype(np.float64)
    return np.asarray(column / len(column))


def layer_names(run: Run) -> list[str]:
    """Names of the tracked layers.

    Returns:
        In their order.
    """
    return [layer.name for layer in layers_of(run.model)]


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
    loss_T = np.maximum(tasks.means(tasks.loss_Q), LEAST_LOSS * tasks.means(tasks.tokens_Q))
    return propose(cells, tokens_G, loss_T, importance_T)


def _nothing_proposed(cells: Cells, proposal: Reweighting | None) -> list[str]:
    if proposal is not None:
        return []
    clear = int((np.abs(cells.sign_TG) == 1).sum())
    return [
        f"No re-weighting is proposed: {clear} of {cells.mean_TG.size} cells are clear, and at an equal "
        "number of tokens no gain over all tasks is."
    ]


class Clock:
    """Seconds of each step; ``of`` is a context manager that adds to them."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time a step.

        Args:
            name: Of the step.

        Yields:
            Nothing.
        """
        begun = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - begun

    def seconds(self) -> dict[str, float]:
        """Return seconds of each step that took some."""
        return {name: round(value, 2) for name, value in self._seconds.items()}
