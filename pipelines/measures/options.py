"""One function a measure: from a run, queries and methods' scores to rows of a report.

Axes: Q queries, N documents, S subsets, R seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from influence.documents.evaluation.bootstrap import Interval, interval
from influence.documents.evaluation.brittleness import brittleness, top_k
from influence.documents.evaluation.corruption import corruption
from influence.documents.evaluation.fact_tracing import facts
from influence.documents.evaluation.lds import ceiling, lds
from influence.documents.evaluation.sanity import agreement, cardinality
from influence.documents.evaluation.tail_patch import tail_patch
from influence.models import quiet_transformers
from influence.text import collate, encode_query
from pipelines.checkpoints import fingerprint
from pipelines.cluster import Workers
from pipelines.corpus import document_ids, read_columns
from pipelines.errors import RunError
from pipelines.method_scores import one_method
from pipelines.queries import Query
from pipelines.retraining import half_subsets, membership, retrained
from pipelines.run_folder import key_of
from pipelines.runs import Run, open_traced
from pipelines.tokens import read_chunks, shard_path
from pipelines.training import plan_training, start_model, trained_tokenizer
from pipelines.worker import ModelSpec, language_model

Scores = Mapping[str, np.ndarray]
"""For each method ``[Q, N]``."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What to measure, and how much work to put into it."""

    measures: tuple[str, ...]
    methods: tuple[str, ...]
    queries: int = 50
    """Queries, where no file names them."""
    subsets: int = 40
    """Random halves to train on (lds)."""
    seeds: int = 2
    """Trainings a half (lds) or removal (brittleness)."""
    brittle_queries: int = 10
    """Queries for brittleness: each removal of each is a training."""
    remove: tuple[str, ...] = ("5%",)
    """How many documents to remove (brittleness): numbers or shares."""
    brittle_methods: tuple[str, ...] = ("ekfac", "bm25", "embedding", "random")
    """Methods compared in brittleness, those of them that were chosen."""
    patch: int = 20
    """Documents of one tail-patch step."""
    step: float = 0.1
    """Learning rate of the tail-patch step."""
    top: int = 20
    """k of the sanity check of distinct documents."""
    flag: str = "corrupted"
    """Boolean column of documents that corruption detection shall find."""
    seed: int = 0


def row(method: str, value: Interval, n: int, **extra: Any) -> dict[str, Any]:
    """One line of a measure.

    Returns:
        A row of the result's layout.
    """
    return {
        "method": method,
        "mean": value.mean,
        "low": value.low,
        "high": value.high,
        "n": n,
        "extra": extra,
    }


# -- retraining -------------------------------------------------------------------------------------


def measure_lds(
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


def measure_brittleness(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> list[dict[str, Any]]:
    """Train without the strongest proponents of a query: how much does its loss rise?

    Returns:
        One measure for each number of documents removed.
    """
    documents = run.tokens.info()["documents"]
    asked = list(range(min(options.brittle_queries, len(queries))))
    names = [n for n in options.brittle_methods if n in scores]
    everything = np.arange(documents)
    full = retrained(
        run, [everything], options.seeds, queries, workers, "Training on all documents"
    )
    full_RQ = full.losses_SRQ[0][:, asked]
    result = []
    for amount in options.remove:
        k = count_of(amount, documents)
        generator = np.random.default_rng([options.seed, 3, k])
        random_sets = [
            np.setdiff1d(everything, generator.permutation(documents)[:k]) for _ in range(4)
        ]
        label = f"Training without {k} documents"
        chance = retrained(run, random_sets, options.seeds, queries, workers, f"{label} at random")
        chance_DQ = chance.losses_SRQ[:, :, asked].reshape(-1, len(asked))
        rows = []
        for name in names:
            sets = [np.setdiff1d(everything, top_k(scores[name][q], k)) for q in asked]
            without = retrained(run, sets, options.seeds, queries, workers, f"{label} ({name})")
            own_RQ = np.stack([without.losses_SRQ[i, :, q] for i, q in enumerate(asked)], axis=1)
            right_RQ = np.stack([without.right_SRQ[i, :, q] for i, q in enumerate(asked)], axis=1)
            was_RQ = full.right_SRQ[0][:, asked]
            found = brittleness(own_RQ, full_RQ, chance_DQ, was_RQ & ~right_RQ, options.seed)
            extra: dict[str, Any] = {}
            if found.flips is not None:
                extra["answers lost"] = f"{found.flips.mean:.0%}"
            if found.above_random is not None:
                low, high = found.above_random.low, found.above_random.high
                extra["above random removal"] = (
                    f"{found.above_random.mean:+.2f} [{low:+.2f}, {high:+.2f}]"
                )
            rows.append(row(name, found.rise, len(asked), **extra))
        result.append(_brittleness(amount, k, rows, options))
    return result


def _brittleness(
    amount: str, k: int, rows: list[dict[str, Any]], options: EvaluationOptions
) -> dict[str, Any]:
    return {
        "name": f"brittleness-{amount}",
        "title": f"Brittleness, {amount} removed",
        "about": f"The model is trained again without the {k} documents that a method ranks "
        "highest for a query; the number is the rise of the query's loss, in nats. Use "
        "it to ask whether a method finds the documents that an output depends on.",
        "better": "higher",
        "reference": None,
        "setting": {
            "documents removed": k,
            "seeds": options.seeds,
            "interval": "95 %, bootstrap over queries",
        },
        "rows": rows,
    }


def count_of(amount: str, documents: int) -> int:
    """How many documents an amount such as ``50`` or ``5%`` is.

    Returns:
        At least 1, fewer than all.

    Raises:
        RunError: If it is no such number.
    """
    share = amount.endswith("%")
    try:
        number = float(amount.rstrip("%"))
    except ValueError:
        number = -1.0
    count = round(number / 100 * documents) if share else round(number)
    if not 1 <= count < documents:
        raise RunError(
            f"Evaluation: remove {amount!r} of {documents} documents given, a number below "
            f"that or a share "
            "such as 5% was expected."
        )
    return count


# -- one step ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PatchSpec:
    """Tail-patch of one query under one method."""

    model: ModelSpec
    tokens: str
    shard_size: int
    query: Query
    rows: tuple[int, ...]
    step: float


def patch(spec: PatchSpec) -> float:
    """One gradient step on some documents (runs on a worker).

    Returns:
        Rise of the completion's log-probability (less the contrast's, where there is one), nats.
    """
    loaded = language_model(spec.model)
    chunks = []
    for index in spec.rows:
        shard = read_chunks(shard_path(Path(spec.tokens), index // spec.shard_size))
        chunks += [c for c in shard if c.document == index]
    documents = collate(chunks, loaded.pad_id).to(loaded.device)

    def rise(completion: str) -> float:
        asked = encode_query(loaded.tokenizer, spec.query.prompt, completion, loaded.max_tokens)
        batch = collate([asked], loaded.pad_id).to(loaded.device)
        return tail_patch(loaded.model, documents, batch, spec.step)

    contrast = spec.query.contrast
    return rise(spec.query.completion) - (0.0 if contrast is None else rise(contrast))


def measure_tail_patch(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> list[dict[str, Any]]:
    """One step on the strongest proponents: how much likelier does the completion become?

    Returns:
        One measure.
    """
    k = min(options.patch, run.tokens.info()["documents"])
    rows = []
    for name, scores_QN in scores.items():
        specs = [
            PatchSpec(
                model=replace(run.model, head_basis=None),
                tokens=str(run.tokens.path),
                shard_size=run.config.documents_per_shard,
                query=query,
                rows=tuple(int(i) for i in top_k(scores_QN[q], k)),
                step=options.step,
            )
            for q, query in enumerate(queries)
        ]
        rises = workers.map(patch, specs, f"Tail-patch: {name}")
        rows.append(row(name, interval(np.array(rises), options.seed), len(queries)))
    return [
        {
            "name": "tail-patch",
            "title": "Tail-patch",
            "about": f"One step of gradient descent on the {k} strongest proponents; the number is "
            "the rise of the completion's log-probability, in nats. Use it to ask what "
            "more training on these documents would do; it favours methods close to the "
            "plain gradient.",
            "better": "higher",
            "reference": None,
            "setting": {"documents": k, "learning rate": options.step},
            "rows": rows,
        }
    ]


# -- known answers ----------------------------------------------------------------------------------


def measure_facts(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> list[dict[str, Any]]:
    """Are documents that are known to state the fact ranked first?

    Returns:
        One measure; none where no query names its documents.
    """
    row_of = {name: i for i, name in enumerate(document_ids(run.corpus))}
    asked = [(i, q) for i, q in enumerate(queries) if any(s in row_of for s in q.supports)]
    if not asked:
        return []
    supports = [{row_of[s] for s in q.supports if s in row_of} for _, q in asked]
    chosen = [i for i, _ in asked]
    rows = []
    for name, scores_QN in scores.items():
        found = facts(scores_QN[chosen], supports, seed=options.seed)
        extra = {f"recall at {k}": f"{value.mean:.0%}" for k, value in found.recall.items()}
        rows.append(row(name, found.mrr, len(asked), **extra))
    return [
        {
            "name": "facts",
            "title": "Fact tracing (MRR)",
            "about": "Mean reciprocal rank of the first document that states the queried fact (1: "
            "always first). Use it to ask whether a method retrieves statements; word "
            "overlap (BM25) is strong here, and it can't say which of them moved the "
            "model.",
            "better": "higher",
            "reference": None,
            "setting": {"queries with known documents": len(asked)},
            "rows": rows,
        }
    ]


def measure_corruption(
    run: Run, queries: Sequence[Query], scores: Scores, options: EvaluationOptions, workers: Workers
) -> list[dict[str, Any]]:
    """Does self-influence find flagged documents better than their loss does?

    Returns:
        One measure; none where the corpus has no flags or the run no store.
    """
    names = _columns(run)
    if options.flag not in names or run.gradients is None:
        return []
    table = read_columns(run.corpus, [options.flag, "source"])
    flagged_N = np.array([value is True for value in table.column(options.flag).to_pylist()])
    source_N = np.array([str(value) for value in table.column("source").to_pylist()])
    alike_N = np.isin(source_N, source_N[flagged_N])
    flagged_N = flagged_N[alike_N]
    if flagged_N.all() or not flagged_N.any():
        return []
    store = open_traced(run).store
    assert store is not None
    stored = store.metadata()
    found = corruption(
        stored.column("self_influence").to_numpy()[alike_N],
        stored.column("loss").to_numpy()[alike_N],
        flagged_N,
        seed=options.seed,
    )
    count = int(flagged_N.sum())
    return [
        {
            "name": "corruption",
            "title": "Corruption (AUROC)",
            "about": f"Chance that a document flagged “{options.flag}” has a larger self-influence "
            "than another one of the same sources (0.5: no better than a coin). The loss "
            "is the baseline. Use it to ask whether a corpus can be cleaned by these "
            "numbers.",
            "better": "higher",
            "reference": {"name": "chance", "value": 0.5, "about": "A coin."},
            "setting": {"flagged documents": count, "documents": len(flagged_N)},
            "rows": [
                row("self-influence", found.self_influence, count),
                row("loss", found.loss, count),
            ],
        }
    ]


def _columns(run: Run) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_schema(run.corpus.path / "documents.parquet").names)


# -- sanity -----------------------------------------------------------------------------------------


def measure_sanity(
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


MEASURES = {
    "facts": measure_facts,
    "corruption": measure_corruption,
    "sanity": measure_sanity,
    "tail-patch": measure_tail_patch,
    "lds": measure_lds,
    "brittleness": measure_brittleness,
}
"""By name, cheap ones first."""


def known_measures(names: Sequence[str]) -> tuple[str, ...]:
    """Measures by name, once each, cheap ones first.

    Args:
        names: As the user typed them.

    Returns:
        Names.

    Raises:
        RunError: For an unknown one, with the nearest.
    """
    for name in names:
        if name not in MEASURES:
            near = get_close_matches(name, MEASURES, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RunError(
                f"Evaluation: measure {name!r} given, some of {', '.join(MEASURES)} were expected.{hint}"
            )
    return tuple(name for name in MEASURES if name in names)
