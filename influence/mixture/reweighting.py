r"""A re-weighting of the groups at the same number of tokens that lowers the tasks' losses.

Weight w of a group: how often its documents count, 1 as now, 0 dropped, 2 twice. To first order a
task's mean loss changes by :math:`\sum_g (1 - w_g) I_{tg}`, with I the group's total: what its removal
would add. With :math:`g` the groups' gains, the tasks' totals summed by importance, and C their
covariance over the bootstrap's draws, the proposal maximises the lower end of the gain's interval,

.. math:: g \cdot (w - 1) - 1.96 \sqrt{(w - 1)^\top C (w - 1)}

with every weight between 0 and 2 and the number of tokens as it is. That is concave, and 0 at w = 1:
what is not clearly a gain is not proposed. A cell whose sign is unclear counts as 0, so that noise
proposes nothing.

It is first order: the change of a small step, stretched to whole groups. It knows nothing of
groups that replace or need each other, and nothing of the model's having been trained otherwise.

Axes: T tasks, G groups, R draws. Units: nats of a task's mean loss. Sign: a negative change is better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from influence.errors import InfluenceError
from influence.mixture.rollup import LEVEL, Cells

LARGEST = 2.0
"""Largest weight of a group."""
DEVIATIONS = 1.96
"""Standard deviations from a gain to the lower end of its interval."""
LEAST_GAIN = 1e-3
"""Share of the sizes of the gains; a lower end below it is none."""


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
        importance_T: How much a nat of each task counts, not negative, not all 0; None: all alike.

    Returns:
        The proposal; None where no gain is clear.
    """
    tasks = len(cells.mean_TG)
    importance_T = np.ones(tasks) if importance_T is None else np.asarray(importance_T, np.float64)
    clear_TG = np.abs(cells.sign_TG) == 1
    drawn_RG = np.einsum("t,rtg->rg", importance_T, cells.drawn_RTG * clear_TG)
    gain_G = importance_T @ (cells.total_TG * clear_TG)
    weight_G = weights(gain_G, np.atleast_2d(np.cov(drawn_RG.T)), tokens_G)
    if weight_G is None:
        return None
    change_T = cells.total_TG @ (1 - weight_G)
    drawn_RT = cells.drawn_RTG @ (1 - weight_G)
    low_T, high_T = np.quantile(drawn_RT, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Reweighting(weight_G=weight_G, change_T=change_T, low_T=low_T, high_T=high_T)


def lower_end(gain_G: np.ndarray, covariance_GG: np.ndarray, weight_G: np.ndarray) -> float:
    """The lower end of the interval of what some weights gain.

    Args:
        gain_G: What each group's doubling gains.
        covariance_GG: Of the gains.
        weight_G: Weights.

    Returns:
        In the unit of the gains; 0 where all weights are 1.
    """
    step_G = weight_G - 1
    variance = max(0.0, float(step_G @ covariance_GG @ step_G))
    return float(gain_G @ step_G) - DEVIATIONS * variance**0.5


def weights(
    gain_G: np.ndarray, covariance_GG: np.ndarray, tokens_G: np.ndarray
) -> np.ndarray | None:
    """Weights between 0 and 2 whose gain is most surely large, at the same number of tokens.

    Args:
        gain_G: What each group's doubling gains, in any unit.
        covariance_GG: Of the gains.
        tokens_G: Tokens of each group, positive.

    Returns:
        ``[G]``; None where no weights have a gain whose lower end is above 0.

    Raises:
        InfluenceError: If a group has no token.
    """
    tokens_G = np.asarray(tokens_G, np.float64)
    if (tokens_G <= 0).any():
        raise InfluenceError(
            f"Re-weighting: groups of {tokens_G.tolist()} tokens, at least 1 each was expected. Leave "
            "groups without tokens out."
        )
    scale = float(np.abs(gain_G).sum())
    if scale == 0:
        return None
    gain_G, covariance_GG = gain_G / scale, covariance_GG / scale**2
    share_G = tokens_G / tokens_G.sum()
    uphill_G = gain_G / share_G - gain_G.sum()  # keeps the tokens: share . uphill = 0
    found = minimize(
        lambda weight_G: -lower_end(gain_G, covariance_GG, weight_G),
        1 + 0.5 * uphill_G / max(np.abs(uphill_G).max(), 1e-12),
        method="SLSQP",
        bounds=[(0.0, LARGEST)] * len(gain_G),
        constraints={"type": "eq", "fun": lambda weight_G: share_G @ weight_G - 1},
        options={"maxiter": 500, "ftol": 1e-9},
    )
    weight_G = np.clip(found.x, 0.0, LARGEST)
    if lower_end(gain_G, covariance_GG, weight_G) < LEAST_GAIN:
        return None
    return np.asarray(weight_G)
