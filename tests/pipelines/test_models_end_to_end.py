"""Other models, curvatures, stores and kinds of documents: each from documents to a trace."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from influence.models import load_model
from influence.text import Document, Encoding, encode
from pipelines.curvature import read_curvature
from pipelines.queries import Query
from pipelines.run_folder import Stage
from pipelines.runs import open_run
from pipelines.tokens import read_chunks, shard_path
from tests.pipelines.small import build, documents, on_model, rows_by_id, traces, write_run
from tests.toys import CHAT_TEMPLATE, save_toy, toy_gpt2, toy_llama, toy_tokenizer

ASKED = (Query(prompt="The road to Lima is", completion=" long"),)
KEYS = {"id_column": "id", "source_column": "source"}


def llama(folder, *, tied=False, template=None):
    tokenizer = toy_tokenizer(bos=True, chat_template=template)
    model = toy_llama(vocab=len(tokenizer), d=16, layers=1, tied=tied, dtype=torch.float32)
    return save_toy(folder, model, tokenizer)


def gpt2(folder):
    tokenizer = toy_tokenizer(bos=True)
    return save_toy(
        folder, toy_gpt2(vocab=len(tokenizer), layers=1, dtype=torch.float32), tokenizer
    )


def lora(folder):
    """A LoRA adapter whose matrices are both random, over a Llama beside it."""
    base = llama(folder / "base")
    model = get_peft_model(
        load_model(base).model.requires_grad_(True),
        LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
    )
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder / "adapter")
    return folder / "adapter"


def run_and_trace(folder, model, rows=None, dataset=None, queries=ASKED, **settings):
    """A run of few documents; its trace is checked for what holds of every trace."""
    rows = documents(16) if rows is None else rows
    yaml = write_run(folder, rows, dataset=dataset, **on_model(model, **settings))
    run = build(yaml, folder / "runs")
    [trace] = traces(open_run(run.root), queries)
    found = rows_by_id(trace)
    assert len(found) == len(rows)
    largest = max(abs(row["score"]) for row in found.values())
    assert largest > 0
    for row in found.values():
        for part in ("layers", "tokens"):
            total = sum(x["score"] for x in row[part])
            assert total == pytest.approx(row["score"], abs=1e-4 * largest)
        assert abs(row["normalised"]) <= 1 + 1e-4
    return run, trace


@pytest.mark.parametrize("make", [llama, gpt2, lora])
def test_a_models_folder_is_traced(tmp_path, make):
    run, trace = run_and_trace(tmp_path, make(tmp_path / "model"), store_dtype="float32")
    layers = run.curvature.info()["layers"]
    assert all("lora_" in name for name in layers) == (make is lora)
    assert run.gradients.info()["fidelity"]["pearson"] > 0.9999
    for row in rows_by_id(trace).values():
        assert row["store_score"] == pytest.approx(row["score"], rel=1e-2, abs=1e-6)


def test_an_adapter_may_be_named_beside_its_base_model(tmp_path):
    adapter = lora(tmp_path / "model")
    alone, a = run_and_trace(tmp_path / "a", adapter)
    beside, b = run_and_trace(tmp_path / "b", tmp_path / "model" / "base", adapter=str(adapter))
    assert alone.model.fingerprint == beside.model.fingerprint
    assert [r["score"] for r in a["proponents"]] == [r["score"] for r in b["proponents"]]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_large_head_keeps_its_strongest_directions(tmp_path, tied):
    model = llama(tmp_path / "model", tied=tied)
    run, trace = run_and_trace(tmp_path, model, exact_head=8, head_rank=8)
    info = run.curvature.info()
    assert info["head"] == "head.safetensors"
    assert info["head_rank"] == 8
    assert 0 < info["head_left_out"] < 1
    assert info["shapes"]["lm_head.low_rank"] == [8, 16]
    assert trace["run"]["curvature"]["head factor left out"] == info["head_left_out"]


def test_a_head_of_full_rank_leaves_next_to_nothing_out(tmp_path):
    model = llama(tmp_path / "model")
    small, _ = run_and_trace(tmp_path / "a", model, exact_head=8, head_rank=4)
    large, _ = run_and_trace(tmp_path / "b", model, exact_head=8, head_rank=512)
    assert large.curvature.info()["head_left_out"] < 1e-3
    assert small.curvature.info()["head_left_out"] > 0.01


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
@pytest.mark.parametrize("kind", ["ekfac", "kfac", "diagonal", "identity"])
def test_every_curvature_is_traced(tmp_path, toy_folder, kind, labels):
    settings = {"curvature": kind, "labels": labels, "store_dtype": "float32", "store": "full"}
    run, trace = run_and_trace(tmp_path, toy_folder, **settings)
    assert run.curvature.info()["kind"] == kind
    drawn = list(run.curvature.path.glob("labels-*"))
    assert bool(drawn) == (labels == "sampled" and kind != "identity")  # that needs none
    bases = [layer.out_basis_OO is not None for layer in read_curvature(run.curvature).values()]
    assert set(bases) == {kind in ("ekfac", "kfac")}
    assert trace["run"]["curvature"]["kind"] == kind
    assert run.gradients.info()["fidelity"]["pearson"] > 0.9999


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize(
    ("store", "settings"),
    [
        ("full", {}),
        ("random", {"store_side": 12}),
        ("top-eigen", {"store_gigabytes": 2e-5}),
        ("top-eigen", {"store_gigabytes": 2e-5, "self_influence": "estimated"}),
    ],
    ids=["full", "random", "top-eigen", "estimated"],
)
def test_every_store_finds_the_documents(tmp_path, toy_folder, store, dtype, settings):
    run, _ = run_and_trace(tmp_path, toy_folder, store=store, store_dtype=dtype, **settings)
    info = run.gradients.info()
    assert info["fidelity"]["pearson"] > (0.99 if store == "full" else 0.5)
    assert info["bytes"] > 0


def test_an_identity_curvature_has_no_eigenvalues_to_choose_by_where_full_rows_do_not_fit(
    tmp_path, toy_folder
):
    settings = {"curvature": "identity", "store_gigabytes": 1e-6}
    run, trace = run_and_trace(tmp_path, toy_folder, **settings)
    [seal] = (run.root / "forms").glob("*/sealed.json")
    comparison = Stage("forms", seal.parent.name, run.root).info()
    assert {x["kind"] for x in comparison["candidates"]} == {"factors", "full", "random"}
    assert trace["run"]["store"]["sketch"] == comparison["chosen"]["kind"] != "full"


def test_prompts_of_the_documents_carry_no_loss_unless_asked(tmp_path, toy_folder):
    rows = [
        {
            "id": f"d{i}",
            "source": "a",
            "prompt": f"How long is road {i}?",
            "completion": f" {i * i} miles",
        }
        for i in range(12)
    ]
    dataset = {"prompt_column": "prompt", "completion_column": "completion", **KEYS}
    counted = {}
    for loss_on in ("completion", "all"):
        run, trace = run_and_trace(tmp_path / loss_on, toy_folder, rows, dataset, loss_on=loss_on)
        counted[loss_on] = run.tokens.info()["loss_tokens"]
        assert rows_by_id(trace)["d3"]["text"] == "How long is road 3? 9 miles"
    assert 12 * 7 <= counted["completion"] < counted["all"]


def test_chats_carry_loss_on_what_the_assistant_says(tmp_path):
    folder = llama(tmp_path / "model", template=CHAT_TEMPLATE)
    rows = [
        {
            "id": f"d{i}",
            "source": "a",
            "messages": [
                {"role": "user", "content": f"And {i}?"},
                {"role": "assistant", "content": f"Is {i * i}."},
            ],
        }
        for i in range(12)
    ]
    dataset = {"messages_column": "messages", **KEYS}
    run, _ = run_and_trace(tmp_path, folder, rows, dataset, max_tokens=64)
    tokenizer = load_model(folder).tokenizer
    [first, *_] = read_chunks(shard_path(run.tokens.path, 0))
    said = tokenizer.decode(first.tokens[first.loss])
    assert said.startswith("Is 0.")
    assert "And" not in said
    document = Document(
        id="d0",
        kind="chat",
        text="",
        prompt=None,
        completion=None,
        messages=json.dumps(rows[0]["messages"]),
    )
    [again] = encode(tokenizer, document, Encoding(max_tokens=64))
    assert again.tokens.tolist() == first.tokens.tolist()


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_model_is_fine_tuned_and_traced(tmp_path, make):
    settings = {"train": "finetune", "epochs": 3, "batch_documents": 4, "train_threads": 1}
    model = make(tmp_path / "model")
    run, trace = run_and_trace(tmp_path, model, **settings, learning_rate=0.01, append_eos=True)
    losses = json.loads((next((run.root / "model").iterdir()) / "training.json").read_text())[
        "losses"
    ]
    assert losses[-1][1] < losses[0][1]
    assert run.model_name.startswith("fine-tuned here")
    assert str(run.root) in run.model.source
    assert trace["run"]["model"]["fingerprint"] != load_model(model).fingerprint


def test_fine_tuning_again_gives_the_same_weights(tmp_path):
    settings = {"train": "finetune", "epochs": 1, "batch_documents": 4, "train_threads": 1}
    model = gpt2(tmp_path / "model")  # its config asks for dropout
    yaml = write_run(tmp_path, documents(8), **on_model(model, **settings))
    a, b = (build(yaml, tmp_path / name) for name in "ab")
    assert a.model.fingerprint == b.model.fingerprint
    last = sorted((b.root / "model").glob("*/checkpoints/step-*"))[-1]
    stage = last.parent.parent
    for path in (last, stage / "sealed.json", stage / "model.safetensors"):
        path.rename(tmp_path / path.name)
    assert build(yaml, tmp_path / "b").model.fingerprint == a.model.fingerprint


def test_two_documents_are_enough(tmp_path, toy_folder):
    run_and_trace(tmp_path, toy_folder, documents(2))


def test_curvature_of_some_documents_serves_all(tmp_path, toy_folder):
    run, trace = run_and_trace(tmp_path, toy_folder, curvature_documents=8)
    assert run.curvature.info()["documents"] == 8
    assert trace["n_documents"] == 16
