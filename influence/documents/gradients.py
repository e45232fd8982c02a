r"""Per-document gradients of tracked linear layers, by hooks, without weight gradients.

For a layer ``s = W a`` (a bias is one more column of ones in ``a``) the gradient of document n is
``G_n = sum_t g_nt a_nt^T`` with ``g_nt = dL_n / ds_nt`` and ``L_n`` the SUM of the document's token
losses in nats.  Hooks hand out ``a`` and ``g`` layer by layer while the backward pass runs; nothing
of one layer is kept once it has been consumed.

Axes: B rows of a batch (one chunk of a document each), T tokens, V vocabulary, I layer inputs
(with the bias column), O layer outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from influence.batches import IGNORED
from influence.errors import GradientError
from influence.layers import Layer
from influence.text import Batch

Consume = Callable[[str, Tensor, Tensor], None]
"""Called once a layer and backward pass with ``(name, a_BTI, g_BTO)``."""

Draw = Callable[[Batch, Tensor], Batch]
"""From a batch and its logits ``[B, T, V]`` to the batch with other labels at its counted targets."""


@dataclass(frozen=True)
class Forward:
    """What one forward pass says of a batch."""

    loss_B: Tensor
    """Sum of the counted token losses of each row, in nats."""
    token_loss_BT: Tensor
    """Loss of the token that follows each position, 0 where it is not counted; in nats."""


def token_losses(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Cross-entropy of every counted target, in nats; 0 where the target is -100.

    Args:
        logits_BTV: Logits ``[B, T, V]``.
        targets_BT: Token ids ``[B, T]``; -100 where nothing is counted.

    Returns:
        Losses ``[B, T]``, not reduced.
    """
    return nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=-100, reduction="none"
    ).view(targets_BT.shape)


def losses_and_gradient(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """``token_losses``, and the gradient of their sum with respect to the logits, in one buffer.

    Args:
        logits_BTV: Logits ``[B, T, V]``; read only.
        targets_BT: Token ids ``[B, T]``; -100 where nothing is counted.

    Returns:
        Losses ``[B, T]`` in nats, and ``softmax(logits) - onehot(target)`` ``[B, T, V]``, 0 where
        nothing is counted.
    """
    ignored_BT1 = (targets_BT == IGNORED)[..., None]
    index_BT1 = targets_BT[..., None].masked_fill(ignored_BT1, 0)
    log_BTV = logits_BTV.log_softmax(dim=-1)
    losses_BT1 = log_BTV.gather(-1, index_BT1).neg_().masked_fill_(ignored_BT1, 0)
    gradient_BTV = log_BTV.exp_()
    gradient_BTV.scatter_add_(-1, index_BT1, gradient_BTV.new_full(index_BT1.shape, -1.0))
    return losses_BT1[..., 0], gradient_BTV.masked_fill_(ignored_BT1, 0)


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Run the model on a batch; positions and mask are explicit, so either padding side is exact.

    Returns:
        Logits ``[B, T, V]``, in float32 or wider.
    """
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    )
    return widened(output.logits)


def widened(values: Tensor) -> Tensor:
    """A tensor in float32, if it is in less: what is summed is never in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class _Tape:
    """Running record of one layer's uses in the current pass (``add`` and ``gradient`` change it).

    A layer that is used several times in one forward pass has one gradient: its uses are joined
    along the token axis, and consumed once the last of them has been back-propagated.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.inputs: list[Tensor] = []
        self.versions: list[int] = []
        self.outputs: dict[int, Tensor] = {}

    def add(self, inputs_BTI: Tensor) -> int:
        self.inputs.append(inputs_BTI)
        self.versions.append(inputs_BTI._version)
        return len(self.inputs) - 1

    def gradient(self, use: int, output_BTO: Tensor) -> tuple[Tensor, Tensor] | None:
        self.outputs[use] = output_BTO
        if len(self.outputs) < len(self.inputs):
            return None
        if [x._version for x in self.inputs] != self.versions:
            raise GradientError(
                f"Gradients: the input of layer {self.layer} was changed in place after the layer "
                "read it, an unchanged tensor was expected. Leave this layer out: choose `layers` "
                "by role or by name patterns."
            )
        if len(self.inputs) == 1:
            joined = self.inputs[0], output_BTO
        else:
            joined = (
                torch.cat(self.inputs, dim=1),
                torch.cat([self.outputs[i] for i in range(len(self.inputs))], dim=1),
            )
        self.inputs.clear()
        self.versions.clear()
        self.outputs.clear()
        return joined


class _BiasColumns:
    """Inputs with a column of ones; layers that read the same tensor one after the other share it."""

    def __init__(self) -> None:
        self.plain, self.wide = torch.zeros(0), torch.zeros(0)

    def join(self, inputs_BTI: Tensor, layer: Layer) -> Tensor:
        if not layer.bias:
            return inputs_BTI
        if not same_memory(self.plain, inputs_BTI):
            ones_BT1 = inputs_BTI.new_ones(*inputs_BTI.shape[:-1], 1)
            self.plain, self.wide = inputs_BTI, torch.cat([inputs_BTI, ones_BT1], dim=-1)
        return self.wide


def same_memory(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors, both alive, are the same numbers in memory."""
    return (
        left.data_ptr() == right.data_ptr()
        and left.shape == right.shape
        and left.stride() == right.stride()
    )


def per_row(values: Tensor, rows: int, layer: str) -> Tensor:
    """View a layer's inputs or outputs as ``[B, T, features]``; some models flatten B and T.

    Args:
        values: ``[B, T, features]`` or ``[B * T, features]``.
        rows: B.
        layer: The layer's name, for the message.

    Returns:
        ``[B, T, features]``.

    Raises:
        GradientError: If documents can't be told apart any more.
    """
    if values.ndim == 3 and values.shape[0] == rows:
        return values
    if values.ndim == 2 and values.shape[0] % rows == 0:
        return values.view(rows, -1, values.shape[-1])
    raise GradientError(
        f"Gradients: layer {layer} works on a tensor of shape {tuple(values.shape)} in a batch of "
        f"{rows} rows, [rows, tokens, features] was expected (routed experts mix documents). "
        "Leave this layer out: choose `layers` by role or by name patterns."
    )


@contextmanager
def captured(
    model: nn.Module, layers: Sequence[Layer], rows: int, consume: Consume
) -> Iterator[None]:
    """Hand every layer's inputs and output gradients to ``consume`` during a backward pass.

    The first tracked layer's output becomes the root of the graph, so that the backward pass stops
    there; with frozen parameters no weight gradient is ever formed.  All hooks are removed on exit.

    Args:
        model: A model whose parameters do not require gradients.
        layers: The layers to watch.
        rows: Rows B of the batch that will be run.
        consume: Receives ``(name, a_BTI, g_BTO)`` in float32 or wider, whatever the model computes
            in; the bias column is already appended to ``a``.

    Yields:
        Nothing; run forward and backward inside.
    """
    tapes, columns = {layer.name: _Tape(layer.name) for layer in layers}, _BiasColumns()

    def watch(layer: Layer) -> Callable[..., Tensor]:
        tape = tapes[layer.name]

        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            root = output if output.requires_grad else output.detach().requires_grad_(True)
            use = tape.add(per_row(inputs[0].detach(), rows, layer.name))

            def on_gradient(gradient: Tensor) -> None:
                joined = tape.gradient(use, per_row(gradient.detach(), rows, layer.name))
                if joined is not None:
                    inputs_BTI, output_BTO = joined
                    wide_BTI = columns.join(widened(inputs_BTI), layer)
                    consume(layer.name, wide_BTI, widened(output_BTO))

            root.register_hook(on_gradient)
            return root

        return hook

    handles = [model.get_submodule(x.name).register_forward_hook(watch(x)) for x in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def backward(
    model: nn.Module,
    layers: Sequence[Layer],
    batch: Batch,
    consume: Consume,
    draw: Draw | None = None,
) -> Forward:
    """One forward and one backward pass of the summed loss of a batch.

    Args:
        model: A causal LM in eval mode with frozen parameters.
        layers: Tracked layers.
        batch: The rows; the loss of a row is the sum over its counted targets.
        consume: See ``captured``.
        draw: Puts other labels into the batch, given its logits; None: the batch's own targets.

    Returns:
        The losses of the rows, detached.

    Raises:
        GradientError: If a loss is not finite (names the row's document).
    """
    rows = batch.input_ids.shape[0]
    with captured(model, layers, rows, consume), torch.enable_grad():
        logits_BTV = logits_of(model, batch)
        if draw is not None:
            batch = draw(batch, logits_BTV.detach())
        losses_BT, gradient_BTV = losses_and_gradient(logits_BTV.detach(), batch.targets)
        loss_B = losses_BT.sum(dim=1)
        refuse_not_finite(loss_B, batch, "loss")
        torch.autograd.backward(logits_BTV, gradient_BTV)
    return Forward(loss_B=loss_B, token_loss_BT=losses_BT)


def refuse_not_finite(values: Tensor, batch: Batch, what: str) -> None:
    """Stop on a NaN or an infinity, naming the document.

    Args:
        values: One row for each row of the batch ``[B, ...]``.
        batch: The batch.
        what: What the values are, for the message.

    Raises:
        GradientError: With ``documents`` set to the indices of the bad documents.
    """
    finite_B = torch.isfinite(values.flatten(1) if values.ndim > 1 else values[:, None]).all(dim=1)
    if bool(finite_B.all()):
        return
    bad = [int(x) for x in batch.document[(~finite_B).to(batch.document.device)].tolist()]
    raise GradientError(
        f"Gradients: the {what} of document(s) {bad} is NaN or infinite, finite numbers were "
        "expected. Look at that document's text and at the model's weights (dtype, divergence).",
        documents=tuple(bad),
    )


def gradient(inputs_BTI: Tensor, output_BTO: Tensor) -> Tensor:
    """The per-row gradient ``G = sum_t g_t a_t^T``.

    Args:
        inputs_BTI: Layer inputs.
        output_BTO: Gradients of the summed loss with respect to the layer's outputs.

    Returns:
        Gradients ``[B, O, I]`` in nats per parameter unit.
    """
    return output_BTO.transpose(1, 2) @ inputs_BTI


def squared_norms(inputs_BTI: Tensor, output_BTO: Tensor) -> Tensor:
    """``||sum_t g_t a_t^T||^2`` of each row, from the gradient or from Gram matrices of its tokens.

    Whichever is less work is taken.  Source: Goodfellow (2015), arXiv:1510.01799, for several tokens.

    Returns:
        ``[B]``.
    """
    tokens, inputs, outputs = *inputs_BTI.shape[1:], output_BTO.shape[2]
    if tokens * (inputs + outputs) < inputs * outputs:
        inputs_BTT = inputs_BTI @ inputs_BTI.transpose(1, 2)
        return (inputs_BTT * (output_BTO @ output_BTO.transpose(1, 2))).sum(dim=(1, 2))
    return gradient(inputs_BTI, output_BTO).square().sum(dim=(1, 2))


def per_document_gradients(
    model: nn.Module, layers: Sequence[Layer], batch: Batch
) -> tuple[dict[str, Tensor], Forward]:
    """Full gradients of every row and layer; for queries and tests, where they fit in memory.

    Returns:
        For each layer name, ``[B, O, I]`` (bias last), in nats per parameter unit; and the losses.
    """
    rows: dict[str, Tensor] = {}

    def keep(name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        rows[name] = gradient(inputs_BTI, output_BTO)

    forward = backward(model, layers, batch, keep)
    return {layer.name: rows[layer.name] for layer in layers}, forward
