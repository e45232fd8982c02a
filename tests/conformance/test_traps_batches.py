"""Traps 1, 3, 4, 13 and 15: padding, prompts, labels, packing, and how documents are batched."""

from dataclasses import replace
from functools import lru_cache, reduce

import numpy as np
import pytest
import torch

from influence import text
from influence.documents import curvature, gradients, labels, noise, scores
from influence.documents import fit as fits
from influence.documents.whitening import prepare
from pipelines import tokens
from pipelines.curvature import cut
from tests.conformance import reference, setting
from tests.toys import assert_matches, random_chunks

PADDINGS = [(0, "right"), (5, "right"), (50, "right"), (5, "left"), (50, "left")]


def everything(toy, bases, queries, **how):
    """All that the project computes, in the order of the documents; `how` is for `batched`."""
    batches = setting.batched(toy, **how)
    plain = setting.batched(toy, sampled=False, **how)
    sums, _, squares, fisher = setting.fit(toy, batches, bases)
    found = {f"A {n}": x for n, x in sums.inputs.items()}
    found |= {f"S {n}": x for n, x in sums.outputs.items()}
    found |= {f"Lambda {n}": x for n, x in squares.squares.items()}
    solved, _ = setting.query_directions(toy, fisher, queries)
    parts = [per_batch(toy, fisher, solved, batch) for batch in plain]
    for key in parts[0]:
        found[key] = setting.by_document(plain, [part[key] for part in parts])
    found["W, N"] = torch.tensor([sums.tokens, sums.documents])
    return found


def per_batch(toy, fisher, solved, batch):
    """Gradients and scores of the rows of one batch, without its padding."""
    rows, forward = gradients.per_document_gradients(toy.model, toy.layers, batch)
    exact = scores.exact_scores(toy.model, toy.layers, batch, solved)
    whitened = scores.whitened_rows(
        toy.model, toy.layers, prepare(fisher, setting.FACTOR, setting.full_sketch(toy)), batch
    )
    by_token = scores.token_scores(toy.model, toy.layers, batch, solved)
    real = [row.bool() for row in batch.attention_mask]
    width = 8
    aligned = torch.zeros(len(real), len(by_token), width, dtype=by_token.dtype)
    for row, mask_T in enumerate(real):
        aligned[row, :, : int(mask_T.sum())] = by_token[:, row, mask_T]
        assert not by_token[:, row, ~mask_T].any(), "padding has a score"
    found = {f"G {n}": x for n, x in rows.items()}
    return found | {
        "loss": forward.loss_B,
        "scores": exact.scores_QB.T,
        "layer scores": exact.layers_QLB.permute(2, 0, 1),
        "token scores": aligned,
        "rows": whitened.vectors_BP,
        "self-influence": whitened.self_influence_B,
        "norms": whitened.squared_norm_B,
    }


def compare(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        try:
            assert_matches(found[key], value)
        except AssertionError as error:
            raise AssertionError(f"{key}: {error}") from error


def by_definition(toy, bases, queries):
    """The same as `everything`, from the slow reference."""
    traced, asked = (
        setting.traces(toy),
        [reference.trace(toy.model, toy.layers, q) for q in queries],
    )
    plain = [reference.trace(toy.model, toy.layers, chunk) for chunk in toy.chunks]
    found, solved = {}, [{} for _ in queries]
    for layer in toy.layers:
        name, basis = layer.name, bases[layer.name]
        a_II, s_OO, count = reference.factor_sums(traced, name)
        pair = (basis.out_basis_OO, basis.in_basis_II)
        lambda_OI = reference.eigenvalues(traced, name, *pair)
        found[f"A {name}"], found[f"S {name}"] = a_II, s_OO
        found[f"Lambda {name}"] = lambda_OI * len(traced)
        found[f"G {name}"] = torch.stack([x.gradients[name] for x in plain])
        for one, query in zip(solved, asked, strict=True):
            one[name] = reference.preconditioned(
                query.gradients[name], *pair, lambda_OI, setting.FACTOR
            )
    found["W, N"] = torch.tensor([count, len(traced)])
    found["loss"] = torch.tensor([x.loss for x in plain], dtype=torch.float64)
    found["scores"] = torch.tensor(
        [[reference.score(q, x, s) for q, s in zip(asked, solved, strict=True)] for x in plain],
        dtype=torch.float64,
    )
    aligned = torch.zeros(len(plain), len(queries), 8, dtype=torch.float64)
    for row, x in enumerate(plain):
        for query, one in enumerate(solved):
            tokens_T = reference.token_score(x, one)
            aligned[row, query, : len(tokens_T)] = tokens_T
    return found | {"token scores": aligned}


@pytest.fixture
def queries():
    return random_chunks(2, seed=99)


@lru_cache(maxsize=2)
def alone(toy):
    """Bases, and everything with each document alone in its batch, which has no padding then."""
    bases = setting.fit(toy, setting.batched(toy))[1]
    return bases, everything(toy, bases, random_chunks(2, seed=99), size=1)


def test_trap_00_everything_matches_the_definition(toy, queries):
    bases = setting.fit(toy, setting.batched(toy))[1]
    expected = by_definition(toy, bases, queries)
    found = everything(toy, bases, queries)
    compare({key: found[key] for key in expected}, expected)
    assert_matches(found["layer scores"].sum(dim=2), expected["scores"])
    assert_matches(found["token scores"].sum(dim=2), expected["scores"])


@pytest.mark.parametrize(("extra", "side"), PADDINGS, ids=lambda x: str(x))
def test_trap_01_padding_invariance(toy, queries, extra, side):
    bases, expected = alone(toy)
    compare(everything(toy, bases, queries, side=side, extra=extra), expected)


def test_trap_03_prompt_mask_is_the_same_for_labels_loss_and_measurement(toy):
    chunk = toy.chunks[0]
    counted = np.zeros(len(chunk.tokens), bool)
    counted[-2:] = True
    pair = replace(chunk, loss=counted)
    asked = replace(toy, chunks=[pair, *toy.chunks[1:]])
    [batch] = setting.batched(asked, size=len(asked.chunks), extra=2)
    plain = text.collate(asked.chunks, 0, extra_padding=2)
    assert torch.equal(batch.targets != -100, plain.targets != -100), "labels outside the loss mask"
    assert batch.n_loss_tokens == sum(int(c.loss.sum()) for c in asked.chunks)
    traced = setting.traces(asked)
    sums, bases, squares, _ = setting.fit(asked, [batch])
    for layer in toy.layers:
        a_II, s_OO, count = reference.factor_sums(traced, layer.name)
        basis = bases[layer.name]
        lambda_OI = reference.eigenvalues(traced, layer.name, basis.out_basis_OO, basis.in_basis_II)
        assert_matches(sums.inputs[layer.name], a_II)
        assert_matches(sums.outputs[layer.name], s_OO)
        assert_matches(squares.squares[layer.name] / len(traced), lambda_OI)
    assert sums.tokens == count
    # the measurement counts the same tokens, and gradients pass through the prompt
    found, forward = gradients.per_document_gradients(toy.model, toy.layers, plain)
    own = reference.trace(toy.model, toy.layers, pair)
    assert_matches(forward.loss_B[0], torch.tensor(own.loss, dtype=torch.float64))
    name = toy.layers[0].name
    assert_matches(found[name][0], own.gradients[name])
    completion = sum(torch.outer(own.outputs[name][t], own.inputs[name][t]) for t in own.counted)
    assert (completion - own.gradients[name]).norm() > 1e-3 * own.gradients[name].norm()


def test_trap_04_labels_do_not_depend_on_batches_order_padding_or_resume(toy):
    expected = setting.drawn_labels(toy)
    order = np.random.default_rng(0).permutation(len(toy.chunks))
    for size in (1, 7, len(toy.chunks)):
        for extra, side in PADDINGS[:: 1 if size == 7 else 2]:
            for rows in (np.arange(len(order)), order):
                for start in range(0, len(rows), size):
                    chunks = [toy.chunks[i] for i in rows[start : start + size]]
                    batch = text.collate(chunks, 3, side=side, extra_padding=extra)
                    drawn = labels.sample_labels(toy.model, batch, setting.ids(chunks), 0)
                    for chunk, found in zip(chunks, drawn, strict=True):
                        assert_matches(found, expected[chunk.document])


def test_trap_04_labels_depend_on_seed_document_chunk_and_draw(toy):
    longest = max(toy.chunks, key=lambda c: c.loss.sum())
    chunks = [replace(longest, chunk=0)] * 40

    def drawn(ids, seed=0, draw=0, chunk=0):
        rows = [replace(c, chunk=chunk) for c in chunks]
        found = labels.sample_labels(toy.model, text.collate(rows, 0), ids, seed, draw)
        return [tuple(x.tolist()) for x in found]

    same, names = ["a"] * 40, [f"doc-{i}" for i in range(40)]
    assert len(set(drawn(same))) == 1
    assert len(set(drawn(names))) > 10
    assert drawn(names) != drawn(names, seed=1)
    assert drawn(names) != drawn(names, draw=1)
    assert drawn(names) != drawn(names, chunk=1)


def test_trap_04_the_monte_carlo_error_is_reported(toy):
    plain = setting.batched(toy, sampled=False)
    count = len(toy.chunks)
    found = noise.label_noise(toy.model, toy.layers, plain, seed=0, draws=3, documents=count)
    more = noise.label_noise(toy.model, toy.layers, plain, seed=0, draws=3, documents=4 * count)
    assert 0 < found.labels < found.documents
    assert found.labels == pytest.approx(2 * more.labels)


def packed(chunks):
    """All chunks in one row: block-diagonal causal attention, positions from 0 in each block."""
    batches = [text.collate([chunk], 0) for chunk in chunks]
    joined = {
        key: torch.cat([getattr(b, key) for b in batches], dim=1)
        for key in ("input_ids", "position_ids", "targets")
    }
    blocks = [torch.ones(b.input_ids.shape[1], b.input_ids.shape[1]).tril() for b in batches]
    allowed = torch.block_diag(*blocks).bool()
    mask = torch.zeros(allowed.shape, dtype=torch.float64)
    mask.masked_fill_(~allowed, torch.finfo(torch.float64).min)
    return replace(batches[0], **joined, attention_mask=mask[None, None])


def test_trap_13_packed_equals_alone(toy):
    chunks = toy.chunks[:5]
    together, forward = gradients.per_document_gradients(toy.model, toy.layers, packed(chunks))
    alone = text.collate(chunks, 0)
    expected, losses = gradients.per_document_gradients(toy.model, toy.layers, alone)
    assert_matches(forward.loss_B, losses.loss_B.sum()[None])
    for name, rows_BOI in expected.items():
        assert_matches(together[name], rows_BOI.sum(dim=0, keepdim=True))
    open_mask = packed(chunks).attention_mask.clone().fill_(0.0)
    leaking = replace(packed(chunks), attention_mask=open_mask)
    other = gradients.backward(toy.model, toy.layers, leaking, lambda *_: None)
    assert abs(float(other.loss_B[0] - forward.loss_B[0])) > 1e-3


def test_trap_13_the_pipelines_give_each_document_a_row_of_its_own(toy):
    works = list(tokens.batches(toy.chunks, pad_id=0, token_budget=20))
    assert sorted(i for work in works for i in work.rows) == list(range(len(toy.chunks)))
    for work in works:
        for row, i in enumerate(work.rows):
            real = work.batch.attention_mask[row].bool()
            assert work.batch.input_ids[row, real].tolist() == toy.chunks[i].tokens.tolist()
            assert work.batch.position_ids[row, real].tolist() == list(range(int(real.sum())))


@pytest.mark.parametrize("size", [3, 7, 24])
def test_trap_15_batch_size_and_order_change_nothing(toy, queries, size):
    bases, expected = alone(toy)
    order = np.random.default_rng(size).permutation(len(toy.chunks))
    compare(everything(toy, bases, queries, size=size, order=order), expected)


@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_trap_15_partitions_add_up(toy, partitions):
    chunks = toy.chunks[:23]  # a prime: no size divides it
    asked = replace(toy, chunks=chunks)
    whole = setting.batched(asked, size=23)
    sums, bases, squares, _ = setting.fit(asked, whole)
    parts = [
        setting.batched(replace(toy, chunks=[chunks[i] for i in part]), size=2)
        for part in cut(range(23), partitions)
    ]
    merged = reduce(
        curvature.merge_kronecker,
        [fits.kronecker_sums(toy.model, toy.layers, part) for part in parts],
    )
    merged_squares = reduce(
        curvature.merge_eigenvalues,
        [fits.eigenvalue_sums(toy.model, toy.layers, bases, part) for part in parts],
    )
    assert (merged.tokens, merged.documents) == (sums.tokens, 23)
    assert merged_squares.documents == squares.documents == 23
    for layer in toy.layers:
        assert_matches(merged.inputs[layer.name], sums.inputs[layer.name])
        assert_matches(merged.outputs[layer.name], sums.outputs[layer.name])
        assert_matches(merged_squares.squares[layer.name], squares.squares[layer.name])


def test_trap_15_documents_are_counted_by_number_not_by_their_first_chunk(toy):
    late = [replace(c, chunk=2) for c in toy.chunks[:9]]  # a long prompt: no chunk 0 is counted
    more = [replace(c, document=8, chunk=3) for c in toy.chunks[9:11]]
    asked = replace(toy, chunks=[*late, *more])
    sums, _, squares, _ = setting.fit(asked, setting.batched(asked, size=4))
    assert sums.documents == squares.documents == 9
