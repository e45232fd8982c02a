r"""Suspects: documents that stand out against their peers, reason by reason, and one order of them.

Peers are documents of one group. Every reason gives each document a robust z, larger for more
suspicious: its distance from the median of its peers in units of 1.4826 times their median absolute
deviation (a standard deviation, were it normal).

- hurts: the mean over tasks of how far below its peers' the document's score lies;
- self-influence: the logarithm of its self-influence, beside that of documents of as many tokens;
- against neighbours: the documents whose words are nearest push the model another way (a mean of the
  cosines of whitened gradients, weighted by the squared similarity of words);
- duplicate: it is in a cluster of near-duplicates and not the first of it.

A reason is clear if z exceeds ``limit(N)``: were all N values normal, one corpus in twenty would have
any document beyond it (Bonferroni). It is a hint for the `HINT` most suspicious of all documents: a
place to look, which chance alone fills too. The order of all documents is by their strongest
reason (Tippett's method): with p the share of documents that are at least as suspicious for a reason,
:math:`suspicion = (1 - \min_i p_i)^I`. Joining reasons by Fisher's method was tried and was worse:
documents that are wrong in one way are mostly not wrong in another. Reasons are not independent, so
it orders documents and is no probability.

Axes: T tasks, N documents, K neighbours, I reasons.
Source: modified z: Iglewicz & Hoaglin (1993); Tippett (1931), "The Methods of Statistics".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from influence.documents.evaluation.inputs import finite, same

NORMAL = 1.4826
"""Standard deviation of a normal over its median absolute deviation."""
LEAST_DOCUMENTS = 12
"""Documents below which a group is judged beside the whole corpus."""
MISTAKEN = 0.05
"""Probability that normal values have any document beyond the limit."""
HINT = 0.01
"""Share of the documents that a reason points at."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """One reason to suspect documents."""

    kind: str
    z_N: np.ndarray
    """Robust z, larger: more suspicious; NaN: nothing is known of the document."""
    value_N: np.ndarray
    """What is told to people, in the reason's own unit."""
    possible_N: np.ndarray
    """Whether the value itself speaks against the document, however its peers are."""
    p_N: np.ndarray
    """Share of the documents that are at least as suspicious; 0.5 where nothing is known."""

    @property
    def clear_N(self) -> np.ndarray:
        """Whether a document is beyond what chance gives any of so many."""
        return self.possible_N & (self.z_N > limit(len(self.z_N)))

    @property
    def hint_N(self) -> np.ndarray:
        """Whether a document is among the most suspicious, or beyond chance."""
        return self.clear_N | (self.possible_N & (self.p_N <= HINT))


def limit(documents: int) -> float:
    """The z beyond which a reason is clear.

    Args:
        documents: N.

    Returns:
        3.5 at least.
    """
    return max(3.5, float(norm.isf(MISTAKEN / max(1, documents))))


def robust_z(values_N: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """Distance from the median of its group, in robust standard deviations.

    Args:
        values_N: NaN: not known.
        group_N: Group of each document, any labels. A group of few documents, or of which more than
            half have one value, is judged beside the whole corpus.

    Returns:
        ``[N]``; 0 where the corpus itself has one value in more than half of its documents.
    """
    values_N = np.asarray(values_N, np.float64)
    whole = _centre(values_N)
    z_N = np.full(len(values_N), np.nan)
    _, group_N = np.unique(group_N, return_inverse=True)
    for group in range(int(group_N.max()) + 1):
        own = group_N == group
        centre, scale = _centre(values_N[own])
        if np.isfinite(values_N[own]).sum() < LEAST_DOCUMENTS or scale == 0:
            centre, scale = whole
        z_N[own] = (values_N[own] - centre) / scale if scale else values_N[own] * 0
    return z_N


def _centre(values_n: np.ndarray) -> tuple[float, float]:
    known = values_n[np.isfinite(values_n)]
    if not len(known):
        return 0.0, 0.0
    centre = float(np.median(known))
    return centre, NORMAL * float(np.median(np.abs(known - centre)))


# -- reasons -----------------------------------------------------------------------------------------


def hurts(scores_TN: np.ndarray, group_N: np.ndarray) -> Evidence:
    """Documents that hurt many tasks, for their group.

    Args:
        scores_TN: Nats per document removed, positive helps.
        group_N: Group of each document.

    Returns:
        ``value_N``: the share of tasks that the document hurts (a score below 0 and below its
        group's median); possible are those that hurt half of the tasks at least.
    """
    scores_TN = finite(scores_TN, "hurts: scores", "TN")
    same(scores_TN.shape[1], len(group_N), "hurts: documents with scores and with groups")
    z_TN = np.stack([robust_z(scores_N, group_N) for scores_N in scores_TN])
    share_N = ((scores_TN < 0) & (z_TN < 0)).mean(axis=0)
    return _beside_peers(
        "hurts", robust_z(-z_TN.mean(axis=0), group_N), share_N, possible_N=share_N >= 0.5
    )


def outliers(self_N: np.ndarray, tokens_N: np.ndarray, group_N: np.ndarray) -> Evidence:
    """Documents of high self-influence for their length: the model had to bend for them.

    The logarithm of self-influence is fitted by that of the length, over all documents, by least
    absolute deviations in effect (repeated weighted least squares), so that outliers don't bend it.

    Args:
        self_N: Self-influence, not negative; NaN: not known.
        tokens_N: Tokens of each document that carry loss.
        group_N: Group of each document.

    Returns:
        ``value_N``: how many times the self-influence that its length explains.
    """
    same(len(self_N), len(tokens_N), "outliers: documents with self-influence and with tokens")
    known_N = np.isfinite(self_N) & (np.asarray(self_N) > 0) & (np.asarray(tokens_N) > 0)
    rest_N = np.full(len(known_N), np.nan)
    if known_N.sum() > 2:
        y_n, x_n = np.log(np.asarray(self_N)[known_N]), np.log(np.asarray(tokens_N)[known_N])
        rest_N[known_N] = y_n - _median_line(x_n, y_n)
    z_N = robust_z(rest_N, group_N)
    return _beside_peers("self-influence", z_N, np.exp(rest_N), possible_N=rest_N > 0)


def _median_line(x_n: np.ndarray, y_n: np.ndarray) -> np.ndarray:
    design_n2 = np.stack([np.ones_like(x_n), x_n], axis=1)
    weight_n = np.ones_like(y_n)
    for _ in range(30):
        root = np.sqrt(weight_n)
        line, *_ = np.linalg.lstsq(design_n2 * root[:, None], y_n * root, rcond=None)
        weight_n = 1 / np.maximum(np.abs(y_n - design_n2 @ line), 1e-6)
    return np.asarray(design_n2 @ line)


def against_neighbours(
    cosine_NK: np.ndarray, words_NK: np.ndarray, group_N: np.ndarray
) -> Evidence:
    """Documents that the documents nearest in words contradict.

    Args:
        cosine_NK: Cosines of a document's whitened gradient with those of its neighbours: normalised
            influence. NaN: not known.
        words_NK: Similarity of their words, from 0; 0: no neighbour.
        group_N: Group of each document.

    Returns:
        ``value_N``: mean cosine, weighted by the squared similarity of words, -1 to 1; NaN without a
        neighbour. Negative: they push the model the other way; positive but far below that of its
        peers: less so than they should. The z is of the sum instead of the mean, so that near
        neighbours say more than far ones.
    """
    weight_NK = np.where(np.isfinite(cosine_NK), words_NK, 0.0) ** 2
    sum_N = (weight_NK * np.nan_to_num(cosine_NK)).sum(axis=1)
    total_N = weight_NK.sum(axis=1)
    none_N = total_N == 0
    mean_N = np.divide(sum_N, total_N, out=np.full(len(sum_N), np.nan), where=~none_N)
    z_N = robust_z(np.where(none_N, np.nan, -sum_N), group_N)
    return _beside_peers("against neighbours", z_N, mean_N, possible_N=z_N > 0)


def duplicates(cluster_N: np.ndarray, similarity_N: np.ndarray) -> Evidence:
    """Members of clusters of near-duplicates beyond the first; these are always clear.

    Args:
        cluster_N: Row of the first document of each document's cluster.
        similarity_N: Jaccard similarity with that document.

    Returns:
        ``value_N``: the similarity, 0 for first and for lone documents.
    """
    beyond_N = cluster_N != np.arange(len(cluster_N))
    value_N = np.where(beyond_N, similarity_N, 0.0)
    # no matter of chance: as small as that of the most suspicious document for another reason
    p_N = np.where(beyond_N, (2 - value_N) / (len(value_N) + 1), 0.5)
    z_N = np.where(beyond_N, np.inf, 0.0)
    return Evidence(kind="duplicate", z_N=z_N, value_N=value_N, possible_N=beyond_N, p_N=p_N)


def _beside_peers(
    kind: str, z_N: np.ndarray, value_N: np.ndarray, possible_N: np.ndarray
) -> Evidence:
    return Evidence(kind=kind, z_N=z_N, value_N=value_N, possible_N=possible_N, p_N=tail(z_N))


# -- one order ---------------------------------------------------------------------------------------


def suspicion(reasons: Sequence[Evidence]) -> np.ndarray:
    """Join reasons: a document is as suspicious as its strongest reason makes it.

    Args:
        reasons: What is known; a reason that says nothing of a document counts as its median.

    Returns:
        ``[N]`` between 0 and 1, larger: more suspicious.
    """
    least_N = np.min([reason.p_N for reason in reasons], axis=0)
    return np.asarray((1 - least_N) ** len(reasons))


def tail(z_N: np.ndarray) -> np.ndarray:
    """The share of documents that are at least as suspicious.

    Args:
        z_N: Larger is more suspicious; NaN: not known.

    Returns:
        Between 1 / (N + 1) and 1; ties share their mean rank; 0.5 where nothing is known.
    """
    known_N = np.isfinite(z_N)
    p_N = np.full(len(z_N), 0.5)
    p_N[known_N] = rankdata(-z_N[known_N]) / (known_N.sum() + 1)
    return p_N
