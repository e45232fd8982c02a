"""Attention methods against plain loops over all layers at once."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from influence.errors import InputError
from influence.inputs.attention import attention_x_gradient, rollout, weights
from influence.inputs.attention.compare import compare_heads, divergence
from influence.inputs.attention.layers import attention_modules, each_layer
from influence.inputs.attention.maps import attention_maps, text_owner
from influence.inputs.gradient.embedded import embed_target
from influence.inputs.passage import ALWAYS, Unit, read_passages
from influence.inputs.targets import Target
from influence.models import swap_conv1d
from tests.toys import assert_matches, toy_gpt2, toy_language_model, toy_llama, toy_tokenizer

PROMPT, ANSWERS = "Is Paris the ", ("Rome is", "a", "not so in the end")
FAMILIES = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8},
    "mistral": {"num_key_value_heads": 2},
    "olmo2": {},
    "phi": {},
    "gpt_neox": {},
    "gpt2": {},
    "gptj": {"rotary_dim": 4},
    "gpt_neo": {"attention_types": [[["global"], 2]]},
    "codegen": {"rotary_dim": 4},
    "gpt_bigcode": {},
    "opt": {"ffn_dim": 32},
    "bloom": {},
    "falcon": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
}


def loaded_toy(family, *, bos=False, **settings):
    tokenizer = toy_tokenizer(bos=bos)
    model = {"llama": toy_llama, "gpt2": toy_gpt2}[family](vocab=len(tokenizer), **settings)
    swap_conv1d(model)
    return toy_language_model(model, tokenizer)


@pytest.fixture(params=["llama", "gpt2"])
def loaded(request):
    return loaded_toy(request.param)


def embedded_toy(loaded, target=None, answers=ANSWERS[:1]):
    return embed_target(loaded, read_passages(loaded, PROMPT, answers), target or Target())


def all_weights(loaded, passage):
    # Layers x heads x N x N of the whole passage, as transformers gives them, of a copy.
    ids = torch.from_numpy(passage.tokens).long()[None]
    model = copy.deepcopy(loaded.model)
    return torch.stack(model(input_ids=ids, output_attentions=True).attentions)[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_show_what_transformers_records(family):
    config = AutoConfig.for_model(
        family,
        **{
            "vocab_size": 50,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **FAMILIES[family],
        },
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    loaded = toy_language_model(model.requires_grad_(False))
    ids = torch.arange(3, 12)[None]
    shown = {}
    with each_layer(loaded, lambda layer, found: shown.update({layer: found})):
        model(input_ids=ids)
    recorded = model(input_ids=ids, output_attentions=True).attentions
    assert list(shown) == list(range(len(recorded))) == [0, 1]
    for layer, expected in enumerate(recorded):
        assert torch.equal(shown[layer], expected)
        assert_matches(shown[layer].sum(-1), torch.ones(1, 4, 9))


def test_weights_match_the_definition_by_layer_and_head(loaded):
    embedded = embedded_toy(loaded)
    passage = embedded.passage
    reads = slice(passage.first - 1, len(passage.tokens) - 1)
    expected = all_weights(loaded, passage)[:, :, reads, : passage.first].mean(2)
    found, value = weights.attention_shares(embedded)
    assert_matches(found, expected)
    assert_matches(weights.attribute(embedded).scores_P, expected.mean((0, 1)))
    assert value == float(embedded.values(embedded.prompt_PD[None])[0])


def test_weights_of_a_span_are_read_where_it_is_predicted(loaded):
    embedded = embedded_toy(loaded, Target(tokens=(1, 3)))
    passage = embedded.passage
    expected = all_weights(loaded, passage)[:, :, passage.first : passage.first + 2]
    expected = expected[..., : passage.first].mean((0, 1, 2))
    assert_matches(weights.attribute(embedded).scores_P, expected)


def test_a_span_of_a_contrast_is_of_its_first_continuation(loaded):
    embedded = embedded_toy(loaded, Target(kind="contrast", tokens=(1, 3)), ANSWERS[::2])
    before = len(embedded.prompt_PD) - 1
    expected = torch.zeros(embedded.mask_KN.shape, dtype=torch.float64)
    expected[0, before + 1 : before + 3] = 0.5
    expected[1, before : before + embedded.lengths[1]] = 1 / embedded.lengths[1]
    assert_matches(embedded.read_KN, expected)


def test_weights_of_one_predicting_position_add_up_to_one(loaded):
    found, _ = weights.attention_shares(embedded_toy(loaded, answers=ANSWERS[1:2]))
    assert found.shape == (2, 2, len(found[0, 0]))
    assert_matches(found.sum(-1), np.ones((2, 2)))


def test_rollout_matches_a_plain_loop(loaded):
    embedded = embedded_toy(loaded)
    passage = embedded.passage
    expected = torch.eye(len(passage.tokens), dtype=torch.float64)
    for layer in all_weights(loaded, passage):
        residual = 0.5 * layer.mean(0) + 0.5 * torch.eye(len(expected))
        expected = residual @ expected
    rows = expected[passage.first - 1 : -1, : passage.first]
    assert_matches(rollout.attribute(embedded).scores_P, rows.mean(0))
    one = rollout.attribute(embedded_toy(loaded, answers=ANSWERS[1:2]))
    assert abs(one.scores_P.sum() - 1) < 1e-12


def chefer(loaded, passage, weight_of_sum, reads):
    # Relevance by the whole matrices of all layers, with gradients kept on each.
    model = copy.deepcopy(loaded.model).requires_grad_()
    ids = torch.from_numpy(passage.tokens).long()[None]
    output = model(input_ids=ids, output_attentions=True)
    for layer in output.attentions:
        layer.retain_grad()
    log_p = output.logits[0].log_softmax(-1)
    picked = log_p[reads, ids[0, [i + 1 for i in reads]]]
    (weight_of_sum * picked.sum()).backward()
    relevance = torch.eye(len(passage.tokens), dtype=torch.float64)
    for layer in output.attentions:
        mean = (layer.grad * layer).clamp(min=0)[0].mean(0)
        relevance = relevance + mean @ relevance
    rows = (relevance - torch.eye(len(relevance)))[reads]
    return rows.mean(0)[: passage.first].detach()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("layers", [1, 3])
def test_attention_x_gradient_matches_the_definition(family, layers):
    loaded = loaded_toy(family, layers=layers)
    embedded = embedded_toy(loaded)
    passage = embedded.passage
    reads = list(range(passage.first - 1, len(passage.tokens) - 1))
    found = attention_x_gradient.attribute(embedded)
    assert_matches(found.scores_P, chefer(loaded, passage, 1.0, reads))
    assert found.scores_P.max() > 0
    span = attention_x_gradient.attribute(embedded_toy(loaded, Target(tokens=(1, 3))))
    assert_matches(span.scores_P, chefer(loaded, passage, 1.0, reads[1:3]))


def test_attention_x_gradient_adds_the_rows_of_a_contrast(loaded):
    passages = read_passages(loaded, PROMPT, ANSWERS[1:])
    found = attention_x_gradient.attribute(
        embedded_toy(loaded, Target(kind="contrast"), ANSWERS[1:])
    )
    expected = sum(
        chefer(loaded, p, sign, list(range(p.first - 1, len(p.tokens) - 1)))
        for p, sign in zip(passages, (1.0, -1.0), strict=True)
    )
    assert_matches(found.scores_P, expected)


@pytest.mark.parametrize("method", [weights, rollout, attention_x_gradient])
def test_fused_attention_is_refused(loaded, method):
    fused = toy_language_model(copy.deepcopy(loaded.model), loaded.tokenizer)
    fused.model.set_attn_implementation("sdpa")
    hooks = [len(m._forward_hooks) for m in fused.model.modules()]
    with pytest.raises(InputError, match=r'no attention weights.*set_attn_implementation\("eager"'):
        method.attribute(embedded_toy(fused))
    assert [len(m._forward_hooks) for m in fused.model.modules()] == hooks


def test_a_model_without_attention_is_refused(loaded):
    plain = toy_language_model(torch.nn.Linear(2, 2), loaded.tokenizer)
    with pytest.raises(InputError, match="no attention layer found in Linear"):
        each_layer(plain, lambda layer, found: None).__enter__()


def test_attention_weights_of_one_layer_are_gone_when_the_next_is_shown(loaded):
    import weakref

    alive, most = [], 0

    def visit(layer, found):
        nonlocal most
        alive.append(weakref.ref(found))
        most = max(most, sum(ref() is not None for ref in alive))

    embedded = embedded_toy(toy_language_model(toy_llama(300, layers=4), loaded.tokenizer))
    with each_layer(embedded.loaded, visit), torch.no_grad():
        embedded(embedded.prompt_PD[None])
    assert (len(alive), most) == (4, 1)


def test_attention_gradients_leave_no_graph_behind(loaded):
    import gc
    import weakref

    embedded, alive = embedded_toy(loaded), []

    def forward(module, inputs, output):
        alive.append(weakref.ref(output[1]))

    handles = [m.register_forward_hook(forward) for m in attention_modules(loaded.model)]
    gc.disable()
    try:
        attention_x_gradient.attribute(embedded)
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()


def words_of(text):
    units, start = [], 0
    for word in text.split(" "):
        units.append(Unit(level="word", start=start, end=start + len(word)))
        start += len(word) + 1
    return [unit for unit in units if unit.end > unit.start]


@pytest.mark.parametrize("bos", [False, True], ids=["no bos", "bos"])
def test_maps_match_a_plain_loop_and_add_up_to_one(bos):
    loaded = loaded_toy("llama", bos=bos)
    [passage] = read_passages(loaded, PROMPT, ANSWERS[:1])
    units = words_of(passage.text)
    owner = text_owner(passage, units)
    found = attention_maps(loaded, passage, units)
    expected = torch.zeros(2, 2, len(units), len(units) + 1, dtype=torch.float64)
    whole = all_weights(loaded, passage)
    for i in range(len(owner)):
        for j in range(len(owner)):
            if owner[i] != ALWAYS:
                share = whole[:, :, i, j] / (owner == owner[i]).sum()
                expected[:, :, owner[i], owner[j]] += share  # -1, in none, is the last column
    assert_matches(found.maps_LHUU, expected[..., :-1])
    assert_matches(found.maps_LHUU.sum(-1) + found.rest_LHU, np.ones((2, 2, len(units))))
    if bos:
        assert (owner[0], found.rest_LHU.min() > 0) == (ALWAYS, True)
    assert set(owner[passage.first :]) >= {len(units) - 2, len(units) - 1}  # of the completion


def changed(loaded, layer=1, head=0):
    # A copy in which one head's queries are turned round, and so look elsewhere.
    model = copy.deepcopy(loaded.model)
    width = 4
    model.model.layers[layer].self_attn.q_proj.weight[head * width : (head + 1) * width] *= -3
    return toy_language_model(model, loaded.tokenizer)


def test_comparison_finds_the_changed_head_first_and_what_it_looks_at():
    loaded = loaded_toy("llama")
    tuned = changed(loaded)
    [passage] = read_passages(loaded, PROMPT, ANSWERS[:1])
    units = words_of(passage.text)
    found = compare_heads(loaded, tuned, passage, units)
    assert (found[0].layer, found[0].head) == (1, 0)
    assert [change.divergence for change in found[1:]] == [0, 0, 0]
    reads = slice(passage.first - 1, len(passage.tokens) - 1)
    old, new = (all_weights(model, passage)[1, 0, reads] for model in (loaded, tuned))
    mean = (old + new) / 2
    bits = sum(F.kl_div(mean.log(), p, reduction="none").nansum(-1) for p in (old, new)) / 2
    assert abs(found[0].divergence - float(bits.mean()) / np.log(2)) < 1e-9
    owner = text_owner(passage, units)
    expected = [float((new - old)[:, owner == u].sum(-1).mean()) for u in range(len(units))]
    assert_matches(found[0].change_U, np.array(expected))
    gained, lost = found[0].gained, found[0].lost
    assert found[0].change_U[gained[0]] == max(expected) > 0 > min(expected)
    assert found[0].change_U[lost[0]] == min(expected)
    assert not set(gained) & set(lost)


def test_comparison_of_a_model_with_itself_finds_nothing(loaded):
    [passage] = read_passages(loaded, PROMPT, ANSWERS[:1])
    for change in compare_heads(loaded, loaded, passage, words_of(passage.text), every_row=True):
        assert change.divergence == 0
        assert change.gained == change.lost == []


def test_comparison_of_every_row_reads_all_but_the_first():
    loaded = loaded_toy("llama")
    [passage] = read_passages(loaded, PROMPT, ANSWERS[:1])
    found = compare_heads(loaded, changed(loaded), passage, [], every_row=True)
    old, new = (all_weights(model, passage)[1, 0, 1:] for model in (loaded, changed(loaded)))
    assert abs(found[0].divergence - float(divergence(old, new).mean())) < 1e-12


def test_divergence_is_one_bit_for_rows_with_nothing_in_common():
    p, q = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]] * 2)
    assert_matches(divergence(p, q), torch.ones(2).double())
    assert_matches(divergence(p, p), torch.zeros(2).double())


def test_comparison_refuses_other_tokenizers_and_shapes():
    loaded = loaded_toy("llama")
    [passage] = read_passages(loaded, PROMPT, ANSWERS[:1])
    deeper = toy_language_model(toy_llama(len(loaded.tokenizer), layers=3), loaded.tokenizer)
    with pytest.raises(InputError, match="2 layers of 2 heads, toy 3 layers of 2 heads"):
        compare_heads(loaded, deeper, passage, [])
    other = toy_tokenizer()
    other.add_tokens(["one more"])
    with pytest.raises(InputError, match="different tokenizers"):
        compare_heads(loaded, toy_language_model(loaded.model, other), passage, [])
