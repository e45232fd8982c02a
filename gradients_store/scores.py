"""Scores of every row of a store, in order, computed block by block in several threads.

A score is summed exactly or in float64 (see `products`), times the row's scale, and rounded to
float32: it does not depend on the block that its row came in, the other queries or the threads,
and equal rows have equal scores. (Small float stores are summed by BLAS, whose order may change
with both; the rounding to float32 hides it. Scores of factor rows are sums of float32 products by
BLAS, see `factor_products`: block and queries may change them by rounding, threads do not.)
Memory: a few blocks of rows, whatever the size of the store.
Axes: Q queries, b rows of a block, M numbers of a query: P coordinates, or the layers' matrices.
"""

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradients_store import columns
from gradients_store.errors import BadQuery
from gradients_store.factor_products import factor_products
from gradients_store.products import Products, products
from gradients_store.reader import Store
from gradients_store.schema import Header

Multiply = Callable[[pa.Table], NDArray[np.float64]]
"""Rows of a store to scores ``[b, Q]``."""
_BLOCK_BYTES = 3 << 24
_BLOCK_ROWS = 8192
_FEW_BYTES = 1 << 25  # a store that one thread reads in a moment


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some rows of a store with their scores."""

    start: int
    """Row of the first one."""
    table: pa.Table
    """The columns asked for, and those of the vector."""
    score_Qb: NDArray[np.float32]
    """Scores ``[Q, b]``."""


def scored(
    store: Store,
    query_QM: NDArray[Any],
    others: Sequence[str] = (),
    rows: int | None = None,
    threads: int | None = None,
) -> Iterator[Block]:
    """Stream a store with the scores of its rows.

    Args:
        store: The store.
        query_QM: Finite queries ``[Q, M]``.
        others: Further columns to read.
        rows: The most rows of a block, which ends where its shard ends; None: about 48 MB of them,
            of several shards where these are small.
        threads: Threads that compute; None: one for each processor that this process may use.

    Yields:
        Blocks in the order of the rows.
    """
    header = store.header
    multiply: Multiply
    if header.factors is None:
        multiply = functools.partial(_plain, products(query_QM, header.dtype, len(store)))
    else:
        multiply = factor_products(query_QM, header)
    names = (*header.vector_columns, *others)
    if rows is None:
        tables = _across_shards(store.tables(names, _block_rows(header)), _block_rows(header))
    else:
        tables = store.tables(names, rows)
    workers = processors() if threads is None else threads
    if workers < 2 or sum(shard.bytes for shard in store.shards) <= _FEW_BYTES:
        for start, table in tables:
            yield _scored(start, table, multiply, store.root)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Block]] = deque()
        for start, table in tables:
            waiting.append(pool.submit(_scored, start, table, multiply, store.root))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _block_rows(header: Header) -> int:
    return min(_BLOCK_ROWS, max(1, _BLOCK_BYTES // header.stored_bytes))


def _across_shards(
    tables: Iterable[tuple[int, pa.Table]], most: int
) -> Iterator[tuple[int, pa.Table]]:
    # Joins small tables, without a copy, into some of `most` rows at the most: fewer blocks are
    # less work beside the products.
    held: list[pa.Table] = []
    first = rows = 0
    for start, table in tables:
        if rows + table.num_rows > most:
            yield first, pa.concat_tables(held)
            held, first, rows = [], start, 0
        held.append(table)
        rows += table.num_rows
    if held:
        yield first, pa.concat_tables(held)


def _plain(multiply: Products, table: pa.Table) -> NDArray[np.float64]:
    scale_b1 = columns.joined(table.column("scale")).astype(np.float64)[:, None]
    return multiply([columns.lists(chunk) for chunk in table.column("vector").chunks]) * scale_b1


def _scored(start: int, table: pa.Table, multiply: Multiply, where: str) -> Block:
    with np.errstate(over="ignore", invalid="ignore"):
        score_Qb = np.ascontiguousarray(multiply(table).astype(np.float32).T)
    if not np.isfinite(score_Qb).all():
        raise BadQuery(
            f"Search: a score in {where} is larger than float32 holds, expected smaller ones. "
            "Check the query's length, and the store with `verify`."
        )
    return Block(start=start, table=table, score_Qb=score_Qb)
