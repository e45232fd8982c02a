"""What a model's source is, without loading its weights: identity, tokenizer, context length."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoTokenizer

from influence import models
from influence.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model's identity and what its tokenizer is."""

    name: str
    fingerprint: str
    """Hash of weights, config, tokenizer and adapter."""
    tokenizer_source: str
    """Folder to load the tokenizer from."""
    tokenizer_gguf: str | None
    """Name of the GGUF file that holds the tokenizer; None: plain files."""
    tokenizer_fingerprint: str
    max_tokens: int
    """Longest context."""


def describe_source(
    source: str | Path,
    *,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
    gguf_file: str | None = None,
) -> Source:
    """Identify a model and its tokenizer from their files.

    Args:
        source: As for ``load_model``, like the other arguments.
        tokenizer: As there.
        revision: As there.
        adapter: As there.
        gguf_file: As there.

    Returns:
        The source.

    Raises:
        ModelError: If its config can't be read.
    """
    files = models._find(source, tokenizer, revision, adapter, gguf_file)
    try:
        with models.quiet_transformers():
            config = AutoConfig.from_pretrained(
                str(files.folder), gguf_file=files.gguf, trust_remote_code=False
            )
    except models.LOAD_ERRORS as error:
        raise ModelError(
            f"{files.name}: its config can't be read ({models._first_line(error)}). Use an "
            "architecture that transformers knows."
        ) from error
    from_gguf = None if files.tokenizer else files.gguf
    folder = files.tokenizer or files.folder
    return Source(
        name=files.name,
        fingerprint=models._digest(files),
        tokenizer_source=str(folder),
        tokenizer_gguf=from_gguf,
        tokenizer_fingerprint=fingerprint_tokenizer(folder, from_gguf),
        max_tokens=models._context(config),
    )


def load_tokenizer(folder: str | Path, gguf_file: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder of its files, or from a GGUF file there.

    Args:
        folder: The folder.
        gguf_file: Name of the GGUF file; None: plain files.

    Returns:
        The tokenizer.

    Raises:
        ModelError: If it can't be loaded.
    """
    try:
        with models.quiet_transformers():
            return AutoTokenizer.from_pretrained(
                str(folder), gguf_file=gguf_file, trust_remote_code=False
            )
    except models.LOAD_ERRORS as error:
        raise ModelError(
            f"Tokenizer {folder}: can't be loaded ({models._first_line(error)}). Save it again with "
            "save_pretrained, or name another one with `tokenizer`."
        ) from error


def fingerprint_tokenizer(folder: str | Path, gguf_file: str | None = None) -> str:
    """Hash what decides a tokenizer's tokens, wherever its files lie.

    Args:
        folder: The folder.
        gguf_file: Name of the GGUF file that holds it; None: plain files.

    Returns:
        32 hexadecimal digits.
    """
    path = Path(folder)
    found = [path / gguf_file] if gguf_file else models._matching(path, models.TOKENIZER_FILES)
    digest = blake2b(digest_size=16)
    for file in found:
        digest.update(f"{file.name}\0{models._file_digest(file)}\0".encode())
    return digest.hexdigest()
