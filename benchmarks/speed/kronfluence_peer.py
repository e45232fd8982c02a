"""kronfluence 1.0.1; its documented calls, the task as in its own language-model examples."""

from __future__ import annotations

from typing import Any

import kronfluence
import numpy as np
import torch
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.speed.setting import Job, block_layers, load_model


class Task(kronfluence.Task):
    def __init__(self, layers: list[str]) -> None:
        super().__init__()
        self.layers = layers

    def compute_train_loss(self, batch: Tensor, model: nn.Module, sample: bool = False) -> Tensor:
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].flatten(0, 1)
        targets = batch[:, 1:].flatten()
        if sample:
            with torch.no_grad():
                targets = torch.multinomial(logits.softmax(dim=-1), num_samples=1).flatten()
        return cross_entropy(logits, targets, reduction="sum")

    def compute_measurement(self, batch: Tensor, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self.layers

    def get_attention_mask(self, batch: Tensor) -> Tensor:
        mask = torch.ones_like(batch)  # where a target is counted, as in the other systems
        mask[:, -1] = 0
        return mask


def load(job: Job) -> Any:
    model = load_model(job.model)
    task = Task(block_layers(model))
    return kronfluence.prepare_model(model, task), task


def _analyzer(state: Any, folder: Any) -> Any:
    model, task = state
    analyzer = kronfluence.Analyzer(
        "speed", model, task, cpu=True, output_dir=str(folder), disable_tqdm=True
    )
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=torch.stack))
    return analyzer


def fit(state: Any, job: Job) -> None:
    _analyzer(state, job.out).fit_all_factors(
        "ekfac",
        list(job.documents),
        per_device_batch_size=job.rows,
        factor_args=FactorArguments(use_empirical_fisher=job.labels == "empirical"),
    )


def score(state: Any, job: Job) -> None:
    analyzer = _analyzer(state, job.fitted)
    name = f"scores-{job.out.name}"
    analyzer.compute_pairwise_scores(
        name,
        "ekfac",
        query_dataset=list(job.queries),
        train_dataset=list(job.documents),
        per_device_query_batch_size=len(job.queries),
        per_device_train_batch_size=job.rows,
        score_args=ScoreArguments(damping_factor=None),
        overwrite_output_dir=True,
    )
    np.save(job.out / "scores.npy", analyzer.load_pairwise_scores(name)["all_modules"].numpy())


STAGES = {"fit": fit, "scores": score}
