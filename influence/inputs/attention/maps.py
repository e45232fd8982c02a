"""Word-to-word attention of every head: what the pictures of a report show.

Axes: L layers, H heads, U units, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from influence.inputs.attention.layers import read_whole
from influence.inputs.passage import ALWAYS, Passage, Unit
from influence.models import LanguageModel


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionMaps:
    """Attention between parts of a text; a row and its rest add up to 1."""

    units: tuple[Unit, ...]
    maps_LHUU: np.ndarray
    """float32: share of attention that unit i (its tokens' mean) gives to unit j (its tokens' sum).
    """
    rest_LHU: np.ndarray
    """float32: share that goes to tokens in no unit, such as a begin-of-text token."""


def attention_maps(loaded: LanguageModel, passage: Passage, units: Sequence[Unit]) -> AttentionMaps:
    """Attention between units, by layer and head, in one forward pass.

    Args:
        loaded: The model, with eager attention.
        passage: Prompt and completion.
        units: Disjoint parts of the passage's text, of any level; the completion's words may be
            among them. A unit that owns no token has rows of zeros.

    Returns:
        Maps; memory is layers x heads x U x U, and one layer's weights.
    """
    owner_N = text_owner(passage, units)
    member_NU = torch.from_numpy(owner_N[:, None] == np.arange(-1, len(units)))  # first: the rest
    member_NU = member_NU.float().to(loaded.device)
    mean_UN = (member_NU / member_NU.sum(0).clamp_min(1)).T[1:]
    layers: list[Tensor] = []

    def visit(layer: int, weights_RHNN: Tensor) -> None:
        layers.append((mean_UN @ weights_RHNN[0].float() @ member_NU).cpu())

    read_whole(loaded, passage, visit)
    maps_LHUU = torch.stack(layers).numpy()
    return AttentionMaps(
        units=tuple(units), maps_LHUU=maps_LHUU[..., 1:], rest_LHU=maps_LHUU[..., 0]
    )


def text_owner(passage: Passage, units: Sequence[Unit]) -> np.ndarray:
    """Which unit each token belongs to, in prompt and completion: the one in which it ends.

    Args:
        passage: Tokens and their characters.
        units: Disjoint parts of the text.

    Returns:
        `[N]`, int64: numbers of units; `ALWAYS` for tokens in none, and without characters.
    """
    owner_N = np.full(len(passage.tokens), ALWAYS)
    begin_N, end_N = passage.spans_L2.T
    for number, unit in enumerate(units):
        inside_N = (end_N > unit.start) & (end_N <= unit.end) & (end_N > begin_N)
        owner_N[inside_N] = number
    return owner_N
