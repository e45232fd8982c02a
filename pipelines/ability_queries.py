"""The queries of a mixture where the user gives none: what the embedded corpus teaches, by task."""

from __future__ import annotations

from dataclasses import replace

import datasets_cfg
from pipelines.corpus import document_ids
from pipelines.errors import RunError
from pipelines.queries import Query, read_queries
from pipelines.run_folder import new_file
from pipelines.runs import Run

ABILITIES = "abilities.jsonl"
EXAMPLE = '{"task": "capitals", "prompt": "The capital of France is", "completion": " Paris"}'
"""A line of a file of queries by task."""


def ability_queries(run: Run) -> list[Query]:
    """Write the embedded corpus's abilities into the run's folder, and read them.

    Args:
        run: A run on the embedded corpus.

    Returns:
        Queries with task and language; ``supports`` names documents of the corpus only.

    Raises:
        RunError: If the run has another corpus, whose abilities only its owner knows.
    """
    if run.config.data != ("embedded",):
        raise RunError(
            f"Run {run.root}: its data are {', '.join(run.config.data)}, and no queries were given; "
            "queries with a task each were expected. Write a jsonl file with `task` and `prompt` "
            "with `completion`, or `text`, on each line, and give it with `--queries`. A line: "
            f"{EXAMPLE}"
        )
    with new_file(run.root / ABILITIES) as temporary:
        datasets_cfg.write_abilities(temporary)
    known = set(document_ids(run.corpus))
    return [
        replace(query, supports=tuple(name for name in query.supports if name in known))
        for query in read_queries(run.root / ABILITIES)
    ]
