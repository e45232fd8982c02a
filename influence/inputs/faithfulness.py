r"""Are the scores true of the model?  Measures from the evaluated table, at no further rows.

A score is tested against masks: rows of units that stand, and what the target is then worth (nats).

- *Effect* of removing a set of units.  `exact`: value with all minus value without the set, where both
  masks stand in the table.  `averaged`: mean value over the rows that keep the whole set minus the
  mean over the rows that remove it, the other units as they fall in those rows; the standard error
  is Welch's.  None where either side has fewer than `LEAST_CONTEXTS` rows.
- *Comprehensiveness* at a share: the effect of removing the best-scored units, that share of all
  (rounded up).  High: they are needed.
- *Sufficiency* at a share: the effect of removing all others.  Low: they are enough.
- *AOPC*: their mean over the shares (shares that round to the same number of units count once).
- *Deletion curve*: the value with the best k units gone, k = 0, 1, ...; a good ranking falls early.
  *Insertion curve*: the value with only the best k standing; a good ranking rises early.  `exact`
  where every step stands in the table; else `averaged`: the mean over the rows that remove (keep)
  all of the best k, as far as `LEAST_CONTEXTS` rows do.  An averaged curve starts at the mean of
  all rows, so compare it with its random line, never with an exact curve.
- The *random line* is the same curve for a random ranking, from the same table.  For exact curves:
  the mean value of the table's other rows of that size (known where the design drew some);
  for averaged ones: the mean over `RANKINGS` random rankings.

Effects, curves and their errors are in nats.

Axes: M masks, U units, K steps of a curve, B resamples.
Source: DeYoung et al. (2020), arXiv:1911.03429, section 4 (comprehensiveness, sufficiency, AOPC);
Petsiuk et al. (2018), arXiv:1806.07421 (deletion, insertion); Cohen-Wang et al. (2024),
arXiv:2409.00729, section 3 (LDS of a context's parts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from influence.documents.evaluation.ranks import spearman
from influence.errors import InputError
from influence.inputs.games import check_game, constant, find

SHARES = (0.05, 0.1, 0.2, 0.5)
"""Of the units, at which comprehensiveness and sufficiency are measured."""
LEAST_CONTEXTS = 4
"""Rows that a mean over contexts needs, so that its error can be told."""
MOST_STEPS = 20
"""Steps of a curve; with more units than that a step removes several."""
RANKINGS = 32
"""Random rankings behind the random line of an averaged curve."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What removing a set of units costs the target."""

    value: float
    """Nats; positive: the set supports the output."""
    error: float
    """Standard error; 0 where exact."""
    exact: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Value of the target while units go (deletion) or come (insertion), best-scored first."""

    shares_K: np.ndarray
    """Of the units that are gone (deletion) or stand (insertion)."""
    values_K: np.ndarray
    """Nats."""
    errors_K: np.ndarray
    """Standard errors; 0 where exact."""
    random_K: np.ndarray
    """The same for a random ranking; NaN where the table doesn't tell."""
    exact: bool

    @property
    def area(self) -> float:
        """Mean value along the curve (trapezoids), in nats."""
        widths = np.diff(self.shares_K)
        heights = (self.values_K[1:] + self.values_K[:-1]) / 2
        return float((widths * heights).sum() / (self.shares_K[-1] - self.shares_K[0]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Faithfulness:
    """What a table says of a ranking."""

    comprehensiveness: dict[float, Effect | None]
    """By share of the units; of shares that round to the same number of units the smallest."""
    sufficiency: dict[float, Effect | None]
    deletion: Curve | None
    insertion: Curve | None
    lds: float | None
    """Rank agreement with the held-out rows."""
    completeness_error: float | None

    @property
    def comprehensiveness_aopc(self) -> float | None:
        """Mean comprehensiveness over the shares; nats; None where one is missing."""
        return _mean_effect(self.comprehensiveness)

    @property
    def sufficiency_aopc(self) -> float | None:
        """Mean sufficiency over the shares; nats; None where one is missing."""
        return _mean_effect(self.sufficiency)


def measure(
    kept_MU: np.ndarray,
    values_M: np.ndarray,
    scores_U: np.ndarray,
    *,
    heldout_M: np.ndarray | None = None,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
) -> Faithfulness:
    """Everything that one table says of one ranking.

    Args:
        kept_MU: bool: which units stand; distinct rows, of which the first keeps all.
        values_M: Value of the target for each row, in nats.
        scores_U: Positive: supports the output.
        heldout_M: bool: rows that the scores were not made from; None: all (as for gradients).
        shares: Of the units, above 0, at most 1.
        seed: Of the random rankings.

    Returns:
        The measures; None for what the table can't tell.

    Raises:
        InputError: If the table or the scores make no sense.
    """
    check_game(kept_MU, values_M)
    units = kept_MU.shape[1]
    if scores_U.shape != (units,) or not np.isfinite(scores_U).all():
        raise InputError(
            f"faithfulness: scores {scores_U.shape}, expected one finite score for each of "
            f"{units} units. Pass the scores of the units of this table."
        )
    order_U = ranking(scores_U)
    share_of = {math.ceil(share * units): share for share in sorted(shares, reverse=True)}
    best = {share: order_U[:count] for count, share in share_of.items()}
    rest = {share: order_U[count:] for count, share in share_of.items()}
    held_M = np.ones(len(values_M), bool) if heldout_M is None else heldout_M
    return Faithfulness(
        comprehensiveness={s: effect(kept_MU, values_M, best[s]) for s in sorted(best)},
        sufficiency={s: effect(kept_MU, values_M, rest[s]) for s in sorted(rest)},
        deletion=curve(kept_MU, values_M, order_U, insertion=False, seed=seed),
        insertion=curve(kept_MU, values_M, order_U, insertion=True, seed=seed),
        lds=rank_agreement(kept_MU[held_M] @ scores_U, values_M[held_M]),
        completeness_error=completeness_error(kept_MU, values_M, scores_U),
    )


def ranking(scores_U: np.ndarray) -> np.ndarray:
    """Units from the best-scored to the worst; of equals the first in the text goes first.

    Args:
        scores_U: Positive: supports the output.

    Returns:
        `[U]` int64: numbers of units.
    """
    return np.argsort(-scores_U, kind="stable")


def curve_masks(scores_U: np.ndarray, random_rankings: int = 0, seed: int = 0) -> np.ndarray:
    """Masks to evaluate so that the curves of these scores are exact.

    Args:
        scores_U: Positive: supports the output.
        random_rankings: Random rankings to evaluate beside, for the random line.
        seed: Of those.

    Returns:
        `[M, U]` bool: distinct; the first keeps all.  At most 40 masks for each ranking.
    """
    random = np.random.default_rng([seed, 5])
    orders = [ranking(scores_U)]
    orders += [random.permutation(len(scores_U)) for _ in range(random_rankings)]
    masks = [_curve_kept(order_U, insertion) for order_U in orders for insertion in (False, True)]
    kept_MU = np.concatenate(masks)
    first_M = np.unique(np.packbits(kept_MU, axis=1), axis=0, return_index=True)[1]
    return kept_MU[np.sort(first_M)]


def effect(kept_MU: np.ndarray, values_M: np.ndarray, removed: np.ndarray) -> Effect | None:
    """What removing some units costs the target.

    Args:
        kept_MU: bool: distinct rows, of which the first keeps all.
        values_M: In nats.
        removed: Numbers of the units.

    Returns:
        The effect, as this module's docstring defines it; None where the table can't tell.
    """
    without_U = np.ones(kept_MU.shape[1], bool)
    without_U[removed] = False
    row = find(kept_MU, without_U[None])[0]
    if row >= 0:
        return Effect(value=float(values_M[0] - values_M[row]), error=0.0, exact=True)
    kept, gone = kept_MU[:, removed].all(axis=1), ~kept_MU[:, removed].any(axis=1)
    if min(kept.sum(), gone.sum()) < LEAST_CONTEXTS:
        return None
    (high, high_error), (low, low_error) = _mean(values_M[kept]), _mean(values_M[gone])
    return Effect(value=high - low, error=math.hypot(high_error, low_error), exact=False)


def curve(
    kept_MU: np.ndarray,
    values_M: np.ndarray,
    order_U: np.ndarray,
    *,
    insertion: bool,
    seed: int = 0,
) -> Curve | None:
    """The value while the best units go, or come.

    Args:
        kept_MU: bool: distinct rows, of which the first keeps all.
        values_M: In nats.
        order_U: Units from the best-scored to the worst.
        insertion: Begin with none and add, rather than begin with all and remove.
        seed: Of the random rankings.

    Returns:
        The curve, as this module's docstring defines it; None where the table knows no step of it.
    """
    units = len(order_U)
    shares_K = _steps(units) / units
    row_K = find(kept_MU, _curve_kept(order_U, insertion))
    if (row_K >= 0).all():
        return Curve(
            shares_K=shares_K,
            values_K=values_M[row_K],
            errors_K=np.zeros(len(row_K)),
            random_K=_random_exact(kept_MU, values_M, order_U, insertion),
            exact=True,
        )
    values_K, errors_K = _averaged(kept_MU, values_M, order_U, insertion)
    if len(values_K) < 2:
        return None
    random = np.random.default_rng([seed, 6])
    drawn = [
        _averaged(kept_MU, values_M, random.permutation(units), insertion)[0]
        for _ in range(RANKINGS)
    ]
    random_K = [
        _mean(np.array([v[k] for v in drawn if len(v) > k]))[0] for k in range(len(values_K))
    ]
    return Curve(
        shares_K=shares_K[: len(values_K)],
        values_K=values_K,
        errors_K=errors_K,
        random_K=np.array(random_K),
        exact=False,
    )


def r_squared(predicted_M: np.ndarray, values_M: np.ndarray) -> float | None:
    r"""The share of the values' variance that predictions explain: :math:`1 - SSE / SST`.

    Args:
        predicted_M: Predictions of rows that the predictor didn't see.
        values_M: What was measured.

    Returns:
        At most 1; below 0: worse than their mean.  None for fewer than 3 rows, or constant values.
    """
    if len(values_M) < 3 or constant(values_M):
        return None
    squares = ((values_M - values_M.mean()) ** 2).sum()
    return float(1 - ((values_M - predicted_M) ** 2).sum() / squares)


def rank_agreement(predicted_M: np.ndarray, values_M: np.ndarray) -> float | None:
    """Spearman's correlation of predicted and measured values (LDS, when held out).

    Args:
        predicted_M: Such as the sums of the scores of the units that stand.
        values_M: What was measured.

    Returns:
        -1 to 1; 0 where the predictions are constant.  None for fewer than 3 rows, or constant
        values.
    """
    if len(values_M) < 3 or constant(values_M):
        return None
    return float(spearman(predicted_M[None], values_M[None])[0])


def completeness_error(
    kept_MU: np.ndarray, values_M: np.ndarray, scores_U: np.ndarray
) -> float | None:
    """Sum of the scores minus (value with all units minus value with none).

    Args:
        kept_MU: bool: rows, of which the first keeps all.
        values_M: In nats.
        scores_U: In nats.

    Returns:
        Nats; None where the mask that keeps none doesn't stand in the table.
    """
    empty = find(kept_MU, np.zeros((1, kept_MU.shape[1]), bool))[0]
    return None if empty < 0 else float(scores_U.sum() - (values_M[0] - values_M[empty]))


def sensitivity(scores_U: np.ndarray, resampled_BU: np.ndarray) -> float | None:
    """How much the scores change when the masks are drawn again.

    Args:
        scores_U: The scores.
        resampled_BU: The same from resampled masks.

    Returns:
        Mean length of the difference, as a share of the length of the scores; 0: they don't depend
        on the masks.  None where all scores are 0.
    """
    length = float(np.linalg.norm(scores_U))
    if length == 0:
        return None
    return float(np.linalg.norm(resampled_BU - scores_U, axis=1).mean() / length)


def _mean(values_M: np.ndarray) -> tuple[float, float]:
    if len(values_M) == 0:
        return math.nan, math.nan
    error = values_M.std(ddof=1) / math.sqrt(len(values_M)) if len(values_M) > 1 else math.nan
    return float(values_M.mean()), float(error)


def _mean_effect(effects: dict[float, Effect | None]) -> float | None:
    found = [e.value for e in effects.values() if e is not None]
    return float(np.mean(found)) if found and len(found) == len(effects) else None


def _steps(units: int) -> np.ndarray:
    return np.round(np.linspace(0, units, min(units, MOST_STEPS) + 1)).astype(int)


def _curve_kept(order_U: np.ndarray, insertion: bool) -> np.ndarray:
    taken_KU = np.argsort(order_U) < _steps(len(order_U))[:, None]
    return taken_KU if insertion else ~taken_KU


def _averaged(
    kept_MU: np.ndarray, values_M: np.ndarray, order_U: np.ndarray, insertion: bool
) -> tuple[np.ndarray, np.ndarray]:
    # Means and errors at the first steps, as far as enough rows agree with the best k units.
    found = []
    for step in _steps(len(order_U)):
        state_MK = kept_MU[:, order_U[:step]]
        agree_M = state_MK.all(axis=1) if insertion else ~state_MK.any(axis=1)
        if agree_M.sum() < LEAST_CONTEXTS:
            break
        found.append(_mean(values_M[agree_M]))
    values_K, errors_K = np.array(found).reshape(-1, 2).T
    return values_K, errors_K


def _random_exact(
    kept_MU: np.ndarray, values_M: np.ndarray, order_U: np.ndarray, insertion: bool
) -> np.ndarray:
    # Expected value of a random ranking at each step: the mean of rows of that size, the curves'
    # own rows left out (all and none are the same for every ranking).
    own = np.concatenate([_curve_kept(order_U, True), _curve_kept(order_U, False)])
    size_M = kept_MU.sum(axis=1)
    units = len(order_U)
    other_M = (find(own, kept_MU) < 0) | (size_M == 0) | (size_M == units)
    sizes_K = _steps(units) if insertion else units - _steps(units)
    return np.array([_mean(values_M[other_M & (size_M == size)])[0] for size in sizes_K])
