"""A trace as one HTML file that needs nothing else, and an index of many.

Documents are untrusted text: see ``pages``.
"""

import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pipelines.errors import RunError
from pipelines.report import reading, spans_reading
from pipelines.report.cards import cards
from pipelines.report.characters import marked
from pipelines.report.heat import LEVELS
from pipelines.report.inputs_page import beside_documents
from pipelines.report.numbers import count, is_number, percent, plain
from pipelines.report.pages import page
from pipelines.report.spans_page import spans_html
from pipelines.run_folder import new_file

TRACE_FORMAT = 1
"""The format of trace.json that the page reads."""

PAGE_LINK = "{id}/report.html"
"""Where the index looks for a trace's page, relative to itself."""


def render_trace(trace: dict[str, Any]) -> str:
    """Render one trace.

    Args:
        trace: The content of trace.json. Missing and None values are left out of the page.

    Returns:
        A whole HTML document; the same trace gives the same text.

    Raises:
        RunError: If the trace was written in another format.
    """
    if trace.get("format", TRACE_FORMAT) != TRACE_FORMAT:
        raise RunError(
            f"report: this trace has format {trace['format']!r}, expected {TRACE_FORMAT}."
            " Run `influence trace` again to write it anew."
        )
    query, inputs, spans = trace.get("query") or {}, beside_documents(trace), _spans(trace)
    return page(
        "trace.html.j2",
        *(("inputs.css", "spans.css") if inputs or spans else ()),
        inputs=inputs,
        title=reading.question(trace),
        trace=trace,
        query=query,
        prompt=prompt_html(query),
        spans=spans,
        probabilities=_probabilities(query),
        columns=[
            ("pro", "Proponents", cards(trace, "pro")),
            ("opp", "Opponents", cards(trace, "opp")),
        ],
        levels=range(1, LEVELS + 1),
    )


def render_index(traces: list[dict[str, Any]], link: str = PAGE_LINK) -> str:
    """Render a table of traces that links to their pages.

    Args:
        traces: Contents of several trace.json.
        link: Relative address of a page with ``{id}`` for the query's id, percent-encoded.

    Returns:
        A whole HTML document.
    """
    rows = [
        {
            "query": trace.get("query") or {},
            "question": reading.question(trace),
            "href": "./"
            + link.format(id=quote(str((trace.get("query") or {}).get("id")), safe="")),
            "first": _strongest(trace, "proponents"),
            "last": _strongest(trace, "opponents"),
            "quality": reading.quality_line(trace),
        }
        for trace in traces
    ]
    return page("index.html.j2", title=f"{count(len(traces))} traces", rows=rows)


def write_trace_page(trace: dict[str, Any], path: Path) -> Path:
    """Render a trace into a file, whole or not at all.

    Args:
        trace: The content of trace.json.
        path: The file to write.

    Returns:
        The path.
    """
    with new_file(path) as temporary:
        temporary.write_text(render_trace(trace), encoding="utf-8", newline="\n")
    return path


def prompt_html(query: dict[str, Any]) -> Markup:
    """Return the prompt, then the completion in ``<mark>``, its tokens with their probability."""
    prompt, completion = str(query.get("prompt") or ""), str(query.get("completion") or "")
    tokens = query.get("tokens") or []
    inside = [token for token in tokens if token.get("completion")]
    if "".join(str(token.get("text") or "") for token in inside) != completion:
        return marked(prompt) + Markup("<mark>{}</mark>").format(marked(completion))
    spans = [
        Markup('<span title="{}">{}</span>').format(_chance(token), marked(token["text"]))
        for token in inside
    ]
    return marked(prompt) + Markup("<mark>{}</mark>").format(Markup("").join(spans))


def _spans(trace: dict[str, Any]) -> dict[str, Any] | None:
    """What of the output stands word for word in the corpus: in words, and as a strip."""
    found = trace.get("verbatim")
    if not found:
        return None
    return {"answer": spans_reading.answer(found), "strip": spans_html(found)}


def _chance(token: dict[str, Any]) -> str:
    value = token.get("log_probability")
    return f"probability {percent(math.exp(min(0.0, value)))}" if is_number(value) else ""


def _probabilities(query: dict[str, Any]) -> list[tuple[str, str]]:
    """Return headline numbers of the completion: name and value, without the missing ones."""
    value, other = query.get("log_probability"), query.get("contrast_log_probability")
    facts = [
        ("probability", percent(math.exp(min(0.0, value))) if is_number(value) else ""),
        ("log-probability", f"{plain(value)} nats" if is_number(value) else ""),
        (
            "probability of the contrast",
            percent(math.exp(min(0.0, other))) if is_number(other) else "",
        ),
        ("perplexity per token", plain(query.get("perplexity"))),
    ]
    return [(name, text) for name, text in facts if text]


def _strongest(trace: dict[str, Any], kind: str) -> dict[str, Any]:
    rows = trace.get(kind) or []
    return dict(rows[0]) if rows else {}
