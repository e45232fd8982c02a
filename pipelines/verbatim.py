"""Which spans of an output stand word for word in a run's documents, and in which."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from influence.mixture.verbatim import (
    RULE,
    Span,
    covered,
    is_word,
    shared_spans,
    spans_of,
    token_spans,
    tokens_of,
)
from pipelines.cluster import Workers, bar
from pipelines.corpus import DOCUMENTS, take_documents
from pipelines.errors import RunError
from pipelines.queries import Query, read_queries
from pipelines.report.spans_page import write_spans_page
from pipelines.run_folder import Stage, key_of, new_file, write_json
from pipelines.runs import Run
from pipelines.suffix_array import Place, SuffixArrays, build_suffix_arrays, suffix_stage

FORMAT = 1
CONTEXT = 80
"""Characters of a document on either side of a span."""
CHEAP = 5_000_000
"""Tokens of a corpus that is indexed without being asked for: some seconds."""
SHORT = 20
"""Fewer outputs need no progress bar."""
FEWEST_SHARED = 2
"""Words of a span that a document of a trace is said to share with the output, at least."""
NAMED = 3
"""Spans that a document of a trace shares with the output and that are named, the longest first."""


@dataclass(frozen=True, kw_only=True)
class SpansOptions:
    """What to show, and where to write it."""

    min_tokens: int | None = None
    """Show all maximal spans of so many tokens; None: those that are telling."""
    documents: int = 3
    """Documents to name for each span."""
    html: Path | None = None
    """Where to write the page; None: beside the result."""


@dataclass(frozen=True)
class VerbatimIndex:
    """A run's corpus, and the index of it."""

    arrays: SuffixArrays
    corpus: Stage


def open_index(run: Run, workers: Workers) -> VerbatimIndex:
    """The index of a run's corpus, which is built where it is missing.

    Args:
        run: A finished run.
        workers: Where to run.

    Returns:
        The index, memory-mapped.
    """
    stage = build_suffix_arrays(run.corpus, run.root, workers)
    return VerbatimIndex(SuffixArrays(stage), run.corpus)


def cheap_index(run: Run, workers: Workers) -> VerbatimIndex | None:
    """The index if it is there, or takes some seconds to build.

    Args:
        run: A finished run.
        workers: Where to run.

    Returns:
        The index; None: the corpus is large, or the library is missing.
    """
    if suffix_stage(run.corpus, run.root).is_sealed() or run.tokens.info()["tokens"] <= CHEAP:
        try:
            return open_index(run, workers)
        except RunError:  # without the extra `mixture` a trace has no marks
            return None
    return None


def find_spans(index: VerbatimIndex, query: Query, options: SpansOptions) -> dict[str, Any]:
    """All maximal spans of one output that stand in the corpus, and those that are shown.

    Args:
        index: Of the corpus.
        query: Prompt and completion; spans that end in the prompt do not count.
        options: What to show.

    Returns:
        Plain values (see ``docs/spans.md``); characters count from the prompt's first.

    Raises:
        RunError: If the completion holds no word and no mark.
    """
    begun = time.process_time()
    prompt = query.prompt or ""
    text = prompt + query.completion
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise RunError(
            f"Spans: {query.completion[:60]!a} is no whole text (half a character stands in it), "
            "UTF-8 was expected."
        )
    places, tokens = token_spans(text), tokens_of(text)
    # a token over the border, such as "un|like", is the completion's
    first = sum(end <= len(prompt) for _, end in places)
    if first == len(places):
        raise RunError(
            f"Spans: completion {query.completion[:60]!r} holds no word and no mark, the output to "
            "look for was expected."
        )
    found = spans_of(tokens, index.arrays, first)
    shown = [span for span in found if _is_shown(span, options.min_tokens)]
    return {
        "format": FORMAT,
        "query": {
            "id": query.name,
            "prompt": prompt,
            "completion": query.completion,
            "text": text,
            "tokens": len(places) - first,
        },
        "corpus": {"documents": index.arrays.documents, "tokens": index.arrays.size},
        "rule": RULE if options.min_tokens is None else _of_length(options.min_tokens),
        "maximal": len(found),
        "shown": len(shown),
        "covered": covered(shown, first, len(places)),
        "longest": max((span.last - max(first, span.first) for span in found), default=0),
        "spans": _rows(index, text, places, tokens, shown, options.documents),
        "cpu_seconds": round(time.process_time() - begun, 6),
    }


def _of_length(tokens: int) -> str:
    return f"A span is shown if it has at least {tokens} tokens."


def _is_shown(span: Span, min_tokens: int | None) -> bool:
    return span.telling if min_tokens is None else span.last - span.first >= min_tokens


def _rows(
    index: VerbatimIndex,
    text: str,
    places: Sequence[tuple[int, int]],
    tokens: Sequence[str],
    shown: Sequence[Span],
    most: int,
) -> list[dict[str, Any]]:
    found = [index.arrays.find(tokens[span.first : span.last], most) for span in shown]
    named = sorted({place.row for _, several in found for place in several})
    documents = dict(zip(named, _documents(index.corpus, named), strict=True))
    rows = []
    for rank, (span, (count, several)) in enumerate(zip(shown, found, strict=True), 1):
        start, end = places[span.first][0], places[span.last - 1][1]
        size = span.last - span.first
        rows.append(
            {
                "rank": rank,
                "start": start,
                "end": end,
                "text": text[start:end],
                "tokens": size,
                "occurrences": span.count,
                "documents": count,
                "expected": span.expected,
                "telling": span.telling,
                "places": [_context(documents[one.row], one, size) for one in several],
            }
        )
    return rows


def _documents(corpus: Stage, rows: Sequence[int]) -> list[dict[str, Any]]:
    columns = ["id", "source", "language", "text"]
    return take_documents(corpus.path / DOCUMENTS, rows, columns).to_pylist() if rows else []


def _context(document: Mapping[str, Any], place: Place, size: int) -> dict[str, Any]:
    """Where a span stands in a document, with what is around it."""
    text = document["text"]
    places = token_spans(text)
    start, end = places[place.token][0], places[place.token + size - 1][1]
    return {
        **{name: document[name] for name in ("id", "source", "language")},
        "row": place.row,
        "start": start,
        "end": end,
        "left": text[max(0, start - CONTEXT) : start],
        "text": text[start:end],
        "right": text[end : end + CONTEXT],
        "cut_left": start > CONTEXT,
        "cut_right": end + CONTEXT < len(text),
    }


# -- the command ------------------------------------------------------------------------------------


def asked_for(
    text: str | None,
    texts: Path | None,
    prompt: str | None,
    completion: str | None,
    who: str = "Spans",
    several: str = "--texts",
) -> list[Query]:
    """The outputs that a command line names.

    Args:
        text: A whole text.
        texts: A jsonl of many.
        prompt: What stood before the completion.
        completion: An output.
        who: For messages: who asks.
        several: For messages: the option of `texts`.

    Returns:
        At least one.

    Raises:
        RunError: If it names none, or in several ways.
    """
    outputs = [one for one in (text, completion) if one is not None]
    if len(outputs) + (texts is not None) != 1 or (prompt is not None and completion is None):
        whole = ", or --text TEXT" if who == "Spans" else ""
        raise RunError(
            f"{who}: give one of {several} FILE.jsonl, --completion (with --prompt){whole}. "
            'Example: --prompt "The capital of France is" --completion " Paris"'
        )
    if texts is not None:
        return read_queries(texts)
    return [Query(prompt=prompt, completion=outputs[0])]


def run_spans(
    run: Run, queries: Sequence[Query], options: SpansOptions, workers: Workers
) -> list[dict[str, Any]]:
    """Look for the spans of some outputs, and write them: JSON, Parquet, a page.

    Args:
        run: A finished run.
        queries: The outputs.
        options: What to show, and where.
        workers: Where the index is built.

    Returns:
        One result a query, in order, each with ``folder`` and ``page``.
    """
    index = open_index(run, workers)
    key = key_of(
        queries=[[q.name, q.prompt, q.completion] for q in queries],
        corpus=run.corpus.key,
        how=[options.min_tokens, options.documents],
    )
    folder = run.root / "spans" / key
    results = []
    with _progress(workers, len(queries)) as advance:
        for query in queries:
            found = find_spans(index, query, options)
            results.append({**found, "run": run.config.name, "folder": str(folder)})
            advance(1.0)
    write_json(folder / "spans.json", results)
    with new_file(folder / "spans.parquet") as temporary:
        pq.write_table(spans_table(results), temporary)
    page = write_spans_page(results, options.html or folder / "spans.html")
    return [{**found, "page": str(page)} for found in results]


def _progress(workers: Workers, count: int) -> AbstractContextManager[Callable[[float], None]]:
    if count < SHORT:
        return nullcontext(lambda _: None)
    return bar(workers.console, "Looking for spans", count)


SPANS = pa.schema(
    [
        ("query", pa.string()),
        ("rank", pa.int32()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("text", pa.string()),
        ("tokens", pa.int32()),
        ("occurrences", pa.int64()),
        ("documents", pa.int64()),
        ("expected", pa.float64()),
        ("telling", pa.bool_()),
        ("document", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("left", pa.string()),
        ("right", pa.string()),
    ]
)
"""A span in one of its documents; characters of the prompt and completion."""


def spans_table(results: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Spans as a table: a row for each document that is named.

    Args:
        results: Of `find_spans`.

    Returns:
        The columns of `SPANS`.
    """
    own = SPANS.names[1:10]
    rows = [
        {
            "query": result["query"]["id"],
            **{name: span[name] for name in own},
            "document": place["id"],
            **{name: place[name] for name in ("source", "language", "left", "right")},
        }
        for result in results
        for span in result["spans"]
        for place in span["places"]
    ]
    return pa.Table.from_pylist(rows, SPANS)


# -- beside a trace ---------------------------------------------------------------------------------


def beside_trace(index: VerbatimIndex | None, trace: Mapping[str, Any]) -> dict[str, Any]:
    """A trace with what of its output stands word for word, in the corpus and in its documents.

    Args:
        index: Of the corpus; None: only the documents that are shown are compared.
        trace: The content of trace.json.

    Returns:
        The same trace with ``verbatim`` (as `find_spans`; None without an index, or a word), and
        ``shared`` on each document: the longest spans that it shares with prompt and completion.
    """
    asked = trace["query"]
    query = Query(id=asked["id"], prompt=asked["prompt"], completion=asked["completion"])
    found = None
    if index is not None and tokens_of(query.completion):
        found = find_spans(index, query, SpansOptions(documents=1))
    tokens = tokens_of(asked["prompt"] + query.completion)
    rows = {
        sign: [{**row, "shared": shared_texts(row["text"], tokens)} for row in trace[sign]]
        for sign in ("proponents", "opponents")
    }
    return {**trace, **rows, "verbatim": found}


def shared_texts(text: str, tokens: Sequence[str]) -> list[str]:
    """The longest spans of a document that stand in an output too.

    Args:
        text: The document.
        tokens: Of prompt and completion.

    Returns:
        At most `NAMED` of `FEWEST_SHARED` words or more, the longest first, each once.
    """
    places, own = token_spans(text), tokens_of(text)
    spans = sorted(shared_spans(own, tokens), key=lambda span: (span[0] - span[1], span[0]))
    long = [
        text[places[first][0] : places[last - 1][1]]
        for first, last in spans
        if sum(is_word(token) for token in own[first:last]) >= FEWEST_SHARED
    ]
    return list(dict.fromkeys(long))[:NAMED]
