"""Attention weights while they are made, one layer in memory at a time.

Our own hooks, gone afterwards: `output_attentions` keeps all layers at once, and transformers
leaves the hooks that it records them with on the model for good.

Axes: R rows, H query heads, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from influence.errors import InputError
from influence.inputs.evaluate import evaluating
from influence.inputs.gradient.embedded import EmbeddedTarget
from influence.inputs.passage import Passage
from influence.models import LanguageModel


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """The attention of each layer, from first to last.

    Known by their class names, as in all of transformers' decoders; where one holds another
    (GPT-Neo), the inner one computes.

    Args:
        model: A decoder, perhaps under an adapter.

    Returns:
        Modules that return attention weights as their second output.
    """
    found = [m for m in model.modules() if type(m).__name__.endswith("Attention")]
    return [m for m in found if not any(inner in found for inner in list(m.modules())[1:])]


@contextmanager
def each_layer(loaded: LanguageModel, visit: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Show the attention weights of every layer of a forward pass, in the order of the layers.

    Args:
        loaded: The model, with eager attention.
        visit: `(layer, weights_RHNN)`; weights of query heads, part of the graph where there is
            one. Keep no more of them than needed.

    Yields:
        Nothing; hooks are gone afterwards, also when the pass fails.

    Raises:
        InputError: If the model does not show its attention weights.
    """
    modules = attention_modules(loaded.model)
    if not modules:
        raise InputError(
            f"{loaded.name}: no attention layer found in {type(loaded.model).__name__}, expected a "
            "transformer. Use a gradient or perturbation method."
        )
    with ExitStack() as stack:
        for layer, module in enumerate(modules):
            hook = module.register_forward_hook(partial(_show, loaded.name, visit, layer))
            stack.callback(hook.remove)
        yield


def _show(
    name: str,
    visit: Callable[[int, Tensor], None],
    layer: int,
    module: nn.Module,
    inputs: tuple[Any, ...],
    output: Any,
) -> None:
    weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    if not isinstance(weights, Tensor) or weights.dim() != 4:
        raise InputError(
            f"{name}: {type(module).__name__} of layer {layer} gives no attention weights, expected"
            " them for each head and pair of tokens. Fused kernels (sdpa, flash) never make them: "
            'load the model with `load_model`, or call model.set_attn_implementation("eager").'
        )
    visit(layer, weights)


def attention_gradients(
    embedded: EmbeddedTarget, visit: Callable[[int, Tensor, Tensor], None]
) -> float:
    """Show attention weights and the target's gradient by them, from the last layer to the first.

    One forward and one backward pass. The graph holds the weights of all layers, their gradients
    are gone after the visit.

    Args:
        embedded: The target.
        visit: `(layer, weights_RHNN, gradient_RHNN)`, R = one row for each continuation; gradients
            in nats per unit of attention.

    Returns:
        The target's value, in nats.
    """

    def wait(layer: int, weights_RHNN: Tensor) -> None:
        # The copy without a graph keeps the hook from holding its own tensor for ever.
        weights_RHNN.register_hook(partial(visit, layer, weights_RHNN.detach()))

    with each_layer(embedded.loaded, wait):
        values_B, _ = embedded.value_and_gradient(embedded.prompt_PD[None])
    return float(values_B[0])


@torch.no_grad()
def read_whole(
    loaded: LanguageModel, passage: Passage, visit: Callable[[int, Tensor], None]
) -> None:
    """Show the attention weights of a passage from its first token to its last.

    Args:
        loaded: The model.
        passage: Prompt and completion.
        visit: As for `each_layer`, with R = 1 and N = all tokens of the passage.
    """
    ids_1N = torch.from_numpy(passage.tokens).long()[None].to(loaded.device)
    with each_layer(loaded, visit), evaluating(loaded.model):
        loaded.model(
            input_ids=ids_1N,
            attention_mask=torch.ones_like(ids_1N),
            use_cache=False,
            logits_to_keep=1,
        )
