"""Does the suspects list find what was planted? Written to Markdown.

    influence demo
    python benchmarks/suspects.py runs/demo --out benchmarks/results/suspects.md

Planted in the embedded corpus: facts stated wrongly by one of their documents (contradicted) or by all
of them (mislearned: no other document says otherwise), and light edits of other documents.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from influence.evaluation.bootstrap import Interval, measure
from influence.evaluation.discrimination import Statistic, average_precision_of
from influence.mixture.suspects import suspicion
from pipelines import Run, Workers, open_run
from pipelines.corpus import read_documents
from pipelines.duplicates import find_duplicates, read_clusters
from pipelines.mixture_groups import counted_tokens
from pipelines.mixture_queries import read_tasks
from pipelines.runs import open_traced
from pipelines.scoring import exact_everywhere
from pipelines.suspects import find_suspects, gather_reasons


def precision_at_planted(scores_N: np.ndarray, labels_N: np.ndarray) -> Statistic:
    """Share of planted among the k first, k the number planted: precision and recall are one."""
    order = np.argsort(-np.asarray(scores_N, np.float64), kind="stable")
    labels_N = np.asarray(labels_N, bool)[order]

    def statistic(weights_DN: np.ndarray) -> np.ndarray:
        weights_DN = weights_DN[:, order]
        planted_D = weights_DN[:, labels_N].sum(axis=1)
        before_DN = np.cumsum(weights_DN, axis=1) - weights_DN
        taken_DN = np.clip(planted_D[:, None] - before_DN, 0, weights_DN)
        found_D = taken_DN[:, labels_N].sum(axis=1)
        return np.divide(found_D, planted_D, out=np.full(len(found_D), np.nan), where=planted_D > 0)

    return statistic


def planted(run: Run) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What was planted, and the entity of each document: its fact, or itself."""
    documents = read_documents(run.corpus)
    stating = defaultdict(list)
    for row in documents:
        if row["fact"] and row["language"] == "en":
            stating[row["fact"]].append(bool(row["corrupted"]))
    mislearned = {fact for fact, wrong in stating.items() if all(wrong)}
    corrupted = np.array([bool(row["corrupted"]) for row in documents])
    hopeless = np.array([row["fact"] in mislearned for row in documents])
    edited = np.array([row["duplicate_of"] is not None for row in documents])
    labels = {
        "contradicted facts": corrupted & ~hopeless,
        "all wrong facts (mislearned too)": corrupted,
        "near-duplicates": edited,
        "contradicted facts and near-duplicates": (corrupted & ~hopeless) | edited,
    }
    entities = [row["fact"] or row["duplicate_of"] or row["id"] for row in documents]
    return labels, np.array(entities)


def scores_of(run: Run, workers: Workers) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rankings of the documents, and lines about the list that users get."""
    queries = read_tasks(None, run)
    tasks = list(dict.fromkeys(str(query.task) for query in queries))
    count = run.tokens.info()["documents"]
    scores_QN = exact_everywhere(open_traced(run, exact=True), queries, workers) / count
    task_Q = np.array([tasks.index(str(query.task)) for query in queries])
    scores_TN = np.stack([scores_QN[task_Q == task].mean(axis=0) for task in range(len(tasks))])
    clusters = find_duplicates(run.corpus, run.root, workers)
    groups = [row["source"] for row in read_documents(run.corpus)]
    reasons = gather_reasons(run, scores_TN, groups, clusters, workers)
    store = open_traced(run).store
    assert store is not None
    meta = store.metadata()
    loss_N = meta.column("loss").to_numpy().astype(np.float64)
    rankings = {
        "suspicion (all reasons)": suspicion(reasons),
        "suspicion without duplicates": suspicion([r for r in reasons if r.kind != "duplicate"]),
        **{f"only: {reason.kind}": -reason.p_N for reason in reasons},
        "loss alone": loss_N,
        "loss a token alone": loss_N / counted_tokens(run),
        "self-influence alone": meta.column("self_influence").to_numpy().astype(np.float64),
        "random": np.random.default_rng(0).random(count),
    }
    listed = find_suspects(run, scores_TN, groups, clusters, workers, top=count)
    return rankings, _about_the_list(run, listed)


def _about_the_list(run: Run, listed: list[dict]) -> list[str]:
    labels, _ = planted(run)
    row_of = {row["id"]: number for number, row in enumerate(read_documents(run.corpus))}
    lines = [f"The list names {len(listed)} documents."]
    for kind in ("hurts", "self-influence", "against neighbours", "duplicate"):
        own = [s for s in listed if any(r["kind"] == kind for r in s["reasons"])]
        clear = [s for s in own if any(r["kind"] == kind and r["clear"] for r in s["reasons"])]
        rows = [row_of[s["id"]] for s in own]
        hits = ", ".join(
            f"{int(labels[name][rows].sum())} of {int(labels[name].sum())} {name}"
            for name in ("contradicted facts", "near-duplicates")
        )
        lines.append(f"- {kind}: {len(own)} documents ({len(clear)} clear), among them {hits}.")
    return lines


def _cell(make: Callable[..., Statistic], scores_N, labels_N, entities) -> str:
    one: Interval = measure(make, scores_N, labels_N, entities)
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    run = open_run(asked.run)
    with Workers(asked.workers) as workers:
        rankings, about = scores_of(run, workers)
        clusters = read_clusters(find_duplicates(run.corpus, run.root, workers))
    labels, entities = planted(run)
    together = np.array([labels["near-duplicates"][clusters == c].any() for c in clusters])
    beyond = clusters != np.arange(len(clusters))
    lines = [
        "# Suspects against what was planted",
        "",
        f"Run `{run.config.name}`, {len(clusters):,} documents. `python benchmarks/suspects.py`.",
        "Intervals: 95 %, bootstrap by fact (a document that states none is its own).",
        "Precision at k, with k the number planted, is recall at k too.",
        "",
        f"Near-duplicate clusters alone: {int(beyond.sum())} documents beyond the first of a cluster, "
        f"of which {int((beyond & together).sum())} lie in a cluster with a planted edit; "
        f"{int((labels['near-duplicates'] & (np.bincount(clusters)[clusters] > 1)).sum())} of "
        f"{int(labels['near-duplicates'].sum())} planted edits lie in a cluster.",
        "",
        *about,
        "",
    ]
    for name, labels_N in labels.items():
        lines += [
            f"## {name}: {int(labels_N.sum())} planted",
            "",
            "| ranking | precision = recall at k | average precision |",
            "|---|---|---|",
        ]
        for ranking, scores_N in rankings.items():
            lines.append(
                f"| {ranking} | {_cell(precision_at_planted, scores_N, labels_N, entities)} | "
                f"{_cell(average_precision_of, scores_N, labels_N, entities)} |"
            )
        lines.append("")
    asked.out.write_text("\n".join(lines), "utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
