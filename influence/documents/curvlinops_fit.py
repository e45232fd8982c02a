r"""Both passes of the fit by curvlinops: the reference that ``fit.py`` is compared with.

curvlinops gets the sampled labels as EMPIRICAL targets under ``reduction="sum"`` (its own sampling
would draw labels at padding and prompt positions, and its TYPE2 is wrong for sequences), flat logits
(it refuses others), and sees each linear layer through ``_Counted``.

Axes: I layer inputs (bias included), O layer outputs, B rows, T tokens.
Source: George et al. (2018), arXiv:1806.03884; Dangel et al. (2025), arXiv:2501.19183 (curvlinops).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from influence.documents.curvature import (
    Basis,
    EigenvalueSums,
    KroneckerSums,
    add_wide,
    refuse_half,
    to,
)
from influence.documents.gradients import Draw, backward, logits_of, per_row
from influence.documents.preconditioner import LayerCurvature, rotate
from influence.layers import Layer
from influence.text import Batch

if TYPE_CHECKING:
    from curvlinops import EKFACLinearOperator


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
    model: nn.Module, layers: Sequence[Layer], batches: Iterable[Batch], draw: Draw | None = None
) -> KroneckerSums:
    """First pass; see ``fit.kronecker_sums``.

    Returns:
        Sums in float64.
    """
    refuse_half(model)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    tokens = 0
    documents: set[int] = set()
    for batch in _labelled(model, batches, draw):
        with _seen_by_curvlinops(model, layers, batch, factors=True) as operator:
            operator.compute_kronecker_factors()
            state = operator.state_dict()
        for layer in layers:
            add_wide(inputs, layer.name, state["input_covariances"][_key(layer.name)])
            add_wide(outputs, layer.name, state["gradient_covariances"][_key(layer.name)])
        tokens += batch.n_loss_tokens
        documents.update(batch.document.tolist())
    return KroneckerSums(inputs=inputs, outputs=outputs, tokens=tokens, documents=len(documents))


@torch.no_grad()
def _labelled(model: nn.Module, batches: Iterable[Batch], draw: Draw | None) -> Iterator[Batch]:
    for batch in batches:
        yield batch if draw is None else draw(batch, logits_of(model, batch))


def eigenvalue_sums(
    model: nn.Module,
    layers: Sequence[Layer],
    bases: Mapping[str, Basis],
    batches: Iterable[Batch],
    draw: Draw | None = None,
) -> EigenvalueSums:
    """Second pass; see ``fit.eigenvalue_sums``.

    Returns:
        Sums in float64.
    """
    refuse_half(model)
    like = next(model.parameters())
    in_basis = {_key(x.name): bases[x.name].in_basis_II.to(like) for x in layers}
    out_basis = {_key(x.name): bases[x.name].out_basis_OO.to(like) for x in layers}
    squares: dict[str, Tensor] = {}
    documents: set[int] = set()
    reused: set[str] | None = None
    for batch in _labelled(model, batches, draw):
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
            add_wide(
                squares, layer.name, value if isinstance(value, Tensor) else value.popitem()[1]
            )
        for layer in layers:
            if layer.name in reused:
                add_wide(
                    squares, layer.name, _joined_squares(model, layer, bases[layer.name], batch)
                )
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
