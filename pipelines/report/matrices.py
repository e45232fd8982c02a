"""Coloured matrices of an analysis of a mixture, as cells of tables: every number can be read.

Colour never speaks alone: numbers carry their sign, negative ones are underlined with dots (as in
``heat``), and what is not told apart from zero is pale and hatched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from pipelines.report import mixture_reading as reading
from pipelines.report.cards import short_layer
from pipelines.report.heat import LEVELS, level
from pipelines.report.mixture_reading import Found, at, dicts, fixed, name_of
from pipelines.report.numbers import MINUS, count, is_number, or_zero, percent, plain
from pipelines.report.reading import quoted
from pipelines.report.scales import Scale, scale_of

MOST_GROUPS = 60
"""Groups in a matrix; of more the strongest are shown."""

MOST_LAYERS = 48
"""Layers in a matrix; the weaker ones are added up in one row."""

WIDE = 12
"""Columns above which their headings stand upright."""

LONGEST_NAME = 80
"""Characters of a name in full."""

RELATIONS = {"alike": "=", "opposite": "≠", "unknown": "?"}
"""Sign of how two groups act; independent ones have none."""


@dataclass(frozen=True, kw_only=True)
class Square:
    """One cell."""

    text: str
    """The number; "" for a missing one."""
    kind: str
    """Colour classes."""
    title: str
    """What the cell says, in words."""
    under: str = ""
    """A second line in small print."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A table of coloured cells."""

    corner: str
    """What the rows are."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Square, ...]], ...]
    """Name and cells."""
    unit: str
    """What the numbers count, with their sign's meaning."""
    left_out: int = 0
    """Rows that are not shown."""

    @property
    def upright(self) -> bool:
        """Whether the headings of the columns stand upright."""
        return len(self.columns) > WIDE


def strongest_groups(found: Found, most: int = MOST_GROUPS) -> list[str]:
    """Return the groups with the largest absolute totals, the most helpful first.

    Args:
        found: The analysis.
        most: How many.

    Returns:
        Names, ordered by their mean place between the strongest opponent (-1) and the strongest
        proponent (+1) of each task.
    """
    largest: dict[str, float] = {}
    total: dict[str, float] = {}
    for cell in dicts(found.get("cells")):
        group, value = name_of(cell, "group"), abs(or_zero(cell.get("total")))
        total[group] = max(total.get(group, 0.0), value)
        task = name_of(cell, "task")
        largest[task] = max(largest.get(task, 0.0), abs(or_zero(cell.get("mean"))))
    kept = sorted(reading.groups_of(found), key=lambda group: -total.get(group, 0.0))[:most]
    place = dict.fromkeys(kept, 0.0)
    for cell in dicts(found.get("cells")):
        group, scale = name_of(cell, "group"), largest[name_of(cell, "task")]
        if group in place and scale > 0:
            place[group] += or_zero(cell.get("mean")) / scale
    return sorted(kept, key=lambda group: -place[group])


def influence_matrix(found: Found, key: str) -> Matrix:
    """Return groups by tasks, each column coloured relative to its strongest cell.

    Args:
        found: The analysis.
        key: "mean" (per document) or "total" (the whole group).

    Returns:
        The matrix; a task's column holds the numbers of one scale with all others.
    """
    tasks, groups = reading.tasks_of(found), strongest_groups(found)
    cells = {(name_of(c, "task"), name_of(c, "group")): c for c in dicts(found.get("cells"))}
    scale = scale_of(cell.get(key) for cell in cells.values())
    strongest = {
        task: max((abs(or_zero(c.get(key))) for (t, _), c in cells.items() if t == task), default=0)
        for task in tasks
    }
    each = "per document removed" if key == "mean" else "with the whole group removed"
    rows = tuple(
        (
            group,
            tuple(_cell(cells.get((task, group)), key, scale, strongest[task]) for task in tasks),
        )
        for group in groups
    )
    return Matrix(
        corner=reading.noun(found, 1),
        columns=tuple(tasks),
        rows=rows,
        unit=f"{scale.unit} {each}",
        left_out=len(reading.groups_of(found)) - len(groups),
    )


def _cell(cell: Mapping[str, Any] | None, key: str, scale: Scale, strongest: float) -> Square:
    if cell is None or not is_number(cell.get(key)):
        return Square(text="", kind="missing", title="not measured")
    value, effect = float(cell[key]), cell.get("effect")
    interval = scale.interval(cell.get(f"{key}_low"), cell.get(f"{key}_high"))
    said = [
        f"{quoted(name_of(cell, 'group'), LONGEST_NAME)} on "
        f"{quoted(name_of(cell, 'task'), LONGEST_NAME)}: {scale.words(value)}",
        f"95 % interval {interval}" if interval else "",
        reading.EFFECTS.get(effect, ""),
        f"{count(cell.get('documents'))} documents" if is_number(cell.get("documents")) else "",
    ]
    if effect == "unclear":
        kind = f"unclear {'p' if value >= 0 else 'n'}"
    elif effect in {"helps", "hurts"}:
        kind = _colour(value, strongest)
    else:
        kind = "unknown"
    return Square(text=scale.text(value), kind=kind, title="; ".join(part for part in said if part))


def _colour(value: float, strongest: float, classes: str = "pn") -> str:
    """Return the class of a strength, at least the palest for a value that is not zero."""
    strength = min(LEVELS, max(1, level(value, strongest))) if value else 0
    return f"{classes[0] if value > 0 else classes[-1]}{strength}" if strength else ""


def by_likeness(correlation_GG: np.ndarray) -> list[int]:
    """Return an order in which groups that act alike stand side by side.

    Args:
        correlation_GG: Symmetric; NaN where it is not known, which counts as 0.

    Returns:
        Indices, by average-linkage clustering of 1 - correlation with the best order of leaves.
    """
    if len(correlation_GG) < 3:
        return list(range(len(correlation_GG)))
    distance_GG = 1 - np.nan_to_num(correlation_GG, nan=0.0)
    distance_GG = np.clip((distance_GG + distance_GG.T) / 2, 0, 2)
    np.fill_diagonal(distance_GG, 0.0)
    tree = linkage(squareform(distance_GG, checks=False), "average", optimal_ordering=True)
    return [int(leaf) for leaf in leaves_list(tree)]


def profile_matrix(found: Found) -> Matrix | None:
    """Return correlations of groups over the tasks' questions, groups that act alike together."""
    profiles = found.get("profiles") or {}
    names = [str(name) for name in profiles.get("groups") or []]
    strongest = set(strongest_groups(found))
    kept = [index for index, name in enumerate(names) if name in strongest]
    if len(kept) < 2:
        return None
    values = [[at(profiles, "correlation", i, j) for j in kept] for i in kept]
    known = np.array([[v if is_number(v) else np.nan for v in row] for row in values], dtype=float)
    order = [kept[index] for index in by_likeness(known)]
    return Matrix(
        corner=reading.noun(found, 1),
        columns=tuple(names[j] for j in order),
        rows=tuple(
            (names[i], tuple(_relation(profiles, names, i, j) for j in order)) for i in order
        ),
        unit="correlation, −1 to +1",
        left_out=len(names) - len(kept),
    )


def _relation(profiles: Mapping[str, Any], names: Sequence[str], i: int, j: int) -> Square:
    pair = " and ".join(quoted(names[index], LONGEST_NAME) for index in (i, j))
    if i == j:
        return Square(text="", kind="self", title=f"{quoted(names[i], LONGEST_NAME)} with itself")
    value, relation = at(profiles, "correlation", i, j), str(at(profiles, "relation", i, j))
    if not is_number(value):
        return Square(text="", kind="missing", title=f"{pair}: not known")
    low, high = at(profiles, "low", i, j), at(profiles, "high", i, j)
    between = (
        f", 95 % interval {fixed(low)} to {fixed(high)}"
        if is_number(low) and is_number(high)
        else ""
    )
    clear = relation in {"alike", "opposite"}
    return Square(
        text=fixed(value),
        kind=_colour(value, 1.0) if clear else f"unclear {'p' if value >= 0 else 'n'}",
        title=f"{pair}: {relation}, correlation {fixed(value)}{between}",
        under=RELATIONS.get(relation, ""),
    )


def layer_matrix(found: Found) -> Matrix | None:
    """Return layers by tasks: each layer's share of the influence's size on a task.

    Args:
        found: The analysis.

    Returns:
        The matrix; signed totals instead where sizes are not known, None where neither is.
    """
    key = next(
        (
            key
            for key in ("absolute", "total")
            if any(is_number(e.get(key)) for e in dicts(found.get("layers")))
        ),
        None,
    )
    entries = [e for e in dicts(found.get("layers")) if key and is_number(e.get(key))]
    if key is None or not entries:
        return None
    own = {(name_of(e, "layer"), name_of(e, "task")): float(e[key]) for e in entries}
    tasks = [task for task in reading.tasks_of(found) if any(t == task for _, t in own)]
    whole = {t: sum(abs(v) for (_, task), v in own.items() if task == t) for t in tasks}
    names = list(dict.fromkeys(name for name, _ in own))
    part = {
        name: [own[name, t] / whole[t] if (name, t) in own and whole[t] else None for t in tasks]
        for name in names
    }
    ranked = sorted(names, key=lambda name: -max(abs(or_zero(value)) for value in part[name]))
    shown = set(ranked[: MOST_LAYERS - 1] if len(names) > MOST_LAYERS else names)
    table = [(short_layer(name), part[name]) for name in names if name in shown]
    rest = [name for name in names if name not in shown]
    if rest:
        together: list[float | None] = [
            sum(or_zero(part[name][place]) for name in rest) for place in range(len(tasks))
        ]
        table.append((f"{len(rest)} weaker layers together", together))
    most = max((abs(or_zero(value)) for _, values in table for value in values), default=0.0)
    square = _share if key == "absolute" else _signed_share
    return Matrix(
        corner="layer",
        columns=tuple(tasks),
        rows=tuple(
            (name, tuple(square(name, *pair, most) for pair in zip(tasks, values, strict=True)))
            for name, values in table
        ),
        unit="share of the summed sizes of all documents' scores on a task. Columns add up to 100 %"
        if key == "absolute"
        else "summed score of all documents as a share of the summed sizes of all layers. + helps, "
        "− hurts",
    )


def _share(layer: str, task: str, value: float | None, most: float) -> Square:
    if value is None:
        return Square(text="", kind="missing", title="not measured")
    words = f"{layer} carries {percent(value)} of the influence on {quoted(task, LONGEST_NAME)}"
    kind = f"u{level(value, most)}" if level(value, most) else ""
    return Square(text=percent(value), kind=kind, title=words)


def _signed_share(layer: str, task: str, value: float | None, most: float) -> Square:
    if value is None:
        return Square(text="", kind="missing", title="not measured")
    text = ("+" if value > 0 else "") + percent(value).replace("-", MINUS)
    words = f"{layer} on {quoted(task, LONGEST_NAME)}: {text}"
    return Square(text=text, kind=_colour(value, most), title=words)


def _languages(
    languages: Mapping[str, Any], unit: str, square: Callable[[int, int, str], Square]
) -> Matrix | None:
    asked = [str(name) for name in languages.get("queries") or []]
    stated = [str(name) for name in languages.get("documents") or []]
    if not asked or not stated:
        return None
    return Matrix(
        corner="asked in",
        columns=tuple(f"documents in {name}" for name in stated),
        rows=tuple(
            (
                query,
                tuple(
                    square(i, j, f"asked in {quoted(query, 20)}, documents in {quoted(name, 20)}")
                    for j, name in enumerate(stated)
                ),
            )
            for i, query in enumerate(asked)
        ),
        unit=unit,
    )


def rank_matrix(languages: Mapping[str, Any]) -> Matrix | None:
    """Return how high the own fact's document ranks, by pair of languages, beside BM25 and chance."""

    def square(i: int, j: int, pair: str) -> Square:
        value = at(languages, "mrr", i, j)
        if not is_number(value):
            return Square(text="", kind="missing", title=f"{pair}: not measured")
        low, high = at(languages, "mrr_low", i, j), at(languages, "mrr_high", i, j)
        between = (
            f", {plain(low, 2)} to {plain(high, 2)}" if is_number(low) and is_number(high) else ""
        )
        others = [
            f"{name} {plain(at(languages, key, i, j), 2)}"
            for name, key in (("BM25", "bm25"), ("chance", "random"))
            if is_number(at(languages, key, i, j))
        ]
        asked = at(languages, "queries_of", i, j)
        said = [
            f"{pair}: mean reciprocal rank {plain(value)}{between}",
            *others,
            f"{count(asked)} questions" if is_number(asked) else "",
        ]
        kind = f"u{level(value, 1.0)}" if level(value, 1.0) else ""
        return Square(
            text=plain(value, 2),
            kind=kind,
            title="; ".join(part for part in said if part),
            under=" · ".join(others),
        )

    return _languages(languages, "mean reciprocal rank, 0 to 1", square)


def fact_matrix(languages: Mapping[str, Any]) -> Matrix | None:
    """Return mean scores of documents that state the asked fact, beside those that state others."""
    values = [
        value
        for key in ("same_fact", "other_facts")
        for row in languages.get(key) or []
        for value in row or []
    ]
    if not any(is_number(value) for value in values):
        return None
    scale = scale_of(values)
    strongest = max(abs(value) for value in values if is_number(value))

    def square(i: int, j: int, pair: str) -> Square:
        same, other = at(languages, "same_fact", i, j), at(languages, "other_facts", i, j)
        if not is_number(same):
            return Square(text="", kind="missing", title=f"{pair}: not measured")
        against = f"others {scale.text(other)}" if is_number(other) else ""
        said = f"{pair}: same fact {scale.words(same)}" + (f", {against}" if against else "")
        return Square(
            text=scale.text(same), kind=_colour(same, strongest), title=said, under=against
        )

    return _languages(languages, f"{scale.unit} per document removed", square)
