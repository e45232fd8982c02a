"""The states that a model went through in its training, as gradient methods want them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from influence.documents.methods.adam import layer_moments
from influence.layers import Layer
from influence.models import fingerprint
from pipelines.errors import RunError
from pipelines.runs import Run
from pipelines.training import BETAS, Plan, plan_training, read_corpus
from pipelines.worker import ModelSpec


@dataclass(frozen=True, kw_only=True)
class TrainedState:
    """One checkpoint."""

    model: ModelSpec
    """Its weights, with an exact head."""
    learning_rates: float
    """Sum of the learning rates of the steps since the checkpoint before."""
    checkpoint: str
    """Folder of the checkpoint, with ``optimizer.safetensors``; "" if the run did not train."""


def final_state(run: Run) -> TrainedState:
    """The model as the run left it.

    Returns:
        The state; its learning rates are those since the checkpoint before it.
    """
    if run.config.train == "none":
        model = replace(run.model, head_basis=None)
        return TrainedState(model=model, learning_rates=1.0, checkpoint="")
    return trained_states(run)[-1]


def trained_states(run: Run) -> tuple[TrainedState, ...]:
    """All checkpoints of the run's training, the final model last.

    Args:
        run: A run that trained its model.

    Returns:
        States in the order of training.

    Raises:
        RunError: If the model was given, or checkpoints are missing.
    """
    if run.config.train == "none":
        raise RunError(
            f"Run {run.root}: its model was given, not trained by the run, so there are no checkpoints. "
            "Use methods of the final state: ekfac, kfac, diagonal, identity, cosine, bm25."
        )
    folders = sorted((Path(run.model.source) / "checkpoints").glob("step-*"))
    steps = [int(f.name.removeprefix("step-")) for f in folders]
    rates = _learning_rates(run)
    if not steps or steps[-1] != len(rates):
        raise RunError(
            f"Run {run.root}: checkpoints at steps {steps}, the last of {len(rates)} steps was expected "
            "among them. Remove the folder of the model and run `influence run` again."
        )
    states = []
    for first, last, folder in zip([0, *steps], steps, folders, strict=False):
        spec = replace(
            run.model,
            source=str(folder),
            tokenizer=run.model.source,
            fingerprint=fingerprint(folder, tokenizer=run.model.source),
            head_basis=None,
        )
        if last == steps[-1]:
            spec = replace(run.model, head_basis=None)
        total = float(sum(rates[first:last]))
        states.append(TrainedState(model=spec, learning_rates=total, checkpoint=str(folder)))
    return tuple(states)


def _learning_rates(run: Run) -> list[float]:
    spec = plan_training(run.config, run.tokens, {"source": run.model.source})
    plan = Plan.of(spec, [len(chunk.tokens) for chunk in read_corpus(spec.tokens)])
    return [plan.learning_rate(step) for step in range(plan.steps)]


def second_moments(checkpoint: str, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """AdamW's bias-corrected second moments of some layers.

    They are found by the parameter's NAME, since the optimizer's groups permute the order; a tied
    head has those of the embedding; GPT-2's transposed weights are known by their class.

    Args:
        checkpoint: Folder of the checkpoint.
        layers: Linear layers as they are traced.

    Returns:
        For each layer ``[O, I]``, the bias as its last column; squared nats a parameter unit, of
        the training's mean loss a token.

    Raises:
        RunError: If the optimizer's state lacks a layer.
        GradientError: If a moment has another shape than the layer (a head of low rank has none).
    """
    skeleton = _skeleton(checkpoint)
    names = {id(p): n for n, p in skeleton.named_parameters()}
    moments: dict[str, Tensor] = {}
    with safe_open(str(Path(checkpoint) / "optimizer.safetensors"), framework="pt") as file:
        known = set(file.keys())
        for layer in layers:
            module = skeleton.get_submodule(layer.name)
            for kind in ("weight", "bias") if layer.bias else ("weight",):
                name = names[id(getattr(module, kind))]
                if f"{name}/exp_avg_sq" not in known:
                    raise RunError(
                        f"Checkpoint {checkpoint}: no second moment of {name}, AdamW's state was "
                        "expected. Use methods without an optimizer."
                    )
                step = float(file.get_tensor(f"{name}/step"))
                value = file.get_tensor(f"{name}/exp_avg_sq") / (1 - BETAS[1] ** step)
                transposed = kind == "weight" and isinstance(module, Conv1D)
                moments[f"{layer.name}.{kind}"] = value.T if transposed else value
    return layer_moments(layers, moments)


@lru_cache(maxsize=1)
def _skeleton(checkpoint: str) -> nn.Module:
    """The model without numbers: classes, names and ties."""
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config)
    return model
