"""Search: inner products of every row with some queries, in one streaming pass.

What a score is, and that it depends on its row and query alone, is said in `scores`; what is
summed over the rows, in `sums`. Memory: a few blocks of rows, whatever the size of the store.
Axes: Q queries, b rows of a block, M numbers of a query: the P coordinates of a vector or, where
rows are factors, the layers' whole matrices.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradients_store.errors import BadQuery
from gradients_store.reader import Store
from gradients_store.results import SearchResult
from gradients_store.scores import scored
from gradients_store.sums import Sums

_GATHERED = 1 << 18  # scores that are added up at once


def search(
    store: Store,
    query_QM: ArrayLike,
    top: int,
    skip: Collection[str] = (),
    group_by: Sequence[str] = (),
    rows: int | None = None,
    threads: int | None = None,
) -> SearchResult:
    r"""Find the strongest rows of both signs, with sums over all rows, in one pass.

    The score of row n for query q is :math:`s_{qn} = q^\top v_n`. Where rows are factors it is
    :math:`\sum_l \langle Q_l, W_{nl} \rangle`, the inner product of the layers' matrices, with
    :math:`W_{nl} = \sum_k u_k v_k^\top` the matrix that the row's factors make.

    Args:
        store: The store.
        query_QM: Whitened query gradients ``[Q, M]``: compressed as the store's vectors are; or,
            where rows are factors, whole: layer after layer, each ``[O, I]`` row by row.
        top: How many rows k to keep of each sign; fewer come back when fewer are scored.
        skip: Ids of documents to leave out of everything, for all queries.
        group_by: Text columns to sum by, such as ("source", "language").
        rows: The most rows of a block, None: about 48 MB of them; changes memory and speed, not
            the result (sums change by float64 rounding; scores of factor rows by float32's).
        threads: Threads that compute; None: one for each processor that this process may use.
            They change nothing but the speed.

    Returns:
        The top rows, moments, histograms and group sums. Positive: a proponent.

    Raises:
        BadQuery: If the arguments do not fit the store.
    """
    query = _checked(store, query_QM)
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
    most = _GATHERED // len(query)
    gathered = most if rows is None else min(most, 8 * rows)
    sums = Sums(len(query), top, group_by, gathered)
    for block in scored(store, query, group_by, rows, threads):
        score_Qb, table = block.score_Qb, block.table
        row_b = np.arange(block.start, block.start + table.num_rows)
        if skipped.size:
            kept_b = ~np.isin(row_b, skipped)
            score_Qb, row_b = score_Qb[:, kept_b], row_b[kept_b]
            table = table.select(list(group_by)).filter(kept_b)
        if len(row_b):
            sums.update(score_Qb, row_b, table)
    return sums.result(store)


def all_scores(
    store: Store, query_QM: ArrayLike, rows: int | None = None, threads: int | None = None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Stream the scores of every row.

    Args:
        store: The store.
        query_QM: Whitened query gradients ``[Q, M]``: compressed as the store's vectors are; or,
            where rows are factors, whole: layer after layer, each ``[O, I]`` row by row.
        rows: The most rows of a block, which ends where its shard ends; None: about 48 MB of them,
            of several shards where these are small.
        threads: Threads that compute; None: one for each processor that this process may use.

    Yields:
        The first row of the block, and its scores ``[Q, b]``.
    """
    query = _checked(store, query_QM)
    for block in scored(store, query, (), rows, threads):
        yield block.start, block.score_Qb


def _checked(store: Store, query_QM: ArrayLike) -> NDArray[Any]:
    header = store.header
    # matrices are large and multiplied in float32: those in float32 stay so
    query = np.asarray(query_QM, dtype=None if header.factors else np.float64)
    size = header.query_dimension
    if query.ndim != 2 or not len(query) or query.shape[1] != size:
        advice = (
            "Compress the query as the store was compressed"
            if header.factors is None
            else "The store holds factors: pass the query's whole gradient of each layer, whitened"
        )
        raise BadQuery(
            f"Search: queries of shape {query.shape}, expected (queries, {size}) "
            f"from the store {store.root}. {advice}."
        )
    finite_Q = np.isfinite(query).all(axis=1)
    if not finite_Q.all():
        raise BadQuery(
            f"Search: query {int(np.argmin(finite_Q))} has numbers that are not finite, expected "
            "finite ones. Compute its gradient in a wider type."
        )
    return query
