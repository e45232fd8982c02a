"""What a user can get wrong with `influence inputs`: one clear message, exit code 2."""

import json
import sys

import pytest
from transformers import BertConfig, BertForMaskedLM

from pipelines import cli
from pipelines.worker import language_model
from tests.toys import save_toy, toy_tokenizer


@pytest.fixture
def refused(monkeypatch, capsys, toy_folder, tmp_path):
    """Run `influence inputs` on a toy model; returns its one message."""

    def call(*words, model=toy_folder, prompt="The sky is", completion=" blue"):
        language_model.cache_clear()
        given = [] if prompt is None else ["--prompt", prompt]
        given += [] if completion is None else ["--completion", completion]
        runs = ["--runs", tmp_path / "runs", "--workers", 0]
        arguments = ["influence", "inputs", model, *given, *runs, *words]
        monkeypatch.setattr(sys, "argv", [str(word) for word in arguments])
        code = cli.guarded(cli.app)
        said = " ".join(capsys.readouterr().err.split())
        assert code == 2, said
        assert "Traceback" not in said
        return said.partition("Error ")[2]

    return call


def test_an_empty_prompt(refused):
    assert "empty" in refused(prompt="")


def test_no_completion(refused):
    assert "--prompt and --completion, or --texts" in refused(completion=None)


def test_an_unknown_unit_names_the_nearest(refused):
    assert "'sentense', expected one of" in refused("--unit", "sentense")
    assert "Did you mean 'sentence'?" in refused("--unit", "sentense")


def test_an_unknown_method_names_the_nearest(refused):
    said = refused("--method", "oclusion")
    assert "'oclusion' is not a method" in said
    assert "Nearest: occlusion" in said


def test_an_unknown_operator(refused):
    assert "removal operator 'remove', expected one of delete" in refused("--operator", "remove")


def test_an_unknown_target_names_the_nearest(refused):
    assert "Did you mean 'meaning'?" in refused("--target", "meanin")


def test_a_contrast_without_a_contrast(refused):
    assert "Give --contrast" in refused("--target", "contrast")


def test_a_target_longer_than_the_context(refused):
    said = refused(completion=" blue" * 100)
    assert "expected at most 64, the model's context" in said
    assert "of the prompt" in said


def test_too_few_rows(refused):
    said = refused("--rows", 2)
    assert "a budget of 2 rows, at least" in said
    assert "coarser unit" in said


def test_a_span_that_does_not_stand_there(refused):
    assert "'green' does not stand in the completion" in refused("--span", "green")
    assert "within the completion's 5 characters" in refused("--span", "2:9")


def test_a_span_that_is_not_clear(refused):
    said = refused("--span", "b", completion=" a b b")
    assert "more than once" in said
    assert "3:4" in said


def test_a_model_that_is_neither_run_nor_folder(refused, tmp_path):
    said = refused(model=tmp_path / "nothing")
    assert "Neither a finished run nor a model" in said
    assert "no such folder" in said


def test_an_encoder(refused, tmp_path):
    tokenizer = toy_tokenizer(bos=True)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    folder = save_toy(tmp_path / "bert", BertForMaskedLM(config), tokenizer)
    assert "causal" in refused(model=folder)


LINES = {
    "not json": ("{", "line 1: not JSON"),
    "a list": ("[1]", "line 1: a list, a JSON object was expected"),
    "unknown key": ('{"promt": "a", "completion": "b"}', "Did you mean 'prompt'?"),
    "no completion": ('{"prompt": "a"}', "`completion` and either `prompt` or `messages`"),
    "number": ('{"prompt": 1, "completion": "b"}', "prompt is a int, a text was expected"),
    "messages": ('{"messages": [{"role": "x"}], "completion": "b"}', "messages must be"),
    "examples": ('{"prompt": "a b", "completion": "b", "examples": [3]}', "examples [3] given"),
    "empty": ("", "empty, one JSON object a line was expected"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_of_a_file(refused, tmp_path, name):
    content, message = LINES[name]
    (tmp_path / "texts.jsonl").write_text(content + "\n")
    assert message in refused("--texts", tmp_path / "texts.jsonl", prompt=None, completion=None)


def test_two_lines_of_one_name(refused, tmp_path):
    line = json.dumps({"id": "a", "prompt": "The sky is", "completion": " blue"})
    (tmp_path / "texts.jsonl").write_text(f"{line}\n{line}\n")
    said = refused("--texts", tmp_path / "texts.jsonl", prompt=None, completion=None)
    assert "'a' occurs twice" in said


def test_a_file_and_a_prompt(refused, tmp_path):
    (tmp_path / "texts.jsonl").write_text("{}\n")
    assert "given together with --texts" in refused(
        "--texts", tmp_path / "texts.jsonl", completion=None
    )


def test_no_such_file(refused, tmp_path):
    said = refused("--texts", tmp_path / "none.jsonl", prompt=None, completion=None)
    assert "no such file" in said


def test_a_page_for_many(refused, tmp_path):
    lines = [json.dumps({"prompt": "The sky is", "completion": f" {c}"}) for c in ("a", "b")]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    texts = ("--texts", tmp_path / "texts.jsonl", "--html", tmp_path / "page.html")
    assert "--html" in refused(*texts, prompt=None, completion=None)
