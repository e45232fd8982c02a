"""An analysis of a mixture as one HTML file that needs nothing else: which data helps, which hurts.

Names of tasks and groups and the texts of documents are untrusted: see ``pages``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.report import matrices, provenance
from pipelines.report import mixture_pictures as pictures
from pipelines.report import mixture_reading as reading
from pipelines.report.characters import shortened
from pipelines.report.mixture_reading import Found, dicts, fixed, name_of
from pipelines.report.mixture_tables import MADE
from pipelines.report.numbers import count, is_number, plain
from pipelines.report.pages import link_below, page
from pipelines.report.scales import scale_of
from pipelines.run_folder import new_file

OPEN_TASKS = 8
"""Tasks whose chart is open; further ones unfold."""

MOST_SUSPECTS = 100
"""Suspects on the page; the file holds all."""

LONGEST_TEXT, LONGEST_EXCERPT, LONGEST_NAME = 4_000, 160, 80
"""Characters of a document, of its first line, and of a name."""

SIDE_BY_SIDE = 3
"""Languages up to which both of their matrices stand beside each other."""

MOST_COPIES = 50
"""Near-duplicates of a suspect that are named."""

CORRELATED = ("measured", "predicted")

Links = Mapping[str, list[tuple[str, str]]]
"""By table: names and relative addresses of its files."""


def render_mixture(result: Mapping[str, Any], links: Links | None = None) -> str:
    """Render an analysis.

    Args:
        result: The content of mixture.json. None, missing and NaN values show as missing, never 0.
        links: Files to link to.

    Returns:
        A whole HTML document; the same analysis gives the same text.

    Raises:
        RunError: If it was written in another format.
    """
    found = reading.read(result)
    files = links or {}
    run = found.get("run") or {}
    charts = pictures.task_charts(found)
    return page(
        "mixture.html.j2",
        "inputs.css",
        "evaluation.css",
        "hallucination.css",
        "mixture.css",
        title=reading.QUESTION,
        run=str(run.get("name") or "") if isinstance(run, dict) else "",
        found=found,
        said=reading,
        noun=reading.noun(found, 1),
        nouns=reading.noun(found),
        glance=reading.glance(found),
        scale=scale_of(cell.get("mean") for cell in dicts(found.get("cells"))),
        views=_views(found),
        charts=charts[:OPEN_TASKS],
        more_charts=charts[OPEN_TASKS:],
        profiles=matrices.profile_matrix(found),
        halves=pictures.half_bars(found),
        concentration=_concentration(found),
        layers=matrices.layer_matrix(found),
        languages=_languages(found),
        suspects=[
            (title, [_suspect(entry) for entry in entries])
            for title, entries in reading.by_kind(dicts(found.get("suspects"))[:MOST_SUSPECTS])
        ],
        suspects_left_out=max(0, len(dicts(found.get("suspects"))) - MOST_SUSPECTS),
        reweighting=_reweighting(found.get("reweighting") or {}),
        checks=_checks(found),
        tables={name: make(found, files.get(name, [])) for name, make in MADE.items()},
        documents=files.get("documents", []),
        made=provenance.groups(found),
    )


def write_mixture_page(result: Mapping[str, Any], path: Path) -> Path:
    """Render an analysis into a file, whole or not at all.

    Args:
        result: The content of mixture.json; the tables in its ``folder`` are linked when the page
            stands in that folder or above it.
        path: The file to write.

    Returns:
        The path.
    """
    folder = Path(str(result.get("folder") or path.parent))
    with new_file(path) as temporary:
        text = render_mixture(result, links_to(folder, path.parent))
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def links_to(folder: Path, above: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the tables' files that exist in a folder.

    Args:
        folder: Where the analysis was written.
        above: Where the page stands.

    Returns:
        By table, names and addresses relative to the page.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for name in (*MADE, "documents"):
        files = [folder / f"{name}.{kind}" for kind in ("csv", "parquet")]
        linked = [(file.name, link_below(file, above)) for file in files if file.is_file()]
        found[name] = [(label, "./" + quote(link)) for label, link in linked if link]
    return found


def _views(found: Found) -> list[tuple[str, matrices.Matrix]]:
    return [
        ("Mean per document", matrices.influence_matrix(found, "mean")),
        (f"Total of the {reading.noun(found, 1)}", matrices.influence_matrix(found, "total")),
    ]


def _concentration(found: Found) -> list[dict[str, Any]]:
    return [
        {
            "task": name_of(entry, "task"),
            "words": reading.concentration_words(entry),
            "curve": pictures.concentration_curve(entry),
            "tail": pictures.tail_plot(entry),
            "fitted": is_number((entry.get("tail") or {}).get("exponent")),
        }
        for entry in dicts(found.get("concentration"))
    ]


def _languages(found: Found) -> dict[str, Any]:
    languages = found.get("languages") or {}
    ranks = matrices.rank_matrix(languages)
    return {
        "ranks": ranks,
        "side_by_side": ranks is not None and len(ranks.columns) <= SIDE_BY_SIDE,
        "facts": matrices.fact_matrix(languages),
        "words": reading.language_words(languages) if ranks else "",
    }


def _suspect(entry: Mapping[str, Any]) -> dict[str, Any]:
    text = str(entry.get("text") or "")
    others = [str(name) for name in entry.get("others") or []]
    return {
        "rank": count(entry.get("rank")),
        "id": str(entry.get("id") or ""),
        "group": str(entry.get("group") or ""),
        "language": str(entry.get("language") or ""),
        "excerpt": shortened(text[: 4 * LONGEST_EXCERPT], LONGEST_EXCERPT),
        "text": text[:LONGEST_TEXT],
        "cut": count(len(text) - LONGEST_TEXT) if len(text) > LONGEST_TEXT else "",
        "tokens": count(entry.get("n_tokens")),
        "sure": reading.sureness(entry),
        "reasons": [_reason(reason) for reason in dicts(entry.get("reasons"))],
        "copies": len(others),
        "others": others[:MOST_COPIES],
        "others_left_out": max(0, len(others) - MOST_COPIES),
        "cluster": str(entry.get("cluster") or ""),
    }


def _reason(reason: Mapping[str, Any]) -> tuple[str, str, str]:
    value = reason.get("value")
    number = count(value) if isinstance(value, int) else plain(value)
    return (
        shortened(str(reason.get("kind") or ""), LONGEST_NAME),
        shortened(str(reason.get("words") or ""), 2 * LONGEST_EXCERPT),
        shortened(f"{number} {reason.get('unit') or ''}", LONGEST_NAME) if number else "",
    )


def _reweighting(proposal: Mapping[str, Any]) -> dict[str, Any]:
    weights = pictures.weight_rows(proposal)
    if not weights:
        return {}
    return {
        "words": reading.reweighting_words(proposal),
        "weights": weights,
        "changes": pictures.change_rows(proposal),
        "note": str(proposal.get("note") or ""),
    }


def _checks(found: Found) -> list[dict[str, Any]]:
    """Return the checks by training that were made: verification, then forgetting."""
    checks = []
    for key, title in (
        ("verification", "Checked by training"),
        ("forgetting", "What the model forgets when a part is unlearned"),
    ):
        check = found.get(key) or {}
        if not check:
            continue
        seeds, tokens = count(check.get("seeds")), count(check.get("tokens"))
        checks.append(
            {
                "key": key,
                "title": title,
                "how": reading.CHECKS.get(str(check.get("kind")), ""),
                "size": [
                    part
                    for part in (
                        f"{seeds} seeds" if seeds else "",
                        f"{tokens} tokens from each" if tokens else "",
                    )
                    if part
                ],
                "words": reading.agreement(check, found.get("reweighting")),
                "plot": pictures.agreement_plot(check),
                "named": _named(check),
                "relations": [
                    (
                        name_of(r, "a"),
                        name_of(r, "b"),
                        fixed(r.get("measured")),
                        fixed(r.get("predicted")),
                    )
                    for r in dicts(check.get("relations"))
                ],
            }
        )
    return checks


def _named(check: Mapping[str, Any]) -> dict[str, Any]:
    entries = dicts(check.get("named"))
    scale = scale_of(
        entry.get(key) for entry in entries for key in ("margin", "margin_low", "margin_high")
    )
    return {
        "unit": scale.unit,
        "rows": [
            {
                "task": name_of(entry, "task"),
                "predicted": name_of(entry, "predicted_group"),
                "measured": name_of(entry, "measured_group"),
                "right": entry.get("right"),
                "margin": scale.text(entry.get("margin")),
                "interval": scale.interval(entry.get("margin_low"), entry.get("margin_high")),
            }
            for entry in entries
        ],
    }
