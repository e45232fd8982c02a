"""Measures by name: from a run, queries and methods' scores to rows of a report."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from pipelines.errors import RunError
from pipelines.measures import brittleness, corruption, facts, lds, sanity, tail_patch
from pipelines.measures.options import EvaluationOptions, count_of

MEASURES = {
    "facts": facts.measure,
    "corruption": corruption.measure,
    "sanity": sanity.measure,
    "tail-patch": tail_patch.measure,
    "lds": lds.measure,
    "brittleness": brittleness.measure,
}
"""By name, cheap ones first."""


def known_measures(names: Sequence[str]) -> tuple[str, ...]:
    """Measures by name, once each, cheap ones first.

    Args:
        names: As the user typed them.

    Returns:
        Names.

    Raises:
        RunError: For an unknown one, with the nearest.
    """
    for name in names:
        if name not in MEASURES:
            near = get_close_matches(name, MEASURES, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RunError(
                f"Evaluation: measure {name!r} given, some of {', '.join(MEASURES)} were expected.{hint}"
            )
    return tuple(name for name in MEASURES if name in names)


__all__ = ["MEASURES", "EvaluationOptions", "count_of", "known_measures"]
