"""Running sums over the scores of a store: the strongest rows, moments, histograms, groups.

Scores are gathered until there are some thousands of rows, so that many small shards cost no more
than a few large ones.
Axes: Q queries, b rows of a block, k rows kept, m rows compared, G groups.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradients_store.columns import numbers
from gradients_store.histogram import Histogram, histogram
from gradients_store.reader import Store
from gradients_store.results import GroupSums, Moments, SearchResult, Top

_Kept = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores and rows, both [Q, k]
_NO_TEXT = pa.nulls(0, pa.string())  # pa.array would import pandas, a fifth of a second


class Sums:
    """Running sums over blocks of scores: `update` with each block in order, then `result`.

    `gathered` is the number of rows that are added up at once.
    """

    def __init__(self, queries: int, top: int, group_by: Sequence[str], gathered: int) -> None:
        nothing = np.empty((queries, 0), dtype=np.float32), np.empty((queries, 0), dtype=np.int64)
        self._top, self._gathered = top, gathered
        self._largest, self._smallest = nothing, nothing
        self._scores: list[NDArray[np.float32]] = []
        self._rows: list[NDArray[np.int64]] = []
        self._waiting = 0
        self._count = 0
        self._total_Q = np.zeros(queries)
        self._squares_Q = np.zeros(queries)
        self._histograms: list[Histogram] = []
        self._groups = {name: _Groups(queries) for name in group_by}

    def update(
        self, score_Qb: NDArray[np.float32], row_b: NDArray[np.int64], table: pa.Table
    ) -> None:
        """Take in a block; `table` has the columns to group by."""
        self._scores.append(score_Qb)
        self._rows.append(row_b)
        for name, group in self._groups.items():
            group.label(table.column(name))
        self._waiting += len(row_b)
        if self._waiting >= self._gathered:
            self._add_up()

    def result(self, store: Store) -> SearchResult:
        """Return the sums over all blocks, with the ids of the strongest rows."""
        if self._rows:
            self._add_up()
        proponents, opponents = _tops(store, self._largest, self._smallest)
        return SearchResult(
            proponents=proponents,
            opponents=opponents,
            moments=Moments(count=self._count, total=self._total_Q, total_squares=self._squares_Q),
            histograms=tuple(self._histograms),
            groups={name: group.result() for name, group in self._groups.items()},
        )

    def _add_up(self) -> None:
        score_Qb, row_b = np.concatenate(self._scores, axis=1), np.concatenate(self._rows)
        self._scores, self._rows, self._waiting = [], [], 0
        self._largest = _kept(*self._largest, score_Qb, row_b, self._top)
        self._smallest = _kept(*self._smallest, -score_Qb, row_b, self._top)
        wide_Qb = score_Qb.astype(np.float64)
        self._count += len(row_b)
        self._total_Q = self._total_Q + wide_Qb.sum(axis=1)
        self._squares_Q = self._squares_Q + (wide_Qb**2).sum(axis=1)
        block = [histogram(score_b) for score_b in score_Qb]
        pairs = zip(self._histograms, block, strict=True)
        self._histograms = [old.merged(new) for old, new in pairs] if self._histograms else block
        for group in self._groups.values():
            group.add_up(wide_Qb)


class _Groups:
    """Running sums by the values of one column: `label` each block, `add_up` some, then `result`."""

    def __init__(self, queries: int) -> None:
        self._index: dict[str, int] = {}
        self._labels: list[pa.Array] = []
        self._count_G = np.zeros(0, dtype=np.int64)
        self._positive_QG = np.zeros((queries, 0))
        self._negative_QG = np.zeros((queries, 0))

    def label(self, column: pa.ChunkedArray) -> None:
        self._labels.append(pa.concat_arrays([*column.chunks, _NO_TEXT]))  # a copy: lets shards go

    def add_up(self, score_Qb: NDArray[np.float64]) -> None:
        encoded = pa.concat_arrays(self._labels).dictionary_encode()
        self._labels = []
        names = encoded.dictionary.to_pylist()
        index = np.array([self._index.setdefault(name, len(self._index)) for name in names])
        group_b = index[numbers(encoded.indices)]
        size = len(self._index)
        grow = size - len(self._count_G)
        if grow:
            self._count_G = np.pad(self._count_G, (0, grow))
            self._positive_QG = np.pad(self._positive_QG, ((0, 0), (0, grow)))
            self._negative_QG = np.pad(self._negative_QG, ((0, 0), (0, grow)))
        self._count_G = self._count_G + np.bincount(group_b, minlength=size)
        for query, score_b in enumerate(score_Qb):
            sums = np.bincount(2 * group_b + (score_b > 0.0), score_b, minlength=2 * size)
            self._negative_QG[query] += sums[0::2]
            self._positive_QG[query] += sums[1::2]

    def result(self) -> GroupSums:
        return GroupSums(
            names=tuple(self._index),
            count=self._count_G,
            total=self._positive_QG + self._negative_QG,
            positive=self._positive_QG,
            negative=self._negative_QG,
        )


def _kept(
    score_Qk: NDArray[np.float32],
    row_Qk: NDArray[np.int64],
    score_Qb: NDArray[np.float32],
    row_b: NDArray[np.int64],
    top: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    # Keeps the `top` largest of both, in the order of rows; of equal scores the lower rows.
    found = []
    for score_k, kept_k, score_b in zip(score_Qk, row_Qk, score_Qb, strict=True):
        score_m, row_m = np.concatenate([score_k, score_b]), np.concatenate([kept_k, row_b])
        if len(score_m) > top:
            edge = np.partition(score_m, len(score_m) - top)[len(score_m) - top]
            least_j = np.flatnonzero(score_m >= edge)
            equal_j = score_m[least_j] == edge
            room = top - np.count_nonzero(~equal_j)
            keep_k = least_j[~equal_j | (np.cumsum(equal_j) <= room)]
            score_m, row_m = score_m[keep_k], row_m[keep_k]
        found.append((score_m, row_m))
    return np.stack([score for score, _ in found]), np.stack([row for _, row in found])


def _tops(store: Store, largest: _Kept, smallest: _Kept) -> tuple[Top, Top]:
    found = []
    for (score_Qk, row_Qk), sign in ((largest, 1), (smallest, -1)):
        order_Qk = np.argsort(-score_Qk, axis=1, kind="stable")  # rows ascend: ties keep theirs
        sorted_Qk = np.take_along_axis(row_Qk, order_Qk, axis=1)
        score_Qk = np.take_along_axis(score_Qk, order_Qk, axis=1) * np.float32(sign)
        found.append((sorted_Qk, score_Qk + np.float32(0)))  # no -0
    names = iter(store.ids_of(np.concatenate([row_Qk.reshape(-1) for row_Qk, _ in found])))
    tops = [
        Top(
            ids=tuple(tuple(itertools.islice(names, row_Qk.shape[1])) for _ in row_Qk),
            rows=row_Qk,
            scores=score_Qk,
        )
        for row_Qk, score_Qk in found
    ]
    return tops[0], tops[1]
