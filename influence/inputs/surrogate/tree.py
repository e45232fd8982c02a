r"""A decision tree as the surrogate: which units matter only together.

The tree (scikit-learn's, least squares) asks of a mask whether units stand.  Its depth is the one
that predicts held-out pairs best.  A unit's score is its exact Shapley value in the game that the tree
plays: a leaf of value :math:`c` that wants the a units K to stand and the b units R to be gone gives
each of K :math:`c\,(a-1)!\,b!/(a+b)!` and takes :math:`c\,a!\,(b-1)!/(a+b)!` from each of R.

Sign: positive: supports the output.  The scores add up to the tree's own v(N) - v(none).
Known weaknesses: steps, not slopes: many small additive effects need many rows.  The interval says
how the tree's scores change with the masks; what no tree of this depth can say is not in it.
Source: Breiman et al. (1984) (trees); Lundberg et al. (2020), arXiv:1905.04610, algorithm 3
(interventional TreeSHAP; here for the masks themselves, one background).

Axes: M masks, U units, D depths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import comb
from typing import Any

import numpy as np

from influence.inputs import designs
from influence.inputs.extras import needed
from influence.inputs.games import pairs_of
from influence.inputs.methods import MaskMethod
from influence.inputs.surrogate.fitting import FEWEST, Fit, Surrogate, explain_by, splits

DEEPEST = 6
"""Most questions in a row."""
MOST_SENTENCES = 8
"""Leaves that the notes describe, those with most rows first."""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """Where a tree ends."""

    standing: tuple[int, ...]
    """Units that must stand."""
    gone: tuple[int, ...]
    """Units that must be gone."""
    value: float
    """Mean of its rows, in nats."""
    rows: int


def design(units: int, rows: int, seed: int) -> np.ndarray:
    """Random masks in pairs; at least 12, or all there are.

    Args:
        units: U.
        rows: Most masks.
        seed: Of the draws.

    Returns:
        `[M, U]` bool.
    """
    designs.require_rows("tree", units, rows, min(FEWEST, 2**units))
    return designs.paired_random(units, rows, seed)


def fit(kept_MU: np.ndarray, values_M: np.ndarray, *, depth: int, seed: int) -> Surrogate:
    """A tree of some depth.

    Args:
        kept_MU: bool: masks.
        values_M: In nats.
        depth: Most questions in a row.
        seed: Decides between equally good questions.

    Returns:
        The surrogate, with the tree as sentences.
    """
    trees = needed("sklearn.tree")
    model = trees.DecisionTreeRegressor(max_depth=depth, random_state=seed)
    model.fit(kept_MU.astype(float), values_M)
    found = list(leaves(model.tree_))
    shown = sorted(found, key=lambda leaf: -leaf.rows)[:MOST_SENTENCES]
    return Surrogate(
        scores_U=shapley_of(found, kept_MU.shape[1]),
        predict=lambda kept_NU: model.predict(kept_NU.astype(float)),
        notes=tuple(sentence(leaf) for leaf in shown),
    )


def leaves(tree: Any) -> Iterator[Leaf]:
    """The leaves of a fitted tree.

    Args:
        tree: scikit-learn's `tree_`, fitted on masks.

    Yields:
        Each leaf, from the side of what is gone.
    """
    todo: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = [(0, (), ())]
    while todo:
        node, standing, gone = todo.pop()
        unit = int(tree.feature[node])
        if unit < 0:
            yield Leaf(
                standing=standing,
                gone=gone,
                value=float(tree.value[node, 0, 0]),
                rows=int(tree.n_node_samples[node]),
            )
            continue
        todo.append((int(tree.children_right[node]), (*standing, unit), gone))
        todo.append((int(tree.children_left[node]), standing, (*gone, unit)))


def shapley_of(tree: list[Leaf], units: int) -> np.ndarray:
    """Exact Shapley values of the game that a tree plays.

    Args:
        tree: Its leaves.
        units: U.

    Returns:
        `[U]` in nats; they add up to the tree's value with all minus its value with none.
    """
    scores_U = np.zeros(units)
    for leaf in tree:
        a, b = len(leaf.standing), len(leaf.gone)
        for unit in leaf.standing:
            scores_U[unit] += leaf.value / (a * comb(a + b, a))
        for unit in leaf.gone:
            scores_U[unit] -= leaf.value / (b * comb(a + b, b))
    return scores_U


def sentence(leaf: Leaf) -> str:
    """A leaf in words.

    Args:
        leaf: Of a tree.

    Returns:
        One sentence; units are counted from 1 in the order of the text.
    """
    parts = [
        f"{word} {', '.join(f'unit {unit + 1}' for unit in sorted(units))}"
        for word, units in (("with", leaf.standing), ("without", leaf.gone))
        if units
    ]
    begin = " and ".join(parts).capitalize() or "Always"
    return f"{begin}: {leaf.value:.2f} nats (mean of {leaf.rows} rows)."


def _choose(kept_MU: np.ndarray, values_M: np.ndarray, seed: int) -> Fit:
    # With nothing to test on, the deepest tree.
    depths = range(1, min(DEEPEST, kept_MU.shape[1]) + 1)
    folds = splits(pairs_of(kept_MU), seed)
    error_D = [
        sum(
            float(((found.predict(kept_MU[tested]) - values_M[tested]) ** 2).sum())
            for seen, tested in folds
            for found in [fit(kept_MU[seen], values_M[seen], depth=depth, seed=seed)]
        )
        for depth in depths
    ]
    depth = depths[int(np.argmin(error_D))] if folds else depths[-1]
    return partial(fit, depth=depth, seed=seed)


METHOD = MaskMethod(
    name="tree",
    title="Tree surrogate",
    about="Shapley value of the unit in a decision tree fitted to random masks.",
    source="Breiman et al. (1984); Lundberg et al. (2020), arXiv:1905.04610",
    design=design,
    solve=partial(explain_by, _choose),
)
