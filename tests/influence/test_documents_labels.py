"""Labels drawn from the model: their distribution, their keys, their edges."""

import numpy as np
import pytest
import torch

from influence import text
from influence.batches import Chunk
from influence.documents import gradients, labels
from tests.toys import assert_matches, toy_llama


def test_generator_streams_differ_by_every_part_of_the_key():
    first = labels.generator(0, "a", 0).random(4)
    assert_matches(labels.generator(0, "a", 0).random(4), first)
    others = [(1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1)]
    streams = {tuple(labels.generator(*key).random(4)) for key in others} | {tuple(first)}
    assert len(streams) == 5


def test_a_longer_document_draws_the_same_first_labels():
    assert_matches(labels.generator(0, "a", 0).random(9)[:4], labels.generator(0, "a", 0).random(4))


def test_labels_follow_the_models_probabilities():
    model = toy_llama()
    tokens = np.array([1, 2, 3], np.int32)
    chunk = Chunk(0, 0, tokens, np.array([False, True, True]))
    draws = 3000
    batch = text.collate([chunk] * 100, 0)
    counts = np.zeros((2, 11))
    for part in range(draws // 100):
        keys = [f"{part}-{row}" for row in range(100)]
        for drawn in labels.sample_labels(model, batch, keys, seed=0):
            counts[0, drawn[0]] += 1
            counts[1, drawn[1]] += 1
    p = gradients.logits_of(model, text.collate([chunk], 0))[0, :2].softmax(dim=-1).numpy()
    error = np.sqrt(p * (1 - p) / draws)
    assert (np.abs(counts / draws - p) <= 5 * error + 1e-9).all()


def test_inverting_never_leaves_the_vocabulary_nor_draws_the_impossible():
    logits = torch.tensor([[0.0, -float("inf"), 0.0, -float("inf")]]).repeat(4, 1)
    found = labels._invert(logits, np.array([0.0, 0.4999, 0.5, 1 - 1e-16]))
    assert found.tolist() == [0, 0, 2, 2]
    assert found.dtype == torch.int32


@pytest.mark.parametrize("vocabulary", [1, 31, 32, 33, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverting_in_two_levels_is_inverting_the_whole_sum(vocabulary, dtype):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 4 * torch.randn(400, vocabulary, generator=generator, dtype=dtype)
    impossible = torch.rand(400, vocabulary, generator=generator) < 0.5
    impossible[torch.arange(400), torch.randint(0, vocabulary, (400,), generator=generator)] = False
    logits = logits.masked_fill(impossible, -torch.inf)
    uniform = np.random.default_rng(0).random(400)
    uniform[:3] = 0.0, 1 - 2.0**-53, 2.0**-60
    chosen = labels._invert(logits, uniform).long()
    assert not bool(impossible[torch.arange(400), chosen].any())
    sums = logits.double().softmax(dim=1).cumsum(dim=1)
    upper = sums[torch.arange(400), chosen]
    lower = torch.nn.functional.pad(sums, (1, 0))[torch.arange(400), chosen]
    margin = 1e-6 if dtype == torch.float32 else 1e-12
    assert bool((lower - margin <= torch.from_numpy(uniform)).all())
    assert bool((torch.from_numpy(uniform) <= upper + margin).all())


def test_labels_are_given_in_the_order_of_counted_tokens():
    model = toy_llama()
    chunk = Chunk(0, 0, np.arange(6, dtype=np.int32), np.array([0, 1, 0, 1, 0, 1], bool))
    batch = text.collate([chunk], 0, extra_padding=3)
    [drawn] = labels.sample_labels(model, batch, ["a"], 0)
    assert len(drawn) == 3
    targets = text.with_targets(batch, [drawn], [chunk]).targets[0]
    assert targets.tolist() == [drawn[0], -100, drawn[1], -100, drawn[2], -100, -100, -100, -100]
