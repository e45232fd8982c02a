"""Search: inner products of every row with some queries, in one streaming pass.

Scores are summed in float64 and rounded to float32, so that a score does not depend on the block
that its row came in or on the other queries, and equal rows have equal scores. Memory: one block of
rows, whatever the size of the store.
Axes: Q queries, N rows of the store, b rows of a block, P coordinates, k rows kept, G groups.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from gradients_store.errors import BadQuery
from gradients_store.histogram import Histogram, histogram
from gradients_store.quantise import dequantise
from gradients_store.reader import Store

_TILE_ROWS = 64  # rows that are widened to float64 at once: fits in a processor's cache


@dataclass(frozen=True, kw_only=True)
class Top:
    """The k strongest rows of each query, strongest first; equal scores: the lower row first."""

    ids: tuple[tuple[str, ...], ...]
    """Document ids ``[Q][k]``."""
    rows: NDArray[np.int64]
    """Rows of the store ``[Q, k]``."""
    scores: NDArray[np.float32]
    """Scores ``[Q, k]``."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over the scored rows, for each query."""

    count: int
    """Rows scored."""
    total: NDArray[np.float64]
    """Sum of scores ``[Q]``."""
    total_squares: NDArray[np.float64]
    """Sum of squared scores ``[Q]``."""


@dataclass(frozen=True, kw_only=True)
class GroupSums:
    """Sums over the scored rows that share the value of a column, such as the source."""

    names: tuple[str, ...]
    """Values of the column, in the order in which they first appear."""
    count: NDArray[np.int64]
    """Rows of each group ``[G]``."""
    total: NDArray[np.float64]
    """Sum of scores ``[Q, G]``."""
    positive: NDArray[np.float64]
    """Sum of the positive scores ``[Q, G]``."""
    negative: NDArray[np.float64]
    """Sum of the negative scores ``[Q, G]``."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What one pass over the store found."""

    proponents: Top
    """The largest scores."""
    opponents: Top
    """The smallest scores, the most negative first."""
    moments: Moments
    """Sums over all scored rows."""
    histograms: tuple[Histogram, ...]
    """One histogram of all scored rows for each query."""
    groups: Mapping[str, GroupSums]
    """Sums by group, for each column asked for."""


def search(
    store: Store,
    query_QP: ArrayLike,
    top: int,
    skip: Collection[str] = (),
    group_by: Sequence[str] = (),
    rows: int | None = None,
) -> SearchResult:
    r"""Find the strongest rows of both signs, with sums over all rows, in one pass.

    The score of row n for query q is :math:`s_{qn} = q^\top v_n`.

    Args:
        store: The store.
        query_QP: Whitened query gradients ``[Q, P]``, compressed as the store's vectors are.
        top: How many rows k to keep of each sign; fewer come back when fewer are scored.
        skip: Ids of documents to leave out of everything, for all queries.
        group_by: Text columns to sum by, such as ("source", "language").
        rows: The most rows of a block, None: about 64 MB of them; changes memory and speed, not
            the result (sums change by float64 rounding).

    Returns:
        The top rows, moments, histograms and group sums. Positive: a proponent.

    Raises:
        BadQuery: If the arguments do not fit the store.
    """
    query = _checked(store, query_QP)
    if top < 1:
        raise BadQuery(f"Search: top is {top}, expected at least 1. Ask for 20, say.")
    text = ("id", "source", "language")
    if unknown := [name for name in group_by if name not in text]:
        raise BadQuery(
            f"Search: group_by has {unknown[0]!r}, expected some of {', '.join(text)}. Group by "
            "one of these."
        )
    skipped = np.sort(store.rows_of(sorted(set(skip)))) if skip else np.empty(0, dtype=np.int64)
    if len(skipped) == len(store):
        raise BadQuery("Search: every document is skipped, expected one to score. Skip fewer.")
    sums = _Sums(len(query), top, group_by)
    size = store.block_rows() if rows is None else rows
    for start, table in store.tables(("scale", "vector", *group_by), size):
        score_Qb = _scores(dequantise(table), query, store.root)
        row_b = np.arange(start, start + table.num_rows)
        if skipped.size:
            kept_b = ~np.isin(row_b, skipped)
            score_Qb, row_b, table = score_Qb[:, kept_b], row_b[kept_b], table.filter(kept_b)
        if len(row_b):
            sums.update(score_Qb, row_b, table)
    return sums.result(store)


def all_scores(
    store: Store, query_QP: ArrayLike, rows: int | None = None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Stream the scores of every row.

    Args:
        store: The store.
        query_QP: Whitened query gradients ``[Q, P]``, compressed as the store's vectors are.
        rows: The most rows of a block; None: about 64 MB of them.

    Yields:
        The first row of the block, and its scores ``[Q, b]``.
    """
    query = _checked(store, query_QP)
    for start, vector_bP in store.blocks(rows):
        yield start, _scores(vector_bP, query, store.root)


def _checked(store: Store, query_QP: ArrayLike) -> NDArray[np.float64]:
    query = np.asarray(query_QP, dtype=np.float64)
    if query.ndim != 2 or not len(query) or query.shape[1] != store.header.dimension:
        raise BadQuery(
            f"Search: queries of shape {query.shape}, expected (queries, {store.header.dimension}) "
            f"from the store {store.root}. Compress the query as the store was compressed."
        )
    finite_Q = np.isfinite(query).all(axis=1)
    if not finite_Q.all():
        raise BadQuery(
            f"Search: query {int(np.argmin(finite_Q))} has numbers that are not finite, expected "
            "finite ones. Compute its gradient in a wider type."
        )
    return query


def _scores(
    vector_bP: NDArray[np.float32], query_QP: NDArray[np.float64], where: str
) -> NDArray[np.float32]:
    score_bQ = np.empty((len(vector_bP), len(query_QP)), dtype=np.float64)
    for first in range(0, len(vector_bP), _TILE_ROWS):
        tile = slice(first, first + _TILE_ROWS)
        np.matmul(vector_bP[tile].astype(np.float64), query_QP.T, out=score_bQ[tile])
    with np.errstate(over="ignore"):
        score_Qb = np.ascontiguousarray(score_bQ.T.astype(np.float32))
    if not np.isfinite(score_Qb).all():
        raise BadQuery(
            f"Search: a score in {where} is larger than float32 holds, expected smaller ones. "
            "Check the query's length, and the store with `verify`."
        )
    return score_Qb


class _Sums:
    """Running sums over blocks of scores: `update` with each block in order, then `result`."""

    def __init__(self, queries: int, top: int, group_by: Sequence[str]) -> None:
        nothing = np.empty((queries, 0), dtype=np.float32), np.empty((queries, 0), dtype=np.int64)
        self._top = top
        self._largest, self._smallest = nothing, nothing
        self._count = 0
        self._total_Q = np.zeros(queries)
        self._squares_Q = np.zeros(queries)
        self._histograms: list[Histogram] = []
        self._groups = {name: _Groups(queries) for name in group_by}

    def update(
        self, score_Qb: NDArray[np.float32], row_b: NDArray[np.int64], table: pa.Table
    ) -> None:
        self._largest = _kept(*self._largest, score_Qb, row_b, self._top)
        self._smallest = _kept(*self._smallest, -score_Qb, row_b, self._top)
        wide_Qb = score_Qb.astype(np.float64)
        self._count += len(row_b)
        self._total_Q = self._total_Q + wide_Qb.sum(axis=1)
        self._squares_Q = self._squares_Q + (wide_Qb**2).sum(axis=1)
        block = [histogram(score_b) for score_b in score_Qb]
        pairs = zip(self._histograms, block, strict=True)
        self._histograms = [old.merged(new) for old, new in pairs] if self._histograms else block
        for name, group in self._groups.items():
            group.update(wide_Qb, table.column(name))

    def result(self, store: Store) -> SearchResult:
        return SearchResult(
            proponents=_top(store, *self._largest, sign=1),
            opponents=_top(store, *self._smallest, sign=-1),
            moments=Moments(count=self._count, total=self._total_Q, total_squares=self._squares_Q),
            histograms=tuple(self._histograms),
            groups={name: group.result() for name, group in self._groups.items()},
        )


class _Groups:
    """Running sums by the values of one column: `update` with each block, then `result`."""

    def __init__(self, queries: int) -> None:
        self._index: dict[str, int] = {}
        self._count_G = np.zeros(0, dtype=np.int64)
        self._positive_QG = np.zeros((queries, 0))
        self._negative_QG = np.zeros((queries, 0))

    def update(self, score_Qb: NDArray[np.float64], column: pa.ChunkedArray) -> None:
        encoded = column.combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        index = np.array([self._index.setdefault(name, len(self._index)) for name in names])
        group_b = index[encoded.indices.to_numpy()]
        size = len(self._index)
        grow = size - len(self._count_G)
        self._count_G = np.pad(self._count_G, (0, grow)) + np.bincount(group_b, minlength=size)
        self._positive_QG = np.pad(self._positive_QG, ((0, 0), (0, grow))) + _by_group(
            np.maximum(score_Qb, 0.0), group_b, size
        )
        self._negative_QG = np.pad(self._negative_QG, ((0, 0), (0, grow))) + _by_group(
            np.minimum(score_Qb, 0.0), group_b, size
        )

    def result(self) -> GroupSums:
        return GroupSums(
            names=tuple(self._index),
            count=self._count_G,
            total=self._positive_QG + self._negative_QG,
            positive=self._positive_QG,
            negative=self._negative_QG,
        )


def _by_group(
    score_Qb: NDArray[np.float64], group_b: NDArray[np.int64], size: int
) -> NDArray[np.float64]:
    return np.stack([np.bincount(group_b, score_b, minlength=size) for score_b in score_Qb])


def _kept(
    score_Qk: NDArray[np.float32],
    row_Qk: NDArray[np.int64],
    score_Qb: NDArray[np.float32],
    row_b: NDArray[np.int64],
    top: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    # Keeps the `top` largest of both, in the order of rows; of equal scores the lower rows.
    score_Qm = np.concatenate([score_Qk, score_Qb], axis=1)
    row_Qm = np.concatenate([row_Qk, np.broadcast_to(row_b, score_Qb.shape)], axis=1)
    total = score_Qm.shape[1]
    if total <= top:
        return score_Qm, row_Qm
    edge_Q1 = np.partition(score_Qm, total - top, axis=1)[:, total - top, None]
    above_Qm, equal_Qm = score_Qm > edge_Q1, score_Qm == edge_Q1
    room_Q1 = top - above_Qm.sum(axis=1, keepdims=True)
    keep_Qm = above_Qm | (equal_Qm & (np.cumsum(equal_Qm, axis=1) <= room_Q1))
    shape = (len(score_Qm), top)
    return score_Qm[keep_Qm].reshape(shape), row_Qm[keep_Qm].reshape(shape)


def _top(store: Store, score_Qk: NDArray[np.float32], row_Qk: NDArray[np.int64], sign: int) -> Top:
    order_Qk = np.argsort(-score_Qk, axis=1, kind="stable")  # rows ascend: ties keep their order
    sorted_Qk = np.take_along_axis(row_Qk, order_Qk, axis=1)
    scores_Qk = np.take_along_axis(score_Qk, order_Qk, axis=1) * np.float32(sign) + np.float32(
        0
    )  # no -0
    names = store.documents(sorted_Qk.reshape(-1)).column("id").to_pylist()
    k = sorted_Qk.shape[1]
    ids = tuple(tuple(names[first : first + k]) for first in range(0, len(names), k))
    return Top(ids=ids, rows=sorted_Qk, scores=scores_Qk)
