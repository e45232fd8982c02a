"""A prompt and what was said after it, as characters and as tokens.

Axes: L tokens of the passage, T tokens of the completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from influence.errors import InputError

if TYPE_CHECKING:
    from influence.models import LanguageModel

ALWAYS = -1
"""Unit of a token that is never removed."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A part of the prompt that is removed or kept as a whole."""

    level: str
    start: int
    """First character, in the passage's text."""
    end: int
    """One past the last character."""
    label: str | None = None
    """What it is called where its text does not say it, such as `example 3` or `user`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Passage:
    """A prompt, and one completion of it."""

    text: str
    """Prompt and completion, as the model read them (a chat as its template writes it)."""
    begin: int
    """First character of the completion."""
    tokens: np.ndarray
    """Token ids `[L]`, int32."""
    spans_L2: np.ndarray
    """First character and one past the last of each token; empty where the tokenizer added it."""
    first: int
    """First token of the completion; tokens from here on are predicted and never removed."""
    fixed_L: np.ndarray
    """`[L]`, bool: never removed, such as a begin-of-text token or a chat template's words."""
    contents: tuple[Unit, ...]
    """Parts of the prompt that a user wrote: one for plain text, one for each message of a chat."""

    @property
    def prompt(self) -> str:
        """The text before the completion."""
        return self.text[: self.begin]

    @property
    def completion(self) -> str:
        """What was said."""
        return self.text[self.begin :]


def read_passages(
    loaded: LanguageModel, prompt: str, completions: Sequence[str]
) -> tuple[Passage, ...]:
    """Turn a prompt and its completions into passages that share the prompt's tokens.

    Args:
        loaded: The model.
        prompt: What the model was given.
        completions: What it said, and what it might have said.

    Returns:
        One passage a completion, whose first ``first`` tokens are the same in all.

    Raises:
        InputError: If a text is empty or too long.
    """
    if not prompt or not all(completions):
        raise InputError("inputs: an empty prompt or completion, expected text in both.")
    passages: list[Passage] = []
    for completion in completions:
        found = _read(loaded, prompt, completion)
        if len(found.tokens) > loaded.max_tokens:
            raise InputError(
                f"inputs: {len(found.tokens)} tokens, at most {loaded.max_tokens} expected."
            )
        passages.append(found)
    return tuple(passages)


def _read(loaded: LanguageModel, prompt: str, completion: str) -> Passage:
    encoded = loaded.tokenizer(
        prompt + completion, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    special_L = np.array(encoded["special_tokens_mask"], dtype=bool)
    spans_L2 = np.array(encoded["offset_mapping"], dtype=np.int64)
    while special_L[-1]:  # an end-of-text token that the tokenizer adds
        special_L, spans_L2 = special_L[:-1], spans_L2[:-1]
    count = len(special_L)
    first = next(i for i in range(count) if not special_L[i] and spans_L2[i, 1] > len(prompt))
    return Passage(
        text=prompt + completion,
        begin=len(prompt),
        tokens=np.array(encoded["input_ids"][:count], dtype=np.int32),
        spans_L2=spans_L2,
        first=first,
        fixed_L=special_L,
        contents=(Unit(level="prompt", start=0, end=len(prompt)),),
    )


def units_of_tokens(passage: Passage, units: Sequence[Unit]) -> np.ndarray:
    """Which unit each token belongs to: the one in which it ends.

    Args:
        passage: Tokens and their characters.
        units: Disjoint parts of the prompt.

    Returns:
        `[L]`, int64: numbers of units; `ALWAYS` for tokens in no unit, for fixed ones, and for the
        completion.
    """
    owner_L = np.full(len(passage.tokens), ALWAYS)
    last_L = passage.spans_L2[:, 1] - 1
    for number, unit in enumerate(units):
        owner_L[(last_L >= unit.start) & (last_L < unit.end)] = number
    owner_L[passage.fixed_L] = ALWAYS
    owner_L[passage.first :] = ALWAYS
    return owner_L
