"""The suspects of a mixture: documents that hurt, stand out, repeat others, or are contradicted.

Influence of documents on each other is read from the gradient store, as a random sketch of its
vectors; without a store, or with one that keeps factors, reasons that need it are left out.

Axes: T tasks, N documents, K neighbours, P numbers of a stored vector, S numbers of a sketch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array

import gradients_store
from influence.mixture.neighbours import nearest_in_words
from influence.mixture.suspects import (
    Evidence,
    against_neighbours,
    duplicates,
    hurts,
    outliers,
    suspicion,
)
from pipelines.cluster import Workers, bar
from pipelines.corpus import read_columns
from pipelines.duplicates import read_clusters, read_similarity
from pipelines.gradient_files import load_sketch
from pipelines.mixture_groups import counted_tokens
from pipelines.run_folder import Stage
from pipelines.runs import Run, open_traced

TOP = 100
SKETCH = 4096
"""Numbers that a stored vector is summed into; a cosine is off by about 1 / sqrt(SKETCH) = 0.016."""
MOST_COMPARED = 50_000
"""Documents above which they are not compared with their neighbours."""
UNITS = {
    "hurts": "share of tasks",
    "self-influence": "times what its length explains",
    "against neighbours": "weighted cosine",
    "duplicate": "Jaccard similarity",
}


def find_suspects(
    run: Run,
    scores_TN: np.ndarray,
    groups: Sequence[str],
    clusters: Stage,
    workers: Workers,
    top: int = TOP,
) -> list[dict[str, Any]]:
    """List the most suspicious documents with their reasons.

    Args:
        run: A finished run.
        scores_TN: Each document's mean score for each task, nats per document removed.
        groups: Group of each document; peers are documents of one group and language.
        clusters: The sealed stage of ``find_duplicates``.
        workers: Of its console, for progress.
        top: How many at most.

    Returns:
        ``suspects`` of mixture.json, most suspicious first, so that the strongest of every reason
        come before the second strongest; only documents with a reason.
    """
    reasons = gather_reasons(run, scores_TN, groups, clusters, workers)
    suspicion_N = suspicion(reasons)
    listed_N = np.any([reason.hint_N for reason in reasons], axis=0)
    order = np.argsort(-suspicion_N, kind="stable")
    chosen = [int(row) for row in order if listed_N[row]][:top]
    return _described(run, chosen, reasons, suspicion_N, groups, clusters, len(scores_TN))


def gather_reasons(
    run: Run,
    scores_TN: np.ndarray,
    groups: Sequence[str],
    clusters: Stage,
    workers: Workers,
) -> list[Evidence]:
    """All that speaks against each document.

    Args:
        run: A finished run.
        scores_TN: Each document's mean score for each task, nats per document removed.
        groups: Group of each document.
        clusters: The sealed stage of ``find_duplicates``.
        workers: Of its console, for progress.

    Returns:
        Reasons: hurts and duplicate; self-influence with a store; against neighbours with a store of
        vectors and no more than ``MOST_COMPARED`` documents.
    """
    languages = read_columns(run.corpus, ["language"]).column("language").to_pylist()
    peer_N = np.array([f"{a}\0{b}" for a, b in zip(groups, languages, strict=True)])
    cluster_N = read_clusters(clusters)
    reasons = [hurts(scores_TN, peer_N), duplicates(cluster_N, read_similarity(clusters))]
    if run.gradients is None:
        return reasons
    store = open_traced(run).store
    assert store is not None
    self_N = store.metadata().column("self_influence").to_numpy().astype(np.float64)
    reasons.append(outliers(self_N, counted_tokens(run), peer_N))
    if len(store) <= MOST_COMPARED and store.header.sketch != "factors":
        texts = read_columns(run.corpus, ["text"]).column("text").to_pylist()
        rows_NK, words_NK = nearest_in_words(texts, cluster_N)
        separable = load_sketch(str(run.gradients.path / "sketch.safetensors")).separable
        if not separable:
            cosine_NK = cosines(store, rows_NK, workers)
            reasons.append(against_neighbours(cosine_NK, words_NK, peer_N))
    return reasons


def cosines(
    store: gradients_store.Store, rows_NK: np.ndarray, workers: Workers, seed: int = 0
) -> np.ndarray:
    """Cosines of stored vectors with those of some other documents.

    Each vector is summed into `SKETCH` numbers: every coordinate has a random place and sign, which
    keeps inner products in the mean (Charikar, Chen & Farach-Colton 2002, "count sketch").

    Args:
        store: A store of vectors whose inner products are influences.
        rows_NK: For each document the rows of others.
        workers: Of its console, for progress.
        seed: Of the places and signs.

    Returns:
        ``[N, K]``; 0 where a vector is 0.
    """
    size, generator = store.header.dimension, np.random.default_rng([seed, 31])
    sign_P = generator.choice(np.array([-1.0, 1.0], np.float32), size)
    place_P = generator.integers(0, SKETCH, size)
    into_SP = csr_array((sign_P, (place_P, np.arange(size))), shape=(SKETCH, size))
    sketch_NS = np.empty((len(store), SKETCH), np.float32)
    with bar(workers.console, "Comparing documents with neighbours", len(store)) as advance:
        for start, vectors_bP in store.blocks():
            sketch_bS = (into_SP @ vectors_bP.T).T
            length_b = np.linalg.norm(sketch_bS, axis=1, keepdims=True)
            scaled = sketch_bS / np.where(length_b > 0, length_b, 1.0)
            sketch_NS[start : start + len(vectors_bP)] = scaled
            advance(len(vectors_bP))
    parts = [np.einsum("ns,ns->n", sketch_NS, sketch_NS[rows_N]) for rows_N in rows_NK.T]
    return np.stack(parts, axis=1).astype(np.float64)


# -- in words ----------------------------------------------------------------------------------------


def _described(
    run: Run,
    chosen: Sequence[int],
    reasons: Sequence[Evidence],
    suspicion_N: np.ndarray,
    groups: Sequence[str],
    clusters: Stage,
    tasks: int,
) -> list[dict[str, Any]]:
    columns = read_columns(run.corpus, ["id", "language", "text"])
    ids = columns.column("id").to_pylist()
    cluster_N, tokens_N = read_clusters(clusters), counted_tokens(run)
    found = []
    for rank, row in enumerate(chosen, 1):
        members = np.flatnonzero(cluster_N == cluster_N[row]).tolist()
        several = len(members) > 1
        found.append(
            {
                "rank": rank,
                "id": ids[row],
                "group": groups[row],
                "language": columns.column("language")[row].as_py(),
                "text": columns.column("text")[row].as_py(),
                "n_tokens": int(tokens_N[row]),
                "suspicion": float(suspicion_N[row]),
                "reasons": [
                    {
                        "kind": reason.kind,
                        "value": float(reason.value_N[row]),
                        "unit": UNITS[reason.kind],
                        "words": _in_words(reason, row, tasks, ids[int(cluster_N[row])]),
                        "clear": bool(reason.clear_N[row]),
                    }
                    for reason in reasons
                    if reason.hint_N[row]
                ],
                "cluster": ids[int(cluster_N[row])] if several else None,
                "others": [ids[member] for member in members if member != row],
            }
        )
    return found


def _in_words(reason: Evidence, row: int, tasks: int, first: str) -> str:
    value, z = float(reason.value_N[row]), float(reason.z_N[row])
    if reason.kind == "duplicate":
        return f"It says almost the same as {first} (Jaccard similarity {value:.2f})."
    if reason.kind == "against neighbours":
        how = "push the model the other way" if value < 0 else "agree with it less than they might"
        said = f"The documents with the most similar words {how} (weighted cosine {value:+.2f})"
    elif reason.kind == "hurts":
        said = f"It hurts {round(value * tasks)} of {tasks} tasks, more than documents of its kind"
    else:
        said = f"Its self-influence is {value:.1f} times what its length explains"
    sure = "" if reason.clear_N[row] else "; a hint, which chance alone may give"
    return f"{said} ({z:.1f} robust standard deviations from its kind){sure}."
