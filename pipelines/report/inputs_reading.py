"""What input attribution says of one output, in sentences: for the page, the index, the terminal.

The JSON result is read once into `Inputs`, `View` (one method) and `Part` (one unit); missing, None
and NaN values are left out there, so that nothing after it meets one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.errors import RunError
from pipelines.report import reading
from pipelines.report.characters import shortened
from pipelines.report.numbers import aligned, is_number, percent, plain, signed
from pipelines.report.reading import quoted

FORMAT = 1
"""The format of inputs.json that is read here."""

PLURALS = {
    "token": "tokens",
    "word": "words",
    "phrase": "phrases",
    "sentence": "sentences",
    "paragraph": "paragraphs",
    "section": "sections",
    "example": "examples",
}

REMOVALS = {
    "delete": ("deleting it", "Removed units were deleted from the text."),
    "replace": ("replacing it", "Removed units were replaced by a neutral token."),
    "mask": ("hiding it", "Removed units kept their places but were hidden from attention."),
    "mean": ("averaging it out", "Removed units got the mean embedding."),
    "noise": ("replacing it by noise", "Removed units got a random embedding."),
}
"""A removal operator as the subject of a sentence, and as a sentence."""

EXACT = ("leave-one-out", "occlusion")
"""Methods whose score is the removal itself; every other is an estimate of it."""

MEASURES = {
    "heldout_r2": (
        "held-out R²",
        "share of the variance of unseen removals that the scores predict; 1 is perfect, 0 or less"
        " is no better than a constant",
    ),
    "lds": (
        "LDS",
        "rank correlation of predicted and measured values on unseen removals; 1 is perfect",
    ),
    "completeness_error": (
        "completeness error",
        "nats between the sum of the scores and what all units together are worth; only Shapley"
        " values and integrated gradients promise that it is small",
    ),
    "completeness_share": (
        "completeness share",
        "error of the sum over the integration path, as a share of what the prompt is worth",
    ),
    "comprehensiveness": (
        "comprehensiveness",
        "nats lost when the strongest units are removed, a mean over several shares; more is"
        " better",
    ),
    "sufficiency": (
        "sufficiency",
        "nats lost when only the strongest units are kept, a mean over several shares; less is"
        " better",
    ),
}
"""Titles and meanings of measures; one that is not named here is shown under its own name."""

ADDITIVE = frozenset({"shapley", "kernel-shap"})
"""Methods whose scores should add up to what all units together are worth."""

LARGE_ERROR = 0.1
"""Completeness error beyond which, as a share of what the scores should sum to, the page warns."""

MILLION = 1e6
"""Ratios of probabilities beyond this are not spelled out."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A unit of the prompt with its score."""

    start: int
    end: int
    text: str
    label: str
    score: float
    low: float | None
    high: float | None
    again: str = ""
    """Which of the units of the same text it is, such as "2nd"; "" where it is the only one."""

    @property
    def name(self) -> str:
        """What to call it: its label, and its text in quotation marks."""
        words = quoted(self.text, 120) + (f" ({self.again})" if self.again else "")
        return f"{self.label}, {words}" if self.label else words

    @property
    def unsure(self) -> bool:
        """Whether its interval holds 0."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high


@dataclass(frozen=True, kw_only=True)
class View:
    """What one method says."""

    method: str
    title: str
    about: str
    unit: str
    sign: str
    signed: bool
    level: str
    operator: str
    trusted: bool
    notes: tuple[str, ...]
    measures: dict[str, float]
    curves: dict[str, list[tuple[float, float]]]
    """By name, such as `deletion`: share of units and nats, in order."""
    averaged: bool
    """Whether the curves are means over random removals, not measured step by step."""
    costs: dict[str, float]
    """`forward_rows`, `backward_rows`, `seconds`."""
    parts: tuple[Part, ...]
    """In the order of the text."""
    ranked: tuple[Part, ...]
    """The strongest first, of either sign."""

    @property
    def strongest(self) -> float:
        """The largest |score|."""
        return abs(self.ranked[0].score) if self.ranked else 0.0


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The result of input attribution of one output."""

    text: str
    begin: int
    """First character of the completion."""
    span: tuple[int, int]
    """Characters of the text that are explained."""
    prompt: str
    completion: str
    contrast: str
    kind: str
    """`likelihood`, `contrast` or `meaning`."""
    target: str
    """What is explained, in words."""
    meanings: tuple[tuple[str, ...], ...]
    """Outputs that count as one; the first group holds the completion."""
    shares: tuple[float, ...]
    """Weight of each meaning; empty: only the first counts."""
    value: float | None
    """Of the target with the whole prompt; nats."""
    without: float | None
    """Of the target with every unit removed; nats."""
    model: str
    views: tuple[View, ...]
    """The main method first."""


def read(result: Mapping[str, Any]) -> Inputs:
    """Read inputs.json.

    Args:
        result: Its content; missing, None and NaN values are left out.

    Returns:
        The same, with every value of its type.

    Raises:
        RunError: If it was written in another format.
    """
    if result.get("format", FORMAT) != FORMAT:
        raise RunError(
            f"report: this input attribution has format {result['format']!r}, expected {FORMAT}."
            " Run `influence inputs` again to write it anew."
        )
    prompt, completion = str(result.get("prompt") or ""), str(result.get("completion") or "")
    text = str(result.get("text") or prompt + completion)
    begin = _place(result.get("begin"), len(prompt), text)
    target = result.get("target") or {}
    first, last = (target.get("span") or [None, None])[:2]
    contrast = str(result.get("contrast") or "")
    return Inputs(
        text=text,
        begin=begin,
        span=(_place(first, begin, text), _place(last, len(text), text)),
        prompt=text[:begin],
        completion=text[begin:],
        contrast=contrast,
        kind=str(target.get("kind") or ("contrast" if contrast else "likelihood")),
        target=str(target.get("words") or ""),
        meanings=tuple(
            tuple(str(words) for words in group or []) for group in target.get("meanings") or []
        ),
        shares=tuple(_number(share) or 0.0 for share in target.get("shares") or []),
        value=_number(result.get("value")),
        without=_number(result.get("value_without")),
        model=str((result.get("model") or {}).get("name") or ""),
        views=tuple(_view(given or {}, text) for given in result.get("explanations") or []),
    )


def _view(given: Mapping[str, Any], text: str) -> View:
    method, curves = str(given.get("method") or ""), given.get("curves") or {}
    parts = [_part(unit or {}, text) for unit in given.get("units") or []]
    found = _numbered([part for part in parts if part is not None])
    return View(
        method=method,
        title=str(given.get("title") or method or "method not named"),
        about=str(given.get("about") or ""),
        unit=str(given.get("unit") or "nats"),
        sign=str(given.get("sign") or ""),
        signed=given.get("signed") is not False,
        level=str(given.get("level") or "unit"),
        operator=str(given.get("operator") or ""),
        trusted=given.get("trusted") is not False,
        notes=tuple(str(note) for note in given.get("notes") or [] if note),
        measures=_numbers(given.get("measures") or {}),
        curves={
            str(name): [(float(p[0]), float(p[1])) for p in points if _is_point(p)]
            for name, points in curves.items()
            if isinstance(points, list)
        },
        averaged=curves.get("exact") is False,
        costs=_numbers({n: given.get(n) for n in ("forward_rows", "backward_rows", "seconds")}),
        parts=tuple(found),
        ranked=tuple(sorted(found, key=lambda part: -abs(part.score))),
    )


def _part(unit: Mapping[str, Any], text: str) -> Part | None:
    score = _number(unit.get("score"))
    if score is None:
        return None
    start = _place(unit.get("start"), 0, text)
    end = max(start, _place(unit.get("end"), start, text))
    return Part(
        start=start,
        end=end,
        text=str(unit.get("text") or text[start:end]),
        label=str(unit.get("label") or ""),
        score=score,
        low=_number(unit.get("low")),
        high=_number(unit.get("high")),
    )


def _numbered(parts: list[Part]) -> list[Part]:
    """Return units in the order of the text, those of the same text told apart."""
    totals, seen, found = Counter(part.text for part in parts), Counter[str](), []
    for part in sorted(parts, key=lambda part: (part.start, part.end)):
        seen[part.text] += 1
        told = totals[part.text] > 1 and not part.label
        found.append(replace(part, again=_ordinal(seen[part.text]) if told else ""))
    return found


def _ordinal(number: int) -> str:
    teen = 10 < number % 100 < 14
    return f"{number:,}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _number(value: object) -> float | None:
    return float(value) if is_number(value) else None


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items() if is_number(value)}


def _is_point(point: Any) -> bool:
    return bool(point) and len(point) == 2 and all(is_number(value) for value in point)


def _place(value: object, default: int, text: str) -> int:
    return min(max(int(value) if is_number(value) else default, 0), len(text))


def explained(found: Inputs) -> str:
    """Return the words that are explained: the target's part of the completion."""
    return found.text[found.span[0] : found.span[1]] or found.completion


def question(found: Inputs) -> str:
    """Return the question in one line."""
    words = {"completion": explained(found), "contrast": found.contrast}
    asked = reading.question({"query": words})
    if found.shares:
        asked = "Why does the model answer as it does?"
    elif found.kind == "meaning":
        asked = f"{asked[:-1]}, or the same in other words?"
    level = PLURALS.get(found.views[0].level) if found.views else None
    return f"{asked} Which {level} of the prompt?" if level else asked


def result(found: Inputs, view: View | None = None) -> str:
    """Return in a sentence or two which unit matters most, and what that means in probability.

    Args:
        found: The result.
        view: The method to speak of; None: the main one.

    Returns:
        Whole sentences.
    """
    view = view or (found.views[0] if found.views else None)
    if view is None or not view.ranked:
        return "No unit of the prompt has a score."
    if not view.trusted:
        return (
            f"{view.title} has no answer that can be relied on: its scores do not predict what"
            f" removing a {view.level} does."
        )
    if view.strongest == 0:
        return f"No {view.level} of the prompt changes the output: all scores are 0."
    top = view.ranked[0]
    name = f"The {view.level} {top.name}" if not top.label else top.name[:1].upper() + top.name[1:]
    if not view.signed:
        total = sum(abs(part.score) for part in view.parts)
        return (
            f"{name} has the largest score, {plain(top.score)} ({view.unit}): "
            f"{percent(abs(top.score) / total)} of the sum over {_counted(view)}."
        )
    role = "supports the output most" if top.score > 0 else "works against the output most"
    sentence = f"{name} {role}, with {signed(top.score)} {view.unit}"
    meaning = _meaning(found, view, top.score) if view.unit.split(",")[0] == "nats" else ""
    return f"{sentence}{': ' + meaning if meaning else ''}.{_interval(view, top)}"


def _counted(view: View) -> str:
    count = len(view.parts)
    return f"1 {view.level}" if count == 1 else f"{count:,} {PLURALS.get(view.level, 'units')}"


def _meaning(found: Inputs, view: View, score: float) -> str:
    """Return what a score means for the probability, as the second half of a sentence."""
    change = times(score)
    if not change:
        return "too little to notice"
    words = quoted(explained(found), 40)
    if found.kind == "contrast":
        words = f"{words}, against {quoted(found.contrast, 40)},"
    elif found.shares:
        words = "its sampled answers, on average,"
    elif found.kind == "meaning":
        words = f"{words}, or the same in other words,"
    if view.operator in REMOVALS:
        about = "" if view.method in EXACT or change.startswith("more than") else "about "
        return f"{REMOVALS[view.operator][0]} makes {words} {about}{change} likely"
    return f"by this estimate, {words} would be about {change} likely without it"


def times(score: float) -> str:
    """Return what losing a score does to a probability: such as "25 times less" or "5 % more".

    Args:
        score: Nats; positive: it supports the output.

    Returns:
        The change, to be followed by "likely"; "" when it is below 0.1 per cent.
    """
    side, size = "less" if score > 0 else "more", abs(score)
    if size > math.log(MILLION):
        return f"more than a million times {side}"
    if size >= math.log(1.5):
        return f"{plain(math.exp(size), 2)} times {side}"
    share = -math.expm1(-score) if score > 0 else math.expm1(-score)
    return f"{percent(share)} {side}" if share >= 1e-3 else ""


def _interval(view: View, part: Part) -> str:
    limits = interval(view, part)
    if not limits:
        return ""
    doubt = ", which includes 0: it may not matter at all" if part.unsure else ""
    return f" Its 95 % interval is {limits} {view.unit}{doubt}."


def number(view: View, value: float) -> str:
    """Return a score, with decimals as the strongest one needs, and a sign where it has one."""
    text = aligned(value, view.strongest)
    return text if view.signed else text.removeprefix("+")


def interval(view: View, part: Part) -> str:
    """Return the 95 % interval, such as "+1.20 to +1.90"; "" where there is none."""
    if part.low is None or part.high is None or part.low == part.high:
        return ""
    return f"{number(view, part.low)} to {number(view, part.high)}"


def cautions(found: Inputs, view: View) -> list[str]:
    """Return reasons to trust a method's scores less, each one or two sentences."""
    said = []
    if not view.trusted and not view.notes:
        said.append("Do not rely on these scores: the method did not pass its own check.")
    error = view.measures.get("completeness_share", _left_over(found, view))
    if error > LARGE_ERROR:
        said.append(
            f"The scores do not add up: their sum is off by {percent(error)} of what it should be."
        )
    if not view.signed:
        said.append(f"{view.title} says how much a unit matters, not in which direction.")
    return [*said, *(note for note in view.notes if note not in said)]


def removal(view: View) -> str:
    """Return how units were removed, in two sentences; "" where none was."""
    if view.operator not in REMOVALS:
        return f"Units were removed by: {view.operator}." if view.operator else ""
    return f"{REMOVALS[view.operator][1]} Another way to remove can give other scores."


def _left_over(found: Inputs, view: View) -> float:
    """Return the completeness error as a share of what all units are worth; 0.0 if none is due."""
    error, value, without = view.measures.get("completeness_error"), found.value, found.without
    if view.method not in ADDITIVE or error is None or value is None or without is None:
        return 0.0
    return abs(error) / abs(value - without) if value != without else 0.0


def value_of(found: Inputs) -> list[tuple[str, str]]:
    """Return headline numbers of the target: names and values, without the missing ones."""
    value, without = found.value, found.without
    if found.kind == "contrast":
        named = [("log of the probability ratio", value), ("the same, prompt removed", without)]
        return [(name, f"{signed(v)} nats") for name, v in named if v is not None]
    named = [("", value), (", prompt removed", without)]
    if found.shares:
        return [
            (f"mean log-probability{end}", f"{plain(v)} nats") for end, v in named if v is not None
        ]
    facts = [
        (f"probability{end}", percent(math.exp(min(0.0, v)))) for end, v in named if v is not None
    ]
    return facts + [
        (f"log-probability{end}", f"{plain(v)} nats") for end, v in named if v is not None
    ]


def title_of(measure: str) -> str:
    """Return a measure's name as people read it."""
    return MEASURES[measure][0] if measure in MEASURES else measure.replace("_", " ")


def named_measures(views: tuple[View, ...]) -> list[str]:
    """Return the measures that any method has: the known ones first, in their order."""
    present = dict.fromkeys(name for view in views for name in view.measures)
    return [*(n for n in MEASURES if n in present), *(n for n in present if n not in MEASURES)]


def measure_line(view: View) -> str:
    """Return measures and costs in one line; "" when there are none."""
    measured = [f"{title_of(n)} {plain(view.measures[n])}" for n in named_measures((view,))]
    names = {"forward_rows": "forward rows", "backward_rows": "backward rows", "seconds": "s"}
    costs = [
        f"{plain(value, 2) if name == 'seconds' else f'{value:,.0f}'} {names[name]}"
        for name, value in view.costs.items()
        if value
    ]
    return "; ".join([*measured, *costs])


def short(part: Part, limit: int = 60) -> str:
    """Return a unit's text on one line, after its label."""
    words = (shortened(part.text, limit) or "␣") + (f" ({part.again})" if part.again else "")
    return f"{part.label}: {words}" if part.label else words
