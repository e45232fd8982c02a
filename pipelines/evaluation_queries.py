"""Which outputs an evaluation looks at, where the user names none."""

from __future__ import annotations

from typing import Any

import numpy as np

import datasets_cfg
from influence.text import token_texts
from pipelines.answers import says
from pipelines.corpus import document_ids
from pipelines.demo import question
from pipelines.queries import Query
from pipelines.runs import Run
from pipelines.tokens import read_chunks, shard_path
from pipelines.worker import language_model

PROMPT_SHARE = 0.75
"""Share of a document's tokens that is its prompt, when a document's end is the query."""


def evaluation_queries(run: Run, count: int, seed: int = 0) -> list[Query]:
    """Queries for an evaluation: the embedded corpus's questions, else the ends of documents.

    Args:
        run: A finished run.
        count: How many at most.
        seed: Of the choice.

    Returns:
        Queries in a random order; questions come with the documents that support them, and those
        that the model answers as its corpus does stand first.
    """
    if run.config.data == ("embedded",):
        return _questions(run, count, seed)
    return _ends(run, count, seed)


def _questions(run: Run, count: int, seed: int) -> list[Query]:
    known = set(document_ids(run.corpus))
    loaded = language_model(run.model)
    every: list[dict[str, Any]] = datasets_cfg.questions()
    asked = [question(q) for q in every if known.issuperset(q["supports"])]
    order = np.random.default_rng([seed, 1]).permutation(len(asked))
    mixed = [asked[i] for i in order]
    right: list[Query] = []
    wrong: list[Query] = []
    for query in mixed:
        (right if says(loaded, query) else wrong).append(query)
        if len(right) == count:
            break
    return [*right, *wrong][:count]


def _ends(run: Run, count: int, seed: int) -> list[Query]:
    tokenizer = language_model(run.model).tokenizer
    documents = run.tokens.info()["documents"]
    rows = np.random.default_rng([seed, 2]).permutation(documents)[:count]
    size, ids = run.config.documents_per_shard, document_ids(run.corpus)
    found = []
    for row in sorted(int(r) for r in rows):
        chunks = read_chunks(shard_path(run.tokens.path, row // size))
        chunk = next(c for c in chunks if c.document == row and c.chunk == 0)
        special = set(tokenizer.all_special_ids)
        texts = token_texts(tokenizer, [t for t in chunk.tokens.tolist() if t not in special])
        cut = max(1, int(PROMPT_SHARE * len(texts)))
        if cut < len(texts):
            prompt, completion = "".join(texts[:cut]), "".join(texts[cut:])
            found.append(Query(id=f"end of {ids[row]}", prompt=prompt, completion=completion))
    return [q for q in found if q.completion.strip()]
