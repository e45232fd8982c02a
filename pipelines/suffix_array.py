"""An index of a corpus in which any run of words is found at once: suffix arrays, part by part.

A part is documents of about `PART_BYTES`. Its tokens (`influence.mixture.verbatim`) are numbers of
a sorted vocabulary of its own, 0 stands before each document, and a suffix array holds the places
of all tokens in the order of what follows them. So all places where some tokens follow each other
lie side by side in it, and two binary searches find them; none crosses the border of a document.
All is Arrow, memory-mapped when it is read: 8 bytes a token, and the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from influence.mixture.verbatim import tokens_of
from pipelines.cluster import Workers
from pipelines.corpus import DOCUMENTS, take_documents
from pipelines.errors import RunError
from pipelines.run_folder import Stage, key_of, seal
from pipelines.tokens import read_table, shard_path, write_table

PART_BYTES = 32 << 20
"""UTF-8 bytes of one part's documents, about; a task takes some ten times as much memory."""
STAGE = "suffixes"
KINDS = ("vocabulary", "suffixes", "documents")
"""Files of a part, in the order in which they are written."""
UNKNOWN = -1
"""The number of a word that a part does not hold; no token is it."""
FIRST_LOOK = 8
"""Tokens that are compared at once; twice as many each time that they are equal."""


@dataclass(frozen=True, kw_only=True)
class PartSpec:
    """Some documents, and where their suffix array lies."""

    documents: str
    first: int
    last: int
    folder: str
    part: int

    def file(self, kind: str) -> Path:
        """One of `KINDS`."""
        return shard_path(Path(self.folder), self.part, kind)


def suffix_stage(corpus: Stage, root: Path, part_bytes: int = PART_BYTES) -> Stage:
    """Where the index of a corpus lies; it may be missing.

    Args:
        corpus: The sealed corpus.
        root: The run's folder.
        part_bytes: Of one part.

    Returns:
        The stage.
    """
    return Stage(STAGE, key_of(corpus=corpus.info()["content"], part=part_bytes), root)


def build_suffix_arrays(
    corpus: Stage, root: Path, workers: Workers, part_bytes: int = PART_BYTES
) -> Stage:
    """Index the words of a corpus; run again to resume, or to reuse it.

    Args:
        corpus: The sealed corpus.
        root: The run's folder.
        workers: Where to run.
        part_bytes: Text of one part.

    Returns:
        The sealed stage; its info holds numbers of parts, documents, tokens and bytes.
    """
    stage = suffix_stage(corpus, root, part_bytes)
    if stage.is_sealed():
        return stage
    _sorter()
    specs = plan_parts(corpus.path / DOCUMENTS, stage, part_bytes)
    todo = [spec for spec in specs if not spec.file(KINDS[-1]).exists()]
    workers.map(index_part, todo, "Indexing runs of words")
    tokens = sum(len(read_table(s.file("suffixes"))) - (s.last - s.first) for s in specs)
    size = sum(spec.file(kind).stat().st_size for spec in specs for kind in KINDS)
    ends = [spec.last for spec in specs]
    info = {"parts": len(specs), "ends": ends, "tokens": tokens, "bytes": size}
    return seal(stage, {**info, "documents": ends[-1]})


def _sorter() -> Any:
    try:
        return import_module("pydivsufsort").divsufsort
    except ImportError as error:
        raise RunError(
            f"Suffix arrays: pydivsufsort is not installed ({error}), the library that sorts them was "
            "expected. Run `pip install 'whydidit[mixture]'`."
        ) from error


def plan_parts(documents: Path, index: Stage, part_bytes: int = PART_BYTES) -> list[PartSpec]:
    """Which documents go into which part; reads the lengths of their texts.

    Args:
        documents: ``documents.parquet``.
        index: The index.
        part_bytes: Text of one part; a longer document is a part of its own.

    Returns:
        One spec a part.
    """
    edges, held, row = [0], 0, 0
    for length in _lengths(documents):
        if held and held + length > part_bytes:
            edges.append(row)
            held = 0
        held += length
        row += 1
    edges.append(row)
    return [
        PartSpec(
            documents=str(documents), first=first, last=last, folder=str(index.path), part=part
        )
        for part, (first, last) in enumerate(pairwise(edges))
    ]


def _lengths(documents: Path) -> Iterator[int]:
    with pq.ParquetFile(documents, memory_map=True) as file:
        for group in range(file.num_row_groups):
            texts = file.read_row_group(group, columns=["text"]).column("text")
            yield from pc.binary_length(texts).to_pylist()


def index_part(spec: PartSpec) -> str:
    """Write the suffix array of one part (runs on a worker).

    Args:
        spec: The part.

    Returns:
        The file that was written last.
    """
    table = take_documents(Path(spec.documents), range(spec.first, spec.last), ["text"])
    numbers: dict[str, int] = {}
    parts, starts, size = [], [], 0
    for text in table.column("text"):
        found = [numbers.setdefault(word, len(numbers) + 1) for word in tokens_of(text.as_py())]
        starts.append(size)
        parts.append(np.array([0, *found], dtype=np.uint32))
        size += len(parts[-1])
    # numbers in the order of the words, so that a part's bytes are the same however it was made
    words = sorted(numbers)
    rank = np.zeros(len(words) + 1, dtype=np.uint32)
    rank[[numbers[word] for word in words]] = np.arange(1, len(words) + 1)
    tokens_N = rank[np.concatenate(parts)]
    del numbers, parts
    suffixes_N = _sorter()(tokens_N).astype(np.uint32)
    firsts = np.searchsorted(tokens_N[suffixes_N], np.arange(1, len(words) + 2))
    vocabulary = {"word": pa.array(words, pa.large_string()), "first": firsts[:-1]}
    write_table(spec.file("vocabulary"), pa.table(vocabulary))
    write_table(spec.file("suffixes"), pa.table({"token": tokens_N, "suffix": suffixes_N}))
    begins = pa.table({"start": np.array(starts, dtype=np.uint32)})
    return str(write_table(spec.file("documents"), begins))


@dataclass(frozen=True)
class Place:
    """Where some tokens stand."""

    row: int
    """Of the document in the corpus."""
    token: int
    """Number of their first token in the document."""


class Part:
    """The suffix array of one part, memory-mapped.

    Args:
        folder: Of the index.
        number: Of the part.
        first: Row of its first document.
    """

    def __init__(self, folder: Path, number: int, first: int) -> None:
        tables = {kind: read_table(shard_path(folder, number, kind)) for kind in KINDS}
        self.first = first
        self.words = tables["vocabulary"].column("word").combine_chunks()
        self.firsts = tables["vocabulary"].column("first").combine_chunks().to_numpy()
        self.tokens = tables["suffixes"].column("token").combine_chunks().to_numpy()
        self.suffixes = tables["suffixes"].column("suffix").combine_chunks().to_numpy()
        self.starts = tables["documents"].column("start").combine_chunks().to_numpy()

    def number(self, word: str) -> int:
        """The number of a word; `UNKNOWN`: no document of the part holds it."""
        low, high = 0, len(self.words)
        while low < high:
            middle = (low + high) // 2
            found = self.words[middle].as_py()
            if found == word:
                return middle + 1
            low, high = (middle + 1, high) if found < word else (low, middle)
        return UNKNOWN

    def longest(self, wanted: Sequence[int], start: int) -> int:
        """Most of some numbers, from one on, that follow each other in a document."""
        low, high = first, last = self._of_one(wanted[start])
        while low < high:
            middle = (low + high) // 2
            less = self._compare(int(self.suffixes[middle]), wanted, start)[1]
            low, high = (middle + 1, high) if less else (low, middle)
        # what is longest stands beside where all of them would stand
        near = [int(self.suffixes[i]) for i in (low - 1, low) if first <= i < last]
        return max((self._compare(place, wanted, start)[0] for place in near), default=0)

    def interval(self, wanted: Sequence[int]) -> tuple[int, int]:
        """The interval of the suffix array whose places hold these numbers in a row."""
        first, last = self._of_one(wanted[0])
        if len(wanted) == 1:
            return first, last
        return self._edge(wanted, first, last, False), self._edge(wanted, first, last, True)

    def _of_one(self, number: int) -> tuple[int, int]:
        if number == UNKNOWN:
            return 0, 0
        last = self.firsts[number] if number < len(self.firsts) else len(self.suffixes)
        return int(self.firsts[number - 1]), int(last)

    def _edge(self, wanted: Sequence[int], low: int, high: int, after: bool) -> int:
        """The first place of an interval that is not before (`after`: is behind) the numbers."""
        while low < high:
            middle = (low + high) // 2
            same, less = self._compare(int(self.suffixes[middle]), wanted, 0)
            before = after if same == len(wanted) else less
            low, high = (middle + 1, high) if before else (low, middle)
        return low

    def _compare(self, place: int, wanted: Sequence[int], start: int) -> tuple[int, bool]:
        """How many numbers are the same from a place on, and whether the place comes before."""
        same, look, total = 0, FIRST_LOOK, len(wanted) - start
        while same < total:
            ours = wanted[start + same : start + same + look]
            theirs = self.tokens[place + same : place + same + len(ours)].tolist()
            if ours != theirs:
                both = zip(ours, theirs, strict=False)
                equal = sum(1 for _ in takewhile(lambda two: two[0] == two[1], both))
                return same + equal, theirs < ours
            same, look = same + len(ours), look * 2
        return same, False

    def places(self, wanted: Sequence[int]) -> np.ndarray:
        """Positions of all places that hold these numbers, ascending."""
        first, last = self.interval(wanted)
        return np.sort(self.suffixes[first:last])

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """The corpus's rows of documents that hold some positions."""
        return np.searchsorted(self.starts, positions, side="right") - 1 + self.first


class SuffixArrays:
    """All parts of an index: a `Corpus` that is not in memory.

    Args:
        stage: Of `build_suffix_arrays`.
    """

    def __init__(self, stage: Stage) -> None:
        info = stage.info()
        self.size: int = info["tokens"]
        self.documents: int = info["documents"]
        self._parts = [
            Part(stage.path, number, first) for number, first in enumerate([0, *info["ends"][:-1]])
        ]
        self._known: dict[str, tuple[int, ...]] = {}

    def reach(self, tokens: Sequence[str]) -> Callable[[int], int]:
        """From a token's number: the most tokens from it on that stand in one document in a row."""
        wanted = [self._numbers(tokens, part) for part in range(len(self._parts))]

        def longest(start: int) -> int:
            both = zip(self._parts, wanted, strict=True)
            return max(part.longest(numbers, start) for part, numbers in both)

        return longest

    def count(self, tokens: Sequence[str]) -> int:
        """How many times these tokens follow each other in a document."""
        total = 0
        for number, part in enumerate(self._parts):
            first, last = part.interval(self._numbers(tokens, number))
            total += last - first
        return total

    def find(self, tokens: Sequence[str], most: int) -> tuple[int, list[Place]]:
        """The documents in which these tokens follow each other.

        Args:
            tokens: At least one.
            most: Documents to name.

        Returns:
            How many documents there are, and the first place in each of the first of them.
        """
        total = 0
        found: list[Place] = []
        for number, part in enumerate(self._parts):
            positions = part.places(self._numbers(tokens, number))
            rows, firsts = np.unique(part.rows(positions), return_index=True)
            total += len(rows)
            for row, position in zip(rows.tolist(), positions[firsts].tolist(), strict=True):
                if len(found) == most:
                    break
                start = int(part.starts[row - part.first]) + 1
                found.append(Place(row, position - start))
        return total, found

    def _numbers(self, tokens: Sequence[str], part: int) -> list[int]:
        return [self._number(token)[part] for token in tokens]

    def _number(self, token: str) -> tuple[int, ...]:
        """A token's number in each part."""
        if token not in self._known:
            self._known[token] = tuple(part.number(token) for part in self._parts)
        return self._known[token]
