"""What is asked of input attribution: one text from the command line, or a jsonl of many."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from influence.inputs.explain import Question
from pipelines.errors import RunError
from pipelines.json_lines import chat_of, check_distinct, read_objects
from pipelines.run_folder import key_of

KEYS = ("id", "prompt", "messages", "completion", "contrast", "paraphrases", "span", "examples")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question with its name."""

    id: str
    question: Question


def read_questions(path: str | Path, default: Question) -> list[Asked]:
    """Read questions from a jsonl file.

    Args:
        path: One JSON object a line: ``prompt`` (or ``messages``, a chat) and ``completion``; optional
            ``id``, ``contrast``, ``paraphrases`` (list), ``span`` (characters of the completion,
            ``[start, end]``, or its words) and ``examples`` (list of ``[start, end]``).
        default: Level of the units, and whether the output before the span counts as prompt.

    Returns:
        The questions, with distinct ids.

    Raises:
        RunError: Naming the line and what is wrong with it.
    """
    objects = read_objects(path, "Inputs", "prompts and completions")
    asked = [ask(values, default, where) for where, values in objects]
    check_distinct((one.id for one in asked), f"Inputs {path}")
    return asked


def ask(values: Mapping[str, Any], default: Question, where: str) -> Asked:
    """A question from plain values.

    Args:
        values: With keys of ``KEYS``.
        default: What the values do not say.
        where: For messages.

    Returns:
        The question; without an id, a hash names it.

    Raises:
        RunError: If a key is unknown, missing or of the wrong kind.
    """
    _check(values, where)
    chat = chat_of(values["messages"], where) if "messages" in values else None
    others = values.get("paraphrases")
    question = replace(
        default,
        prompt=values.get("prompt", "") if chat is None else chat,
        completion=values["completion"],
        contrast=values.get("contrast"),
        meanings=((values["completion"], *others),) if others else (),
        span=_span(values.get("span"), values["completion"], where),
        examples=None
        if values.get("examples") is None
        else tuple((int(a), int(b)) for a, b in values["examples"]),
    )
    return Asked(id=str(values.get("id") or key_of(question=repr(question))), question=question)


def _check(values: Mapping[str, Any], where: str) -> None:
    for key in values:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RunError(f"{where}: key {key!r} given; known keys are {', '.join(KEYS)}.{hint}")
    if ("prompt" in values) == ("messages" in values) or "completion" not in values:
        raise RunError(
            f"{where}: keys {sorted(values)} given; `completion` and either `prompt` or `messages` "
            "were expected."
        )
    texts = {
        k: values[k] for k in ("prompt", "completion", "contrast") if values.get(k) is not None
    }
    for key, value in texts.items():
        if not isinstance(value, str):
            raise RunError(f"{where}: {key} is a {type(value).__name__}, a text was expected.")
    if not all(isinstance(text, str) for text in values.get("paraphrases") or ()):
        raise RunError(f"{where}: paraphrases must be a list of texts.")
    _check_ranges(values.get("examples"), where)


def _check_ranges(examples: Any, where: str) -> None:
    if examples is None:
        return
    if not isinstance(examples, list) or not all(_is_range(pair) for pair in examples):
        raise RunError(
            f"{where}: examples {examples!r} given, a list of [start, end] characters was expected."
        )


def _is_range(pair: Any) -> bool:
    is_pair = isinstance(pair, list | tuple) and len(pair) == 2
    return is_pair and all(isinstance(x, int) for x in pair) and 0 <= pair[0] < pair[1]


def _span(value: Any, completion: str, where: str) -> tuple[int, int] | None:
    """Characters of the completion: given as such, or by their words."""
    if value is None:
        return None
    if isinstance(value, str):
        start = completion.find(value) if value else -1
        if start < 0:
            raise RunError(
                f"{where}: span {value!r} does not stand in the completion {completion!r}. Give words "
                "of the completion, or characters as START:END."
            )
        if completion.find(value, start + 1) >= 0:
            raise RunError(
                f"{where}: span {value!r} stands in the completion more than once. Give characters as "
                f"START:END; it first stands at {start}:{start + len(value)}."
            )
        return start, start + len(value)
    if not _is_range(value) or value[1] > len(completion):
        raise RunError(
            f"{where}: span {value!r} given; [start, end] within the completion's {len(completion)} "
            "characters, or its words, were expected."
        )
    return int(value[0]), int(value[1])


def asked_of(values: Mapping[str, Any], path: Path | None, default: Question) -> list[Asked]:
    """Questions from the command line, or from a file.

    Args:
        values: Of the command line; None where an option was left out.
        path: A jsonl; None: ``values`` hold the one question.
        default: As for `read_questions`.

    Returns:
        The questions.

    Raises:
        RunError: If both are given, or neither.
    """
    given = {key: value for key, value in values.items() if value}
    if (path is None) == ("completion" not in given):
        raise RunError(
            "Inputs: give either --prompt and --completion, or --texts FILE.jsonl. "
            'Example: --prompt "The capital of France is" --completion " Paris".'
        )
    if path is None:
        given.setdefault("prompt", "")
        if "span" in given and (found := re.fullmatch(r"(\d+):(\d+)", given["span"])):
            given["span"] = [int(found[1]), int(found[2])]
        return [ask(given, default, "Inputs")]
    if given:
        raise RunError(
            f"Inputs: --{sorted(given)[0]} given together with --texts; in a file it is a key of each "
            "line. Leave it out."
        )
    return read_questions(path, default)
