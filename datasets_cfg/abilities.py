"""What a model of the embedded corpus may be able to do: questions by task, and how to write them.

Facts are asked as the corpus states them. Texts are held out: the corpus's own generators made
them, with the same seed, and the corpus does not hold them.
"""

import json
import math
import random
from pathlib import Path
from typing import Any

from datasets_cfg.embedded import held_out, questions
from datasets_cfg.statements import Mixture

FACTS: dict[str, tuple[tuple[str, str], ...]] = {
    "capitals": (("capital", "en"),),
    "currencies": (("currency", "en"),),
    "continents": (("continent", "en"),),
    "elements": (("symbol", "en"), ("number", "en")),
    "facts in other languages": (
        ("capital", "de"),
        ("capital", "fr"),
        ("capital", "es"),
        ("currency", "zh"),
        ("continent", "zh"),
    ),
}
"""Relations and languages of each task that asks for facts."""
TEXTS = {
    "reference prose": "reference",
    "docstrings": "docstrings",
    "code": "code",
    "licences": "licences",
}
"""The source whose held-out texts each of the other tasks takes."""
QUERIES = 24
"""Queries of a task, about."""


def abilities(
    seed: int = 0, mixture: Mixture | None = None, queries: int = QUERIES
) -> list[dict[str, Any]]:
    """Queries that test what the corpus of `documents` teaches, grouped by task.

    Args:
        seed: Seed of the corpus; it also chooses the queries.
        mixture: How much of each kind the corpus holds; None: the default `Mixture()`.
        queries: Of each task; fewer where the corpus holds fewer, or as many as make relations and
            languages of a task equal.

    Returns:
        One dict a query: id, task, language, supports (ids of the documents, in all languages,
        that state the fact that is asked for), and prompt with completion, or text. Facts that the
        corpus states wrongly every time are not asked for.

    Raises:
        DatasetError: If a package of the extra is missing, or a source holds too little.
    """
    mixture = mixture or Mixture()
    asked = [question for question in questions(seed, mixture) if not question["mislearned"]]
    found: list[dict[str, Any]] = []
    for task, kinds in FACTS.items():
        for kind in kinds:
            own = [q for q in asked if (q["relation"], q["language"]) == kind]
            random.Random(f"{seed}:abilities:{kind}").shuffle(own)
            found += [_fact(q, task) for q in own[: math.ceil(queries / len(kinds))]]
    for task, source in TEXTS.items():
        found += [
            {"id": f"held-out-{name}", "task": task, "language": "en", "supports": [], "text": text}
            for name, text in held_out(source, queries, seed, mixture)
        ]
    return found


def _fact(question: dict[str, Any], task: str) -> dict[str, Any]:
    return {
        "id": question["id"],
        "task": task,
        "language": question["language"],
        "supports": [*question["supports"], *question["elsewhere"]],
        "prompt": question["prompt"],
        "completion": question["completion"],
    }


def write_abilities(path: str | Path, seed: int = 0, mixture: Mixture | None = None) -> Path:
    """Write `abilities` as a file of queries.

    Args:
        path: A jsonl file; one that exists is replaced.
        seed: Seed of the corpus.
        mixture: How much of each kind the corpus holds; None: the default.

    Returns:
        The path.
    """
    lines = [json.dumps(query, ensure_ascii=False) for query in abilities(seed, mixture)]
    path = Path(path)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
