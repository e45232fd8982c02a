"""From arrays to the values of ``mixture.json``: what is missing is null, never 0.

Axes: N documents, T tasks, G groups, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from influence.mixture.concentration import concentration
from influence.mixture.languages import Languages
from influence.mixture.profiles import Profiles
from influence.mixture.reweighting import Reweighting
from influence.mixture.rollup import Blocks, Cells
from pipelines.mixture_groups import Groups
from pipelines.mixture_queries import Tasks

EFFECTS = {1.0: "helps", -1.0: "hurts", 0.0: "unclear"}


def number(value: Any) -> float | None:
    """A number that JSON holds.

    Returns:
        None where it is NaN, infinite or None.
    """
    return None if value is None or not np.isfinite(value) else float(value)


def numbers(values: np.ndarray) -> list[Any]:
    """A table of numbers that JSON holds.

    Returns:
        Nested lists, None where a number is missing.
    """
    if values.ndim > 1:
        return [numbers(row) for row in values]
    return [number(value) for value in values]


def task_rows(tasks: Tasks) -> list[dict[str, Any]]:
    """Tasks with their losses.

    Returns:
        Rows of ``tasks``.
    """
    loss_T, tokens_T = tasks.means(tasks.loss_Q), tasks.means(tasks.tokens_Q)
    return [
        {
            "name": name,
            "queries": int(tasks.queries_T[t]),
            "loss": number(loss_T[t]),
            "loss_per_token": number(loss_T[t] / tokens_T[t]),
        }
        for t, name in enumerate(tasks.names)
    ]


def group_rows(
    groups: Groups, documents: Blocks, self_influence_N: np.ndarray | None
) -> list[dict[str, Any]]:
    """Groups with their sizes.

    Returns:
        Rows of ``groups``.
    """
    tokens_G, counts_G = groups.sums(groups.tokens_N), documents.documents_G
    own_G = None if self_influence_N is None else groups.sums(self_influence_N) / counts_G
    return [
        {
            "name": name,
            "documents": int(counts_G[g]),
            "clusters": int(documents.clusters_G[g]),
            "tokens": int(tokens_G[g]),
            "self_influence": None if own_G is None else number(own_G[g]),
        }
        for g, name in enumerate(groups.names)
    ]


def cell_rows(
    cells: Cells, task_TN: np.ndarray, tasks: Tasks, groups: Groups
) -> list[dict[str, Any]]:
    """Every task by every group.

    Args:
        cells: Means, intervals and p values.
        task_TN: Each document's mean over the task's queries.
        tasks: The tasks.
        groups: The groups.

    Returns:
        Rows of ``cells``, task by task.
    """
    columns = {
        "mean": cells.mean_TG,
        "mean_low": cells.mean_low_TG,
        "mean_high": cells.mean_high_TG,
        "total": cells.total_TG,
        "total_low": cells.total_low_TG,
        "total_high": cells.total_high_TG,
        "positive": np.stack([groups.sums(row_N.clip(min=0)) for row_N in task_TN]),
        "negative": np.stack([groups.sums(row_N.clip(max=0)) for row_N in task_TN]),
        "p": cells.p_TG,
        "q": cells.q_TG,
    }
    return [
        {
            "task": task,
            "group": group,
            "documents": int(cells.documents_G[g]),
            "queries": int(tasks.queries_T[t]),
            **{name: number(values_TG[t, g]) for name, values_TG in columns.items()},
            "effect": EFFECTS.get(float(cells.sign_TG[t, g])),
        }
        for t, task in enumerate(tasks.names)
        for g, group in enumerate(groups.names)
    ]


def profile_values(found: Profiles, tasks: Tasks, groups: Groups) -> dict[str, Any]:
    """Which groups act alike.

    Returns:
        ``profiles``.
    """
    places = range(len(groups.names))
    return {
        "groups": list(groups.names),
        "correlation": numbers(found.correlation_GG),
        "low": numbers(found.low_GG),
        "high": numbers(found.high_GG),
        "relation": [[found.relation(a, b) for b in places] for a in places],
        "tasks": len(tasks.names),
    }


def concentration_rows(task_TN: np.ndarray, tasks: Tasks) -> list[dict[str, Any]]:
    """How few documents carry each task.

    Returns:
        Rows of ``concentration``.
    """
    rows = []
    for task, scores_N in zip(tasks.names, task_TN, strict=True):
        found = concentration(scores_N)
        tail = found.tail
        rows.append(
            {
                "task": task,
                "documents": len(scores_N),
                "half": found.half,
                "half_share": found.half / len(scores_N),
                "tail": tail
                and {
                    "exponent": tail.exponent,
                    "low": tail.low,
                    "high": tail.high,
                    "from": tail.threshold,
                    "documents": tail.documents,
                },
                "curve": [list(point) for point in found.curve],
                "ccdf": [list(point) for point in found.ccdf],
            }
        )
    return rows


def layer_rows(
    layers_TLG: np.ndarray, absolute_TL: np.ndarray | None, tasks: Tasks, names: Sequence[str]
) -> list[dict[str, Any]]:
    """How much of each task's influence flows through each layer.

    Returns:
        Rows of ``layers``; none where it is not known.
    """
    if not layers_TLG.shape[1]:
        return []
    total_TL = layers_TLG.sum(axis=2)
    return [
        {
            "task": task,
            "layer": layer,
            "total": number(total_TL[t, i]),
            "absolute": None if absolute_TL is None else number(absolute_TL[t, i]),
        }
        for t, task in enumerate(tasks.names)
        for i, layer in enumerate(names)
    ]


def layer_group_rows(
    layers_TLG: np.ndarray, tasks: Tasks, names: Sequence[str], groups: Groups
) -> list[dict[str, Any]]:
    """The same by group.

    Returns:
        One row a task, layer and group.
    """
    if not layers_TLG.shape[1]:
        return []
    return [
        {"task": task, "layer": layer, "group": group, "total": number(layers_TLG[t, i, g])}
        for t, task in enumerate(tasks.names)
        for i, layer in enumerate(names)
        for g, group in enumerate(groups.names)
    ]


def language_values(found: Languages) -> dict[str, Any]:
    """Languages of queries by languages of documents.

    Returns:
        ``languages``.
    """
    nothing = np.full(found.mrr_AB.shape, np.nan)
    return {
        "queries": list(found.queries),
        "documents": list(found.documents),
        "same_fact": numbers(found.same_fact_AB),
        "other_facts": numbers(found.other_facts_AB),
        "mrr": numbers(found.mrr_AB),
        "mrr_low": numbers(found.mrr_low_AB),
        "mrr_high": numbers(found.mrr_high_AB),
        "bm25": numbers(found.others.get("bm25", nothing)),
        "random": numbers(found.others.get("random", nothing)),
        "queries_of": found.queries_AB.tolist(),
    }


def reweighting_values(
    found: Reweighting | None, tasks: Tasks, groups: Groups
) -> dict[str, Any] | None:
    """The proposal.

    Returns:
        ``reweighting``; None where nothing is proposed.
    """
    if found is None:
        return None
    tokens_G, loss_T = groups.sums(groups.tokens_N), tasks.means(tasks.loss_Q)
    return {
        "groups": [
            {
                "name": name,
                "weight": float(found.weight_G[g]),
                "tokens_now": int(tokens_G[g]),
                "tokens_then": round(float(tokens_G[g] * found.weight_G[g])),
            }
            for g, name in enumerate(groups.names)
        ],
        "tasks": [
            {
                "name": name,
                "change": number(found.change_T[t]),
                "low": number(found.low_T[t]),
                "high": number(found.high_T[t]),
                "importance": float(found.importance_T[t]),
                "loss": number(loss_T[t]),
            }
            for t, name in enumerate(tasks.names)
        ],
        "note": "An estimate from slopes: a loss is taken to fall as a power of a source's weight, harm "
        "to grow in proportion. The mean over tasks is the geometric one, of each task's loss over its "
        "loss now, by the weights of the tasks; cells whose sign is unclear count as 0. The intervals "
        "leave out that the weights were chosen on these scores. A weight above 1 shows the model the "
        "same documents more often: new ones of the source teach more. --verify reweight trains on "
        "these weights and measures.",
    }
