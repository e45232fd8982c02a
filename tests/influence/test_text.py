"""Documents to tokens: which are counted, how long texts are cut, how rows are padded."""

import json
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from influence.batches import BATCH_COST
from influence.errors import InfluenceError, TextError
from influence.text import (
    Chunk,
    Document,
    Encoding,
    collate,
    encode,
    encode_query,
    plan_batches,
    token_texts,
    with_targets,
)
from tests.toys import (
    CHAT_TEMPLATE,
    assert_matches,
    random_chunks,
    toy_gpt2,
    toy_llama,
    toy_tokenizer,
)

LONG = Encoding(max_tokens=1000)
CHAT = [
    {"role": "user", "content": "the?"},
    {"role": "assistant", "content": "the Paris"},
    {"role": "user", "content": "and"},
    {"role": "assistant", "content": "on é"},
]


def text(words, **more):
    return Document(id="doc-7", text=words, **more)


def pair(prompt, completion):
    whole = (prompt or "") + (completion or "")
    return text(whole, kind="completion", prompt=prompt, completion=completion)


def chat(messages):
    return text("a chat", kind="chat", messages=json.dumps(messages))


def counted_text(tokenizer, chunk):
    return token_texts_of(tokenizer, chunk.tokens[chunk.loss])


def token_texts_of(tokenizer, tokens):
    return "".join(token_texts(tokenizer, tokens))


def word_tokenizer():
    """Whole words, others unknown; drops the character ~."""
    backend = Tokenizer(WordLevel({"<unk>": 0, "the": 1, "cat": 2}, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace("~", "")
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("eos", [False, True])
def test_encode_counts_all_tokens_of_a_text_but_the_first(bos, eos):
    tokenizer = toy_tokenizer(bos=bos, eos=eos)
    (chunk,) = encode(tokenizer, text("the Paris"), LONG, index=3)
    assert chunk.tokens.tolist() == tokenizer("the Paris").input_ids
    assert chunk.loss.tolist() == [False] + [True] * (len(chunk.tokens) - 1)
    assert (chunk.document, chunk.chunk) == (3, 0)
    assert (chunk.tokens.dtype, chunk.loss.dtype) == (np.int32, bool)


@pytest.mark.parametrize("document", [text("the"), pair("the", " Paris")], ids=["text", "pair"])
@pytest.mark.parametrize("eos", [False, True])
def test_encode_appends_one_counted_end_of_text(document, eos):
    tokenizer = toy_tokenizer(eos=eos)
    (chunk,) = encode(tokenizer, document, Encoding(max_tokens=99, append_eos=True))
    assert chunk.tokens.tolist().count(tokenizer.eos_token_id) == 1
    assert chunk.tokens[-1] == tokenizer.eos_token_id
    assert chunk.loss[-1]


@pytest.mark.parametrize(
    ("prompt", "completion", "counted"),
    [
        ("in the", " Paris", " Paris"),
        ("in the ", "Paris", "Paris"),
        ("in the Pa", "ris", " Paris"),  # the token that crosses the border belongs to it
        ("in thé", " é€", " é€"),
        ("a<eos>b", " the<eos>", " the<eos>"),
    ],
)
@pytest.mark.parametrize("frame", [{}, {"bos": True}], ids=["plain", "bos"])
def test_encode_counts_the_tokens_that_end_in_the_completion(prompt, completion, counted, frame):
    tokenizer = toy_tokenizer(**frame)
    document = pair(prompt, completion)
    (chunk,) = encode(tokenizer, document, LONG)
    assert chunk.tokens.tolist() == tokenizer(prompt + completion).input_ids
    assert counted_text(tokenizer, chunk).lstrip() == counted.lstrip()
    (everything,) = encode(tokenizer, document, Encoding(max_tokens=99, loss_on="all"))
    assert everything.tokens.tolist() == chunk.tokens.tolist()
    assert everything.loss[1:].all()


def test_encode_keeps_the_space_with_the_completions_first_word():
    tokenizer = toy_tokenizer()
    (chunk,) = encode(tokenizer, pair("in the ", "Paris"), LONG)
    assert token_texts(tokenizer, chunk.tokens)[-1] == " Paris"
    assert chunk.loss.sum() == 1


def test_encode_counts_the_end_of_text_that_the_tokenizer_adds_to_a_completion():
    tokenizer = toy_tokenizer(eos=True, bos=True)
    (chunk,) = encode(tokenizer, pair("the", " Paris"), LONG)
    assert counted_text(tokenizer, chunk) == " Paris<eos>"


def test_encode_tokenises_apart_where_the_tokenizer_has_no_offsets():
    tokenizer = ByT5Tokenizer()
    (chunk,) = encode(tokenizer, pair("hé", " yes"), LONG)
    assert chunk.tokens.tolist() == tokenizer("hé yes").input_ids
    assert counted_text(tokenizer, chunk) == " yes</s>"
    (chunk,) = encode(tokenizer, text("hé"), LONG)
    assert chunk.loss.tolist() == [False, True, True, True]
    tokenizer.chat_template = CHAT_TEMPLATE
    (chunk,) = encode(tokenizer, chat(CHAT), LONG)
    assert counted_text(tokenizer, chunk) == "the Paris<eos>on é<eos>"


def test_encode_counts_what_the_assistant_says_and_its_end_of_turn():
    tokenizer = toy_tokenizer(bos=True, eos=True, chat_template=CHAT_TEMPLATE)
    (chunk,) = encode(tokenizer, chat(CHAT), Encoding(max_tokens=999, append_eos=True))
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert token_texts_of(tokenizer, chunk.tokens) == rendered  # no special token beside its own
    assert counted_text(tokenizer, chunk) == "the Paris<eos>on é<eos>"
    (everything,) = encode(tokenizer, chat(CHAT), Encoding(max_tokens=999, loss_on="all"))
    assert everything.loss.tolist() == [False] + [True] * (len(chunk.tokens) - 1)


@pytest.mark.parametrize("max_tokens", [2, 3, 5, 17, 64])
@pytest.mark.parametrize("document", [text("in the Paris is one"), pair("in the ", "Paris is")])
def test_encode_makes_each_counted_token_a_target_once_however_long_the_chunks(
    document, max_tokens
):
    tokenizer = toy_tokenizer()
    (whole,) = encode(tokenizer, document, LONG)
    chunks = encode(tokenizer, document, Encoding(max_tokens=max_tokens))
    seen = Counter()
    # the stretches that hold a counted target, numbered from 0 whatever was dropped before them
    starts = [
        start
        for start in range(0, len(whole.tokens) - 1, max_tokens - 1)
        if whole.loss[start + 1 : start + max_tokens].any()
    ]
    assert [chunk.chunk for chunk in chunks] == list(range(len(starts)))
    for start, chunk in zip(starts, chunks, strict=True):
        assert 2 <= len(chunk.tokens) <= max_tokens
        assert not chunk.loss[0]
        assert chunk.loss.any()
        assert chunk.tokens.tolist() == whole.tokens[start : start + max_tokens].tolist()
        seen.update((start + np.flatnonzero(chunk.loss)).tolist())
    assert seen == Counter(np.flatnonzero(whole.loss).tolist())


def bad_template(text_of_last):
    return "{% for m in messages %}{{ m.role }}{{ m.content }}" + text_of_last + "{% endfor %}"


@pytest.mark.parametrize(
    ("tokenizer", "document", "message"),
    [
        (toy_tokenizer(), text("  \n"), "'doc-7'.*empty document"),
        (toy_tokenizer(), text("a"), r"'doc-7' \('a'\): one token.*first token can't be scored"),
        (toy_tokenizer(), pair("the", ""), "'doc-7'.*empty completion"),
        (toy_tokenizer(), pair("the", None), "'doc-7'.*empty completion"),
        (toy_tokenizer(), pair("", "Paris"), "'doc-7'.*completion starts at the first token"),
        (toy_tokenizer(), pair(None, "Paris"), "'doc-7'.*completion starts at the first token"),
        (toy_tokenizer(), pair("h", "e Paris"), "'doc-7'.*completion starts at the first token"),
        (word_tokenizer(), text("dog fox"), "'doc-7'.*only unknown tokens"),
        (word_tokenizer(), pair("the cat", " dog"), "'doc-7'.*only unknown tokens"),
        (word_tokenizer(), pair("the cat", " ~~"), "'doc-7'.*the completion has no token"),
        (word_tokenizer(), text("~~"), "'doc-7'.*the text has no token"),
        (toy_tokenizer(), chat(CHAT), "'doc-7'.*no chat template"),
        (
            toy_tokenizer(chat_template=CHAT_TEMPLATE),
            text("x", kind="chat", messages="{no"),
            "'doc-7'.*messages are not JSON",
        ),
        (
            toy_tokenizer(chat_template=CHAT_TEMPLATE),
            text("x", kind="chat"),
            "'doc-7'.*messages are not JSON",
        ),
        (
            toy_tokenizer(chat_template=CHAT_TEMPLATE),
            chat([{"role": "user"}]),
            "'doc-7'.*expected a non-empty list",
        ),
        (
            toy_tokenizer(chat_template=CHAT_TEMPLATE),
            chat([]),
            "'doc-7'.*expected a non-empty list",
        ),
        (
            toy_tokenizer(chat_template=CHAT_TEMPLATE),
            chat(CHAT[:1]),
            "'doc-7'.*no turn of the role 'assistant'",
        ),
        (
            toy_tokenizer(chat_template=bad_template("{% if loop.last %}!{% endif %}")),
            chat(CHAT),
            "'doc-7'.*turn 2 is written differently",
        ),
        (
            toy_tokenizer(chat_template=bad_template("{{ raise_exception('only one') }}")),
            chat(CHAT),
            r"'doc-7'.*refuses the messages \(only one\)",
        ),
    ],
)
def test_encode_refuses_what_has_nothing_to_score_and_names_the_document(
    tokenizer, document, message
):
    with pytest.raises(TextError, match=message):
        encode(tokenizer, document, LONG)


def test_encode_shortens_long_texts_in_errors():
    with pytest.raises(TextError, match=r"\('~{57}\.\.\.'\): the text has no token"):
        encode(word_tokenizer(), text("~" * 500), LONG)


def test_encode_refuses_append_eos_without_such_a_token():
    with pytest.raises(TextError, match="append_eos: the tokenizer has no end-of-text"):
        encode(word_tokenizer(), text("the cat"), Encoding(max_tokens=9, append_eos=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Encoding(max_tokens=1), "max_tokens: 1, expected at least 2"),
        (lambda: Encoding(max_tokens=9, loss_on="none"), "loss_on: 'none', expected one of"),
        (lambda: text("x", kind="poem"), "document 'doc-7': kind 'poem', expected one of"),
    ],
)
def test_settings_refuse_unknown_values(make, message):
    with pytest.raises(InfluenceError, match=message):
        make()


@pytest.mark.parametrize("eos", [False, True])
def test_encode_query_counts_the_completion_without_an_added_end_of_text(eos):
    tokenizer = toy_tokenizer(bos=True, eos=eos)
    chunk = encode_query(tokenizer, "in the", " Paris is", 99)
    assert chunk.tokens.tolist() == toy_tokenizer(bos=True)("in the Paris is").input_ids
    assert counted_text(tokenizer, chunk) == " Paris is"


def test_encode_query_allows_an_empty_prompt_after_a_beginning_of_text():
    tokenizer = toy_tokenizer(bos=True)
    assert counted_text(tokenizer, encode_query(tokenizer, "", "the Paris", 99)) == "the Paris"
    with pytest.raises(TextError, match="adds no beginning-of-text token"):
        encode_query(toy_tokenizer(), "", "the Paris", 99)


def test_encode_query_counts_all_but_the_first_token_of_a_whole_text():
    chunk = encode_query(toy_tokenizer(), None, "in the Paris", 99)
    assert chunk.loss.tolist() == [False] + [True] * (len(chunk.tokens) - 1)


@pytest.mark.parametrize(
    ("prompt", "completion", "message"),
    [
        ("the", "", "query.*empty completion"),
        (None, "", "query.*empty completion"),
        (None, "a", "query.*one token, expected at least two"),
        ("abc", "defg", r"7 tokens \(3 of the prompt, 4 of the completion\).*at most 6.*prompt"),
        (None, "abcdefg", r"7 tokens .*at most 6.*Shorten the text"),
    ],
)
def test_encode_query_refuses(prompt, completion, message):
    with pytest.raises(TextError, match=message):
        encode_query(toy_tokenizer(), prompt, completion, 6)


def test_encode_query_fills_the_context_to_the_last_token():
    assert len(encode_query(toy_tokenizer(), "abc", "def", 6).tokens) == 6


def test_collate_shifts_the_targets_and_masks_the_padding():
    chunks = [
        Chunk(4, 1, np.array([5, 6, 7], np.int32), np.array([False, False, True])),
        Chunk(9, 0, np.array([1, 2], np.int32), np.array([False, True])),
    ]
    right, left = collate(chunks, 0), collate(chunks, 0, side="left", extra_padding=1)
    assert right.input_ids.tolist() == [[5, 6, 7], [1, 2, 0]]
    assert right.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert right.position_ids.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert right.targets.tolist() == [[-100, 7, -100], [2, -100, -100]]
    assert left.input_ids.tolist() == [[0, 5, 6, 7], [0, 0, 1, 2]]
    assert left.position_ids.tolist() == [[0, 0, 1, 2], [0, 0, 0, 1]]
    assert left.targets.tolist() == [[-100, -100, 7, -100], [-100, -100, 2, -100]]
    assert (right.document.tolist(), right.chunk.tolist()) == ([4, 9], [1, 0])
    assert right.n_loss_tokens == left.n_loss_tokens == 2
    assert {tensor.dtype for tensor in vars(left).values()} == {torch.int64}


def test_collate_refuses_no_chunks_and_unknown_sides():
    with pytest.raises(TextError, match="collate: 0 chunks"):
        collate([], 0)
    with pytest.raises(TextError, match="side 'top'"):
        collate(random_chunks(), 0, side="top")


def test_batch_to_keeps_every_field():
    batch = collate(random_chunks(), 0)
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in vars(moved).values()} == {"meta"}
    assert moved.targets.shape == batch.targets.shape


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 5, 50])
def test_logits_at_real_tokens_do_not_depend_on_padding(make, side, extra):
    model = make()
    chunks = random_chunks(5)
    batch = collate(chunks, 3, side=side, extra_padding=extra)
    logits = model(
        batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
    ).logits
    for row, chunk in enumerate(chunks):
        alone = model(torch.from_numpy(chunk.tokens).long()[None]).logits[0]
        assert_matches(logits[row][batch.attention_mask[row] == 1], alone)


@pytest.mark.parametrize("side", ["left", "right"])
def test_with_targets_replaces_the_counted_targets_in_order(side):
    chunks = random_chunks()
    batch = collate(chunks, 0, side=side, extra_padding=2)
    labels = [np.arange(chunk.loss.sum()) + 100 * chunk.document for chunk in chunks]
    before = batch.targets.clone()
    changed = with_targets(batch, labels, chunks)
    for row, expected in enumerate(labels):
        assert changed.targets[row][before[row] != -100].tolist() == expected.tolist()
    assert torch.equal(changed.targets == -100, before == -100)
    assert torch.equal(batch.targets, before)  # the argument is left alone
    own = [chunk.tokens[chunk.loss] for chunk in chunks]
    assert torch.equal(with_targets(batch, own, chunks).targets, before)


def test_with_targets_refuses_labels_that_do_not_fit():
    chunks = random_chunks(3)
    batch = collate(chunks, 0)
    labels = [np.zeros(chunk.loss.sum(), np.int64) for chunk in chunks]
    with pytest.raises(TextError, match="labels of 2 rows for 3 chunks and a batch of 3 rows"):
        with_targets(batch, labels[:2], chunks)
    with pytest.raises(TextError, match="document 1, chunk 0: 99 labels, expected"):
        with_targets(batch, [labels[0], np.zeros(99, np.int64), labels[2]], chunks)


@pytest.mark.parametrize("seed", range(5))
def test_plan_batches_holds_every_row_once_within_the_budget(seed):
    lengths = np.random.default_rng(seed).integers(1, 40, 200).tolist()
    plan = plan_batches(lengths, 64, max_rows=5)
    assert sorted(i for rows in plan for i in rows) == list(range(200))
    order = [(lengths[i], i) for rows in plan for i in rows]
    assert order == sorted(order)
    for rows in plan:
        longest = max(lengths[i] for i in rows)
        assert len(rows) == 1 or len(rows) * longest <= 64
        assert len(rows) <= 5
    assert plan_batches(lengths, 64, max_rows=5) == plan


def test_plan_batches_is_the_cheapest_of_all_cuts_of_the_sorted_rows():
    lengths, budget = [3, 9, 4, 4, 20, 5, 10, 30, 3], 40
    costs = []
    for cuts in product([False, True], repeat=len(lengths) - 1):
        parts = [[]]
        for length, cut in zip(sorted(lengths), (False, *cuts), strict=True):
            parts = [*parts, []] if cut else parts
            parts[-1].append(length)
        padded = [len(part) * max(part) for part in parts]
        if max(padded) <= budget:
            costs.append(sum(padded) + len(parts) * BATCH_COST * budget)
    plan = plan_batches(lengths, budget)
    padded = [len(rows) * max(lengths[row] for row in rows) for rows in plan]
    assert sum(padded) + len(plan) * BATCH_COST * budget == min(costs)


def test_plan_batches_gives_long_rows_alone_and_nothing_for_nothing():
    assert plan_batches([500, 3, 400, 3], 10) == [[1, 3], [2], [0]]
    assert plan_batches([], 10) == []


@pytest.mark.parametrize("make", [toy_tokenizer, ByT5Tokenizer], ids=["bpe", "bytes"])
@pytest.mark.parametrize(
    "words", ["in the Paris", "é€", "日本 the 👩‍👩‍👧‍👦!", "a<eos>b", "\n\t  x  ", "\ufffd é", ""]
)
def test_token_texts_join_to_the_decoded_text(make, words):
    tokenizer = make()
    tokens = tokenizer(words, add_special_tokens=False).input_ids
    pieces = token_texts(tokenizer, tokens)
    assert len(pieces) == len(tokens)
    assert "".join(pieces) == words


def test_token_texts_put_a_character_whole_on_its_last_token():
    tokenizer = toy_tokenizer(bos=True)
    assert token_texts(tokenizer, tokenizer("a€ the").input_ids) == [
        *("<bos>", "a", "", "", "€", " the")
    ]


def test_token_texts_show_broken_characters_at_the_end():
    tokenizer = toy_tokenizer()
    tokens = np.array(tokenizer("a€").input_ids[:-1])
    assert "".join(token_texts(tokenizer, tokens)) == tokenizer.decode(tokens.tolist())
