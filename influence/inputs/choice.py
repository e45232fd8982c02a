"""Attribution methods of input tokens by name: what `--method` offers."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from influence.errors import InputError
from influence.inputs.attention import attention_x_gradient, rollout, weights
from influence.inputs.gradient import (
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    saliency,
    smoothgrad,
)
from influence.inputs.methods import Method
from influence.inputs.perturbation import leave_one_out, occlusion, shapley
from influence.inputs.surrogate import kernel_shap, lime, sparse, tree

METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD
    for module in (
        # perturbation
        occlusion,
        leave_one_out,
        shapley,
        # surrogates
        kernel_shap,
        lime,
        sparse,
        tree,
        # gradients
        saliency,
        integrated_gradients,
        smoothgrad,
        gradient_shap,
        input_x_gradient,
        # attention
        rollout,
        attention_x_gradient,
        weights,
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
        InputError: If there is no name or an unknown one; the message names the nearest.
    """
    split = names.replace(",", " ").split() if isinstance(names, str) else list(names)
    wanted = list(dict.fromkeys(name.strip() for name in split if name.strip()))
    known = ", ".join(METHODS)
    if not wanted:
        raise InputError(f"method: an empty choice, expected one or more of {known}.")
    for name in wanted:
        if name not in METHODS:
            nearest = get_close_matches(name.lower(), METHODS, n=3, cutoff=0.4)
            hint = f"Nearest: {', '.join(nearest)}. " if nearest else ""
            raise InputError(
                f"method: {name!r} is not a method. {hint}Choose one or more of {known}."
            )
    return tuple(METHODS[name] for name in wanted)
