"""The three families of attribution methods: by gradients, by features, by text.

Every method turns queries and documents into scores ``[Q, N]``.  The sign is the same for all:
POSITIVE is a proponent, training on the document lowers the query's loss.  A method is a frozen
record of what it needs and of pure functions; loading models, walking documents and dividing by N
are the caller's work.

Axes: Q queries, N documents, B rows of a batch, K numbers of a feature vector, O layer outputs, I
layer inputs (bias column last).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor, nn

from influence.documents.preconditioner import LayerCurvature
from influence.documents.scores import Directions
from influence.errors import GradientError
from influence.layers import Layer
from influence.text import Batch

Gradients = Mapping[str, Tensor]
"""For each layer, gradients ``[Q, O, I]`` of summed losses, in nats per parameter unit."""

STATES = ("last", "all")
CURVATURES = ("ekfac", "kfac", "diagonal", "")

Needed = TypeVar("Needed")


@dataclass(frozen=True, kw_only=True)
class State:
    """One state of the model on its way through training, as gradient methods see it.

    Tensors are in the dtype and on the device of the gradients.
    """

    curvature: Mapping[str, LayerCurvature]
    """Of the kind that the method asked for; empty if it asked for none."""
    learning_rates: float
    """Sum of the learning rates of the steps that this state stands for."""
    second_moments: Mapping[str, Tensor]
    """Adam's bias-corrected second moments, ``[O, I]`` a layer (see ``adam.layer_moments``); empty
    if the method did not ask for them."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a gradient method is told of the run."""

    damping: float
    """Damping factor: times the mean eigenvalue, for each layer afresh."""
    documents: int
    """Documents N of the corpus."""
    tokens: int
    """Counted tokens W of the corpus."""
    head: str
    """Name of the output head's layer; empty if the head is not tracked."""


@dataclass(frozen=True, kw_only=True)
class GradientMethod:
    """Score = sum over states of <direction of the query, gradient of the document>."""

    name: str
    """As users choose it."""
    title: str
    """As people read it."""
    about: str
    """One sentence for reports: what it is and where it comes from."""
    unit: str
    """Unit of a score."""
    states: str
    """`last`: the final state alone; `all`: every saved state."""
    curvature: str
    """`ekfac`, `kfac`, `diagonal`, or empty for none."""
    moments: bool
    """Does it need Adam's second moments?"""
    normalised: bool
    """Shall each state's product be divided by ``sqrt(<D q, q> <D m, m>)``, D being the damped inverse
    of that state's curvature, or the identity where the method needs none?"""
    directions: Callable[[Sequence[Gradients], Sequence[State], Setting], list[Directions]]
    """From the queries' gradients at each state, in order of training, the last one final, to a
    direction ``{layer: [Q, O, I]}`` for each of these states."""

    def __post_init__(self) -> None:
        assert self.states in STATES
        assert self.curvature in CURVATURES


@dataclass(frozen=True)
class Features:
    """Vectors of some texts."""

    vectors_BK: Tensor
    """One vector a row of the batch."""
    weights_B: Tensor
    """A weight for each text as a document, such as TRAK's ``1 - p``; ones where not needed."""


@dataclass(frozen=True, kw_only=True)
class FeatureMethod:
    """A small vector for each text from the model, then a closed form."""

    name: str
    """As users choose it."""
    title: str
    """As people read it."""
    about: str
    """One sentence for reports: what it is and where it comes from."""
    unit: str
    """Unit of a score."""
    states: str
    """`last` or `all`; over several states the caller takes the mean of the scores."""
    features: Callable[[nn.Module, Sequence[Layer], Batch, int], Features]
    """From (model, tracked layers, batch, seed); a row is a text's first chunk."""
    scores: Callable[[Features, Features], Tensor]
    """From the features of (queries, all documents) to ``[Q, N]``."""

    def __post_init__(self) -> None:
        assert self.states in STATES


@dataclass(frozen=True, kw_only=True)
class TextMethod:
    """Scores from the texts alone, without the model that is explained."""

    name: str
    """As users choose it."""
    title: str
    """As people read it."""
    about: str
    """One sentence for reports: what it is and where it comes from."""
    unit: str
    """Unit of a score."""
    scores: Callable[[Sequence[str], Sequence[str], int], np.ndarray]
    """From (texts of the queries, texts of the documents, seed) to ``[Q, N]`` in float64."""


Method = GradientMethod | FeatureMethod | TextMethod


def only(
    method: str, gradients: Sequence[Gradients], states: Sequence[State]
) -> tuple[Gradients, State]:
    """The one state of a method that looks at the final state alone.

    Args:
        method: The method's name, for the message.
        gradients: The queries' gradients.
        states: The states.

    Returns:
        The gradients and the state.

    Raises:
        GradientError: Unless there is exactly one of each.
    """
    if not len(gradients) == len(states) == 1:
        raise GradientError(
            f"Method {method}: gradients at {len(gradients)} and {len(states)} states, one each "
            "was expected, the final one. Pass the last of them alone."
        )
    return gradients[0], states[0]


def paired(
    method: str, gradients: Sequence[Gradients], states: Sequence[State]
) -> list[tuple[Gradients, State]]:
    """Gradients and states side by side, in order of training.

    Args:
        method: The method's name, for the message.
        gradients: The queries' gradients at each state.
        states: The states.

    Returns:
        One pair for each state.

    Raises:
        GradientError: If there is no state, or their numbers differ.
    """
    if not len(gradients) == len(states) > 0:
        raise GradientError(
            f"Method {method}: gradients at {len(gradients)} states and {len(states)} states, "
            "equal numbers and at least one were expected. Pass the queries' gradients at every "
            "state."
        )
    return list(zip(gradients, states, strict=True))


def needed(
    method: str, what: str, given: Mapping[str, Needed], gradients: Gradients
) -> dict[str, Needed]:
    """What a method needs of each layer, or a message that names the layer without it.

    Args:
        method: The method's name.
        what: What is needed, for the message.
        given: What the state holds, by layer.
        gradients: The layers.

    Returns:
        One entry for each layer of the gradients, in their order.

    Raises:
        GradientError: If a layer has none.
    """
    missing = [name for name in gradients if name not in given]
    if missing:
        raise GradientError(
            f"Method {method}: no {what} of layer {missing[0]} ({len(missing)} of {len(gradients)} "
            f"layers have none), one for each tracked layer was expected. Compute the {what} for "
            "this state, or leave this method out."
        )
    return {name: given[name] for name in gradients}
