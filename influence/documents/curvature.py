r"""Kronecker factors, eigenbases and EK-FAC eigenvalues of a causal LM, as sums that add up.

The Fisher of a layer is approximated by ``Q_S Q_A diag(Lambda) Q_S^T Q_A^T``.  The fit is two passes
over the documents, each a plain sum, so that partitions merge exactly:

1. ``A = sum_nt a a^T`` and ``S = sum_nt g g^T`` over the counted tokens -> eigenbases (float64);
2. ``Lambda = sum_n (Q_S^T G_n Q_A)^2``, squared after summing the tokens of a document.

curvlinops does both passes.  It gets the sampled labels as EMPIRICAL targets under
``reduction="sum"`` (its own sampling would draw labels at padding and prompt positions, and its
TYPE2 is wrong for sequences), flat logits (it refuses others), and sees each linear layer through
``_Counted``.  Damping is ours, layer by layer, in ``preconditioner.py``.

Axes: I layer inputs (bias included), O layer outputs, B rows, T tokens.
Source: George et al. (2018), arXiv:1806.03884; Grosse et al. (2023), arXiv:2308.03296, eq. 18-20.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from influence.documents.gradients import backward, logits_of, per_row
from influence.documents.preconditioner import LayerCurvature, rotate
from influence.errors import GradientError
from influence.layers import Layer
from influence.text import Batch

if TYPE_CHECKING:
    from curvlinops import EKFACLinearOperator


@dataclass(frozen=True, kw_only=True)
class KroneckerSums:
    """Sums over counted tokens, float64; the sums of two partitions add up."""

    inputs: Mapping[str, Tensor]
    """For each layer ``sum a a^T`` ``[I, I]``."""
    outputs: Mapping[str, Tensor]
    """For each layer ``sum g g^T`` ``[O, O]``, in squared nats."""
    tokens: int
    """Counted tokens W."""
    documents: int
    """Documents N (whole documents, not chunks)."""


@dataclass(frozen=True, kw_only=True)
class EigenvalueSums:
    """Sums over documents, float64; the sums of two partitions add up."""

    squares: Mapping[str, Tensor]
    """For each layer ``sum_n (Q_S^T G_n Q_A)^2`` ``[O, I]``."""
    documents: int
    """Documents N."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Eigenvectors (columns) and eigenvalues of both factors of one layer."""

    out_basis_OO: Tensor
    in_basis_II: Tensor
    out_values_O: Tensor
    """Eigenvalues of ``S = sum g g^T / W``."""
    in_values_I: Tensor
    """Eigenvalues of ``A = sum a a^T / W``."""


class _Counted(nn.Module):
    """A linear layer as curvlinops shall see it; its result is the layer's own.

    curvlinops takes every row that enters a Linear into A and S.  For the factors the inner layer is
    therefore called on the counted tokens alone (padding and prompt go round it), which also makes
    its A a plain sum; for the eigenvalues on ``[B, T, I]``, so that rows are documents.
    """

    def __init__(self, linear: nn.Linear, counted_BT: Tensor, factors: bool, name: str) -> None:
        super().__init__()
        self.counted = linear
        self._mask_BT = counted_BT
        self._factors = factors
        self._name = name

    @property
    def weight(self) -> Tensor:
        """The layer's own; some models (LoRA's) look at its dtype before they call the layer."""
        return self.counted.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's own outputs."""
        rows_BTI = per_row(inputs, self._mask_BT.shape[0], self._name)
        if not self._factors:
            result: Tensor = self.counted(rows_BTI)
            return result.view(*inputs.shape[:-1], -1)
        linear = self.counted
        bias = None if linear.bias is None else linear.bias.detach()
        rest = nn.functional.linear(rows_BTI[~self._mask_BT], linear.weight.detach(), bias)
        out_BTO = rest.new_empty(*rows_BTI.shape[:-1], rest.shape[-1])
        out_BTO = out_BTO.masked_scatter(~self._mask_BT[..., None], rest)
        out_BTO = out_BTO.masked_scatter(self._mask_BT[..., None], linear(rows_BTI[self._mask_BT]))
        return out_BTO.view(*inputs.shape[:-1], -1)


class _FlatLogits(nn.Module):
    """``forward(batch) -> [B * T, V]``, the shape that curvlinops needs for EK-FAC on sequences.

    It claims no state of its own, so that loading an eigenbasis does not copy the model's weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Batch]) -> Tensor:
        """Logits ``[B * T, V]`` of a batch."""
        return logits_of(self.model, batch["batch"]).flatten(0, 1)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """Nothing."""
        return {}

    def load_state_dict(self, *_: Any, **__: Any) -> None:
        """Nothing is copied."""


@contextmanager
def _seen_by_curvlinops(
    model: nn.Module, layers: Sequence[Layer], batch: Batch, factors: bool
) -> Iterator[EKFACLinearOperator]:
    """One batch as a curvlinops operator, with the model restored on exit."""
    from curvlinops import EKFACLinearOperator, FisherType  # five seconds that only fits need

    counted_BT = batch.targets != -100
    linears = {layer.name: model.get_submodule(layer.name) for layer in layers}
    parameters = [p for linear in linears.values() for p in linear.parameters()]
    try:
        for name, linear in linears.items():
            assert isinstance(linear, nn.Linear)
            _replace(model, name, _Counted(linear, counted_BT, factors, name))
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield EKFACLinearOperator(
            _FlatLogits(model),
            nn.CrossEntropyLoss(reduction="sum"),
            parameters,
            [({"batch": batch}, batch.targets.flatten())],
            check_deterministic=False,
            fisher_type=FisherType.EMPIRICAL,
            separate_weight_and_bias=False,
            num_data=1,
            num_per_example_loss_terms=1,
            batch_size_fn=lambda X: int(X["batch"].input_ids.shape[0]),
        )
    finally:
        for name, linear in linears.items():
            _replace(model, name, linear)
        for parameter in parameters:
            parameter.requires_grad_(False)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _key(name: str) -> str:
    return f"model.{name}.counted"


def kronecker_sums(
    model: nn.Module, layers: Sequence[Layer], batches: Iterable[Batch]
) -> KroneckerSums:
    """First pass: the factors' sums over some batches, whose targets are the Fisher's labels.

    Args:
        model: A causal LM in eval mode with frozen parameters.
        layers: Tracked layers.
        batches: Batches whose targets are sampled (or empirical) labels, -100 where not counted;
            all chunks of a document, by number, come in one call, since N counts the numbers.

    Returns:
        Sums in float64.

    Raises:
        GradientError: If the model is in half precision, where sums within a batch overflow.
    """
    _refuse_half(model)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    tokens = 0
    documents: set[int] = set()
    for batch in batches:
        with _seen_by_curvlinops(model, layers, batch, factors=True) as operator:
            operator.compute_kronecker_factors()
            state = operator.state_dict()
        for layer in layers:
            _add(inputs, layer.name, state["input_covariances"][_key(layer.name)])
            _add(outputs, layer.name, state["gradient_covariances"][_key(layer.name)])
        tokens += batch.n_loss_tokens
        documents.update(batch.document.tolist())
    return KroneckerSums(inputs=inputs, outputs=outputs, tokens=tokens, documents=len(documents))


def _refuse_half(model: nn.Module) -> None:
    dtype = next(model.parameters()).dtype
    if dtype not in (torch.float32, torch.float64):
        raise GradientError(
            f"Curvature: the model's weights are {dtype}, float32 or float64 was expected, since "
            "sums of squares overflow or lose digits in half precision. Load the model with "
            "dtype=torch.float32."
        )


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    wide = value.detach().to("cpu", torch.float64)
    if name in sums:
        sums[name] += wide
    else:
        sums[name] = wide.clone()


def merge_kronecker(left: KroneckerSums, right: KroneckerSums) -> KroneckerSums:
    """The sums of two disjoint sets of batches, added.

    Returns:
        New sums; the arguments are not changed.
    """
    return KroneckerSums(
        inputs={name: left.inputs[name] + right.inputs[name] for name in left.inputs},
        outputs={name: left.outputs[name] + right.outputs[name] for name in left.outputs},
        tokens=left.tokens + right.tokens,
        documents=left.documents + right.documents,
    )


def merge_eigenvalues(left: EigenvalueSums, right: EigenvalueSums) -> EigenvalueSums:
    """The sums of two disjoint sets of batches, added.

    Returns:
        New sums; the arguments are not changed.
    """
    return EigenvalueSums(
        squares={name: left.squares[name] + right.squares[name] for name in left.squares},
        documents=left.documents + right.documents,
    )


def eigenbasis(sums: KroneckerSums, name: str) -> Basis:
    """Eigenvectors of both factors of a layer, symmetrised and decomposed in float64.

    Args:
        sums: The merged sums of all documents.
        name: The layer.

    Returns:
        The basis; signs and rotations inside equal eigenvalues are arbitrary.

    Raises:
        GradientError: If a factor holds NaN or infinity.
    """
    decomposed = []
    for what, factor in (("A", sums.inputs[name]), ("S", sums.outputs[name])):
        if not bool(torch.isfinite(factor).all()):
            raise GradientError(
                f"Curvature: factor {what} of layer {name} holds NaN or infinity, finite numbers "
                "were expected. Check the model's weights and the documents with large losses."
            )
        mean = factor / max(sums.tokens, 1)
        decomposed.append(torch.linalg.eigh((mean + mean.T) / 2))
    (in_values, in_basis), (out_values, out_basis) = decomposed
    return Basis(
        out_basis_OO=out_basis,
        in_basis_II=in_basis,
        out_values_O=out_values.clamp_min(0.0),
        in_values_I=in_values.clamp_min(0.0),
    )


def eigenvalue_sums(
    model: nn.Module,
    layers: Sequence[Layer],
    bases: Mapping[str, Basis],
    batches: Iterable[Batch],
) -> EigenvalueSums:
    """Second pass: squared gradients in the eigenbasis, summed over the documents of some batches.

    Of a document in several chunks, each chunk is squared alone.  With sampled labels that has the
    same expectation: labels are independent given the text, so that cross terms average to zero.
    With empirical labels it leaves the cross terms between chunks out.

    Args:
        model: A causal LM in eval mode with frozen parameters.
        layers: Tracked layers.
        bases: The basis of every layer; ``standard_basis`` gives the diagonal Fisher.
        batches: The same batches, with the same labels, as in the first pass.

    Returns:
        Sums in float64.

    Raises:
        GradientError: If the model is in half precision.
    """
    _refuse_half(model)
    like = next(model.parameters())
    in_basis = {_key(x.name): bases[x.name].in_basis_II.to(like) for x in layers}
    out_basis = {_key(x.name): bases[x.name].out_basis_OO.to(like) for x in layers}
    squares: dict[str, Tensor] = {}
    documents: set[int] = set()
    reused: set[str] | None = None
    for batch in batches:
        if reused is None:
            reused = _used_repeatedly(model, layers, batch)
        once = [layer for layer in layers if layer.name not in reused]
        if once:
            with _seen_by_curvlinops(model, once, batch, factors=False) as operator:
                _load_basis(operator, in_basis, out_basis)
                operator.compute_eigenvalue_correction()
                state = operator.state_dict()
        for layer in once:
            value = state["corrected_eigenvalues"][_key(layer.name)]
            _add(squares, layer.name, value if isinstance(value, Tensor) else value.popitem()[1])
        for layer in layers:
            if layer.name in reused:
                _add(squares, layer.name, _joined_squares(model, layer, bases[layer.name], batch))
        documents.update(batch.document.tolist())
    return EigenvalueSums(squares=squares, documents=len(documents))


@torch.no_grad()
def _used_repeatedly(model: nn.Module, layers: Sequence[Layer], batch: Batch) -> set[str]:
    """Layers that run more than once in a forward pass: curvlinops would square each use alone."""
    uses: Counter[str] = Counter()

    def count(name: str) -> Any:
        return lambda *_: uses.update([name])

    handles = [model.get_submodule(x.name).register_forward_hook(count(x.name)) for x in layers]
    try:
        logits_of(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name for name, number in uses.items() if number > 1}


def _joined_squares(model: nn.Module, layer: Layer, basis: Basis, batch: Batch) -> Tensor:
    """Squares of one layer's rotated gradients, its uses summed first; ``[O, I]``."""
    found: list[Tensor] = []
    rotation = LayerCurvature(
        eigenvalues_OI=None, out_basis_OO=basis.out_basis_OO, in_basis_II=basis.in_basis_II
    )

    def consume(_name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        rotated_BOI = rotate(to(rotation, inputs_BTI), inputs_BTI, output_BTO)
        found.append(rotated_BOI.square().sum(dim=0))

    backward(model, [layer], batch, consume)
    return found[0]


def _load_basis(
    operator: EKFACLinearOperator, in_basis: dict[str, Tensor], out_basis: dict[str, Tensor]
) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Loading a state dict will overwrite")
        operator.load_state_dict(
            {
                **operator.state_dict(),
                "input_covariances_eigenvectors": dict(in_basis),
                "gradient_covariances_eigenvectors": dict(out_basis),
            }
        )


def standard_basis(layer: Layer) -> Basis:
    """The basis that turns EK-FAC into the diagonal Fisher.

    Returns:
        Identity matrices in float64.
    """
    out, inputs = layer.out_features, layer.in_features + int(layer.bias)
    return Basis(
        out_basis_OO=torch.eye(out, dtype=torch.float64),
        in_basis_II=torch.eye(inputs, dtype=torch.float64),
        out_values_O=torch.ones(out, dtype=torch.float64),
        in_values_I=torch.ones(inputs, dtype=torch.float64),
    )


def ekfac(basis: Basis, sums: EigenvalueSums, name: str) -> LayerCurvature:
    """EK-FAC of one layer: ``Lambda`` is the mean over documents.

    Returns:
        The layer's curvature, in the dtype of the basis.
    """
    return LayerCurvature(
        eigenvalues_OI=sums.squares[name] / sums.documents,
        out_basis_OO=basis.out_basis_OO,
        in_basis_II=basis.in_basis_II,
    )


def kfac(basis: Basis, tokens: int, documents: int) -> LayerCurvature:
    r"""K-FAC of one layer: ``(W / N) S (x) A``, tokens of a document taken as independent.

    Returns:
        The layer's curvature; its eigenvalues are those of the factors multiplied.
    """
    return LayerCurvature(
        eigenvalues_OI=torch.outer(basis.out_values_O, basis.in_values_I) * tokens / documents,
        out_basis_OO=basis.out_basis_OO,
        in_basis_II=basis.in_basis_II,
    )


def diagonal(sums: EigenvalueSums, name: str) -> LayerCurvature:
    """The diagonal Fisher of one layer (sums taken in the standard basis).

    Returns:
        The layer's curvature without a basis.
    """
    return LayerCurvature(
        eigenvalues_OI=sums.squares[name] / sums.documents, out_basis_OO=None, in_basis_II=None
    )


def identity() -> LayerCurvature:
    """No curvature: influence becomes the gradient dot product.

    Returns:
        A curvature whose damped inverse is the identity.
    """
    return LayerCurvature(eigenvalues_OI=None, out_basis_OO=None, in_basis_II=None)


def to(layer: LayerCurvature, like: Tensor) -> LayerCurvature:
    """A layer's curvature in the dtype and on the device of a tensor.

    Returns:
        A new curvature.
    """

    def moved(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(like)

    return LayerCurvature(
        eigenvalues_OI=moved(layer.eigenvalues_OI),
        out_basis_OO=moved(layer.out_basis_OO),
        in_basis_II=moved(layer.in_basis_II),
    )
