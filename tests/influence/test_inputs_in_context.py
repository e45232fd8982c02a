"""Shares of demonstrations, and the flow through label words against a loop over edges."""

import copy

import numpy as np
import pytest
import torch

from influence.errors import InputError
from influence.inputs.gradient.embedded import embed_target
from influence.inputs.in_context import example_shares, find_labels, label_flow
from influence.inputs.passage import Unit, read_passages
from influence.inputs.targets import Target
from influence.models import swap_conv1d
from tests.toys import assert_matches, toy_gpt2, toy_language_model, toy_llama, toy_tokenizer

PROMPT = "so so: bad\nParis: good\nnot: bad\nthe end:"
EXAMPLES = tuple(
    Unit(level="example", start=start, end=end, label=f"example {i + 1}")
    for i, (start, end) in enumerate([(0, 11), (11, 23), (23, 32)])
)


def shares(spans, scores, examples=EXAMPLES):
    units = [Unit(level="word", start=start, end=end) for start, end in spans]
    return example_shares(units, np.array(scores), examples)


def test_example_shares_add_up_units_in_each_example_and_the_rest():
    found = shares([(0, 3), (3, 11), (11, 23), (24, 30), (32, 40)], [1, -3, 5, -1, 2])
    assert [share.score for share in found] == [-2, 5, -1, 2]
    assert_matches([share.share for share in found], [0.2, 0.5, 0.1, 0.2])
    assert [share.example for share in found] == [*EXAMPLES, None]


def test_example_shares_of_nothing_are_zero():
    found = shares([(0, 3)], [0.0])
    assert [share.share for share in found] == [0.0] * 4


def test_example_shares_refuse_units_that_straddle_and_no_examples():
    with pytest.raises(InputError, match=r"word at characters 9 to 14 is only partly .* 0 to 11"):
        shares([(9, 14)], [1.0])
    with pytest.raises(InputError, match="only partly"):
        shares([(0, 41)], [1.0])
    with pytest.raises(InputError, match="none found, expected at least one"):
        shares([(0, 3)], [1.0], [])


def loaded_toy(family):
    tokenizer = toy_tokenizer()
    model = {"llama": toy_llama, "gpt2": toy_gpt2}[family](vocab=len(tokenizer))
    swap_conv1d(model)
    return toy_language_model(model, tokenizer)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("answer", [" ", "bad"], ids=["one token", "more tokens"])
def test_label_flow_matches_a_loop_over_edges(family, answer):
    loaded = loaded_toy(family)
    [passage] = read_passages(loaded, PROMPT, [answer])
    labels = find_labels(passage, ["bad", "good"])
    assert [label.label for label in labels] == ["bad", "good", "bad"]
    found = label_flow(embed_target(loaded, [passage], Target()), labels)

    model = copy.deepcopy(loaded.model).requires_grad_()
    ids = torch.from_numpy(passage.tokens).long()
    output = model(input_ids=ids[None], output_attentions=True)
    for layer in output.attentions:
        layer.retain_grad()
    reads = list(range(passage.first - 1, len(ids) - 1))
    log_p = output.logits[0].log_softmax(-1)[reads, ids[passage.first :]].sum()
    log_p.backward()
    at = [
        {i for i, (_, end) in enumerate(passage.spans_L2) if label.start < end <= label.end}
        for label in labels
    ]
    at = set().union(*at)
    assert min(at) > 0
    for number, layer in enumerate(output.attentions):
        importance = (layer * layer.grad)[0].sum(0).abs()
        edges = {"to_labels": [], "to_answer": [], "between": []}
        for i in range(reads[-1] + 1):
            for j in range(i):
                if i in reads and j in at:
                    kind = "to_answer"
                elif i in at and i not in reads:
                    kind = "to_labels"
                else:
                    kind = "between"
                edges[kind].append(float(importance[i, j].detach()))
        assert_matches(found.to_labels_L[number], np.mean(edges["to_labels"]))
        assert_matches(found.to_answer_L[number], np.mean(edges["to_answer"]))
        assert_matches(found.between_words_L[number], np.mean(edges["between"]))
    assert_matches(found.value, log_p.item())


def test_label_flow_costs_one_pass():
    loaded = loaded_toy("llama")
    passages = read_passages(loaded, PROMPT, ["bad"])
    embedded = embed_target(loaded, passages, Target())
    label_flow(embedded, find_labels(passages[0], ["bad"]))
    assert (embedded.passes.forward_rows, embedded.passes.backward_rows) == (1, 1)


def test_labels_are_whole_words():
    loaded = loaded_toy("llama")
    [passage] = read_passages(loaded, "a an (a) and a+ a", [" a"])
    found = find_labels(passage, ["a", "a+"])
    assert [(label.start, label.label) for label in found] == [
        (0, "a"),
        (6, "a"),
        (13, "a+"),
        (16, "a"),
    ]


def test_label_flow_refuses_what_it_cannot_read():
    loaded = loaded_toy("llama")
    passages = read_passages(loaded, PROMPT, ["bad", "good"])
    with pytest.raises(InputError, match=r"none of \['fine'\] stands in the prompt"):
        find_labels(passages[0], ["fine"])
    labels = find_labels(passages[0], ["bad"])
    with pytest.raises(InputError, match="2 continuations, expected one"):
        label_flow(embed_target(loaded, passages, Target(kind="contrast")), labels)
    nowhere = Unit(level="word", start=5, end=5, label="gap")
    with pytest.raises(InputError, match="gap has no token that ends in it"):
        label_flow(embed_target(loaded, passages[:1], Target()), [nowhere])
