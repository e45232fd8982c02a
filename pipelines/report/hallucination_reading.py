"""What a check of one answer says, in sentences: for the page, the index and the terminal.

The content of hallucination.json is a plain dict; None, NaN and missing values are left out.
Probabilities are of a hallucination: higher is worse. Contributions are in log-odds of a
hallucination, those of probes in log-odds of being right.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.errors import RunError
from pipelines.report.characters import shortened
from pipelines.report.numbers import count, finite, is_number, or_zero, percent, plain, signed
from pipelines.report.reading import quoted

FORMAT = 1
"""The format of hallucination.json that is read here."""

VERDICTS = {
    "wrong": ("Likely wrong", "✗"),
    "unsupported": ("Too unsure", "?"),
    "supported": ("Likely right", "✓"),
    "evasive": ("No answer", "–"),
}
"""Title and symbol of a verdict, the worst first."""

DEFAULT_WORDS = {
    "wrong": "Do not believe this answer without checking it: its signals look like those of wrong"
    " answers.",
    "unsupported": "Its signals are not those of answers that can be shown, and nothing speaks for"
    " another answer.",
    "supported": "The signals of this answer look like those of right answers.",
    "evasive": "The model does not commit to an answer, so there is nothing to believe or doubt.",
}
"""What is said where a result brings no words of its own."""

FAMILIES = {
    "probability": "How probable the model found its words",
    "states": "Internal states",
    "depth": "Depth",
    "self": "What the model says about itself",
    "samples": "Asking again",
    "inputs": "The prompt",
    "training": "Training documents",
}
"""Families of signals, as people read them."""

CAUSES = {
    "fabricated": "Fabricated: nothing it was trained on says so.",
    "mislearned": "Mislearned: what it was trained on says the same, and may be wrong itself.",
    "mis-recalled": "Mis-recalled: what it was trained on says something else.",
}

STANCES = {"supports": "supports", "contradicts": "contradicts", "silent": "says neither"}

SIDES = {
    "supports": ("supports it", "support it"),
    "contradicts": ("contradicts it", "contradict it"),
    "silent": ("says neither", "say neither"),
}
"""What one document does, and several do."""

NEEDED = {
    "tokens": "Probabilities of single words were not kept. Score the answer again to get them.",
    "layers": "No probe was read by layer. Fit the detector with the signal “probe”.",
    "lens": "The depth of the answer was not read. Fit with a signal of family “depth”.",
    "inputs": "Which parts of the prompt mattered was not measured. Fit with a signal of family"
    " “inputs”.",
    "samples": "The model was not asked again. Fit with a signal of family “samples”.",
    "asked": "The model was not asked about its own answer. Fit with a signal of family “self”.",
    "training": "Training documents were not searched. Give --run, a run that trained this model.",
}
"""What to give where a part is missing."""

MOST_REASONS = 3
"""Reasons in the first section."""


def read(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result with every number that is not finite replaced by None.

    Args:
        result: The content of hallucination.json.

    Returns:
        A copy.

    Raises:
        RunError: If it was written in another format.
    """
    if result.get("format", FORMAT) != FORMAT:
        raise RunError(
            f"report: this result of hallucination detection has format {result['format']!r},"
            f" expected {FORMAT}. Run `influence hallucination score` again to write it anew."
        )
    found: dict[str, Any] = finite(result)
    return found


def dicts(values: Any) -> list[dict[str, Any]]:
    """Return the dicts of a list that may be missing or hold None."""
    return [value for value in values or [] if isinstance(value, dict)]


def answer(result: Mapping[str, Any]) -> str:
    """Return the words that answer: the answer's span, or the whole completion."""
    completion = str(result.get("completion") or "")
    for span in dicts(result.get("spans")):
        if span.get("is_answer"):
            return words_of(span, completion) or completion
    return completion


def words_of(span: Mapping[str, Any], completion: str) -> str:
    """Return the text of a span."""
    first, last = limits_of(span, len(completion))
    return completion[first:last] or str(span.get("text") or "")


def limits_of(span: Mapping[str, Any], length: int) -> tuple[int, int]:
    """Return the first and one past the last character, inside a text of this length."""
    first = min(max(int(or_zero(span.get("start"))), 0), length)
    end = span.get("end")
    return first, min(max(int(end) if is_number(end) else first, first), length)


def question(result: Mapping[str, Any]) -> str:
    """Return the page's question."""
    if result.get("verdict") == "evasive":
        return f"Does {quoted(answer(result))} answer the question?"
    return f"Should one believe {quoted(answer(result))}?"


def asked(result: Mapping[str, Any]) -> str:
    """Return what the model was asked: the last message of a user, or the prompt."""
    said = [m for m in dicts(result.get("messages")) if m.get("role") == "user"]
    return str(said[-1].get("content") or "") if said else str(result.get("prompt") or "")


def title(verdict: object) -> str:
    """Return a verdict as people read it."""
    return VERDICTS[str(verdict)][0] if verdict in VERDICTS else "No verdict"


def symbol(verdict: object) -> str:
    """Return a verdict's sign, which says it without colour."""
    return VERDICTS[str(verdict)][1] if verdict in VERDICTS else "·"


def verdict_words(result: Mapping[str, Any]) -> str:
    """Return the verdict in a sentence."""
    given = str(result.get("verdict_words") or "")
    return given or DEFAULT_WORDS.get(
        str(result.get("verdict")), "This answer could not be scored."
    )


def risk_words(result: Mapping[str, Any]) -> str:
    """Return what the probability means, with its interval; "" without one."""
    risk = result.get("hallucination_probability")
    if not is_number(risk):
        return ""
    low, high = result.get("low"), result.get("high")
    spread = (
        f" (95 % interval {percent(low)} to {percent(high)})"
        if is_number(low) and is_number(high)
        else ""
    )
    about = round(100 * risk)
    many = "fewer than 1" if about < 1 else "more than 99" if about > 99 else f"about {about}"
    return (
        f"Of 100 answers with signals like these, {many} would be wrong{spread}, if they come"
        " from questions like those the detector was fitted on."
    )


def is_over(result: Mapping[str, Any]) -> bool | None:
    """Return whether the answer should be withheld; None where that is not known."""
    risk, line = (
        result.get("hallucination_probability"),
        (result.get("threshold") or {}).get("probability"),
    )
    return risk > line if is_number(risk) and is_number(line) else None


def abstaining(result: Mapping[str, Any]) -> list[str]:
    """Return on which side of the threshold the answer is, and what the threshold costs."""
    threshold, over = result.get("threshold") or {}, is_over(result)
    line = threshold.get("probability")
    if is_number(line) and over is not None:
        return [_side(line, over=over), *threshold_words(threshold)]
    known = is_number(result.get("hallucination_probability"))
    return [line_words(threshold)] if known and line_words(threshold) else []


def line_words(threshold: Mapping[str, Any]) -> str:
    """Return from which probability on an answer is withheld; "" where no line was sought."""
    if is_number(threshold.get("probability")):
        return f"Answers above {percent(threshold['probability'])} are withheld."
    if is_number(threshold.get("risk")):
        return (
            f"No line keeps the share of wrong answers at {percent(threshold['risk'])}: every answer"
            " is withheld. A detector fitted with a higher --risk shows more."
        )
    return ""


def _side(line: float, *, over: bool) -> str:
    if over:
        return f"This is above the line at {percent(line)}: withhold the answer, or check it."
    return f"This is below the line at {percent(line)}: the answer may be shown."


def threshold_words(threshold: Mapping[str, Any]) -> list[str]:
    """Return what a threshold was chosen for, and what it costs."""
    said = []
    if is_number(threshold.get("risk")):
        said.append(
            f"The line is set so that at most {percent(threshold['risk'])} of the answers shown"
            " are wrong."
        )
    kept = [
        f"{percent(threshold['coverage'])} of the answers stay"
        if is_number(threshold.get("coverage"))
        else "",
        f"{percent(threshold['measured_risk'])} of those are wrong{_between(threshold)}"
        if is_number(threshold.get("measured_risk"))
        else "",
        f"{percent(threshold['caught_wrong'])} of the wrong answers are withheld"
        if is_number(threshold.get("caught_wrong"))
        else "",
        f"{percent(threshold['lost_right'])} of the right answers are withheld too"
        if is_number(threshold.get("lost_right"))
        else "",
    ]
    if any(kept):
        said.append(f"On the labelled answers, {listed([part for part in kept if part])}.")
    return said


def _between(given: Mapping[str, Any]) -> str:
    low, high = given.get("low"), given.get("high")
    if not is_number(low) or not is_number(high):
        bound = given.get("bound")
        return f" (with 95 % confidence at most {percent(bound)})" if is_number(bound) else ""
    return f" (95 % interval {percent(low)} to {percent(high)})"


def listed(parts: Sequence[str]) -> str:
    """Return parts as an enumeration: a, b and c."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def reasons(given: Mapping[str, Any], most: int = MOST_REASONS) -> list[dict[str, Any]]:
    """Return the strongest reasons of an answer or a span, those that count for nothing left out.

    Args:
        given: What has ``reasons``.
        most: How many.

    Returns:
        The strongest first, in the result's form.
    """
    found = [
        r for r in dicts(given.get("reasons")) if is_number(r.get("contribution")) or r.get("words")
    ]
    found.sort(key=lambda reason: -abs(or_zero(reason.get("contribution"))))
    return found[:most]


def reason_words(reason: Mapping[str, Any]) -> str:
    """Return a reason as a sentence."""
    return str(reason.get("words") or "") or (
        f"{reason.get('title') or reason.get('signal') or 'A signal'}: {amount(reason)}."
    )


def amount(signal: Mapping[str, Any]) -> str:
    """Return a signal's value with its unit."""
    if signal.get("missing") or not is_number(signal.get("value")):
        return "not measured"
    unit = str(signal.get("unit") or "")
    value = plain(signal["value"])
    return f"{value} {unit}" if unit and " " not in unit else f"{value} ({unit})" if unit else value


def rank_words(signal: Mapping[str, Any]) -> str:
    """Return where a value stands among the labelled answers; "" where it is not known."""
    place = signal.get("percentile")
    if not is_number(place):
        return ""
    side, share = ("higher", place) if place >= 50 else ("lower", 100 - place)
    return f"{side} than {percent(round(share) / 100)} of the labelled answers"


def contribution_words(signal: Mapping[str, Any]) -> str:
    """Return what a signal does to the odds; "" where it has no contribution."""
    value = signal.get("contribution")
    if not is_number(value):
        return ""
    return f"{signed(value, 2)} log-odds: {effect(value)}"


def effect(contribution: float) -> str:
    """Return a contribution as a change of the odds of a mistake."""
    if abs(contribution) < 0.005:
        return "changes nothing"
    verb = "multiplies" if contribution > 0 else "divides"
    size = math.exp(min(abs(contribution), 50))
    return f"{verb} the odds of a mistake by {plain(size, 2)}"


def chance(log_probability: object) -> str:
    """Return a log-probability as a percentage."""
    return percent(math.exp(min(0.0, log_probability))) if is_number(log_probability) else ""


def right(log_odds: float) -> float:
    """Return the probability of log-odds."""
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, log_odds))))


def hesitation(tokens: Sequence[Mapping[str, Any]]) -> str:
    """Return at which token the model was least sure, and what it would rather have said."""
    known = [t for t in tokens if is_number(t.get("log_probability"))]
    if not known:
        return ""
    worst = min(known, key=lambda token: token["log_probability"])
    said = f"The model gave {quoted(worst.get('text') or '', 30)} a probability of"
    said += f" {chance(worst['log_probability'])}"
    said += ", its least probable piece here" if len(known) > 1 else ""
    rival = chance(worst.get("rival_log_probability"))
    if worst.get("rival") and rival:
        said += f"; its other choice, {quoted(worst['rival'], 30)}, had {rival}"
    return f"{said}."


def layers_words(layers: Mapping[str, Any]) -> str:
    """Return what the probe reads at its best layer, and at how many layers it agrees."""
    read_at = pairs(layers.get("layers"), layers.get("probe_log_odds"))
    if not read_at:
        return ""
    best = layers.get("best_layer")
    at, value = next(((u, v) for u, v in read_at if u == best), read_at[-1])
    side = "a right answer" if value > 0 else "a mistake"
    which = ", which tells right from wrong best" if at == best else ""
    same = sum((v > 0) == (value > 0) for _, v in read_at)
    said = (
        f"At layer {count(at)}{which}, the model's state looks like that of {side}:"
        f" {signed(value, 2)} log-odds of being right ({percent(right(value))})."
    )
    if len(read_at) > 1:
        said += f" {count(same)} of the {count(len(read_at))} layers read lean that way."
    return said


def emergence(lens: Mapping[str, Any]) -> float | None:
    """Return the layer from which on the token stays the first choice; None where it never does."""
    ranks = pairs(lens.get("layers"), lens.get("rank"))
    start = None
    for layer, rank in reversed(ranks):
        if rank > 0:
            break
        start = layer
    return start


def lens_words(lens: Mapping[str, Any], span: str) -> str:
    """Return after which layer the answer's first piece became the first choice."""
    layers = [value for value in lens.get("layers") or [] if is_number(value)]
    if not layers:
        return ""
    top, start = max(layers), emergence(lens)
    name = f"the first piece of {quoted(span, 30)}" if span else "the answer's first piece"
    if not is_number(start):
        return f"In none of the layers read is {name} the model's first choice up to the end."
    late = start > top * 2 / 3
    return (
        f"If the model had to speak after each layer, {name} would be its first choice from layer"
        f" {count(start)} of {count(top)} on: {'late' if late else 'early'} in its depth."
    )


def inputs_words(inputs: Mapping[str, Any]) -> str:
    """Return how much of the answer rests on the prompt, and on which part most."""
    said = []
    share, own = inputs.get("prompt_share"), inputs.get("generated_share")
    if is_number(share):
        rest = f", {percent(own)} in what the model had already said" if is_number(own) else ""
        said.append(f"Of what the answer rests on, {percent(share)} is in the prompt{rest}.")
    units = [u for u in dicts(inputs.get("units")) if is_number(u.get("share"))]
    if units:
        top = max(units, key=lambda unit: unit["share"])
        name = top.get("label") or top.get("text") or ""
        said.append(f"Of its parts, {quoted(name, 60)} did most: {percent(top['share'])}.")
    return " ".join(said)


def samples_words(samples: Mapping[str, Any]) -> str:
    """Return how often the model says the same when it is asked again."""
    texts = dicts(samples.get("texts"))
    meanings = {t.get("meaning") for t in texts}
    said = []
    if is_number(samples.get("agreement")):
        said.append(f"Asked again, it gave this answer {percent(samples['agreement'])} of the time")
    elif texts:
        said.append("Asked again, it gave the answers below")
    if texts:
        said.append(
            f"{count(len(meanings))} different meaning{'' if len(meanings) == 1 else 's'} in all"
        )
    if not said:
        return ""
    entropy = samples.get("semantic_entropy")
    spread = (
        f" Semantic entropy {plain(entropy, 2)} nats; 0 is always the same."
        if is_number(entropy)
        else ""
    )
    return f"{', '.join(said)}.{spread}"


def asked_words(given: Mapping[str, Any]) -> str:
    """Return what the model says about its own answer."""
    said = []
    if is_number(given.get("p_true")):
        said.append(f"Shown its own answer, the model holds it true to {percent(given['p_true'])}.")
    if is_number(given.get("stated")):
        said.append(f"Asked how sure it is, it says {percent(given['stated'])}.")
    named = [str(word) for word in given.get("named") or [] if word]
    if named:
        said.append(f"It says that it went by {', '.join(quoted(word, 30) for word in named)}.")
    return " ".join(said)


def training_words(training: Mapping[str, Any], span: str) -> str:
    """Return what the training documents say for and against the answer."""
    said = []
    sides = [
        f"{count(training[key])} {words[round(training[key]) != 1]}"
        for key, words in SIDES.items()
        if is_number(training.get(key))
    ]
    if sides:
        said.append(f"Of the training documents that were read, {listed(sides)}.")
    known, rival, other = (training.get(k) for k in ("answer_count", "rival", "rival_count"))
    if is_number(known):
        line = f"The question's subject stands beside {quoted(span, 30)} in {_documents(known)}"
        if rival and is_number(other):
            line += f", beside the other answer {quoted(rival, 30)} in {_documents(other)}"
        said.append(f"{line}.")
    return " ".join(said)


def _documents(number: float) -> str:
    return f"{count(number)} document{'' if round(number) == 1 else 's'}"


def training_facts(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return counts of the search in the corpus: names and values."""
    match, covered = training.get("longest_match"), training.get("covered")
    facts = [
        ("documents with subject and this answer", count(training.get("answer_count"))),
        ("documents with subject and the best other answer", count(training.get("rival_count"))),
        ("documents with the subject", count(training.get("subject_count"))),
        ("longest passage found word for word", f"{count(match)} words" if match else ""),
        ("word triples of question and answer found", percent(covered)),
    ]
    return [(name, value) for name, value in facts if value]


def cause_words(cause: Mapping[str, Any]) -> str:
    """Return where the mistake comes from."""
    name, reason = str(cause.get("name") or ""), str(cause.get("reason") or "")
    return " ".join(part for part in (CAUSES.get(name, name), reason) if part)


def detector_words(detector: Mapping[str, Any]) -> list[str]:
    """Return on what a detector was fitted and how good it is, each a sentence."""
    said = []
    kinds = [
        f"{count(detector[key])} {key}"
        for key in ("right", "wrong", "evasive")
        if is_number(detector.get(key))
    ]
    if is_number(detector.get("answers")):
        inside = f" ({listed(kinds)})" if kinds else ""
        when = f" on {detector['fitted']}" if detector.get("fitted") else ""
        said.append(
            f"It was fitted{when} to {count(detector['answers'])} labelled answers{inside}."
        )
    if is_number(detector.get("auroc")):
        said.append(auroc_words(detector))
    if is_number(detector.get("ece")):
        said.append(
            f"Its probabilities are off by {percent(detector['ece'])} on average (expected"
            " calibration error)."
        )
    if is_number(detector.get("base_rate")):
        said.append(
            f"Of the answers that commit themselves, {percent(detector['base_rate'])} were wrong:"
            " that is what one would guess without any signal."
        )
    return said


def auroc_words(given: Mapping[str, Any]) -> str:
    """Return what an AUROC means, with its interval."""
    low, high = given.get("auroc_low", given.get("low")), given.get("auroc_high", given.get("high"))
    spread = (
        f", 95 % interval {plain(low)} to {plain(high)}"
        if is_number(low) and is_number(high)
        else ""
    )
    return (
        f"Of a wrong and a right answer it gives the wrong one the higher probability in"
        f" {percent(given['auroc'])} of pairs (AUROC {plain(given['auroc'])}{spread}; a coin would"
        " get 0.5)."
    )


def conclusions(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what not to conclude: a claim in bold and its reason."""
    name = (result.get("model") or {}).get("name")
    said = [
        (
            "It does not know the truth.",
            "It knows how answers that were wrong looked inside the model. A mistake that the model"
            " learned well looks like knowledge.",
        ),
        (
            "It is for answers like those it was fitted on.",
            f"Another model{f' than {name}' if name else ''}, another language or longer answers"
            " need labelled answers of their own.",
        ),
        (
            "Reasons are not causes.",
            "A contribution says how the detector came to its number, not why the model made a"
            " mistake.",
        ),
    ]
    if not any((d.get("training") or {}) for d in dicts(result.get("details"))):
        said.append(
            (
                "No training document was read.",
                "Whether the training data support the answer is not known here.",
            )
        )
    return said


def tally(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """Return each verdict, its title and how many answers have it."""
    counts = Counter(str(result.get("verdict")) for result in results)
    return [(name, words, counts[name]) for name, (words, _) in VERDICTS.items()]


def pairs(xs: Any, ys: Any) -> list[tuple[float, float]]:
    """Return points of two lists; those without both numbers are left out."""
    return [
        (float(u), float(v))
        for u, v in zip(xs or [], ys or [], strict=False)
        if is_number(u) and is_number(v)
    ]


def one_line(text: object, limit: int) -> str:
    """Return a text on one line, at most so many characters."""
    return shortened(str(text or ""), limit)
