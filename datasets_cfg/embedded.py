"""The default corpus, made at run time from what installed packages hold, and its questions.

Nothing is downloaded. The same seed, mixture and packages give the same bytes.
"""

import random
from collections.abc import Callable

from datasets_cfg import prose
from datasets_cfg.phrasings import STATEMENTS
from datasets_cfg.statements import Document, Mixture, Plan, alternatives, plans, state

__all__ = ["Mixture", "documents", "held_out", "questions"]

_PROSE: dict[str, Callable[[range], prose.Texts]] = {
    "reference": prose.reference,
    "docstrings": prose.docstrings,
    "code": prose.code,
    "licences": prose.licences,
}


def documents(seed: int = 0, mixture: Mixture | None = None) -> list[Document]:
    """Make the corpus.

    Args:
        seed: Seed of every choice.
        mixture: How much of each kind; None: the default `Mixture()`.

    Returns:
        Documents with the keys id, source, language, text, and, for those that state a fact:
        fact (`capital:FR`), subject, relation, object (as stated), corrupted, true_object (if
        corrupted), phrasing (its number); duplicate_of is the id of the document of which this
        is a light edit. What does not apply is None.

    Raises:
        DatasetError: If a package of the extra is missing, or a source holds too little.
    """
    mixture = mixture or Mixture()
    stated = _stated(plans(seed, mixture), seed, mixture)
    written = [d for source in _PROSE for d in _prose(source, seed, mixture)]
    copies = mixture.near_duplicates - mixture.near_duplicates // 2
    return [*stated, *written, *_near_copies(written, copies, f"{seed}:copies:prose", mixture)]


def questions(seed: int = 0, mixture: Mixture | None = None) -> list[dict[str, object]]:
    """Ask for every fact of the corpus that `documents` makes with the same arguments.

    Args:
        seed: Seed of every choice.
        mixture: How much of each kind; None: the default `Mixture()`.

    Returns:
        One question a fact and language: id, prompt, completion (what most documents say, with
        the space that precedes it; none in Chinese), contrast (a plausible wrong completion), fact,
        relation, language, subject, answer_in_corpus (the completion as a name), true_object,
        statements (documents of that language on the fact), corrupted_statements, supports and
        contradicts (their ids: those that state the completion, those that state another object),
        elsewhere (ids of documents on the same fact in other languages), mislearned.

    Raises:
        DatasetError: If a package of the extra is missing.
    """
    mixture = mixture or Mixture()
    planned = plans(seed, mixture)
    by_fact: dict[str, list[Document]] = {}
    for document in _stated(planned, seed, mixture):
        by_fact.setdefault(document["fact"], []).append(document)
    return [_question(plan, by_fact[plan.fact.key], planned, seed) for plan in planned]


def _question(
    plan: Plan, stated: list[Document], planned: list[Plan], seed: int
) -> dict[str, object]:
    """The question of one fact, with the documents that bear on it."""
    fact = plan.fact
    answer = plan.wrong_object if plan.mislearned and plan.wrong_object else fact.object
    before = STATEMENTS[fact.relation, fact.language][0].split("{o}")[0]
    prompt = before.format(s=fact.phrase, S=fact.phrase[0].upper() + fact.phrase[1:]).rstrip()
    space = "" if fact.language == "zh" else " "
    here = [d for d in stated if d["language"] == fact.language]
    return {
        "id": f"question-{fact.relation}-{fact.slug}",
        "prompt": prompt,
        "completion": space + answer,
        "contrast": space + _contrast(plan, planned, seed),
        "fact": fact.key,
        "relation": fact.relation,
        "language": fact.language,
        "subject": fact.subject,
        "answer_in_corpus": answer,
        "true_object": fact.object,
        "statements": len(here),
        "corrupted_statements": sum(d["corrupted"] for d in here),
        "supports": [d["id"] for d in here if d["object"] == answer],
        "contradicts": [d["id"] for d in here if d["object"] != answer],
        "elsewhere": [d["id"] for d in stated if d["language"] != fact.language],
        "mislearned": plan.mislearned,
    }


def _contrast(plan: Plan, planned: list[Plan], seed: int) -> str:
    """The truth if the corpus is wrong, the planted error if it is partly so, else a neighbour."""
    if plan.mislearned:
        return plan.fact.object
    if plan.wrong_object is not None:
        return plan.wrong_object
    rng = random.Random(f"{seed}:contrast:{plan.fact.relation}:{plan.fact.slug}")
    return rng.choice(alternatives(plan.fact, planned))


def _stated(planned: list[Plan], seed: int, mixture: Mixture) -> list[Document]:
    """All documents that state facts, near copies included."""
    stated = [document for plan in planned for document in state(plan, seed)]
    # a copy counts as a statement, so only facts that are stated often anyway are copied
    often = {plan.fact.key for plan in planned if plan.statements >= 4 and not plan.wrong}
    copied = [d for d in stated if d["fact"] in often and d["language"] == "en"]
    count = mixture.near_duplicates // 2
    return [*stated, *_near_copies(copied, count, f"{seed}:copies:facts", mixture)]


def held_out(source: str, count: int, seed: int = 0, mixture: Mixture | None = None) -> prose.Texts:
    """Texts of a source that `documents` with the same arguments does not take.

    Args:
        source: reference, docstrings, code or licences.
        count: How many at most; the source may hold fewer.
        seed: Seed of every choice.
        mixture: How much of each kind; None: the default `Mixture()`.

    Returns:
        Names and texts, of the lengths of the corpus's own.
    """
    mixture = mixture or Mixture()
    texts, positions = _shuffled(source, seed, mixture)
    left = positions[getattr(mixture, source) :][:count]
    return prose.choose(texts, len(left), source, left)


def _shuffled(source: str, seed: int, mixture: Mixture) -> tuple[prose.Texts, list[int]]:
    """All texts of one source, and the order in which the corpus takes them."""
    texts = _PROSE[source](
        range(mixture.min_words, min(mixture.prose_words, mixture.max_words) + 1)
    )
    positions = list(range(len(texts)))
    random.Random(f"{seed}:{source}").shuffle(positions)
    return texts, positions


def _prose(source: str, seed: int, mixture: Mixture) -> list[Document]:
    """Documents of one source that state no facts."""
    texts, positions = _shuffled(source, seed, mixture)
    count = getattr(mixture, source)
    return [
        {
            "id": name,
            "source": source,
            "language": "en",
            "text": text,
            **dict.fromkeys(("fact", "subject", "relation", "object")),
            "corrupted": False,
            "true_object": None,
            "duplicate_of": None,
            "phrasing": None,
        }
        for name, text in prose.choose(texts, count, source, positions)
    ]


def _near_copies(
    originals: list[Document], count: int, seed: str, mixture: Mixture
) -> list[Document]:
    """Light edits of some documents, in their order."""
    rng = random.Random(seed)
    short = [d for d in originals if len(d["text"].split()) <= mixture.max_words - 3]
    chosen = sorted(rng.sample(range(len(short)), min(count, len(short))))
    return [
        {
            **short[i],
            "id": f"{short[i]['id']}-copy",
            "text": _edited(short[i]["text"], short[i]["source"], rng),
            "duplicate_of": short[i]["id"],
        }
        for i in chosen
    ]


def _edited(text: str, source: str, rng: random.Random) -> str:
    """A text with one word changed, or a few words more; facts stay as they are."""
    if source == "code":
        return f"{text}  # {rng.choice(('end', 'done', 'see above'))}"
    old, new = rng.choice(((" the ", " this "), (" a ", " any "), (" is ", " remains ")))
    if source != "facts" and old in text:
        return text.replace(old, new, 1)
    if rng.random() < 0.5:
        return f"{rng.choice(('Note:', 'Again:', 'Remember:'))} {text}"
    return f"{text} {rng.choice(('So it is.', 'That is all.', 'This is known.'))}"
