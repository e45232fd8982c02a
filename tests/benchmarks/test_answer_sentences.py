"""The questions of `benchmarks/answer_sentences.py` are what they say they are."""

import json
from pathlib import Path

from influence.inputs.boundaries import sentences

QUESTIONS = Path(__file__).parents[2] / "benchmarks" / "answer_sentences.jsonl"


def test_each_context_has_five_to_eight_sentences_of_which_one_holds_the_answer():
    asked = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    assert len(asked) == 20
    places = []
    for one in asked:
        context = one["context"]
        found = sentences(context)
        assert 5 <= len(found) <= 8
        (place,) = (n for n, text in enumerate(found) if one["answer"].lower() in text.lower())
        assert found[place].strip() == one["answer_sentence"]
        assert one["question"].endswith("?")
        places.append(place / (len(found) - 1))
    assert min(places) == 0
    assert max(places) == 1
    assert 0.4 < sum(places) / len(places) < 0.6
