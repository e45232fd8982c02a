r"""Brittleness: does the loss rise when a query's strongest proponents are left out of training?

The model is trained again without the k documents that a method scores highest for a query.  With the
right scores the query's loss rises by more than without k random documents.  Rises are in nats of the
query's summed loss; POSITIVE means that the removed documents supported it.

Axes: N documents, Q queries, R seeds of training, D draws of random documents.
Source: Ilyas et al. (2022), arXiv:2202.00622 (brittleness of predictions); Park et al. (2023),
arXiv:2303.14186 (counterfactuals).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from influence.documents.evaluation.bootstrap import Interval, difference, interval
from influence.documents.evaluation.inputs import finite, flags, same
from influence.errors import InfluenceError

Cell = tuple[str, int]
"""A method's name and k, the number of documents left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Brittleness:
    """What leaving out one method's top k does."""

    rise_Q: np.ndarray
    """Loss without them minus loss of the full model, in nats, by query."""
    rise: Interval
    """Mean of it over queries."""
    above_random: Interval | None
    """Rise beyond that of k random documents, paired by query; None when none were removed."""
    flips: Interval | None
    """Share of queries whose answer changed, in 0..1; None when it was not looked at."""


def top_k(scores_N: np.ndarray, k: int) -> np.ndarray:
    """The rows of the k highest scores, highest first; equal scores in order of their rows.

    Args:
        scores_N: Positive for proponents.
        k: How many, between 0 and N.

    Returns:
        Row numbers ``[k]``, int64.

    Raises:
        InfluenceError: If there are fewer than k documents, or a score is not finite.
    """
    scores_N = finite(scores_N, "top_k: scores", "N")
    if not 0 <= k <= len(scores_N):
        raise InfluenceError(
            f"top_k: k = {k} of {len(scores_N)} documents, 0 to {len(scores_N)} was expected. "
            "Choose a smaller k."
        )
    return np.argsort(-scores_N, kind="stable")[:k].astype(np.int64)


def brittleness(
    removed_RQ: np.ndarray,
    full_RQ: np.ndarray,
    random_DQ: np.ndarray | None = None,
    flipped_RQ: np.ndarray | None = None,
    seed: int = 0,
) -> Brittleness:
    """Compare losses without the top k of one method with those of the full model and of chance.

    Args:
        removed_RQ: Summed loss in nats of each query under models trained without ITS top k. The
            mean over seeds is used; a plain ``[Q]`` is one seed.
        full_RQ: The same under models trained on all documents, best with the same seeds.
        random_DQ: The same without k random documents; the mean over draws (and seeds) is used.
        flipped_RQ: Booleans: did the answer change? None if that was not looked at.
        seed: Of the bootstrap over queries.

    Returns:
        Rises with their intervals.
    """
    removed_Q, full_Q = _mean(removed_RQ, "removed"), _mean(full_RQ, "full")
    same(len(removed_Q), len(full_Q), "brittleness: queries without the top k and with all")
    above_random = flips = None
    if random_DQ is not None:
        random_Q = _mean(random_DQ, "random")
        same(len(removed_Q), len(random_Q), "brittleness: queries of the top k and of random k")
        above_random = difference(removed_Q, random_Q, seed)
    if flipped_RQ is not None:
        flipped_RQ = flags(np.atleast_2d(flipped_RQ), "brittleness: flipped", "RQ")
        same(len(removed_Q), flipped_RQ.shape[1], "brittleness: queries with losses and with flips")
        flips = interval(flipped_RQ.mean(axis=0), seed)
    rise_Q = removed_Q - full_Q
    return Brittleness(
        rise_Q=rise_Q, rise=interval(rise_Q, seed), above_random=above_random, flips=flips
    )


def table(
    removed: Mapping[Cell, np.ndarray],
    full_RQ: np.ndarray,
    random: Mapping[int, np.ndarray],
    flipped: Mapping[Cell, np.ndarray] | None = None,
    seed: int = 0,
) -> dict[Cell, Brittleness]:
    """``brittleness`` for every method and k.

    Args:
        removed: For each (method, k) losses ``[R, Q]`` in nats.
        full_RQ: Losses of the full model.
        random: For each k losses without k random documents ``[D, Q]``; a k may be missing.
        flipped: For each (method, k) booleans ``[R, Q]``; cells may be missing.
        seed: Of the bootstrap.

    Returns:
        One result a cell, in the order given.
    """
    flipped = flipped or {}
    return {
        (method, k): brittleness(
            losses_RQ, full_RQ, random.get(k), flipped.get((method, k)), seed=seed
        )
        for (method, k), losses_RQ in removed.items()
    }


def _mean(losses_RQ: np.ndarray, what: str) -> np.ndarray:
    return finite(np.atleast_2d(losses_RQ), f"brittleness: {what} losses", "RQ").mean(axis=0)
