"""A GGUF file is unpacked once, as safetensors, so that workers load seconds instead of a minute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from influence.models import fingerprint, quiet_transformers
from influence.sources import Source, load_tokenizer
from pipelines.cluster import Workers
from pipelines.run_folder import Stage, key_of, seal


@dataclass(frozen=True, kw_only=True)
class UnpackSpec:
    """One GGUF file and where its copy goes."""

    folder: str
    gguf_file: str
    tokenizer: str
    tokenizer_gguf: str | None
    out: str


def unpack_gguf(source: str, gguf_file: str, about: Source, root: Path, workers: Workers) -> Stage:
    """Write a GGUF model as float32 safetensors, with its tokenizer; run again to reuse it.

    Args:
        source: The folder.
        gguf_file: Name of the GGUF file in it.
        about: What the source is.
        root: The run's folder.
        workers: Where to run.

    Returns:
        The sealed stage; its info holds the copy's fingerprint.
    """
    stage = Stage("unpacked", key_of(source=about.fingerprint), root)
    if stage.is_sealed():
        return stage
    spec = UnpackSpec(
        folder=source,
        gguf_file=gguf_file,
        tokenizer=about.tokenizer_source,
        tokenizer_gguf=about.tokenizer_gguf,
        out=str(stage.path),
    )
    workers.map(unpack, [spec], "Unpacking the GGUF file")
    return seal(stage, {"fingerprint": fingerprint(stage.path)})


def gguf_parts(source: str, gguf_file: str | None) -> tuple[str, str | None]:
    """Split a ``.gguf`` path into its folder and its name.

    Args:
        source: A model's source.
        gguf_file: Name of the GGUF file in the folder ``source``, if given.

    Returns:
        Folder (or hub id) and name of the GGUF file; None when the source is none.
    """
    path = Path(source)
    return (str(path.parent), path.name) if path.suffix == ".gguf" else (source, gguf_file)


def unpack(spec: UnpackSpec) -> str:
    """Load a GGUF model and save it (runs on a worker).

    Returns:
        The folder.
    """
    with quiet_transformers():
        plain_model(spec.folder, None, spec.gguf_file).save_pretrained(spec.out)
        load_tokenizer(spec.tokenizer, spec.tokenizer_gguf).save_pretrained(spec.out)
    return spec.out


def plain_model(source: str, revision: str | None, gguf_file: str | None) -> Any:
    """A transformers model as it can be trained and saved: no layers swapped, nothing quantised.

    Args:
        source: Folder or hub id.
        revision: Of a hub id.
        gguf_file: Name of the GGUF file in the folder.

    Returns:
        A causal LM in float32.
    """
    from transformers import AutoModelForCausalLM

    extra = {"gguf_file": gguf_file} if gguf_file else {}
    model = AutoModelForCausalLM.from_pretrained(
        source, revision=revision, dtype=torch.float32, trust_remote_code=False, **extra
    )
    if gguf_file:  # dequantised on loading
        del model.config.quantization_config
        model.is_quantized = False
        model.hf_quantizer = None
    return model
