"""The gradient of what a query asks about: of its completion's loss, less that of its contrast."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from influence.documents.gradients import Forward, per_document_gradients
from influence.documents.scores import contrast
from influence.text import Chunk, collate, encode_query
from pipelines.queries import Query
from pipelines.worker import ModelSpec, language_model, layers_of


@dataclass(frozen=True)
class Differentiated:
    """One query after its backward pass (two with a contrast)."""

    chunk: Chunk
    """Prompt and completion."""
    gradients: dict[str, Tensor]
    """For each layer ``[1, O, I]``, of the completion's summed loss, less the contrast's; nats per
    parameter unit."""
    forward: Forward
    """Losses of the completion."""
    contrast_loss: float | None
    """Summed loss of the contrast in nats; None without one."""


def differentiate(model: ModelSpec, query: Query) -> Differentiated:
    """Differentiate one query.

    Args:
        model: The model, and the layers that are tracked.
        query: What to explain.

    Returns:
        Its gradients and losses, on the model's device.
    """
    loaded, layers = language_model(model), layers_of(model)

    def backward(completion: str) -> tuple[Chunk, dict[str, Tensor], Forward]:
        chunk = encode_query(loaded.tokenizer, query.prompt, completion, loaded.max_tokens)
        batch = collate([chunk], loaded.pad_id).to(loaded.device)
        return chunk, *per_document_gradients(loaded.model, layers, batch)

    chunk, gradients, forward = backward(query.completion)
    if query.contrast is None:
        return Differentiated(chunk, gradients, forward, None)
    _, against, told = backward(query.contrast)
    return Differentiated(chunk, contrast(gradients, against), forward, float(told.loss_B))
