"""What it costs to say nothing: risk of what is answered, by how much is answered.

Rows are answered from the most confident down. Rows of equal confidence come in any order, so their
errors are spread evenly over them.

Axes: N rows, D draws, G runs of equal confidence.
Sources: risk-coverage: El-Yaniv & Wiener (2010), JMLR 11; prediction-rejection ratio: Malinin,
Ragni & Gales (2017), doi:10.21437/Interspeech.2017-1308.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from influence.errors import InfluenceError
from influence.evaluation.discrimination import Labels, Scores, Statistic, divided, once
from influence.evaluation.rows import both, scored


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Answer where the confidence is at least this."""

    threshold: float
    """Infinite: answer nothing."""
    target: float
    """The risk that was asked for: share of wrong answers among those given."""
    risk: float
    """On the rows it was chosen on; NaN where nothing is answered."""
    bound: float
    """The risk is below this with 95 % certainty (Clopper-Pearson), were the threshold given."""
    coverage: float
    """Share of those rows that are answered."""
    rows: int


def risk_coverage(confidence_N: Scores, wrong_N: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Risk of what is answered, from the most confident row to all rows.

    Args:
        confidence_N: Higher: answered earlier.
        wrong_N: 1 where the answer is wrong.

    Returns:
        Coverage and risk, each `[G]`, 0 to 1, one point after each run of equal confidence; the
        last point is coverage 1 with the share of all wrong answers.
    """
    scores_N, wrong_N = scored(confidence_N, wrong_N, "risk-coverage")
    answered_G, errors_G = _answered(scores_N, wrong_N, np.ones((1, len(scores_N))))
    return answered_G[0] / len(scores_N), errors_G[0] / answered_G[0]


def rejection_ratio(confidence_N: Scores, wrong_N: Labels) -> float:
    """Prediction-rejection ratio: how much of the possible gain from abstaining is reached.

    (area of random order - area of this order) / (area of random order - area of the best order),
    areas under risk over coverage.

    Args:
        confidence_N: Higher: answered earlier.
        wrong_N: 1 where the answer is wrong.

    Returns:
        1: wrong answers are all rejected first; 0: as by chance; below 0: worse than chance.

    Raises:
        InfluenceError: If all are right or all are wrong, or a confidence is NaN.
    """
    return once(rejection_ratio_of(confidence_N, wrong_N), len(confidence_N))


def rejection_ratio_of(confidence_N: Scores, wrong_N: Labels) -> Statistic:
    """`rejection_ratio` as a statistic for `bootstrap.interval`.

    Args:
        confidence_N: Higher: answered earlier.
        wrong_N: 1 where the answer is wrong.

    Returns:
        Weights `[D, N]` -> `[D]`.
    """
    scores_N, wrong_N = scored(confidence_N, wrong_N, "rejection ratio")
    both(wrong_N, "rejection ratio")

    def statistic(weights_DN: np.ndarray) -> np.ndarray:
        answered_DG, errors_DG = _answered(scores_N, wrong_N, weights_DN)
        all_D, wrong_D = answered_DG[:, -1], errors_DG[:, -1]
        area_D = _area(answered_DG, errors_DG) / all_D
        right_D = 1 - wrong_D / all_D
        logarithm_D = np.log(right_D, out=np.zeros_like(right_D), where=right_D > 0)
        return divided(1 - right_D - area_D, -right_D * logarithm_D)

    return statistic


def choose_threshold(
    confidence_N: Scores, wrong_N: Labels, risk: float, least: int = 1
) -> Threshold:
    """The lowest threshold that keeps a stated risk; choose it on rows that nothing is judged on.

    Args:
        confidence_N: Higher: answered earlier.
        wrong_N: 1 where the answer is wrong.
        risk: Share of wrong answers among those given that is allowed, 0 to 1.
        least: Rows that must be answered: of a few, the risk is not known.

    Returns:
        The threshold of the largest coverage whose risk is at most `risk`, with that coverage; an
        infinite one where every threshold that answers `least` rows has a higher risk.

    Raises:
        InfluenceError: If the risk is not between 0 and 1, or a confidence is NaN.
    """
    if not 0 <= risk <= 1:
        raise InfluenceError(f"threshold: risk {risk:g}, a share between 0 and 1 was expected.")
    scores_N, wrong_N = scored(confidence_N, wrong_N, "threshold")
    count = len(scores_N)
    answered_G, errors_G = (x[0] for x in _answered(scores_N, wrong_N, np.ones((1, count))))
    kept = np.flatnonzero((errors_G <= risk * answered_G) & (answered_G >= least))
    if not len(kept):
        threshold, answered, errors = np.inf, 0, 0
    else:
        threshold = np.unique(-scores_N)[kept[-1]] * -1
        answered, errors = int(answered_G[kept[-1]]), int(errors_G[kept[-1]])
    bound = beta.ppf(0.95, errors + 1, answered - errors) if errors < answered else 1.0
    return Threshold(
        threshold=float(threshold),
        target=risk,
        risk=errors / answered if answered else float("nan"),
        bound=float(bound),
        coverage=answered / count,
        rows=count,
    )


def kept_risk(chosen: Threshold, confidence_N: Scores, wrong_N: Labels) -> tuple[float, float]:
    """What a threshold does on other rows than it was chosen on.

    Args:
        chosen: The threshold.
        confidence_N: Of the other rows.
        wrong_N: 1 where the answer is wrong.

    Returns:
        Coverage, and risk of what is answered (NaN where nothing is).
    """
    scores_N, wrong_N = scored(confidence_N, wrong_N, "threshold")
    given_N = scores_N >= chosen.threshold
    risk = float(wrong_N[given_N].mean()) if given_N.any() else float("nan")
    return float(given_N.mean()), risk


def _answered(
    scores_N: np.ndarray, wrong_N: np.ndarray, weights_DN: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    # Weight of the answered, and of the wrong among them, after each run of equal confidence.
    order_N = np.argsort(-scores_N, kind="stable")
    sorted_N = scores_N[order_N]
    last_G = np.flatnonzero(np.append(sorted_N[1:] != sorted_N[:-1], True))
    sorted_DN = weights_DN[:, order_N]
    answered_DG = sorted_DN.cumsum(axis=1)[:, last_G]
    return answered_DG, (sorted_DN * wrong_N[order_N]).cumsum(axis=1)[:, last_G]


def _area(answered_DG: np.ndarray, errors_DG: np.ndarray) -> np.ndarray:
    # Integral of errors / answered over answered; within a run errors rise in a straight line
    # a + b (c - c0), whose integral is b (c1 - c0) + (a - b c0) log(c1 / c0).
    before_DG = np.concatenate([np.zeros((len(answered_DG), 1)), answered_DG[:, :-1]], axis=1)
    start_DG = np.concatenate([np.zeros((len(errors_DG), 1)), errors_DG[:, :-1]], axis=1)
    width_DG, rise_DG = answered_DG - before_DG, errors_DG - start_DG
    slope_DG = np.divide(rise_DG, width_DG, out=np.zeros_like(rise_DG), where=width_DG > 0)
    ratio_DG = np.divide(answered_DG, before_DG, out=np.ones_like(answered_DG), where=before_DG > 0)
    return (rise_DG + (start_DG - slope_DG * before_DG) * np.log(ratio_DG)).sum(axis=1)
