"""ContextCite 0.0.4: 64 random masks of the prompt's parts, and a sparse linear model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from context_cite import ContextCiter
from context_cite.context_partitioner import BaseContextPartitioner
from numpy.typing import NDArray

from benchmarks.inputs.setting import MASKS, Asked
from benchmarks.inputs.setting import load as load_asked

logging.getLogger("ContextCite").setLevel(logging.ERROR)


class Parts(BaseContextPartitioner):
    """The prompt's parts, as they stand."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked.prompt)
        self.texts = [asked.prompt[start:end] for start, end in asked.parts]

    @property
    def num_sources(self) -> int:
        return len(self.texts)

    def split_context(self) -> None:
        pass

    def get_source(self, index: int) -> str:
        return self.texts[index]

    def get_context(self, mask: NDArray[np.bool_] | None = None) -> str:
        kept = np.ones(len(self.texts), bool) if mask is None else mask
        return "".join(text for text, keep in zip(self.texts, kept, strict=True) if keep)


def load(folder: Path) -> Any:
    model, tokenizer, asked = load_asked(folder)
    tokenizer.padding_side = "left"
    return model, tokenizer, asked, folder


def _cite(state: Any, rows: int) -> dict[str, np.ndarray]:
    model, tokenizer, asked, folder = state
    citer = ContextCiter(
        model,
        tokenizer,
        context=asked.prompt,
        query="",
        num_ablations=MASKS,
        batch_size=rows,
        prompt_template="{context}{query}",
        partitioner=Parts(asked),
    )
    citer._cache["output"] = asked.prompt + asked.completion  # explain this, generate nothing
    scores_P = citer.get_attributions(verbose=False)
    found = {"masks_MU": citer._masks.astype(bool), "logits_MT": citer._logit_probs}
    np.savez(folder / "context_cite.npz", **found)
    return {"scores_P": np.asarray(scores_P), **found}


def one_row(state: Any) -> dict[str, np.ndarray]:
    return _cite(state, 1)


def many_rows(state: Any) -> dict[str, np.ndarray]:
    return _cite(state, 16)


RUNS = {"surrogate": one_row, "surrogate, batch_size=16": many_rows}
