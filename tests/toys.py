"""Tiny seeded models, tokenizers and batches, and the one comparison that all tests use."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.masking_utils import eager_mask

from influence.models import LanguageModel
from influence.text import Chunk

SPECIALS = ("<pad>", "<bos>", "<eos>")
MERGES = (
    *(("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "s"), ("Ġ", "is"), ("a", "n"), ("i", "n")),
    *(("Ġ", "P"), ("a", "r"), ("ar", "is"), ("ĠP", "aris"), ("r", "e"), ("n", "d"), ("o", "n")),
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-2,
}


def assert_matches(actual, expected):
    """Raise unless two tensors or arrays agree, to the precision of the coarser dtype.

    rtol is 1e-9 for float64, 1e-4 for float32 and 2e-2 for half precision; atol is rtol times the
    largest expected entry. Whole numbers and booleans must be equal. NaN never matches.
    """
    actual, expected = torch.as_tensor(actual).detach(), torch.as_tensor(expected).detach()
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    rtol = max(TOLERANCES.get(actual.dtype, 0.0), TOLERANCES.get(expected.dtype, 0.0))
    actual, expected = actual.cpu().to(torch.float64), expected.cpu().to(torch.float64)
    atol = rtol * float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def toy_llama(
    vocab=11, d=8, layers=2, *, tied=False, seed=0, dtype=torch.float64, positions=64, bias=False
):
    """A Llama with every parameter random (norms around 1), so that nothing is zero by chance.

    Two heads of width d/2, of which the keys and values share one; mlp width 3d/2. In eval mode,
    with frozen parameters, as `load_model` leaves a model. Unlike transformers' own Llama, which
    takes softmax and norms in float32 always, it computes in its dtype throughout.
    """
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=d,
        intermediate_size=3 * d // 2,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        attention_bias=bias,
        mlp_bias=bias,
        use_cache=False,
        attn_implementation="toy",
        **_special_ids(vocab),
    )
    model = LlamaForCausalLM(config)
    for name, _ in list(model.named_modules()):
        if name.endswith("norm"):
            model.set_submodule(name, nn.RMSNorm(d, eps=config.rms_norm_eps))
    return _randomised(model, seed, dtype)


def toy_gpt2(vocab=11, d=8, layers=2, *, tied=True, seed=0, dtype=torch.float64, positions=64):
    """A GPT-2 with `Conv1D` layers (call `swap_conv1d`), random like `toy_llama`; has biases."""
    config = GPT2Config(
        vocab_size=vocab,
        n_embd=d,
        n_layer=layers,
        n_head=2,
        n_positions=positions,
        tie_word_embeddings=tied,
        use_cache=False,
        attn_implementation="eager",
        **_special_ids(vocab),
    )
    return _randomised(GPT2LMHeadModel(config), seed, dtype)


def toy_tokenizer(*, bos=False, eos=False, pad=True, side="right", chat_template=None):
    """A byte-level BPE with a few merges; any text is representable, and decodes to itself.

    Args:
        bos: Does it put `<bos>` before a text?
        eos: Does it put `<eos>` after a text? (It knows the token either way.)
        pad: Does it have a pad token?
        side: Its own padding side, which batches must not depend on.
        chat_template: Jinja, such as `CHAT_TEMPLATE`.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIALS, *alphabet, *("".join(pair) for pair in MERGES)]
    backend = Tokenizer(BPE(vocab={w: i for i, w in enumerate(words)}, merges=list(MERGES)))
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    frame = f"{'<bos> ' if bos else ''}$A{' <eos>' if eos else ''}"
    backend.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[(token, i) for i, token in enumerate(SPECIALS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>" if pad else None,
        padding_side=side,
        chat_template=chat_template,
    )


def toy_language_model(model: nn.Module, tokenizer=None) -> LanguageModel:
    """A toy model as `load_model` would give it."""
    return LanguageModel(
        model=model,
        tokenizer=tokenizer or toy_tokenizer(),
        name="toy",
        fingerprint="0" * 32,
        max_tokens=64,
        pad_id=0,
        device=torch.device("cpu"),
    )


def save_toy(folder: Path, model: PreTrainedModel, tokenizer=None) -> Path:
    """Write a model, and a tokenizer unless it is None, for `load_model`; returns the folder."""
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def random_chunks(count=6, vocab=11, shortest=3, longest=7, *, loss="some", seed=0) -> list[Chunk]:
    """Chunks of random tokens and lengths, each of its own document.

    Args:
        count: Number of chunks.
        vocab: Tokens are below this.
        shortest: Fewest tokens of a chunk.
        longest: Most tokens of a chunk.
        loss: `all`: every token but the first is counted; `some`: a random half of them, at least
            one.
        seed: Of the random state.
    """
    random = np.random.default_rng(seed)
    chunks = []
    for document in range(count):
        length = int(random.integers(shortest, longest + 1))
        tokens = random.integers(0, vocab, length).astype(np.int32)
        counted = np.ones(length, bool) if loss == "all" else random.random(length) < 0.5
        counted[random.integers(1, length)] = True
        counted[0] = False
        chunks.append(Chunk(document, 0, tokens, counted))
    return chunks


def _attention(module, query, key, value, attention_mask, scaling, **_):
    # Attention by the formula, in the dtype of its inputs; key heads are shared by query heads.
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    weights = F.softmax(query @ key.transpose(2, 3) * scaling + attention_mask, dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("toy", _attention)
AttentionMaskInterface.register("toy", eager_mask)


def _special_ids(vocab: int) -> dict[str, int]:
    return {"bos_token_id": 1 % vocab, "eos_token_id": 2 % vocab, "pad_token_id": 0}


def _randomised(model: PreTrainedModel, seed: int, dtype: torch.dtype) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    model = model.to(dtype).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        noise: Tensor = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        is_norm = name.endswith("weight") and ("norm" in name or "ln_" in name)
        parameter.copy_(1 + 0.1 * noise if is_norm else 0.3 * noise)
    return model
