"""The model, documents and queries that every system is timed on; no system is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

QUERIES = 64
SIDE = 16
"""A compressed vector keeps 16 x 16 numbers of each layer."""
RANK = 2
"""Or as many pairs of vectors of each layer."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A Llama-style model with random weights, and documents of equal length."""

    blocks: int
    width: int
    mlp: int
    vocabulary: int
    documents: int
    tokens: int
    heads: int = 4


SIZES = {
    "tiny": Size(blocks=1, width=32, mlp=96, vocabulary=128, documents=128, tokens=16),
    "small": Size(blocks=3, width=128, mlp=384, vocabulary=1024, documents=1024, tokens=64),
    "medium": Size(blocks=4, width=256, mlp=768, vocabulary=4096, documents=512, tokens=128),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process shall do."""

    system: str
    stage: str
    size: Size
    labels: str
    """`sampled` (from the model) or `empirical` (the documents' own tokens)."""
    rows: int
    """Documents of a batch."""
    documents: Tensor
    """Token ids `[N, T]`; every token but the first is a target."""
    queries: Tensor
    """Token ids `[Q, T]`."""
    model: Path
    """Folder written by `save_pretrained`."""
    fitted: Path
    """Where the fit of this system was left, for the later stages."""
    out: Path
    """Where this stage leaves its results."""


def prepare(size: Size, folder: Path) -> None:
    """Write the model and the token ids; equal sizes give equal files."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=65536,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    random = np.random.default_rng(0)
    weights = 1 / (np.arange(size.vocabulary) + 2.7)
    shape = (size.documents + QUERIES, size.tokens)
    tokens = random.choice(size.vocabulary, size=shape, p=weights / weights.sum())
    np.save(folder / "tokens.npy", tokens.astype(np.int64))


def load_tokens(folder: Path) -> tuple[Tensor, Tensor]:
    """Documents `[N, T]` and queries `[Q, T]`."""
    tokens = torch.from_numpy(np.load(folder / "tokens.npy"))
    return tokens[:-QUERIES], tokens[-QUERIES:]


def load_model(folder: Path) -> nn.Module:
    """The model in float32 and eval mode, its parameters frozen."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def block_layers(model: nn.Module) -> list[str]:
    """Names of all linear layers but the head."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    ]


def layer_shapes(size: Size) -> list[tuple[int, int, int]]:
    """`(O, I, how many layers read the same input)` of all linear layers but the head."""
    d, m = size.width, size.mlp
    return size.blocks * [*3 * [(d, d, 3)], (d, d, 1), *2 * [(m, d, 2)], (d, m, 1)]
