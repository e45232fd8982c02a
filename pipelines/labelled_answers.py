"""Answers with labels, from a jsonl: what a detector is fitted to, and what it scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from influence.hallucination.causes import CAUSES
from influence.inputs.prompts import Messages
from pipelines.errors import RunError
from pipelines.json_lines import Chat, chat_of, check_distinct, read_objects
from pipelines.run_folder import key_of

LABELS = ("right", "wrong", "evasive")
KEYS = (
    "id",
    "prompt",
    "messages",
    "completion",
    "label",
    "entity",
    "topic",
    "fold",
    "span",
    "popularity",
    "cause",
)
FEWEST = 20
"""Answers of either class that a detector needs."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A prompt, what was said, and what is known of it."""

    id: str
    prompt: str | Chat
    completion: str | None
    """None: the model shall answer."""
    label: str | None = None
    """right, wrong, evasive; None: not known."""
    entity: str | None = None
    """What it is about; answers about the same thing are never split."""
    topic: str | None = None
    fold: int | None = None
    span: tuple[int, int] | None = None
    """Characters of the completion that answer; None: to be found."""
    popularity: float | None = None
    cause: str | None = None
    """Why it is wrong, one of `CAUSES`; None: not known, or it is not wrong."""

    @property
    def messages(self) -> str | Messages:
        """The prompt as `read_passages` takes it."""
        if isinstance(self.prompt, str):
            return self.prompt
        return [{"role": role, "content": content} for role, content in self.prompt]


def read_labelled(path: str | Path) -> list[Answer]:
    """Read labelled answers.

    Args:
        path: One JSON object a line: ``prompt`` (or ``messages``), ``completion`` and ``label``; other
            keys of ``KEYS`` are optional, and keys not among them are not read.

    Returns:
        The answers.

    Raises:
        RunError: Naming the line and what is wrong with it; or too few answers of a class.
    """
    answers = read_answers(path)
    where = f"Hallucination {path}"
    missing = next((one.id for one in answers if one.label is None or one.completion is None), None)
    if missing is not None:
        raise RunError(
            f"{where}: {missing!r} has no label or no completion, both were expected in each line. "
            "`influence hallucination score` takes answers without labels."
        )
    counts = Counter(one.label for one in answers)
    for label in ("right", "wrong"):
        if counts[label] < FEWEST:
            raise RunError(
                f"{where}: {counts['right']} right, {counts['wrong']} wrong, {counts['evasive']} "
                f"evasive answers, at least {FEWEST} right and {FEWEST} wrong ones were expected. "
                "Label more answers."
            )
    _check_folds(answers, where)
    return answers


def read_answers(path: str | Path) -> list[Answer]:
    """Read answers, with or without labels and completions.

    Args:
        path: As for ``read_labelled``; only ``prompt`` or ``messages`` is needed. A statement has
            ``text`` and ``span`` instead.

    Returns:
        The answers, with distinct ids.

    Raises:
        RunError: Naming the line and what is wrong with it.
    """
    objects = read_objects(path, "Hallucination", "prompts and completions")
    answers = [as_answer(values, where) for where, values in objects]
    check_distinct((one.id for one in answers), f"Hallucination {path}")
    return answers


def as_answer(values: Mapping[str, Any], where: str) -> Answer:
    """An answer from plain values.

    Args:
        values: With keys of ``KEYS``; others are not read. A statement has ``text`` and ``span``,
            the characters of it that are claimed, instead of prompt and completion.
        where: For messages.

    Returns:
        The answer; without an id, a hash names it.

    Raises:
        RunError: If a key is missing or of the wrong kind.
    """
    if "text" in values and not {"prompt", "messages", "completion"} & set(values):
        values = _of_statement(values, where)
    if ("prompt" in values) == ("messages" in values):
        raise RunError(
            f"{where}: keys {sorted(values)[:12]} given; either `prompt` or `messages` was expected."
            f"{_near(values)}"
        )
    prompt = _prompt(values, where)
    completion, label = values.get("completion"), values.get("label")
    if completion is not None and (not isinstance(completion, str) or not completion.strip()):
        raise RunError(
            f"{where}: completion {completion!r}, a text was expected. An empty answer claims nothing:"
            " leave the line out."
        )
    if label is not None and label not in LABELS:
        raise RunError(f"{where}: label {label!r}, one of {', '.join(LABELS)} was expected.")
    fold = values.get("fold")
    if fold is not None and (isinstance(fold, bool) or not isinstance(fold, int)):
        raise RunError(f"{where}: fold {fold!r}, a whole number was expected.")
    popularity = values.get("popularity")
    if popularity is not None and not isinstance(popularity, int | float):
        raise RunError(f"{where}: popularity {popularity!r}, a number was expected.")
    return Answer(
        id=str(values.get("id") or key_of(prompt=prompt, completion=completion)),
        prompt=prompt,
        completion=completion,
        label=label,
        entity=_text(values.get("entity")),
        topic=_text(values.get("topic")),
        fold=fold,
        span=_span(values.get("span"), completion, where),
        popularity=None if popularity is None else float(popularity),
        cause=_cause(values.get("cause"), label, where),
    )


def _cause(value: Any, label: str | None, where: str) -> str | None:
    if value is None:
        return None
    if value not in CAUSES:
        near = get_close_matches(str(value), CAUSES, n=1)
        raise RunError(
            f"{where}: cause {value!r}, one of {', '.join(CAUSES)} was expected."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    if label not in (None, "wrong"):
        raise RunError(
            f"{where}: cause {value!r} of an answer labelled {label!r}; only a wrong answer has one."
        )
    return str(value)


def _of_statement(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A statement as an answer: what it claims, said after all that stands before it."""
    text = values["text"]
    if not isinstance(text, str) or not text.strip() or values.get("span") is None:
        raise RunError(
            f"{where}: text {text!r} without `span`; the characters [start, end] of it that are "
            "claimed were expected. Or give `prompt` and `completion`."
        )
    start, end = _span(values["span"], text, where) or (0, 0)
    begin = len(text[:start].rstrip())
    if not begin:
        raise RunError(
            f"{where}: span {values['span']!r} is where the text begins, words before it were "
            "expected: the model is asked how they go on."
        )
    rest = {key: value for key, value in values.items() if key != "text"}
    span = [start - begin, end - begin]
    return rest | {"prompt": text[:begin], "completion": text[begin:], "span": span}


def _prompt(values: Mapping[str, Any], where: str) -> str | Chat:
    if "prompt" in values:
        prompt = values["prompt"]
        if not isinstance(prompt, str) or not prompt.strip():
            raise RunError(f"{where}: prompt {prompt!r}, a text was expected.")
        return prompt
    return chat_of(values["messages"], where)


def _span(value: Any, completion: str | None, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    length = len(completion or "")
    pair = isinstance(value, list | tuple) and len(value) == 2
    if (
        not pair
        or not all(isinstance(x, int) for x in value)
        or not 0 <= value[0] < value[1] <= length
    ):
        raise RunError(
            f"{where}: span {value!r}, [start, end] within the completion's {length} characters was "
            "expected."
        )
    return int(value[0]), int(value[1])


def _near(values: Mapping[str, Any]) -> str:
    for key in values:
        near = get_close_matches(str(key), [k for k in KEYS if k not in values], n=1)
        if near and key not in KEYS:
            return f" Did you mean {near[0]!r} by {key!r}?"
    return ""


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _check_folds(answers: Sequence[Answer], where: str) -> None:
    given = [one for one in answers if one.fold is not None]
    if not given:
        return
    if len(given) < len(answers):
        raise RunError(
            f"{where}: {len(given)} of {len(answers)} answers have a fold, all or none were expected."
        )
    seen: dict[str, int | None] = {}
    for one in given:
        entity = one.entity or one.id
        if seen.setdefault(entity, one.fold) != one.fold:
            raise RunError(
                f"{where}: entity {entity!r} is in folds {seen[entity]} and {one.fold}, one was "
                "expected: a detector would be judged on what it was fitted to."
            )
