"""captum 0.9: `LLMAttribution` in three settings, `LLMGradientAttribution`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import (
    FeatureAblation,
    LayerIntegratedGradients,
    LLMAttribution,
    LLMGradientAttribution,
    TextTokenInput,
)

from benchmarks.inputs.setting import load as load_asked


def load(folder: Path) -> Any:
    model, tokenizer, asked = load_asked(folder)
    tokens = tokenizer.encode(asked.prompt + asked.completion)
    target = torch.tensor(tokens[len(tokenizer.encode(asked.prompt)) :])
    return model, tokenizer, asked, target


def _ablation(state: Any, **setting: bool) -> dict[str, np.ndarray]:
    model, tokenizer, asked, target = state
    prompt = TextTokenInput(asked.prompt, tokenizer, baselines=asked.removed)
    attribution = LLMAttribution(FeatureAblation(model), tokenizer)
    found = attribution.attribute(prompt, target=target, **setting)
    return {"tokens_PT": found.token_attr.numpy().T, "scores_P": found.seq_attr.numpy()}


def by_default(state: Any) -> dict[str, np.ndarray]:
    return _ablation(state)


def without_cache(state: Any) -> dict[str, np.ndarray]:
    return _ablation(state, use_cached_outputs=False)


def in_one_pass(state: Any) -> dict[str, np.ndarray]:
    return _ablation(state, forward_in_tokens=False)


def integrated_gradients(state: Any) -> dict[str, np.ndarray]:
    model, tokenizer, asked, target = state
    prompt = TextTokenInput(asked.prompt, tokenizer, baselines=asked.removed)
    method = LayerIntegratedGradients(model, model.get_input_embeddings())
    attribution = LLMGradientAttribution(method, tokenizer)
    found = attribution.attribute(prompt, target=target, n_steps=asked.steps)
    return {"tokens_PT": found.token_attr.numpy().T, "scores_P": found.seq_attr.numpy()}


RUNS = {
    "leave-one-out, forward_in_tokens=False": in_one_pass,
    "leave-one-out, use_cached_outputs=False": without_cache,
    "leave-one-out, default": by_default,
    "integrated gradients": integrated_gradients,
}
