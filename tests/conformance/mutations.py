"""The known-bad behaviours of public libraries, as changes to this project's code.

Each is a function that takes pytest's `monkeypatch`; the tests of `test_mutations` see to it that
the suite fails under every one of them.
"""

from dataclasses import replace

import torch

from influence import text
from influence.documents import curvature, gradients, preconditioner, scores
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
    for module in (preconditioner, scores):
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
    real = curvature._load_basis

    def mutant(operator, in_basis, out_basis):
        turned = [{k: v.T for k, v in basis.items()} for basis in (in_basis, out_basis)]
        real(operator, *turned)

    monkeypatch.setattr(curvature, "_load_basis", mutant)


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

    for module in (preconditioner, scores):
        monkeypatch.setattr(module, "inverse_root", mutant)


def mask_of_activations_only(monkeypatch):
    """`a` is masked, but gradients of uncounted positions enter S."""

    def mutant(self, inputs):
        rows_BTI = gradients.per_row(inputs, self._mask_BT.shape[0], self._name)
        if not self._factors:
            return self.counted(rows_BTI).view(*inputs.shape[:-1], -1)
        linear, mask_BT1 = self.counted, self._mask_BT[..., None]
        rest = torch.nn.functional.linear(rows_BTI * ~mask_BT1, linear.weight.detach())
        return (linear(rows_BTI * mask_BT1) + rest).view(*inputs.shape[:-1], -1)

    monkeypatch.setattr(curvature._Counted, "forward", mutant)


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
    real = curvature._Counted.forward

    def mutant(self, inputs):
        if self._factors:
            return real(self, inputs)
        return self.counted(inputs.reshape(-1, inputs.shape[-1])).view(*inputs.shape[:-1], -1)

    monkeypatch.setattr(curvature._Counted, "forward", mutant)
