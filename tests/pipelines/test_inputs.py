"""Input attribution as a stage: the same numbers however it is run, nothing computed twice."""

import io
import json
import shutil
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from influence.inputs.choice import METHODS
from influence.inputs.explain import How, Question, explain
from influence.inputs.methods import MaskMethod
from pipelines import input_steps as steps
from pipelines import inputs as stage
from pipelines.cluster import Workers
from pipelines.input_files import read_parts
from pipelines.input_models import find_model
from pipelines.input_questions import ask
from pipelines.inputs import InputsOptions, run_inputs
from pipelines.worker import language_model
from tests.pipelines import killed_inputs

PROMPT, COMPLETION = "The road 3 from Oslo to Lima is 10 miles long. The road 4 from", " Lima to"
ALL = tuple(METHODS)


def asked(**values):
    given = {"prompt": PROMPT, "completion": COMPLETION, **values}
    return ask(given, Question(prompt="", completion="", unit="word"), "test")


def quiet(count=0):
    return Workers(count, None, Console(file=io.StringIO()))


def run(model, root, *questions, workers=0, **options):
    """Results of questions, computed in this process unless workers are asked for."""
    with quiet(workers) as pool:
        return list(
            run_inputs(
                model.spec, list(questions) or [asked()], InputsOptions(**options), root, pool
            )
        )


@pytest.fixture
def model(toy_folder, tmp_path):
    return find_model(str(toy_folder), tmp_path, device="cpu")


@pytest.fixture
def counted(monkeypatch):
    """How many masks went through the model, and how many methods ran."""
    counts = {"masks": 0, "methods": 0}
    evaluate, attribute = steps.evaluate_masks, steps.attribute

    def counting_masks(*args, **kwargs):
        table = evaluate(*args, **kwargs)
        counts["masks"] += len(table.kept_MU)
        return table

    def counting_methods(*args):
        counts["methods"] += 1
        return attribute(*args)

    monkeypatch.setattr(steps, "evaluate_masks", counting_masks)
    monkeypatch.setattr(steps, "attribute", counting_methods)
    return counts


def scores(result, method=None):
    chosen = [e for e in result["explanations"] if method in (None, e["method"])]
    return np.array([[u["score"] for u in e["units"]] for e in chosen])


def test_the_stage_says_what_the_api_says(model, tmp_path):
    [result] = run(model, tmp_path, methods=ALL, how=How(rows=60, heldout=8))
    question = asked().question
    for name in ALL:
        alone = explain(language_model(model.spec), question, name, How(rows=60, heldout=8))
        np.testing.assert_allclose(
            scores(result, name)[0], alone.solution.scores_U, rtol=1e-5, atol=1e-7
        )
        [one] = [e for e in result["explanations"] if e["method"] == name]
        assert one["unit"] == alone.unit
        assert (one["forward_rows"], one["backward_rows"]) == (
            alone.forward_rows,
            alone.backward_rows,
        )


def test_parts_of_a_table_change_nothing(model, tmp_path, monkeypatch):
    [whole] = run(model, tmp_path / "a", methods="shapley", how=How(rows=64))
    monkeypatch.setattr(stage, "PART_ROWS", 7)
    [parts] = run(model, tmp_path / "b", methods="shapley", how=How(rows=64))
    assert len(list((tmp_path / "b").rglob("masks-*.arrow"))) > 4
    np.testing.assert_allclose(scores(whole), scores(parts), rtol=1e-5, atol=1e-6)


def test_workers_change_nothing(model, tmp_path):
    questions = [asked(id=str(i), completion=f" Lima {i}") for i in range(3)]
    options = {"methods": "occlusion,saliency", "how": How(heldout=8)}
    here = run(model, tmp_path / "a", *questions, **options)
    there = run(model, tmp_path / "b", *questions, workers=2, **options)
    assert [r["id"] for r in there] == ["0", "1", "2"]
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(scores(one), scores(other))


def test_nothing_is_computed_twice(model, tmp_path, counted):
    run(model, tmp_path, methods="shapley,saliency")
    first = dict(counted)
    assert first["masks"] > 100
    run(model, tmp_path, methods="shapley,saliency")
    assert counted == first


def test_another_method_reads_the_same_table(model, tmp_path, counted):
    run(model, tmp_path, methods="occlusion")
    first = counted["masks"]
    run(model, tmp_path, methods="leave-one-out")
    assert counted["masks"] == first


def test_a_span_is_explained_afterwards_without_a_pass(model, tmp_path, counted):
    [whole] = run(model, tmp_path, methods="occlusion")
    first = counted["masks"]
    spans = [" Lima", " to"]
    parts = [run(model, tmp_path, asked(span=span), methods="occlusion")[0] for span in spans]
    assert counted["masks"] == first
    np.testing.assert_allclose(sum(scores(p) for p in parts), scores(whole), rtol=1e-9)
    begin, end = parts[0]["target"]["span"]
    assert parts[0]["text"][begin:end] == " Lima"


def test_the_output_before_a_span_can_count_as_prompt(model, tmp_path):
    default = Question(prompt="", completion="", unit="word", before=True)
    before = ask({"prompt": PROMPT, "completion": COMPLETION, "span": " to"}, default, "test")
    [result] = run(model, tmp_path, before, methods="occlusion")
    assert result["completion"] == " to"
    assert result["explanations"][0]["units"][-1]["text"] == " Lima"


def test_a_damaged_part_is_made_again(model, tmp_path):
    [before] = run(model, tmp_path, methods="occlusion")
    [part] = tmp_path.rglob("masks-*.arrow")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 0xFF
    part.write_bytes(content)
    shutil.rmtree(before["folder"])
    [after] = run(model, tmp_path, methods="occlusion")
    assert np.array_equal(scores(before), scores(after))
    assert read_parts(part.parent) is not None


def test_it_goes_on_after_a_kill(toy_folder, tmp_path):
    """Killed before and after each file gets its name: the scores of an undisturbed run."""
    attempts = killed_inputs.run_until_done(toy_folder, tmp_path / "killed")
    assert [a["killed"] for a in attempts[:-1]] == [True] * (len(attempts) - 1)
    assert len(attempts) > 6
    model = find_model(str(toy_folder), tmp_path, device="cpu")
    expected = run(model, tmp_path / "whole", *killed_inputs.QUESTIONS, **killed_inputs.OPTIONS)
    again = run(model, tmp_path / "killed", *killed_inputs.QUESTIONS, **killed_inputs.OPTIONS)
    for one, other in zip(expected, again, strict=True):
        assert np.array_equal(scores(one), scores(other))
    made = [a["found"] for a in attempts]
    for earlier, later in pairwise(made):
        assert set(earlier) <= set(later)  # what is there stays


def test_all_methods_judge_themselves_on_masks_outside_their_design(model, tmp_path):
    [result] = run(model, tmp_path, methods=ALL, how=How(rows=64, heldout=24, curves=True))
    for one in result["explanations"]:
        assert -1 <= one["measures"]["lds"] <= 1
        kinds = {"deletion", "deletion_random", "insertion", "insertion_random"}
        assert set(one["curves"]) == {*kinds, "exact"}
        assert one["curves"]["exact"]
        shares = [point[0] for point in one["curves"]["deletion"]]
        assert shares[0] == 0
        assert shares[-1] == 1
        assert one["curves"]["deletion"][0][1] == pytest.approx(result["value"])
        assert one["curves"]["deletion"][-1][1] == pytest.approx(result["value_without"])
        is_mask = isinstance(METHODS[one["method"]], MaskMethod)
        assert one["operator"] == ("delete" if is_mask else None)


def test_units_are_a_table(model, tmp_path):
    [result] = run(model, tmp_path, methods="shapley,saliency")
    table = pq.read_table(f"{result['folder']}/units.parquet").to_pandas()
    assert set(table["method"]) == {"shapley", "saliency"}
    own = table[table["method"] == "shapley"].sort_values("start")
    assert "".join(own["text"]) == PROMPT
    assert own["score"].sum() == pytest.approx(result["value"] - result["value_without"])
    assert sorted(own["rank"]) == list(range(1, len(own) + 1))


def test_heads_are_shown_and_compared(model, tmp_path, toy_folder):
    from tests.toys import save_toy, toy_llama, toy_tokenizer

    tokenizer = toy_tokenizer(bos=True)
    other = toy_llama(vocab=len(tokenizer), d=16, layers=1, dtype=torch.float32, seed=1)
    second = find_model(str(save_toy(tmp_path / "other", other, tokenizer)), tmp_path, device="cpu")
    [result] = run(model, tmp_path, methods="attention", attention=True, compare=second.spec)
    found = result["attention"]
    assert (found["layers"], found["heads"]) == (1, 2)
    heads = found["compared"]["heads"]
    assert [h["change"] for h in heads] == sorted((h["change"] for h in heads), reverse=True)
    assert 0 < heads[0]["change"] <= 1
    assert "layer 0, head" in (tmp_path / "inputs").rglob("report.html").__next__().read_text()


def test_demonstrations_get_shares_and_their_labels_a_flow(model, tmp_path):
    prompt = "Q: Oslo\nA: no\nQ: Lima\nA: pe\nQ: Rome\nA:"
    shots = asked(prompt=prompt, completion=" it")
    [result] = run(model, tmp_path, shots, methods="shapley", attention=True)
    shares = result["in_context"]
    assert [e["label"] for e in shares] == ["example 1", "example 2", None]
    assert sum(e["score"] for e in shares) == pytest.approx(
        result["value"] - result["value_without"], rel=1e-6
    )
    labels = result["attention"]["labels"]
    assert labels["words"] == ["no", "pe"]
    assert len(labels["to_answer"]) == 1
    page = (tmp_path / "inputs").rglob("report.html").__next__().read_text("utf-8")
    assert "Label words as anchors" in page


def test_a_meaning_is_worth_at_least_its_likeliest_form(model, tmp_path):
    forms = [" Lima to", " Oslo to", " Rome"]
    single = [run(model, tmp_path, asked(completion=f))[0]["value"] for f in forms]
    [joint] = run(model, tmp_path, asked(paraphrases=forms[1:]))
    assert joint["value"] == pytest.approx(np.logaddexp.reduce(single))
    assert joint["target"]["kind"] == "meaning"


def test_answers_are_sampled_where_the_meaning_is_asked_for(model, tmp_path):
    [given] = run(model, tmp_path, target="meaning", samples=6)
    assert given["target"]["meanings"][0][0] == COMPLETION
    assert given["target"]["shares"] is None
    [free] = run(model, tmp_path, asked(completion=""), target="meaning", samples=6)
    assert sum(free["target"]["shares"]) == pytest.approx(1)
    assert free["completion"] == free["target"]["meanings"][0][0]


def test_many_texts_get_an_index(model, tmp_path):
    questions = [asked(id="a<b>"), asked(id="b", completion=" Rome")]
    results = run(model, tmp_path, *questions)
    index = (tmp_path / "inputs" / "index.html").read_text("utf-8")
    for result in results:
        assert f"./{result['folder'].rsplit('/', 1)[-1]}/report.html" in index


def test_a_result_is_plain_json(model, tmp_path):
    [result] = run(model, tmp_path, methods=ALL)
    again = json.loads(json.dumps(result, allow_nan=False))
    assert again["provenance"]["prompt_tokens"] == sum(
        1 for t in again["tokens"] if "log_probability" not in t
    )
    total = sum(t["log_probability"] for t in again["tokens"] if "log_probability" in t)
    assert total == pytest.approx(again["value"])
