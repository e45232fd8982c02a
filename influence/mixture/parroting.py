r"""Did a model copy an output or generalise to it? An index between the two, from influence and words.

Of the documents that made an output likely, how much of its wording do they hold? Weights are the
positive scores of its K strongest proponents, divided by their sum; :math:`o_m` is the lexical overlap
of document m with the output; the baseline is that of documents drawn at random:

.. math:: \text{index} = \max\Big(0, \frac{\sum_m w_m o_m - b}{1 - b}\Big), \qquad
    w_m = \frac{\max(0, s_m)}{\sum_k \max(0, s_k)}, \qquad b = \frac1R \sum_r o_r

1: what made the output likely holds all its words, as a copy does. 0: it holds no more of them than
any document, as where a rule was learned from documents about other things. In between it compares
outputs of one corpus: documents of one wording share some of it whether they were copied or not.

:math:`o_m` looks at the output and at most `CONTEXT` tokens of the prompt before it: the share of these
tokens that lie in spans of at least two tokens which the document holds too, and which hold a token
of the output. So a document that shares the wording of the question alone has no overlap, and one
that says the same in other words has little.
Known weaknesses: a paraphrase that was learned by heart looks like abstraction; an output of common
words may be found in many documents, which the baseline takes off on average only.
Source: ours; the question of Grosse et al. (2023), arXiv:2308.03296, section 5.3, with verbatim overlap
as in Liu et al. (2025), arXiv:2504.07096.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from influence.mixture.verbatim import shared_spans

CONTEXT = 10
"""Tokens of the prompt, right before the output, that count as its wording."""
FEWEST = 2
"""Tokens of a span that counts as shared."""
DRAWS, LEVEL = 1000, 0.95
"""Of the interval."""
DEFINITION = (
    "Index: the lexical overlap of the output with its proponents, weighted by their positive "
    "influence, above that of random documents; 1: all that made it likely holds its words "
    "(copied), 0: no more of them than any document does (generalised)."
)


@dataclass(frozen=True, kw_only=True)
class Parroting:
    """Between copying (1) and generalising (0), for one output."""

    index: float
    """0 to 1; NaN where no document has positive influence."""
    low: float
    """Of the interval over other documents of the same kind; NaN where there is only one."""
    high: float
    overlap: float
    """Mean overlap of the proponents, weighted by their influence."""
    baseline: float
    """Mean overlap of random documents."""
    copied: float
    """Share of the proponents' influence on documents that hold the whole window, in shared spans."""
    half: int
    """How many proponents carry half of it."""


def window_of(tokens: Sequence[str], first: int) -> tuple[list[str], int]:
    """What counts as the wording of an output.

    Args:
        tokens: Of prompt and output.
        first: The output's first token.

    Returns:
        The last tokens of the prompt and those of the output, and which of them is the output's
        first.
    """
    begin = max(0, first - CONTEXT)
    return list(tokens[begin:]), first - begin


def overlap(window: Sequence[str], first: int, document: Sequence[str]) -> float:
    """How much of an output's wording stands in a document.

    Args:
        window: Of `window_of`.
        first: The output's first token in it.
        document: Tokens of the document.

    Returns:
        0 to 1.
    """
    spans = [
        (start, end)
        for start, end in shared_spans(window, document)
        if end > first and (end - start >= min(FEWEST, len(window)))
    ]
    return len({i for start, end in spans for i in range(start, end)}) / len(window)


def parroting(
    scores_K: Sequence[float] | np.ndarray,
    overlaps_K: Sequence[float] | np.ndarray,
    random_R: Sequence[float] | np.ndarray,
    seed: int = 0,
) -> Parroting:
    """The index of one output.

    Args:
        scores_K: Influence of its strongest proponents, any unit; what is not positive has no weight.
        overlaps_K: Overlap of each, of `overlap`.
        random_R: Overlaps of documents drawn at random, at least one.
        seed: Of the draws.

    Returns:
        Index, interval and parts.
    """
    weights_K, shares_K = np.asarray(scores_K, dtype=float), np.asarray(overlaps_K, dtype=float)
    weights_K, shares_K = weights_K[weights_K > 0], shares_K[weights_K > 0]
    drawn_R = np.asarray(random_R, dtype=float)
    baseline = float(drawn_R.mean())
    if not len(weights_K):
        nan = float("nan")
        return Parroting(
            index=nan, low=nan, high=nan, overlap=nan, baseline=baseline, copied=nan, half=0
        )
    total = weights_K.sum()
    mean = float(weights_K @ shares_K / total)
    low, high = _interval(weights_K, shares_K, drawn_R, seed)
    return Parroting(
        index=float(_above(mean, baseline)),
        low=low,
        high=high,
        overlap=mean,
        baseline=baseline,
        copied=float(weights_K[shares_K == 1].sum() / total),
        half=int(np.searchsorted(np.sort(weights_K)[::-1].cumsum(), total / 2) + 1),
    )


def _above(mean: np.ndarray | float, baseline: np.ndarray | float) -> np.ndarray:
    """Overlap above the baseline, as a share of what could be above it."""
    room = 1 - np.asarray(baseline)
    above = np.divide(mean - baseline, room, out=np.zeros(np.shape(room)), where=room > 0)
    return np.clip(above, 0, 1)


def _interval(
    weights_K: np.ndarray, shares_K: np.ndarray, drawn_R: np.ndarray, seed: int
) -> tuple[float, float]:
    """Proponents and random documents are drawn again, each among themselves."""
    if len(weights_K) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    rows_DK = generator.integers(0, len(weights_K), (DRAWS, len(weights_K)))
    rows_DR = generator.integers(0, len(drawn_R), (DRAWS, len(drawn_R)))
    weights_DK = weights_K[rows_DK]
    mean_D = (weights_DK * shares_K[rows_DK]).sum(axis=1) / weights_DK.sum(axis=1)
    drawn_D = _above(mean_D, drawn_R[rows_DR].mean(axis=1))
    low, high = np.quantile(drawn_D, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
