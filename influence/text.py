"""Documents, prompt+completion pairs and chats become token batches with loss masks.

A token is *counted* when its log-probability, given the tokens before it, is part of the loss.
The first token of a document has nothing before it and is never counted.

Axes: T tokens.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateError

from influence.batches import IGNORED as IGNORED
from influence.batches import Batch as Batch
from influence.batches import Chunk as Chunk
from influence.batches import collate as collate
from influence.batches import plan_batches as plan_batches
from influence.batches import with_targets as with_targets
from influence.errors import TextError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS = ("text", "completion", "chat")
LOSSES = ("completion", "all")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One training example, before it is cut into tokens."""

    id: str
    """Unique name; appears in error messages and results."""
    kind: str = "text"
    """`text`: plain text; `completion`: prompt and completion; `chat`: messages."""
    text: str
    """The whole text: what is read for kind `text`, only shown for the others."""
    prompt: str | None = None
    """Kind `completion`: what stands before the completion; None means empty."""
    completion: str | None = None
    """Kind `completion`: what the model learns to write after the prompt."""
    messages: str | None = None
    """Kind `chat`: JSON list of `{"role": ..., "content": ...}`."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TextError(f"document {self.id!r}: kind {self.kind!r}, expected one of {KINDS}.")


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How documents become tokens."""

    max_tokens: int
    """Longest chunk, in tokens; longer documents are cut."""
    loss_on: str = "completion"
    """`completion`: prompts and user turns carry no loss; `all`: every token but the first does."""
    append_eos: bool = False
    """End texts and completions with the end-of-text token, where the tokenizer does not."""

    def __post_init__(self) -> None:
        if self.max_tokens < 2:
            raise TextError(f"max_tokens: {self.max_tokens}, expected at least 2.")
        if self.loss_on not in LOSSES:
            raise TextError(f"loss_on: {self.loss_on!r}, expected one of {LOSSES}.")


@dataclass(frozen=True)
class _Tokens:
    """A tokenised text: ids, whether each is counted, whether the tokenizer added it."""

    ids: list[int]
    counted: list[bool]
    added: list[bool]


Segments = list[tuple[str, bool]]
"""Consecutive pieces of one text, each with whether its tokens are counted."""


def encode(
    tokenizer: PreTrainedTokenizerBase, document: Document, encoding: Encoding, index: int = 0
) -> list[Chunk]:
    """Turn a document into chunks in which every counted token is a target exactly once.

    Chunks overlap by one token, the last target of one being the first context of the next, and
    the model reads each from position 0. Chunks without a counted token are left out.

    Args:
        tokenizer: Of the model.
        document: What to encode.
        encoding: Longest chunk, and which tokens are counted.
        index: The document's number, copied into each chunk.

    Returns:
        At least one chunk.

    Raises:
        TextError: If no token can be scored; the message names the document and what to do.
    """
    where = f"document {document.id!r} ({_excerpt(document.text)})"
    is_chat = document.kind == "chat"
    segments = _segments(tokenizer, document, encoding.loss_on, where)
    tokens = _tokenise(tokenizer, segments, add_special=not is_chat)
    if encoding.append_eos and not is_chat:
        tokens = _with_eos(tokenizer, tokens)
    _check_scorable(tokenizer, tokens, where, every_token=segments[0][1])
    return _cut(tokens, encoding.max_tokens, index)


def encode_query(
    tokenizer: PreTrainedTokenizerBase, prompt: str | None, completion: str, max_tokens: int
) -> Chunk:
    """Turn a prompt and the completion to be explained into one chunk.

    Args:
        tokenizer: Of the model.
        prompt: What stands before the completion; `""` works only if the tokenizer puts a
            beginning-of-text token in front. None: the completion is a whole text, of which
            every token but the first is counted.
        completion: The words whose log-probability is explained. An end-of-text token that
            the tokenizer adds is dropped.
        max_tokens: Longest context of the model.

    Returns:
        One chunk, with the completion's tokens counted.

    Raises:
        TextError: If the completion has no token that can be scored, or all is too long.
    """
    where = f"query ({_excerpt((prompt or '') + completion)})"
    if not completion:
        raise TextError(f"{where}: empty completion, expected text. Say what should be explained.")
    segments = [(completion, True)] if prompt is None else [(prompt, False), (completion, True)]
    tokens = _without_added_end(_tokenise(tokenizer, segments, add_special=True))
    _check_scorable(tokenizer, tokens, where, every_token=prompt is None)
    if len(tokens.ids) > max_tokens:
        inside = sum(tokens.counted)
        before = len(tokens.ids) - inside
        raise TextError(
            f"{where}: {len(tokens.ids)} tokens ({before} of the prompt, {inside} of the "
            f"completion), expected at most {max_tokens}, the model's context. Shorten the "
            f"{'text' if prompt is None else 'prompt from its start, or the completion'}."
        )
    return _cut(tokens, max_tokens, 0)[0]


def token_texts(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int] | np.ndarray
) -> list[str]:
    """Text of each token, for display; joined, they are the decoded text.

    A character spread over several tokens stands whole on the last of them, with empty text on
    the others. Special tokens are shown as they are written.

    Args:
        tokenizer: Of the model.
        tokens: Token ids `[T]`.

    Returns:
        T strings.
    """
    ids = [int(token) for token in tokens]
    whole = _decode(tokenizer, ids)
    pieces: list[str] = []
    done, context, start = 0, 0, 0  # characters placed; decoding window [context, start, here]
    for end in range(1, len(ids) + 1):
        before = _decode(tokenizer, ids[context:start])
        piece = _decode(tokenizer, ids[context:end])[len(before) :]
        fits = whole.startswith(piece, done)  # a half character decodes to something else
        pieces.append(piece if fits else "")
        if fits and piece:
            done, context, start = done + len(piece), start, end
    if pieces:
        pieces[-1] += whole[done:]
    return pieces


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _segments(
    tokenizer: PreTrainedTokenizerBase, document: Document, loss_on: str, where: str
) -> Segments:
    # Split a document at the borders of what is counted.
    everything = loss_on == "all"
    if document.kind == "chat":
        return _chat_segments(tokenizer, document, everything, where)
    if document.kind == "completion":
        if not document.completion:
            raise TextError(f"{where}: empty completion, expected text. Fill it or leave it out.")
        return [(document.prompt or "", everything), (document.completion, True)]
    if not document.text.strip():
        raise TextError(f"{where}: empty document, expected text. Leave it out.")
    return [(document.text, True)]


def _chat_segments(
    tokenizer: PreTrainedTokenizerBase, document: Document, everything: bool, where: str
) -> Segments:
    # Find what the assistant says, by rendering the chat up to and through each of its turns.
    # The white space that a template puts after a turn's end is not counted.
    messages = _messages(document, where)
    full = _render(tokenizer, messages, False, where)
    if everything:
        return [(full, True)]
    segments: Segments = []
    position = 0
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:turn], True, where)
        through = _render(tokenizer, messages[: turn + 1], False, where)
        if not (through.startswith(before) and full.startswith(through)):
            raise TextError(
                f"{where}: turn {turn + 1} is written differently by the chat template when "
                "other turns follow, so that the assistant's words cannot be found. Give the last "
                "answer as a completion, with all before it as the prompt, or use loss_on: all."
            )
        end = max(len(through.rstrip()), len(before))
        segments += [(full[position : len(before)], False), (full[len(before) : end], True)]
        position = end
    if not segments:
        raise TextError(
            f"{where}: no turn of the role 'assistant', expected at least one. Leave the chat out, "
            "or use loss_on: all."
        )
    return [*segments, (full[position:], False)]


def _messages(document: Document, where: str) -> list[dict[str, Any]]:
    try:
        messages = json.loads(document.messages or "")
    except json.JSONDecodeError as error:
        raise TextError(f"{where}: messages are not JSON ({error}), expected a list.") from error
    is_list = isinstance(messages, list) and len(messages) > 0
    if not is_list or not all(
        isinstance(m, dict) and {"role", "content"} <= set(m) for m in messages
    ):
        raise TextError(
            f"{where}: messages {_excerpt(document.messages or '')}, expected a non-empty list of "
            '{"role": ..., "content": ...}.'
        )
    return messages


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], ask: bool, where: str
) -> str:
    # The chat as text; with `ask`, up to where the assistant would speak.
    if tokenizer.chat_template is None:
        raise TextError(
            f"{where}: a chat, but the tokenizer has no chat template. Use a chat model's "
            "tokenizer, or give the data as prompts and completions."
        )
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    except TemplateError as error:
        raise TextError(f"{where}: the chat template refuses the messages ({error}).") from error
    assert isinstance(text, str)
    return text


def _tokenise(tokenizer: PreTrainedTokenizerBase, segments: Segments, add_special: bool) -> _Tokens:
    # Tokenise all segments as one text; a token belongs to the segment in which it ends.
    if not tokenizer.is_fast:
        return _tokenise_apart(tokenizer, segments, add_special)
    encoded = tokenizer(
        "".join(text for text, _ in segments),
        add_special_tokens=add_special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    ends = np.cumsum([len(text) for text, _ in segments]).tolist()
    added = [bool(flag) for flag in encoded["special_tokens_mask"]]
    owner = [bisect_left(ends, end) for _, end in encoded["offset_mapping"]]
    counted = [segments[i][1] for i in owner]
    for position in reversed(
        range(len(added))
    ):  # what the tokenizer adds last ends the last segment
        if not added[position]:
            break
        counted[position] = segments[-1][1]
    return _Tokens(list(encoded["input_ids"]), counted, added)


def _tokenise_apart(
    tokenizer: PreTrainedTokenizerBase, segments: Segments, add_special: bool
) -> _Tokens:
    # The same for tokenizers that cannot say where in the text a token stands.
    frame = tokenizer(
        "".join(text for text, _ in segments),
        add_special_tokens=add_special,
        return_special_tokens_mask=True,
        verbose=False,
    )
    mask = list(frame["special_tokens_mask"]) if add_special else [0] * len(frame["input_ids"])
    n_front = mask.index(0) if 0 in mask else len(mask)
    n_back = mask[::-1].index(0) if 0 in mask else 0
    ids, counted = list(frame["input_ids"][:n_front]), [segments[0][1]] * n_front
    for text, flag in segments:
        piece = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids, counted = ids + list(piece), counted + [flag] * len(piece)
    n_inside = len(ids) - n_front
    ids += frame["input_ids"][len(mask) - n_back :]
    counted += [segments[-1][1]] * n_back
    return _Tokens(ids, counted, [True] * n_front + [False] * n_inside + [True] * n_back)


def _with_eos(tokenizer: PreTrainedTokenizerBase, tokens: _Tokens) -> _Tokens:
    eos = tokenizer.eos_token_id
    if eos is None:
        raise TextError(
            "append_eos: the tokenizer has no end-of-text token. Set append_eos to false."
        )
    if tokens.ids[-1:] == [eos]:
        return tokens
    return _Tokens([*tokens.ids, eos], [*tokens.counted, True], [*tokens.added, True])


def _without_added_end(tokens: _Tokens) -> _Tokens:
    # Drop what the tokenizer put after the text.
    end = len(tokens.ids)
    while end > 0 and tokens.added[end - 1]:
        end -= 1
    return _Tokens(tokens.ids[:end], tokens.counted[:end], tokens.added[:end])


def _check_scorable(
    tokenizer: PreTrainedTokenizerBase, tokens: _Tokens, where: str, every_token: bool
) -> None:
    # Refuse what has no token to score, and say why.
    own = [i for i, added in enumerate(tokens.added) if not added and tokens.counted[i]]
    if not own:
        raise TextError(
            f"{where}: the {'text' if every_token else 'completion'} has no token, expected at "
            "least one. The tokenizer drops all of its characters: use others or leave it out."
        )
    unknown = tokenizer.unk_token_id
    if {tokens.ids[i] for i in own} == {unknown} and unknown != tokenizer.eos_token_id:
        raise TextError(
            f"{where}: only unknown tokens, expected text that the tokenizer knows. Use the "
            "tokenizer of this language and model, or leave it out."
        )
    if len(tokens.ids) < 2:
        raise TextError(
            f"{where}: one token, expected at least two, because the first token can't be scored: "
            "nothing stands before it. Use a longer text."
        )
    if not every_token and own[0] == 0:
        raise TextError(
            f"{where}: the completion starts at the first token, which can't be scored: nothing "
            "stands before it, and the tokenizer adds no beginning-of-text token. Give a (longer) "
            "prompt, or treat prompt and completion as one text."
        )


def _cut(tokens: _Tokens, max_tokens: int, index: int) -> list[Chunk]:
    # Stretches that overlap by one token, without those in which nothing is counted.
    chunks: list[Chunk] = []
    for start in range(0, len(tokens.ids) - 1, max_tokens - 1):
        loss = np.array(tokens.counted[start : start + max_tokens], dtype=bool)
        loss[0] = False
        if loss.any():
            ids = np.array(tokens.ids[start : start + max_tokens], dtype=np.int32)
            chunks.append(Chunk(index, len(chunks), ids, loss))
    return chunks
