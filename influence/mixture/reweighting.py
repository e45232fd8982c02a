r"""A re-weighting of the groups at the same number of tokens that lowers the tasks' losses.

Weight w of a group: how often its documents count, 1 as now, 1/2 half as often, 2 twice. A score is
the slope of a task's loss L at w = 1, and says nothing of its bend. Losses fall as powers of the data
(Kaplan et al. 2020, eq. 1.2; Ye et al. 2024, Data Mixing Laws), so it is the logarithm of the loss that
changes by steps in log w; and what a group spoils is taken to be spoiled in proportion. With I the
group's total (what its removal would add),

.. math:: L_t(w) = L_t \exp\Big(\sum_g h(w_g, I_{tg}) / L_t\Big), \qquad
    h(w, I) = -I \log w \;\text{ where } I > 0, \quad I (1 - w) \;\text{ where } I < 0.

With :math:`\phi(w)` the vector of all log w and w - 1, :math:`x` the groups' gains (helpful and harmful
totals over their task's loss, each summed over the tasks by importance), and C their covariance over
the bootstrap's draws, the proposal lowers the geometric mean of the losses: it maximises the lower end
of the interval of its fall,

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
    """How much each task counts; they sum to 1."""
    change_T: np.ndarray
    """Predicted change of each task's mean loss, nats a query."""
    low_T: np.ndarray
    high_T: np.ndarray
    """Interval of the change of these weights; their choice on the same scores is not in it."""


def propose(
    cells: Cells,
    tokens_G: np.ndarray,
    loss_T: np.ndarray,
    importance_T: np.ndarray | None = None,
) -> Reweighting | None:
    """Propose weights of the groups.

    Args:
        cells: Totals with their intervals.
        tokens_G: Tokens of each group, positive.
        loss_T: Mean loss of each task now, positive, nats a query.
        importance_T: How much a task counts, not negative, not all 0; None: all alike.

    Returns:
        The proposal; None where no gain is clear.

    Raises:
        InfluenceError: If a loss is not positive, or a group has no token.
    """
    loss_T = np.asarray(loss_T, np.float64)
    if not (loss_T > 0).all():
        raise InfluenceError(
            f"Re-weighting: losses of {loss_T.tolist()} nats, positive ones were expected: changes are "
            "judged as shares of them."
        )
    weighed_T = np.ones(len(loss_T)) if importance_T is None else np.asarray(importance_T, float)
    weighed_T = weighed_T / weighed_T.sum()
    clear_TG = np.abs(cells.sign_TG) == 1
    gain_X = weighed_T / loss_T @ _sides(cells.total_TG * clear_TG)
    drawn_RX = weighed_T / loss_T @ _sides(cells.drawn_RTG * clear_TG)
    weight_G = weights(gain_X, np.atleast_2d(np.cov(drawn_RX.T)), tokens_G)
    if weight_G is None:
        return None
    drawn_RT = predicted_change(cells.drawn_RTG, weight_G, loss_T)
    low_T, high_T = np.quantile(drawn_RT, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Reweighting(
        weight_G=weight_G,
        importance_T=weighed_T,
        change_T=predicted_change(cells.total_TG, weight_G, loss_T),
        low_T=low_T,
        high_T=high_T,
    )


def predicted_change(total_TG: np.ndarray, weight_G: np.ndarray, loss_T: np.ndarray) -> np.ndarray:
    """Predict how losses change under weights of the groups.

    Args:
        total_TG: Totals ``[..., T, G]``, nats by which the loss would rise without the group.
        weight_G: Weights, above 0.
        loss_T: Losses now, positive.

    Returns:
        Changes ``[..., T]`` in nats; negative: the loss falls. Never by more than all of it; and a rise
        by more than a thousandfold is not told apart from a thousandfold one.
    """
    share_T = -(_sides(total_TG) @ _steps(np.asarray(weight_G, np.float64))) / loss_T
    return np.asarray(loss_T * np.expm1(np.minimum(share_T, np.log(1000.0))))


def _sides(total_TG: np.ndarray) -> np.ndarray:
    """Helpful totals, then harmful ones, ``[..., 2G]``."""
    return np.concatenate([np.maximum(total_TG, 0), np.minimum(total_TG, 0)], axis=-1)


def _steps(weight_G: np.ndarray) -> np.ndarray:
    """What a helpful, then a harmful total is multiplied with: log w, and w - 1."""
    return np.concatenate([np.log(weight_G), weight_G - 1])


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
