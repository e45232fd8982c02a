"""The one place where a worker loads and caches a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from safetensors.torch import load_file

from influence.errors import GradientError
from influence.models import LanguageModel, Layer, load_model, project_head, tracked_layers
from pipelines.errors import RunError


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How a worker gets its model; small enough to travel with every task."""

    source: str
    fingerprint: str
    """Part of the cache key: other weights under the same path are another model."""
    tokenizer: str | None = None
    revision: str | None = None
    adapter: str | None = None
    gguf_file: str | None = None
    device: str = "cpu"
    layers: str | tuple[str, ...] = "all"
    compute: str = "float32"
    """`float32`, or `bfloat16` for products inside the model; weights and all sums stay float32."""
    head_basis: str | None = None
    """safetensors file ``{head's name: basis [V, R]}`` of a low-rank head; None: exact head."""


def device_here(device: str) -> str:
    """The device of this process: each worker takes the GPU of its own number.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        A torch device.
    """
    if device not in ("auto", "cuda"):
        return device
    if not torch.cuda.is_available():
        return "cpu"
    from distributed import get_worker

    try:
        name = get_worker().name
    except ValueError:
        name = 0
    number = name if isinstance(name, int) else sum(str(name).encode())
    return f"cuda:{number % torch.cuda.device_count()}"


@lru_cache(maxsize=1)
def language_model(spec: ModelSpec) -> LanguageModel:
    """Load a model once in each process.

    Args:
        spec: Which.

    Returns:
        The model, in eval mode and float32, with its head projected where the spec says so.

    Raises:
        RunError: If the model's files are others than those that the run was made with.
    """
    loaded = load_model(
        spec.source,
        tokenizer=spec.tokenizer,
        revision=spec.revision,
        adapter=spec.adapter,
        gguf_file=spec.gguf_file,
        device=device_here(spec.device),
    )
    if spec.fingerprint not in ("", loaded.fingerprint):
        raise RunError(
            f"Model {spec.source}: its files have the fingerprint {loaded.fingerprint}, "
            f"{spec.fingerprint} was expected: they changed since the run was made. Put the old "
            "files back, or run `influence run` again: a changed model gets new stages."
        )
    if spec.head_basis is not None:
        for name, basis_VR in load_file(spec.head_basis).items():
            project_head(loaded.model, name, basis_VR.to(loaded.device))
    if spec.compute == "bfloat16":
        lower = torch.autocast(loaded.device.type, dtype=torch.bfloat16)
        loaded.model.forward = lower(loaded.model.forward)
    return loaded


def layers_of(spec: ModelSpec) -> tuple[Layer, ...]:
    """The tracked layers of a spec's model.

    Returns:
        Layers in module order.
    """
    return tracked_layers(language_model(spec).model, spec.layers)


@contextmanager
def naming_documents(ids: Sequence[str], first: int) -> Iterator[None]:
    """Turn row numbers in a gradient error into document ids.

    Args:
        ids: Ids of the documents in question.
        first: Row number of the first of them.

    Yields:
        Nothing.

    Raises:
        RunError: Naming the documents.
        GradientError: If no document is to blame.
    """
    try:
        yield
    except GradientError as error:
        if not error.documents:
            raise
        names = ", ".join(repr(ids[i - first]) for i in error.documents)
        raise RunError(f"Document(s) {names}: {error}") from None
