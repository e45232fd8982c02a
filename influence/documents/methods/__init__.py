"""Attribution methods by name: what `--methods` offers."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from influence.documents.methods import (
    adam,
    adam_ekfac,
    averaged,
    averaged_cosine,
    bm25,
    cosine,
    diagonal,
    ekfac,
    ekfac_cosine,
    embedding,
    head,
    identity,
    kfac,
    random,
    sentences,
    source,
    tracin,
    trak,
)
from influence.documents.methods.families import (
    FeatureMethod,
    Features,
    GradientMethod,
    Gradients,
    Method,
    Setting,
    State,
    TextMethod,
)
from influence.errors import InfluenceError

METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD
    for module in (
        # influence functions of the final state
        ekfac,
        kfac,
        diagonal,
        head,
        ekfac_cosine,
        adam_ekfac,
        # the course of training
        source,
        averaged,
        averaged_cosine,
        tracin,
        # plain gradients
        identity,
        cosine,
        adam,
        trak,
        # similarity
        embedding,
        sentences,
        bm25,
        random,
    )
}
"""Every method by its name, in the order in which reports list them."""


def choose(names: str | Sequence[str]) -> tuple[Method, ...]:
    """Methods by name.

    Args:
        names: Names, as a sequence or separated by commas or blanks; said twice counts once.

    Returns:
        The methods, in the order of the names.

    Raises:
        InfluenceError: If there is no name or an unknown one; the message names the nearest.
    """
    split = names.replace(",", " ").split() if isinstance(names, str) else list(names)
    wanted = list(dict.fromkeys(name.strip() for name in split if name.strip()))
    known = ", ".join(METHODS)
    if not wanted:
        raise InfluenceError(f"methods: an empty choice, expected one or more of {known}.")
    for name in wanted:
        if name not in METHODS:
            nearest = get_close_matches(name.lower(), METHODS, n=3, cutoff=0.4)
            hint = f"Nearest: {', '.join(nearest)}. " if nearest else ""
            raise InfluenceError(
                f"methods: {name!r} is not a method. {hint}Choose one or more of {known}."
            )
    return tuple(METHODS[name] for name in wanted)


__all__ = [
    "METHODS",
    "FeatureMethod",
    "Features",
    "GradientMethod",
    "Gradients",
    "Method",
    "Setting",
    "State",
    "TextMethod",
    "choose",
]
