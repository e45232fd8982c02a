"""Near-duplicates: clusters of documents that say almost the same, by MinHash and exact Jaccard.

A document's shingles are all runs of `SHINGLE` bytes of its text in UTF-8, in lower case and with
single blanks: eight letters of English, or not quite three characters of Chinese, so that no script
needs a rule of its own.  A shingle fits a 64-bit number, so sets are compared exactly.

Each part of the corpus writes its documents' shingles and MinHash signatures; one join finds
candidates by locality-sensitive hashing, keeps pairs whose exact Jaccard similarity reaches the
threshold, and merges them.  So no pair below the threshold is joined directly, and a pair at the
threshold is overlooked with probability `MISSED` at most.  A chain may join documents that differ more.

Source: Broder (1997), doi:10.1109/SEQUEN.1997.666900; Leskovec, Rajaraman & Ullman, "Mining of
Massive Datasets", sections 3.2 to 3.4.
"""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.cluster.hierarchy import DisjointSet

from pipelines.cluster import Workers, bar
from pipelines.corpus import DOCUMENTS, take_documents
from pipelines.errors import RunError
from pipelines.run_folder import PARTIAL, Stage, key_of, seal
from pipelines.tokens import read_table, shard_path, write_table

STAGE = "duplicates"
THRESHOLD = 0.8
"""Jaccard similarity from which two documents are near-duplicates, unless another is asked for."""
CLUSTERS = "clusters.arrow"
SHINGLE = 8
"""Bytes of a shingle."""
PERMUTATIONS = 128
"""Numbers of a signature."""
MISSED = 0.01
"""Largest probability that a pair just at the threshold never becomes a candidate."""
PART_ROWS = 1024
"""Documents of one part."""
SLICE = 4096
"""Shingles that are hashed at once: 4 MiB, however long a document is."""


@dataclass(frozen=True, kw_only=True)
class SignatureSpec:
    """One part of the corpus, and the file of its shingles and signatures."""

    documents: str
    first: int
    last: int
    out: str


def find_duplicates(
    corpus: Stage, root: Path, workers: Workers, threshold: float = THRESHOLD, rows: int = PART_ROWS
) -> Stage:
    """Find the clusters of near-duplicates; run again to resume, or to reuse them.

    Args:
        corpus: The sealed corpus.
        root: The run's folder.
        workers: Where to run.
        threshold: Jaccard similarity of shingles from which two documents are near-duplicates,
            above 0 and at most 1; 1: equal but for case, blanks and the order of repeats.
        rows: Documents of a part; changes no cluster.

    Returns:
        The sealed stage; its info holds ``clusters`` (of two documents or more), ``documents`` in
        them, ``largest`` and ``threshold``.

    Raises:
        RunError: If the threshold makes no sense.
    """
    if not 0 < threshold <= 1:
        raise RunError(
            f"Near-duplicates: threshold {threshold} given, a Jaccard similarity above 0 and at most "
            "1 was expected. Use 0.8, say."
        )
    stage = _stage(corpus, root, threshold)
    if not stage.is_sealed():
        _check_extra()
        specs = plan_signatures(corpus, stage, rows)
        todo = [spec for spec in specs if not Path(spec.out).exists()]
        workers.map(write_signatures, todo, "Signatures of documents")
        cluster_N, similarity_N = _join([Path(s.out) for s in specs], threshold, workers)
        table = pa.table({"cluster": cluster_N, "similarity": similarity_N})
        write_table(stage.path / CLUSTERS, table)
        seal(stage, {**summary(cluster_N), "threshold": threshold})
    shutil.rmtree(stage.path / PARTIAL, ignore_errors=True)
    return stage


def sealed_duplicates(corpus: Stage, root: Path, threshold: float = THRESHOLD) -> Stage | None:
    """The clusters of a run, where ``find_duplicates`` has found them.

    Args:
        corpus: The sealed corpus.
        root: The run's folder.
        threshold: As it was found with.

    Returns:
        The sealed stage, or None.
    """
    stage = _stage(corpus, root, threshold)
    return stage if stage.is_sealed() else None


def _stage(corpus: Stage, root: Path, threshold: float) -> Stage:
    how = {"shingle": SHINGLE, "permutations": PERMUTATIONS, "missed": MISSED}
    key = key_of(corpus=corpus.info()["content"], threshold=threshold, **how)
    return Stage(STAGE, key, root)


def _check_extra() -> None:
    if find_spec("datasketch") is None:
        raise RunError(
            "Near-duplicates: the package datasketch is not installed, which finds candidates. Install "
            "it: `pip install 'whydidit[mixture]'`."
        )


def read_clusters(stage: Stage) -> np.ndarray:
    """The cluster of each document.

    Args:
        stage: The sealed stage of ``find_duplicates``.

    Returns:
        int64 ``[N]``: the row of the first document of its cluster; its own row if it is alone.
    """
    return _column(stage, "cluster")


def read_similarity(stage: Stage) -> np.ndarray:
    """How much each document is like the first of its cluster.

    Args:
        stage: The sealed stage of ``find_duplicates``.

    Returns:
        Exact Jaccard similarity of shingles ``[N]``; 1 for first and for lone documents.
    """
    return _column(stage, "similarity")


def _column(stage: Stage, name: str) -> np.ndarray:
    values: np.ndarray = read_table(stage.path / CLUSTERS).column(name).to_numpy()
    return values


def summary(cluster_N: np.ndarray) -> dict[str, int]:
    """Count clusters of two documents or more.

    Args:
        cluster_N: Cluster of each document.

    Returns:
        ``clusters``, ``documents`` in them, and ``largest``: the documents of the largest (0: none).
    """
    sizes = np.unique(cluster_N, return_counts=True)[1]
    several = sizes[sizes > 1]
    return {
        "clusters": len(several),
        "documents": int(several.sum()),
        "largest": int(several.max(initial=0)),
    }


# -- a part's shingles and signatures (runs on a worker) ---------------------------------------------


def plan_signatures(corpus: Stage, stage: Stage, rows: int) -> list[SignatureSpec]:
    """Which documents go into which part; pure.

    Args:
        corpus: The sealed corpus.
        stage: The stage to fill.
        rows: Documents of a part.

    Returns:
        One spec a part.
    """
    total, folder = corpus.info()["documents"], stage.path / PARTIAL / str(rows)
    return [
        SignatureSpec(
            documents=str(corpus.path / DOCUMENTS),
            first=first,
            last=min(first + rows, total),
            out=str(shard_path(folder, first // rows, "signatures")),
        )
        for first in range(0, total, rows)
    ]


def write_signatures(spec: SignatureSpec) -> str:
    """Write the shingles and signatures of one part of the corpus (runs on a worker).

    Args:
        spec: The part.

    Returns:
        An Arrow file, a row a document.
    """
    table = take_documents(Path(spec.documents), range(spec.first, spec.last), ["text"])
    plain = [normalised(text) for text in table.column("text").to_pylist()]
    sets = [shingles(one) for one in plain]
    columns = {
        "content": pa.array([blake2b(one, digest_size=16).digest() for one in plain], pa.binary()),
        "shingles": pa.array(sets, pa.large_list(pa.uint64())),
        "signature": pa.array([signature(one) for one in sets], pa.large_list(pa.uint64())),
    }
    return str(write_table(Path(spec.out), pa.table(columns)))


def normalised(text: str) -> bytes:
    """A text as it is compared: compatible characters made one, lower case, single blanks.

    Returns:
        UTF-8.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).encode("utf-8", "surrogatepass")


def shingles(plain: bytes) -> np.ndarray:
    """All distinct runs of `SHINGLE` bytes; a shorter text is one shingle, filled up with zeros.

    Args:
        plain: From ``normalised``.

    Returns:
        Sorted uint64; never empty.
    """
    data = np.frombuffer(plain.ljust(SHINGLE, b"\0"), np.uint8)
    runs = np.lib.stride_tricks.sliding_window_view(data, SHINGLE)
    return np.unique(np.ascontiguousarray(runs).view("<u8").reshape(-1))


def signature(shingle_S: np.ndarray) -> np.ndarray:
    """The MinHash of a set of shingles.

    Args:
        shingle_S: Its shingles.

    Returns:
        uint64 ``[PERMUTATIONS]``; two documents agree in an entry with the probability of their
        Jaccard similarity.
    """
    found = _empty_signature().copy()
    for start in range(0, len(shingle_S), SLICE):
        found.update_batch(shingle_S[start : start + SLICE].tolist())
    return np.asarray(found.hashvalues)


@cache
def _empty_signature() -> Any:
    from datasketch import MinHash  # an extra

    return MinHash(PERMUTATIONS, seed=1, hashfunc=int, scheme="affine64")


def jaccard(a_S: np.ndarray, b_S: np.ndarray) -> float:
    """Shared shingles over all shingles of two documents.

    Args:
        a_S: Sorted distinct shingles.
        b_S: Those of another document.

    Returns:
        Between 0 and 1.
    """
    shared = len(np.intersect1d(a_S, b_S, assume_unique=True))
    return shared / (len(a_S) + len(b_S) - shared)


# -- the join ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One part's columns, memory-mapped."""

    content: list[bytes]
    shingles: pa.LargeListArray
    signatures: np.ndarray


class _Parts:
    """Rows of all parts by their number in the corpus."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._parts = [self._read(path) for path in paths]
        self._starts = np.cumsum([0, *(len(part.content) for part in self._parts)])

    @staticmethod
    def _read(path: Path) -> _Part:
        table = read_table(path).combine_chunks()
        column = {name: table.column(name).chunk(0) for name in table.column_names}
        signatures = column["signature"].values.to_numpy().reshape(-1, PERMUTATIONS)
        return _Part(column["content"].to_pylist(), column["shingles"], signatures)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def contents(self) -> list[bytes]:
        return [one for part in self._parts for one in part.content]

    def _place(self, row: int) -> tuple[_Part, int]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._parts[number], row - int(self._starts[number])

    def signature(self, row: int) -> np.ndarray:
        part, place = self._place(row)
        return part.signatures[place]

    def jaccard(self, a: int, b: int) -> float:
        sets = []
        for row in (a, b):
            part, place = self._place(row)
            sets.append(part.shingles[place].values.to_numpy())
        return jaccard(*sets)


def _join(
    paths: Sequence[Path], threshold: float, workers: Workers
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters ``[N]``, and similarity to the cluster's first document ``[N]``."""
    parts = _Parts(paths)
    joined, index = DisjointSet(range(len(parts))), _index(threshold)
    seen: dict[bytes, int] = {}
    with bar(workers.console, "Joining near-duplicates", len(parts)) as advance:
        for row, content in enumerate(parts.contents()):
            advance(1.0)
            first = seen.setdefault(content, row)
            if first != row:  # equal texts meet once, however many they are
                joined.merge(first, row)
                continue
            own = _wrapped(parts.signature(row))
            for other in sorted(index.query(own)):
                if not joined.connected(other, row) and parts.jaccard(other, row) >= threshold:
                    joined.merge(other, row)
            index.insert(row, own, check_duplication=False)
    cluster_N = np.arange(len(parts), dtype=np.int64)
    similarity_N = np.ones(len(parts))
    for own_rows in joined.subsets():
        first = min(own_rows)
        for row in own_rows - {first}:
            cluster_N[row] = first
            similarity_N[row] = parts.jaccard(first, row)
    return cluster_N, similarity_N


def _index(threshold: float) -> Any:
    from datasketch import MinHashLSH

    return MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))


def _wrapped(signature_H: np.ndarray) -> Any:
    from datasketch import LeanMinHash

    return LeanMinHash(seed=1, hashvalues=signature_H, scheme="affine64")


def bands(threshold: float) -> tuple[int, int]:
    """Bands and rows of the index: as few candidates as `MISSED` allows.

    A pair of similarity s meets in one of b bands of r rows with probability ``1 - (1 - s^r)^b``.

    Args:
        threshold: Jaccard similarity that must not be missed.

    Returns:
        b and r, with b at least 2 and b * r at most `PERMUTATIONS`.
    """
    fitting = (
        (PERMUTATIONS // r, r)
        for r in range(PERMUTATIONS // 2, 0, -1)
        if (1 - threshold**r) ** (PERMUTATIONS // r) <= MISSED
    )
    return next(fitting, (PERMUTATIONS, 1))
