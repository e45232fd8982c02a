"""Scores of every document for every query by any method, shard by shard; resumes.

Axes: Q queries, N documents, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from influence.documents.curvature import identity
from influence.documents.methods import METHODS
from influence.documents.methods.families import (
    FeatureMethod,
    Features,
    GradientMethod,
    Setting,
    State,
    TextMethod,
)
from influence.documents.preconditioner import LayerCurvature
from influence.documents.scores import (
    directions,
    document_row,
    exact_scores,
    self_influence,
    whitened_rows,
)
from influence.documents.sketch import Sketch
from influence.documents.whitening import Whitening, prepare
from influence.layers import head_name
from influence.text import Batch, Chunk, encode_query
from pipelines.cluster import Workers
from pipelines.corpus import DOCUMENTS, document_ids, read_columns, take_documents
from pipelines.curvature import build_curvature
from pipelines.gradient_files import load_curvature
from pipelines.queries import Query
from pipelines.query_gradients import differentiate
from pipelines.run_folder import key_of
from pipelines.runs import Run, with_head
from pipelines.tokens import batches, read_chunks, read_table, shard_path, write_table
from pipelines.trained_states import final_state, second_moments, trained_states
from pipelines.worker import ModelSpec, language_model, layers_of, naming_documents

TEXTS = ["text", "prompt", "completion", "messages"]
"""Columns that make a document's text."""
DIRECTION_GIGABYTES = 0.5
"""Memory for the directions of one block of queries, over all states."""


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """One state of the model, as a worker finds it."""

    model: ModelSpec
    curvature: str
    """Folder of the sealed curvature; "": the method needs none."""
    learning_rates: float
    checkpoint: str
    """Folder with the optimizer's state; "": not needed."""


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """One shard of documents under one method."""

    method: str
    states: tuple[StateSpec, ...]
    queries: tuple[Query, ...]
    damping: float
    documents: int
    loss_tokens: int
    token_budget: int
    seed: int
    tokens: str
    shard: int
    first: int
    ids: tuple[str, ...]
    out: str


def method_scores(
    run: Run, queries: Sequence[Query], names: Sequence[str], workers: Workers, seed: int = 0
) -> dict[str, np.ndarray]:
    """Score every document for every query by some methods; run again to do what is missing.

    Args:
        run: A finished run.
        queries: What to explain.
        names: Methods, as in ``METHODS``.
        workers: Where to run.
        seed: Of methods that draw at random.

    Returns:
        For each method ``[Q, N]``, larger: more of a proponent; in the method's own unit.
    """
    return {name: one_method(run, queries, name, workers, seed) for name in names}


def one_method(
    run: Run, queries: Sequence[Query], name: str, workers: Workers, seed: int = 0
) -> np.ndarray:
    """Score every document for every query by one method.

    Returns:
        ``[Q, N]``.
    """
    method = METHODS[name]
    if isinstance(method, TextMethod):
        return _text_scores(run, queries, method, seed)
    states = tuple(state_specs(run, method, workers))
    specs = plan_scores(run, queries, name, states, seed)
    step = score_features if isinstance(method, FeatureMethod) else score_gradients
    workers.map(step, [s for s in specs if not Path(s.out).exists()], f"Scores: {method.title}")
    if isinstance(method, FeatureMethod):
        return _feature_scores(method, specs)
    tables = [read_table(Path(s.out)) for s in specs]
    return np.concatenate([np.stack([c.to_numpy() for c in t.columns]) for t in tables], axis=1)


def plan_scores(
    run: Run, queries: Sequence[Query], name: str, states: tuple[StateSpec, ...], seed: int
) -> list[MethodSpec]:
    """One spec a shard; pure.

    Args:
        run: The run.
        queries: The queries.
        name: The method.
        states: The model's states that it looks at.
        seed: Of methods that draw at random.

    Returns:
        Specs in order.
    """
    config, info = run.config, run.tokens.info()
    key = key_of(
        method=name,
        states=[[s.model.fingerprint, Path(s.curvature).name, s.learning_rates] for s in states],
        queries=[[q.prompt, q.completion, q.contrast] for q in queries],
        damping=config.damping,
        tokens=run.tokens.key,
        layers=config.layers,
        seed=seed,
    )
    ids, size = document_ids(run.corpus), config.documents_per_shard
    return [
        MethodSpec(
            method=name,
            states=states,
            queries=tuple(queries),
            damping=config.damping,
            documents=info["documents"],
            loss_tokens=info["loss_tokens"],
            token_budget=config.token_budget,
            seed=seed,
            tokens=str(run.tokens.path),
            shard=shard,
            first=shard * size,
            ids=tuple(ids[shard * size : (shard + 1) * size]),
            out=str(shard_path(run.root / "scores" / key, shard)),
        )
        for shard in range(info["shards"])
    ]


def state_specs(
    run: Run, method: GradientMethod | FeatureMethod, workers: Workers
) -> Iterator[StateSpec]:
    """The states that a method looks at, each with its curvature fitted where that is missing.

    Args:
        run: The run.
        method: The method.
        workers: Where to fit.

    Yields:
        States in order of training.
    """
    states = trained_states(run) if method.states == "all" else (final_state(run),)
    kind = method.curvature if isinstance(method, GradientMethod) else ""
    for state in states:
        model, folder = state.model, ""
        if kind:
            config = run.config.model_copy(update={"curvature": kind})
            ids = document_ids(run.corpus)
            stage = build_curvature(config, run.root, run.tokens, ids, model, workers)
            model, folder = with_head(model, stage), str(stage.path)
        elif run.model.head_basis is not None:
            model = replace(model, head_basis=run.model.head_basis)
        yield StateSpec(
            model=model,
            curvature=folder,
            learning_rates=state.learning_rates,
            checkpoint=state.checkpoint,
        )


# -- gradient methods (each step runs on a worker) --------------------------------------------------


def score_gradients(spec: MethodSpec) -> str:
    """Score the documents of one shard by a gradient method.

    Returns:
        An Arrow file with a column for each query.
    """
    method = METHODS[spec.method]
    assert isinstance(method, GradientMethod)
    chunks = read_chunks(shard_path(Path(spec.tokens), spec.shard))
    parts = []
    for start, stop in _blocks(spec):
        asked = replace(spec, queries=spec.queries[start:stop])
        scores_QN = np.zeros((stop - start, len(spec.ids)))
        for number, state in enumerate(spec.states):
            direction = _directions(_without_shard(asked))[number]
            product_QN = _products(spec, state, chunks, direction)
            if method.normalised:
                product_QN = _normalised(asked, number, chunks, product_QN)
            scores_QN += product_QN
        parts.append(scores_QN)
    return _write(spec, np.concatenate(parts))


def _write(spec: MethodSpec, values_QN: np.ndarray) -> str:
    table = pa.table({str(i): row for i, row in enumerate(values_QN)})
    return str(write_table(Path(spec.out), table))


def _blocks(spec: MethodSpec) -> Iterator[tuple[int, int]]:
    layers = layers_of(spec.states[0].model)
    numbers = sum(x.out_features * (x.in_features + int(x.bias)) for x in layers)
    size = max(1, int(DIRECTION_GIGABYTES * 1e9 / (8 * numbers * len(spec.states))))
    for start in range(0, len(spec.queries), size):
        yield start, min(start + size, len(spec.queries))


def _products(
    spec: MethodSpec, state: StateSpec, chunks: Sequence[Chunk], direction: Any
) -> np.ndarray:
    loaded, layers = language_model(state.model), layers_of(state.model)
    queries = len(next(iter(direction.values())))
    scores_QN = torch.zeros(queries, len(spec.ids), dtype=torch.float64)
    with naming_documents(spec.ids, spec.first):
        for work in batches(chunks, loaded.pad_id, spec.token_budget):
            scored = exact_scores(loaded.model, layers, work.batch.to(loaded.device), direction)
            columns = work.batch.document.cpu() - spec.first
            scores_QN.index_add_(1, columns, scored.scores_QB.double().cpu())
    return scores_QN.numpy()


def _without_shard(spec: MethodSpec) -> MethodSpec:
    return replace(spec, shard=0, first=0, ids=(), out="")


@lru_cache(maxsize=1)
def _directions(spec: MethodSpec) -> list[Any]:
    """The queries' directions at every state; once in each process and block of queries."""
    method = METHODS[spec.method]
    assert isinstance(method, GradientMethod)
    gradients = [_query_gradients(state.model, spec.queries) for state in spec.states]
    states = [_state(spec, number) for number in range(len(spec.states))]
    return list(method.directions(gradients, states, _setting(spec)))


def _setting(spec: MethodSpec) -> Setting:
    return Setting(
        damping=spec.damping,
        documents=spec.documents,
        tokens=spec.loss_tokens,
        head=head_name(language_model(spec.states[-1].model).model),
    )


def _state(spec: MethodSpec, number: int) -> State:
    state, method = spec.states[number], METHODS[spec.method]
    assert isinstance(method, GradientMethod)
    loaded, layers = language_model(state.model), layers_of(state.model)
    moments = second_moments(state.checkpoint, layers) if method.moments else {}
    return State(
        curvature=_curvature(state) if state.curvature else {},
        learning_rates=state.learning_rates,
        second_moments={name: value.to(loaded.device) for name, value in moments.items()},
    )


def _query_gradients(model: ModelSpec, queries: Sequence[Query]) -> dict[str, Tensor]:
    found = [differentiate(model, query) for query in queries]
    return {layer.name: torch.cat([g[layer.name] for g in found]) for layer in layers_of(model)}


def _normalised(
    spec: MethodSpec, number: int, chunks: Sequence[Chunk], product_QN: np.ndarray
) -> np.ndarray:
    """Divide by the lengths of both gradients in the product of one state."""
    state = spec.states[number]
    loaded, layers = language_model(state.model), layers_of(state.model)
    whitening = _lengths_alone(state, spec.damping)
    document_N = np.zeros(len(spec.ids))
    long: dict[int, list[Batch]] = {}
    for work in batches(chunks, loaded.pad_id, spec.token_budget):
        batch = work.batch.to(loaded.device)
        numbers = (work.batch.document - spec.first).tolist()
        if work.part_of_document:
            long.setdefault(numbers[0], []).append(batch)
            continue
        rows = whitened_rows(loaded.model, layers, whitening, batch)
        document_N[numbers] = rows.self_influence_B.sqrt().cpu().numpy()
    for row, parts in long.items():
        whole = document_row(loaded.model, layers, whitening, parts)
        document_N[row] = whole.self_influence_B.sqrt().item()
    query_Q = _query_lengths(_without_shard(spec), number)
    scale_QN = query_Q[:, None] * document_N[None]
    return np.divide(product_QN, scale_QN, out=np.zeros_like(product_QN), where=scale_QN > 0)


@lru_cache(maxsize=8)  # the shards of a block of queries share it, and each state has its own
def _query_lengths(spec: MethodSpec, number: int) -> np.ndarray:
    state = spec.states[number]
    own = _query_gradients(state.model, spec.queries)
    solved = directions(_curvature(state), spec.damping, own)
    return np.asarray(self_influence(own, solved).double().clamp_min(0).sqrt().cpu().numpy())


@lru_cache(maxsize=1)  # a state's curvature may be large
def _lengths_alone(state: StateSpec, damping: float) -> Whitening:
    """Whitened gradients of which no coordinate is kept, only their lengths."""
    layers = layers_of(state.model)
    sketch = Sketch(
        kind="top-eigen",
        shapes={x.name: (x.out_features, x.in_features + int(x.bias)) for x in layers},
        coordinates={x.name: torch.zeros(0, dtype=torch.int64) for x in layers},
    )
    return prepare(_curvature(state), damping, sketch)


def _curvature(state: StateSpec) -> dict[str, LayerCurvature]:
    loaded, layers = language_model(state.model), layers_of(state.model)
    if not state.curvature:
        return {layer.name: identity() for layer in layers}
    return load_curvature(state.curvature, str(loaded.device))


# -- feature methods --------------------------------------------------------------------------------


def score_features(spec: MethodSpec) -> str:
    """Features of the documents of one shard, at every state.

    Returns:
        An Arrow file: for each state, the vectors and the weights.
    """
    chunks = [c for c in read_chunks(shard_path(Path(spec.tokens), spec.shard)) if c.chunk == 0]
    columns: dict[str, Any] = {}
    for number, state in enumerate(spec.states):
        loaded = language_model(state.model)
        works = [
            w.batch.to(loaded.device) for w in batches(chunks, loaded.pad_id, spec.token_budget)
        ]
        vectors_NK, weights_N = _features(spec, state, works, len(spec.ids))
        flat = pa.array(vectors_NK.reshape(-1))
        columns[f"{number}"] = pa.FixedSizeListArray.from_arrays(flat, vectors_NK.shape[1])
        columns[f"{number} weight"] = pa.array(weights_N)
    return str(write_table(Path(spec.out), pa.table(columns)))


def _features(
    spec: MethodSpec, state: StateSpec, works: Sequence[Batch], count: int
) -> tuple[np.ndarray, np.ndarray]:
    method = METHODS[spec.method]
    assert isinstance(method, FeatureMethod)
    loaded, layers = language_model(state.model), layers_of(state.model)
    vectors: Tensor | None = None
    weights_N = torch.ones(count, dtype=torch.float64)
    for batch in works:
        made = method.features(loaded.model, layers, batch, spec.seed)
        rows = batch.document.cpu() - spec.first
        if vectors is None:
            vectors = torch.zeros(count, made.vectors_BK.shape[1], dtype=torch.float64)
        vectors[rows] = made.vectors_BK.double().cpu()
        weights_N[rows] = made.weights_B.double().cpu()
    assert vectors is not None
    return vectors.numpy(), weights_N.numpy()


def _feature_scores(method: FeatureMethod, specs: Sequence[MethodSpec]) -> np.ndarray:
    tables = [read_table(Path(s.out)) for s in specs]
    total: Any = 0.0
    for number, state in enumerate(specs[0].states):
        vectors = [t.column(str(number)).combine_chunks() for t in tables]
        size = vectors[0].type.list_size
        documents = Features(
            vectors_BK=torch.from_numpy(
                np.concatenate([v.flatten().to_numpy().reshape(-1, size) for v in vectors])
            ),
            weights_B=torch.from_numpy(
                np.concatenate([t.column(f"{number} weight").to_numpy() for t in tables])
            ),
        )
        queries = _query_features(specs[0], state)
        total = total + method.scores(queries, documents).numpy() / len(specs[0].states)
    return np.asarray(total, dtype=np.float64)


def _query_features(spec: MethodSpec, state: StateSpec) -> Features:
    loaded = language_model(state.model)
    chunks = [
        replace(
            encode_query(loaded.tokenizer, q.prompt, q.completion, loaded.max_tokens),
            document=number,
        )
        for number, q in enumerate(spec.queries)
    ]
    works = [w.batch.to(loaded.device) for w in batches(chunks, loaded.pad_id, spec.token_budget)]
    vectors, weights = _features(replace(spec, first=0), state, works, len(chunks))
    return Features(vectors_BK=torch.from_numpy(vectors), weights_B=torch.from_numpy(weights))


# -- text methods -----------------------------------------------------------------------------------


def _text_scores(run: Run, queries: Sequence[Query], method: TextMethod, seed: int) -> np.ndarray:
    texts = document_texts(run)
    asked = [(q.prompt or "") + q.completion for q in queries]
    return np.asarray(method.scores(asked, texts, seed), dtype=np.float64)


def document_texts(run: Run) -> list[str]:
    """The documents as plain text: prompts, completions and chats joined.

    Returns:
        Texts in row order.
    """
    return [_plain(**row) for row in read_columns(run.corpus, TEXTS).to_pylist()]


def texts_of(run: Run, rows: Sequence[int]) -> list[str]:
    """Some documents as plain text.

    Args:
        run: The run.
        rows: Row numbers.

    Returns:
        Texts in the order asked.
    """
    table = take_documents(run.corpus.path / DOCUMENTS, rows, TEXTS)
    return [_plain(**row) for row in table.to_pylist()]


def _plain(
    text: str | None, prompt: str | None, completion: str | None, messages: Any | None
) -> str:
    if text is not None:
        return text
    if completion is not None:
        return f"{prompt or ''}{completion}"
    return "\n".join(str(message["content"]) for message in messages or ())
