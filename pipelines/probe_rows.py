"""Labelled texts, from a jsonl: what a probe is trained and judged on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from influence.inputs.prompts import Messages
from pipelines.errors import RunError
from pipelines.json_lines import Chat, chat_of, check_distinct, read_objects

KEYS = (
    *("id", "text", "prompt", "messages", "completion", "label"),
    *("entity", "topic", "fold", "span", "popularity"),
)


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """A text with a label."""

    id: str
    prompt: str | Chat
    """What the model was given; of a bare text, its first word."""
    completion: str
    label: str
    entity: str
    """Rows of one entity are in one fold; the row's id where none is given."""
    topic: str | None = None
    fold: str | None = None
    span: tuple[int, int] | None = None
    """Characters of the completion."""
    popularity: float | None = None

    @property
    def messages(self) -> str | Messages:
        """The prompt as `read_passages` takes it."""
        if isinstance(self.prompt, str):
            return self.prompt
        return [{"role": role, "content": content} for role, content in self.prompt]

    def text_until(self, place: str) -> str:
        """What has been read at a place: all that a control without a model may see.

        Args:
            place: Of `influence.states.places.PLACES`.

        Returns:
            Prompt and the completion's beginning; a chat's messages line by line.
        """
        prompt = (
            self.prompt if isinstance(self.prompt, str) else "\n".join(t for _, t in self.prompt)
        )
        start, end = self.span or (0, len(self.completion))
        ends = {"prompt-end": 0, "before-answer": start, "answer-end": end, "answer-mean": end}
        return prompt + self.completion[: ends.get(place, len(self.completion))]


def read_rows(path: str | Path, label: str = "label") -> list[ProbeRow]:
    """Read labelled texts.

    Args:
        path: One JSON object a line: ``text``, or ``prompt`` (or ``messages``) and ``completion``; a
            label; optional ``id``, ``entity``, ``topic``, ``fold``, ``span``, ``popularity``. Other
            keys are not read.
        label: Key of the label; any text or number.

    Returns:
        The rows, with distinct ids.

    Raises:
        RunError: Naming the line and what is wrong with it.
    """
    rows = [
        _row(values, number, label, where)
        for number, (where, values) in enumerate(read_objects(path, "Probe", "labelled texts"), 1)
    ]
    check_distinct((row.id for row in rows), f"Probe {path}")
    for key in ("topic", "fold"):
        given = sum(getattr(row, key) is not None for row in rows)
        if 0 < given < len(rows):
            raise RunError(
                f"Probe {path}: {given} of {len(rows)} lines have a {key}, all or none were expected."
            )
    return rows


def _row(values: Mapping[str, Any], number: int, label: str, where: str) -> ProbeRow:
    if values.get(label) is None or isinstance(values[label], dict | list):
        raise RunError(
            f"{where}: no {label!r} with a text or number, keys {sorted(values)[:12]} given. Name the "
            f"column with --label.{_near(label, values)}"
        )
    prompt, completion, begin = _parts(values, where)
    name = str(values.get("id") or number)
    return ProbeRow(
        id=name,
        prompt=prompt,
        completion=completion,
        label=str(values[label]),
        entity=_text(values.get("entity")) or name,
        topic=_text(values.get("topic")),
        fold=_text(values.get("fold")),
        span=_span(values.get("span"), completion, begin, where),
        popularity=_number(values.get("popularity"), where),
    )


def _parts(values: Mapping[str, Any], where: str) -> tuple[str | Chat, str, int]:
    # Prompt, completion, and how many characters of the text the prompt took.
    kinds = [key for key in ("text", "prompt", "messages") if key in values]
    if len(kinds) != 1 or ("completion" in values) == (kinds == ["text"]):
        raise RunError(
            f"{where}: keys {sorted(values)[:12]} given; `text`, or `completion` with `prompt` or "
            f"`messages`, was expected.{_near('text', values)}"
        )
    for key in ("text", "prompt", "completion"):
        if key in values and (not isinstance(values[key], str) or not values[key].strip()):
            raise RunError(f"{where}: {key} {str(values[key])[:40]!r}, a text was expected.")
    if kinds == ["text"]:
        text = values["text"]
        stripped = text.lstrip()
        first = len(text) - len(stripped) + len(stripped.split(maxsplit=1)[0])
        first = first if first < len(text.rstrip()) else 1
        if not text[first:].strip():
            raise RunError(f"{where}: text {text!r}, two words or characters were expected.")
        return text[:first], text[first:], first
    if kinds == ["prompt"]:
        return values["prompt"], values["completion"], 0
    return chat_of(values["messages"], where), values["completion"], 0


def _span(value: Any, completion: str, begin: int, where: str) -> tuple[int, int] | None:
    # Of the completion; one of a bare text is given in the text, whose first word is the prompt.
    if value is None:
        return None
    is_pair = isinstance(value, list) and len(value) == 2
    end = begin + len(completion)
    if (
        not is_pair
        or not all(type(x) is int for x in value)
        or not begin <= value[0] < value[1] <= end
    ):
        raise RunError(
            f"{where}: span {value!r}, [start, end] within characters {begin} to {end} was expected"
            + (", after the text's first word." if begin else ".")
        )
    return value[0] - begin, value[1] - begin


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RunError(f"{where}: popularity {value!r}, a number was expected.")
    return float(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _near(wanted: str, values: Mapping[str, Any]) -> str:
    near = get_close_matches(wanted, [str(key) for key in values if key not in KEYS], n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
