"""What an evaluation is asked for, and one row of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from influence.documents.evaluation.bootstrap import Interval
from pipelines.errors import RunError

Scores = Mapping[str, np.ndarray]
"""For each method ``[Q, N]``."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What to measure, and how much work to put into it."""

    measures: tuple[str, ...]
    methods: tuple[str, ...]
    queries: int = 50
    """Queries, where no file names them."""
    subsets: int = 40
    """Random halves to train on (lds)."""
    seeds: int = 2
    """Trainings a half (lds) or removal (brittleness)."""
    brittle_queries: int = 10
    """Queries for brittleness: each removal of each is a training."""
    remove: tuple[str, ...] = ("5%",)
    """How many documents to remove (brittleness): numbers or shares."""
    brittle_methods: tuple[str, ...] = ("ekfac", "bm25", "embedding", "random")
    """Methods compared in brittleness, those of them that were chosen."""
    patch: int = 20
    """Documents of one tail-patch step."""
    step: float = 0.1
    """Learning rate of the tail-patch step."""
    top: int = 20
    """k of the sanity check of distinct documents."""
    flag: str = "corrupted"
    """Boolean column of documents that corruption detection shall find."""
    seed: int = 0


def row(method: str, value: Interval, n: int, **extra: Any) -> dict[str, Any]:
    """One line of a measure.

    Returns:
        A row of the result's layout.
    """
    return {
        "method": method,
        "mean": value.mean,
        "low": value.low,
        "high": value.high,
        "n": n,
        "extra": extra,
    }


def count_of(amount: str, documents: int) -> int:
    """How many documents an amount such as ``50`` or ``5%`` is.

    Returns:
        At least 1, fewer than all.

    Raises:
        RunError: If it is no such number.
    """
    share = amount.endswith("%")
    try:
        number = float(amount.rstrip("%"))
    except ValueError:
        number = -1.0
    count = round(number / 100 * documents) if share else round(number)
    if not 1 <= count < documents:
        raise RunError(
            f"Evaluation: remove {amount!r} of {documents} documents given, a number below "
            f"that or a share "
            "such as 5% was expected."
        )
    return count
