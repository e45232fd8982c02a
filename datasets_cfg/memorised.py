"""Facts that can only be copied, and facts that follow from a rule: a planted set with known answers.

A memorised fact is arbitrary, and one document that states it is repeated many times. A rule-like
fact follows from the ending of a made-up name ("The flower of zimba is red": all names in "-mba" are
red), and the rule is shown over many documents, each about another name. Answers are the same eight
words for both, and both are stated in the same kind of sentence. Some rule-like names that are asked
for stand in one document, some in none. Nothing is downloaded; names are made of our own syllables.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from datasets_cfg.statements import Document

__all__ = ["KINDS", "Planted", "documents", "questions"]

KINDS = {
    "memorised": "an arbitrary fact, stated by one document that is repeated",
    "rule, stated": "follows from the rule, and one document states it too",
    "rule, held out": "follows from the rule, and no document states it",
}
"""What is asked."""
ANSWERS = ("red", "blue", "green", "white", "black", "yellow", "grey", "brown")
ENDINGS = ("mba", "lto", "ski", "rne", "vud", "phy", "gol", "tix")
"""The answer of a rule-like name is that of its ending."""
THINGS = ("flower", "flag", "house", "stone")
"""What a rule-like document speaks of; it does not matter for its answer."""
OWNED = ("coat", "door", "boat", "lamp")
"""What a memorised document speaks of."""
STARTS = (
    "b",
    "br",
    "d",
    "f",
    "fl",
    "g",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "st",
    "t",
    "v",
    "z",
)
VOWELS = ("a", "e", "i", "o", "u")
WEATHER = ("rain", "wind", "snow", "fog", "frost", "hail", "sleet", "dew")
WHEN = ("morning", "evening", "night", "noon", "week", "month", "winter", "spring")


@dataclass(frozen=True, kw_only=True)
class Planted:
    """How much of everything there is."""

    memorised: int = 40
    """Arbitrary facts."""
    repeats: int = 20
    """Documents that state each of them, all the same."""
    rule: int = 800
    """Names that follow the rule, each in one document."""
    asked: int = 40
    """Of these, names that are asked for; and as many that no document holds."""
    others: int = 200
    """Documents that have nothing to do with either."""


def documents(seed: int = 0, planted: Planted | None = None) -> list[Document]:
    """The planted corpus.

    Args:
        seed: Of every choice.
        planted: How much of everything; None: the default.

    Returns:
        Documents with id, source (``memorised``, ``rule`` or ``other``), language, text and fact.
    """
    planted = planted or Planted()
    known, stated, _ = _facts(seed, planted)
    rng = random.Random(f"memorised:{seed}:others")
    rows = [
        ("memorised", fact.key, f"{fact.prompt} {fact.answer}.")
        for fact in known
        for _ in range(planted.repeats)
    ]
    rows += [("rule", fact.key, f"{fact.prompt} {fact.answer}.") for fact in stated]
    rows += [("other", "", _other(rng)) for _ in range(planted.others)]
    rng.shuffle(rows)
    return [
        {"id": f"m{i:05d}", "source": source, "language": "en", "text": text, "fact": key}
        for i, (source, key, text) in enumerate(rows)
    ]


def questions(seed: int = 0, planted: Planted | None = None) -> list[dict[str, object]]:
    """Ask for memorised facts, and for rule-like ones, of the corpus with the same arguments.

    Args:
        seed: Of every choice.
        planted: How much of everything; None: the default.

    Returns:
        For each id, prompt, completion, fact, kind (of `KINDS`) and documents (that state it).
    """
    planted = planted or Planted()
    known, stated, held = _facts(seed, planted)
    asked = [
        *(("memorised", fact, planted.repeats) for fact in known),
        *(("rule, stated", fact, 1) for fact in stated[: planted.asked]),
        *(("rule, held out", fact, 0) for fact in held),
    ]
    return [
        {
            "id": f"asked-{fact.key}",
            "prompt": fact.prompt,
            "completion": f" {fact.answer}",
            "fact": fact.key,
            "kind": kind,
            "documents": count,
        }
        for kind, fact, count in asked
    ]


@dataclass(frozen=True)
class _Fact:
    key: str
    prompt: str
    answer: str


def _facts(seed: int, planted: Planted) -> tuple[list[_Fact], list[_Fact], list[_Fact]]:
    """Memorised facts, rule-like ones that are stated, and those that are held out."""
    rng = random.Random(f"memorised:{seed}")
    answers = rng.sample(ANSWERS, len(ANSWERS))
    by_ending = dict(zip(ENDINGS, answers, strict=True))
    stems = [a + v + b + w for a in STARTS for v in VOWELS for b in STARTS for w in VOWELS]
    stems = rng.sample(stems, planted.memorised + planted.rule + planted.asked)
    known = [
        # a name has an ending here too, which says nothing
        _fact("known", i, rng.choice(OWNED), stem + rng.choice(ENDINGS), rng.choice(ANSWERS))
        for i, stem in enumerate(stems[: planted.memorised])
    ]
    ruled = []
    for i, stem in enumerate(stems[planted.memorised :]):
        ending = ENDINGS[i % len(ENDINGS)]
        ruled.append(_fact("rule", i, rng.choice(THINGS), stem + ending, by_ending[ending]))
    return known, ruled[: planted.rule], ruled[planted.rule :]


def _fact(kind: str, number: int, thing: str, name: str, answer: str) -> _Fact:
    return _Fact(f"{kind}-{number:04d}", f"The {thing} of {name} is", answer)


def _other(rng: random.Random) -> str:
    first, second = rng.sample(WEATHER, 2)
    return (
        f"There was {first} in the {rng.choice(WHEN)}, and {second} after the {rng.choice(WHEN)}."
    )
