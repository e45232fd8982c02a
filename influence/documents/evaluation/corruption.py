r"""Corruption: do documents that were spoilt on purpose stand out by their self-influence?

A document whose label or statement is wrong is learnt against all others: its influence on itself is
large.  The AUROC is the probability that a flagged document gets a higher value than one that is not
flagged, equal values counting half:

.. math:: AUROC = \frac{1}{P M} \sum_{i \in flagged} \sum_{j \notin flagged}
    \left([v_i > v_j] + \tfrac{1}{2} [v_i = v_j]\right)

0.5 is chance, 1 perfect, and below 0.5 the flagged documents stand out by LOW values.  The loss of the
document is printed beside, since it is free: self-influence is worth its cost where it does better.
Both grow with a document's length; compare documents of like length, or say so.

Axes: N documents, P flagged ones, M others, G groups of equal values.
Source: Koh & Liang (2017), arXiv:1703.04730, section 5.4; Pruthi et al. (2020), arXiv:2002.08484.
AUROC as a rank statistic: Hanley & McNeil (1982), doi:10.1148/radiology.143.1.7063747.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from influence.documents.evaluation.bootstrap import Interval, between
from influence.documents.evaluation.inputs import finite, flags, same
from influence.errors import InfluenceError


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """How well flagged documents are found; all are AUROCs or differences of them."""

    self_influence: Interval
    loss: Interval
    difference: Interval
    """Self-influence minus loss, on the same drawn documents."""


def auroc(values_N: np.ndarray, flagged_N: np.ndarray) -> float:
    """Area under the ROC curve, by ranks.

    Args:
        values_N: Higher is more suspect.
        flagged_N: Booleans; at least one document is flagged and one is not.

    Returns:
        Between 0 and 1; 0.5 for equal values.
    """
    from scipy.stats import rankdata  # slow to import

    values_N, flagged_N = _checked(values_N, flagged_N)
    positive, negative = int(flagged_N.sum()), int((~flagged_N).sum())
    ranks = float(rankdata(values_N)[flagged_N].sum())
    return (ranks - positive * (positive + 1) / 2) / (positive * negative)


def corruption(
    self_influence_N: np.ndarray,
    loss_N: np.ndarray,
    flagged_N: np.ndarray,
    seed: int = 0,
    draws: int = 2000,
) -> Corruption:
    """AUROC of self-influence and of the loss, and their difference.

    Args:
        self_influence_N: ``I(m, m)``, in any unit.
        loss_N: Summed loss of each document in nats.
        flagged_N: Booleans: was the document corrupted?
        seed: Of the bootstrap.
        draws: Times that the documents are drawn again, flagged ones and others apart.

    Returns:
        AUROCs with their intervals over documents.
    """
    self_influence_N, flagged_N = _checked(self_influence_N, flagged_N)
    loss_N, _ = _checked(loss_N, flagged_N)
    own_D = _drawn(self_influence_N, flagged_N, seed, draws)
    loss_D = _drawn(loss_N, flagged_N, seed, draws)  # the same seed draws the same documents
    own, loss = auroc(self_influence_N, flagged_N), auroc(loss_N, flagged_N)
    return Corruption(
        self_influence=between(own, own_D),
        loss=between(loss, loss_D),
        difference=between(own - loss, own_D - loss_D),
    )


def _drawn(values_N: np.ndarray, flagged_N: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """AUROCs of drawn documents ``[D]``, each by one pass over groups of equal values."""
    values_G, group_N = np.unique(values_N, return_inverse=True)
    positive_P, negative_M = group_N.reshape(-1)[flagged_N], group_N.reshape(-1)[~flagged_N]
    pairs, groups = len(positive_P) * len(negative_M), len(values_G)
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        up_G, down_G = (
            np.bincount(x[generator.integers(0, len(x), len(x))], minlength=groups)
            for x in (positive_P, negative_M)
        )
        found.append(float(up_G @ (np.cumsum(down_G) - down_G / 2)) / pairs)
    return np.array(found)


def _checked(values_N: np.ndarray, flagged_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values_N = finite(values_N, "corruption: values", "N")
    flagged_N = flags(flagged_N, "corruption: flagged", "N")
    same(len(values_N), len(flagged_N), "corruption: values and flags")
    if flagged_N.all() or not flagged_N.any():
        raise InfluenceError(
            f"corruption: {int(flagged_N.sum())} of {len(flagged_N)} documents are flagged, some "
            "but not all were expected. Name a column that marks the corrupted documents."
        )
    return values_N, flagged_N
