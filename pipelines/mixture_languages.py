"""Parallel facts of a run: which documents state what a query asks for, in which language."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from influence.documents.methods import METHODS
from influence.documents.methods.families import TextMethod
from influence.mixture.languages import Languages, languages
from pipelines.corpus import document_ids, read_columns
from pipelines.evaluation import usable_methods
from pipelines.method_scores import texts_of
from pipelines.mixture_queries import Tasks
from pipelines.runs import Run

BESIDE = ("bm25", "random")
"""Methods that are ranked beside, on the texts alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """Queries that name documents, and all documents that they name."""

    queries: tuple[int, ...]
    """Their numbers among all queries: those that name a language and a known document."""
    rows: tuple[int, ...]
    """Rows of the documents, ascending."""
    own_QF: np.ndarray
    """Whether a document states the query's fact."""


def find_facts(run: Run, tasks: Tasks) -> tuple[Facts, list[str]]:
    """Look up the documents that queries name in ``supports``.

    Args:
        run: The run.
        tasks: The queries.

    Returns:
        The facts, none where there are not two languages; and what to say.
    """
    row_of = {name: row for row, name in enumerate(document_ids(run.corpus))}
    named = [[row_of[name] for name in q.supports if name in row_of] for q in tasks.queries]
    missing = sum(len(q.supports) for q in tasks.queries) - sum(map(len, named))
    notes = [f"{missing} supports name no document of this run; they are left out."]
    notes = notes if missing else []
    asked = [i for i, q in enumerate(tasks.queries) if named[i] and q.language]
    unspoken = sum(bool(rows) for rows in named) - len(asked)
    if unspoken:
        notes.append(
            f"{unspoken} queries name supports and no `language`: they are not in the languages."
        )
    if len({tasks.queries[i].language for i in asked}) < 2:
        asked = []
    rows = sorted({row for i in asked for row in named[i]})
    place = {row: f for f, row in enumerate(rows)}
    own_QF = np.zeros((len(asked), len(rows)), bool)
    for q, i in enumerate(asked):
        own_QF[q, [place[row] for row in named[i]]] = True
    return Facts(queries=tuple(asked), rows=tuple(rows), own_QF=own_QF), notes


def compare_languages(
    run: Run, tasks: Tasks, facts: Facts, fact_QF: np.ndarray, seed: int
) -> Languages | None:
    """Set same facts against other facts, language by language.

    Args:
        run: The run.
        tasks: The queries.
        facts: Which of them ask for facts, and the documents.
        fact_QF: Scores of the fact documents for these queries, nats per document removed.
        seed: Of the bootstrap, and of the random scores.

    Returns:
        The matrices; None without facts in two languages.
    """
    if not facts.queries:
        return None
    queries = [tasks.queries[i] for i in facts.queries]
    table = read_columns(run.corpus, ["language"]).take(list(facts.rows))
    texts = texts_of(run, facts.rows)
    asked = [(query.prompt or "") + query.completion for query in queries]
    others = {}
    for name in set(BESIDE) & set(usable_methods(run)):
        method = METHODS[name]
        assert isinstance(method, TextMethod)
        others[name] = np.asarray(method.scores(asked, texts, seed), np.float64)
    return languages(
        fact_QF,
        facts.own_QF,
        [str(query.language) for query in queries],
        [str(value) for value in table.column("language").to_pylist()],
        others,
        seed,
    )
