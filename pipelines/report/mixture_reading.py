"""What an analysis of a mixture says, in plain sentences: used by the page and the terminal alike.

Scores are in nats per document removed; positive: the documents help the task. A missing number is
None and never 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.errors import RunError
from pipelines.report.numbers import MINUS, count, finite, is_number, or_zero, percent, plain
from pipelines.report.reading import LARGE_SCORE, cautions, quoted
from pipelines.report.scales import scale_of

MIXTURE_FORMAT = 1
"""The format of mixture.json that page and terminal read."""

QUESTION = "Which data helps, which hurts, and what to do about it?"

MOST_NAMED, LONGEST_NAME = 3, 60
"""Names in a sentence, the others are counted; and characters of one."""

CLOSE, LOOSE = 0.8, 0.5
"""Rank agreement of predicted and measured changes from which they agree closely, and in part."""

EFFECTS = {
    "helps": "helps",
    "hurts": "hurts",
    "unclear": "not told apart from zero",
    None: "no interval",
}

CHECKS = {
    "drop": "Each source was left out in turn, and the model was trained again without it.",
    "reweight": "The model was trained again on the re-weighted mixture.",
    "unlearn": "Each source was unlearned in turn, and every task was measured again.",
}
"""What was done to measure, by the kind of check."""

SUSPECTED = {
    "hurts": "Hurt many tasks",
    "against neighbours": "Contradicted by similar documents",
    "self-influence": "Bent the model most",
    "duplicate": "Near-duplicates",
}
"""What a list of suspects is called, by the strongest reason of its documents."""

Found = Mapping[str, Any]
Cell = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Glance:
    """One task in one line."""

    task: str
    queries: str
    loss: str
    """Mean loss with its unit, or ""."""
    helped: tuple[Cell, ...]
    """Cells that clearly help, strongest per document first."""
    hurt: tuple[Cell, ...]
    """Cells that clearly hurt, strongest first."""
    unclear: int
    """Cells not told apart from zero."""
    unknown: int
    """Cells without an interval."""


def read(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of mixture.json with every number that is not finite replaced by None.

    Args:
        result: The content of mixture.json.

    Returns:
        A copy.

    Raises:
        RunError: If it was written in another format.
    """
    if result.get("format", MIXTURE_FORMAT) != MIXTURE_FORMAT:
        raise RunError(
            f"report: this mixture has format {result['format']!r}, expected {MIXTURE_FORMAT}. Run "
            "`influence mixture` again to write it anew."
        )
    clean: dict[str, Any] = finite(dict(result))
    return clean


def dicts(value: object) -> list[dict[str, Any]]:
    """Return the dicts of a list; nothing for anything else."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def name_of(entry: Mapping[str, Any], key: str = "name") -> str:
    """Return an entry's name; "not given" where it has none."""
    value = entry.get(key)
    return "not given" if value is None or value == "" else str(value)


def tasks_of(found: Found) -> list[str]:
    """Return the tasks' names: those of ``tasks``, then any that only a cell names."""
    named = [name_of(task) for task in dicts(found.get("tasks"))]
    return list(dict.fromkeys([*named, *(name_of(c, "task") for c in dicts(found.get("cells")))]))


def groups_of(found: Found) -> list[str]:
    """Return the groups' names: those of ``groups``, then any that only a cell names."""
    named = [name_of(group) for group in dicts(found.get("groups"))]
    return list(dict.fromkeys([*named, *(name_of(c, "group") for c in dicts(found.get("cells")))]))


def noun(found: Found, number: int = 2) -> str:
    """Return what a group is called: source(s), language(s), cluster(s), else group(s)."""
    column = found.get("column")
    word = str(column) if column in {"source", "language", "cluster"} else "group"
    return word if number == 1 else f"{word}s"


def cells_of(found: Found, effect: str | None, **where: str) -> list[dict[str, Any]]:
    """Return cells of one effect, strongest per document first.

    Args:
        found: The analysis.
        effect: helps, hurts or unclear; None: those without an interval.
        where: ``task`` or ``group``, and its name.

    Returns:
        Cells.
    """
    chosen = [
        cell
        for cell in dicts(found.get("cells"))
        if cell.get("effect") == effect
        and all(name_of(cell, key) == name for key, name in where.items())
    ]
    return sorted(chosen, key=lambda cell: -abs(or_zero(cell.get("mean"))))


def listed(names: Iterable[object], most: int = MOST_NAMED) -> str:
    """Return names in quotation marks, joined by commas and "and"; the surplus is counted."""
    every = [quoted(name, LONGEST_NAME) for name in names]
    shown = every if len(every) <= most + 1 else [*every[:most], f"{len(every) - most} others"]
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def size(found: Found) -> str:
    """Return how much was asked and how much data it was asked about."""
    questions = [task.get("queries") for task in dicts(found.get("tasks"))]
    asked = sum(q for q in questions if is_number(q))
    groups = len(groups_of(found))
    parts = [
        f"{count(len(tasks_of(found)))} tasks" + (f", {count(asked)} questions" if asked else ""),
        f"{count(groups)} {noun(found, groups)}",
        f"{count(found.get('n_documents'))} documents" if found.get("n_documents") else "",
        f"{count(found.get('n_tokens'))} tokens" if found.get("n_tokens") else "",
    ]
    return " · ".join(part for part in parts if part)


def glance(found: Found) -> list[Glance]:
    """Return one line a task: what helps it most, what hurts it most, and what is not clear."""
    known = {name_of(task): task for task in dicts(found.get("tasks"))}
    lines = []
    for task in tasks_of(found):
        entry = known.get(task) or {}
        loss = plain(entry.get("loss"))
        lines.append(
            Glance(
                task=task,
                queries=count(entry.get("queries")),
                loss=f"{loss} nats" if loss else "",
                helped=tuple(cells_of(found, "helps", task=task)),
                hurt=tuple(cells_of(found, "hurts", task=task)),
                unclear=len(cells_of(found, "unclear", task=task)),
                unknown=len(cells_of(found, None, task=task)),
            )
        )
    return lines


def findings(found: Found) -> list[str]:
    """Return the headline sentences, most important first."""
    if not dicts(found.get("cells")):
        return ["Nothing was measured yet."]
    said = [
        *_broad(found),
        _unclear(found),
        *profile_words(found)[:1],
        _concentrated(found),
        suspects_words(found),
        reweighting_words(found.get("reweighting") or {}),
        agreement(found.get("verification") or {}, found.get("reweighting")),
    ]
    return [sentence for sentence in said if sentence]


def _tally(found: Found, effect: str) -> dict[str, list[str]]:
    """Return for each group the tasks on which it has an effect."""
    tasks: dict[str, list[str]] = {}
    for cell in cells_of(found, effect):
        tasks.setdefault(name_of(cell, "group"), []).append(name_of(cell, "task"))
    return tasks


def _broad(found: Found) -> list[str]:
    """Name the group that helps most tasks and the one that hurts most tasks."""
    helps, hurts = _tally(found, "helps"), _tally(found, "hurts")
    total = len(tasks_of(found))
    said = []
    for own, other, verb, against in (
        (helps, hurts, "helps", "hurts"),
        (hurts, helps, "hurts", "helps"),
    ):
        if not own:
            continue
        group = max(own, key=lambda name: len(own[name]) - len(other.get(name, [])))
        strongest = cells_of(found, verb, group=group)[0]
        score = scale_of([strongest.get("mean")]).words(strongest.get("mean"))
        said.append(
            f"{quoted(group, LONGEST_NAME)} {verb} {len(own[group])} of {total} tasks, most of all "
            f"{quoted(name_of(strongest, 'task'), LONGEST_NAME)}"
            f"{f' ({score} per document)' if score else ''}; it {against} "
            f"{len(other[group]) if group in other else 'none'}."
        )
    return said


def _unclear(found: Found) -> str:
    unclear, unknown = len(cells_of(found, "unclear")), len(cells_of(found, None))
    total = len(dicts(found.get("cells")))
    pairs = f"pairs of task and {noun(found, 1)}"
    said = []
    if unclear:
        said.append(f"{count(unclear)} of {count(total)} {pairs} can't be told apart from zero.")
    if unknown:
        said.append(
            f"{count(unknown)} of {count(total)} {pairs} have no interval: nothing is said about their "
            "sign."
        )
    return " ".join(said)


def profile_words(found: Found) -> list[str]:
    """Return which groups act alike, which oppose each other, as sentences; strongest first."""
    profiles = found.get("profiles") or {}
    names = [str(name) for name in profiles.get("groups") or []]
    pairs: dict[str, list[tuple[float, str, str]]] = {"alike": [], "opposite": []}
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            relation, value = at(profiles, "relation", i, j), at(profiles, "correlation", i, j)
            if relation in pairs and is_number(value):
                pairs[str(relation)].append((value, second, first))
    said = []
    for relation, words in (
        ("alike", "act alike: they help and hurt the same questions"),
        ("opposite", "act against each other: what one helps, the other hurts"),
    ):
        strongest = sorted(pairs[relation], key=lambda pair: -abs(pair[0]))
        if strongest:
            value, first, second = strongest[0]
            rest = len(strongest) - 1
            more = (
                f" {count(rest)} more {'pair does' if rest == 1 else 'pairs do'} so."
                if rest
                else ""
            )
            said.append(f"{listed([first, second])} {words} (correlation {fixed(value)}).{more}")
    return said


def at(table: Mapping[str, Any], key: str, row: int, column: int) -> Any:
    """Return an entry of a matrix; None where it has no such place."""
    try:
        return table[key][row][column]
    except (KeyError, IndexError, TypeError):
        return None


def fixed(value: object) -> str:
    """Return a correlation with two decimals and its sign; "" for a missing one."""
    if not is_number(value):
        return ""
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", MINUS)


def _concentrated(found: Found) -> str:
    entries = dicts(found.get("concentration"))
    shares = [e["half_share"] for e in entries if or_zero(e.get("half_share")) > 0]
    if not shares:
        return ""
    middle = statistics.median(shares)
    return (
        f"Half of the helpful influence on a task comes from {percent(middle)} of the documents "
        f"({percent(min(shares))} to {percent(max(shares))}, by task)."
    )


def concentration_words(entry: Mapping[str, Any]) -> str:
    """Return how concentrated the influence on one task is."""
    if not is_number(entry.get("half")):
        return "How many documents carry half of the influence is not known."
    if entry["half"] == 0:
        return "No document has a positive score on this task."
    share = percent(entry.get("half_share"))
    said = f"{count(entry['half'])} of {count(entry.get('documents')) or 'all'} documents" + (
        f" ({share})" if share else ""
    )
    said += f" {'carries' if entry['half'] == 1 else 'carry'} half of the helpful influence."
    tail = entry.get("tail") or {}
    if is_number(tail.get("exponent")):
        between = (
            f" ({plain(tail['low'])} to {plain(tail['high'])})"
            if is_number(tail.get("low")) and is_number(tail.get("high"))
            else ""
        )
        said += (
            f" The strongest scores fall off as a power law with exponent {plain(tail['exponent'])}"
        )
        said += f"{between}."
    return said


def by_kind(suspects: Sequence[Found]) -> list[tuple[str, list[Found]]]:
    """Return suspects under titles that say what the strongest reason of each is."""
    kinds: dict[str, list[Found]] = {title: [] for title in SUSPECTED.values()}
    for entry in suspects:
        title = SUSPECTED.get(str(_strongest(entry).get("kind")), "For other reasons")
        kinds.setdefault(title, []).append(entry)
    return [(title, own) for title, own in kinds.items() if own]


def sureness(suspect: Found) -> str:
    """Return "clear" where chance hardly gives such a reason, else "hint"."""
    reason = _strongest(suspect)
    return "" if reason.get("clear") is None else "clear" if reason["clear"] else "hint"


def _strongest(suspect: Found) -> Found:
    reasons = dicts(suspect.get("reasons"))
    return next((one for one in reasons if one.get("clear")), reasons[0] if reasons else {})


def suspects_words(found: Found) -> str:
    """Return how many documents are suspect, and how many near-duplicates there are."""
    rows = len(dicts(found.get("suspects")))
    start = (
        f"{count(rows)} {'document is' if rows == 1 else 'documents are'} suspect and should be read "
        "by a person."
        if rows
        else ""
    )
    return " ".join(filter(None, [start, duplicates_words(found.get("clusters") or {})]))


def duplicates_words(clusters: Mapping[str, Any]) -> str:
    """Return how many documents are near-duplicates; "" where there are none."""
    if not or_zero(clusters.get("documents")):
        return ""
    largest = count(clusters.get("largest"))
    return (
        f"{count(clusters['documents'])} documents are near-duplicates of another, in "
        f"{count(clusters.get('count'))} clusters" + (f" of up to {largest}." if largest else ".")
    )


def language_words(languages: Mapping[str, Any]) -> str:
    """Return whether a fact is found across languages, and whether words alone would find it."""
    pairs = [
        (at(languages, "mrr", i, j), at(languages, "bm25", i, j), at(languages, "random", i, j))
        for i, query in enumerate(languages.get("queries") or [])
        for j, document in enumerate(languages.get("documents") or [])
        if query != document
    ]
    mrr, bm25, chance = (
        [pair[column] for pair in pairs if is_number(pair[column])] for column in range(3)
    )
    if not mrr:
        return "No pair of different languages was measured."
    pairs_of = "pair" if len(mrr) == 1 else "pairs"
    said = [
        f"Over {len(mrr)} {pairs_of} of different languages, the document that states the same fact "
        f"has a mean reciprocal rank of {plain(statistics.mean(mrr), 2)} among all fact documents of "
        "its language (1: always first)."
    ]
    said += [
        f"{words} {plain(statistics.mean(values), 2)}."
        for values, words in ((bm25, "Word overlap (BM25) reaches"), (chance, "Chance is"))
        if values
    ]
    return " ".join(said)


def reweighting_words(proposal: Mapping[str, Any]) -> str:
    """Return what is proposed and what it is predicted to do."""
    weights = [
        (group["weight"], name_of(group))
        for group in dicts(proposal.get("groups"))
        if is_number(group.get("weight"))
    ]
    if not weights:
        return ""
    more = [name for weight, name in sorted(weights, reverse=True) if weight > 1.005]
    less = [name for weight, name in sorted(weights) if weight < 0.995]
    wishes = [f"more of {listed(more)}" if more else "", f"less of {listed(less)}" if less else ""]
    start = "; ".join(wish for wish in wishes if wish)
    said = [f"Proposed: {start}." if start else "Proposed: leave the mixture as it is."]
    tasks = dicts(proposal.get("tasks"))
    effects = [change_effect(task) for task in tasks]
    if any(effects):
        said.append(
            f"Predicted: the loss falls clearly on {effects.count('helps') or 'none'} of {len(effects)} "
            f"tasks and rises clearly on {effects.count('hurts') or 'none'}."
        )
    elif effects:
        said.append("The predicted changes have no intervals: their sign is not known.")
    share = mean_share(proposal, {name_of(t): _over(t.get("change"), t.get("loss")) for t in tasks})
    if share is not None:
        said.append(f"In the mean over tasks {_rises(share)}.")
    return " ".join(said)


def mean_share(proposal: Mapping[str, Any], changes: Mapping[str, object]) -> float | None:
    """Return by which share the geometric mean of the losses changes; None: unknown.

    Args:
        proposal: ``reweighting`` of mixture.json; its tasks say how much each counts.
        changes: Of each task's loss, as a share of it.
    """
    parts = [(t.get("importance"), changes.get(name_of(t))) for t in dicts(proposal.get("tasks"))]
    known = [(i, c) for i, c in parts if is_number(i) and is_number(c) and c > -1]
    if not known or len(known) < len(parts):
        return None
    return math.expm1(sum(importance * math.log1p(change) for importance, change in known))


def _rises(share: float) -> str:
    how = "rises" if share > 0 else "falls"
    return f"the loss {how} by {percent(abs(share))}"


def change_effect(task: Mapping[str, Any]) -> str | None:
    """Return whether a predicted change of the loss helps, hurts or is unclear; None: no interval."""
    low, high = task.get("low"), task.get("high")
    if not (is_number(low) and is_number(high)):
        return None
    return "helps" if high < 0 else "hurts" if low > 0 else "unclear"


def agreement(check: Mapping[str, Any], proposal: Mapping[str, Any] | None = None) -> str:
    """Return how well predicted changes agree with measured ones, or what a proposal has brought."""
    rank = check.get("spearman") or {}
    rows = [
        row
        for row in dicts(check.get("rows"))
        if is_number(row.get("predicted")) and is_number(row.get("measured"))
    ]
    if not check:
        return ""
    if check.get("kind") == "reweight":
        return _measured_words(rows, measured_share(check, proposal or {}))
    if not is_number(rank.get("value")):
        return "Whether predicted and measured changes agree is not known: too little was measured."
    if is_number(rank.get("low")) and rank["low"] <= 0 <= or_zero(rank.get("high")):
        how = "can't be told from unrelated"
    elif rank["value"] >= CLOSE:
        how = "agree closely"
    else:
        how = "agree in part" if rank["value"] >= LOOSE else "hardly agree"
    between = (
        f", {fixed(rank['low'])} to {fixed(rank['high'])}"
        if is_number(rank.get("low")) and is_number(rank.get("high"))
        else ""
    )
    said = (
        f"Predicted and measured changes {how}: Spearman {fixed(rank['value'])}{between}, over "
        f"{count(len(rows))} pairs."
    )
    named = dicts(check.get("named"))
    judged = [entry for entry in named if isinstance(entry.get("right"), bool)]
    if judged:
        right = sum(entry["right"] for entry in judged)
        said += (
            f" What was named most helpful turned out so for {right} of {len(judged)} "
            f"{'task' if len(judged) == 1 else 'tasks'}."
        )
    return said


def _measured_words(rows: Sequence[Mapping[str, Any]], share: float | None) -> str:
    effects = measured_effects(rows)
    if not any(effects):
        return "Trained on the proposed weights: with one seed, no change is told from noise."
    mean = "" if share is None else f" In the mean over tasks {_rises(share)}."
    return (
        f"Trained on the proposed weights, the loss fell clearly on {effects.count('helps') or 'none'} "
        f"of {len(effects)} tasks and rose clearly on {effects.count('hurts') or 'none'}.{mean}"
    )


def measured_share(check: Mapping[str, Any], proposal: Mapping[str, Any]) -> float | None:
    """Return by which share training on a proposal changed the losses in the mean; None: unknown."""
    rows = dicts(check.get("rows"))
    return mean_share(
        proposal, {str(r.get("task")): _over(r.get("measured"), r.get("before")) for r in rows}
    )


def _over(change: object, loss: object) -> float | None:
    return change / loss if is_number(change) and is_number(loss) and loss > 0 else None


def measured_effects(rows: Iterable[Mapping[str, Any]]) -> list[str | None]:
    """Return of each row whether the measured change helps, hurts or is unclear."""
    return [
        change_effect({"low": row.get("measured_low"), "high": row.get("measured_high")})
        for row in rows
    ]


def _advice_of_checks(check: Mapping[str, Any], proposal: Mapping[str, Any]) -> str:
    """Return whether to act on the scores, from what training has shown; "" where it bears them out."""
    value = (check.get("spearman") or {}).get("value")
    if not check:
        return (
            "Nothing here was checked by training. Run again with --verify drop, and with --verify "
            "reweight for the proposed weights, before you change the mixture."
        )
    if check.get("kind") == "reweight":
        return _advice_of_weights(check, proposal)
    if not is_number(value):
        return "The check by training measured too little to say whether these scores hold."
    if value < LOOSE:
        return "The check by training does not bear these scores out: do not act on them yet."
    return ""


def _advice_of_weights(check: Mapping[str, Any], proposal: Mapping[str, Any]) -> str:
    effects = measured_effects(dicts(check.get("rows")))
    if not any(effects):
        return "One training can't tell whether the proposed weights help: use --seeds 3."
    if or_zero(measured_share(check, proposal)) < 0 and "helps" in effects:
        return "Trained on the proposed weights, the tasks gained: take them if what rose matters less."
    return "Do not take the proposed weights: training on them was no gain."


def advice(found: Found) -> list[str]:
    """Return what to do next, in the order to do it."""
    check, proposal = found.get("verification") or {}, found.get("reweighting") or {}
    said = [*filter(None, [_advice_of_checks(check, proposal)])]
    if dicts(found.get("suspects")):
        said.append("Read the suspects. Mend or remove what is wrong: that is the cheapest gain.")
    helps, hurts = _tally(found, "helps"), _tally(found, "hurts")
    harmful = sorted((g for g in hurts if g not in helps), key=lambda g: -len(hurts[g]))
    useful = sorted((g for g in helps if g not in hurts), key=lambda g: -len(helps[g]))
    both = sorted(
        (g for g in helps if g in hurts), key=lambda g: -min(len(helps[g]), len(hurts[g]))
    )
    for groups, start, verbs in (
        (
            harmful,
            "Clean, or take less of,",
            ("hurts some tasks, helps none", "hurt some, help none"),
        ),
        (
            useful,
            "Keep, or find more like,",
            ("helps some tasks, hurts none", "help some, hurt none"),
        ),
        (
            both,
            "Decide what you want from",
            ("helps some tasks, hurts others", "help some, hurt others"),
        ),
    ):
        if groups:
            verb = f"it {verbs[0]}" if len(groups) == 1 else f"they {verbs[1]}"
            said.append(f"{start} {listed(groups)}: {verb}.")
    cells = len(dicts(found.get("cells")))
    if cells and 2 * (len(cells_of(found, "unclear")) + len(cells_of(found, None))) > cells:
        said.append(
            "Most pairs are not clear. More questions for each task make intervals shorter."
        )
    return said


def warnings(found: Found) -> list[str]:
    """Return reasons to trust the numbers less: what was measured, then the notes."""
    said = cautions(dict(found))
    largest = max((abs(or_zero(c.get("mean"))) for c in dicts(found.get("cells"))), default=0.0)
    if largest > LARGE_SCORE:
        said.append(
            f"The largest mean is {plain(largest, 2)} nats per document, too far for a first-order "
            "estimate: trust the order more than the size."
        )
    return [*said, *(str(note) for note in found.get("notes") or [] if note)]
