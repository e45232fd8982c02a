"""Linear datamodeling score: do summed scores predict what training on a half does?

Axes: Q queries, N documents, S subsets, R seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from influence.documents.evaluation.lds import ceiling, lds
from pipelines.cluster import Workers
from pipelines.measures.options import EvaluationOptions, Scores, row
from pipelines.queries import Query
from pipelines.retraining import half_subsets, membership, retrained
from pipelines.runs import Run


def measure(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> list[dict[str, Any]]:
    """Linear datamodeling score: do summed scores predict what training on a half does?

    Returns:
        One measure.
    """
    documents = run.tokens.info()["documents"]
    halves = half_subsets(documents, options.subsets, options.seed)
    label = f"Training on {options.subsets} halves"
    truth = retrained(run, halves, options.seeds, queries, workers, label)
    inside_SN = membership(halves, documents)
    rows = []
    for name, scores_QN in scores.items():
        found = lds(scores_QN, inside_SN, truth.losses_SRQ, options.seed)
        rows.append(row(name, found.interval, len(queries)))
    top = ceiling(truth.losses_SRQ, options.seed)
    reference = None
    if top is not None:
        reference = {
            "name": "ceiling",
            "value": top.ceiling,
            "about": "What a perfect method would score: trainings with another seed differ. "
            f"Split-half correlation of the trainings {top.split_half:.2f}, reliability of "
            f"their mean {top.reliability:.2f}.",
        }
    return [
        {
            "name": "lds",
            "title": "LDS",
            "about": "Linear datamodeling score: the model is trained again on random halves of the "
            "documents; the summed scores of a half shall predict the query's loss "
            "(Spearman over the halves, mean over queries; 1: perfectly, 0: not at all). "
            "Use it to ask whether scores mean what they claim for whole sets of "
            "documents.",
            "better": "higher",
            "reference": reference,
            "setting": {
                "halves": options.subsets,
                "seeds a half": options.seeds,
                "interval": "95 %, bootstrap over queries",
            },
            "rows": rows,
        }
    ]
