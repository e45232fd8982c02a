"""bergson 2.5.1; the bodies of its `hessian`, `build` and `score` workers, on a loaded model."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bergson.collection import collect_gradients
from bergson.config.config import HessianConfig, IndexConfig, PreprocessConfig, ScoreConfig
from bergson.data import allocate_batches, load_scores
from bergson.hessians.hessian_approximations import fit_factored_hessians
from bergson.score.score import create_scorer
from bergson.utils.worker_utils import create_processor, setup_model_and_peft
from datasets import Dataset
from torch import Tensor

from benchmarks.speed.setting import SIDE, Job

logging.disable(logging.INFO)


def load(job: Job) -> Any:
    model, _ = setup_model_and_peft(_config(job, job.out / "unused"))
    return model.eval(), {"documents": _dataset(job.documents), "queries": _dataset(job.queries)}


def _dataset(tokens: Tensor) -> Dataset:
    rows = tokens.tolist()
    return Dataset.from_dict({"input_ids": rows, "length": [len(row) for row in rows]})


def _config(job: Job, path: Path, side: int = 0) -> IndexConfig:
    config = IndexConfig(
        str(path),
        model=str(job.model),
        projection_dim=side,
        token_batch_size=job.rows * job.documents.shape[1],
    )
    config.partial_run_path.mkdir(parents=True, exist_ok=True)
    return config


def _collect(model: Any, data: Dataset, config: IndexConfig, **more: Any) -> Path:
    batches = allocate_batches(data["length"][:], config.token_batch_size)
    processor = create_processor(model, config)
    collect_gradients(
        model=model, data=data, processor=processor, cfg=config, batches=batches, **more
    )
    os.replace(config.partial_run_path, config.run_path)
    return Path(config.run_path)


def fit(state: Any, job: Job) -> None:
    model, data = state
    documents = data["documents"].select(range(len(job.documents)))
    config = _config(job, job.out / "ekfac")
    fit_factored_hessians(
        model,
        documents,
        config,
        HessianConfig(
            method="kfac", ev_correction=True, use_dataset_labels=job.labels == "empirical"
        ),
        target_modules=None,
        attention_cfgs={},
        batches=allocate_batches(documents["length"][:], config.token_batch_size),
        path=str(config.partial_run_path),
        do_eigendecomposition=True,
    )
    os.replace(config.partial_run_path, config.run_path)


def index(state: Any, job: Job) -> None:
    model, data = state
    documents = data["documents"].select(range(len(job.documents)))
    _collect(model, documents, _config(job, job.out / "index", SIDE))


def score(state: Any, job: Job) -> None:
    model, data = state
    documents = data["documents"].select(range(len(job.documents)))
    queries = _collect(model, data["queries"], _config(job, job.out / "queries"))
    config = _config(job, job.out / "scored")
    scorer = create_scorer(
        config.partial_run_path,
        documents,
        ScoreConfig(query_path=str(queries)),
        PreprocessConfig(hessian_path=str(job.fitted / "ekfac"), ev_correction=True),
        torch.device("cpu"),
        torch.float32,
    )
    scored = _collect(model, documents, config, scorer=scorer)
    scorer.writer.flush()
    np.save(job.out / "scores.npy", np.asarray(load_scores(scored)[:]).T)


STAGES = {"fit": fit, "index": index, "scores": score}
