"""What is to be explained: an output, what the model was given, and what it might have said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import RunError
from pipelines.json_lines import check_distinct, read_objects
from pipelines.run_folder import key_of


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is to be explained."""

    completion: str
    """The output whose loss is the measurement; with no prompt, a whole text."""
    prompt: str | None = None
    contrast: str | None = None
    """Explain the completion rather than this one."""
    id: str | None = None
    """None: a hash of the texts."""
    supports: tuple[str, ...] = ()
    """Ids of the documents that are known to state it; evaluation looks for them."""
    task: str | None = None
    """The ability that it tests; mixtures sum over the queries of a task."""
    language: str | None = None

    @property
    def name(self) -> str:
        """The query's id, or a hash of its texts."""
        return self.id or key_of(p=self.prompt, c=self.completion, x=self.contrast)


def read_queries(path: str | Path) -> list[Query]:
    """Read queries from a jsonl file: ``prompt`` and ``completion``, or ``text``.

    Args:
        path: One JSON object a line; optional keys ``contrast``, ``id``, ``supports``, ``task`` and
            ``language``.

    Returns:
        The queries.

    Raises:
        RunError: Naming the line and what is wrong with it.
    """
    queries = [
        _query_of(values, where) for where, values in read_objects(path, "Queries", "queries")
    ]
    check_distinct((query.name for query in queries), f"Queries {path}")
    return queries


def _query_of(values: Mapping[str, Any], where: str) -> Query:
    known = {"id", *_TEXTS, "supports"}
    if not set(values) <= known:
        raise RunError(
            f"{where}: {sorted(set(values) - known)} given; known keys are {sorted(known)}."
        )
    if ("text" in values) == ("completion" in values):
        raise RunError(
            f"{where}: keys {sorted(values)} given; either `completion` (with `prompt`) or `text` "
            "(a whole text) was expected."
        )
    for key in _TEXTS & set(values):
        if not isinstance(values[key], str | None):
            raise RunError(
                f"{where}: {key} is a {type(values[key]).__name__}, a text was expected."
            )
    supports = values.get("supports") or []
    if not isinstance(supports, list) or not all(isinstance(one, str) for one in supports):
        raise RunError(f"{where}: supports {supports!r} given, a list of ids was expected.")
    rest = {key: value for key, value in values.items() if key not in ("text", "supports")}
    completion = values.get("text", values.get("completion"))
    if not completion:
        raise RunError(f"{where}: an empty completion, the output to explain was expected.")
    name = None if values.get("id") is None else str(values["id"])
    return Query(**rest | {"id": name, "completion": completion, "supports": tuple(supports)})


_TEXTS = {"prompt", "completion", "contrast", "text", "task", "language"}
