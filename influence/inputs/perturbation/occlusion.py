r"""Sliding-window occlusion: what is lost when a stretch of neighbours is removed.

.. math:: \phi_i = \frac{1}{|W_i|} \sum_{w \in W_i} \big(v(N) - v(N \setminus w)\big)

over the windows :math:`W_i` of a given width (in units) that hold unit i.  With width 1 these are the
rows and scores of leave-one-out.  A wider window sees units that stand in for each other, but blurs
scores over neighbours; the effect of a window is not divided among its units.

Sign: positive: supports the output (without it the output is less likely).  No sampling error.
Known weaknesses: removes one stretch only, so what is said twice, far apart, gets nothing.
Source: Zeiler & Fergus (2014), arXiv:1311.2901, section 4.2 (there of image patches).

Axes: M masks, U units, W windows.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from influence.errors import InputError
from influence.inputs import designs
from influence.inputs.explanation import Solution
from influence.inputs.faithfulness import completeness_error, r_squared, rank_agreement
from influence.inputs.games import check_game, find
from influence.inputs.methods import MaskMethod


def design(units: int, rows: int, seed: int, *, name: str, width: int) -> np.ndarray:
    """All windows, and the whole prompt: U - width + 2 rows.

    Args:
        units: U.
        rows: Most masks.
        seed: Changes nothing.
        name: Of the method.
        width: Units in a window.

    Returns:
        `[M, U]` bool.
    """
    designs.require_rows(name, units, rows, units - width + 2)
    return designs.sliding(units, width)


def solve(
    kept_MU: np.ndarray, values_M: np.ndarray, seed: int, *, name: str, width: int
) -> Solution:
    """Mean loss over the windows that hold each unit.

    Args:
        kept_MU: bool: distinct masks, of which the first keeps all.
        values_M: Value of the target for each mask, in nats.
        seed: Changes nothing.
        name: Of the method.
        width: Units in a window.

    Returns:
        Scores in nats, without sampling error.  `heldout_r2` and `lds` from the rows that are not
        windows, predicted by the value of the whole prompt minus the scores of what is gone; None
        where there are none.

    Raises:
        InputError: If a window is missing in the table.
    """
    check_game(kept_MU, values_M)
    wanted_WU = designs.sliding(kept_MU.shape[1], width)[1:]
    row_W = find(kept_MU, wanted_WU)
    if (row_W < 0).any():
        raise InputError(
            f"{name}: {(row_W < 0).sum()} of {len(row_W)} masks that remove {width} neighbouring "
            "units are missing in the table. Evaluate the masks of the method's own design."
        )
    gone_WU = ~wanted_WU
    scores_U = (values_M[0] - values_M[row_W]) @ gone_WU / gone_WU.sum(axis=0)
    other_M = np.ones(len(values_M), bool)
    other_M[[0, *row_W]] = False
    predicted_M = values_M[0] - ~kept_MU[other_M] @ scores_U
    return Solution(
        scores_U=scores_U,
        measures={
            "heldout_r2": r_squared(predicted_M, values_M[other_M]),
            "lds": rank_agreement(predicted_M, values_M[other_M]),
            "completeness_error": completeness_error(kept_MU, values_M, scores_U),
        },
    )


def windows(width: int) -> MaskMethod:
    """Occlusion by windows of a width.

    Args:
        width: Neighbouring units that are removed together; at least 1.

    Returns:
        The method.
    """
    name = "occlusion"
    return MaskMethod(
        name=name,
        title="Occlusion" if width == 1 else f"Occlusion by {width} units",
        about="Loss of the target's log-probability when the unit and its neighbours are removed."
        if width > 1
        else "Loss of the target's log-probability when the unit is removed.",
        source="Zeiler & Fergus (2014), arXiv:1311.2901",
        design=partial(design, name=name, width=width),
        solve=partial(solve, name=name, width=width),
    )


METHOD = windows(1)
