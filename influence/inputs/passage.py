"""A prompt and what was said after it, as characters and as tokens.

Axes: L tokens of the passage, T tokens of the completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from influence.errors import InputError
from influence.inputs.prompts import Messages, Prompt, write_prompt
from influence.text import token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from influence.models import LanguageModel

ALWAYS = -1
"""Unit of a token that is never removed."""
TAIL_ANCHORS = ("\n", ".", "a")
"""Put before a text that goes on from another while it is tokenised."""
SEARCHED = 8
"""Characters that are searched for a token's text, for each character not found before it."""
Spans = list[tuple[int, int]]


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
    """`[L]`, bool: never removed: special tokens and a chat template's words."""
    contents: tuple[Unit, ...]
    """What a user wrote: plain text, or each message of a chat; parted at special tokens that are
    written there, without white space between those."""

    @property
    def prompt(self) -> str:
        """The text before the completion."""
        return self.text[: self.begin]

    @property
    def completion(self) -> str:
        """What was said."""
        return self.text[self.begin :]


def read_passages(
    loaded: LanguageModel, prompt: str | Messages, completions: Sequence[str]
) -> tuple[Passage, ...]:
    """Turn a prompt and its completions into passages that share the prompt's tokens.

    The first completion is tokenised together with the prompt, and a token belongs to the side in
    which it ends. Where another completion would change tokens of the prompt, it is tokenised by
    itself and put after them.

    Args:
        loaded: The model.
        prompt: What the model was given: text, or the messages of a chat, each
            `{"role": ..., "content": text}`. A chat is written by the tokenizer's template up to
            where the assistant speaks; a last message of the role `assistant` is what it has begun
            to say. Special tokens are added as the tokenizer does, but not where they are written.
        completions: What it said, and what it might have said.

    Returns:
        One passage a completion, whose first ``first`` tokens are the same in all.

    Raises:
        InputError: If a text is empty or too long, or the chat template cannot write the messages.
    """
    completions = [completions] if isinstance(completions, str) else completions
    if not completions or not all(completions):
        raise InputError("inputs: an empty completion, expected text. Say what to explain.")
    written = write_prompt(loaded.tokenizer, prompt)
    for text in (written.text, *completions):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"inputs: {text[:60]!r} has half a character, expected Unicode text.")
    shared = _read_first(loaded.tokenizer, written, completions[0])
    passages = (shared, *(_read_next(loaded.tokenizer, shared, text) for text in completions[1:]))
    for passage in passages:
        _check(passage, loaded.max_tokens)
    return passages


def context(
    prompt: str | Messages, completion: str, span: tuple[int, int]
) -> tuple[str | Messages, str]:
    """Ask about a part of an output, with the output before it as part of the prompt.

    Args:
        prompt: What the model was given: text or messages.
        completion: What it said.
        span: First character of the part in the completion, and one past its last.

    Returns:
        The longer prompt, and the part of the completion.

    Raises:
        InputError: If the span is not in the completion.
    """
    start, end = span
    if not 0 <= start < end <= len(completion):
        raise InputError(
            f"inputs: span {start} to {end} of the completion, expected 0 <= start < end <= "
            f"{len(completion)}, its characters."
        )
    before, part = completion[:start], completion[start:end]
    if isinstance(prompt, str):
        return prompt + before, part
    if not before:
        return prompt, part
    begun = prompt and prompt[-1].get("role") == "assistant"
    kept, said = (prompt[:-1], prompt[-1]["content"]) if begun else (prompt, "")
    return [*kept, {"role": "assistant", "content": said + before}], part


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


def _read_first(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: str) -> Passage:
    text, begin = prompt.text + completion, len(prompt.text)
    ids, spans, added = _tokenise(tokenizer, text, frame=not prompt.is_chat)
    first = next((i for i in range(added, len(ids)) if spans[i][1] > begin), len(ids))
    special = [
        i < added or _is_special(tokenizer, ids[i], text[slice(*spans[i])]) for i in range(first)
    ]
    contents = _contents(prompt, spans[:first], special)
    fixed_L = np.zeros(len(ids), bool)
    fixed_L[:first] = [
        special[i] or not any(unit.start < spans[i][1] <= unit.end for unit in contents)
        for i in range(first)
    ]
    return Passage(
        text=text,
        begin=begin,
        tokens=np.array(ids, dtype=np.int32),
        spans_L2=np.array(spans, dtype=np.int64).reshape(-1, 2),
        first=first,
        fixed_L=fixed_L,
        contents=contents,
    )


def _read_next(tokenizer: PreTrainedTokenizerBase, shared: Passage, completion: str) -> Passage:
    text, first = shared.prompt + completion, shared.first
    head = shared.tokens[:first].tolist()
    front = [(int(start), int(end)) for start, end in shared.spans_L2[:first]]
    added = sum(start == end for start, end in front)
    ids, spans, _ = _tokenise(tokenizer, text, frame=False)
    ids, spans = head[:added] + ids, front[:added] + spans
    if ids[:first] != head:
        done = front[-1][1]
        tail_ids, tail_spans = _tokenise_tail(tokenizer, text[done:])
        ids = head + tail_ids
        spans = front + [(start + done, end + done) for start, end in tail_spans]
    return replace(
        shared,
        text=text,
        tokens=np.array(ids, dtype=np.int32),
        spans_L2=np.array(spans, dtype=np.int64),
        fixed_L=np.append(shared.fixed_L[:first], np.zeros(len(ids) - first, bool)),
    )


def _check(passage: Passage, max_tokens: int) -> None:
    count, first = len(passage.tokens), passage.first
    said = repr(passage.completion[:60])
    if passage.fixed_L[:first].all():
        raise InputError(
            f"inputs: prompt {passage.prompt[-60:]!r} has no token of its own before the "
            f"completion {said}, expected at least one that is neither a special token nor white "
            "space beside one. Give a longer prompt."
        )
    if first == count:
        raise InputError(
            f"inputs: completion {said} has no token, expected at least one. The tokenizer drops "
            "all of its characters: use others."
        )
    if count > max_tokens:
        raise InputError(
            f"inputs: {count} tokens ({first} of the prompt, {count - first} of the completion), "
            f"expected at most {max_tokens}, the model's context. Shorten the prompt or the "
            "completion."
        )


def _is_special(tokenizer: PreTrainedTokenizerBase, token: int, words: str) -> bool:
    # Is a special token written there? An unknown word has one that is written differently.
    added = tokenizer.added_tokens_decoder
    return words.strip() == tokenizer.convert_ids_to_tokens(token) and (
        token in tokenizer.all_special_ids or (token in added and added[token].special)
    )


def _contents(prompt: Prompt, spans: Spans, special: list[bool]) -> tuple[Unit, ...]:
    # What a user wrote, parted at special tokens, as far as it has words and tokens.
    tokens = list(zip(spans, special, strict=True))
    contents = []
    for part in prompt.parts:
        inside = [(span, cuts) for span, cuts in tokens if part.start < span[1] <= part.end]
        edges = [part.start, *(place for span, cuts in inside if cuts for place in span), part.end]
        level = "prompt" if part.role is None else "section"
        contents += [
            Unit(level=level, start=start, end=end, label=part.role)
            for start, end in zip(edges[::2], edges[1::2], strict=True)
            if prompt.text[start:end].strip()
            and any(start < stop <= end for (_, stop), cuts in inside if not cuts)
        ]
    return tuple(contents)


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, text: str, frame: bool
) -> tuple[list[int], Spans, int]:
    # Ids, spans, and how many tokens the tokenizer put in front; what it puts behind is dropped.
    plain = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=tokenizer.is_fast,
        verbose=False,
    )
    ids = list(plain["input_ids"])
    spans = plain["offset_mapping"] if tokenizer.is_fast else _spans_of(tokenizer, text, ids)
    front = _front(tokenizer, text, ids) if frame else []
    return front + ids, [(0, 0)] * len(front) + _filled(spans), len(front)


def _front(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> list[int]:
    # Tokens that the tokenizer puts in front, unless the text begins with them.
    whole = list(tokenizer(text, verbose=False)["input_ids"])
    at = next((i for i in range(len(whole)) if whole[i : i + len(ids)] == ids), 0)
    return [] if ids[:at] == whole[:at] else whole[:at]


def _tokenise_tail(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], Spans]:
    # Tokens of a text that goes on from another: after a character that keeps to itself, because
    # some tokenizers put a space before what they read first.
    for before in TAIL_ANCHORS:
        ids, spans, _ = _tokenise(tokenizer, before + text, frame=False)
        at = next((i for i, (_, end) in enumerate(spans) if end > len(before)), len(ids))
        if at < len(ids) and spans[at][0] >= len(before):
            width = len(before)
            return ids[at:], [(start - width, end - width) for start, end in spans[at:]]
    ids, spans, _ = _tokenise(tokenizer, text, frame=False)
    return ids, spans


def _spans_of(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> Spans:
    # Where tokens stand, for tokenizers that cannot say: their texts are found one after another.
    # A token whose text is not found, as where letters were changed, shares the next one's span.
    spans: Spans = []
    done, missed = 0, 0
    for piece in token_texts(tokenizer, ids):
        at = text.find(piece, done) if piece else -1
        if at < 0 or (text[done:at].strip() and at - done > SEARCHED * (missed + 1)):
            spans.append((done, done))
            missed += len(piece)
            continue
        spans.append((at, at + len(piece)))
        done, missed = at + len(piece), 0
    return spans


def _filled(spans: Sequence[tuple[int, int]]) -> Spans:
    # Tokens of a part of a character get the span of the next token that has one.
    filled = list(spans)
    for i in reversed(range(len(filled) - 1)):
        if filled[i][0] == filled[i][1]:
            filled[i] = (min(filled[i][0], filled[i + 1][0]), filled[i + 1][1])
    for i in range(1, len(filled)):
        if filled[i][0] == filled[i][1]:
            filled[i] = filled[i - 1]
    return filled
