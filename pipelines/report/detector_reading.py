"""What a fitted detector of hallucinations can do, in sentences: for the page and the terminal.

All rows are oriented the same way: a higher score means more likely wrong, so an AUROC of 1 ranks
every wrong answer above every right one and a coin gets 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.errors import RunError
from pipelines.report.evaluation_reading import Place
from pipelines.report.hallucination_reading import auroc_words, dicts, listed, pairs
from pipelines.report.numbers import aligned, count, finite, is_number, percent, plain, signed
from pipelines.report.reading import quoted

FORMAT = 1
"""The format of detector-report.json that is read here."""

KINDS = {"stack": "together", "probe": "probe", "signal": "signal", "control": "control"}
"""Kinds of rows of the comparison, as people read them."""

COIN = ("coin", 0.5)
"""Reference line of an AUROC."""

NOTHING = 0.05
"""A control this far above 0.5 says something of its own."""


def read(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report with every number that is not finite replaced by None.

    Args:
        report: The content of detector-report.json.

    Returns:
        A copy.

    Raises:
        RunError: If it was written in another format.
    """
    if report.get("format", FORMAT) != FORMAT:
        raise RunError(
            f"report: this detector report has format {report['format']!r}, expected {FORMAT}."
            " Run `influence hallucination fit` again to write it anew."
        )
    found: dict[str, Any] = finite(report)
    return found


def name_of(row: Mapping[str, Any]) -> str:
    """Return what a row is called."""
    return str(row.get("title") or row.get("name") or row.get("signal") or "not named")


def place_of(row: Mapping[str, Any], key: str, low: str, high: str, *, best: bool = False) -> Place:
    """Return a row's number with its interval, in the form that dots are drawn from.

    Args:
        row: With a ``name``.
        key: Of the number.
        low: Of the interval's lower end.
        high: Of its upper end.
        best: Whether to draw it in colour.

    Returns:
        The place; gains carry a sign, AUROCs none.
    """
    value, limits = row.get(key), (row.get(low), row.get(high))
    text = _gain if key == "gain" else plain
    known = is_number(limits[0]) and is_number(limits[1])
    name = name_of(row)
    return Place(
        method=name,
        name=name,
        mean=value if is_number(value) else None,
        low=limits[0] if known else None,
        high=limits[1] if known else None,
        n=None,
        best=best,
        level=False,
        value=text(value),
        interval=f"{text(limits[0])} to {text(limits[1])}" if known else "",
        extra={},
    )


def _gain(value: object) -> str:
    return aligned(value, COIN[1])


def rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the comparison, the detector first, the controls last."""
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(
        dicts(report.get("table")),
        key=lambda row: (order.get(str(row.get("kind")), 2), -(row.get("auroc") or 0)),
    )


def main_row(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the detector's row, the last stack, or else the best that is no control."""
    known = [row for row in dicts(report.get("table")) if is_number(row.get("auroc"))]
    stacks = [row for row in known if row.get("kind") == "stack"]
    others = [row for row in known if row.get("kind") != "control"]
    return stacks[-1] if stacks else max(others, key=lambda row: row["auroc"], default={})


def headline(report: Mapping[str, Any]) -> str:
    """Return how well the detector tells wrong answers from right ones."""
    row = main_row(report)
    if not row:
        return "No row of the comparison has a result."
    return auroc_words(row).replace("it gives", "the detector gives", 1)


def beside(report: Mapping[str, Any]) -> list[str]:
    """Return what the best single signal and the best control reach alone, each a sentence."""
    said = []
    known = [row for row in dicts(report.get("table")) if is_number(row.get("auroc"))]
    for kinds, words in (
        (("signal", "probe"), "The best single signal, {name}, reaches {value} alone."),
        (
            ("control",),
            "The strongest control, {name}, reaches {value} without looking into the model: what a"
            " signal says must be read beside it.",
        ),
    ):
        best = max(
            (row for row in known if row.get("kind") in kinds), key=lambda r: r["auroc"], default={}
        )
        near = kinds == ("control",) and best and best["auroc"] < COIN[1] + NOTHING
        if near:
            said.append(
                f"No control gets far from a coin: the strongest, {name_of(best)}, reaches"
                f" {plain(best['auroc'])}."
            )
        elif best:
            said.append(words.format(name=name_of(best), value=plain(best["auroc"])))
    return said


def gains_words(report: Mapping[str, Any]) -> str:
    """Return which families add something, and which do not."""
    given = [g for g in dicts(report.get("gains")) if is_number(g.get("gain"))]
    if not given:
        return ""
    adds = [quoted(name_of(g), 40) for g in given if g.get("adds")]
    rest = [quoted(name_of(g), 40) for g in given if not g.get("adds")]
    said = []
    if adds:
        verb = "adds" if len(adds) == 1 else "add"
        said.append(f"{listed(adds)} {verb} to what was there before: the interval is above 0.")
    if rest:
        said.append(
            f"For {listed(rest)} no gain can be shown: what they say explains, it does not detect."
        )
    return " ".join(said)


def topics_words(topics: Any) -> str:
    """Return where the detector is best and worst."""
    known = [t for t in dicts(topics) if is_number(t.get("auroc"))]
    if not known:
        return ""
    best, worst = (f(known, key=lambda topic: topic["auroc"]) for f in (max, min))
    if len(known) == 1:
        return f"AUROC {plain(best['auroc'])} on {quoted(name_of(best), 40)}."
    return (
        f"Best on {quoted(name_of(best), 40)} ({plain(best['auroc'])}), worst on"
        f" {quoted(name_of(worst), 40)} ({plain(worst['auroc'])})."
    )


def layers_words(layers: Mapping[str, Any]) -> str:
    """Return how the probe does by layer, and which was chosen."""
    points = pairs(layers.get("layers"), layers.get("auroc"))
    if not points:
        return ""
    first, best = points[0], max(points, key=lambda point: point[1])
    said = f"A probe reaches {plain(first[1])} at layer {count(first[0])} and {plain(best[1])} at"
    said += f" layer {count(best[0])}, where it is best."
    chosen = layers.get("chosen")
    if is_number(chosen):
        said += f" Layer {count(chosen)} was chosen, on other answers than it was judged on."
    return said


def calibration_words(calibration: Mapping[str, Any]) -> str:
    """Return how far stated probabilities are from what was observed."""
    if not is_number(calibration.get("ece")):
        return ""
    said = (
        f"Where the detector says a probability, the share of wrong answers differs from it by"
        f" {percent(calibration['ece'])} on average (expected calibration error)."
    )
    brier, base = calibration.get("brier"), calibration.get("brier_base")
    if is_number(brier) and is_number(base):
        said += (
            f" Brier score {plain(brier)}, against {plain(base)} for always saying the base rate."
        )
    return said


def roc_words(report: Mapping[str, Any]) -> str:
    """Return how many wrong answers are caught for one right answer in ten withheld."""
    points = [p for p in _points(report, "roc") if p[0] <= 0.1]
    if not points:
        return ""
    return (
        f"Where {percent(points[-1][0])} of the right answers are called wrong, {percent(points[-1][1])}"
        " of the wrong ones are found."
    )


def pr_words(report: Mapping[str, Any]) -> str:
    """Return how many of those called wrong are wrong, where half of the wrong ones are found."""
    points = [p for p in _points(report, "pr") if p[0] >= 0.5]
    if not points:
        return ""
    recall, precision = min(points)
    base = (report.get("curves") or {}).get("base_rate")
    against = f"; calling everything wrong gives {percent(base)}" if is_number(base) else ""
    return (
        f"Where {percent(recall)} of the wrong answers are found, {percent(precision)} of those"
        f" called wrong are wrong{against}."
    )


def risk_words(report: Mapping[str, Any]) -> str:
    """Return how the share of wrong answers falls when the riskiest are withheld."""
    points = _points(report, "risk_coverage")
    if not points:
        return ""
    whole = max(points)
    half = min(points, key=lambda point: abs(point[0] - 0.5))
    said = (
        f"With all answers shown {percent(whole[1])} are wrong; with the {percent(half[0])} of lowest"
        f" risk shown, {percent(half[1])} are."
    )
    prr = (report.get("curves") or {}).get("prr")
    if is_number(prr):
        said += f" That is {percent(prr)} of what perfect ranking would gain (PRR {plain(prr)})."
    return said


def _points(report: Mapping[str, Any], name: str) -> list[tuple[float, float]]:
    return points((report.get("curves") or {}).get(name))


def points(given: Any) -> list[tuple[float, float]]:
    """Return points of a curve in the order given; those without two numbers are left out."""
    return [
        (float(p[0]), float(p[1]))
        for p in given or []
        if isinstance(p, list) and len(p) == 2 and is_number(p[0]) and is_number(p[1])
    ]


def evasive_words(evasive: Mapping[str, Any]) -> str:
    """Return how well evasive answers are told from those that commit themselves."""
    if not is_number(evasive.get("n")) or not is_number(evasive.get("found")):
        return ""
    if not evasive["n"]:
        return ""
    said = f"Of {count(evasive['n'])} evasive answers {count(evasive['found'])} were called evasive"
    precision = evasive.get("precision")
    if is_number(precision):
        said += f"; {percent(precision)} of those called evasive are"
    return f"{said}."


WAYS = {"learned": "learned from labels", "rules": "rules on counts"}
"""How a cause is found."""


def causes_words(causes: Mapping[str, Any]) -> str:
    """Return how well causes of wrong answers are told apart; "" where none were labelled."""
    ways = {str(way.get("name")): way for way in dicts(causes.get("ways"))}
    learned, rules = ways.get("learned") or {}, ways.get("rules") or {}
    if not is_number(learned.get("macro_f1")):
        return ""
    between = (
        f", 95 % interval {plain(learned['low'], 2)} to {plain(learned['high'], 2)}"
        if is_number(learned.get("low")) and is_number(learned.get("high"))
        else ""
    )
    said = (
        f"Why {count(causes.get('n'))} wrong answers are wrong is told from training documents with a "
        f"macro-F1 of {plain(learned['macro_f1'], 2)}{between}; naming causes at random gets "
        f"{plain(causes.get('chance'), 2)}"
    )
    if is_number(rules.get("macro_f1")):
        said += f", rules on counts {plain(rules['macro_f1'], 2)}"
    return f"{said}."


def causes_rows(causes: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return a table of the F1 of each cause: its head, and a row for each way."""
    ways = dicts(causes.get("ways"))
    names = [name_of(one) for one in dicts(ways[0].get("causes"))] if ways else []
    rows = [
        [
            WAYS.get(str(way.get("name")), name_of(way)),
            plain(way.get("macro_f1"), 2),
            *(plain(one.get("f1"), 2) for one in dicts(way.get("causes"))),
        ]
        for way in ways
    ]
    return ["Way", "Macro-F1", *(f"F1, {name}" for name in names)], rows


def weights_words(report: Mapping[str, Any]) -> str:
    """Return the signal that moves the detector most."""
    known = [w for w in dicts(report.get("weights")) if is_number(w.get("weight"))]
    if not known:
        return ""
    top = max(known, key=lambda weight: abs(weight["weight"]))
    side = "more" if top["weight"] > 0 else "less"
    return (
        f"{name_of(top)} moves it most: one standard deviation more makes a"
        f" mistake {side} likely, by {signed(top['weight'], 2)} log-odds."
    )


def data_words(report: Mapping[str, Any]) -> str:
    """Return on what the detector was fitted, in one line."""
    data = report.get("data") or {}
    kinds = [
        f"{count(data[k])} {k}" for k in ("right", "wrong", "evasive") if is_number(data.get(k))
    ]
    parts = [
        f"{count(data['answers'])} labelled answers" if is_number(data.get("answers")) else "",
        ", ".join(kinds),
        f"{count(data['entities'])} entities" if is_number(data.get("entities")) else "",
    ]
    return "; ".join(part for part in parts if part)
