"""The known-bad behaviours of public libraries, as changes to this project's code.

Each is a function that takes pytest's `monkeypatch`; the tests of `test_mutations` see to it that
the suite fails under every one of them.
"""

from dataclasses import replace

import torch

from influence import text
from influence.documents import fit as fits
from influence.documents import gradients, preconditioner, scores, whitening
from influence.text import IGNORED


def _with_labels_at(monkeypatch, chosen):
    real = text.with_targets

    def mutant(batch, labels, chunks):
        found = real(batch, labels, chunks)
        extra_BT = (found.targets == IGNORED) & chosen(batch)
        generator = torch.Generator().manual_seed(0)
        random_BT = torch.randint(0, 4, found.targets.shape, generator=generator)
        return replace(found, targets=torch.where(extra_BT, random_BT, found.targets))

    monkeypatch.setattr(text, "with_targets", mutant)


def labels_at_padding(monkeypatch):
    """Labels are drawn at padding positions too."""
    _with_labels_at(monkeypatch, lambda batch: batch.attention_mask == 0)


def labels_at_prompts(monkeypatch):
    """Labels are drawn at every real position, the prompt's among them."""
    _with_labels_at(monkeypatch, lambda batch: batch.attention_mask == 1)


def _turned(layer):
    if layer.out_basis_OO is None:
        return layer
    return replace(layer, out_basis_OO=layer.out_basis_OO.T, in_basis_II=layer.in_basis_II.T)


def rotation_of_rows_transposed(monkeypatch):
    """`Q G Q^T` instead of `Q^T G Q`, for documents."""
    real = preconditioner.rotate
    for module in (preconditioner, scores, whitening):
        monkeypatch.setattr(module, "rotate", lambda layer, a, g: real(_turned(layer), a, g))


def rotation_of_queries_transposed(monkeypatch):
    """`Q G Q^T` instead of `Q^T G Q`, for queries (and so rotated back by `Q^T . Q`)."""
    real = preconditioner.precondition
    for module in (preconditioner, scores):
        monkeypatch.setattr(
            module, "precondition", lambda layer, factor, v: real(_turned(layer), factor, v)
        )


def rotation_of_eigenvalues_transposed(monkeypatch):
    """`Q G Q^T` instead of `Q^T G Q`, for the eigenvalues."""
    real = fits.eigenvalue_sums

    def mutant(model, layers, bases, batches):
        turned = {
            name: replace(x, out_basis_OO=x.out_basis_OO.T, in_basis_II=x.in_basis_II.T)
            for name, x in bases.items()
        }
        return real(model, layers, turned, batches)

    monkeypatch.setattr(fits, "eigenvalue_sums", mutant)


def damping_of_the_first_module(monkeypatch):
    """The damping is computed once, and leaks into all later modules."""
    real, kept = preconditioner.damping, {}

    def mutant(layer, factor):
        return kept.setdefault("damping", real(layer, factor))

    monkeypatch.setattr(preconditioner, "damping", mutant)


def eigenvalues_that_grow(monkeypatch):
    """The damping is added to the stored eigenvalues, at every call again."""
    real = preconditioner.inverse_root

    def mutant(layer, factor):
        found = real(layer, factor)
        if layer.eigenvalues_OI is not None:
            layer.eigenvalues_OI.add_(preconditioner.damping(layer, factor))
        return found

    for module in (preconditioner, scores, whitening):
        monkeypatch.setattr(module, "inverse_root", mutant)


def mask_of_activations_only(monkeypatch):
    """`a` is masked, but gradients of uncounted positions enter S."""
    real_backward, real_counted, outputs = fits.backward, fits.counted, []

    def backward(model, layers, batch, consume, draw):
        def remembering(name, inputs_BTI, output_BTO):
            outputs[:] = [output_BTO]
            consume(name, inputs_BTI, output_BTO)

        return real_backward(model, layers, batch, remembering, draw)

    def counted(values_BTD, batch, counted_K):
        if any(values_BTD is known for known in outputs):
            return values_BTD.flatten(0, 1)
        return real_counted(values_BTD, batch, counted_K)

    monkeypatch.setattr(fits, "backward", backward)
    monkeypatch.setattr(fits, "counted", counted)


def inputs_shared_by_strangers(monkeypatch):
    """A layer gets the input factor of whichever layer of its width came before it."""
    monkeypatch.setattr(fits, "same_memory", lambda left, right: left.shape == right.shape)


def half_of_a_symmetric_sum(monkeypatch):
    """What lies below the diagonal of a factor is left out."""
    monkeypatch.setattr(fits, "_mirrored", lambda upper_DD: upper_DD.triu())


def mask_of_inputs_in_gradients(monkeypatch):
    """Activations at uncounted positions are zeroed, where only the loss may be masked."""
    real = gradients.gradient

    def mutant(inputs_BTI, output_BTO):
        last = torch.arange(inputs_BTI.shape[1]) >= inputs_BTI.shape[1] // 2
        return real(inputs_BTI * last[None, :, None], output_BTO)

    for module in (gradients, preconditioner, scores):
        monkeypatch.setattr(module, "gradient", mutant)


def tokens_squared_one_by_one(monkeypatch):
    """Lambda squares the gradient of each token: rows of the batch are taken for documents."""
    real = fits._sum_of_squares

    def mutant(inputs_BTI, output_BTO, in_basis_II, out_basis_OO):
        rows = (x.flatten(0, 1)[:, None] for x in (inputs_BTI, output_BTO))
        return real(*rows, in_basis_II, out_basis_OO)

    monkeypatch.setattr(fits, "_sum_of_squares", mutant)
