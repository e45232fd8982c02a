"""One output's input attribution as plain values: what ``inputs.json`` holds (``docs/inputs.md``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from influence.inputs.choice import METHODS
from influence.inputs.examples import find_examples
from influence.inputs.explain import How, Prepared
from influence.inputs.explanation import Explanation
from influence.inputs.faithfulness import Faithfulness
from influence.inputs.in_context import example_shares
from influence.inputs.methods import MaskMethod
from influence.inputs.passage import Unit
from influence.inputs.table import Table, rows_of
from influence.models import LanguageModel
from pipelines.input_questions import Asked
from pipelines.report.characters import shortened

FORMAT = 1
LONGEST_NAME = 60
"""Characters of a unit that is named in a note."""


def describe(
    loaded: LanguageModel,
    asked: Asked,
    prepared: Prepared,
    found: Sequence[Explanation],
    table: Table,
    how: How,
) -> dict[str, Any]:
    """Put a question's explanations together.

    Args:
        loaded: The model.
        asked: The question.
        prepared: The same in tokens.
        found: What each method says.
        table: What was evaluated; its first rows hold the whole prompt.
        how: Rows, operator, seed.

    Returns:
        Plain values, without files and times.
    """
    passage, question = prepared.passages[0], prepared.question
    return {
        "format": FORMAT,
        "id": asked.id,
        "model": {"name": loaded.name, "fingerprint": loaded.fingerprint},
        "text": passage.text,
        "begin": passage.begin,
        "prompt": passage.prompt,
        "completion": passage.completion,
        "contrast": question.contrast,
        "target": _target(prepared),
        "value": found[0].value,
        "value_without": found[0].value_without,
        "tokens": _tokens(loaded, prepared, table),
        "explanations": [_explanation(prepared, one, how) for one in found],
        "in_context": _examples(prepared, found[0]),
        "provenance": {
            **asdict(how),
            "evaluated_rows": table.rows,
            "units": len(prepared.units),
            "unit": question.unit,
            "prompt_tokens": int(passage.first),
            "completion_tokens": len(passage.tokens) - int(passage.first),
        },
    }


def _target(prepared: Prepared) -> dict[str, Any]:
    question, target, passage = prepared.question, prepared.target, prepared.passages[0]
    span = None
    if target.tokens is not None:
        first, last = (passage.first + t for t in (target.tokens[0], target.tokens[1] - 1))
        span = [int(passage.spans_L2[first, 0]), int(passage.spans_L2[last, 1])]
    return {
        "kind": target.kind,
        "words": _in_words(prepared, span),
        "span": span,
        "meanings": [list(group) for group in question.meanings],
        "shares": question.shares,
    }


def _examples(prepared: Prepared, main: Explanation) -> list[dict[str, Any]]:
    """What each demonstration did for the output, by the first method; none where there are none."""
    passage, given = prepared.passages[0], prepared.question.examples
    shown = [e for e in find_examples(passage, given) if e.answer is not None]
    examples = [Unit(level="example", start=e.start, end=e.end, label=e.name) for e in shown]
    inside = [any(e.start <= u.start and u.end <= e.end for e in examples) for u in main.units]
    across = [any(u.start < e.end and e.start < u.end for e in examples) for u in main.units]
    if not examples or inside != across:  # a unit is larger than an example
        return []
    return [
        {
            "label": None if share.example is None else share.example.label,
            "text": ""
            if share.example is None
            else passage.text[share.example.start : share.example.end],
            "score": share.score if main.unit == "nats" else None,
            "share": share.share,
        }
        for share in example_shares(main.units, main.solution.scores_U, examples)
    ]


def _in_words(prepared: Prepared, span: list[int] | None) -> str:
    passage, question = prepared.passages[0], prepared.question
    said = passage.completion if span is None else passage.text[span[0] : span[1]]
    if prepared.target.kind == "contrast":
        return f"log-probability of “{said.strip()}” less that of “{(question.contrast or '').strip()}”"
    if prepared.target.kind == "meaning" and question.shares:
        return (
            f"log-probability of each of {len(question.meanings)} sampled meanings, by their shares"
        )
    if prepared.target.kind == "meaning":
        return f"log-probability of saying “{said.strip()}” in any of {len(prepared.passages)} ways"
    return f"log-probability of “{said.strip()}”"


def _tokens(loaded: LanguageModel, prepared: Prepared, table: Table) -> list[dict[str, Any]]:
    passage = prepared.passages[0]
    whole = int(rows_of(table, np.ones((1, len(prepared.units)), bool))[0])
    log_probs_T = table.log_probs[0][whole]
    tokens = []
    for place, (start, end) in enumerate(passage.spans_L2.tolist()):
        one: dict[str, Any] = {"text": passage.text[start:end], "start": start, "end": end}
        if start == end:
            one["text"] = str(loaded.tokenizer.decode([int(passage.tokens[place])]))
        if place >= passage.first:
            one["log_probability"] = float(log_probs_T[place - passage.first])
        tokens.append(one)
    return tokens


def _explanation(prepared: Prepared, one: Explanation, how: How) -> dict[str, Any]:
    method, solution = METHODS[one.method], one.solution
    order = np.argsort(-np.abs(solution.scores_U), kind="stable")
    rank_U = np.empty(len(order), int)
    rank_U[order] = np.arange(1, len(order) + 1)
    return {
        "method": method.name,
        "title": method.title,
        "about": method.about,
        "unit": one.unit,
        "sign": one.sign,
        "signed": method.signed,
        "level": prepared.question.unit,
        "operator": how.operator if isinstance(method, MaskMethod) else None,
        "forward_rows": one.forward_rows,
        "backward_rows": one.backward_rows,
        "units": [
            {
                "start": unit.start,
                "end": unit.end,
                "text": prepared.passages[0].text[unit.start : unit.end],
                "label": unit.label,
                "score": float(solution.scores_U[i]),
                "low": None if solution.low_U is None else float(solution.low_U[i]),
                "high": None if solution.high_U is None else float(solution.high_U[i]),
                "rank": int(rank_U[i]),
            }
            for i, unit in enumerate(prepared.units)
        ],
        "measures": _measures(one),
        "curves": _curves(one.faithfulness),
        "notes": [_with_words(note, prepared) for note in solution.notes],
        "trusted": solution.trusted,
    }


def _with_words(note: str, prepared: Prepared) -> str:
    """A note in which units are called by their words rather than by their number, from 1."""
    text = prepared.passages[0].text

    def words(found: re.Match[str]) -> str:
        unit = prepared.units[int(found[1]) - 1]
        return f"“{shortened(text[unit.start : unit.end], LONGEST_NAME)}”"

    return re.sub(r"\bunit (\d+)\b", words, note)


def _measures(one: Explanation) -> dict[str, float | None]:
    """The method's own, then what held-out masks say where there are any."""
    found = one.faithfulness
    judged = {
        "lds": found.lds,
        "comprehensiveness": found.comprehensiveness_aopc,
        "sufficiency": found.sufficiency_aopc,
    }
    return (one.solution.measures or {}) | {k: v for k, v in judged.items() if v is not None}


def _curves(found: Faithfulness) -> dict[str, Any] | None:
    """Curves as points: the share of the units that is gone (or stands), and nats."""
    curves: dict[str, Any] = {}
    for name, curve in (("deletion", found.deletion), ("insertion", found.insertion)):
        if curve is not None:
            curves[name] = _points(curve.shares_K, curve.values_K)
            curves[f"{name}_random"] = _points(curve.shares_K, curve.random_K)
    drawn = [c for c in (found.deletion, found.insertion) if c is not None]
    return {**curves, "exact": all(c.exact for c in drawn)} if drawn else None


def _points(shares_K: np.ndarray, values_K: np.ndarray) -> list[list[float]]:
    finite_K = np.isfinite(values_K)
    return np.stack([shares_K, values_K], axis=1)[finite_K].tolist()
