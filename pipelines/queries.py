"""What is to be explained: an output, what the model was given, and what it might have said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import RunError
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

    @property
    def name(self) -> str:
        """The query's id, or a hash of its texts."""
        return self.id or key_of(p=self.prompt, c=self.completion, x=self.contrast)


def read_queries(path: str | Path) -> list[Query]:
    """Read queries from a jsonl file: ``prompt`` and ``completion``, or ``text``.

    Args:
        path: One JSON object a line; optional keys ``contrast``, ``id`` and ``supports``.

    Returns:
        The queries.

    Raises:
        RunError: Naming the line and what is wrong with it.
    """
    file = Path(path)
    if not file.is_file():
        raise RunError(f"Queries {file}: no such file, a .jsonl of queries was expected.")
    queries = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if line.strip():
            queries.append(_query_of(line, f"Queries {file}, line {number}"))
    if not queries:
        raise RunError(f"Queries {file}: empty, one JSON object a line was expected.")
    names = [q.name for q in queries]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise RunError(
            f"Queries {file}: {twice[0]!r} occurs twice, distinct queries were expected."
        )
    return queries


def _query_of(line: str, where: str) -> Query:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise RunError(f"{where}: not JSON ({error}). Mend the line.") from None
    known = {"id", "prompt", "completion", "contrast", "text", "supports"}
    if not isinstance(values, dict) or not set(values) <= known:
        extra = sorted(set(values) - known) if isinstance(values, dict) else type(values).__name__
        raise RunError(f"{where}: {extra} given; known keys are {sorted(known)}.")
    if ("text" in values) == ("completion" in values):
        raise RunError(
            f"{where}: keys {sorted(values)} given; either `completion` (with `prompt`) or `text` "
            "(a whole text) was expected."
        )
    if "text" in values:
        values["completion"] = values.pop("text")
    values["supports"] = tuple(values.get("supports") or ())
    return Query(**values)
