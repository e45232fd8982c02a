"""The model and the question that every system gets, in one folder.

The embedding of the token that stands for a removed one is the mean of all others. So the baselines
of all systems coincide: ours is the mean embedding, captum's a token that is named, inseq's the
unknown token.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

TEXTS = Path(__file__).parents[1] / "answer_sentences.jsonl"
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
PARTS = 20
"""Of the prompt, for ContextCite and our surrogate."""
MASKS = 64
"""Rows of the surrogates: ContextCite's default."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt and a completion of it, and what the systems need to agree on."""

    prompt: str
    completion: str
    removed: int
    """Token id that stands for a removed token; its embedding is the mean of all others."""
    steps: int
    """Of integrated gradients."""

    @property
    def parts(self) -> list[tuple[int, int]]:
        """The prompt in characters, cut at spaces into parts of like many words."""
        starts = [0, *(i for i, letter in enumerate(self.prompt) if letter == " ")]
        chosen = [starts[len(starts) * part // PARTS] for part in range(PARTS)]
        return list(zip(chosen, [*chosen[1:], len(self.prompt)], strict=True))


def prepare(
    folder: Path, *, model: str = "", prompt_tokens: int = 200, target_tokens: int = 30, steps: int
) -> Asked:
    """Write the model, its tokenizer and the question into a folder."""
    loaded, tokenizer = _random_model() if not model else _own_model(model)
    tokens = tokenizer.encode(_text(bool(model)))[: prompt_tokens + target_tokens]
    prompt, whole = tokenizer.decode(tokens[:prompt_tokens]), tokenizer.decode(tokens)
    if tokenizer.encode(whole) != tokens or not whole.startswith(prompt):
        raise SystemExit(f"{model}: its tokenizer does not read again what it wrote.")
    asked = Asked(
        prompt=prompt, completion=whole[len(prompt) :], removed=tokenizer.unk_token_id, steps=steps
    )
    with torch.no_grad():
        weight = loaded.get_input_embeddings().weight
        others = torch.arange(len(weight)) != asked.removed
        weight[asked.removed] = weight[others].double().mean(0).to(weight)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    loaded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "asked.json").write_text(json.dumps(asdict(asked)))
    return asked


def load(folder: Path) -> tuple[Any, Any, Asked]:
    """The model as transformers gives it, its tokenizer, and the question."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return model, tokenizer, Asked(**json.loads((folder / "asked.json").read_text()))


def _random_model() -> tuple[Any, Any]:
    words = {word: number for number, word in enumerate((*SPECIALS, *_words()))}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        initializer_range=0.05,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def _own_model(name: str) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.unk_token_id in (None, tokenizer.bos_token_id, tokenizer.eos_token_id):
        tokenizer.unk_token = "_"  # a token of its own, so that all systems take it
    return model, tokenizer


def _words() -> list[str]:
    return [f"w{number}" for number in range(4096 - len(SPECIALS))]


def _text(real: bool) -> str:
    if real:
        return " ".join(json.loads(line)["context"] for line in TEXTS.read_text().splitlines())
    return " ".join(np.random.default_rng(0).choice(_words(), 1000))
