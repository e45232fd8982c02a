r"""Leave one out: what is lost when one unit is removed.

.. math:: \phi_i = v(N) - v(N \setminus \{i\})

It is occlusion by windows of one unit.

Sign: positive: supports the output (without it the output is less likely).  No sampling error.
Known weaknesses: what is said twice gets nothing, since either copy is enough; what only works
together counts in full for each, so scores don't add up.
Source: Li, Monroe & Jurafsky (2016), arXiv:1612.08220, eq. 1 (theirs is relative to the value).

Axes: M masks, U units.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from influence.inputs.perturbation import occlusion

METHOD = replace(
    occlusion.METHOD,
    name="leave-one-out",
    title="Leave one out",
    about="Loss of the target's log-probability when the unit alone is removed.",
    source="Li, Monroe & Jurafsky (2016), arXiv:1612.08220",
    design=partial(occlusion.design, name="leave-one-out", width=1),
    solve=partial(occlusion.solve, name="leave-one-out", width=1),
)
