"""Traps 11, 12, 14, 16, 17, 21: parameters, kernels, projections, optimizer states, keys."""

import json
import logging
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import gradients_store
from influence import text
from influence.documents import curvature, gradients, scores, sketch
from influence.documents.coverage import coverage
from influence.documents.whitening import prepare
from influence.models import fingerprint, load_model, tracked_layers, uncovered_parameters
from pipelines import run_folder
from pipelines.checkpoints import load_optimizer_state, optimizer_state
from pipelines.config import RunConfig
from pipelines.curvature import curvature_key
from pipelines.training import make_optimizer
from tests.conformance import reference, setting
from tests.toys import assert_matches, save_toy, toy_gpt2, toy_llama, toy_tokenizer


@pytest.mark.parametrize("kind", setting.KINDS)
def test_trap_11_a_tied_head_carries_its_own_use_and_says_so(kind):
    toy = setting.make_toy(kind, count=4, tied=True)
    [head] = [layer for layer in toy.layers if layer.role == "head"]
    assert head.tied
    assert any("embed" in n or "wte" in n for n in uncovered_parameters(toy.model, toy.layers))
    batch = text.collate(toy.chunks, 0)
    found, _ = gradients.per_document_gradients(toy.model, toy.layers, batch)
    for row, chunk in enumerate(toy.chunks):
        own = reference.trace(toy.model, toy.layers, chunk).gradients[head.name]
        assert_matches(found[head.name][row], own)
    model = deepcopy(toy.model).requires_grad_(True)
    gradients.token_losses(gradients.logits_of(model, batch), batch.targets).sum().backward()
    both = model.get_input_embeddings().weight.grad
    assert (both - found[head.name].sum(dim=0)).norm() > 0.01 * both.norm()
    report = coverage(toy.model, toy.layers, [text.collate([c], 0) for c in toy.chunks])
    shares = dict(report.left_out)
    assert shares["embeddings"] > 0.01
    assert report.covered + sum(shares.values()) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2], ids=setting.KINDS)
def test_trap_12_models_are_loaded_eager_without_dropout_and_do_not_see_their_batch(make, tmp_path):
    model = make(vocab=300, dtype=torch.float32)
    model.config._attn_implementation = "sdpa"
    model.config.attention_dropout = 0.5
    model.config.attn_pdrop = model.config.resid_pdrop = model.config.embd_pdrop = 0.5
    loaded = load_model(save_toy(tmp_path / "m", model, toy_tokenizer())).model
    assert loaded.config._attn_implementation == "eager"
    assert not any(module.training for module in loaded.modules())
    layers = tracked_layers(loaded)
    chunks = setting.random_chunks(5, vocab=300, longest=8)
    alone, _ = gradients.per_document_gradients(loaded, layers, text.collate(chunks[:1], 0))
    batch = text.collate(chunks, 0, extra_padding=9)
    together, _ = gradients.per_document_gradients(loaded, layers, batch)
    again, _ = gradients.per_document_gradients(loaded, layers, batch)
    for layer in layers:
        assert_matches(together[layer.name][:1], alone[layer.name])
        assert torch.equal(together[layer.name], again[layer.name])


def test_trap_14_projections_are_seeded_by_seed_module_and_side_and_scaled():
    first = sketch.projection(0, "a", "in", 64, 16)
    assert torch.equal(first, sketch.projection(0, "a", "in", 64, 16))
    others = [(1, "a", "in"), (0, "b", "in"), (0, "a", "out")]
    for seed, name, side in others:
        assert not torch.equal(first, sketch.projection(seed, name, side, 64, 16))
    assert_matches(first.abs(), torch.full((64, 16), 0.25))  # 1 / sqrt(p)


def test_trap_14_queries_and_documents_are_projected_alike(toy):
    fisher = setting.fit(toy, setting.batched(toy))[3]
    shapes = setting.full_sketch(toy).shapes
    batch = text.collate(toy.chunks, 0)
    found, _ = gradients.per_document_gradients(toy.model, toy.layers, batch)
    kinds = [sketch.random_projection(shapes, 3, seed=1), sketch.top_eigen(fisher, 0.1, 40)]
    for kind in kinds:
        rows = scores.whitened_rows(toy.model, toy.layers, prepare(fisher, 0.1, kind), batch)
        assert rows.vectors_BP.shape[1] == kind.dimension
        assert_matches(scores.whitened_queries(fisher, 0.1, kind, found), rows.vectors_BP)


def test_trap_14_another_projection_is_refused(tmp_path):
    fields = {
        **dict.fromkeys(("model", "tokenizer", "corpus", "curvature"), "x"),
        **{"layers": ("a",), "curvature_kind": "ekfac", "damping": 0.1, "sketch": "random"},
        **{"sketch_size": 2, "dtype": "float32", "dimension": 4},
        **{"n_documents": 2, "shard_documents": 2},
    }
    kinds = [sketch.random_projection({"a": (4, 4)}, 2, seed) for seed in (0, 1)]
    stored, wanted = (
        gradients_store.Header(
            **fields, sketch_seed=kind.seed, sketch_coordinates=kind.fingerprint()
        )
        for kind in kinds
    )
    row = np.ones(2, np.float32)
    rows = gradients_store.Rows(
        id=["a", "b"],
        source=["s", "s"],
        language=["en", "en"],
        n_tokens=np.array([3, 3]),
        loss=row,
        self_influence=row,
        gradient_norm=row,
        vector=np.ones((2, 4), np.float32),
    )
    shard = gradients_store.write_shard(str(tmp_path / "s"), 0, rows, stored)
    gradients_store.seal(str(tmp_path / "s"), stored, [shard], {})
    with pytest.raises(gradients_store.HeaderMismatch, match="sketch_seed"):
        gradients_store.open_store(str(tmp_path / "s"), expect=wanted)


def lora_toy(kind):
    toy = setting.make_toy(kind, count=6)
    names = ["c_attn", "c_proj"] if kind == "gpt2" else ["q_proj", "down_proj"]
    config = LoraConfig(r=2, lora_alpha=4, target_modules=names, lora_dropout=0.3)
    model = get_peft_model(toy.model, config).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * noise)
    return replace(toy, model=model, layers=tracked_layers(model))


@pytest.mark.parametrize("kind", setting.KINDS)
def test_trap_16_of_a_lora_model_only_adapters_carry_gradient(kind):
    toy = lora_toy(kind)
    assert toy.layers
    assert all("lora_A" in x.name or "lora_B" in x.name for x in toy.layers)
    batch = text.collate(toy.chunks, 0, extra_padding=3)
    found, _ = gradients.per_document_gradients(toy.model, toy.layers, batch)
    for row, chunk in enumerate(toy.chunks):
        own = reference.trace(toy.model, toy.layers, chunk).gradients
        for layer in toy.layers:
            assert_matches(found[layer.name][row], own[layer.name])
    fisher = setting.fit(toy, setting.batched(toy))[3]
    assert all(bool(torch.isfinite(x.eigenvalues_OI).all()) for x in fisher.values())
    report = coverage(toy.model, toy.layers, [text.collate(toy.chunks[:1], 0)])
    assert report.covered == pytest.approx(1.0, abs=1e-9)


def test_trap_16_a_tiny_damping_degenerates_to_one_over_lambda():
    values = torch.tensor([[1.0, 0.0]], dtype=torch.float64)  # the second direction is unseen
    layer = curvature.LayerCurvature(
        eigenvalues_OI=values,
        out_basis_OO=torch.eye(1, dtype=torch.float64),
        in_basis_II=torch.eye(2, dtype=torch.float64),
    )
    ones = {"x": torch.ones(1, 1, 2, dtype=torch.float64)}
    tiny = scores.directions({"x": layer}, 1e-12, ones)["x"][0, 0]
    usual = scores.directions({"x": layer}, 0.1, ones)["x"][0, 0]
    assert tiny[1] / tiny[0] > 1e11
    assert usual[1] / usual[0] == pytest.approx(21.0)


def stepped(model, optimizer, steps=1):
    for _ in range(steps):
        model.zero_grad()
        ids = torch.arange(6)[None] % 11
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()


def test_trap_17_optimizer_state_is_mapped_by_name(toy, tmp_path):
    model = deepcopy(toy.model).requires_grad_(True)
    optimizer = make_optimizer(model, 1e-2, 0.1)
    stepped(model, optimizer, 2)
    state = optimizer_state(model, optimizer)
    names = [name for name, _ in model.named_parameters()]
    assert {key.rpartition("/")[0] for key in state} == set(names)
    by_name = dict(model.named_parameters())
    for name, parameter in by_name.items():
        assert_matches(state[f"{name}/exp_avg"], optimizer.state[parameter]["exp_avg"])
    copy = deepcopy(model)
    permuted = torch.optim.AdamW(  # the same settings by parameter, the groups in another order
        [{"params": [p], "weight_decay": 0.1 if p.ndim >= 2 else 0.0} for p in copy.parameters()][
            ::-1
        ],
        lr=1e-2,
        betas=(0.9, 0.98),
    )
    save_file(state, tmp_path / "optimizer.safetensors")
    load_optimizer_state(copy, permuted, load_file(tmp_path / "optimizer.safetensors"))
    stepped(model, optimizer)
    stepped(copy, permuted)
    for name, parameter in copy.named_parameters():
        assert_matches(parameter, by_name[name])
    order = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert order != [id(p) for p in model.parameters()]  # or the trap would not be one


def test_trap_21_a_models_fingerprint_is_of_its_contents(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    model = toy_llama(vocab=300, dtype=torch.float32)
    original = save_toy(tmp_path / "a", model, toy_tokenizer())
    expected = fingerprint(original)
    elsewhere = save_toy(tmp_path / "elsewhere" / "b", model, toy_tokenizer())
    assert fingerprint(elsewhere) == expected
    file = elsewhere / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"][0, 0] += 1e-3
    save_file(weights, file, metadata={"format": "pt"})
    assert fingerprint(elsewhere) != expected
    save_toy(tmp_path / "c", model, toy_tokenizer(eos=True))
    assert fingerprint(tmp_path / "c") != expected
    save_toy(tmp_path / "d", model, toy_tokenizer())
    config = json.loads((tmp_path / "d" / "config.json").read_text())
    config["rms_norm_eps"] = 0.1
    (tmp_path / "d" / "config.json").write_text(json.dumps(config))
    assert fingerprint(tmp_path / "d") != expected
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "d").config.rms_norm_eps == 0.1


OTHERS = {
    "layers": "mlp",
    "curvature": "kfac",
    "labels": "empirical",
    "label_seed": 1,
    "curvature_documents": 10,
    "exact_head": 10,
    "head_rank": 16,
}


def test_trap_21_the_key_of_a_curvature_changes_with_all_that_changes_it(monkeypatch):
    def key(tokens="t", model="m", path="/a", **changes):
        stage = SimpleNamespace(key=tokens, path=path)
        spec = SimpleNamespace(fingerprint=model, source=path)
        return curvature_key(RunConfig.model_construct(**changes), stage, spec)

    expected = key()
    assert key(path="/b") == expected
    keys = [key(**{name: value}) for name, value in OTHERS.items()]
    keys += [key(tokens="other data"), key(model="other weights")]
    monkeypatch.setattr(run_folder, "FORMAT", run_folder.FORMAT + 1)
    keys.append(key())
    assert len({expected, *keys}) == len(keys) + 1
