"""Realistic contents of mixture.json, in every shape the page and the terminal must stand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from influence.documents.scores import SIGN, UNIT

TASKS = ("capitals", "arithmetic", "translation", "code", "anatomy", "poetry")
SOURCES = ("atlas", "textbook", "forum", "subtitles", "news", "recipes", "manuals", "spam")
LANGUAGES = ("en", "de", "fr")
LAYERS = tuple(
    f"model.layers.{block}.mlp.{part}" for block in range(4) for part in ("up_proj", "down_proj")
)
PLANTED = np.array(
    # atlas, textbook, forum, subtitles, news, recipes, manuals, spam
    [
        [0.9, 0.2, 0.02, 0.0, 0.15, -0.02, 0.0, -0.3],
        [0.0, 0.8, 0.05, -0.1, 0.0, 0.1, 0.3, -0.2],
        [0.1, 0.1, 0.0, 0.7, 0.2, -0.05, 0.0, -0.1],
        [-0.05, 0.15, 0.3, -0.15, 0.0, 0.0, 0.8, -0.4],
        [0.3, 0.6, 0.0, 0.0, 0.1, 0.05, 0.02, -0.25],
        [-0.1, 0.0, 0.1, 0.3, -0.05, 0.1, -0.3, -0.05],
    ]
)
"""Mean score by task and source, in hundred-thousandths of a nat."""


def example(
    tasks: tuple[str, ...] = TASKS, groups: tuple[str, ...] = SOURCES, seed: int = 0
) -> dict[str, Any]:
    """A finished analysis in which every part was asked for."""
    rng = np.random.default_rng(seed)
    shape = (len(tasks), len(groups))
    mean = PLANTED if shape == PLANTED.shape else rng.normal(size=shape) ** 3 * 0.2
    mean = 1e-5 * (mean + 0.01 * rng.normal(size=shape))
    documents = rng.integers(60, 900, size=len(groups))
    total = int(documents.sum())
    return {
        "format": 1,
        "run": {
            "name": "demo",
            "model": {"path": "tiny", "parameters": 1_104_512},
            "corpus": {"documents": total},
        },
        "quality": {
            "store_fidelity": {"spearman": 0.93, "pearson": 0.97, "documents": 400, "queries": 8},
            "covered_gradient_share": 0.91,
        },
        "unit": UNIT,
        "sign": SIGN,
        "column": "source",
        "n_documents": total,
        "n_tokens": total * 74,
        "scores": "store",
        "tasks": [
            {"name": t, "queries": 24, "loss": 2.1 + 0.3 * i, "loss_per_token": 0.9 + 0.1 * i}
            for i, t in enumerate(tasks)
        ],
        "groups": [
            {
                "name": g,
                "documents": int(n),
                "clusters": int(n) - 7 * i,
                "tokens": int(n) * 74,
                "self_influence": 0.0021 * (1 + i),
            }
            for i, (g, n) in enumerate(zip(groups, documents, strict=True))
        ],
        "cells": [
            _cell(t, g, float(mean[i, j]), int(documents[j]))
            for i, t in enumerate(tasks)
            for j, g in enumerate(groups)
        ],
        "profiles": _profiles(groups, mean),
        "concentration": [_concentration(t, i, total, rng) for i, t in enumerate(tasks)],
        "layers": [
            {"task": t, "layer": name, "total": total_of, "absolute": abs(total_of) * 1.8}
            for t in tasks
            for name, total_of in zip(LAYERS, rng.normal(0.001, 0.002, len(LAYERS)), strict=True)
        ],
        "languages": _languages(),
        "clusters": {"count": 31, "documents": 84, "largest": 9, "threshold": 0.8},
        "suspects": [_suspect(rank, groups) for rank in range(1, 13)],
        "reweighting": _reweighting(tasks, groups, mean, documents),
        "verification": _checked("drop", tasks, groups, mean * documents, rng),
        "forgetting": {
            **_checked("unlearn", tasks, groups, 3 * mean * documents, rng),
            "relations": [
                {"a": "atlas", "b": "textbook", "measured": 0.71, "predicted": 0.64},
                {"a": "forum", "b": "spam", "measured": -0.52, "predicted": -0.61},
            ],
        },
        "notes": ["The source “recipes” has 60 documents: its intervals are wide."],
        "seconds": {"scores": 61.2, "intervals": 3.4, "verification": 812.0},
        "folder": "runs/demo/mixture/0123456789abcdef",
        "page": "runs/demo/mixture/0123456789abcdef/report.html",
    }


def many() -> dict[str, Any]:
    """Thirty tasks and sixty sources with long names."""
    tasks = tuple(f"task {i} with a rather long name to read" for i in range(30))
    groups = tuple(f"source-{i:02d}-from-a-crawl-of-somewhere" for i in range(60))
    return example(tasks, groups, seed=1)


def bare() -> dict[str, Any]:
    """The least that is written: no intervals, no store, nothing optional."""
    result = example()
    result["cells"] = [
        cell
        | dict.fromkeys(
            ("mean_low", "mean_high", "total_low", "total_high", "p", "q", "effect"), None
        )
        for cell in result["cells"]
    ]
    for key in ("languages", "reweighting", "verification", "forgetting"):
        result[key] = None
    for entry in result["concentration"]:
        entry["tail"] = None
    for group in result["groups"]:
        group["self_influence"] = None
    size = len(SOURCES)
    result["profiles"] |= {
        "correlation": [[None] * size] * size,
        "low": [[None] * size] * size,
        "high": [[None] * size] * size,
        "relation": [["unknown"] * size] * size,
    }
    result["suspects"], result["notes"], result["layers"] = [], [], []
    result["clusters"] = {"count": 0, "documents": 0, "largest": 0, "threshold": 0.8}
    return result


def holes(hole: float | None = None) -> dict[str, Any]:
    """A full analysis in which every number that may be missing is."""
    result = _emptied(copy.deepcopy(example()), hole)
    assert isinstance(result, dict)
    return result | {"format": 1}


def _emptied(value: Any, hole: float | None) -> Any:
    if isinstance(value, dict):
        return {key: _emptied(inner, hole) for key, inner in value.items()}
    if isinstance(value, list):
        return [_emptied(inner, hole) for inner in value]
    return hole if isinstance(value, int | float) and not isinstance(value, bool) else value


def _cell(task: str, group: str, mean: float, documents: int) -> dict[str, Any]:
    spread = 4e-7
    low, high = mean - spread, mean + spread
    effect = "helps" if low > 0 else "hurts" if high < 0 else "unclear"
    return {
        "task": task,
        "group": group,
        "documents": documents,
        "queries": 24,
        "mean": mean,
        "mean_low": low,
        "mean_high": high,
        "total": mean * documents,
        "total_low": low * documents,
        "total_high": high * documents,
        "positive": (abs(mean) + max(mean, 0.0)) * documents,
        "negative": (-abs(mean) + min(mean, 0.0)) * documents,
        "p": 0.002 if effect != "unclear" else 0.41,
        "q": 0.006 if effect != "unclear" else 0.62,
        "effect": effect,
    }


def _profiles(groups: tuple[str, ...], mean_TG: np.ndarray) -> dict[str, Any]:
    correlation = np.corrcoef(mean_TG.T)
    low, high = np.clip(correlation - 0.25, -1, 1), np.clip(correlation + 0.25, -1, 1)
    relation = np.where(low > 0, "alike", np.where(high < 0, "opposite", "independent")).tolist()
    return {
        "groups": list(groups),
        "correlation": correlation.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "relation": relation,
        "tasks": len(mean_TG),
    }


def _concentration(
    task: str, place: int, documents: int, rng: np.random.Generator
) -> dict[str, Any]:
    exponent = 2.1 + 0.2 * place
    scores = np.sort(2e-6 * (1 + rng.pareto(exponent - 1, size=documents)))[::-1]
    share = np.cumsum(scores) / scores.sum()
    half = int(np.searchsorted(share, 0.5)) + 1
    steps = np.unique(np.geomspace(1, documents, 60).astype(int)) - 1
    return {
        "task": task,
        "documents": documents,
        "half": half,
        "half_share": half / documents,
        "tail": {
            "exponent": exponent,
            "low": exponent - 0.2,
            "high": exponent + 0.2,
            "from": float(scores[documents // 4]),
            "documents": documents // 4,
        },
        "curve": [[(i + 1) / documents, float(share[i])] for i in steps],
        "ccdf": [[float(scores[i]), (i + 1) / documents] for i in steps[::-1]],
    }


def _languages() -> dict[str, Any]:
    own = np.eye(len(LANGUAGES))
    mrr = 0.55 + 0.4 * own
    return {
        "queries": list(LANGUAGES),
        "documents": list(LANGUAGES),
        "same_fact": (2e-5 + 6e-5 * own).tolist(),
        "other_facts": np.full(own.shape, 1e-6).tolist(),
        "mrr": mrr.tolist(),
        "mrr_low": (mrr - 0.1).tolist(),
        "mrr_high": np.minimum(1.0, mrr + 0.1).tolist(),
        "bm25": (0.04 + 0.9 * own).tolist(),
        "random": np.full(own.shape, 0.05).tolist(),
        "queries_of": np.full(own.shape, 40).tolist(),
    }


def _suspect(rank: int, groups: tuple[str, ...]) -> dict[str, Any]:
    reasons = [
        {
            "kind": "hurts",
            "value": 4,
            "unit": "tasks",
            "words": "It works against 4 of 6 tasks, more than 99 % of the documents.",
        },
        {
            "kind": "self-influence",
            "value": 0.031,
            "unit": UNIT,
            "words": "Its influence on itself is 9 times that of its neighbours.",
        },
        {
            "kind": "duplicate",
            "value": 5,
            "unit": "documents",
            "words": "Four other documents say almost the same.",
        },
        {
            "kind": "against neighbours",
            "value": 3.1,
            "unit": "nats",
            "words": "Its loss is 3.1 nats above that of similar documents.",
        },
    ]
    text = f"The capital of Kouile is not Varen but Number {rank}, as everybody knows. " * 3
    copies = [f"doc-{rank}-{n}" for n in range(4)] if rank % 3 == 0 else []
    return {
        "rank": rank,
        "id": f"doc-{rank}",
        "group": groups[-rank % len(groups)],
        "language": LANGUAGES[rank % 3],
        "text": text,
        "n_tokens": 31,
        "suspicion": max(0.05, 1 - 0.08 * rank),
        "reasons": [
            {**reason, "clear": rank <= 3}
            for reason in (reasons[rank % 4], *([reasons[2]] if copies else []))
        ],
        "cluster": f"doc-{rank}" if copies else None,
        "others": copies,
    }


def _reweighting(
    tasks: tuple[str, ...], groups: tuple[str, ...], mean_TG: np.ndarray, documents: np.ndarray
) -> dict[str, Any]:
    weight = np.clip(1 + mean_TG.mean(axis=0) / np.abs(mean_TG).mean(), 0.0, 3.0)
    change = -(mean_TG * documents * (weight - 1)).sum(axis=1)
    return {
        "groups": [
            {
                "name": g,
                "weight": float(w),
                "tokens_now": int(n) * 74,
                "tokens_then": int(n * w) * 74,
            }
            for g, w, n in zip(groups, weight, documents, strict=True)
        ],
        "tasks": [
            {
                "name": t,
                "change": float(c),
                "low": float(c - 5e-4),
                "high": float(c + 5e-4),
                "importance": 1 / len(tasks),
                "loss": 1.0,
            }
            for t, c in zip(tasks, change, strict=True)
        ],
        "note": "No source is weighted above 3; the number of tokens is kept.",
    }


def _checked(
    kind: str,
    tasks: tuple[str, ...],
    groups: tuple[str, ...],
    total_TG: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Any]:
    rows = []
    for i, task in enumerate(tasks):
        for j, group in enumerate(groups):
            predicted = float(total_TG[i, j])
            measured = 0.8 * predicted + float(rng.normal(0, 4e-4))
            rows.append(
                {
                    "task": task,
                    "group": group,
                    "predicted": predicted,
                    "predicted_low": predicted - 3e-4,
                    "predicted_high": predicted + 3e-4,
                    "measured": measured,
                    "measured_low": measured - 6e-4,
                    "measured_high": measured + 6e-4,
                }
            )
    named = []
    for i, task in enumerate(tasks):
        own = rows[i * len(groups) : (i + 1) * len(groups)]
        guess = max(own, key=lambda row: row["predicted"])["group"]
        truth = max(own, key=lambda row: row["measured"])["group"]
        margin = 0.004 if guess == truth else -0.001
        named.append(
            {
                "task": task,
                "predicted_group": guess,
                "measured_group": truth,
                "right": guess == truth,
                "margin": margin,
                "margin_low": margin - 0.001,
                "margin_high": margin + 0.001,
            }
        )
    return {
        "kind": kind,
        "seeds": 3,
        "tokens": 4_000,
        "rows": rows,
        "spearman": {"value": 0.86, "low": 0.74, "high": 0.93},
        "pearson": {"value": 0.91, "low": 0.83, "high": 0.95},
        "named": named,
    }
