r"""Which demonstrations of a prompt made the answer, and through which words they did.

Share of each demonstration: from the scores of any method, at no further pass.

Label words as anchors: with the importance of an edge of layer l, from token j to a later i,

.. math:: I_l(i, j) = \Bigl| \sum_h A_{lh}[i, j] \, \nabla_{A_{lh}} F[i, j] \Bigr|

the mean of I over three kinds of edges says how content flows through the layer: from the words
before it to a label word, from label words to where the answer is predicted, and between all
other words. In shallow layers the first is large, in deep ones the second, where a model collects
each demonstration in its label and reads the answer from the labels.
Source: Wang et al. (2023), arXiv:2305.14160, eqs. 1 to 4. Here F is the log-probability of the
target (the absolute value does not mind the sign of a loss), an answer may have several tokens,
and a label too.

Axes: U units, E demonstrations, L layers, R rows, H heads, N tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from influence.errors import InputError
from influence.inputs.attention.layers import attention_gradients
from influence.inputs.attention.maps import text_owner
from influence.inputs.gradient.embedded import EmbeddedTarget
from influence.inputs.passage import Passage, Unit


@dataclass(frozen=True, kw_only=True)
class ExampleShare:
    """What one demonstration did for the output."""

    example: Unit | None
    """None: all that is in no demonstration, such as instruction and question."""
    score: float
    """Sum over its units, in the unit and with the sign of the scores."""
    share: float
    """|score| over the sum of all |score|, from 0 to 1; the shares add up to 1 (0 if all are 0)."""


def example_shares(
    units: Sequence[Unit], scores_U: np.ndarray, examples: Sequence[Unit]
) -> tuple[ExampleShare, ...]:
    """Share of each demonstration in the scores of any method.

    Args:
        units: No larger than a demonstration.
        scores_U: Of the units.
        examples: Disjoint demonstrations, in characters of the same text.

    Returns:
        One for each demonstration in the given order, then one for the rest.

    Raises:
        InputError: If there is no demonstration, or if a unit is partly in one.
    """
    if not examples:
        raise InputError(
            "in-context examples: none found, expected at least one. Say what they start with."
        )
    scores = np.zeros(len(examples) + 1)
    for unit, score in zip(units, scores_U, strict=True):
        scores[_owner(unit, examples)] += score
    total = np.abs(scores).sum()
    return tuple(
        ExampleShare(
            example=example,
            score=float(score),
            share=float(abs(score) / total) if total else 0.0,
        )
        for example, score in zip([*examples, None], scores, strict=True)
    )


def _owner(unit: Unit, examples: Sequence[Unit]) -> int:
    # Number of the demonstration that the unit is in; one past the last: in none.
    for number, example in enumerate(examples):
        if example.start <= unit.start and unit.end <= example.end:
            return number
        if unit.start < example.end and example.start < unit.end:
            raise InputError(
                f"in-context examples: the {unit.level} at characters {unit.start} to {unit.end} "
                f"is only partly in the example at {example.start} to {example.end}, expected all "
                "of it. Explain with smaller units, such as `word`, or with `example`."
            )
    return len(examples)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelFlow:
    """How content flows through label words, by layer; mean |attention x gradient| of an edge."""

    to_labels_L: np.ndarray
    """S_wp: from the words before it to a label word; float64, nats to first order."""
    to_answer_L: np.ndarray
    """S_pq: from a label word to a position that predicts the answer."""
    between_words_L: np.ndarray
    """S_ww: all other edges."""
    value: float
    """Of the target; nats."""


def find_labels(passage: Passage, words: Sequence[str]) -> tuple[Unit, ...]:
    """Where given label words stand in the prompt, as whole words.

    Args:
        passage: Prompt and completion.
        words: Such as `positive` and `negative`; case matters.

    Returns:
        One unit for each occurrence, in the order of the text.

    Raises:
        InputError: If none of them occurs.
    """
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    found = list(re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)", passage.prompt)) if words else []
    if not found:
        raise InputError(
            f"label words: none of {list(words)} stands in the prompt, expected the labels of its "
            "examples. Give them as they are written there."
        )
    return tuple(
        Unit(level="word", start=match.start(), end=match.end(), label=match.group())
        for match in found
    )


def label_flow(embedded: EmbeddedTarget, labels: Sequence[Unit]) -> LabelFlow:
    """Importance of the edges to, from and beside the label words, in every layer.

    One forward and one backward pass of one row.

    Args:
        embedded: The target, with one continuation: the answer.
        labels: Label words of the demonstrations, see `find_labels`.

    Returns:
        Means over edges, by layer.

    Raises:
        InputError: If there are several continuations, or a label word has no token of its own.
    """
    if len(embedded.lengths) > 1:
        raise InputError(
            f"label words: {len(embedded.lengths)} continuations, expected one. Use the target "
            "`likelihood`."
        )
    edges_3NN = _edges(embedded, labels)
    flows: dict[int, Tensor] = {}

    def visit(layer: int, weights_RHNN: Tensor, gradient_RHNN: Tensor) -> None:
        importance_NN = (weights_RHNN * gradient_RHNN)[0].sum(0).abs().double()
        sums_3 = (importance_NN * edges_3NN).sum((-2, -1))
        flows[layer] = (sums_3 / edges_3NN.sum((-2, -1)).clamp_min(1)).cpu()

    value = attention_gradients(embedded, visit)
    flow_3L = torch.stack([flows[layer] for layer in sorted(flows)]).T.numpy()
    return LabelFlow(
        to_labels_L=flow_3L[0], to_answer_L=flow_3L[1], between_words_L=flow_3L[2], value=value
    )


def _edges(embedded: EmbeddedTarget, labels: Sequence[Unit]) -> Tensor:
    # Which edges [to i, from j] are word to label, label to answer, and neither: [3, N, N], 0 or 1.
    read_N = embedded.read_KN[0] > 0
    width = len(read_N)
    owner_N = text_owner(embedded.passage, labels)[:width]
    for number, label in enumerate(labels):
        if number not in owner_N:
            raise InputError(
                f"label words: {label.label or label} has no token that ends in it. Give label "
                "words of the prompt, each with the characters of a whole token at its end."
            )
    is_label_N = torch.from_numpy(owner_N >= 0).to(read_N.device)
    last = int(read_N.nonzero().max())
    earlier_NN = torch.ones(width, width, dtype=torch.bool, device=read_N.device).tril(-1)
    earlier_NN[last + 1 :] = False  # what comes after the answer's last prediction
    to_label_NN = earlier_NN & is_label_N[:, None] & ~read_N[:, None]
    to_answer_NN = earlier_NN & read_N[:, None] & is_label_N[None]
    return torch.stack([to_label_NN, to_answer_NN, earlier_NN & ~to_label_NN & ~to_answer_NN])
