r"""Tail-patch: how much does one step on some documents raise the log-probability of a completion?

.. math:: \theta' = \theta - \eta \nabla_\theta \frac{1}{W} \sum_{m} L_m(\theta), \quad
    \mathrm{rise} = \log p_{\theta'}(completion) - \log p_\theta(completion)

with W the counted tokens of the documents: one step of PLAIN gradient descent over every parameter on
the mean token loss, whatever optimizer trained the model.  The rise is in nats; POSITIVE means that
the documents support the completion.  To first order it is the dot product of gradients times
:math:`\eta / W`, so a method close to that is favoured when the step is small.

The step is made on copies: the model itself is never written to.

Source: Chang et al. (2024), arXiv:2410.17413 ("tail-patch score"); there one step for
each proponent with the training's own optimizer, here one step for all k documents together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from influence.documents.gradients import logits_of, refuse_not_finite, token_losses
from influence.errors import InfluenceError
from influence.text import Batch


class _Losses(nn.Module):
    """A model whose output is the sum of each row's counted token losses, in nats."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return token_losses(logits_of(self.model, batch), batch.targets).sum(dim=1)


def tail_patch(
    model: nn.Module, batch_of_documents: Batch, query_batch: Batch, learning_rate: float
) -> float:
    """The rise of the query's log-probability after one step on the documents.

    Memory: two more copies of the parameters while it runs. In half precision small steps are lost
    to rounding; load the model in float32 for this measure.

    Args:
        model: The causal LM, in eval mode; the same to the last bit afterwards, whatever happens.
        batch_of_documents: The k documents, in one batch.
        query_batch: The query; its counted tokens are the completion (several rows are summed).
        learning_rate: Step size, on the mean loss of the documents' counted tokens.

    Returns:
        ``log p`` after the step minus before, in nats, summed over the completion's tokens.

    Raises:
        InfluenceError: If no token is counted, the step size is not positive, or the step ends in
            NaN or infinity.
    """
    _refuse_nothing(batch_of_documents, query_batch, learning_rate)
    losses = _Losses(model)
    shared = {name: value.clone() for name, value in losses.named_buffers()}
    weights = {name: value.detach() for name, value in losses.named_parameters()}
    with torch.no_grad():
        before_B = functional_call(losses, weights | shared, (query_batch,))
        refuse_not_finite(before_B, query_batch, "loss")
        stepped = _step(losses, weights, shared, batch_of_documents, learning_rate)
        after_B = functional_call(losses, stepped | shared, (query_batch,))
    rise = float(before_B.double().sum() - after_B.double().sum())
    if not math.isfinite(rise):
        raise InfluenceError(
            f"tail patch: the completion's log-probability after a step of {learning_rate:g} is NaN "
            "or infinite, a finite number was expected. Take a smaller learning rate."
        )
    return rise


def _step(
    losses: nn.Module,
    weights: dict[str, Tensor],
    shared: dict[str, Tensor],
    batch: Batch,
    learning_rate: float,
) -> dict[str, Tensor]:
    """Copies of the weights after one step; a parameter that the loss does not use stays."""
    with torch.enable_grad():
        leaves = {
            name: value.detach().requires_grad_(True)
            for name, value in weights.items()
            if value.is_floating_point()
        }
        loss_B = functional_call(losses, weights | leaves | shared, (batch,))
        refuse_not_finite(loss_B.detach(), batch, "loss")
        mean = loss_B.sum() / batch.n_loss_tokens
        found = torch.autograd.grad(mean, list(leaves.values()), allow_unused=True)
    stepped = {
        name: weights[name] - learning_rate * gradient
        for name, gradient in zip(leaves, found, strict=True)
        if gradient is not None
    }
    return weights | stepped


def _refuse_nothing(documents: Batch, query: Batch, learning_rate: float) -> None:
    counted = documents.n_loss_tokens, query.n_loss_tokens
    if min(counted) == 0 or not (math.isfinite(learning_rate) and learning_rate > 0):
        raise InfluenceError(
            f"tail patch: {counted[0]} counted tokens in the documents, {counted[1]} in the query, "
            f"learning rate {learning_rate}; positive numbers were expected. Check the loss masks "
            "and the step size (the last one of the training is a fair choice)."
        )
