"""Search against rows, and opening a store against shards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search import peak, timed, written
from gradients_store import open_store, search


def measure(
    rows: list[int], dimension: int, shard_rows: list[int], repeats: int
) -> Iterator[dict[str, Any]]:
    """Write synthetic int8 stores and search them, one thread.

    Args:
        rows: Numbers of rows, in shards of 1,000.
        dimension: Coordinates of a row.
        shard_rows: Rows of a shard, tried on a store of ``rows[1]`` rows.
        repeats: The fastest of so many runs counts.

    Yields:
        Records.
    """
    for count, shard in [(count, 1000) for count in rows] + [(rows[1], s) for s in shard_rows]:
        with tempfile.TemporaryDirectory() as folder:
            store = written(Path(folder), count, dimension, "int8", shard_rows=shard)
            size = sum(info.bytes for info in store.shards)
            opened = min(timed(lambda: open_store(folder))[1] for _ in range(repeats))
            for queries in (1, 8):
                query_QP = np.random.default_rng(1).standard_normal((queries, dimension))

                find = partial(
                    search, store, query_QP, 20, group_by=("source", "language"), threads=1
                )
                find()  # loads compiled code and maps the files
                runs = [timed(find) for _ in range(repeats)]
                yield {
                    "part": "search",
                    "series": "rows" if shard == 1000 else "shards",
                    "rows": count,
                    "shards": len(store.shards),
                    "queries": queries,
                    "bytes": size,
                    "cpu": min(cpu for _, cpu in runs),
                    "wall": min(wall for wall, _ in runs),
                    "open_cpu": opened,
                    "peak_mb": peak(find) / 1e6,
                }
