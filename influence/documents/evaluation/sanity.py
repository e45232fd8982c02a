"""Sanity: two things that go wrong without any number looking wrong.

``cardinality``: a method that names the same few documents for every query has found loud documents,
not relevant ones.  ``agreement``: how alike two sets of scores order the documents.  Scores of a
model with RANDOMISED weights must not agree with those of the trained one; scores from another seed of
the labels, or from the store instead of full gradients, should.

Axes: Q queries, N documents.
Source: Adebayo et al. (2018), arXiv:1810.03292 (randomised weights, there for saliency maps); Barshan
et al. (2020), arXiv:2003.11630 (the same documents for all queries).
"""

from __future__ import annotations

import numpy as np

from influence.documents.evaluation.bootstrap import Interval, interval
from influence.documents.evaluation.brittleness import top_k
from influence.documents.evaluation.inputs import finite, same
from influence.documents.evaluation.ranks import spearman
from influence.errors import InfluenceError


def cardinality(scores_QN: np.ndarray, k: int) -> float:
    """Distinct documents among all queries' top k, as a share of ``Q k``.

    Args:
        scores_QN: Positive for proponents.
        k: Documents a query, at least 1.

    Returns:
        ``1 / Q`` if all queries share their top k; 1 if none shares any, which takes ``N >= Q k``.

    Raises:
        InfluenceError: If k is below 1 or above N.
    """
    scores_QN = finite(scores_QN, "cardinality: scores", "QN")
    if k < 1:
        raise InfluenceError(f"cardinality: k = {k}, at least 1 was expected. Choose k = 10, say.")
    distinct = {int(row) for scores_N in scores_QN for row in top_k(scores_N, k)}
    return len(distinct) / (len(scores_QN) * k)


def agreement(a_QN: np.ndarray, b_QN: np.ndarray, seed: int = 0) -> Interval:
    """Spearman's correlation over documents between two sets of scores, mean over queries.

    Args:
        a_QN: Scores of one kind.
        b_QN: Scores of another for the same queries and documents.
        seed: Of the bootstrap over queries.

    Returns:
        1: the same order; 0: unrelated, or constant; -1: reversed.
    """
    a_QN, b_QN = finite(a_QN, "agreement: a", "QN"), finite(b_QN, "agreement: b", "QN")
    same(len(a_QN), len(b_QN), "agreement: queries of a and of b")
    same(a_QN.shape[1], b_QN.shape[1], "agreement: documents of a and of b")
    return interval(spearman(a_QN, b_QN), seed)
