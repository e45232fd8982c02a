"""The formulas of the document method as plain loops over tokens, with plain autograd.

Slow, and meant to be read beside the formulas: one document at a time, no batch, no padding, no
mask but "is this token counted". A tied head is untied first, so that its own use is seen alone.
"""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Trace:
    """What one document leaves at every layer."""

    loss: float
    """Summed loss of the counted tokens, in nats."""
    counted: list[int]
    """Positions whose next token is counted."""
    inputs: dict[str, Tensor]
    """`a_t`, with a one appended where there is a bias, `[T, I]`."""
    outputs: dict[str, Tensor]
    """`g_t = dL / ds_t`, `[T, O]`."""
    gradients: dict[str, Tensor]
    """`dL / d[W|b]` by autograd on the parameters, `[O, I]`."""


def untied(model: nn.Module) -> nn.Module:
    """A copy in which the head has a weight of its own."""
    copy = deepcopy(model)
    head = copy.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    return copy.requires_grad_(True)


def trace(model: nn.Module, layers, chunk, labels=None) -> Trace:
    """Run one document alone; `labels` replace its counted tokens, in order."""
    model = untied(model)
    seen = {}

    def watch(name):
        def hook(_module, inputs, output):
            output.retain_grad()
            seen[name] = (inputs[0][0].detach(), output)

        return hook

    for layer in layers:
        model.get_submodule(layer.name).register_forward_hook(watch(layer.name))
    tokens = torch.as_tensor(chunk.tokens, dtype=torch.int64)
    logits_TV = model(input_ids=tokens[None], use_cache=False).logits[0]
    counted = [t - 1 for t in range(1, len(tokens)) if chunk.loss[t]]
    targets = [int(tokens[t + 1]) for t in counted] if labels is None else [int(x) for x in labels]
    loss = torch.zeros((), dtype=logits_TV.dtype)
    for t, target in zip(counted, targets, strict=True):
        loss = loss - logits_TV[t].log_softmax(dim=-1)[target]
    loss.backward()
    inputs, outputs, gradients = {}, {}, {}
    for layer in layers:
        module = model.get_submodule(layer.name)
        a_TI, output = seen[layer.name]
        gradient_OI = module.weight.grad
        if layer.bias:
            a_TI = torch.cat([a_TI, torch.ones(len(a_TI), 1, dtype=a_TI.dtype)], dim=1)
            gradient_OI = torch.cat([gradient_OI, module.bias.grad[:, None]], dim=1)
        inputs[layer.name], gradients[layer.name] = a_TI, gradient_OI
        outputs[layer.name] = output.grad[0]
    return Trace(float(loss.detach()), counted, inputs, outputs, gradients)


def factor_sums(traces, name) -> tuple[Tensor, Tensor, int]:
    """`sum a a^T`, `sum g g^T` over the counted tokens, and how many they are."""
    a_II = sum(torch.outer(x.inputs[name][t], x.inputs[name][t]) for x in traces for t in x.counted)
    s_OO = sum(
        torch.outer(x.outputs[name][t], x.outputs[name][t]) for x in traces for t in x.counted
    )
    return a_II, s_OO, sum(len(x.counted) for x in traces)


def eigenvalues(traces, name, out_basis_OO, in_basis_II) -> Tensor:
    """`Lambda[o, i] = mean_n (q_o^T G_n q_i)^2`, the tokens of a document summed first."""
    squares = [(out_basis_OO.T @ x.gradients[name] @ in_basis_II) ** 2 for x in traces]
    return sum(squares) / len(traces)


def token_eigenvalues(traces, name, out_basis_OO, in_basis_II) -> Tensor:
    """What trap 2 warns of: every token's own gradient squared."""
    total = 0.0
    for x in traces:
        for a_I, g_O in zip(x.inputs[name], x.outputs[name], strict=True):
            total = total + (out_basis_OO.T @ torch.outer(g_O, a_I) @ in_basis_II) ** 2
    return total / len(traces)


def preconditioned(v_OI, out_basis_OO, in_basis_II, lambda_OI, factor) -> Tensor:
    """`P(V)` by the dense inverse of `Q diag(Lambda) Q^T + lambda`, over flattened matrices."""
    basis_PP = torch.kron(out_basis_OO.contiguous(), in_basis_II.contiguous())
    fisher_PP = basis_PP @ torch.diag(lambda_OI.flatten()) @ basis_PP.T
    damping = factor * lambda_OI.mean()
    damped_PP = fisher_PP + damping * torch.eye(len(fisher_PP), dtype=fisher_PP.dtype)
    return torch.linalg.solve(damped_PP, v_OI.flatten()).view_as(v_OI)


def score(query: Trace, document: Trace, solved) -> float:
    """`I(m)`: the preconditioned query gradient times the document's, over all layers."""
    assert query.gradients.keys() == document.gradients.keys()
    return sum(float((solved[n] * document.gradients[n]).sum()) for n in solved)


def token_score(document: Trace, solved) -> Tensor:
    """Each position's part of the score, `sum_layers g_t^T P(V) a_t`, `[T]`."""
    length = len(next(iter(document.inputs.values())))
    return torch.stack(
        [
            sum(document.outputs[n][t] @ solved[n] @ document.inputs[n][t] for n in solved)
            for t in range(length)
        ]
    )
