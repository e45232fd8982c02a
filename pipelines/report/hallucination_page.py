"""One answer's check for hallucination as an HTML file that needs nothing else, and an index of many.

Prompts, answers and documents are untrusted text: see ``pages``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pipelines.report import hallucination_reading as reading
from pipelines.report.characters import marked
from pipelines.report.charts import bar, interval_bar, span_of
from pipelines.report.claims import Claim, claims
from pipelines.report.hallucination_claim import (
    MOST_DETAILS,
    PARTS,
    detail,
    details,
    reason_of,
    span_number,
)
from pipelines.report.numbers import (
    aligned,
    count,
    is_number,
    or_zero,
    percent,
    signed,
)
from pipelines.report.pages import link_below, page
from pipelines.report.provenance import Facts, flattened
from pipelines.run_folder import new_file

LONGEST_ANSWER, LONGEST_PROMPT = 8_000, 4_000
"""Characters shown of the answer and of the prompt."""

LONG_ANSWER = 1_500
"""Characters of an answer from which on it scrolls in its own box."""


def render_hallucination(result: Mapping[str, Any]) -> str:
    """Render one answer.

    Args:
        result: The content of hallucination.json. Missing, None and NaN values are left out.

    Returns:
        A whole HTML document; the same result gives the same text.
    """
    found = reading.read(result)
    claims_shown = [detail(found, given) for given in details(found)]
    shown = {name for one in claims_shown for name in one["has"]}
    return page(
        "hallucination.html.j2",
        "inputs.css",
        "hallucination.css",
        title=reading.question(found),
        found=found,
        words=reading,
        risk=percent(found.get("hallucination_probability")),
        interval=_interval(found),
        risk_bar=risk_bar(found),
        reasons=[reason_of(reason) for reason in reading.reasons(found)],
        notes=[str(note) for note in found.get("notes") or [] if note],
        messages=_messages(found),
        prompt=_cut(str(found.get("prompt") or ""), LONGEST_PROMPT),
        answer=answer_html(found),
        is_long=len(str(found.get("completion") or "")) > LONG_ANSWER,
        legend=_legend(found),
        details=claims_shown,
        details_cut=max(0, len(reading.dicts(found.get("details"))) - MOST_DETAILS),
        absent=[reading.NEEDED[name] for name in ("tokens", *PARTS) if name not in shown],
        signals=_signals(found),
        detector=_detector(found),
        made=_made(found),
    )


def write_hallucination_page(result: Mapping[str, Any], path: Path) -> Path:
    """Render an answer into a file, whole or not at all.

    Args:
        result: The content of hallucination.json.
        path: The file to write.

    Returns:
        The path.
    """
    with new_file(path) as temporary:
        temporary.write_text(render_hallucination(result), encoding="utf-8", newline="\n")
    return path


def render_hallucination_index(results: Sequence[Mapping[str, Any]], links: Sequence[str]) -> str:
    """Render a table of answers, the riskiest first, that links to their pages.

    Args:
        results: Contents of several hallucination.json.
        links: Paths of their pages, relative to the index; "" for one that has none below it.

    Returns:
        A whole HTML document.
    """
    rows: list[dict[str, Any]] = []
    for result, link in zip(results, links, strict=True):
        found = reading.read(result)
        risk, over = found.get("hallucination_probability"), reading.is_over(found)
        first = reading.reasons(found, 1)
        rows.append(
            {
                "href": f"./{quote(link)}" if link else "",
                "risk": percent(risk),
                "order": -risk if is_number(risk) else 1.0,
                "drawing": bar(or_zero(risk), "opp" if over else "pro", f"risk {percent(risk)}")
                if is_number(risk)
                else "",
                "verdict": str(found.get("verdict") or "none"),
                "title": reading.title(found.get("verdict")),
                "symbol": reading.symbol(found.get("verdict")),
                "asked": reading.one_line(reading.asked(found), 120),
                "answer": reading.one_line(found.get("completion"), 160) or "(empty)",
                "reason": reading.reason_words(first[0]) if first else "",
            }
        )
    rows.sort(key=lambda row: row["order"])
    return page(
        "hallucination_index.html.j2",
        "inputs.css",
        "hallucination.css",
        title=f"{count(len(rows))} answer{'' if len(rows) == 1 else 's'}, the riskiest first",
        rows=rows,
        tally=[entry for entry in reading.tally(results) if entry[2]],
    )


def write_hallucination_index(results: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Render an index into a file, whole or not at all.

    Args:
        results: Contents of several hallucination.json, each with the path of its ``page``.
        path: The file to write; pages below its folder are linked.

    Returns:
        The path.
    """
    links = [link_below(result.get("page"), path.parent) for result in results]
    with new_file(path) as temporary:
        html = render_hallucination_index(results, links)
        temporary.write_text(html, encoding="utf-8", newline="\n")
    return path


def risk_bar(found: Mapping[str, Any]) -> Markup:
    """Draw the probability as a bar, its interval over it, and the line above which to abstain.

    Args:
        found: The result.

    Returns:
        An SVG element, or nothing where there is no probability.
    """
    risk, line = found.get("hallucination_probability"), _line(found)
    if not is_number(risk):
        return Markup("")
    parts = [
        Markup('<rect class="track" y="22" width="100%" height="18" rx="3"/>'),
        Markup('<rect class="{}" y="22" width="{}%" height="18" rx="3"/>').format(
            "opp" if reading.is_over(found) else "pro", f"{100 * min(max(risk, 0), 1):.2f}"
        ),
    ]
    low, high = found.get("low"), found.get("high")
    if is_number(low) and is_number(high):
        parts.append(
            Markup('<line class="whisker" x1="{}%" x2="{}%" y1="31" y2="31"/>').format(
                f"{100 * low:.2f}", f"{100 * high:.2f}"
            )
        )
    if is_number(line):
        side = "start" if line < 0.25 else "end" if line > 0.75 else "middle"
        parts.append(
            Markup(
                '<line class="abstain" x1="{x}%" x2="{x}%" y1="17" y2="46"/>'
                '<text class="tick {side}" x="{x}%" y="12">withhold above {name}</text>'
            ).format(x=f"{100 * line:.2f}", side=side, name=percent(line))
        )
    ends = ((0, "start", "0\u00a0% surely right"), (100, "end", "100\u00a0% surely wrong"))
    parts += [
        Markup('<text class="tick {}" x="{}%" y="60">{}</text>').format(side, x, name)
        for x, side, name in ends
    ]
    said = f"probability of a hallucination {percent(risk)}"
    said += f", withhold above {percent(line)}" if is_number(line) else ""
    return Markup(
        '<svg class="risk" role="img" aria-label="{}" width="100%" height="66">{}</svg>'
    ).format(said, Markup("").join(parts))


def _line(found: Mapping[str, Any]) -> Any:
    return (found.get("threshold") or {}).get("probability")


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found.get("low"), found.get("high")
    return f"{percent(low)} to {percent(high)}" if is_number(low) and is_number(high) else ""


def _messages(found: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    return [
        (
            str(message.get("role") or "message"),
            _cut(str(message.get("content") or ""), LONGEST_PROMPT),
        )
        for message in reading.dicts(found.get("messages"))
    ]


def _cut(text: str, limit: int) -> Markup:
    """Return the end of a text as HTML; what was left out before it is counted."""
    rest = len(text) - limit
    if rest <= 0:
        return marked(text)
    return Markup('<span class="cut">{} characters … </span>{}').format(
        count(rest), marked(text[rest:])
    )


def answer_html(found: Mapping[str, Any]) -> Markup:
    """Return the completion with a colour, a label and a note for each claim in it.

    Args:
        found: The result.

    Returns:
        HTML whose text, labels and notes aside, is the completion; of spans that overlap the
        shorter owns the characters.
    """
    spans, parts = reading.dicts(found.get("spans")), []
    for piece in claims(found, LONGEST_ANSWER):
        if piece.folded:
            folded = Markup('<span class="cut"> … {} characters … </span>')
            parts.append(folded.format(count(len(piece.text))))
        elif piece.number is None:
            parts.append(marked(piece.text))
        else:
            parts.append(_claim(spans[piece.number], piece, found))
    return Markup("").join(parts)


def _claim(span: Mapping[str, Any], piece: Claim, found: Mapping[str, Any]) -> Markup:
    """Return a claim in its colour; where it ends, with its label and its note."""
    text = piece.text
    verdict = span.get("verdict")
    known = str(verdict) if verdict in reading.VERDICTS else "none"
    word = text.lstrip(" \n\t") or text
    before = marked(text[: len(text) - len(word)])
    if not piece.ends:
        return before + Markup('<span class="claim {}">{}</span>').format(known, marked(word))
    risk = percent(span.get("hallucination_probability"))
    label = " ".join(part for part in (reading.symbol(verdict), risk) if part)
    first = reading.reasons(span, 1)
    title = f"{reading.title(verdict)}{f', {risk} likely to be wrong' if risk else ''}."
    return before + Markup(
        '<span class="claim {}" tabindex="0">{}<span class="label">{}</span>'
        '<span class="tip" role="note"><b>{}</b> {}{}</span></span>'
    ).format(
        known,
        marked(word),
        label,
        title,
        marked(reading.reason_words(first[0])) if first else "",
        _closer(piece.number, found),
    )


def _closer(number: int | None, found: Mapping[str, Any]) -> Markup:
    looked = [span_number(given) for given in details(found)]
    if number not in looked:
        return Markup("")
    return Markup(' <a href="#closer-{}">Look closer</a>').format(number)


def _legend(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return class, symbol and title of the verdicts in this answer."""
    there = {str(span.get("verdict")) for span in reading.dicts(found.get("spans"))}
    return [(n, mark, words) for n, (words, mark) in reading.VERDICTS.items() if n in there]


def _signals(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all signals by family, those that count most first."""
    given = reading.dicts(found.get("signals"))
    values = [or_zero(s.get("contribution")) for s in given]
    span, largest = span_of(values), max(map(abs, values), default=0.0)
    rows = []
    for signal in sorted(given, key=lambda s: -abs(or_zero(s.get("contribution")))):
        value = signal.get("contribution")
        kind = "opp" if or_zero(value) > 0 else "pro"
        rows.append(
            {
                "title": str(signal.get("title") or signal.get("signal") or ""),
                "about": str(signal.get("about") or ""),
                "family": reading.FAMILIES.get(
                    str(signal.get("family")), str(signal.get("family") or "")
                ),
                "value": reading.amount(signal),
                "percentile": percent(round(signal["percentile"]) / 100)
                if is_number(signal.get("percentile"))
                else "",
                "contribution": aligned(value, largest) if is_number(value) else "",
                "drawing": interval_bar(value, None, span, kind, f"{signed(value, 2)} log-odds")
                if is_number(value) and largest
                else "",
                "kind": kind,
            }
        )
    return rows


def _detector(found: Mapping[str, Any]) -> dict[str, Any]:
    given = found.get("detector") or {}
    signals = [str(name) for name in given.get("signals") or [] if name]
    facts = [
        ("name", str(given.get("name") or "")),
        ("probe reads", str(given.get("place") or "")),
        ("layer of the probe", count(given.get("layer"))),
        ("signals", ", ".join(signals)),
        ("labelled answers", str(given.get("data_hash") or "")),
    ]
    return {
        "words": reading.detector_words(given),
        "facts": [(name, value) for name, value in facts if value],
    }


def _made(found: Mapping[str, Any]) -> list[tuple[str, Facts]]:
    """Return titled lists of names and values; empty ones are left out."""
    made = found.get("provenance") or {}
    loose = {key: value for key, value in made.items() if not isinstance(value, dict)}
    titled = [
        ("Model", flattened(dict(found.get("model") or {}))),
        ("Work", flattened(loose)),
        *((str(key), flattened(part)) for key, part in made.items() if isinstance(part, dict)),
    ]
    return [(title, facts) for title, facts in titled if facts]
