r"""Linear datamodeling score: do scores predict what training on other documents would give?

The model is trained again on random subsets of the documents (halves, as a rule), from several seeds
each.  For a query q the scores predict, up to a constant, the loss of the model trained on subset s:

.. math:: \hat\tau_q(s) = \sum_{n \in s} I(q, n), \quad
    LDS_q = \mathrm{Spearman}_s\left(\hat\tau_q(s),\; -\tfrac{1}{R} \sum_r loss_q(s, r)\right)

and the LDS is the mean over queries.  Sign: scores are positive for proponents, whose presence lowers
the loss; so the right scores give +1, their negative -1, chance 0.

The losses themselves vary from seed to seed, and no score can predict that.  ``ceiling`` estimates how
much of their order is repeatable: the LDS that the best possible score would get on these very losses.

Axes: Q queries, N documents, S subsets, R seeds.
Source: Ilyas et al. (2022), arXiv:2202.00622; Park et al. (2023), arXiv:2303.14186, definition 2.3.
Ceiling: split-half reliability, Spearman (1910) and Brown (1910); attenuation, Spearman (1904).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from influence.documents.evaluation.bootstrap import Interval, interval
from influence.documents.evaluation.inputs import finite, flags, same
from influence.documents.evaluation.ranks import spearman
from influence.errors import InfluenceError

MOST_SPLITS = 20
"""Ways of splitting the seeds that are averaged."""

ENUMERATED = 8
"""Up to so many seeds all ways of splitting are listed; beyond, ways are drawn."""

Split = tuple[tuple[int, ...], tuple[int, ...]]
"""Two disjoint groups of seeds of one size."""


@dataclass(frozen=True, eq=False)
class Lds:
    """Linear datamodeling score of one method."""

    per_query_Q: np.ndarray
    """Spearman's correlation over subsets, in -1..1; 0 where losses or scores are constant."""
    interval: Interval
    """Mean over queries; bootstrap over queries, with the trained models as they are."""


@dataclass(frozen=True)
class Ceiling:
    """How repeatable the ground truth is."""

    split_half: float
    """Spearman over subsets between mean losses of two disjoint halves of the seeds."""
    reliability: float
    """The same for all seeds together, between 0 and 1 (Spearman-Brown)."""
    ceiling: float
    """Square root of the reliability: the LDS of a perfect score against these losses."""


def lds(
    scores_QN: np.ndarray, subsets_SN: np.ndarray, losses_SRQ: np.ndarray, seed: int = 0
) -> Lds:
    """Correlate predicted with measured losses over subsets, query by query.

    Args:
        scores_QN: Positive for proponents, in any unit (only the order of sums counts).
        subsets_SN: Booleans, True where the document was trained on.
        losses_SRQ: Summed losses of the queries in nats, under each trained model.
        seed: Of the bootstrap.

    Returns:
        The score by query and its mean. A query whose losses are all equal, or whose scores order
        no two subsets, counts as 0.

    Raises:
        InfluenceError: If shapes don't fit, a value is not finite, or there is one subset only.
    """
    scores_QN = finite(scores_QN, "lds: scores", "QN")
    subsets_SN = flags(subsets_SN, "lds: subsets", "SN")
    losses_SRQ = finite(losses_SRQ, "lds: losses", "SRQ")
    same(scores_QN.shape[1], subsets_SN.shape[1], "lds: documents of scores and of subsets")
    same(len(subsets_SN), len(losses_SRQ), "lds: subsets and subsets with losses")
    same(len(scores_QN), losses_SRQ.shape[2], "lds: queries of scores and of losses")
    _refuse_one(len(subsets_SN))
    per_query_Q = spearman(predicted(scores_QN, subsets_SN), -losses_SRQ.mean(axis=1).T)
    return Lds(per_query_Q=per_query_Q, interval=interval(per_query_Q, seed))


def predicted(scores_QN: np.ndarray, subsets_SN: np.ndarray) -> np.ndarray:
    """Sum the scores of each subset's documents.

    Args:
        scores_QN: Positive for proponents.
        subsets_SN: True where the document was trained on.

    Returns:
        ``[Q, S]``; exactly equal along S where the sums differ by no more than rounding, so that
        constant scores don't rank subsets by their rounding errors.
    """
    sums_QS = scores_QN @ subsets_SN.astype(np.float64).T
    rounding_Q = np.finfo(np.float64).eps * scores_QN.shape[1] * np.abs(scores_QN).sum(axis=1)
    flat_Q = np.ptp(sums_QS, axis=1) <= rounding_Q
    return np.where(flat_Q[:, None], 0.0, sums_QS)


def ceiling(losses_SRQ: np.ndarray, seed: int = 0) -> Ceiling | None:
    r"""The best LDS that any score could reach against these losses.

    With :math:`r` the split-half correlation of groups of ``R // 2`` seeds (mean over queries and over
    ways of splitting) and :math:`k = R / (R // 2)`, the reliability of all seeds' mean is
    :math:`k r / (1 + (k - 1) r)` and the ceiling its square root.

    It is an estimate. It assumes that seeds err independently; the formula is exact for Pearson's
    correlation, and queries are pooled before the square root. With normal noise it comes out 0.002 to
    0.013 too high, which is on the safe side: no method looks better than it is.

    Args:
        losses_SRQ: Summed losses of the queries in nats, under each trained model.
        seed: Of the choice among ways of splitting, when there are more than 20.

    Returns:
        None with one seed: then nothing is known of the noise. A query with constant losses counts
        as 0, as in ``lds``; a correlation below 0 gives reliability 0.

    Raises:
        InfluenceError: If a value is not finite, or there is one subset only.
    """
    losses_SRQ = finite(losses_SRQ, "ceiling: losses", "SRQ")
    _refuse_one(len(losses_SRQ))
    seeds = losses_SRQ.shape[1]
    if seeds < 2:
        return None
    found = [
        spearman(losses_SRQ[:, a].mean(axis=1).T, losses_SRQ[:, b].mean(axis=1).T).mean()
        for a, b in splits(seeds, seed)
    ]
    split_half = float(np.mean(found))
    longer = seeds / (seeds // 2)
    reliability = max(0.0, longer * split_half / (1 + (longer - 1) * max(split_half, 0.0)))
    return Ceiling(split_half=split_half, reliability=reliability, ceiling=reliability**0.5)


def splits(seeds: int, seed: int = 0) -> list[Split]:
    """Ways of choosing two disjoint groups of ``seeds // 2``; with an odd number one is left out.

    Args:
        seeds: Number of seeds R, at least 2.
        seed: Of the choice among more than 20 ways.

    Returns:
        All ways, or 20 different ones drawn among them; each split once, whichever group is first.
    """
    size = seeds // 2
    generator = np.random.default_rng(seed)
    if seeds <= ENUMERATED:
        ways = [
            (a, b)
            for a in combinations(range(seeds), size)
            for b in combinations(sorted(set(range(seeds)) - set(a)), size)
            if a < b
        ]
        if len(ways) <= MOST_SPLITS:
            return ways
        chosen = generator.choice(len(ways), MOST_SPLITS, replace=False)
        return [ways[int(i)] for i in sorted(chosen)]
    drawn: set[Split] = set()
    while len(drawn) < MOST_SPLITS:
        order = [int(i) for i in generator.permutation(seeds)]
        a, b = tuple(sorted(order[:size])), tuple(sorted(order[size : 2 * size]))
        drawn.add((min(a, b), max(a, b)))
    return sorted(drawn)


def _refuse_one(subsets: int) -> None:
    if subsets < 2:
        raise InfluenceError(
            f"lds: {subsets} subset, at least 2 were expected (100 for narrow intervals). Train on "
            "more subsets."
        )
