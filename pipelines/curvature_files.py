"""Files of a curvature while it is fitted: names, partial sums, one file a layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from influence.documents import curvature as fisher
from influence.documents.noise import SamplingError, sampling_error
from pipelines.errors import RunError
from pipelines.run_folder import PARTIAL, new_file
from pipelines.tokens import shard_path
from pipelines.worker import ModelSpec


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """One task of the fit."""

    model: ModelSpec
    tokens: str
    """Folder of the token shards."""
    out: str
    """Folder of the curvature."""
    shards: tuple[int, ...]
    token_budget: int
    labels: str
    seed: int
    shard_size: int
    """Documents of a shard; the corpus's last one may hold fewer."""
    ids: tuple[str, ...] = ()
    """Document ids of the shards, in order: labels are drawn by them."""
    layers: tuple[str, ...] = ()
    """Layers of this pass."""
    diagonal: bool = False
    rank: int = 0
    engine: str = "direct"
    """`direct` or `curvlinops`: who does the two passes; the same up to rounding."""
    part: str = ""
    """Name of the partial file."""
    parts: tuple[str, ...] = ()
    """Names of the partial files to merge, in order."""


def labels_path(spec: FitSpec, shard: int) -> Path:
    """The labels of one shard."""
    return shard_path(Path(spec.out), shard, "labels")


def partial_path(spec: FitSpec, name: str) -> Path:
    """One partial file."""
    return Path(spec.out) / PARTIAL / f"{name}.safetensors"


def basis_path(spec: FitSpec, layer: str) -> Path:
    """One layer's eigenbasis."""
    return Path(spec.out) / PARTIAL / f"basis-{layer}.safetensors"


def layer_path(folder: Path, layer: str) -> Path:
    """The file of one layer's curvature.

    Returns:
        ``folder/layer-<name>.safetensors``.
    """
    return folder / f"layer-{layer}.safetensors"


def save_tensors(path: Path, tensors: dict[str, Tensor], **metadata: Any) -> str:
    """Write tensors and counts under a temporary name and rename it; returns the path."""
    with new_file(path) as temporary:
        save_file(
            {k: v.contiguous() for k, v in tensors.items()},
            temporary,
            metadata={k: str(v) for k, v in metadata.items()},
        )
    return str(path)


def sum_tensors(paths: Sequence[Path], key: str) -> tuple[Tensor, dict[str, int]]:
    """Add one tensor of several partial files, in a tree of fixed shape.

    Two neighbouring subtrees of one height are added as soon as both are there, so that at most
    one of each height is held: log2(files) tensors and two.

    Returns:
        The sum, and the counts added up.
    """
    subtrees: list[tuple[int, Tensor]] = []
    counts = {"tokens": 0, "documents": 0}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            height, total = 0, file.get_tensor(key)
            for name in counts:
                counts[name] += int((file.metadata() or {}).get(name, 0))
        while subtrees and subtrees[-1][0] == height:
            height, total = height + 1, subtrees.pop()[1] + total
        subtrees.append((height, total))
    total = subtrees.pop()[1]
    while subtrees:
        total = subtrees.pop()[1] + total
    return total, counts


def part_error(paths: Sequence[Path], key: str, mean: Tensor) -> SamplingError | None:
    """What the scatter of a layer's partial sums says about their mean; None of a single one."""
    if len(paths) < 2:
        return None
    parts = (sum_tensors([path], key) for path in paths)
    return sampling_error(((one, counts["documents"]) for one, counts in parts), mean)


def read_error(paths: Sequence[Path]) -> dict[str, float] | None:
    """Relative standard errors of the eigenvalues of all layers, and of their damped inverses.

    Args:
        paths: The layers' files.

    Returns:
        ``eigenvalues``, ``inverse``; None where the fit has no parts to compare.
    """
    parts = []
    for path in paths:
        if not path.exists():  # the identity has no files
            return None
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get("error")
        if written is None:
            return None
        parts.append(json.loads(written))
    total = SamplingError(**{key: sum(part[key] for part in parts) for key in parts[0]})
    eigenvalues, inverse = total.relative()
    return {"eigenvalues": eigenvalues, "inverse": inverse}


def read_basis(path: Path) -> tuple[fisher.Basis, dict[str, int]]:
    """A layer's basis, and the counts of tokens and documents behind it."""
    tensors = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        counts = {k: int(v) for k, v in (file.metadata() or {}).items()}
    basis = fisher.Basis(
        out_basis_OO=tensors["out_basis"],
        in_basis_II=tensors["in_basis"],
        out_values_O=tensors["out_values"],
        in_values_I=tensors["in_values"],
    )
    return basis, counts


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of a run.

    Returns:
        Its tensors.

    Raises:
        RunError: If the file is missing or damaged.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"File {path}: unreadable ({error}), a safetensors file of this run was expected. "
            "Remove the folder it lies in and run again."
        ) from None
