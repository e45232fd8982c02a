"""Does a trace find the documents that state a fact? The demo run, with BM25 and chance beside it.

    python benchmarks/fact_tracing.py runs/demo

Questions: the capitals that the model answers.  A hit: a document that states the fact (in the
question's language or another).  Then the flagged corruptions: for a fact that some documents state
wrongly, those documents must support the wrong answer and oppose the right one.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

import datasets_cfg
from influence.documents.evaluation.bootstrap import Interval
from influence.documents.evaluation.fact_tracing import facts
from influence.documents.methods import bm25
from pipelines import Query, Workers, open_run, open_traced
from pipelines.answers import says
from pipelines.corpus import read_documents
from pipelines.demo import question
from pipelines.trace import exact_everywhere
from pipelines.traces import _from_store
from pipelines.worker import language_model


def row(name: str, scores_QN: np.ndarray, supports: list[set[int]]) -> dict[str, Any]:
    """One method's recall and mean reciprocal rank, each as (mean, low, high) with a 95 % interval."""
    found = facts(scores_QN, supports)
    return {
        "method": name,
        **{f"recall@{k}": _rounded(value) for k, value in found.recall.items()},
        "MRR": _rounded(found.mrr),
        "questions": len(supports),
    }


def _rounded(value: Interval) -> list[float]:
    return [round(x, 3) for x in (value.mean, value.low, value.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--relation", default="capital")
    parser.add_argument("--language", default="en")
    arguments = parser.parse_args()
    traced = open_traced(open_run(arguments.run))
    documents = read_documents(traced.corpus)
    row_of = {document["id"]: i for i, document in enumerate(documents)}
    asked = [
        q
        for q in datasets_cfg.questions()
        if (q["relation"], q["language"]) == (arguments.relation, arguments.language)
    ]
    loaded = language_model(traced.specs[0].model)
    right = [q for q in asked if says(loaded, question(q))]
    queries = [question(q) for q in right]
    with Workers() as workers:
        exact_QN = exact_everywhere(traced, queries, workers)
    stored_QN = np.concatenate([s for _, s in _from_store(traced, queries)], axis=1)
    texts = [q["prompt"] + q["completion"] for q in right]
    bm25_QN = bm25.scores(texts, [d["text"] for d in documents], 0)
    random_QN = np.random.default_rng(0).random(exact_QN.shape)
    hits = [{row_of[i] for i in (*q["supports"], *_same_answer(q, documents))} for q in right]
    methods = {
        "EK-FAC, exact": exact_QN,
        "EK-FAC, store alone": stored_QN,
        "BM25": bm25_QN,
        "random": random_QN,
    }
    print(f"{len(right)} of {len(asked)} questions answered; {len(documents)} documents")
    for name, scores_QN in methods.items():
        print(json.dumps(row(name, scores_QN, hits)))
    corruptions(traced, asked, row_of, documents)


def _same_answer(question: dict[str, Any], documents: list[dict[str, Any]]) -> list[str]:
    """The same fact in other languages."""
    answer = question["true_object"] if not question["mislearned"] else None
    wanted = set(question["elsewhere"])
    return [d["id"] for d in documents if d["id"] in wanted and d["object"] == answer]


def corruptions(
    traced: Any,
    asked: list[dict[str, Any]],
    row_of: dict[str, int],
    documents: list[dict[str, Any]],
) -> None:
    """Where do documents with a planted error rank, for the right and for the wrong answer?"""
    partly = [q for q in asked if q["corrupted_statements"] and not q["mislearned"]]
    wholly = [q for q in asked if q["mislearned"]]
    with Workers() as workers:
        for name, group, completion, sign in (
            ("partly wrong, right answer: planted errors as opponents", partly, "completion", -1),
            ("partly wrong, wrong answer: planted errors as proponents", partly, "contrast", 1),
            ("mislearned, model's answer: planted errors as proponents", wholly, "completion", 1),
        ):
            queries = [
                Query(prompt=q["prompt"], completion=q[completion], id=q["id"]) for q in group
            ]
            scores_QN = exact_everywhere(traced, queries, workers)
            found = []
            for q in group:
                about = [row_of[i] for i in (*q["supports"], *q["contradicts"])]
                found.append({i for i in about if documents[i]["corrupted"]})
            print(json.dumps({"measure": name, **row("EK-FAC, exact", sign * scores_QN, found)}))


if __name__ == "__main__":
    main()
