r"""Which heads look elsewhere after fine-tuning: two models on one text.

For each head and query token, the Jensen-Shannon divergence of the two models' attention rows,

.. math:: JS(p, q) = \tfrac12 KL(p \,\Vert\, m) + \tfrac12 KL(q \,\Vert\, m), \quad m = (p + q) / 2

in bits, from 0 (the same) to 1 (nothing in common), averaged over the query tokens.

Axes: H heads, Q query tokens, N tokens, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from influence.errors import InputError
from influence.inputs.attention.layers import read_whole
from influence.inputs.attention.maps import text_owner
from influence.inputs.passage import Passage, Unit
from influence.models import LanguageModel


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadChange:
    """How one head's attention differs between two models."""

    layer: int
    head: int
    divergence: float
    """Jensen-Shannon divergence of its rows, in bits, from 0 to 1; mean over the query tokens."""
    change_U: np.ndarray
    """Share of attention that each unit gained (positive) or lost, from the first model to the
    second; mean over the query tokens."""

    @property
    def gained(self) -> list[int]:
        """Numbers of the units that gained attention, the largest gain first."""
        return [int(i) for i in np.argsort(-self.change_U, kind="stable") if self.change_U[i] > 0]

    @property
    def lost(self) -> list[int]:
        """Numbers of the units that lost attention, the largest loss first."""
        return [int(i) for i in np.argsort(self.change_U, kind="stable") if self.change_U[i] < 0]


def compare_heads(
    before: LanguageModel,
    after: LanguageModel,
    passage: Passage,
    units: Sequence[Unit],
    *,
    every_row: bool = False,
) -> list[HeadChange]:
    """Compare where the heads of two models look on one text.

    Args:
        before: Such as the base model.
        after: Such as its fine-tuned form: same tokenizer, layers and heads.
        passage: Prompt and completion, as `before` reads them.
        units: Disjoint parts of the passage's text, prompt or completion.
        every_row: Query tokens: False: those that predict the completion; True: all that see
            more than themselves.

    Returns:
        All heads, the most changed first. Memory: the query rows of one model.

    Raises:
        InputError: If the models do not read the same tokens, or differ in layers or heads.
    """
    if before.tokenizer.get_vocab() != after.tokenizer.get_vocab():
        raise InputError(
            f"{before.name} and {after.name}: different tokenizers, expected the same tokens in "
            "both. Compare a model with one that was fine-tuned from it."
        )
    rows = slice(1 if every_row else passage.first - 1, len(passage.tokens) - (not every_row))
    old, new = _rows(before, passage, rows), _rows(after, passage, rows)
    shapes = [f"{len(found)} layers of {len(found[0])} heads" for found in (old, new)]
    if len(old) != len(new) or any(a.shape != b.shape for a, b in zip(old, new, strict=True)):
        raise InputError(
            f"{before.name} has {shapes[0]}, {after.name} {shapes[1]}, expected the same. Compare "
            "a model with one that was fine-tuned from it."
        )
    owner_N = torch.from_numpy(text_owner(passage, units))
    member_NU = (owner_N[:, None] == torch.arange(len(units))).double()
    changes = []
    for layer, (old_HQN, new_HQN) in enumerate(zip(old, new, strict=True)):
        bits_H = divergence(old_HQN, new_HQN).mean(-1)
        change_HU = ((new_HQN - old_HQN).double() @ member_NU).mean(1)
        changes += [
            HeadChange(
                layer=layer, head=head, divergence=float(bits), change_U=change_HU[head].numpy()
            )
            for head, bits in enumerate(bits_H)
        ]
    return sorted(changes, key=lambda change: -change.divergence)


def divergence(p_N: Tensor, q_N: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits, along the last axis; computed in float64.

    Args:
        p_N: Probabilities `[..., N]`.
        q_N: Others of the same shape.

    Returns:
        `[...]`, from 0 to 1.
    """
    p_N, q_N = p_N.double(), q_N.double()
    mixed_N = (p_N + q_N) / 2
    entropies = [-torch.xlogy(x_N, x_N).sum(-1) for x_N in (mixed_N, p_N, q_N)]
    nats = entropies[0] - (entropies[1] + entropies[2]) / 2
    return (nats / np.log(2)).clamp(0, 1)


def _rows(loaded: LanguageModel, passage: Passage, rows: slice) -> list[Tensor]:
    # Attention rows [H, Q, N] of each layer, on the CPU.
    found: list[Tensor] = []
    read_whole(loaded, passage, lambda layer, weights: found.append(weights[0, :, rows].cpu()))
    return found
