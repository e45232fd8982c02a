"""In-context demonstrations are found in a prompt, with their inputs and label words."""

from dataclasses import replace

import pytest

from influence.inputs.examples import find_examples
from influence.inputs.passage import read_passages
from tests.toys import CHAT_TEMPLATE, toy_language_model, toy_tokenizer

LOADED = replace(
    toy_language_model(None, toy_tokenizer(chat_template=CHAT_TEMPLATE)), max_tokens=10_000
)


def found_in(prompt, spans=None):
    [passage] = read_passages(LOADED, prompt, [" on"])
    return [
        (
            part.name,
            part.question and passage.text[slice(*part.question)],
            part.answer and passage.text[slice(*part.answer)],
        )
        for part in find_examples(passage, spans)
    ]


@pytest.mark.parametrize(
    "prompt",
    [
        "Q: a b\nA: c\nQ: d\nA: e\nQ: f\nA:",
        "Q: a b\nA: c\n\nQ: d\nA: e\n\nQ: f",
        "Q1: a b\nA1: c\n\nQ2: d\nA2: e\n\nQ3: f\nA3:",
        "Input: a b Output: c\nInput: d Output: e\nInput: f Output:",
        "Review: a b\nThe Sentiment: c\n\nReview: d\nThe Sentiment: e\n\nReview: f\nThe Sentiment: ",
        "问题：a b\n答案：c\n\n问题：d\n答案：e\n\n问题：f\n答案：",
        "a b\nSentiment: c\n\nd\nSentiment: e\n\nf\nSentiment:",
        "a b => c\nd => e\nf =>",
        "a b -> c\nd -> e\nf ->",
    ],
)
def test_demonstrations_are_found_by_their_labels(prompt):
    expected = [("example 1", "a b", "c"), ("example 2", "d", "e"), ("query", "f", None)]
    assert found_in(prompt) == expected
    instructed = found_in(f"Do the task.\n\n{prompt}")
    assert instructed == [("instruction", None, None), *expected]


def test_one_demonstration_is_enough():
    assert [part[0] for part in found_in("Q: a\nA: b\nQ: c\nA:")] == ["example 1", "query"]


def test_text_after_the_demonstrations_is_the_query():
    prompt = "Q: a\nA: b\n\nQ: c\nA: d\n\nNow write a poem."
    assert [part[0] for part in found_in(prompt)] == ["example 1", "example 2", "query"]


def test_an_answer_that_has_begun_is_the_querys():
    assert found_in("Q: a\nA: b\n\nQ: c\nA: It is")[-1] == ("query", "c", None)


def test_a_demonstration_may_have_more_than_two_labels():
    found = found_in("Text: a\nQ: b\nA: c\n\nText: d\nQ: e\nA: f\n\nText: g\nQ: h\nA:")
    assert found[0] == ("example 1", "a\nQ: b", "c")
    assert found[-1] == ("query", "g\nQ: h", None)


@pytest.mark.parametrize(
    "prompt",
    [
        "the Paris",
        "Context: a\nQuestion: b\nAnswer:",
        "Document 1: a\nDocument 2: b",
        "a -> b\nc -> d",
        "Note: a. Note: b.",
    ],
)
def test_other_prompts_have_no_demonstrations(prompt):
    assert found_in(prompt) == []


def test_pairs_of_turns_are_demonstrations():
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    messages = [
        {"role": role, "content": content} for role, content in zip(roles, "abcdef", strict=True)
    ]
    expected = [
        ("instruction", None, None),
        ("example 1", "b", "c"),
        ("example 2", "d", "e"),
        ("query", None, None),
    ]
    assert found_in(messages) == expected
    assert found_in([*messages, {"role": "assistant", "content": "g"}]) == expected


def test_demonstrations_within_a_turn_are_found():
    messages = [{"role": "user", "content": "Q: a\nA: b\nQ: c\nA:"}]
    assert found_in(messages) == [("example 1", "a", "b"), ("query", "c", None)]


def test_given_demonstrations_are_kept_as_they_are():
    prompt = "x Q: a\nA: b\n y\nQ: c\nA: d z"
    spans = [(15, 24), (2, 12)]
    assert found_in(prompt, spans) == [
        ("instruction", None, None),
        ("example 1", "a", "b"),
        ("text", None, None),
        ("example 2", "c", "d"),
        ("query", None, None),
    ]
    assert found_in("the Paris", [(0, 3)])[0] == ("example 1", "the", None)
