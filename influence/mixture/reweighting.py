r"""A re-weighting of the groups at the same number of tokens that lowers the tasks' losses.

Weight w of a group: how often its documents count, 1 as now, 1/2 half as often, 2 twice. A score is
the slope of a task's loss at w = 1, and says nothing of its bend. Losses fall with the logarithm of
the data at first, and ever more slowly after (Kaplan et al. 2020, eq. 1.2; Ye et al. 2024, Data Mixing
Laws), and what a group spoils is seldom more than what it adds. So, with I the group's total (what its
removal would add), a task's mean loss is predicted to change by :math:`\sum_g h(w_g, I_{tg})`,

.. math:: h(w, I) = -I \log w \;\text{ where } I > 0, \qquad h(w, I) = I (1 - w) \;\text{ where } I < 0.

With :math:`\phi(w)` the vector of all log w and w - 1, :math:`x` the groups' gains, helpful and harmful
totals each summed over the tasks by importance, and C their covariance over the bootstrap's draws,
the proposal maximises the lower end of the gain's interval,

.. math:: x \cdot \phi(w) - 1.96 \sqrt{\phi(w)^\top C \, \phi(w)}

with every weight between 1/2 and 2 and the number of tokens as it is. It is 0 at w = 1: what is not
clearly a gain is not proposed. A cell whose sign is unclear counts as 0, so that noise proposes nothing.

The bounds are a region of trust: further from w = 1, a slope says too little. It knows nothing of
groups that replace or need each other, and nothing of the model's having been trained otherwise.

Axes: T tasks, G groups, R draws. Units: nats of a task's mean loss. Sign: a negative change is better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from influence.errors import InfluenceError
from influence.mixture.rollup import LEVEL, Cells

SMALLEST, LARGEST = 0.5, 2.0
"""Bounds of a group's weight."""
DEVIATIONS = 1.96
"""Standard deviations from a gain to the lower end of its interval."""
LEAST_GAIN = 1e-3
"""Share of the sizes of the gains; a lower end below it is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reweighting:
    """A proposal."""

    weight_G: np.ndarray
    importance_T: np.ndarray
    """How much a nat of each task counted."""
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
    gain_X = _gains(cells.total_TG * clear_TG, importance_T)
    drawn_RX = _gains(cells.drawn_RTG * clear_TG, importance_T)
    weight_G = weights(gain_X, np.atleast_2d(np.cov(drawn_RX.T)), tokens_G)
    if weight_G is None:
        return None
    drawn_RT = predicted_change(cells.drawn_RTG, weight_G)
    low_T, high_T = np.quantile(drawn_RT, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Reweighting(
        weight_G=weight_G,
        importance_T=importance_T,
        change_T=predicted_change(cells.total_TG, weight_G),
        low_T=low_T,
        high_T=high_T,
    )


def predicted_change(total_TG: np.ndarray, weight_G: np.ndarray) -> np.ndarray:
    """Predict how losses change under weights of the groups.

    Args:
        total_TG: Totals ``[..., G]``, nats by which the loss would rise without the group.
        weight_G: Weights, at least 0. Below 1/2, a helpful total goes on as a straight line.

    Returns:
        Changes ``[...]`` in nats; negative: the loss falls.
    """
    return -(_gains(total_TG) @ _steps(np.asarray(weight_G, np.float64)))


def _gains(total_TG: np.ndarray, importance_T: np.ndarray | None = None) -> np.ndarray:
    """Helpful totals, then harmful ones, ``[..., 2G]``; summed over tasks by importance."""
    both = np.concatenate([np.maximum(total_TG, 0), np.minimum(total_TG, 0)], axis=-1)
    return both if importance_T is None else np.asarray(importance_T @ both)


def _steps(weight_G: np.ndarray) -> np.ndarray:
    """What a helpful, then a harmful total is multiplied with: log w, and w - 1."""
    inside_G = np.maximum(weight_G, SMALLEST)
    logarithm_G = np.log(inside_G) + np.minimum(weight_G - SMALLEST, 0) / SMALLEST
    return np.concatenate([logarithm_G, weight_G - 1])


def lower_end(gain_X: np.ndarray, covariance_XX: np.ndarray, weight_G: np.ndarray) -> float:
    """The lower end of the interval of what some weights gain.

    Args:
        gain_X: Totals of each group that help, at least 0, then those that harm, ``[2G]``.
        covariance_XX: Of the gains.
        weight_G: Weights.

    Returns:
        In the unit of the gains; 0 where all weights are 1.
    """
    step_X = _steps(weight_G)
    variance = max(0.0, float(step_X @ covariance_XX @ step_X))
    return float(gain_X @ step_X) - DEVIATIONS * variance**0.5


def weights(
    gain_X: np.ndarray, covariance_XX: np.ndarray, tokens_G: np.ndarray
) -> np.ndarray | None:
    """Weights between 1/2 and 2 whose gain is most surely large, at the same number of tokens.

    Args:
        gain_X: Totals of each group that help, at least 0, then those that harm, ``[2G]``, in any unit.
        covariance_XX: Of the gains.
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
    scale = float(np.abs(gain_X).sum())
    if scale == 0:
        return None
    gain_X, covariance_XX = gain_X / scale, covariance_XX / scale**2
    gain_G = gain_X[: len(tokens_G)] + gain_X[len(tokens_G) :]  # the slope at w = 1
    share_G = tokens_G / tokens_G.sum()
    uphill_G = gain_G / share_G - gain_G.sum()  # keeps the tokens: share . uphill = 0
    found = minimize(
        lambda weight_G: -lower_end(gain_X, covariance_XX, weight_G),
        1 + 0.5 * uphill_G / max(np.abs(uphill_G).max(), 1e-12),
        method="SLSQP",
        bounds=[(SMALLEST, LARGEST)] * len(tokens_G),
        constraints={"type": "eq", "fun": lambda weight_G: share_G @ weight_G - 1},
        options={"maxiter": 500, "ftol": 1e-9},
    )
    weight_G = np.clip(found.x, SMALLEST, LARGEST)
    if lower_end(gain_X, covariance_XX, weight_G) < LEAST_GAIN:
        return None
    return np.asarray(weight_G)
