"""Stage 5: which training documents made the model say it?

Search the store for candidates of both signs, score those exactly with full gradients, by layer and
by token; or, ``exact``, score every document without a store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

import gradients_store
from influence.documents.scores import (
    SIGN,
    UNIT,
    normalised,
    token_scores,
)
from influence.text import Chunk, token_texts
from pipelines.answers import greedy
from pipelines.cluster import Workers
from pipelines.corpus import metadata, read_documents
from pipelines.queries import Query
from pipelines.run_folder import key_of, new_file, write_json
from pipelines.scoring import (
    DocumentScores,
    SolvedBlock,
    Traced,
    blocks,
    chunk_batches,
    exact_everywhere,
    score_documents,
    solve,
)
from pipelines.trace_clusters import cluster_fields, clusters_of, representatives
from pipelines.worker import language_model, layers_of

QUERIES_AT_ONCE = 64
"""Most queries that are traced at once: each candidate of one of them is scored for all of them."""

Heat = dict[int, list[tuple[str, float, bool]]]
"""By row number of a document: its tokens' texts, scores in nats times N, and whether special."""


@dataclass(frozen=True)
class Explained:
    """One query's candidates with their exact scores, and those that are shown."""

    own: DocumentScores
    """With Q = 1."""
    chosen: dict[str, list[int]]
    """Positions in ``own`` of the proponents and the opponents, strongest first."""
    heat: Heat
    cluster_N: np.ndarray | None
    """The cluster of every document of the corpus; None: near-duplicates were not looked for."""


def trace(
    run: Traced,
    queries: Sequence[Query],
    how: HowToTrace,
    workers: Workers,
) -> Iterator[dict[str, Any]]:
    """Trace queries to their training documents.

    Args:
        run: A finished run.
        queries: What to explain.
        how: How far to look, and how much to show.
        workers: Where exact scoring runs.

    Yields:
        One trace a query, a plain dict (see ``docs/trace.md``); its files are already written.
    """
    everywhere = exact_everywhere(run, queries, workers) if how.exact or run.store is None else None
    start, cluster_N = 0, clusters_of(run)
    for block in blocks(run, queries, QUERIES_AT_ONCE):
        clock = time.perf_counter
        begun = clock()
        solved = solve(run, block)
        seconds = {"query": clock() - begun}
        rows_QN = None if everywhere is None else everywhere[start : start + len(block)]
        found = _search(run, solved, how.candidates, rows_QN)
        seconds["search"] = clock() - begun - sum(seconds.values())
        scored = score_documents(run, solved, {int(r) for one in found for r in one["rows"]})
        seconds["rerank"] = clock() - begun - sum(seconds.values())
        own = [_of_query(scored, q, one["rows"]) for q, one in enumerate(found)]
        chosen = [_chosen(one, how.top, cluster_N) for one in own]
        shown = [one.rows[_positions(both)] for one, both in zip(own, chosen, strict=True)]
        heat = token_heat(run, solved, shown)
        seconds["tokens"] = clock() - begun - sum(seconds.values())
        for q in range(len(block)):
            explained = Explained(own[q], chosen[q], heat[q], cluster_N)
            yield _one(run, solved, q, found[q], explained, how, seconds)
        start += len(block)


def query_vectors(solved: SolvedBlock) -> np.ndarray:
    """The queries of a block as vectors of the store.

    Returns:
        ``[Q, P]``.
    """
    assert solved.vectors_QP is not None
    return solved.vectors_QP.numpy()


def _of_query(scored: DocumentScores, q: int, candidates: np.ndarray) -> DocumentScores:
    """The scores of one query's own candidates."""
    own = np.isin(scored.rows, candidates)
    return DocumentScores(
        scored.rows[own], scored.layers_QLD[q : q + 1][:, :, own], scored.loss_D[own]
    )


def _chosen(own: DocumentScores, top: int, cluster_N: np.ndarray | None) -> dict[str, list[int]]:
    """Positions of a query's strongest candidates of each sign, one of each cluster."""
    total_D = own.layers_QLD[0].sum(axis=0)
    order = np.argsort(-total_D, kind="stable")
    if cluster_N is not None:
        order = order[representatives(total_D, cluster_N[own.rows])[order]]
    return {
        "proponents": [i for i in order[:top] if total_D[i] > 0],
        "opponents": [i for i in order[::-1][:top] if total_D[i] < 0],
    }


def _positions(chosen: dict[str, list[int]]) -> list[int]:
    return sorted({i for group in chosen.values() for i in group})


def _search(
    run: Traced, solved: SolvedBlock, candidates: int, everywhere_QN: np.ndarray | None
) -> list[dict[str, Any]]:
    """Candidates of both signs, and sums over all documents, for each query of the block."""
    if everywhere_QN is not None:
        return [_from_all(run, scores_N, candidates) for scores_N in everywhere_QN]
    assert run.store is not None
    result = gradients_store.search(
        run.store, query_vectors(solved), top=candidates, group_by=("source", "language")
    )
    found = []
    for q in range(len(solved.queries)):
        rows = np.concatenate([result.proponents.rows[q], result.opponents.rows[q]])
        scores = np.concatenate([result.proponents.scores[q], result.opponents.scores[q]])
        histogram = result.histograms[q]
        found.append(
            {
                "rows": rows,
                "store": dict(zip(rows.tolist(), scores.tolist(), strict=True)),
                "groups": {
                    name: [
                        {
                            name: group.names[g],
                            "documents": int(group.count[g]),
                            "total": float(group.total[q, g]),
                            "positive": float(group.positive[q, g]),
                            "negative": float(group.negative[q, g]),
                        }
                        for g in range(len(group.names))
                    ]
                    for name, group in result.groups.items()
                },
                "edges": np.asarray(histogram.edges, dtype=float),
                "counts": np.asarray(histogram.counts, dtype=int),
                "how": "store, all documents, compressed",
            }
        )
    return found


def _from_all(run: Traced, scores_N: np.ndarray, candidates: int) -> dict[str, Any]:
    order = np.argsort(-scores_N, kind="stable")
    rows = np.unique(np.concatenate([order[:candidates], order[-candidates:]]))
    counts, edges = np.histogram(scores_N, bins=60)
    names = {
        "source": np.array([x for s in run.specs for x in s.sources]),
        "language": np.array([x for s in run.specs for x in s.languages]),
    }
    groups = {}
    for column, values in names.items():
        groups[column] = [
            {
                column: str(value),
                "documents": int((values == value).sum()),
                "total": float(scores_N[values == value].sum()),
                "positive": float(scores_N[values == value].clip(min=0).sum()),
                "negative": float(scores_N[values == value].clip(max=0).sum()),
            }
            for value in sorted(set(values.tolist()))
        ]
    return {
        "rows": rows,
        "store": {},
        "groups": groups,
        "edges": edges,
        "counts": counts,
        "how": "exact, all documents",
    }


def _one(
    run: Traced,
    solved: SolvedBlock,
    q: int,
    found: dict[str, Any],
    explained: Explained,
    how: HowToTrace,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Put one query's trace together and write its files."""
    documents = len([i for s in run.specs for i in s.ids])
    layers_LD = explained.own.layers_QLD[0]
    table = _table(run, solved, q, found, explained.own)
    folder = trace_folder(run, solved.queries[q], how)
    result = {
        "format": 1,
        "query": _describe(run, solved, q),
        "unit": UNIT,
        "sign": SIGN,
        "n_documents": documents,
        "measurement": "loss(completion) - loss(contrast)"
        if solved.queries[q].contrast is not None
        else "loss(completion)",
        **_rows(run, explained, table),
        "sources": _groups(found["groups"]["source"], documents),
        "languages": _groups(found["groups"]["language"], documents),
        "layers": _layer_sums(run, layers_LD, explained.chosen, documents),
        "distribution": {
            "edges": (found["edges"] / documents).tolist(),
            "counts": found["counts"].tolist(),
        },
        "scored": {"documents": documents, "how": found["how"]},
        "run": run.settings,
        "quality": run.quality,
        "seconds": {k: round(v, 3) for k, v in seconds.items()},
        "folder": str(folder),
    }
    with new_file(folder / "scores.parquet") as temporary:
        pq.write_table(table, temporary)
    write_json(folder / "trace.json", result)
    return result


@dataclass(frozen=True, kw_only=True)
class HowToTrace:
    """How far to look, and how much to show."""

    top: int
    """Proponents and opponents to show."""
    candidates: int
    """Documents of each sign that the search passes on to exact scoring."""
    exact: bool
    """Score every document from full gradients instead of searching the store."""


def trace_folder(run: Traced, query: Query, how: HowToTrace) -> Path:
    """The folder of a query's trace, keyed by all that changes it.

    Returns:
        ``<run>/traces/<hash>``.
    """
    first = run.specs[0]
    key = key_of(
        how=vars(how),
        query=[query.id, query.prompt, query.completion, query.contrast],
        curvature=Path(first.curvature).name,
        damping=first.damping,
        store=None if run.store is None else Path(first.store).parent.name,
        **({} if run.duplicates is None else {"duplicates": run.duplicates.key}),
    )
    return run.root / "traces" / key


def _groups(groups: list[dict[str, Any]], documents: int) -> list[dict[str, Any]]:
    scaled = [
        {
            **group,
            "total": group["total"] / documents,
            "mean": group["total"] / documents / max(1, group["documents"]),
            "positive": group["positive"] / documents,
            "negative": group["negative"] / documents,
        }
        for group in groups
    ]
    return sorted(scaled, key=lambda g: -abs(g["total"]))


def _layer_sums(
    run: Traced, layers_LD: np.ndarray, chosen: dict[str, list[int]], documents: int
) -> list[dict[str, Any]]:
    names = [layer.name for layer in layers_of(run.specs[0].model)]
    return [
        {
            "layer": name,
            **{sign: float(layers_LD[i][rows].sum() / documents) for sign, rows in chosen.items()},
        }
        for i, name in enumerate(names)
    ]


def _table(
    run: Traced,
    solved: SolvedBlock,
    q: int,
    found: dict[str, Any],
    own: DocumentScores,
) -> pa.Table:
    """All candidates with exact scores: what ``scores.parquet`` holds."""
    ids = [i for s in run.specs for i in s.ids]
    rows, total_D = own.rows, own.layers_QLD[0].sum(axis=0)
    self_D = _self_influence(run, rows)
    relative = normalised(
        torch.from_numpy(total_D)[None], solved.self_influence_Q[q : q + 1].double(), self_D
    )[0]
    stored = [found["store"].get(int(r)) for r in rows]
    return pa.table(
        {
            "id": [ids[int(r)] for r in rows],
            "row": rows,
            "score": total_D / len(ids),
            "normalised": relative.numpy(),
            "store_score": pa.array(
                [None if s is None else s / len(ids) for s in stored], pa.float64()
            ),
            "self_influence": self_D.numpy() / len(ids),
            "loss": own.loss_D,
        },
        metadata={"unit": UNIT, "sign": SIGN, "n_documents": str(len(ids))},
    )


def _self_influence(run: Traced, rows: np.ndarray) -> Tensor:
    if run.store is None:
        return torch.full((len(rows),), float("nan"), dtype=torch.float64)
    column = run.store.metadata().column("self_influence").take(pa.array(rows))
    return torch.from_numpy(column.to_numpy().astype(np.float64))


def _rows(run: Traced, explained: Explained, table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    chosen, heat = explained.chosen, explained.heat
    rows, layers_LD = explained.own.rows, explained.own.layers_QLD[0]
    positions = _positions(chosen)
    texts = dict(
        zip(positions, read_documents(run.corpus, [int(rows[i]) for i in positions]), strict=True)
    )
    names = [layer.name for layer in layers_of(run.specs[0].model)]
    ids = [i for s in run.specs for i in s.ids]
    documents = len(ids)
    score_D = layers_LD.sum(axis=0) / documents

    def cluster(i: int) -> dict[str, Any]:
        if explained.cluster_N is None:
            return {}
        return cluster_fields(i, rows, score_D, explained.cluster_N, ids)

    def row(rank: int, i: int) -> dict[str, Any]:
        values = {k: table.column(k)[i].as_py() for k in table.column_names}
        document = texts[i]
        return {
            "rank": rank,
            "id": values["id"],
            "source": document["source"],
            "language": document["language"],
            "score": values["score"],
            "normalised": _number(values["normalised"]),
            "store_score": values["store_score"],
            "loss": values["loss"],
            "n_tokens": len(heat[int(rows[i])]),
            "self_influence": _number(values["self_influence"]),
            "text": document["text"],
            "tokens": [
                {"text": t, "score": s / documents, "special": special}
                for t, s, special in heat[int(rows[i])]
            ],
            "layers": [
                {"layer": name, "score": float(layers_LD[k, i] / documents)}
                for k, name in enumerate(names)
            ],
            "meta": metadata(document),
            **cluster(i),
        }

    return {
        sign: [row(rank, i) for rank, i in enumerate(group, 1)] for sign, group in chosen.items()
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def token_heat(run: Traced, solved: SolvedBlock, shown: Sequence[np.ndarray]) -> list[Heat]:
    """Every token's share of a document's score, chunks joined; a document is differentiated once.

    Args:
        run: The run.
        solved: A block of queries.
        shown: For each query the row numbers of the documents to score.

    Returns:
        For each query and each of its documents the tokens' texts, their scores in nats times N,
        and whether they are special tokens.
    """
    loaded, layers = language_model(run.specs[0].model), layers_of(run.specs[0].model)
    wanted = [set(rows.tolist()) for rows in shown]
    parts: list[dict[int, list[tuple[Chunk, list[float]]]]] = [{} for _ in shown]
    for chunks, batch in chunk_batches(run, set().union(*wanted)):
        wanted_QB = torch.tensor([[c.document in rows for c in chunks] for rows in wanted])
        scores_QBT = token_scores(loaded.model, layers, batch, solved.directions, wanted_QB)
        found_QBT = scores_QBT.double().cpu().numpy()
        for q, row in wanted_QB.nonzero().tolist():
            chunk = chunks[row]
            scores_T = found_QBT[q, row, : len(chunk.tokens)].tolist()
            parts[q].setdefault(chunk.document, []).append((chunk, scores_T))
    return [{row: _joined(loaded.tokenizer, found) for row, found in one.items()} for one in parts]


def _joined(
    tokenizer: PreTrainedTokenizerBase, found: list[tuple[Chunk, list[float]]]
) -> list[tuple[str, float, bool]]:
    """The tokens of a document from those of its chunks, in any order."""
    tokens: list[int] = []
    scores: list[float] = []
    for chunk, scores_T in sorted(found, key=lambda pair: pair[0].chunk):
        own = chunk.tokens.tolist()
        if tokens and tokens[-1] == own[0]:  # chunks overlap by one token
            scores[-1] += scores_T[0]
            own, scores_T = own[1:], scores_T[1:]
        tokens += own
        scores += scores_T
    special = set(tokenizer.all_special_ids)
    return [
        (text, score, token in special)
        for text, token, score in zip(token_texts(tokenizer, tokens), tokens, scores, strict=True)
    ]


@torch.no_grad()
def _describe(run: Traced, solved: SolvedBlock, q: int) -> dict[str, Any]:
    """The query's tokens, and what the model itself would say."""
    loaded = language_model(run.specs[0].model)
    query, chunk = solved.queries[q], solved.chunks[q]
    forward = solved.forwards[q]
    losses_T = forward.token_loss_BT[0].tolist()
    texts = token_texts(loaded.tokenizer, chunk.tokens.tolist())
    first = int(np.flatnonzero(chunk.loss)[0])
    count = int(chunk.loss.sum())
    ids = torch.tensor(chunk.tokens[:first].tolist(), device=loaded.device)[None]
    logits = loaded.model(input_ids=ids, use_cache=False).logits[0, -1].double().softmax(-1)
    best = logits.topk(min(5, len(logits)))
    loss = float(forward.loss_B[0])
    against = None if query.contrast is None else float(forward.loss_B[1])
    return {
        "id": query.name,
        "prompt": query.prompt or "",
        "completion": query.completion,
        "contrast": query.contrast,
        "tokens": [
            {
                "text": text,
                "completion": bool(chunk.loss[t]),
                "log_probability": -losses_T[t - 1] if chunk.loss[t] else None,
            }
            for t, text in enumerate(texts)
        ],
        "log_probability": -loss,
        "contrast_log_probability": None if against is None else -against,
        "perplexity": float(np.exp(loss / max(1, count))),
        "most_likely": [
            {"text": loaded.tokenizer.decode([i]), "probability": p}
            for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ],
        "greedy": greedy(loaded, chunk.tokens[:first], max(8, count)),
    }
