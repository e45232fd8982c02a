"""The toys of the conformance suite, and one small run through the project's own functions.

Project functions are called through their modules, so that `mutations` can replace them.
"""

from dataclasses import dataclass

import torch

from influence import text
from influence.documents import curvature, gradients, labels, scores, sketch
from influence.documents import fit as fits
from influence.models import swap_conv1d, tracked_layers
from tests.conformance import reference
from tests.toys import random_chunks, toy_gpt2, toy_llama

FACTOR = 0.1
KINDS = ("llama", "gpt2")


@dataclass(frozen=True, eq=False)
class Toy:
    """A model with all that a test needs."""

    kind: str
    model: torch.nn.Module
    layers: tuple
    chunks: list


def make_toy(kind, *, count=24, **more):
    """Llama: untied, without biases. GPT-2: tied, with biases, `Conv1D` swapped."""
    model = toy_llama(**more) if kind == "llama" else toy_gpt2(**more)
    swap_conv1d(model)
    chunks = random_chunks(count, longest=8, vocab=more.get("vocab", 11))
    return Toy(kind, model, tracked_layers(model), chunks)


def ids(chunks):
    return [f"doc-{chunk.document}" for chunk in chunks]


def batched(toy, *, size=5, side="right", extra=0, sampled=True, seed=0, order=None):
    """Fisher batches: labels drawn from the model (or the data's own) as targets."""
    chunks = toy.chunks if order is None else [toy.chunks[i] for i in order]
    found = []
    for start in range(0, len(chunks), size):
        rows = chunks[start : start + size]
        batch = text.collate(rows, pad_id=3, side=side, extra_padding=extra)
        if sampled:
            drawn = labels.sample_labels(toy.model, batch, ids(rows), seed)
            batch = text.with_targets(batch, drawn, rows)
        found.append(batch)
    return found


def drawn_labels(toy, seed=0):
    """Every document's labels, each drawn alone and unpadded."""
    return [
        labels.sample_labels(toy.model, text.collate([c], 0), ids([c]), seed)[0] for c in toy.chunks
    ]


def traces(toy, *, sampled=True, seed=0):
    """The reference's trace of every document, on the same labels."""
    own = drawn_labels(toy, seed) if sampled else [None] * len(toy.chunks)
    return [
        reference.trace(toy.model, toy.layers, chunk, label)
        for chunk, label in zip(toy.chunks, own, strict=True)
    ]


def fit(toy, batches, bases=None):
    """Both passes; the bases may be given, as eigenvectors are free within equal eigenvalues."""
    sums = fits.kronecker_sums(toy.model, toy.layers, batches)
    bases = bases or {x.name: curvature.eigenbasis(sums, x.name) for x in toy.layers}
    squares = fits.eigenvalue_sums(toy.model, toy.layers, bases, batches)
    fisher = {x.name: curvature.ekfac(bases[x.name], squares, x.name) for x in toy.layers}
    return sums, bases, squares, fisher


def query_directions(toy, fisher, chunks, factor=FACTOR):
    """Preconditioned gradients of some queries."""
    batch = text.collate(chunks, 0)
    found, _ = gradients.per_document_gradients(toy.model, toy.layers, batch)
    return scores.directions(fisher, factor, found), found


def full_sketch(toy):
    shapes = {x.name: (x.out_features, x.in_features + int(x.bias)) for x in toy.layers}
    return sketch.full(shapes)


def by_document(batches, values_per_batch):
    """Rows of several batches put into the order of the documents."""
    number = torch.cat([batch.document for batch in batches])
    return torch.cat(list(values_per_batch))[number.argsort()]
