"""The planted set: what questions say of the corpus is what its texts say."""

from collections import Counter

from datasets_cfg.memorised import ANSWERS, ENDINGS, KINDS, Planted, documents, questions

SMALL = Planted(memorised=5, repeats=3, rule=32, asked=8, others=4)


def test_questions_count_the_documents_that_state_them():
    texts = Counter(row["text"] for row in documents(1, SMALL))
    asked = questions(1, SMALL)
    for question in asked:
        stated = f"{question['prompt']}{question['completion']}."
        assert texts[stated] == question["documents"]
    assert Counter(q["kind"] for q in asked) == dict(zip(KINDS, (5, 8, 8), strict=True))


def test_a_rule_like_answer_follows_from_the_ending_and_a_memorised_one_does_not():
    asked = questions(0)
    answers = {kind: {} for kind in ("rule", "memorised")}
    for question in asked:
        kind = question["kind"].split(",")[0]
        ending = next(e for e in ENDINGS if question["prompt"].split()[3].endswith(e))
        answers[kind].setdefault(ending, set()).add(question["completion"].strip())
    assert all(len(found) == 1 for found in answers["rule"].values())
    assert set().union(*answers["rule"].values()) == set(ANSWERS)
    assert any(len(found) > 1 for found in answers["memorised"].values())


def test_names_ids_and_texts_are_distinct_where_they_should_be_and_seeds_differ():
    rows = documents(0, SMALL)
    assert len({row["id"] for row in rows}) == len(rows) == 5 * 3 + 32 + 4
    assert len({row["text"] for row in rows if row["source"] == "rule"}) == 32
    assert documents(0, SMALL) == rows
    assert documents(1, SMALL) != rows
