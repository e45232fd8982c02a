"""A user's rows in the project's own columns: pure functions on batches of rows."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from datasets_cfg.errors import DatasetError, nearest
from datasets_cfg.schema import CANONICAL, DatasetConfig

Batch = dict[str, list[Any]]


def consumed_columns(config: DatasetConfig) -> list[str]:
    """The user's columns that become columns of ours, each once."""
    named = [*config.content_columns, config.id_column]
    named += [config.source_column, config.language_column]
    return list(dict.fromkeys(column for column in named if column is not None))


def check_columns(config: DatasetConfig, columns: list[str]) -> None:
    """Refuse settings that name a column which is not there, or hide one which is.

    Args:
        config: Settings of the dataset.
        columns: Columns that its files have.

    Raises:
        DatasetError: If a named column is unknown, or another has a name that `load` gives.
    """
    consumed = consumed_columns(config)
    for column in (*consumed, *config.drop_columns):
        if column not in columns:
            raise DatasetError(
                f"{config.name}: there is no column `{column}`.{nearest(column, columns)} The data "
                f"has: {', '.join(columns)}. Correct the `..._column` settings."
            )
    for column in columns:
        if column in CANONICAL and column not in (*consumed, *config.drop_columns):
            raise DatasetError(
                f"{config.name}: the data has a column `{column}`, a name that load gives itself. "
                f"Say what it is (`{column}_column: {column}`), or `drop_columns: [{column}]`."
            )


def canonical_batch(batch: Batch, rows: list[int], config: DatasetConfig) -> Batch:
    """Turn a batch of the user's columns into ours.

    Args:
        batch: The consumed columns, each a list of values.
        rows: Row numbers, from 0, for messages.
        config: Settings of the dataset.

    Returns:
        The columns of `CANONICAL`; an empty document has an empty text if `skip_empty` is set.

    Raises:
        DatasetError: If a document is empty, incomplete or not made of text.
    """
    out: Batch = {column: [] for column in CANONICAL}
    for i, row in enumerate(rows):
        where = f"{config.name}: row {row + 1}"
        values = {column: batch[column][i] for column in consumed_columns(config)}
        document = _document(values, where, config)
        document["id"] = _identifier(values, document, where, config)
        for key, constant in (("source", config.name), ("language", "und")):
            column = getattr(config, f"{key}_column")
            if column is None:
                document[key] = getattr(config, key) or constant
            else:
                document[key] = _filled(values[column], column, where)
        for column in CANONICAL:
            out[column].append(document[column])
    return out


def _document(values: dict[str, Any], where: str, config: DatasetConfig) -> dict[str, Any]:
    """Kind, text, prompt, completion and messages of one row, or an error."""
    document: dict[str, Any] = dict.fromkeys(CANONICAL)
    document |= {"kind": config.kind, "text": ""}
    content = [values[column] for column in config.content_columns]
    if all(_blank(value) for value in content):
        if not config.skip_empty:
            names = " and ".join(f"`{column}`" for column in config.content_columns)
            raise DatasetError(
                f"{where} is empty ({names}), expected a document. Fill or remove it, or set "
                "`skip_empty: true` to drop such rows."
            )
        return document
    if config.kind == "chat":
        messages = _messages(content[0], f"{where}, column `{config.content_columns[0]}`")
        document["messages"] = json.dumps(messages, ensure_ascii=False)
        document["text"] = "\n".join(f"{m['role']}: {m['content']}" for m in messages)
        return document
    parts = [
        _string(value, column, where)
        for column, value in zip(config.content_columns, content, strict=True)
    ]
    if config.kind == "completion":
        for column, other, part in zip(config.content_columns, reversed(parts), parts, strict=True):
            if _blank(part):
                raise DatasetError(
                    f"{where} has {other[:40]!r} but an empty `{column}`, expected a prompt with "
                    "its completion. Fill or remove the row."
                )
        document["prompt"], document["completion"] = parts
    whole = "".join(parts)
    # the reader leaves the line break after the last paragraph of a file
    document["text"] = whole.strip("\n") if config.cuts_paragraphs else whole
    return document


def _blank(value: Any) -> bool:
    """Whether a cell holds nothing to read."""
    return value is None or (isinstance(value, str) and not value.strip()) or value == []


def _string(value: Any, column: str, where: str) -> str:
    """A cell of text; a missing one is the empty text."""
    if value is not None and not isinstance(value, str):
        raise DatasetError(
            f"{where}, column `{column}`: came {value!r:.60} ({type(value).__name__}), expected "
            "text. Name another column, or convert this one."
        )
    return value or ""


def _filled(value: Any, column: str, where: str) -> str:
    """A cell of an id, source or language, as text."""
    if value is None or value == "" or not isinstance(value, str | int):
        raise DatasetError(
            f"{where}, column `{column}`: came {value!r:.60}, expected a word or a whole number. "
            "Fill the cell, or leave the column's setting out."
        )
    return str(value)


def _messages(value: Any, where: str) -> list[dict[str, Any]]:
    """The messages of a chat, checked; keys without a value are left out."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DatasetError(
                f"{where}: not valid JSON ({error.msg}), expected a list of messages. Correct it."
            ) from None
    fits = isinstance(value, list) and value and all(map(_is_message, value))
    if not fits:
        raise DatasetError(
            f"{where}: came {value!r:.60}, expected a list of messages, each with text under "
            "`role` and `content`. Correct the row."
        )
    return [{key: part for key, part in m.items() if part is not None} for m in value]


def _is_message(message: Any) -> bool:
    """Whether a message has a role and a content, both text."""
    return isinstance(message, dict) and all(
        isinstance(message.get(key), str) for key in ("role", "content")
    )


def _identifier(
    values: dict[str, Any], document: dict[str, Any], where: str, config: DatasetConfig
) -> str:
    """The user's id, or a hash of the content: 16 bytes of blake2b, in hex."""
    if config.id_column is not None:
        return _filled(values[config.id_column], config.id_column, where)
    parts = {
        "text": [document["text"]],
        "completion": [document["prompt"], document["completion"]],
        "chat": [document["messages"]],
    }[document["kind"]]
    content = json.dumps([document["kind"], *parts], ensure_ascii=False)
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def unique_ids(ids: Iterable[str], config: DatasetConfig) -> list[str]:
    """Make ids unique, or refuse a user's ids that are not.

    Args:
        ids: One id a document, in order.
        config: Settings of the dataset.

    Returns:
        The ids; the second and later documents of equal content end in `-1`, `-2` and so on.

    Raises:
        DatasetError: If the ids come from the user's own column and one comes twice.
    """
    seen: Counter[str] = Counter()
    unique: list[str] = []
    for name in ids:
        if name in seen and config.id_column is not None:
            raise DatasetError(
                f"{config.name}: id {name!r} comes more than once in column `{config.id_column}` "
                f"(the second time in document {len(unique) + 1}), expected unique ids. Correct "
                "them, or leave `id_column` out: ids are then hashes of the content."
            )
        unique.append(f"{name}-{seen[name]}" if name in seen else name)
        seen[name] += 1
    return unique
