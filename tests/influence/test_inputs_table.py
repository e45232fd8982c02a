"""Removal, and the evaluated table: what the model says of each completion under each mask."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from influence.errors import InputError
from influence.inputs import evaluate, removal, table
from influence.inputs.passage import Passage, Unit
from influence.models import swap_conv1d
from tests.toys import assert_matches, toy_gpt2, toy_language_model, toy_llama, toy_tokenizer

V, P, U = 280, 9, 5
MODELS = {"llama": toy_llama, "gpt2": toy_gpt2}
OWNER = np.array([-1, 0, 1, 1, 2, 3, 3, 3, 4])
"""Unit of each prompt token; the first is never removed."""


def toy(name, **settings):
    model = MODELS[name](vocab=V, **settings)
    if name == "gpt2":
        swap_conv1d(model)
    return toy_language_model(model, toy_tokenizer(bos=True))


def units():
    """Characters stand for tokens: token i is the character i."""
    starts = [int(np.flatnonzero(OWNER == unit)[0]) for unit in range(U)]
    return [
        Unit(level="word", start=start, end=start + int((OWNER == unit).sum()))
        for unit, start in enumerate(starts)
    ]


def passages(lengths=(3,), seed=0, first=P):
    random = np.random.default_rng(seed)
    prompt = random.integers(3, V, first)
    made = []
    for length in lengths:
        tokens = np.concatenate([prompt, random.integers(3, V, length)]).astype(np.int32)
        starts = np.arange(len(tokens))
        made.append(
            Passage(
                text="x" * len(tokens),
                begin=first,
                tokens=tokens,
                spans_L2=np.stack([starts, starts + 1], axis=1),
                first=first,
                fixed_L=starts == 0,
                contents=(Unit(level="prompt", start=1, end=first),),
            )
        )
    return tuple(made)


def every_mask():
    return np.array(
        [[bool(number >> unit & 1) for unit in range(U)] for number in range(31, -1, -1)]
    )


def leave_one_out():
    return np.vstack([np.ones((1, U), bool), ~np.eye(U, dtype=bool)])


def one_by_one(loaded, passage, kept_U, operator, seed=0):
    """The slow reference: one row, all logits, nothing padded; `mask` by an attention mask."""
    first, embed = passage.first, loaded.model.get_input_embeddings()
    removed = [owner >= 0 and not kept_U[owner] for owner in OWNER]
    ids = torch.from_numpy(passage.tokens.astype(np.int64))
    stays = torch.tensor([not gone for gone in removed] + [True] * (len(ids) - first))
    vectors, attended = embed(ids), torch.ones(len(ids), dtype=torch.int64)
    weights = embed.weight[: len(loaded.tokenizer)]
    match operator:
        case "delete":
            vectors, attended = vectors[stays], attended[stays]
        case "mask":
            attended = stays.long()
        case "replace":
            space = loaded.tokenizer.encode(" ", add_special_tokens=False)[0]
            vectors[~stays] = embed.weight[space]
        case "mean":
            vectors[~stays] = weights.mean(dim=0)
        case "noise":
            random = np.random.default_rng((seed, *np.packbits(kept_U).tolist()))
            draws = torch.from_numpy(random.standard_normal((first, embed.weight.shape[1])))
            noise = weights.mean(dim=0) + weights.std(dim=0, correction=0) * draws
            vectors[~stays] = noise[~stays[:first]].to(vectors)
    logits = loaded.model(
        inputs_embeds=vectors[None],
        position_ids=torch.arange(len(vectors))[None],
        attention_mask=attended[None],
    ).logits[0]
    count = len(ids) - first
    before = len(vectors) - count
    last = int(torch.nonzero(attended[:before])[-1])  # a masked token's own logits say what it is
    read = [last, *range(before, len(vectors) - 1)]
    return logits[read].log_softmax(dim=-1).gather(1, ids[first:, None])[:, 0]


def reference(loaded, read, kept_MU, operator, seed=0):
    return [
        torch.stack([one_by_one(loaded, passage, kept_U, operator, seed) for kept_U in kept_MU])
        for passage in read
    ]


@pytest.fixture(params=["shared beginnings", "none shared"])
def sharing(request, monkeypatch):
    monkeypatch.setattr(evaluate, "SAVED", 0.0 if request.param == "shared beginnings" else 2.0)


class Seen(list):
    """Rows and tokens of all forward passes; `whole`: with the tokens that are cached."""


@pytest.fixture
def passes(monkeypatch):
    seen, whole = Seen(), []
    seen.whole = whole
    original = evaluate._inputs

    def watched(*args):
        inputs = original(*args)
        ids = inputs.get("input_ids", inputs.get("inputs_embeds"))
        seen.append(tuple(ids.shape[:2]))
        whole.append(tuple(inputs["attention_mask"].shape))
        return inputs

    monkeypatch.setattr(evaluate, "_inputs", watched)
    return seen


@pytest.mark.parametrize("budget", [1, 40, 4096])
@pytest.mark.parametrize("operator", removal.OPERATORS)
@pytest.mark.parametrize("name", MODELS)
def test_batches_say_what_one_row_at_a_time_says(name, operator, budget, sharing):
    loaded, read, kept_MU = toy(name), passages((3, 1, 4)), every_mask()
    found = evaluate.evaluate_masks(loaded, read, units(), operator, kept_MU, budget, seed=7)
    for values_MT, expected_MT in zip(
        found.log_probs, reference(loaded, read, kept_MU, operator, 7), strict=True
    ):
        assert values_MT.dtype == np.float64
        assert_matches(values_MT, expected_MT)
    assert found.rows == 3 * len(kept_MU)


def test_left_padding_without_positions_would_be_wrong_on_gpt2():
    loaded, (passage,) = toy("gpt2"), passages()
    ids = torch.from_numpy(passage.tokens.astype(np.int64))
    mask = torch.tensor([[0] * 5 + [1] * len(ids)])
    padded = torch.cat([torch.zeros(5, dtype=torch.int64), ids])[None]
    alone = loaded.model(input_ids=ids[None]).logits[0, -1]
    trap = loaded.model(input_ids=padded, attention_mask=mask).logits[0, -1]
    assert float((trap - alone).abs().max()) > 0.1
    long, short = np.ones((1, U), bool), np.zeros((1, U), bool)
    both = evaluate.evaluate_masks(loaded, [passage], units(), "delete", np.vstack([long, short]))
    single = evaluate.evaluate_masks(loaded, [passage], units(), "delete", short)
    assert_matches(both.log_probs[0][1:], single.log_probs[0])


def test_masking_is_deleting_where_positions_do_not_matter_and_only_there(sharing):
    loaded, read, kept_MU = toy("gpt2"), passages(), every_mask()
    both = [
        evaluate.evaluate_masks(loaded, read, units(), operator, kept_MU).log_probs[0]
        for operator in ("delete", "mask")
    ]
    assert np.abs(both[0] - both[1]).max() > 0.01
    loaded.model.transformer.wpe.weight.zero_()
    both = [
        evaluate.evaluate_masks(loaded, read, units(), operator, kept_MU).log_probs[0]
        for operator in ("delete", "mask")
    ]
    assert_matches(both[0], both[1])


@pytest.mark.parametrize("name", MODELS)
def test_masking_what_no_token_reads_changes_nothing(name):
    loaded = toy(name)
    for key, weight in loaded.model.named_parameters():
        if ("o_proj" in key or "attn.c_proj" in key) and key.endswith("weight"):
            weight.zero_()  # every token sees itself alone
    kept_MU = leave_one_out()
    (values_MT,) = evaluate.evaluate_masks(loaded, passages(), units(), "mask", kept_MU).log_probs
    assert_matches(values_MT[1:-1], np.repeat(values_MT[:1], U - 1, axis=0))
    assert np.abs(values_MT[-1, 0] - values_MT[0, 0]) > 1e-3  # the last token of the prompt speaks


def test_nothing_left_is_an_anchor():
    loaded, (passage,) = toy("gpt2"), passages()
    bare = replace(passage, fixed_L=np.zeros(len(passage.tokens), bool))
    gone_L = np.arange(len(passage.tokens)) < P
    rows = {
        name: removal.make_row(bare, gone_L, removal.removal_of(loaded, name))
        for name in ("delete", "mask")
    }
    assert rows["delete"].tokens.tolist() == [1, *passage.tokens[P:]]
    assert rows["mask"].tokens.tolist() == [1, *passage.tokens[P:]]
    assert rows["mask"].positions_L.tolist() == [P - 1, P, P + 1, P + 2]
    loaded.model.transformer.wpe.weight.zero_()
    deleted, masked = evaluate.log_probabilities(loaded, list(rows.values()))
    ids = torch.tensor([[1, *passage.tokens[P:]]])
    logits = loaded.model(input_ids=ids).logits[0, :-1].log_softmax(dim=-1)
    assert_matches(deleted, logits.gather(1, ids[0, 1:, None])[:, 0])
    assert_matches(masked, deleted)


def test_a_completion_of_nothing_stands_after_the_anchor():
    loaded, (passage,) = toy("llama"), passages(first=P)
    alone = replace(passage, tokens=passage.tokens[P:], first=0)
    for operator in removal.OPERATORS:
        row = removal.make_row(alone, np.zeros(3, bool), removal.removal_of(loaded, operator))
        assert row.tokens.tolist() == [1, *passage.tokens[P:]]
        assert row.first == 1


def test_equal_rows_are_sent_once(passes):
    loaded, read = toy("llama"), passages((3, 3))
    read = (read[0], read[0])
    kept_MU = np.vstack([leave_one_out(), leave_one_out()])
    found = evaluate.evaluate_masks(loaded, read, units(), "delete", kept_MU)
    assert found.rows == U + 1 == sum(rows for rows, _ in passes)
    assert_matches(found.log_probs[0], found.log_probs[1])
    assert_matches(found.log_probs[0][: U + 1], found.log_probs[0][U + 1 :])


def test_rows_that_replacing_makes_equal_are_sent_once():
    loaded, (passage,) = toy("llama"), passages()
    space = removal.replacement_id(loaded)
    tokens = passage.tokens.copy()
    tokens[1] = space  # unit 0 is what would replace it
    found = evaluate.evaluate_masks(
        loaded, [replace(passage, tokens=tokens)], units(), "replace", leave_one_out()
    )
    assert found.rows == U
    assert_matches(found.log_probs[0][0], found.log_probs[0][1])


@pytest.mark.parametrize("budget", [60, 200, 1000])
def test_no_batch_is_over_the_budget(budget, passes, sharing):
    evaluate.evaluate_masks(toy("llama"), passages((3, 5)), units(), "delete", every_mask(), budget)
    assert all(rows * width <= budget for rows, width in passes.whole)
    assert max(rows for rows, _ in passes) > 1
    assert sum(rows for rows, _ in passes) == 2 * 32


def test_what_is_cached_counts_in_the_budget(passes):
    prompt = np.arange(3, 33)
    rows = [
        removal.Row(
            tokens=np.array([*prompt, last, 5], np.int32),
            first=31,
            positions_L=np.arange(32),
            blurred_L=np.zeros(32, bool),
        )
        for last in range(40, 60)
    ]
    evaluate.log_probabilities(toy("llama"), rows, token_budget=64)
    assert passes[0] == (1, 32)
    assert set(passes[1:]) == {(2, 2), (1, 2)}
    assert all(rows * width <= 64 for rows, width in passes.whole)


def test_leave_one_out_does_not_read_the_beginning_again(passes):
    evaluate.evaluate_masks(
        toy("llama"), passages((2,)), units(), "replace", leave_one_out(), token_budget=11
    )
    # Full row; then each row from its removed unit on: tokens 8, 5, 4, 2 and 1 begin units.
    assert passes[0] == (1, 11)
    assert sorted(width for _, width in passes[1:]) == [3, 6, 7, 9, 10]


@pytest.mark.parametrize("operator", ["delete", "mask", "mean", "noise"])
def test_repeated_words_are_not_mistaken_for_the_same_beginning(operator, sharing):
    loaded, (passage,) = toy("gpt2"), passages()
    tokens = np.where(np.arange(len(passage.tokens)) < P, np.int32(9), passage.tokens)
    same = replace(passage, tokens=tokens)
    found = evaluate.evaluate_masks(loaded, [same], units(), operator, every_mask(), token_budget=1)
    assert_matches(found.log_probs[0], reference(loaded, [same], every_mask(), operator)[0])


def test_a_prompt_with_several_completions_is_read_once(passes):
    random = np.vstack([np.ones((1, U), bool), every_mask()[5:25:3]])
    evaluate.evaluate_masks(toy("llama"), passages((3,) * 6), units(), "replace", random)
    assert sum(rows for rows, _ in passes) == 6 * len(random)
    # Each prompt once with a completion; of the others its last token and the new ones are read.
    assert sum(rows * width for rows, width in passes) <= len(random) * ((P + 3) + 5 * (1 + 3))


@pytest.mark.parametrize("operator", ["delete", "mask"])
def test_logits_are_made_where_the_completion_is_predicted(operator):
    loaded, read = toy("llama"), passages((3,))
    widths = []
    hook = loaded.model.lm_head.register_forward_hook(
        lambda _module, inputs, _output: widths.append(inputs[0].shape[1])
    )
    kept_MU = np.vstack([np.ones((1, U), bool), [[True] * 4 + [False]]])
    evaluate.evaluate_masks(loaded, read, units(), operator, kept_MU, token_budget=1)
    hook.remove()
    assert widths == [3, 3]


TINY = {"vocab_size": V, "hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 12}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
FAMILIES = {
    "mistral, window of 4": lambda: MistralForCausalLM(
        MistralConfig(**TINY, **HEADS, sliding_window=4)
    ),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**TINY, **HEADS, head_dim=4, sliding_window=4, final_logit_softcapping=3.0)
    ),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=V, hidden_size=8, n_layer=2, n_head=2)
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=V,
            hidden_size=8,
            word_embed_proj_dim=8,
            num_hidden_layers=2,
            ffn_dim=12,
            num_attention_heads=2,
        )
    ),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=V, hidden_size=8, num_hidden_layers=2, state_size=4)
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_architectures_say_what_they_say_of_one_row(family, sharing):
    torch.manual_seed(0)
    model = FAMILIES[family]().double().eval().requires_grad_(False)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    loaded = toy_language_model(model, toy_tokenizer(bos=True))
    read, kept_MU = passages((3, 2)), leave_one_out()
    found = evaluate.evaluate_masks(loaded, read, units(), "delete", kept_MU)
    for passage, values_MT in zip(read, found.log_probs, strict=True):
        for kept_U, values_T in zip(kept_MU, values_MT, strict=True):
            gone = [owner >= 0 and not kept_U[owner] for owner in OWNER]
            ids = torch.tensor([[*passage.tokens[:P][~np.array(gone)], *passage.tokens[P:]]])
            log_p = model(input_ids=ids).logits[0].log_softmax(dim=-1)
            count = len(values_T)
            expected_T = log_p[-count - 1 : -1].gather(1, ids[0, -count:, None])[:, 0]
            # Some of these take norms and softmax in float32.
            np.testing.assert_allclose(values_T, expected_T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("operator", removal.OPERATORS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_no_kernel_or_window_makes_a_row_nan(attention, operator, sharing):
    torch.manual_seed(0)
    config = MistralConfig(**TINY, **HEADS, sliding_window=4, attn_implementation=attention)
    model = MistralForCausalLM(config).double().eval().requires_grad_(False)
    loaded, kept_MU = toy_language_model(model, toy_tokenizer(bos=True)), every_mask()
    bare = [replace(p, fixed_L=np.zeros(len(p.tokens), bool)) for p in passages((3, 6))]
    found = evaluate.evaluate_masks(loaded, bare, units(), operator, kept_MU)
    assert all(np.isfinite(values_MT).all() for values_MT in found.log_probs)


def test_an_adapter_counts(sharing):
    peft = pytest.importorskip("peft")
    base = toy_llama(vocab=V)
    plain = evaluate.evaluate_masks(
        toy_language_model(base), passages(), units(), "mean", leave_one_out()
    )
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    loaded = toy_language_model(peft.get_peft_model(base, config).double().eval())
    found = evaluate.evaluate_masks(loaded, passages(), units(), "mean", leave_one_out())
    expected = reference(loaded, passages(), leave_one_out(), "mean")
    assert_matches(found.log_probs[0], expected[0])
    assert np.abs(found.log_probs[0] - plain.log_probs[0]).max() > 1e-3


def test_half_precision_logits_are_summed_in_single(sharing):
    loaded = toy("llama", dtype=torch.bfloat16)
    (values_MT,) = evaluate.evaluate_masks(
        loaded, passages(), units(), "delete", leave_one_out()
    ).log_probs
    rounded = torch.from_numpy(values_MT).to(torch.bfloat16).double().numpy()
    assert (rounded != values_MT).mean() > 0.9


def state_of(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [
            (dict(module._forward_hooks), dict(module._forward_pre_hooks))
            for module in model.modules()
        ],
        [parameter.grad for parameter in model.parameters()],
        torch.is_grad_enabled(),
        torch.random.get_rng_state().tolist(),
        model.config.to_dict(),
    )


@pytest.mark.parametrize("fails_at", [None, 1, 2, 3])
@pytest.mark.parametrize("operator", ["delete", "noise"])
def test_the_model_is_left_as_it_was(operator, fails_at, sharing):
    loaded = toy("gpt2")
    loaded.model.transformer.h[0].train()
    loaded.model.lm_head.requires_grad_(True)
    calls = []

    def count(*_):
        calls.append(1)
        if len(calls) == fails_at:
            raise MemoryError("planted")

    loaded.model.transformer.h[1].register_forward_hook(count)
    before = state_of(loaded.model)
    arguments = (loaded, passages((3, 4)), units(), operator, leave_one_out(), 30)
    if fails_at is None:
        evaluate.evaluate_masks(*arguments)
    else:
        with pytest.raises(MemoryError, match="planted"):
            evaluate.evaluate_masks(*arguments)
    after = state_of(loaded.model)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]


def test_dropout_is_off_and_the_training_flags_come_back():
    loaded = toy("gpt2")
    expected = evaluate.evaluate_masks(loaded, passages(), units(), "delete", leave_one_out())
    loaded.model.train()
    found = evaluate.evaluate_masks(loaded, passages(), units(), "delete", leave_one_out())
    assert_matches(found.log_probs[0], expected.log_probs[0])
    assert all(module.training for module in loaded.model.modules())


def test_moments_are_of_what_the_embedding_layer_returns_for_known_tokens():
    loaded = toy("llama")
    loaded.model.model.embed_tokens.register_forward_hook(lambda _m, _i, output: 3 * output)
    weights = loaded.model.model.embed_tokens.weight[: len(loaded.tokenizer)]
    assert len(loaded.tokenizer) < V
    mean_D, deviation_D = removal.embedding_moments(loaded)
    assert_matches(mean_D, 3 * weights.mean(dim=0))
    assert_matches(deviation_D, 3 * weights.std(dim=0, correction=0))


def test_noise_depends_on_the_seed_and_the_mask_alone():
    loaded, kept_MU = toy("llama"), leave_one_out()

    def values(seed, masks=kept_MU, budget=4096):
        return evaluate.evaluate_masks(
            loaded, passages(), units(), "noise", masks, budget, seed
        ).log_probs[0]

    assert_matches(values(1)[::-1].copy(), values(1, kept_MU[::-1], budget=1))
    assert np.abs(values(1)[1:] - values(2)[1:]).min() > 1e-6
    assert_matches(values(1)[0], values(2)[0])


def test_the_replacement_is_unknown_then_mask_then_a_plain_token():
    loaded = toy("gpt2")
    tokenizer = loaded.tokenizer
    assert removal.replacement_id(loaded) == tokenizer.encode(" ", add_special_tokens=False)[0]
    tokenizer.unk_token = "<eos>"  # as GPT-2 has it: marks the end of a text, too
    assert removal.replacement_id(loaded) == tokenizer.encode(" ", add_special_tokens=False)[0]
    tokenizer.mask_token = "M"
    assert removal.replacement_id(loaded) == tokenizer.convert_tokens_to_ids("M")
    tokenizer.unk_token = "U"
    assert removal.replacement_id(loaded) == tokenizer.convert_tokens_to_ids("U")


def test_tables_are_merged_extended_and_looked_up():
    loaded, read, kept_MU = toy("llama"), passages((3, 2)), every_mask()

    def evaluated(masks):
        return evaluate.evaluate_masks(loaded, read, units(), "delete", masks)

    whole = evaluated(kept_MU)
    first, second = evaluated(kept_MU[:20]), evaluated(kept_MU[15:])
    joined = table.merged([first, second])
    assert_matches(joined.kept_MU, kept_MU)
    assert joined.rows == 2 * (20 + 17)
    for values_MT, expected_MT in zip(joined.log_probs, whole.log_probs, strict=True):
        assert_matches(values_MT, expected_MT)
    asked = []

    def missing(masks):
        asked.append(masks)
        return evaluated(masks)

    longer = table.extended(first, kept_MU[10:30], missing)
    assert_matches(asked[0], kept_MU[20:30])
    assert_matches(longer.kept_MU, kept_MU[:30])
    assert longer.rows == 2 * 30
    assert table.extended(longer, kept_MU[3:5], missing) is longer
    assert len(asked) == 1
    part = table.selected(longer, kept_MU[[7, 2, 7]])
    assert part.rows == 0
    assert_matches(part.log_probs[1], whole.log_probs[1][[7, 2, 7]])
    assert table.rows_of(longer, kept_MU[[2, 31]]).tolist() == [2, -1]


def test_bad_input_gets_one_clear_message():
    loaded, read, kept_MU = toy("llama"), passages(), leave_one_out()
    with pytest.raises(InputError, match="operator 'erase', expected one of delete, replace"):
        evaluate.evaluate_masks(loaded, read, units(), "erase", kept_MU)
    with pytest.raises(InputError, match=r"masks of shape \(6, 4\), bool, expected \(masks, 5"):
        evaluate.evaluate_masks(loaded, read, units(), "delete", kept_MU[:, :4])
    with pytest.raises(InputError, match="float64, expected"):
        evaluate.evaluate_masks(loaded, read, units(), "delete", kept_MU.astype(float))
    torch.manual_seed(0)
    bloom = toy_language_model(FAMILIES["bloom"]().eval())
    with pytest.raises(InputError, match="mask, but BloomForCausalLM takes no position ids"):
        evaluate.evaluate_masks(bloom, read, units(), "mask", kept_MU)
    with pytest.raises(InputError, match="a token of the completion would be removed"):
        removal.make_row(
            read[0], np.ones(len(read[0].tokens), bool), removal.removal_of(loaded, "mask")
        )
    whole = evaluate.evaluate_masks(loaded, read, units(), "delete", kept_MU)
    with pytest.raises(InputError, match="1 of 2 masks are not in the table"):
        table.selected(whole, np.vstack([kept_MU[:1], np.zeros((1, U), bool)]))
    with pytest.raises(InputError, match="0 tables"):
        table.merged([])
    other = evaluate.evaluate_masks(loaded, passages((2,)), units(), "delete", kept_MU)
    with pytest.raises(InputError, match="expected one or more of the same units"):
        table.merged([whole, other])
