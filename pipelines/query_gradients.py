"""What a query asks about: the loss of its completion, less that of its contrast."""

from __future__ import annotations

from torch import Tensor

from influence.documents.gradients import per_document_gradients
from influence.documents.scores import contrast
from influence.models import LanguageModel
from influence.text import Chunk, collate, encode_query
from pipelines.queries import Query
from pipelines.worker import ModelSpec, language_model, layers_of


def encoded(loaded: LanguageModel, query: Query) -> list[Chunk]:
    """The query's texts as tokens.

    Args:
        loaded: The model.
        query: What to explain.

    Returns:
        Prompt and completion; and, where there is one, prompt and contrast.
    """
    texts = [query.completion] + ([] if query.contrast is None else [query.contrast])
    return [encode_query(loaded.tokenizer, query.prompt, t, loaded.max_tokens) for t in texts]


def differentiate(model: ModelSpec, query: Query) -> dict[str, Tensor]:
    """Differentiate one query.

    Args:
        model: The model, and the layers that are tracked.
        query: What to explain.

    Returns:
        For each layer ``[1, O, I]`` on the model's device, of the completion's summed loss, less the
        contrast's, in nats per parameter unit.
    """
    loaded, layers = language_model(model), layers_of(model)
    found = [
        per_document_gradients(
            loaded.model, layers, collate([chunk], loaded.pad_id).to(loaded.device)
        )[0]
        for chunk in encoded(loaded, query)
    ]
    return found[0] if len(found) == 1 else contrast(*found)
