"""One row for a cluster of near-duplicates: its strongest document, and what the others add.

Near-duplicates share what they teach, so each of them looks weaker than the fact they state. Their
scores add up to the effect of removing them all, to first order.

Axes: N documents of the corpus, D candidates of a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.duplicates import read_clusters
from pipelines.scoring import Traced


def clusters_of(run: Traced) -> np.ndarray | None:
    """The cluster of every document ``[N]``; None where near-duplicates were not looked for."""
    return None if run.duplicates is None else read_clusters(run.duplicates)


def representatives(total_D: np.ndarray, cluster_D: np.ndarray) -> np.ndarray:
    """Whether a candidate is the strongest of its cluster, of either sign; of equal ones the first.

    Args:
        total_D: Scores.
        cluster_D: Each candidate's cluster.

    Returns:
        bool ``[D]``.
    """
    order = np.argsort(-np.abs(total_D), kind="stable")
    kept = np.zeros(len(total_D), dtype=bool)
    kept[order[np.unique(cluster_D[order], return_index=True)[1]]] = True
    return kept


def cluster_fields(
    position: int,
    rows_D: np.ndarray,
    score_D: np.ndarray,
    cluster_N: np.ndarray,
    ids: Sequence[str],
) -> dict[str, Any]:
    """What a row says of its cluster.

    Args:
        position: The row's place among the candidates.
        rows_D: Row numbers of the candidates in the corpus.
        score_D: Their scores, nats per document removed.
        cluster_N: The cluster of every document.
        ids: Names of all documents.

    Returns:
        ``cluster``, ``cluster_documents``, ``cluster_score`` and ``others`` (see ``docs/trace.md``);
        empty for a document that is alone.
    """
    own = cluster_N[rows_D[position]]
    documents = int((cluster_N == own).sum())
    if documents < 2:
        return {}
    scored = np.flatnonzero(cluster_N[rows_D] == own)
    others = sorted(set(scored.tolist()) - {position}, key=lambda d: (-abs(score_D[d]), d))
    return {
        "cluster": ids[int(own)],
        "cluster_documents": documents,
        "cluster_score": float(score_D[scored].sum()),
        "others": [{"id": ids[int(rows_D[d])], "score": float(score_D[d])} for d in others],
    }
