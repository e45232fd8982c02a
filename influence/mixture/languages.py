"""Does a fact that was read in one language help in another? Language by language, on parallel facts.

Queries ask for facts; fact documents are those that state any of them. For a query in one language
and the documents in another, its own documents (same fact) are set against all others (other facts)
of THAT language, so that a language that simply scores high gains nothing.

Axes: Q queries, F fact documents, A languages of queries, B languages of documents.
Units: those of the scores. Sign: positive helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from influence.documents.evaluation.bootstrap import interval
from influence.documents.evaluation.fact_tracing import best_ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class Languages:
    """One cell a language of queries and of documents; NaN: no such queries or documents."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    same_fact_AB: np.ndarray
    """Mean score of documents that state the query's own fact; queries count alike."""
    other_facts_AB: np.ndarray
    """Mean score of documents that state other facts, for the same queries."""
    mrr_AB: np.ndarray
    """Mean reciprocal rank of the own fact's first document among all of that language, 0 to 1."""
    mrr_low_AB: np.ndarray
    mrr_high_AB: np.ndarray
    """95 % interval, of a bootstrap over queries; NaN for one query."""
    queries_AB: np.ndarray
    """Queries with a document of their own fact, and one of another, in that language."""
    others: Mapping[str, np.ndarray]
    """The mean reciprocal rank of other methods, by name."""


def languages(
    scores_QF: np.ndarray,
    own_QF: np.ndarray,
    query_languages: Sequence[str],
    document_languages: Sequence[str],
    others: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> Languages:
    """Set documents of the same fact against those of other facts, language by language.

    Args:
        scores_QF: Scores of the fact documents.
        own_QF: Whether a document states the query's fact.
        query_languages: Of each query.
        document_languages: Of each fact document.
        others: Scores ``[Q, F]`` of other methods, to rank by.
        seed: Of the bootstrap.

    Returns:
        The matrices.
    """
    asked, read = _names(query_languages), _names(document_languages)
    query_Q, document_F = np.array(query_languages), np.array(document_languages)
    others = dict(others or {})
    shape = (len(asked), len(read))
    names = ("same", "other", "mrr", "low", "high", *others)
    found = {name: np.full(shape, np.nan) for name in names}
    count_AB = np.zeros(shape, np.int64)
    for b, language in enumerate(read):
        column_F = document_F == language
        own_Qf = own_QF[:, column_F]
        judged_Q = own_Qf.any(axis=1) & ~own_Qf.all(axis=1)
        for a, asked_in in enumerate(asked):
            chosen_Q = judged_Q & (query_Q == asked_in)
            count_AB[a, b] = chosen_Q.sum()
            if not chosen_Q.any():
                continue
            own_qf, scores_qf = own_Qf[chosen_Q], scores_QF[chosen_Q][:, column_F]
            found["same"][a, b] = _mean_where(scores_qf, own_qf)
            found["other"][a, b] = _mean_where(scores_qf, ~own_qf)
            supports = [set(np.flatnonzero(own_f).tolist()) for own_f in own_qf]
            spread = interval(1 / best_ranks(scores_qf, supports), seed)
            found["mrr"][a, b] = spread.mean
            if len(own_qf) > 1:
                found["low"][a, b], found["high"][a, b] = spread.low, spread.high
            for name, other_QF in others.items():
                ranks_q = best_ranks(other_QF[chosen_Q][:, column_F], supports)
                found[name][a, b] = (1 / ranks_q).mean()
    return Languages(
        queries=asked,
        documents=read,
        same_fact_AB=found["same"],
        other_facts_AB=found["other"],
        mrr_AB=found["mrr"],
        mrr_low_AB=found["low"],
        mrr_high_AB=found["high"],
        queries_AB=count_AB,
        others={name: found[name] for name in others},
    )


def _names(values: Sequence[str]) -> tuple[str, ...]:
    """The languages, those that occur most first."""
    counted = {value: values.count(value) for value in dict.fromkeys(values)}
    return tuple(sorted(counted, key=lambda name: (-counted[name], name)))


def _mean_where(scores_qf: np.ndarray, chosen_qf: np.ndarray) -> float:
    """Mean over queries of the mean of each query's chosen scores."""
    return float(((scores_qf * chosen_qf).sum(axis=1) / chosen_qf.sum(axis=1)).mean())
