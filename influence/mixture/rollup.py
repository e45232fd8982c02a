r"""Scores rolled up by task and group: means, totals, intervals, and which of them can be told from 0.

A document's score for a task is the mean of its scores over the task's queries. A group's total is
the sum over its documents: by so much would the task's mean loss rise, to first order, if the whole
group were removed. Intervals are of a two-way bootstrap: a task's queries are drawn again, and so
are a group's documents, in blocks of whole clusters of near-duplicates. They speak of other queries
of the same task and of as many other documents of the same kind. What is neither a document's nor a
query's part of a score, but the pair's, is counted three times by such draws (Owen 2007), and once by
the two-way clustered variance (Cameron, Gelbach & Miller 2011): draws are moved towards the estimate,
or away from it, until they have that variance. Of a few queries (below eight, say) percentile
intervals are too narrow.

Scores arrive shard by shard and are summed by block at once: memory is Q x G x B, never Q x N.

Axes: N documents, D documents of a shard, Q queries, T tasks, G groups, K blocks of all groups,
R draws. Units: those of the scores. Sign: positive helps.
Source: Owen (2007), "The pigeonhole bootstrap", doi:10.1214/07-AOAS122; Cameron, Gelbach & Miller
(2011), doi:10.1198/jbes.2010.07136, eq. 2.8; Benjamini & Hochberg (1995),
doi:10.1111/j.2517-6161.1995.tb02031.x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control

BLOCKS = 64
"""Most blocks of a group."""
DRAWS = 2000
LEVEL = 0.95
FALSE_DISCOVERIES = 0.05
"""Share of the cells said to help or hurt that may be neither."""
_HELD = 1 << 22  # weights held at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks:
    """Documents of each group in blocks that are drawn as one; the blocks of a group are neighbours."""

    block_N: np.ndarray
    """Block of each document, int64."""
    group_K: np.ndarray
    """Group of each block, ascending, int64."""
    documents_K: np.ndarray
    clusters_G: np.ndarray
    """Clusters of near-duplicates in each group; a lone document is one of its own."""

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.clusters_G)

    @property
    def documents_G(self) -> np.ndarray:
        """Documents of each group."""
        return np.bincount(self.group_K, self.documents_K, self.groups).astype(np.int64)

    @property
    def blocks_G(self) -> np.ndarray:
        """Blocks of each group."""
        return np.bincount(self.group_K, minlength=self.groups)


def in_blocks(
    group_N: np.ndarray, cluster_N: np.ndarray, most: int = BLOCKS, seed: int = 0
) -> Blocks:
    """Deal each group's clusters to blocks of as many clusters each, in a random order.

    Args:
        group_N: Group of each document, 0 to G - 1; every group has one at least.
        cluster_N: Cluster of each document, any numbers. The part of a cluster that lies in a group
            stays together.
        most: Most blocks of a group; a group of fewer clusters has one block a cluster.
        seed: Of the order.

    Returns:
        The blocks; they depend on nothing but the arguments.
    """
    groups = int(group_N.max()) + 1
    block_N = np.empty(len(group_N), np.int64)
    clusters_G = np.empty(groups, np.int64)
    group_of: list[int] = []
    for group in range(groups):
        own = np.flatnonzero(group_N == group)
        _, cluster_n = np.unique(cluster_N[own], return_inverse=True)
        clusters_G[group] = count = int(cluster_n.max()) + 1
        place_c = np.random.default_rng([seed, group]).permutation(count) % most
        block_N[own] = len(group_of) + place_c[cluster_n]
        group_of += [group] * min(count, most)
    return Blocks(
        block_N=block_N,
        group_K=np.array(group_of, np.int64),
        documents_K=np.bincount(block_N, minlength=len(group_of)),
        clusters_G=clusters_G,
    )


def block_sums(scores_QD: np.ndarray, block_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum the scores of some documents by block.

    Args:
        scores_QD: Scores of these documents.
        block_D: Block of each of them.

    Returns:
        Blocks that occur ``[k]``, ascending, and sums ``[Q, k]`` in float64.
    """
    own_k, place_D = np.unique(block_D, return_inverse=True)
    member_Dk = np.zeros((len(block_D), len(own_k)))
    member_Dk[np.arange(len(block_D)), place_D] = 1.0
    return own_k, np.asarray(scores_QD, np.float64) @ member_Dk


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """One cell a task and group; NaN: there is no interval, or no score."""

    mean_TG: np.ndarray
    """Mean over a task's queries and a group's documents."""
    mean_low_TG: np.ndarray
    mean_high_TG: np.ndarray
    p_TG: np.ndarray
    """Two-sided; no smaller than 1 / (draws + 1)."""
    q_TG: np.ndarray
    """p adjusted over all cells after Benjamini and Hochberg."""
    documents_G: np.ndarray
    drawn_RTG: np.ndarray
    """Total of each draw: what sums of cells vary by."""

    @property
    def total_TG(self) -> np.ndarray:
        """Sum over a group's documents of their mean over a task's queries."""
        return self.mean_TG * self.documents_G

    @property
    def total_low_TG(self) -> np.ndarray:
        """Lower end of the total's interval."""
        return self.mean_low_TG * self.documents_G

    @property
    def total_high_TG(self) -> np.ndarray:
        """Upper end of the total's interval."""
        return self.mean_high_TG * self.documents_G

    @property
    def sign_TG(self) -> np.ndarray:
        """1: helps, -1: hurts, 0: unclear (q above 0.05), NaN: without interval."""
        clear_TG = np.sign(self.mean_TG) * (self.q_TG <= FALSE_DISCOVERIES)
        return np.where(np.isnan(self.q_TG), np.nan, clear_TG)


def roll_up(
    total_QK: np.ndarray, task_Q: np.ndarray, blocks: Blocks, draws: int = DRAWS, seed: int = 0
) -> Cells:
    """Means of each task and group with their bootstrap intervals.

    Queries of a task count alike. A draw takes as many queries of each task, and as many blocks of
    each group, as there are, with replacement; the same draw of blocks serves all tasks. A group of
    one block has nothing to draw on the side of documents, so it has no interval, whatever the
    number of queries; a task of one query has intervals over documents alone.

    Args:
        total_QK: Sum of the scores of each block's documents for each query.
        task_Q: Task of each query, 0 to T - 1; every task has one at least.
        blocks: Of the documents.
        draws: How many.
        seed: Of the draws; equal seeds give equal intervals.

    Returns:
        The cells.
    """
    tasks = int(task_Q.max()) + 1
    documents_G = blocks.documents_G
    mean_QG = group_totals(total_QK, blocks) / documents_G
    mean_TG = np.stack([mean_QG[task_Q == t].mean(axis=0) for t in range(tasks)])
    parts = []
    for weights_rQ, weights_rK in _draws(task_Q, blocks, draws, seed):
        size_rG = _by_group(weights_rK * blocks.documents_K, blocks)
        own = [
            _by_group((weights_rQ[:, task_Q == t] @ total_QK[task_Q == t]) * weights_rK, blocks)
            for t in range(tasks)
        ]
        parts.append(np.stack(own, axis=1) / size_rG[:, None])
    scale_TG = np.stack([draw_scale(total_QK[task_Q == t], blocks) for t in range(tasks)])
    drawn_RTG = mean_TG + scale_TG * (np.concatenate(parts) - mean_TG)
    low_TG, high_TG = np.quantile(drawn_RTG, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    p_TG = two_sided(drawn_RTG)
    for values_TG in (low_TG, high_TG, p_TG):
        values_TG[:, blocks.blocks_G < 2] = np.nan
    return Cells(
        mean_TG=mean_TG,
        mean_low_TG=low_TG,
        mean_high_TG=high_TG,
        p_TG=p_TG,
        q_TG=adjusted(p_TG),
        documents_G=documents_G,
        drawn_RTG=drawn_RTG * documents_G,
    )


def group_totals(total_QK: np.ndarray, blocks: Blocks) -> np.ndarray:
    """Sum of scores of each group's documents.

    Args:
        total_QK: Sums by block.
        blocks: Of the documents.

    Returns:
        ``[Q, G]``.
    """
    return _by_group(total_QK, blocks)


def draw_scale(total_qK: np.ndarray, blocks: Blocks) -> np.ndarray:
    r"""What the distance of draws from a task's mean is multiplied with, group by group.

    Of the variance of draws, :math:`V_Q` comes of the queries' means, :math:`V_K` of the blocks', and
    :math:`V_{QK}` of what both leave of the pairs. That part is in each of the three, so draws have
    :math:`V_Q + V_K + V_{QK}` where :math:`V_Q + V_K - V_{QK}` is wanted, and no less than the larger
    of the first two. What is wanted is without bias: a variance of n values is multiplied by
    n / (n - 1), which draws are not.

    Args:
        total_qK: Sums by block for the queries of one task.
        blocks: Of the documents.

    Returns:
        Factors ``[G]``.
    """
    queries, documents_G = len(total_qK), blocks.documents_G
    of_query, of_block_G = unbiased(queries), unbiased(blocks.blocks_G)
    mean_G = _by_group(total_qK, blocks).mean(axis=0) / documents_G
    share_qK = total_qK - mean_G[blocks.group_K] * blocks.documents_K
    share_qK = share_qK / documents_G[blocks.group_K]
    query_qG, block_K = _by_group(share_qK, blocks), share_qK.mean(axis=0)
    size_K = blocks.documents_K / documents_G[blocks.group_K]
    rest_qK = share_qK - block_K - query_qG[:, blocks.group_K] * size_K
    by_query_G = (query_qG**2).sum(axis=0) / queries**2
    by_block_G = _by_group(block_K**2, blocks)
    by_pair_G = _by_group((rest_qK**2).sum(axis=0), blocks) / queries**2
    drawn_G = by_query_G + by_block_G + by_pair_G
    by_query_G, by_block_G = by_query_G * of_query, by_block_G * of_block_G
    both_G = by_query_G + by_block_G - by_pair_G * of_query * of_block_G
    wanted_G = np.maximum.reduce([both_G, by_query_G, by_block_G])
    return np.sqrt(np.divide(wanted_G, drawn_G, out=np.ones(blocks.groups), where=drawn_G > 0))


def unbiased(count: Any) -> Any:
    """``n / (n - 1)``, and 1 for a single value, which has no variance."""
    return count / np.maximum(count - 1, 1)


def two_sided(drawn_RTG: np.ndarray) -> np.ndarray:
    """How often draws fall on the other side of 0: percentile intervals, inverted.

    Args:
        drawn_RTG: A statistic of each draw.

    Returns:
        ``[T, G]``, between 1 / (draws + 1) and 1.
    """
    draws = len(drawn_RTG)
    below_TG, above_TG = (drawn_RTG <= 0).mean(axis=0), (drawn_RTG >= 0).mean(axis=0)
    return np.clip(2 * np.minimum(below_TG, above_TG), 1 / (draws + 1), 1.0)


def adjusted(p_TG: np.ndarray) -> np.ndarray:
    """Adjust p values over all cells that have one (Benjamini and Hochberg).

    Returns:
        ``[T, G]``; NaN where p is.
    """
    q_TG = np.full(p_TG.shape, np.nan)
    known_TG = ~np.isnan(p_TG)
    if known_TG.any():
        q_TG[known_TG] = false_discovery_control(p_TG[known_TG])
    return q_TG


def _by_group(values_xK: np.ndarray, blocks: Blocks) -> np.ndarray:
    firsts_G = np.searchsorted(blocks.group_K, np.arange(blocks.groups))
    return np.asarray(np.add.reduceat(values_xK, firsts_G, axis=-1))


def _draws(
    task_Q: np.ndarray, blocks: Blocks, draws: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    # Weights [r, Q], which sum to 1 within a task, and whole numbers [r, K] of times drawn.
    # Each task and each group has its own random numbers, whatever else there is.
    sizes_T, sizes_G = np.bincount(task_Q), blocks.blocks_G
    by_task = [np.random.default_rng([seed, 1, task]) for task in range(len(sizes_T))]
    by_group = [np.random.default_rng([seed, 2, group]) for group in range(len(sizes_G))]
    step = max(1, _HELD // max(len(task_Q), len(blocks.group_K)))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        weights_rQ = np.zeros((count, len(task_Q)))
        for task, size in enumerate(sizes_T):
            weights_rQ[:, task_Q == task] = _times(by_task[task], size, count) / size
        times = [_times(own, size, count) for own, size in zip(by_group, sizes_G, strict=True)]
        yield weights_rQ, np.concatenate(times, axis=1)


def _times(generator: np.random.Generator, size: int, draws: int) -> np.ndarray:
    return generator.multinomial(size, np.full(size, 1 / size), draws).astype(np.float64)
