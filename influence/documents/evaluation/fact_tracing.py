r"""Fact tracing: does a method rank documents that state a fact above the others?

For a query that asks for a fact, the supports are the documents that state it.  The rank of the best
of them gives the reciprocal rank and recall@k.  A document can be influential without stating the
fact, and the reverse; so word overlap (BM25) is expected to be strong here, and is no opponent to beat
but a figure to print beside.  To look for opponents (documents that state it wrongly), pass
the negative of the scores and those documents.

Axes: Q queries, N documents.
Source: Akyurek et al. (2022), arXiv:2205.11482; Chang et al. (2024), arXiv:2410.17413.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from influence.documents.evaluation.bootstrap import Interval, interval
from influence.documents.evaluation.inputs import finite, same
from influence.errors import InfluenceError

TOPS = (1, 5, 20)


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """How high the best supporting document ranks."""

    ranks_Q: np.ndarray
    """Rank from 1 of the best support of each query, int64."""
    mrr: Interval
    """Mean reciprocal rank, in 0..1."""
    recall: dict[int, Interval]
    """For each k the share of queries with at least one support among the top k."""


def facts(
    scores_QN: np.ndarray,
    supports: Sequence[Collection[int]],
    tops: Sequence[int] = TOPS,
    seed: int = 0,
) -> Facts:
    """Rank the supports of each query.

    Args:
        scores_QN: Positive for proponents.
        supports: For each query the rows of the documents that state its fact, at least one.
        tops: The k of recall@k.
        seed: Of the bootstrap over queries.

    Returns:
        Ranks, mean reciprocal rank and recall with their intervals.
    """
    ranks_Q = best_ranks(scores_QN, supports)
    return Facts(
        ranks_Q=ranks_Q,
        mrr=interval(1 / ranks_Q, seed),
        recall={k: interval(ranks_Q <= k, seed) for k in tops},
    )


def best_ranks(scores_QN: np.ndarray, supports: Sequence[Collection[int]]) -> np.ndarray:
    """The rank of each query's best support; among equal scores it comes last of all.

    So a method that scores every document alike finds nothing, whatever the order of the rows.

    Args:
        scores_QN: Positive for proponents.
        supports: For each query the rows of its supports.

    Returns:
        Ranks ``[Q]`` from 1, int64: 1 + the number of other documents that score at least as high.

    Raises:
        InfluenceError: If a query has no support, or a row is not one of the N documents.
    """
    scores_QN = finite(scores_QN, "fact tracing: scores", "QN")
    same(len(scores_QN), len(supports), "fact tracing: queries of scores and of supports")
    documents = scores_QN.shape[1]
    ranks_Q = np.zeros(len(scores_QN), np.int64)
    for query, (scores_N, rows) in enumerate(zip(scores_QN, supports, strict=True)):
        if not rows or min(rows) < 0 or max(rows) >= documents:
            raise InfluenceError(
                f"fact tracing, query {query}: supports {sorted(rows)[:5]} of {documents} "
                f"documents, at least one row between 0 and {documents - 1} was expected. Leave "
                "queries without a supporting document out."
            )
        own_N = np.zeros(documents, bool)
        own_N[list(rows)] = True
        ranks_Q[query] = 1 + int((scores_N[~own_N] >= scores_N[own_N].max()).sum())
    return ranks_Q
