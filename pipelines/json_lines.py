"""Files of one JSON object a line: read with one message for each way in which they can be wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import RunError

Chat = tuple[tuple[str, str], ...]
"""Role and content of each message."""


def read_objects(path: str | Path, who: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Read a jsonl file; blank lines are passed over.

    Args:
        path: The file, UTF-8.
        who: For messages: who asks for it.
        kind: For messages: of what it should hold objects.

    Returns:
        For each object where it stands (for messages), and the object; at least one.

    Raises:
        RunError: If there is no such file, nothing in it, or a line that is not a JSON object.
    """
    file = Path(path)
    if not file.is_file():
        raise RunError(f"{who} {file}: no such file, a .jsonl of {kind} was expected.")
    objects = []
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{who} {file}, line {number}"
                    objects.append((where, _object(line, where)))
    except UnicodeDecodeError as error:
        raise RunError(
            f"{who} {file}: not UTF-8 text ({error.reason} at byte {error.start}), a .jsonl of {kind} "
            "was expected."
        ) from None
    if not objects:
        raise RunError(f"{who} {file}: empty, one JSON object a line was expected.")
    return objects


def check_distinct(names: Iterable[str], where: str) -> None:
    """Refuse ids that occur twice.

    Args:
        names: Of the objects.
        where: For messages.

    Raises:
        RunError: Naming the first of them.
    """
    for name, times in Counter(names).items():
        if times > 1:
            raise RunError(f"{where}: id {name!r} occurs twice, distinct ids were expected.")


def chat_of(messages: Any, where: str) -> Chat:
    """A chat from plain values.

    Args:
        messages: A list of objects with ``role`` and ``content``.
        where: For messages.

    Returns:
        Role and content of each.

    Raises:
        RunError: If it is anything else, or empty.
    """
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise RunError(
            f'{where}: messages must be a non-empty list of {{"role": ..., "content": ...}}.'
        )
    return tuple((message["role"], message["content"]) for message in messages)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(value.get(key), str) for key in ("role", "content")
    )


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise RunError(f"{where}: not JSON ({error}). Mend the line.") from None
    if not isinstance(values, dict):
        raise RunError(f"{where}: a {type(values).__name__}, a JSON object was expected.")
    return values
