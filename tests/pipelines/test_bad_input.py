"""A user's mistakes: one clear message, no traceback, exit code 2, and nothing computed is lost."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaModel, PreTrainedTokenizerFast

from pipelines import cli
from pipelines.gradient_files import load_curvature, load_form
from pipelines.run_folder import locked, new_file
from pipelines.worker import language_model
from tests.pipelines.small import digests, documents, on_model, states, write_run
from tests.toys import save_toy, toy_llama, toy_tokenizer

REPOSITORY = Path(__file__).parents[2]
PARTS = {"prompt_column": "prompt", "completion_column": "completion", "id_column": "id"}


@pytest.fixture
def influence(monkeypatch, capsys):
    """Run a command as a user does; returns its exit code and its message on one line."""

    def call(*arguments):
        for cache in (language_model, load_curvature, load_form):
            cache.cache_clear()
        monkeypatch.setattr(sys, "argv", ["influence", *map(str, arguments)])
        code = cli.guarded(cli.app)
        said = " ".join(capsys.readouterr().err.split())
        return code, said

    return call


def refused(result):
    """The message of a refusal, checked to be one, without a traceback."""
    code, said = result
    assert code == 2, said
    assert "Traceback" not in said
    _, error, message = said.partition("Error ")
    assert error, said
    return message


def run(influence, yaml, tmp_path, *more):
    return influence("run", yaml, "--runs", tmp_path / "runs", "--workers", 0, *more)


def trace(influence, tmp_path, *more):
    asked = more or ("--prompt", "The sky is", "--completion", " blue")
    return influence("trace", "small", "--runs", tmp_path / "runs", "--workers", 0, *asked)


# -- data -----------------------------------------------------------------------------------------


def test_a_missing_data_file(influence, tmp_path):
    yaml = write_run(tmp_path)
    (tmp_path / "docs.jsonl").unlink()
    said = refused(run(influence, yaml, tmp_path))
    assert "docs.jsonl" in said


def test_an_empty_data_file(influence, tmp_path):
    yaml = write_run(tmp_path)
    (tmp_path / "docs.jsonl").write_text("")
    said = refused(run(influence, yaml, tmp_path))
    assert "docs.jsonl" in said
    assert "empty" in said or "no documents" in said


def test_an_unknown_column_names_the_nearest(influence, tmp_path):
    yaml = write_run(tmp_path, dataset={"text_column": "txet"})
    said = refused(run(influence, yaml, tmp_path))
    assert "txet" in said
    assert "text" in said.replace("txet", "")


def test_an_unknown_key_of_a_run_names_the_nearest(influence, tmp_path):
    said = refused(run(influence, write_run(tmp_path, dampign=0.1), tmp_path))
    assert "unknown key `dampign`; did you mean `damping`?" in said


def test_an_unknown_key_of_a_dataset_names_the_nearest(influence, tmp_path):
    yaml = write_run(tmp_path, dataset={"text_colum": "text"})
    said = refused(run(influence, yaml, tmp_path))
    assert "text_colum" in said
    assert "text_column" in said


@pytest.mark.parametrize("text", ["", "   \n"], ids=["nothing", "blank"])
def test_an_empty_document(influence, tmp_path, text):
    rows = documents()
    rows[9]["text"] = text
    said = refused(run(influence, write_run(tmp_path, rows), tmp_path))
    assert "empty" in said
    assert "d09" in said or "row 9" in said or "10" in said


def test_a_single_document(influence, tmp_path):
    said = refused(run(influence, write_run(tmp_path, documents(1)), tmp_path))
    assert "1 document, at least two were expected" in said


def test_documents_that_score_alike(influence, tmp_path, toy_folder):
    rows = [{**row, "text": "The same words."} for row in documents(6)]
    said = refused(run(influence, write_run(tmp_path, rows, **on_model(toy_folder)), tmp_path))
    assert "6 documents score alike" in said


def test_two_documents_of_one_id(influence, tmp_path):
    rows = documents()
    rows[9]["id"] = "d08"
    said = refused(run(influence, write_run(tmp_path, rows), tmp_path))
    assert "d08" in said


def test_a_document_with_only_unknown_tokens(influence, tmp_path):
    words = sorted({word for row in documents() for word in row["text"].split()})
    vocabulary = {word: i for i, word in enumerate(["<unk>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    model = toy_llama(vocab=len(vocabulary), d=16, layers=1, dtype=torch.float32)
    folder = save_toy(tmp_path / "model", model, tokenizer)
    rows = documents()
    rows[9]["text"] = "zzz yyy xxx"
    said = refused(run(influence, write_run(tmp_path, rows, **on_model(folder)), tmp_path))
    assert "'d09'" in said
    assert "only unknown tokens" in said


@pytest.mark.parametrize("key", ["prompt", "completion"])
def test_an_empty_prompt_or_completion_of_the_data(influence, tmp_path, key):
    rows = [{"id": f"d{i}", "prompt": f"Road {i}:", "completion": " long"} for i in range(9)]
    rows[4][key] = ""
    model = toy_llama(vocab=len(toy_tokenizer()), d=16, layers=1, dtype=torch.float32)
    folder = save_toy(tmp_path / "model", model, toy_tokenizer())
    yaml = write_run(tmp_path, rows, dataset=PARTS, **on_model(folder))
    said = refused(run(influence, yaml, tmp_path))
    assert "d4" in said or "row 4" in said or "row 5" in said
    assert "empty" in said or "nothing stands before it" in said


# -- models ---------------------------------------------------------------------------------------


def test_a_model_without_causal_head(influence, tmp_path):
    tokenizer = toy_tokenizer()
    whole = toy_llama(vocab=len(tokenizer), d=16, layers=1, dtype=torch.float32)
    bare = LlamaModel(whole.config)
    folder = save_toy(tmp_path / "model", bare, tokenizer)
    said = refused(run(influence, write_run(tmp_path, **on_model(folder)), tmp_path))
    assert "lm_head" in said or "causal" in said


def test_a_model_that_does_not_exist(influence, tmp_path):
    said = refused(run(influence, write_run(tmp_path, **on_model(tmp_path / "no")), tmp_path))
    assert "no such folder" in said


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
@pytest.mark.parametrize("curvature", ["ekfac", "diagonal", "identity"])
def test_nan_weights_stop_with_the_documents_id(influence, tmp_path, labels, curvature, toy_folder):
    folder = shutil.copytree(toy_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    [token] = toy_tokenizer()("#", add_special_tokens=False)["input_ids"]
    weights["model.embed_tokens.weight"][token] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    rows = documents(16)
    rows[9]["text"] = "A # road."
    settings = on_model(folder, labels=labels, curvature=curvature)
    said = refused(run(influence, write_run(tmp_path, rows, **settings), tmp_path))
    assert "'d09'" in said
    assert "NaN" in said


# -- queries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--prompt", "The sky is", "--completion", ""), "empty completion"),
        (
            ("--prompt", "The sky is", "--completion", " blue" * 60),
            "at most 48, the model's context",
        ),
        (("--prompt", "The sky is"), "give either --completion"),
        (("--completion", "a", "--queries", "q.jsonl"), "give either --completion"),
        (("--prompt", "a", "--queries", "q.jsonl"), "given together with --queries"),
        (("--queries", "none.jsonl"), "no such file"),
        (("--completion", " blue", "--top", "0"), "--top"),
    ],
)
@pytest.mark.usefixtures("copied")
def test_a_query_that_cannot_be_explained(influence, tmp_path, asked, message):
    code, said = trace(influence, tmp_path, *asked)
    assert code == 2, said
    assert message in said
    assert "Traceback" not in said


def test_an_empty_prompt_without_beginning_token(influence, tmp_path):
    tokenizer = toy_tokenizer()
    model = toy_llama(vocab=len(tokenizer), d=16, layers=1, dtype=torch.float32)
    folder = save_toy(tmp_path / "model", model, tokenizer)
    code, said = run(influence, write_run(tmp_path, documents(8), **on_model(folder)), tmp_path)
    assert code == 0, said
    said = refused(trace(influence, tmp_path, "--prompt", "", "--completion", "blue sky"))
    assert "nothing stands before it" in said


# -- run folders ----------------------------------------------------------------------------------


def test_a_run_that_does_not_exist_lists_finished_ones(influence, copied):
    said = refused(influence("trace", "smal", "--runs", copied.parent, "--completion", "a"))
    assert "Finished runs: small" in said


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1, 2]",
        "stages: 3",
        "settings: {}\nstages: {}\nmodel: {}",
        "a: b",
        "",
        b"\xff\xfe\x00",
    ],
)
def test_a_corrupted_run_yaml(influence, copied, content, tmp_path):
    raw = content if isinstance(content, bytes) else content.encode()
    (copied / "run.yaml").write_bytes(raw)
    said = refused(trace(influence, tmp_path))
    assert "run.yaml" in said


def test_a_corrupted_run_yaml_is_mended_by_running_again(influence, written, copied, tmp_path):
    (copied / "run.yaml").write_text("{")
    before = states(copied)
    code, said = run(influence, written, tmp_path)
    assert code == 0, said
    assert states(copied) == before
    assert trace(influence, tmp_path)[0] == 0


@pytest.mark.parametrize("stage", ["corpus", "tokens", "curvature", "gradients"])
def test_a_stage_that_is_missing(influence, copied, stage, tmp_path):
    shutil.rmtree(copied / stage)
    said = refused(trace(influence, tmp_path))
    assert f"stage {stage}/" in said


@pytest.mark.parametrize(
    "pattern",
    [
        "gradients/*/store/shard-00002.arrow",
        "gradients/*/store/manifest.json",
        "gradients/*/sketch.safetensors",
        "gradients/*/sealed.json",
        "curvature/*/layer-*down_proj.safetensors",
        "curvature/*/sealed.json",
        "tokens/*/shard-00002.arrow",
        "tokens/*/sealed.json",
        "corpus/*/documents.parquet",
        "model/*/model.safetensors",
    ],
)
@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_damaged_file(influence, copied, pattern, damage, tmp_path):
    [file] = copied.glob(pattern)
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    said = refused(trace(influence, tmp_path))
    assert len(said) > 40


@pytest.mark.parametrize(
    "pattern", ["gradients/*/store/shard-00001.arrow", "tokens/*/shard-*1.arrow"]
)
def test_verify_names_a_changed_file(influence, copied, pattern, monkeypatch, capsys):
    [file] = copied.glob(pattern)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(bytes(content))
    monkeypatch.setattr(
        sys, "argv", ["influence", "store", "verify", "small", "--runs", str(copied.parent)]
    )
    assert cli.guarded(cli.app) == 2
    assert file.name in capsys.readouterr().out


def test_verify_finds_nothing_in_a_sound_run(copied, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["influence", "store", "verify", "small", "--runs", str(copied.parent)]
    )
    assert cli.guarded(cli.app) == 0
    assert "as they were written" in capsys.readouterr().out


def test_a_store_made_with_other_settings(influence, written, copied, tmp_path):
    values = json.loads(written.read_text())
    other = written.with_name("other.yaml")
    other.write_text(json.dumps({**values, "damping": 0.7}))
    [old] = (copied / "gradients").iterdir()
    assert run(influence, other, tmp_path)[0] == 0
    [new] = [p for p in (copied / "gradients").iterdir() if p != old]
    shutil.rmtree(new / "store")
    shutil.copytree(old / "store", new / "store")
    said = refused(trace(influence, tmp_path))
    assert "damping" in said


def test_a_half_filled_store_of_other_settings(influence, written, copied, tmp_path):
    [stage] = (copied / "gradients").iterdir()
    for name in ("sealed.json", "store/manifest.json"):
        (stage / name).unlink()
    for sidecar in (stage / "store").glob("shard-*.json"):
        sidecar.write_text(sidecar.read_text().replace('"damping": 0.1', '"damping": 0.2'))
    said = refused(run(influence, written, tmp_path))
    assert "damping" in said


def test_a_second_process_in_the_same_run_folder(influence, written, copied, tmp_path):
    before = states(copied)
    with locked(copied):
        said = refused(run(influence, written, tmp_path))
    assert "another process is working in it" in said
    assert states(copied) == before


# -- machine --------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("when", [3, 12, 25], ids=lambda n: f"file {n}")
def test_a_full_disk_keeps_what_was_computed(
    influence, written, finished, tmp_path, monkeypatch, call, when
):
    count, own = 0, getattr(os, call)

    def full(*arguments):
        nonlocal count
        count += 1
        if count >= when:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return own(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        said = refused(run(influence, written, tmp_path))
    assert "o space left" in said
    assert "again" in said
    root = tmp_path / "runs" / "small"
    assert [p for p in root.rglob(".*") if p.name != ".lock" and p.is_file()] == []
    before = states(root)
    if (call, when) == ("replace", 25):
        assert run(influence, written, tmp_path)[0] == 0
        after = states(root)
        kept = [n for n in before if "/partial/" not in n]
        assert {n: after[n] for n in kept} == {n: before[n] for n in kept}
        assert digests(root) == digests(finished.root)


def test_a_full_disk_that_safetensors_reports(tmp_path):
    from safetensors import SafetensorError

    from pipelines.errors import RunError

    def write():
        with new_file(tmp_path / "a"):
            raise SafetensorError("IoError: No space left on device (os error 28)")

    with pytest.raises(RunError, match="no space left on the disk"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written(influence, written, tmp_path):
    (tmp_path / "runs").write_text("a file where the runs should be")
    said = refused(run(influence, written, tmp_path))
    assert "runs" in said


def test_a_scheduler_that_is_not_there(influence, written, tmp_path, monkeypatch):
    from distributed import Client

    monkeypatch.setattr("distributed.Client", lambda address, timeout: Client(address, timeout=0.5))
    said = refused(
        influence("run", written, "--runs", tmp_path, "--scheduler", "tcp://127.0.0.1:1")
    )
    assert "tcp://127.0.0.1:1: not reachable" in said
    assert len(list((tmp_path / "small" / "corpus").iterdir())) == 1  # done before, and kept


# -- the command line -----------------------------------------------------------------------------


def test_a_missing_run_yaml(influence, tmp_path):
    said = refused(run(influence, tmp_path / "none.yaml", tmp_path))
    assert "none.yaml: no such file" in said


def test_index_refuses_to_train(influence, written, tmp_path):
    said = refused(influence("index", written, "--runs", tmp_path))
    assert "`index` works on a finished model" in said


def test_an_unknown_command_and_option_are_refused(influence):
    for arguments in (("trase",), ("trace", "small", "--complation", "a")):
        code, said = influence(*arguments)
        assert code == 2
        assert "No such" in said


def test_ctrl_c_says_how_to_go_on(influence, written, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.runs.build_corpus", interrupted)
    code, said = run(influence, written, tmp_path)
    assert code == 130
    assert said == "Stopped. Finished work is kept: run the same command again to go on."


def test_a_failure_of_ours_is_exit_code_1_and_says_that_work_is_kept(
    influence, written, tmp_path, monkeypatch
):
    monkeypatch.setattr("pipelines.runs.build_corpus", lambda *_: 1 / 0)
    code, said = run(influence, written, tmp_path)
    assert code == 1
    assert "Finished work is kept" in said


def test_the_installed_command_ends_with_code_2_and_one_message(tmp_path):
    command = [sys.executable, "-m", "pipelines.cli", "run", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
