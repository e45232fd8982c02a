"""inseq 0.7.1: occlusion and integrated gradients of each token's log-probability."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import inseq
import numpy as np

from benchmarks.inputs.setting import load as load_asked

logging.getLogger("inseq").setLevel(logging.ERROR)


def load(folder: Path) -> Any:
    return load_asked(folder)


def _attribute(state: Any, method: str, **more: int) -> dict[str, np.ndarray]:
    model, tokenizer, asked = state
    attribution = inseq.load_model(model, method, tokenizer=tokenizer)
    found = attribution.attribute(
        asked.prompt,
        generated_texts=asked.prompt + asked.completion,
        attributed_fn="probability",
        logprob=True,
        show_progress=False,
        **more,
    )
    tokens = len(tokenizer.encode(asked.prompt))
    scores = found.sequence_attributions[0].target_attributions[:tokens].double()
    scores_PT = (scores.sum(2) if scores.dim() == 3 else scores).detach().numpy()
    return {"tokens_PT": scores_PT, "scores_P": scores_PT.sum(1)}


def occlusion(state: Any) -> dict[str, np.ndarray]:
    return _attribute(state, "occlusion")


def integrated_gradients(state: Any) -> dict[str, np.ndarray]:
    return _attribute(state, "integrated_gradients", n_steps=state[2].steps)


RUNS = {"leave-one-out": occlusion, "integrated gradients": integrated_gradients}
