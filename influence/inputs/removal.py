"""What stands in the prompt where a unit was removed, by five operators.

Only tokens of the prompt are removed; the completion is what the model is asked for, as it was.

- `delete`: nothing. What follows moves up: positions count from 0 without gaps.
- `replace`: one token, the same everywhere (`replacement_id`).
- `mask`: nothing, but what follows keeps its positions: what an attention mask of 0 does to a token
  that no other may read. (Where a model attends within a window, the window counts the tokens that
  stand. A model that takes no positions, such as Bloom or Mamba, cannot do it.)
- `mean`: the mean of the model's input embeddings.
- `noise`: Gaussian noise with the mean and the deviation of the model's input embeddings, in each
  coordinate; drawn from the seed and the mask.

Where `delete` or `mask` leave no token before the completion, one anchor (`anchor_id`) stands there.

Axes: L tokens of a row, P tokens of the prompt, D embedding coordinates, V tokens of the tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from influence.errors import InputError
from influence.inputs.passage import Passage

if TYPE_CHECKING:
    from influence.models import LanguageModel

OPERATORS = ("delete", "replace", "mask", "mean", "noise")
PLAIN_TEXTS = (" ", "_", ".")
EMBEDDED = 8192
"""Tokens whose embeddings are looked up at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One sequence as the model reads it: what stands of a prompt, and a completion."""

    tokens: np.ndarray
    """Token ids `[L]`, int32."""
    first: int
    """First token of the completion: those from here on are predicted; at least 1."""
    positions_L: np.ndarray
    """`[L]`, int64: position of each token; rising."""
    blurred_L: np.ndarray
    """`[L]`, bool: True where the mean embedding or noise stands for the token's own."""
    noise: tuple[int, ...] | None = None
    """Seed of the noise; None: the mean embedding stands there."""

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for rows of which the model says the same."""
        return self.tokens[self.first :].tobytes(), *self.prompt_key

    @property
    def prompt_key(self) -> tuple[object, ...]:
        """Equal for rows that differ in their completion only."""
        prompt = slice(0, self.first)
        arrays = (self.tokens[prompt], self.positions_L[prompt], self.blurred_L[prompt])
        noise = self.noise if self.blurred_L.any() else None
        return *(array.tobytes() for array in arrays), self.first, noise


@dataclass(frozen=True, kw_only=True)
class Removal:
    """How tokens are removed."""

    operator: str
    """One of `OPERATORS`."""
    replacement: int
    """Token id that `replace` writes."""
    anchor: int
    """Token id that stands before the completion where nothing else does."""
    seed: int = 0
    """Of the noise."""


def removal_of(loaded: LanguageModel, operator: str, seed: int = 0) -> Removal:
    """Choose an operator, and the tokens that it needs, for a model.

    Args:
        loaded: The model.
        operator: One of `OPERATORS`.
        seed: Of the noise.

    Returns:
        The operator.

    Raises:
        InputError: If it is unknown.
    """
    if operator not in OPERATORS:
        raise InputError(
            f"inputs: removal operator {operator!r}, expected one of {', '.join(OPERATORS)}."
        )
    return Removal(
        operator=operator,
        replacement=replacement_id(loaded),
        anchor=anchor_id(loaded),
        seed=seed,
    )


def replacement_id(loaded: LanguageModel) -> int:
    """The token that `replace` writes.

    The unknown token, unless it also marks the begin or the end of a text (GPT-2); else the mask
    token; else the first of a space, an underscore and a full stop that is a single token; else
    padding.

    Returns:
        Its id.
    """
    tokenizer = loaded.tokenizer
    edges = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    found = (tokenizer.unk_token_id, getattr(tokenizer, "mask_token_id", None))
    special = [token for token in found if token is not None and token not in edges]
    texts = (tokenizer.encode(text, add_special_tokens=False) for text in PLAIN_TEXTS)
    plain = (ids[0] for ids in texts if len(ids) == 1)
    return special[0] if special else next(plain, loaded.pad_id)


def anchor_id(loaded: LanguageModel) -> int:
    """The token that stands before a completion where nothing of the prompt is left.

    Returns:
        Id of the begin-of-text token, else of end of text, else of padding.
    """
    found = (loaded.tokenizer.bos_token_id, loaded.tokenizer.eos_token_id)
    return next((token for token in found if token is not None), loaded.pad_id)


def make_row(
    passage: Passage, removed_L: np.ndarray, removal: Removal, mask: Sequence[int] = ()
) -> Row:
    """Remove tokens from the prompt of a passage.

    Args:
        passage: Prompt and completion.
        removed_L: `[L]`, bool: which tokens go; False from the completion on.
        removal: How.
        mask: Joins the removal's seed, for noise.

    Returns:
        What the model reads instead.

    Raises:
        InputError: If a token of the completion would be removed.
    """
    if removed_L[passage.first :].any():
        raise InputError("inputs: a token of the completion would be removed, expected the prompt.")
    tokens, first = passage.tokens, passage.first
    if removal.operator in ("delete", "mask") or not first:
        return _without(passage, removed_L, removal)
    noise = (removal.seed, *map(int, mask)) if removal.operator == "noise" else None
    replaces = removal.operator == "replace"
    return Row(
        tokens=np.where(removed_L & replaces, np.int32(removal.replacement), tokens),
        first=first,
        positions_L=np.arange(len(tokens)),
        blurred_L=removed_L & (not replaces),
        noise=noise,
    )


def _without(passage: Passage, removed_L: np.ndarray, removal: Removal) -> Row:
    first = passage.first
    places = np.flatnonzero(~removed_L[:first])
    left = passage.tokens[places]
    if not len(left):
        places, left = np.array([max(first - 1, 0)]), np.array([removal.anchor], np.int32)
    tokens = np.concatenate([left, passage.tokens[first:]])
    positions_L = np.arange(len(tokens))
    if removal.operator == "mask":
        behind = np.arange(len(passage.tokens) - first) + max(first, 1)
        positions_L = np.concatenate([places, behind])
    return Row(
        tokens=tokens,
        first=len(left),
        positions_L=positions_L,
        blurred_L=np.zeros(len(tokens), bool),
    )


@torch.no_grad()
def embedding_moments(loaded: LanguageModel) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the input embeddings of all tokens, in each coordinate.

    Embeddings are taken as the model's embedding layer returns them (some scale their weights);
    rows of the layer that no token of the tokenizer uses are left out.

    Returns:
        `[D]` each, float64, on the model's device.
    """
    embed = loaded.model.get_input_embeddings()  # type: ignore[operator]
    count = min(len(loaded.tokenizer), len(embed.weight))
    total_D = square_D = torch.zeros((), dtype=torch.float64, device=loaded.device)
    for start in range(0, count, EMBEDDED):
        ids = torch.arange(start, min(start + EMBEDDED, count), device=loaded.device)
        vectors_VD = embed(ids).double()
        total_D = total_D + vectors_VD.sum(dim=0)
        square_D = square_D + vectors_VD.square().sum(dim=0)
    mean_D = total_D / count
    return mean_D, (square_D / count - mean_D.square()).clamp_min(0).sqrt()


def blurred(row: Row, vectors_SD: Tensor, moments: tuple[Tensor, Tensor], start: int = 0) -> Tensor:
    """Put the mean embedding, or noise, where a row says so.

    Args:
        row: What is blurred, and by which seed.
        vectors_SD: Embeddings of its tokens from `start` on.
        moments: Of `embedding_moments`.
        start: First token that has a vector.

    Returns:
        `[S, D]`. The noise of a position depends on the seed and the position alone.
    """
    stand_in_SD, deviation_D = (moment.to(vectors_SD) for moment in moments)
    if row.noise is not None:
        random = np.random.default_rng(row.noise)
        draws = random.standard_normal((row.first, vectors_SD.shape[1]))[start:]
        draws_SD = torch.zeros_like(vectors_SD)
        draws_SD[: len(draws)] = torch.from_numpy(draws).to(vectors_SD)
        stand_in_SD = stand_in_SD + deviation_D * draws_SD
    blurred_S1 = torch.from_numpy(row.blurred_L[start:]).to(vectors_SD.device)[:, None]
    return torch.where(blurred_S1, stand_in_SD, vectors_SD)
