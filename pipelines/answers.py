"""What a model makes of a query: its loss, and what it would say itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from influence.documents.gradients import logits_of, token_losses
from influence.text import collate, encode_query
from pipelines.queries import Query


@torch.no_grad()
def greedy(loaded: Any, tokens: np.ndarray, count: int) -> str:
    """What the model itself would say, token by token.

    Args:
        loaded: The model.
        tokens: The prompt's token ids.
        count: Most tokens to say.

    Returns:
        Decoded text, up to the end of the sequence or of the line.
    """
    ids = list(map(int, tokens))
    said: list[int] = []
    for _ in range(count):
        if len(ids) >= loaded.max_tokens:
            break
        batch = torch.tensor([ids], device=loaded.device)
        token = int(loaded.model(input_ids=batch, use_cache=False).logits[0, -1].argmax())
        if token == loaded.tokenizer.eos_token_id:
            break
        ids.append(token)
        said.append(token)
    return str(loaded.tokenizer.decode(said))


def says(loaded: Any, query: Query) -> bool:
    """Whether the model's own greedy answer to a query's prompt is its completion.

    Args:
        loaded: The model.
        query: The query; without a prompt the answer is False.

    Returns:
        True where the texts agree, blanks at their ends apart.
    """
    if query.prompt is None:
        return False
    chunk = encode_query(loaded.tokenizer, query.prompt, query.completion, loaded.max_tokens)
    count = int(chunk.loss.sum())
    said = greedy(loaded, chunk.tokens[: len(chunk.tokens) - count], count)
    return said.strip() == query.completion.strip()


def loss_of(loaded: Any, query: Query) -> float:
    """Loss of a query's completion, less the contrast's where there is one.

    Args:
        loaded: The model.
        query: The query.

    Returns:
        Nats, summed over tokens.
    """
    loss = _loss(loaded, query.prompt, query.completion)
    return loss if query.contrast is None else loss - _loss(loaded, query.prompt, query.contrast)


@torch.no_grad()
def _loss(loaded: Any, prompt: str | None, completion: str) -> float:
    chunk = encode_query(loaded.tokenizer, prompt, completion, loaded.max_tokens)
    batch = collate([chunk], loaded.pad_id).to(loaded.device)
    return float(token_losses(logits_of(loaded.model, batch), batch.targets).sum())
