"""Stage 2 (only with `train: scratch`): a byte-level BPE tokenizer from the corpus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from influence.sources import fingerprint_tokenizer
from pipelines.config import RunConfig
from pipelines.corpus import DOCUMENTS
from pipelines.run_folder import Stage, key_of, seal

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def build_tokenizer(config: RunConfig, root: Path, corpus: Stage) -> Stage:
    """Train a byte-level BPE tokenizer on the corpus; run again to reuse it.

    Args:
        config: The run.
        root: The run's folder.
        corpus: The sealed corpus.

    Returns:
        The sealed stage; its folder loads as a Hugging Face tokenizer.
    """
    stage = Stage(
        "tokenizer", key_of(corpus=corpus.info()["content"], vocabulary=config.vocabulary), root
    )
    if stage.is_sealed():
        return stage
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    stage.path.mkdir(parents=True, exist_ok=True)
    _train_bpe(corpus.path / DOCUMENTS, config.vocabulary).save_pretrained(stage.path)
    return seal(stage, {"fingerprint": fingerprint_tokenizer(stage.path)})


def _train_bpe(documents: Path, vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = pq.read_table(documents, columns=["text"]).column("text").to_pylist()
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD
    )
