r"""The gradient dot product as Adam would take the step.

.. math:: s(m) = \nabla f^\top \frac{\nabla L_m}{\sqrt{v} + \epsilon}

with v Adam's bias-corrected second moment at the final state, :math:`\epsilon = 10^{-8}`.
Sign: positive is a proponent: a small step on m, scaled as Adam scales it, lowers the query's loss.
Unit: nats by which such a step lowers the query's loss, per unit of learning rate.
Known weaknesses: those of the gradient dot product but its scale; v knows the noise of batches, not
the curvature; momentum and weight decay are left out.
Source: Kingma & Ba (2015), arXiv:1412.6980, algorithm 1; in the spirit of LESS, Xia et al. (2024),
arXiv:2402.04333, section 4, which also takes the first moment in and normalises (we do neither).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from influence.documents.methods.families import (
    GradientMethod,
    Gradients,
    Setting,
    State,
    needed,
    only,
)
from influence.documents.scores import Directions
from influence.errors import GradientError
from influence.layers import Layer

EPSILON = 1e-8
"""Added to the root of the second moment, as torch's optimisers do."""


def layer_moments(layers: Sequence[Layer], moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Second moments by parameter, laid out as the layers' gradients are.

    Args:
        layers: Tracked layers.
        moments: Bias-corrected second moments by parameter name: ``<layer>.weight`` ``[O, I]`` and
            ``<layer>.bias`` ``[O]``.

    Returns:
        ``[O, I]`` a layer, the bias as last column.

    Raises:
        GradientError: If a parameter has none, or one of another shape.
    """
    found: dict[str, Tensor] = {}
    for layer in layers:
        shapes = {f"{layer.name}.weight": (layer.out_features, layer.in_features)}
        if layer.bias:
            shapes[f"{layer.name}.bias"] = (layer.out_features, 1)
        parts = []
        for name, shape in shapes.items():
            value = moments.get(name, torch.zeros(0))
            if value.numel() != shape[0] * shape[1] or value.shape[0] != shape[0]:
                raise GradientError(
                    f"Adam: second moment of {name} of shape {tuple(value.shape)}, "
                    f"{shape[0]} x {shape[1]} was expected. Read the optimiser's state by the "
                    "names of the parameters of this model, or leave out the methods that need it."
                )
            parts.append(value.reshape(shape))
        found[layer.name] = torch.cat(parts, dim=1)
    return found


def inverse_root(moments_OI: Tensor) -> Tensor:
    """Adam's scale of each parameter, ``1 / (sqrt(v) + eps)``.

    Returns:
        ``[O, I]``, in parameter units per nat and token.
    """
    return 1.0 / (moments_OI.clamp_min(0.0).sqrt() + EPSILON)


def layer_scale(moments_OI: Tensor) -> float:
    """Adam as one number a layer: the mean of its parameters' scales.

    Parameters that never had a gradient (v = 0) have the scale 1/eps and would raise the mean
    without ever moving; they are left out, unless the layer has no others.

    Returns:
        p, in parameter units per nat and token.
    """
    moved = moments_OI[moments_OI > 0]
    return float(inverse_root(moved if moved.numel() else moments_OI).mean())


def _directions(
    gradients: Sequence[Gradients], states: Sequence[State], _setting: Setting
) -> list[Directions]:
    last, state = only("adam", gradients, states)
    moments = needed("adam", "second moments", state.second_moments, last)
    return [{name: g_QOI * inverse_root(moments[name]) for name, g_QOI in last.items()}]


METHOD = GradientMethod(
    name="adam",
    title="Adam-scaled dot product",
    about="Gradient dot product at the final model with Adam's second moments as preconditioner "
    "(in the spirit of LESS, Xia et al. 2024).",
    unit="nats per unit of learning rate",
    states="last",
    curvature="",
    moments=True,
    normalised=False,
    directions=_directions,
)
