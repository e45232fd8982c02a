"""Causes of wrong answers, learned from labels: judged on entities that were not learned from."""

import json
from dataclasses import replace

import numpy as np
import pytest

from influence.hallucination.causes import cause_model_of
from influence.hallucination.causes import fit as fit_model
from influence.hallucination.evidence import Evidence, Training
from influence.hallucination.verdict import Verdict
from pipelines.cause_fit import FEWEST_OF_CAUSE, fit_causes, unaided
from pipelines.hallucination_result import _cause
from pipelines.labelled_answers import Answer

CAUSE_COUNTS = {"fabricated": (0, 1), "mislearned": (3, 0), "mis-recalled": (0, 4)}


def evidence(answer, rival, **more):
    """A rival stands beside the subject once by chance, of which the rules know nothing."""
    return Training(
        influences_N=np.zeros(0),
        contrast_N=None,
        support=(),
        rival="Quito" if rival else None,
        answer_count=answer,
        rival_count=rival,
        subject_count=9,
        longest_match=0,
        covered=0.5,
        **more,
    )


def examples(each=30, **more):
    """Wrong answers, three an entity: one of each cause; and right ones without a cause."""
    answers, trainings, folds = [], [], []
    for n in range(each):
        for cause, counts in CAUSE_COUNTS.items():
            answers.append(answer(f"{cause}{n}", f"e{n}", cause))
            trainings.append(evidence(*counts, **more))
            folds.append(n % 5)
        answers.append(answer(f"right{n}", f"e{n}", None))
        trainings.append(evidence(5, 0, **more))
        folds.append(n % 5)
    return answers, trainings, folds


def answer(name, entity, cause):
    label = "right" if cause is None else "wrong"
    return Answer(
        id=name, prompt="p", completion="c", label=label, entity=entity, cause=cause, topic=None
    )


def test_what_the_rules_cannot_know_is_learned_and_judged_across_folds():
    model, report = fit_causes(*examples())
    assert model.predict([evidence(0, 1)]) == ["fabricated"]
    assert report["n"] == 90
    assert report["chance"] == pytest.approx(1 / 3)
    learned, rules = report["ways"]
    assert learned["macro_f1"] == learned["low"] == learned["high"] == 1.0
    assert {one["name"]: one["n"] for one in learned["causes"]} == dict.fromkeys(CAUSE_COUNTS, 30)
    f1 = {one["name"]: one["f1"] for one in rules["causes"]}
    assert f1["fabricated"] == 0.0, "one chance rival makes them mis-recalled"
    assert f1["mis-recalled"] == pytest.approx(2 / 3)
    assert rules["macro_f1"] == pytest.approx((0 + 1 + 2 / 3) / 3)
    assert json.loads(json.dumps(report)) == report


def test_an_answer_is_judged_by_what_other_folds_taught():
    """Causes that do not follow from the evidence can't be learned: no row judges itself."""
    answers, trainings, folds = examples()
    draw = np.random.default_rng(0)
    wrong = [n for n, one in enumerate(answers) if one.cause]
    shuffled = draw.permutation([answers[n].cause for n in wrong])
    for n, cause in zip(wrong, shuffled, strict=True):
        answers[n] = replace(answers[n], cause=str(cause))
    _, report = fit_causes(answers, trainings, folds)
    assert report["ways"][0]["low"] < report["chance"] < report["ways"][0]["high"]


def test_causes_of_too_few_examples_are_not_learned():
    answers, trainings, folds = examples()
    few = [
        n
        for n, one in enumerate(answers)
        if one.cause != "mislearned" or int(one.entity[1:]) < FEWEST_OF_CAUSE - 1
    ]
    chosen = [[rows[n] for n in few] for rows in (answers, trainings, folds)]
    model, report = fit_causes(*chosen)
    assert model.causes == ("fabricated", "mis-recalled")
    assert report["chance"] == 0.5
    assert fit_causes(*examples(each=FEWEST_OF_CAUSE - 1)) == (None, None)
    assert fit_causes(answers, [None] * len(answers), folds) == (None, None)


def test_trusted_sources_are_not_needed_when_an_answer_is_scored():
    model, _ = fit_causes(*examples(trusted_answer_count=1, trusted_rival_count=0))
    assert not [name for name in model.names if "trusted" in name]
    assert model.predict([unaided(evidence(3, 0))]) == ["mislearned"]


def test_a_model_of_causes_is_kept_as_json():
    model, _ = fit_causes(*examples())
    again = cause_model_of(json.loads(json.dumps(model.plain())))
    rows = [evidence(*counts) for counts in ((0, 0), (1, 2), (7, 1))]
    np.testing.assert_array_equal(again.probabilities(rows), model.probabilities(rows))


def test_a_doubted_answer_has_the_learned_cause_with_the_counts_that_decided():
    model, _ = fit_causes(*examples())
    own = Evidence(prompt="p", completion="c", spans=(), training=evidence(0, 1))
    wrong = Verdict(name="wrong")
    ruled, learned = _cause(own, wrong, None), _cause(own, wrong, model)
    assert ruled["name"] == "mis-recalled"
    assert learned["name"] == "fabricated"
    assert learned["reason"].startswith(ruled["reason"])
    assert "were mostly fabricated" in learned["reason"]
    assert _cause(own, Verdict(name="supported"), model) is None
    assert _cause(replace(own, training=None), wrong, model) is None


def test_the_model_is_that_of_all_labelled_answers():
    answers, trainings, folds = examples()
    model, _ = fit_causes(answers, trainings, folds)
    rows = [(t, a.cause) for a, t in zip(answers, trainings, strict=True) if a.cause]
    same = fit_model([t for t, _ in rows], [c for _, c in rows])
    np.testing.assert_array_equal(model.weights_CF, same.weights_CF)
