"""Checkpoints of a training: weights and the optimizer's state by parameter name; resuming from them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from influence.models import quiet_transformers
from pipelines.errors import RunError
from pipelines.run_folder import write_json


def checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Sequence[tuple[int, float]],
) -> Path:
    """Write weights and optimizer state under a temporary name, then rename the folder.

    Args:
        folder: The checkpoints' folder.
        step: Steps done.
        model: The model.
        optimizer: Its state is saved by parameter name.
        losses: Losses so far.

    Returns:
        ``folder/step-000123``.
    """
    final, temporary = folder / f"step-{step:06d}", folder / f".step-{step:06d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with quiet_transformers():
        model.save_pretrained(temporary, safe_serialization=True)  # type: ignore[operator]
    save_file(optimizer_state(model, optimizer), temporary / "optimizer.safetensors")
    lr = optimizer.param_groups[0]["lr"]
    write_json(
        temporary / "state.json", {"step": step, "learning_rate": lr, "losses": list(losses)}
    )
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    return final


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments keyed by parameter name, ``<name>/exp_avg`` and so on.

    Returns:
        Contiguous tensors.
    """
    state = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"{name}/{key}"] = torch.as_tensor(value).detach().cpu().clone()
    return state


def load_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]
) -> None:
    """Put moments back, by parameter name, whatever the order of the groups.

    Args:
        model: The model that the optimizer steps.
        optimizer: Receives the state.
        state: As ``optimizer_state`` gave it.
    """
    for name, parameter in model.named_parameters():
        own = {k.rpartition("/")[2]: v for k, v in state.items() if k.rpartition("/")[0] == name}
        if own:
            optimizer.state[parameter] = {
                k: v.clone() if k == "step" else v.to(parameter) for k, v in own.items()
            }


def resume(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load the newest checkpoint into a model and its optimizer.

    Returns:
        ``step`` and ``losses``; zero and empty without a checkpoint.

    Raises:
        RunError: If the checkpoint lacks weights.
    """
    found = sorted(folder.glob("step-*"))
    if not found:
        return {"step": 0, "losses": []}
    weights: dict[str, Tensor] = {}
    for file in sorted(found[-1].glob("model*.safetensors")):
        weights |= load_file(file)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    if set(missing) - tied:
        raise RunError(
            f"Checkpoint {found[-1]}: lacks {sorted(missing)[:3]}, all weights were expected. "
            "Remove this folder and run again."
        )
    load_optimizer_state(model, optimizer, load_file(found[-1] / "optimizer.safetensors"))
    return dict(json.loads((found[-1] / "state.json").read_text("utf-8")))
