"""Sanity: do scores depend on the query, on the weights, on the draw of labels, on compression?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from influence.documents.evaluation.bootstrap import Interval
from influence.documents.evaluation.sanity import agreement, cardinality
from influence.models import fingerprint, quiet_transformers
from pipelines.cluster import Workers
from pipelines.measures.options import EvaluationOptions, Scores, row
from pipelines.method_scores import one_method
from pipelines.queries import Query
from pipelines.run_folder import key_of
from pipelines.runs import Run
from pipelines.training import plan_training, start_model, trained_tokenizer
from pipelines.worker import ModelSpec


def measure(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> list[dict[str, Any]]:
    """Do scores depend on the query, on the weights, on the draw of labels, on compression?

    Returns:
        Up to four measures.
    """
    k = min(options.top, run.tokens.info()["documents"])
    distinct = []
    for name, scores_QN in scores.items():
        value = cardinality(scores_QN, k)
        distinct.append(row(name, Interval(value, value, value), len(queries)))
    found = [
        {
            "name": "sanity-distinct",
            "check": True,
            "title": f"Distinct documents in the top {k}",
            "about": f"Distinct documents among all queries' top {k}, as a share of all places (1: "
            "no two queries share one). A method that gives every query the same loud "
            "documents fails.",
            "better": "higher",
            "reference": None,
            "setting": {"k": k},
            "rows": distinct,
        }
    ]
    if "ekfac" in scores:
        found += [_labels(run, queries, scores, options, workers)]
    found += _store(run)
    if run.config.train == "scratch":
        found += [_random_weights(run, queries, scores, options, workers)]
    return found


def _labels(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> dict[str, Any]:
    config = run.config.model_copy(update={"label_seed": run.config.label_seed + 1})
    other_QN = one_method(replace(run, config=config), queries, "ekfac", workers)
    value = agreement(scores["ekfac"], other_QN, options.seed)
    return {
        "name": "sanity-labels",
        "check": True,
        "title": "Agreement of two label draws",
        "about": "Spearman over documents between EK-FAC scores from two draws of the Fisher's "
        "labels: the noise floor of the scores. Near 1 is good.",
        "better": "higher",
        "reference": None,
        "setting": {"label seeds": f"{run.config.label_seed} and {config.label_seed}"},
        "rows": [row("ekfac", value, len(queries))],
    }


def _store(run: Run) -> list[dict[str, Any]]:
    if run.gradients is None:
        return []
    fidelity = run.gradients.info()["fidelity"]
    value = float(fidelity["spearman"])
    return [
        {
            "name": "sanity-store",
            "check": True,
            "title": "Agreement of the store",
            "about": "Spearman over documents between scores from the compressed store and exact "
            "ones, on the sample that was taken when the store was made.",
            "better": "higher",
            "reference": None,
            "setting": {"documents": fidelity["documents"]},
            "rows": [row("ekfac", Interval(value, value, value), int(fidelity["queries"]))],
        }
    ]


def _random_weights(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> dict[str, Any]:
    model = workers.map(make_untrained, [run], None)[0]
    untrained = replace(run, model=model, config=run.config.model_copy(update={"train": "none"}))
    rows = []
    for name in ("ekfac", "identity"):
        if name in scores:
            other_QN = one_method(untrained, queries, name, workers)
            value = agreement(scores[name], other_QN, options.seed)
            rows.append(row(name, value, len(queries)))
    return {
        "name": "sanity-weights",
        "check": True,
        "title": "Agreement with an untrained model",
        "about": "Spearman over documents between scores of the trained model and of one with "
        "random weights. Scores that hardly change say nothing about what the model "
        "learned.",
        "better": "lower",
        "reference": None,
        "setting": {},
        "rows": rows,
    }


def make_untrained(run: Run) -> ModelSpec:
    """The run's architecture with fresh weights, kept in the run folder (runs on a worker).

    Returns:
        Its spec.
    """
    spec = plan_training(run.config, run.tokens, {"source": run.model.source})
    spec = replace(spec, seed=spec.seed + 777)
    folder = run.root / "untrained" / key_of(sizes=spec.sizes, seed=spec.seed, t=run.tokens.key)
    tokenizer = trained_tokenizer(spec)
    model: Any = start_model(spec, tokenizer)
    with quiet_transformers():
        model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return replace(
        run.model,
        source=str(folder),
        fingerprint=fingerprint(folder),
        tokenizer=None,
        head_basis=None,
    )
