"""A prompt as the model reads it: plain text, or a chat written by its template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from influence.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, Any]]
"""Of a chat: `{"role": ..., "content": text}` each."""
MARK = "\ue000"
"""Stands where a message's words will be, to find out what the template writes around them."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a user wrote."""

    start: int
    """First character, in the prompt as the model reads it."""
    end: int
    role: str | None
    """Of the message; None: the prompt is plain text."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt as the model reads it."""

    text: str
    parts: tuple[Part, ...]
    """What a user wrote; all else is the template's."""

    @property
    def is_chat(self) -> bool:
        """Did a template write it, with all special tokens that the model expects?"""
        return self.parts[0].role is not None


def write_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | Messages) -> Prompt:
    """Write a prompt as the model reads it.

    A chat is written up to where the assistant speaks. A last message of the role `assistant` is
    what it has begun to say, and is put there as it is.

    Args:
        tokenizer: Of the model; has the chat template.
        prompt: Text, or messages.

    Returns:
        The text, and which parts of it a user wrote.

    Raises:
        InputError: If nothing is written, or the template cannot write the messages.
    """
    if isinstance(prompt, str):
        written = Prompt(text=prompt, parts=(Part(start=0, end=len(prompt), role=None),))
    else:
        written = _write_chat(tokenizer, _checked(prompt))
    if not any(written.text[part.start : part.end].strip() for part in written.parts):
        raise InputError(
            "inputs: an empty prompt, expected text. An output cannot be attributed to nothing."
        )
    return written


def _write_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Prompt:
    begun = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    messages = messages[:-1] if begun else messages
    text = _render(tokenizer, messages)
    marked = [
        {**message, "content": f"{MARK}{turn}{MARK}"} for turn, message in enumerate(messages)
    ]
    around = _render(tokenizer, marked)
    parts, done = [], 0
    for turn, message in enumerate(messages):
        before, found, around = around.partition(f"{MARK}{turn}{MARK}")
        after = around.partition(MARK)[0]
        content = message["content"]
        at = done + len(before)
        fits = [
            words
            for words in (content, content.rstrip(), content.lstrip(), content.strip())
            if text.startswith(before + words + after, done)
        ]
        if not found or not fits:
            raise InputError(
                f"inputs: message {turn + 1} of the chat ({message['role']}) is not written word "
                "for word by the chat template, so that its parts cannot be found. Leave it out, "
                "or give the prompt as the text that the model should read."
            )
        done = at + len(fits[0])
        parts.append(Part(start=at, end=done, role=message["role"]))
    if begun:
        parts.append(Part(start=len(text), end=len(text) + len(begun), role="assistant"))
    return Prompt(text=text + begun, parts=tuple(parts))


def _render(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    if tokenizer.chat_template is None:
        raise InputError(
            "inputs: a chat, but the tokenizer has no chat template. Use a chat model's "
            "tokenizer, or give the prompt as text."
        )
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise InputError(f"inputs: the chat template refuses the messages ({error}).") from error
    assert isinstance(text, str)
    return text


def _checked(messages: Messages) -> Messages:
    is_list = isinstance(messages, list) and len(messages) > 0
    if not is_list or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    ):
        raise InputError(
            f"inputs: messages {str(messages)[:60]!r}, expected text or a non-empty list of "
            '{"role": ..., "content": text}.'
        )
    return messages
