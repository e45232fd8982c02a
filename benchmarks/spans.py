"""Verbatim spans: are they all there, how large is the index, how long does a query take?

Every span of held-out outputs is looked for by brute force (compared with every stretch of its length
of the corpus), in the embedded corpus and in a parquet file of one's own; the index must give the same
maximal spans, with the same counts. Size and time are measured on a corpus
of installed packages' sources:

    python benchmarks/spans.py --megabytes 50 --mixture documents.parquet

Writes `benchmarks/results/spans.md`. Times are CPU time of this process, one thread.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets_cfg.embedded import documents as embedded
from influence.mixture.verbatim import spans_of, tokens_of
from pipelines.cluster import Workers
from pipelines.config import RunConfig
from pipelines.corpus import build_corpus
from pipelines.queries import Query
from pipelines.run_folder import Stage
from pipelines.suffix_array import SuffixArrays, build_suffix_arrays
from pipelines.verbatim import SpansOptions, VerbatimIndex, find_spans

RESULT = Path(__file__).parent / "results" / "spans.md"
HELD, LONGEST = 200, 40
"""Outputs, and the tokens of each that brute force looks for."""
ENDINGS = (
    ".py",
    ".pyi",
    ".txt",
    ".md",
    ".rst",
    ".c",
    ".h",
    ".cpp",
    ".hpp",
    ".js",
    ".json",
    ".html",
)


def main() -> None:
    options = parsed()
    lines = [
        "# Verbatim spans: exact, small, fast",
        "",
        f"`python benchmarks/spans.py`, {platform.machine()}, Python {platform.python_version()}. A "
        "token is a word, a number or a mark. Times are CPU time of one thread; build times leave out "
        "reading the corpus into `documents.parquet`.",
        "",
        "## Equal to brute force",
        "",
        f"{HELD} held-out documents, their first {LONGEST} tokens; each of their spans is compared with "
        "every stretch of its length of all texts; counts must be the same too.",
        "",
        "| corpus | documents | tokens | outputs | spans looked for | maximal | equal | longest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        texts = [row["text"] for row in embedded()]
        lines.append(checked("the demo's", texts, folder / "demo"))
        if options.mixture is not None:
            texts = pq.read_table(options.mixture).column("text").to_pylist()
            lines.append(checked(options.mixture.name, texts, folder / "mixture"))
        lines += ["", "## Size and time", "", *measured(options.megabytes, folder / "large")]
    options.out.write_text("\n".join(lines) + "\n", "utf-8")
    print(options.out.read_text("utf-8"))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--mixture", type=Path, help="a .parquet with a column `text`")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


def corpus_of(texts: Sequence[str], folder: Path) -> Stage:
    """A sealed corpus of some texts."""
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"text": texts}), folder / "texts.parquet", row_group_size=1024)
    about = {"name": "texts", "format": "parquet", "paths": [str(folder / "texts.parquet")]}
    (folder / "texts.yaml").write_text(json.dumps({**about, "text_column": "text"}), "utf-8")
    config = RunConfig(name="spans", train="scratch", data=(str(folder / "texts.yaml"),))
    return build_corpus(config, folder)


def held_out(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The texts that are indexed, and those that are looked for; spread evenly over all."""
    step = max(2, len(texts) // HELD)
    held = set(range(step - 1, len(texts), step)[:HELD])
    return (
        [text for i, text in enumerate(texts) if i not in held],
        [text for i, text in enumerate(texts) if i in held],
    )


# -- brute force ----------------------------------------------------------------------------------


def checked(name: str, texts: Sequence[str], folder: Path) -> str:
    """Compare the index with brute force; returns a row of the table."""
    kept, held = held_out(list(dict.fromkeys(texts)))
    with Workers(0, None) as workers:
        stage = build_suffix_arrays(corpus_of(kept, folder), folder, workers, part_bytes=1 << 19)
    arrays = SuffixArrays(stage)
    outputs = [tokens_of(text)[:LONGEST] for text in held]
    expected = brute_force(outputs, [tokens_of(text) for text in kept])
    found = [{(s.first, s.last): s.count for s in spans_of(tokens, arrays)} for tokens in outputs]
    looked = sum(len(tokens) * (len(tokens) + 1) // 2 for tokens in outputs)
    equal = sum(one == other for one, other in zip(found, expected, strict=True))
    longest = max(last - first for one in expected for first, last in one)
    return (
        f"| {name} ({stage.info()['parts']} parts) | {len(kept):,} | {arrays.size:,} | {len(held)} | "
        f"{looked:,} | {sum(map(len, expected)):,} | {equal} of {len(held)} | {longest} |"
    )


def brute_force(
    outputs: Sequence[Sequence[str]], documents: Sequence[Sequence[str]]
) -> list[dict[tuple[int, int], int]]:
    """Every span of every output is compared with every stretch of its length of the corpus.

    Stretches are compared by 64-bit hashes; those over the border of a document hold a number that no
    output has. Spans that a longer one holds are left out. Values are counts.
    """
    generator = np.random.default_rng(0)
    numbers: dict[str, int] = {}
    flat: list[int] = []
    for tokens in documents:
        flat += [0, *(numbers.setdefault(token, len(numbers) + 1) for token in tokens)]
    asked = [
        [numbers.setdefault(token, len(numbers) + 1) for token in tokens] for tokens in outputs
    ]
    values = generator.integers(1, 1 << 63, len(numbers) + 1, dtype=np.uint64)
    factor = np.uint64(0x9E3779B97F4A7C15)
    corpus = values[np.array(flat)]
    own = [values[np.array(tokens)] for tokens in asked]
    corpus_hash, own_hash = np.zeros_like(corpus), [np.zeros_like(one) for one in own]
    stands: list[dict[tuple[int, int], int]] = [{} for _ in outputs]
    for size in range(1, LONGEST + 1):
        corpus_hash = _longer(corpus_hash, corpus, size, factor)
        own_hash = [_longer(h, v, size, factor) for h, v in zip(own_hash, own, strict=True)]
        wanted = np.unique(np.concatenate(own_hash))
        if not len(wanted):
            break
        places = np.searchsorted(wanted, corpus_hash).clip(max=len(wanted) - 1)
        hits = places[wanted[places] == corpus_hash]
        counts = np.bincount(hits, minlength=len(wanted))
        for found, hashes in zip(stands, own_hash, strict=True):
            for first, count in enumerate(counts[np.searchsorted(wanted, hashes)].tolist()):
                if count:
                    found[first, first + size] = count
    return [
        {
            (first, last): count
            for (first, last), count in found.items()
            if (first - 1, last) not in found and (first, last + 1) not in found
        }
        for found in stands
    ]


def _longer(hashes: np.ndarray, values: np.ndarray, size: int, factor: np.uint64) -> np.ndarray:
    """Hashes of all stretches of a size, from those that are one token shorter."""
    count = max(0, len(values) - size + 1)
    return hashes[:count] * factor + values[size - 1 : size - 1 + count]


# -- size and time --------------------------------------------------------------------------------


def sources(megabytes: float) -> list[str]:
    """Texts of the standard library and of installed packages, each file once."""
    folders = [sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]]
    texts: dict[str, None] = {}
    size = 0
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix not in ENDINGS or not path.is_file() or path.stat().st_size > 1 << 21:
                continue
            text = path.read_text("utf-8", errors="ignore")
            if len(text) > 200 and text not in texts:
                texts[text] = None
                size += len(text.encode())
            if size >= megabytes * 1e6:
                return list(texts)
    return list(texts)


def measured(megabytes: float, folder: Path) -> list[str]:
    kept, held = held_out(sources(megabytes))
    size = sum(len(text.encode()) for text in kept)
    corpus = corpus_of(kept, folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    with Workers(0, None) as workers:
        stage = build_suffix_arrays(corpus, folder, workers)
    built = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    info = stage.info()
    index = VerbatimIndex(SuffixArrays(stage), corpus)
    rows: list[dict[str, Any]] = []
    for text in held:
        tokens = tokens_of(text)
        middle = len(tokens) // 2
        output = " ".join(tokens[middle : middle + 100])
        begun = time.process_time()
        found = spans_of(tokens_of(output), index.arrays)
        searched = time.process_time() - begun
        begun = time.process_time()
        find_spans(index, Query(completion=output), SpansOptions())
        rows.append({"search": searched, "all": time.process_time() - begun, "spans": len(found)})
    search, whole = (np.array([row[name] for row in rows]) * 1e3 for name in ("search", "all"))
    return [
        "| | |",
        "|---|---|",
        f"| corpus | {len(kept):,} files, {size / 1e6:.1f} MB of text, {info['tokens']:,} tokens |",
        f"| parts | {info['parts']} |",
        f"| index | {info['bytes'] / 1e6:.1f} MB: {info['bytes'] / info['tokens']:.2f} bytes a token, "
        f"{info['bytes'] / size:.2f} a byte of text |",
        f"| building it | {built:.1f} CPU-seconds, {built / info['tokens'] * 1e6:.2f} µs a token |",
        f"| peak memory of this process | {peak / 1024:,.0f} MiB, {before / 1024:,.0f} before |",
        f"| queries | {len(rows)} outputs of 100 tokens from files that are not in it; "
        f"{np.mean([row['spans'] for row in rows]):.1f} maximal spans each |",
        f"| search: spans and counts | median {np.median(search):.1f} CPU-ms, 95 % under "
        f"{np.quantile(search, 0.95):.1f} |",
        f"| with documents and contexts | median {np.median(whole):.1f} CPU-ms, 95 % under "
        f"{np.quantile(whole, 0.95):.1f} |",
    ]


if __name__ == "__main__":
    main()
