"""Abilities of the embedded corpus: what is held out is not in it, and supports name it."""

import json
from collections import Counter

import pytest

from datasets_cfg.abilities import FACTS, QUERIES, TEXTS, abilities, write_abilities
from datasets_cfg.embedded import Mixture, documents, held_out


@pytest.fixture(scope="module")
def corpus():
    return documents()


@pytest.fixture(scope="module")
def asked():
    return abilities()


def test_there_are_nine_tasks_of_about_as_many_queries(asked):
    counts = Counter(query["task"] for query in asked)
    assert set(counts) == {*FACTS, *TEXTS}
    assert all(QUERIES <= count <= QUERIES + 1 for count in counts.values())
    assert len({query["id"] for query in asked}) == len(asked)


def test_held_out_texts_are_not_in_the_corpus_but_like_it(corpus, asked):
    inside = {document["text"] for document in corpus}
    texts = [query["text"] for query in asked if "text" in query]
    assert len(texts) == len(TEXTS) * QUERIES
    assert not inside & set(texts)
    mixture = Mixture()
    assert all(mixture.min_words <= len(t.split()) <= mixture.prose_words for t in texts)


def test_supports_are_the_documents_that_state_the_fact_in_any_language(corpus, asked):
    by_id = {document["id"]: document for document in corpus}
    languages = Counter()
    for query in asked:
        if query["task"] not in FACTS:
            assert query["supports"] == []
            continue
        facts = {by_id[name]["fact"] for name in query["supports"]}
        assert len(facts) == 1, query["id"]
        here = [by_id[n] for n in query["supports"] if by_id[n]["language"] == query["language"]]
        assert here
        assert all(d["object"] == query["completion"].strip() for d in here)
        stated = {d["id"] for d in corpus if d["fact"] in facts and not d["corrupted"]}
        assert stated == set(query["supports"])
        languages[query["language"]] += len({by_id[n]["language"] for n in query["supports"]}) > 1
    assert set(languages) == {"en", "de", "fr", "es", "zh"}
    assert all(languages.values()), "each language has facts that another one states too"


def test_facts_that_the_corpus_gets_wrong_are_not_asked(corpus, asked):
    right = {d["fact"] for d in corpus if d["fact"] and not d["corrupted"]}
    by_id = {document["id"]: document for document in corpus}
    assert all(by_id[q["supports"][0]]["fact"] in right for q in asked if q["supports"])


def test_abilities_depend_on_the_seed_alone(asked):
    assert abilities() == asked
    other = abilities(1)
    assert {q["id"] for q in other} != {q["id"] for q in asked}


def test_held_out_texts_are_those_that_are_left():
    mixture = Mixture(licences=170)
    left = held_out("licences", 1000, 0, mixture)
    assert len(left) == len(held_out("licences", 1000, 0, Mixture(licences=0))) - 170
    own = {d["id"] for d in documents(0, mixture) if d["source"] == "licences"}
    assert not own & {name for name, _ in left}


def test_the_file_holds_a_query_a_line(asked, tmp_path):
    path = write_abilities(tmp_path / "abilities.jsonl")
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == asked
