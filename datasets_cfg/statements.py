"""Documents that state facts: how often, in which words, and which of them are wrong on purpose."""

import random
from dataclasses import dataclass
from typing import Any

from datasets_cfg.facts import Fact, facts
from datasets_cfg.phrasings import CLOSINGS, NAMES, OPENINGS, SLOTS, STATEMENTS, TRANSLATED

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How much of each kind of document the embedded corpus holds."""

    capitals: int = 119
    """Capitals in English: facts, not documents."""
    currencies: int = 50
    """Currencies in English: facts."""
    continents: int = 50
    """Continents in English: facts."""
    symbols: int = 50
    """Symbols of the lightest elements: facts."""
    numbers: int = 40
    """Atomic numbers of the lightest elements: facts."""
    translated: int = 25
    """Facts in each of de, fr, es (capitals) and zh (continents, and currencies), at most."""
    rare: float = 0.1
    """Share of a relation's English facts that one document states; as many are stated by two."""
    corrupted: int = 25
    """Capitals that one of their documents states wrongly."""
    mislearned: int = 8
    """Capitals that every document states wrongly, in the same way."""
    reference: int = 250
    """Paragraphs of Python's language reference."""
    docstrings: int = 250
    """Docstrings of the standard library."""
    code: int = 150
    """Short functions of the standard library."""
    licences: int = 80
    """Paragraphs of licences."""
    near_duplicates: int = 60
    """Light edits of other documents; half of them of documents that state a fact."""
    min_words: int = 12
    """Fewest words of a document that is not about a fact."""
    prose_words: int = 40
    """Most words of a document that is not about a fact, near duplicates aside."""
    max_words: int = 60
    """Most words of any document."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the corpus says about one fact."""

    fact: Fact
    statements: int
    """Documents that state it, near duplicates not counted."""
    wrong_object: str | None = None
    """A wrong object that some documents state; None: all are right."""
    wrong: frozenset[int] = frozenset()
    """Which statements are wrong, counted from 0."""

    @property
    def mislearned(self) -> bool:
        """Whether every statement is wrong."""
        return len(self.wrong) == self.statements


_ALWAYS = {"capital": 6, "currency": 4, "continent": 4, "symbol": 4, "number": 4}


def plans(seed: int, mixture: Mixture) -> list[Plan]:
    """Decide which facts are stated, how often, and which wrongly.

    Args:
        seed: Seed of every choice.
        mixture: How much of each.

    Returns:
        One plan for each fact and language, in a fixed order.
    """
    counts = {
        "capital": mixture.capitals,
        "currency": mixture.currencies,
        "continent": mixture.continents,
        "symbol": mixture.symbols,
        "number": mixture.numbers,
    }
    found: list[Plan] = []
    for relation, count in counts.items():
        found += _frequencies(facts(relation)[:count], mixture, seed)
    for language in TRANSLATED:
        for relation in counts:
            chosen = facts(relation, language)[: mixture.translated]
            found += [Plan(fact=fact, statements=2) for fact in chosen]
    return _corrupt(found, mixture, random.Random(f"{seed}:corrupt"))


def _frequencies(chosen: list[Fact], mixture: Mixture, seed: int) -> list[Plan]:
    """A number of statements for each English fact of one relation."""
    if not chosen:
        return []
    relation = chosen[0].relation
    rng = random.Random(f"{seed}:frequency:{relation}")
    order = rng.sample(range(len(chosen)), len(chosen))
    rare = round(mixture.rare * len(chosen))
    most = len(STATEMENTS[relation, "en"])
    counts = {}
    for place, index in enumerate(order):
        often = min(_ALWAYS[relation] + max(0, place % 6 - 3), most)
        counts[index] = 1 if place < rare else 2 if place < 2 * rare else often
    return [Plan(fact=fact, statements=counts[i]) for i, fact in enumerate(chosen)]


def _corrupt(found: list[Plan], mixture: Mixture, rng: random.Random) -> list[Plan]:
    """The same plans, some capitals of which are now stated wrongly."""
    translated = {plan.fact.key for plan in found if plan.fact.language != "en"}
    often = [
        i
        for i, plan in enumerate(found)
        if plan.fact.relation == "capital"
        and plan.statements >= _ALWAYS["capital"]
        and plan.fact.key not in translated
        and plan.fact.object not in plan.fact.subject
    ]
    total = min(mixture.corrupted + mixture.mislearned, len(often))
    chosen = rng.sample(often, total)
    mislearned = set(chosen[: mixture.mislearned])
    done = list(found)
    for index in chosen:
        plan = found[index]
        everything = frozenset(range(plan.statements))
        wrong = everything if index in mislearned else frozenset({rng.randrange(plan.statements)})
        done[index] = Plan(
            fact=plan.fact,
            statements=plan.statements,
            wrong_object=rng.choice(alternatives(plan.fact, found)),
            wrong=wrong,
        )
    return done


def alternatives(fact: Fact, found: list[Plan]) -> list[str]:
    """Plausible wrong objects of a fact.

    Args:
        fact: The fact.
        found: Plans that hold other facts.

    Returns:
        Objects of the same relation, language and group, sorted, none part of the true one or
        of the subject, nor the other way round; never none while a relation has two objects.
    """
    peers = [p.fact for p in found if (p.fact.relation, p.fact.language) == _kind(fact)]
    near = {peer.object for peer in peers if peer.group == fact.group}
    for pool in (near, {peer.object for peer in peers}):
        fitting = sorted(o for o in pool if not _overlap(o, fact))
        if fitting:
            return fitting
    return []


def _kind(fact: Fact) -> tuple[str, str]:
    """What must agree for two facts' objects to be exchangeable."""
    return fact.relation, fact.language


def _overlap(other: str, fact: Fact) -> bool:
    """Whether a wrong object could be taken for the true one, or for the subject."""
    same = other == fact.object or other in fact.subject
    return same or (fact.relation == "capital" and (other in fact.object or fact.object in other))


def state(plan: Plan, seed: int) -> list[Document]:
    """Write the documents that state one fact.

    Args:
        plan: The fact and how it is stated.
        seed: Seed of the sentences around it.

    Returns:
        One document for each statement, each in another phrasing.
    """
    fact = plan.fact
    templates = STATEMENTS[fact.relation, fact.language]
    documents = []
    for number in range(plan.statements):
        wrong = number in plan.wrong
        stated = plan.wrong_object if wrong and plan.wrong_object else fact.object
        phrase = fact.phrase
        sentence = templates[number].format(s=phrase, S=phrase[0].upper() + phrase[1:], o=stated)
        rng = random.Random(f"{seed}:{fact.relation}:{fact.slug}:{number}")
        sentence = sentence[0].upper() + sentence[1:]
        documents.append(
            {
                "id": f"fact-{fact.relation}-{fact.slug}-{number + 1}",
                "source": "facts",
                "language": fact.language,
                "text": _around(sentence, fact.language, number, rng),
                "fact": fact.key,
                "subject": fact.subject,
                "relation": fact.relation,
                "object": stated,
                "corrupted": wrong,
                "true_object": fact.object if wrong else None,
                "duplicate_of": None,
                "phrasing": number,
            }
        )
    return documents


def _around(sentence: str, language: str, number: int, rng: random.Random) -> str:
    """A statement within a sentence or two of context; even ones begin the document."""
    name, other = rng.sample(NAMES[language], 2)
    slots = {slot: rng.choice(values) for slot, values in SLOTS.items()}
    opening = rng.choice(OPENINGS[language]).format(name=name, other=other, **slots)
    closing = rng.choice(CLOSINGS[language]).format(name=name, other=other, **slots)
    between = "" if language == "zh" else " "
    if number % 2 == 0:
        return between.join([sentence, closing])
    parts = [opening, sentence, closing] if rng.random() < 0.5 else [opening, sentence]
    return between.join(parts)
