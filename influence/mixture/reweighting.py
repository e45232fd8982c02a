r"""A re-weighting of the groups at the same number of tokens that lowers the tasks' losses.

Weight w of a group: how often its documents count, 1 as now, 0 dropped, 2 twice. To first order a
task's mean loss changes by :math:`\sum_g (1 - w_g) I_{tg}`, with I the group's total: what its removal
would add. The proposal minimises the weighted sum of the tasks' changes with every weight between
0 and 2 and the number of tokens as it is. That is a linear program with one constraint, so its
solution is a threshold on the groups' influence per token: above it 2, below it 0, and groups at
the threshold share one weight.

Noise shall propose nothing. A cell whose sign is unclear counts as 0, and a clear one counts with
the end of its interval that is nearest 0. Groups that all count 0 stand at one threshold and keep one
weight. What is not clearly a gain for the tasks together is not proposed.

It is first order: the change of a small step, stretched to whole groups. It knows nothing of
groups that replace or need each other, and nothing of the model's having been trained otherwise.

Axes: T tasks, G groups, R draws. Units: nats of a task's mean loss. Sign: a negative change is better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from influence.errors import InfluenceError
from influence.mixture.rollup import LEVEL, Cells

LARGEST = 2.0
"""Largest weight of a group."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reweighting:
    """A proposal."""

    weight_G: np.ndarray
    change_T: np.ndarray
    """Predicted change of each task's mean loss, nats a query."""
    low_T: np.ndarray
    high_T: np.ndarray
    """Interval of the change of these weights; their choice on the same scores is not in it."""


def propose(
    cells: Cells, tokens_G: np.ndarray, importance_T: np.ndarray | None = None
) -> Reweighting | None:
    """Propose weights of the groups.

    Args:
        cells: Totals with their intervals.
        tokens_G: Tokens of each group, positive.
        importance_T: How much each task counts, not negative, not all 0; None: all alike.

    Returns:
        The proposal; None where no cell is clear, no group can gain on another, or the interval of
        the weighted sum of the tasks' changes reaches 0.
    """
    tasks = len(cells.mean_TG)
    importance_T = np.ones(tasks) if importance_T is None else np.asarray(importance_T, np.float64)
    gain_G = importance_T @ counted(cells)
    weight_G = weights(gain_G, tokens_G)
    if np.allclose(weight_G, 1.0):
        return None
    change_T = cells.total_TG @ (1 - weight_G)
    drawn_RT = cells.drawn_RTG @ (1 - weight_G)
    if np.quantile(drawn_RT @ importance_T, (1 + LEVEL) / 2) >= 0:
        return None
    low_T, high_T = np.quantile(drawn_RT, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Reweighting(weight_G=weight_G, change_T=change_T, low_T=low_T, high_T=high_T)


def counted(cells: Cells) -> np.ndarray:
    """Totals as the proposal counts them: what is unclear is 0, the rest its least size.

    Args:
        cells: Totals with their intervals.

    Returns:
        ``[T, G]``.
    """
    least_TG = np.where(
        cells.mean_TG > 0, cells.total_low_TG.clip(min=0), cells.total_high_TG.clip(max=0)
    )
    return np.asarray(np.where(np.abs(cells.sign_TG) == 1, least_TG, 0.0))


def weights(gain_G: np.ndarray, tokens_G: np.ndarray) -> np.ndarray:
    """Weights between 0 and 2 that gain most at the same number of tokens.

    Args:
        gain_G: What each group's doubling gains, in any unit.
        tokens_G: Tokens of each group, positive.

    Returns:
        ``[G]``; groups of equal gain per token have equal weights.

    Raises:
        InfluenceError: If a group has no token.
    """
    if (np.asarray(tokens_G) <= 0).any():
        raise InfluenceError(
            f"Re-weighting: groups of {np.asarray(tokens_G).tolist()} tokens, at least 1 each was "
            "expected. Leave groups without tokens out."
        )
    budget, spent = float(tokens_G.sum()), 0.0
    rate_G = gain_G / tokens_G
    weight_G = np.zeros(len(rate_G))
    for rate in np.unique(rate_G)[::-1]:
        own_G = rate_G == rate
        tokens = float(tokens_G[own_G].sum())
        weight_G[own_G] = min(LARGEST, (budget - spent) / tokens)
        spent += tokens * float(weight_G[own_G][0])
        if spent >= budget:
            break
    return weight_G
