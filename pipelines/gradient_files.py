"""What a shard of the store is made from, and the files it shares: sketch and curvature."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gradients_store import Header
from influence.documents.curvature import to
from influence.documents.preconditioner import LayerCurvature
from influence.documents.sketch import Sketch
from influence.documents.whitening import Whitening, prepare
from pipelines.curvature import read_curvature, read_tensors
from pipelines.errors import RunError
from pipelines.run_folder import Stage, new_file
from pipelines.worker import ModelSpec

NUMBER_BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4, "int2": 2}
"""Bits of a number by ``gradients_store``'s element types."""


@dataclass(frozen=True, kw_only=True)
class IndexSpec:
    """One shard of the store, or one shard of the sample on which it is checked."""

    model: ModelSpec
    tokens: str
    curvature: str
    """Folder of the sealed curvature."""
    damping: float
    sketch: str
    """File of the sketch."""
    store: str
    header: Header | None
    """None: exact scoring only."""
    shard: int
    first: int
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    languages: tuple[str, ...]
    token_budget: int
    exact_self_influence: bool
    rows: tuple[int, ...] = ()
    """Documents of the sample in this shard."""
    queries: tuple[tuple[int, int], ...] = ()
    """``(shard, position of the chunk)`` of the sample's queries."""

    def of_every_shard(self) -> IndexSpec:
        """The spec without what differs from shard to shard: a key for what all of them share."""
        return replace(self, shard=0, first=0, ids=(), sources=(), languages=(), rows=())


@dataclass(frozen=True, kw_only=True)
class StoredForm:
    """What a store keeps of each gradient, and in which numbers."""

    sketch: Sketch
    dtype: str
    """One of ``gradients_store``'s element types."""

    @property
    def bytes(self) -> int:
        """Bytes of a document's vector, its scales included."""
        scales = 4 + 4 * sum(self.sketch.ranks.values())
        return -(-self.sketch.dimension * NUMBER_BITS[self.dtype] // 8) + scales


def save_form(path: Path, form: StoredForm) -> None:
    """Write what a store keeps of each gradient.

    Args:
        path: A safetensors file.
        form: The sketch and the number format.
    """
    sketch = form.sketch
    about = {"kind": sketch.kind, "side": sketch.side, "seed": sketch.seed}
    if sketch.kind == "factors" or sketch.separable:
        about |= {"ranks": dict(sketch.ranks), "separable": sketch.separable}
    shapes = [[name, *shape] for name, shape in sketch.shapes.items()]
    # one entry, as safetensors writes several in any order, and equal sketches have equal bytes
    metadata = {"sketch": json.dumps({**about, "shapes": shapes, "dtype": form.dtype})}
    with new_file(path) as temporary:
        save_file({"": torch.zeros(0), **sketch.coordinates}, temporary, metadata=metadata)


@lru_cache(maxsize=2)
def load_form(path: str) -> StoredForm:
    """Read what a store keeps of each gradient.

    Returns:
        The sketch and the number format; int8 where an older release did not write it.

    Raises:
        RunError: If the file is not one that ``save_form`` wrote.
    """
    tensors = read_tensors(Path(path))
    with safe_open(path, framework="pt") as file:
        written = (file.metadata() or {}).get("sketch")
    if written is None:
        raise RunError(
            f"Sketch {path}: no description of the sketch in it, a file of this version was "
            "expected. Delete its folder and run `influence run` (or `influence index`) again."
        )
    about = json.loads(written)
    about["shapes"] = {name: (out, inputs) for name, out, inputs in about["shapes"]}
    dtype = about.pop("dtype", "int8")
    sketch = Sketch(**about, coordinates={n: t for n, t in tensors.items() if n})
    return StoredForm(sketch=sketch, dtype=dtype)


def load_sketch(path: str) -> Sketch:
    """The sketch of ``load_form``."""
    return load_form(path).sketch


@lru_cache(maxsize=1)
def load_whitening(spec: IndexSpec, device: str) -> Whitening:
    """What the vectors of a store are made with, once in each process.

    Args:
        spec: Of every shard (``of_every_shard``).
        device: Where the model is.

    Returns:
        What ``whitened_rows`` takes.
    """
    curvature, sketch = load_curvature(spec.curvature, device), load_sketch(spec.sketch)
    return prepare(curvature, spec.damping, sketch, spec.exact_self_influence)


@lru_cache(maxsize=1)
def load_curvature(folder: str, device: str) -> dict[str, LayerCurvature]:
    """Read a sealed curvature once in each process.

    Returns:
        Each layer's curvature on a device.
    """
    path = Path(folder)
    stage = Stage(path.parent.name, path.name, path.parent.parent)
    like = torch.zeros((), device=device)
    return {name: to(layer, like) for name, layer in read_curvature(stage).items()}
