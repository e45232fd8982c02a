"""How fast a store is searched, beside how fast its bytes can be read at all.

Writes synthetic stores of 1,000, 10,000 and 100,000 rows (the last one holds 2 GB as int8) into a
temporary folder that is removed afterwards, and prints a table. Rows have heavy tails, as gradients
have: coordinates and lengths are spread over orders of magnitude. With `--factors R O I` a row holds
factors of rank R of as many layers of shape [O, I] as fit into the dimension, and queries are whole
matrices (`--query-rank` gives them a low rank). Reading and searching take turns,
so that both see the same load; the median counts. "Read" is a sum over the mapped files, eight
bytes at a time, in as many threads as the search has: in GB/s by the clock, then in seconds of
processor time, each with its share (on a busy machine trust the second). Memory is the peak of the
resident set, with the mapped pages in it. Run it as `python benchmarks/search.py`; `--help` says
what can be changed.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from gradients_store import Header, Rows, Store, open_store, seal, search, write_shard
from gradients_store.products import compiled

SHARD_ROWS = 1000
DTYPES = ("float32", "float16", "int8", "int4", "int2")
SOURCES = ("web", "books", "code", "wiki")
TITLE = (
    f"{'rows':>8} {'bytes':>14} {'queries':>7} {'threads':>7} {'wall s':>8} {'GB/s':>6} {'read':>6} "
    f"{'share':>6} {'CPU s':>7} {'read':>7} {'share':>6} {'peak MB':>8}"
)


def main() -> None:
    options = parsed()
    print(TITLE)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for rows in options.rows:
            store = written(
                Path(folder) / str(rows), rows, options.dimension, options.dtype, options.factors
            )
            for queries in options.queries:
                for threads in options.threads:
                    print(line(store, queries, threads, options), flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dimension", type=int, default=20_000)
    parser.add_argument("--dtype", default="int8", choices=DTYPES)
    parser.add_argument("--factors", type=int, nargs=3, metavar=("R", "O", "I"))
    parser.add_argument("--query-rank", type=int, help="with --factors; None: full rank")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where the temporary folder is made")
    return parser.parse_args()


def written(
    root: Path,
    rows: int,
    dimension: int,
    dtype: str,
    factors: Sequence[int] | None = None,
    shard_rows: int = SHARD_ROWS,
) -> Store:
    """Write a store; its shards hold the same rows, turned by one coordinate each."""
    layers = 1
    if factors:
        rank, out, inputs = factors
        layers = max(1, dimension // (rank * (out + inputs)))
        dimension = layers * rank * (out + inputs)
    draw = np.random.default_rng(0)
    shard_rows = min(rows, shard_rows)
    base = draw.standard_normal((shard_rows, dimension), dtype=np.float32)
    base *= draw.lognormal(0, 1, dimension).astype(np.float32)
    base *= draw.lognormal(0, 1, (shard_rows, 1)).astype(np.float32)
    header = Header(
        **dict.fromkeys(("model", "tokenizer", "corpus", "curvature"), "synthetic"),
        layers=tuple(f"layer {layer}" for layer in range(layers)),
        factors=layers * ((rank, out, inputs),) if factors else None,
        curvature_kind="ekfac",
        damping=0.1,
        sketch="full",
        sketch_size=dimension,
        sketch_seed=None,
        sketch_coordinates=None,
        dtype=dtype,
        dimension=dimension,
        n_documents=rows,
        shard_documents=shard_rows,
    )
    shards = []
    for index in range(header.n_shards):
        count = header.rows_of_shard(index)
        number = np.arange(count) + index * shard_rows
        one = np.ones(count)
        columns = Rows(
            id=[f"doc-{n}" for n in number],
            source=[SOURCES[n % 4] for n in number],
            language=["en"] * count,
            n_tokens=np.full(count, 100),
            loss=one,
            self_influence=one,
            gradient_norm=one,
            vector=np.roll(base[:count], index, axis=1),
        )
        shards.append(write_shard(root, index, columns, header))
    seal(root, header, shards, {})
    return open_store(root)


def drawn_queries(header: Header, queries: int, rank: int | None) -> NDArray[np.float32]:
    """Queries ``[Q, M]``; of factor rows, matrices of some rank."""
    draw = np.random.default_rng(1)
    if header.factors is None or rank is None:
        return draw.standard_normal((queries, header.query_dimension), dtype=np.float32)
    matrices = [
        draw.standard_normal((queries, out, rank), dtype=np.float32)
        @ draw.standard_normal((queries, rank, inputs), dtype=np.float32)
        for _, out, inputs in header.factors
    ]
    return np.concatenate([matrix.reshape(queries, -1) for matrix in matrices], axis=1)


def line(store: Store, queries: int, threads: int, options: argparse.Namespace) -> str:
    query_QM = drawn_queries(store.header, queries, options.query_rank)
    size = sum(shard.bytes for shard in store.shards)

    def find() -> None:
        search(store, query_QM, 20, group_by=("source", "language"), threads=threads)

    compiled()  # in small stores too, so that memory compares
    find()
    with ThreadPoolExecutor(threads) as pool:
        paths = [Path(store.root) / shard.name for shard in store.shards]
        pairs = [(timed(lambda: read(pool, paths)), timed(find)) for _ in range(options.repeats)]
    (read_wall, read_cpu), (wall, cpu) = (
        [statistics.median(pair[i][k] for pair in pairs) for k in (0, 1)] for i in (0, 1)
    )
    return (
        f"{len(store):8,} {size:14,} {queries:7} {threads:7} {wall:8.3f} {size / wall / 1e9:6.1f} "
        f"{size / read_wall / 1e9:6.1f} {read_wall / wall:6.0%} {cpu:7.3f} {read_cpu:7.3f} "
        f"{read_cpu / cpu:6.0%} {peak(find) / 1e6:8.0f}"
    )


def read(pool: ThreadPoolExecutor, paths: list[Path]) -> int:
    """Map and sum up every whole word of some files."""
    return sum(pool.map(summed, paths))


def summed(path: Path) -> int:
    words = path.stat().st_size // 8
    return int(np.memmap(path, dtype=np.int64, mode="r", shape=(words,)).sum())


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the wall and on the processors."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def peak(call: Callable[[], Any]) -> int:
    """The largest resident set while something runs, looked at every two milliseconds."""
    process, over = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def look() -> None:
        while not over.wait(0.002):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    call()
    over.set()
    watcher.join()
    return max(seen)


if __name__ == "__main__":
    main()
