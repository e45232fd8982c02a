"""Prompts become units: where each level cuts, and that all levels are one tree of whole tokens."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from influence.errors import InputError
from influence.inputs import boundaries
from influence.inputs.passage import Unit, read_passages, units_of_tokens
from influence.inputs.units import LEVELS, children, parent, split_units, unit_tree
from tests.influence.test_inputs_passage import metaspace_tokenizer, smollm2, word_tokenizer
from tests.toys import CHAT_TEMPLATE, toy_language_model, toy_tokenizer

SPLITTERS = ("sections", "paragraphs", "sentences", "phrases", "words")
FRAGMENTS = (
    *("the Paris", "and", " is on.", "Dr. Smith", " e.g. this", "3.14", "don't", "(a) b", "x—y"),
    *(" ", "  ", "\n", "\n\n", "\r\n", "\t", "\u2028", "\x85", "\xa0", "\u3000", "\x00", "\u200b"),
    *("Q: ", "A:", "Question: ", "## Head\n", "1. Intro\n\n", "---\n", "<doc>\n", "</doc>\n"),
    *(
        "我喜歡北京，因为它很大。",
        "東京へ行きます。",
        "「はい」",
        "สวัสดีครับ",
        "ខ្ញុំ",
        "नमस्ते।",
        "مرحبا؟",
        "Да. И т.д.",
    ),
    *("🙂", "👩‍👩‍👧", "é", "e\u0301", "=>", "\n- item", "**b**", '"Hi!" ', "<eos>", "<bos>"),
)
TEXTS = st.lists(
    st.sampled_from(FRAGMENTS) | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=25
).map("".join)


def loaded_with(tokenizer):
    return replace(toy_language_model(None, tokenizer), max_tokens=10_000)


TOY = loaded_with(toy_tokenizer(bos=True, eos=True, chat_template=CHAT_TEMPLATE))
TOKENIZERS = {
    "bytes": TOY,
    "slow": loaded_with(ByT5Tokenizer()),
    "metaspace": loaded_with(metaspace_tokenizer()),
    "words": loaded_with(word_tokenizer()),
}


def passage_of(prompt, loaded=TOY, completion=" on"):
    return read_passages(loaded, prompt, [completion])[0]


def texts_of(prompt, level, loaded=TOY, **options):
    passage = passage_of(prompt, loaded)
    units = split_units(passage, level, **options)
    return [passage.text[unit.start : unit.end] for unit in units]


# One tree


def check_tree(loaded, passage):
    """Every level parts the same characters and tokens, and lies in the next."""
    tree = unit_tree(passage)
    assert tuple(tree) == LEVELS
    owners = {level: units_of_tokens(passage, units) for level, units in tree.items()}
    for level, units in tree.items():
        assert all(unit.level == level for unit in units)
        assert all(before.end <= after.start for before, after in pairwise(units))
        assert all(passage.text[unit.start : unit.end] for unit in units)
        owned = set(owners[level][owners[level] >= 0])
        assert owned == set(range(len(units))), f"a {level} without a token"
        assert ((owners[level] >= 0) == (owners["token"] >= 0)).all()
        assert split_units(passage, level) == units
    for finer, coarser in pairwise(LEVELS):
        assert {u.start for u in tree[coarser]} <= {u.start for u in tree[finer]}
        assert {u.end for u in tree[coarser]} <= {u.end for u in tree[finer]}
        for unit in tree[coarser]:
            inside = children(tree, unit)
            assert inside
            assert (inside[0].start, inside[-1].end) == (unit.start, unit.end)
            assert all(parent(tree, part) == unit for part in inside)
        assert sum(len(children(tree, unit)) for unit in tree[coarser]) == len(tree[finer])
    return tree


@settings(deadline=None, max_examples=150)
@given(text=TEXTS)
@example(text="the Paris\n\n\n")
@example(text=" Dr.\x85A. x")
@pytest.mark.parametrize("name", TOKENIZERS)
def test_levels_are_one_tree_that_parts_the_prompt(name, text):
    loaded = TOKENIZERS[name]
    try:
        passage = passage_of(text, loaded)
        tree = check_tree(loaded, passage)
    except InputError as error:
        if not re.search("empty prompt|no token", str(error)):
            raise
        reject()
    assert len(tree["prompt"]) == 1
    if not any(special in text for special in ("<bos>", "<eos>")):
        for units in tree.values():
            joined = "".join(text[unit.start : unit.end] for unit in units)
            assert joined == text[: len(joined)] == text


@settings(deadline=None, max_examples=60)
@given(contents=st.lists(TEXTS, min_size=1, max_size=4))
def test_levels_are_one_tree_that_parts_the_turns_of_a_chat(contents):
    messages = [
        {"role": ("user", "assistant")[turn % 2], "content": content}
        for turn, content in enumerate(contents)
    ]
    try:
        passage = passage_of(messages)
        tree = check_tree(TOY, passage)
    except InputError as error:
        if not re.search("empty prompt|no token", str(error)):
            raise
        reject()
    for level in LEVELS[:-2]:
        for unit in tree[level]:
            assert sum(c.start <= unit.start and unit.end <= c.end for c in passage.contents) == 1
    free_L = units_of_tokens(passage, tree["prompt"]) == 0
    assert not (free_L & passage.fixed_L).any()


@settings(deadline=None, max_examples=300)
@given(text=TEXTS)
@pytest.mark.parametrize("name", SPLITTERS)
def test_pieces_joined_are_the_text(name, text):
    pieces = getattr(boundaries, name)(text)
    assert "".join(pieces) == text
    assert all(piece.strip() for piece in pieces) or len(pieces) == 1


def test_every_token_is_a_unit_but_those_of_one_character_are_one():
    assert texts_of("the🙂 Paris é", "token") == ["t", "he", "🙂", " Paris", " ", "é"]


def test_a_border_inside_a_token_is_moved_to_its_beginning():
    tokenizer = toy_tokenizer()
    tokenizer.add_tokens(["e. A"])
    assert texts_of("the one. And", "sentence", loaded_with(tokenizer)) == ["the on", "e. And"]


# Words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's  well-known hat.", ["The", " cat's", "  well-", "known", " hat."]),
        ("3,000.5 at 12:30, foo_bar!", ["3,000.5", " at", " 12:", "30,", " foo_bar!"]),
        ('He said "Hi!" (now) ok', ["He", " said", ' "Hi!"', " (now)", " ok"]),
        ("a\n\nb\n  - c", ["a\n\n", "b\n", "  - c"]),
        ("$5 x = y — z", ["$5", " x", " =", " y —", " z"]),
        ("我喜歡北京，不是上海。", ["我", "喜歡", "北京，", "不是", "上海。"]),
        ("東京へ行きます", ["東京", "へ", "行き", "ます"]),
        ("สวัสดีครับ ผมชื่อโจ", ["สวัสดี", "ครับ", " ผม", "ชื่อ", "โจ"]),
        ("🙂🙂 a 👩‍👩‍👧b", ["🙂", "🙂", " a", " 👩‍👩‍👧", "b"]),
        ("...", ["..."]),
    ],
)
def test_words(text, expected):
    assert boundaries.words(text) == expected
    assert texts_of(text, "word") == expected


# Phrases


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes, I do; now: go — on.", ["Yes,", " I do;", " now:", " go —", " on."]),
        ("He has 3,000 at 12:30 (or so), ok", ["He has 3,000 at 12:30", " (or so),", " ok"]),
        ("see http://a.b/c(d), now", ["see http://a.b/c(d),", " now"]),
        ("因为它大，所以好、很好", ["因为它大，", "所以好、", "很好"]),
        ("สวัสดีครับ ผมชื่อโจ", ["สวัสดีครับ", " ผมชื่อโจ"]),
        (
            "the old man sat down because the young dog ran",
            ["the old man sat down", " because the young dog ran"],
        ),
        ("a b c d e f g h i j", ["a b c d e", " f g h i j"]),
    ],
)
def test_phrases(text, expected):
    assert boundaries.phrases(text) == expected


def test_no_phrase_is_long():
    words = " ".join(["word"] * 100)
    assert (
        max(len(phrase.split()) for phrase in boundaries.phrases(words)) <= boundaries.LONG_PHRASE
    )


# Sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one sentence", ["one sentence"]),
        (
            "Dr. Smith came at 3.5 p.m. yesterday. He left!",
            ["Dr. Smith came at 3.5 p.m. yesterday.", " He left!"],
        ),
        ("He asked: really? Yes.\n", ["He asked: really?", " Yes.\n"]),
        ("你好。我喜歡。嗎？", ["你好。", "我喜歡。", "嗎？"]),
        ("नमस्ते। कैसे हो? ठीक।", ["नमस्ते।", " कैसे हो?", " ठीक।"]),
        ("Это г. Москва. Он там.", ["Это г. Москва.", " Он там."]),
        ("Բարեւ։ Ինչպես ես։", ["Բարեւ։", " Ինչպես ես։"]),
        ("- one\n- two three\n2. four. five", ["- one\n", "- two three\n", "2. four.", " five"]),
        ("roses are red\nviolets are blue", ["roses are red\n", "violets are blue"]),
        ("🙂🙂🙂 One day. Go on. 👩‍👩‍👧 Stop.", ["🙂🙂🙂 One day.", " Go on.", " 👩‍👩‍👧 Stop."]),
        (
            "One day.\x85A. Curie\u3000came. Two days.",
            ["One day.", "\x85A. Curie\u3000came.", " Two days."],
        ),
    ],
)
def test_sentences(text, expected):
    assert boundaries.sentences(text) == expected


@pytest.mark.parametrize("space", ["\xa0", "\u3000", "\u2009"])
def test_sentences_survive_white_space_that_the_library_breaks_off_at(space):
    assert boundaries.sentences(f"Plan A{space}. Go on.") == [f"Plan A{space}.", " Go on."]


def test_a_long_line_without_an_end_mark_goes_on_in_the_next():
    long = "This line is so long that somebody has wrapped it at"
    assert boundaries.sentences(f"{long}\nthe margin. Next.") == [f"{long}\nthe margin.", " Next."]
    assert boundaries.sentences(f"{long}\n- item") == [f"{long}\n", "- item"]
    assert boundaries.sentences(f"{long}\nAnswer: x") == [f"{long}\n", "Answer: x"]
    assert len(long) >= boundaries.WRAPPED_LINE


# Paragraphs and sections


def test_paragraphs_end_at_blank_lines():
    assert boundaries.paragraphs("\n\na\nb\n \n\n c\r\n\r\nd\n\n") == [
        "\n\na\nb\n \n\n",
        " c\r\n\r\n",
        "d\n\n",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Do it.\n\n# One\na\n\nb\n## Two\nc", ["Do it.\n\n", "# One\na\n\nb\n", "## Two\nc"]),
        ("One\n===\na\n\nTwo\n---\nb", ["One\n===\na\n\n", "Two\n---\nb"]),
        (
            "1. Intro\n\na b.\n\n2.1 More to say\n\nc",
            ["1. Intro\n\na b.\n\n", "2.1 More to say\n\nc"],
        ),
        ("1. Do this.\n\n2. Do that.", ["1. Do this.\n\n2. Do that."]),
        (
            "Context: a\nb\n\nQuestion: c?\nAnswer:",
            ["Context: a\nb\n\n", "Question: c?\n", "Answer:"],
        ),
        ("**Final answer**: a\nDocument 2: b", ["**Final answer**: a\n", "Document 2: b"]),
        ("背景：它很大。\n问题：什么？", ["背景：它很大。\n", "问题：什么？"]),
        ("see: that\nhttps://a.b\nat 12:30", ["see: that\nhttps://a.b\nat 12:30"]),
        ("Use it.\n<doc id=1>\na\n</doc>\nWhy?", ["Use it.\n", "<doc id=1>\na\n</doc>\n", "Why?"]),
        ("a\n\n---\n\nb", ["a\n\n---\n\n", "b"]),
        ("[Document 1]\na\n[Document 2]\nb", ["[Document 1]\na\n", "[Document 2]\nb"]),
    ],
)
def test_sections(text, expected):
    assert boundaries.sections(text) == expected


# Chats and special tokens


def test_a_turn_is_a_section_and_a_pair_of_turns_an_example():
    messages = [
        {"role": "system", "content": "the an"},
        {"role": "user", "content": "the is. On"},
        {"role": "assistant", "content": "Q: c"},
        {"role": "user", "content": "the Paris"},
    ]
    passage = passage_of(messages)
    sections = split_units(passage, "section")
    assert [unit.label for unit in sections] == ["system", "user", "assistant", "user"]
    assert texts_of(messages, "section") == [m["content"] for m in messages]
    assert texts_of(messages, "sentence") == ["the an", "the is.", " On", "Q: c", "the Paris"]
    examples = split_units(passage, "example")
    assert [unit.label for unit in examples] == ["instruction", "example 1", "query"]
    assert texts_of(messages, "example")[1] == "the is. On<eos>\n<assistant>Q: c"
    [prompt] = texts_of(messages, "prompt")
    assert prompt == "the an<eos>\n<user>the is. On<eos>\n<assistant>Q: c<eos>\n<user>the Paris"


def test_special_tokens_written_in_a_text_part_it_and_are_in_no_small_unit():
    text = "<bos>the an<eos>\n<bos>is on.<eos> a"
    assert texts_of(text, "section") == ["the an", "is on.", " a"]
    assert texts_of(text, "word") == ["the", " an", "is", " on.", " a"]
    assert texts_of(text, "prompt") == ["the an<eos>\n<bos>is on.<eos> a"]


# Given examples


def test_examples_may_be_given():
    text = "the an is on Paris"
    passage = passage_of(text)
    units = split_units(passage, "example", examples=[(4, 6), (7, 9)])
    assert [(text[u.start : u.end], u.label) for u in units] == [
        ("the", "instruction"),
        (" an", "example 1"),
        (" is", "example 2"),
        (" on Paris", "query"),
    ]
    assert texts_of(text, "sentence", examples=[(4, 9)]) == ["the", " an is", " on Paris"]
    for spans in ([(4, 4)], [(4, 7), (6, 9)], [(-1, 3)], [(4, 19)]):
        with pytest.raises(InputError, match="expected disjoint parts of the prompt"):
            split_units(passage, "example", examples=spans)


# Refusals


def test_split_units_refuses_unknown_levels():
    with pytest.raises(
        InputError, match=r"unit 'Sentences', expected one of token, .* 'sentence'\?"
    ):
        split_units(passage_of("the"), "Sentences")
    with pytest.raises(InputError, match=r"unit 'zzz', expected one of [a-z, ]*prompt\.$"):
        split_units(passage_of("the"), "zzz")


# A real tokenizer


@pytest.mark.slow
def test_levels_of_a_real_prompt():
    loaded = loaded_with(smollm2())
    prompt = (
        "Use the context.\n\nContext: Marie Curie won the Nobel Prize in 1903, with Pierre. "
        "Dr. Lang agrees 👩‍👩‍👧. 我喜歡北京。\n\nQuestion: Who won?\nAnswer:"
    )
    passage = passage_of(prompt, loaded, " Marie")
    tree = check_tree(loaded, passage)
    texts = {level: [prompt[u.start : u.end] for u in units] for level, units in tree.items()}
    assert texts["section"] == [
        "Use the context.\n\n",
        prompt[18 : prompt.index("Question")],
        "Question: Who won?\n",
        "Answer:",
    ]
    assert texts["sentence"][2:4] == [" Dr. Lang agrees 👩‍👩‍👧.", " 我喜歡北京。\n\n"]
    assert texts["word"][:5] == ["Use", " the", " context.\n\n", "Context:", " Marie"]
    owner_L = units_of_tokens(passage, tree["token"])
    assert np.array_equal(np.unique(owner_L[: passage.first]), np.arange(len(tree["token"])))
    unit = tree["word"][2]
    assert unit == Unit(level="word", start=7, end=18)
