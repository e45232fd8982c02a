"""``influence doctor``: what will run, what it costs, what looks wrong; before anything is computed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import disable_progress_bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import datasets_cfg
from influence.text import Document, Encoding, encode
from pipelines.cluster import default_count
from pipelines.config import RunConfig
from pipelines.estimate import estimate, in_words, planned_layers
from pipelines.runs import RUN_FILE, Run
from pipelines.worker import ModelSpec, language_model, layers_of

SAMPLE = 200
LOGITS_COPIES = 10
"""Copies of a batch's logits that a backward pass holds at its peak (measured)."""


def examine(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Look at a run without running it.

    Args:
        config: The run.
        folder: Where runs live.

    Returns:
        ``costs`` by stage, ``findings`` (level, what, what to do) and counts.
    """
    disable_progress_bars()
    findings = [*_install(config), *_disk_and_memory(config, folder)]
    loaded = [datasets_cfg.load(datasets_cfg.read_config(name)) for name in config.data]
    documents = sum(len(table) for table in loaded)
    layers: list[Any]
    more: list[dict[str, str]] = []
    model = None
    if config.train == "scratch":
        tokens = round(1.5 * sum(len(t.split()) for table in loaded for t in table["text"]))
        layers = planned_layers(config)
    else:
        model = _spec(config)
        layers = list(layers_of(model))
        tokens, more = _sample_tokens(config, model, loaded, documents)
    findings += more
    vocabulary, parameters = config.vocabulary, sum(x.out_features * x.in_features for x in layers)
    if model is not None:
        weights = language_model(model).model
        vocabulary = len(weights.get_input_embeddings().weight)  # type: ignore[operator]
        parameters = sum(p.numel() for p in weights.parameters())
    findings += _memory(config, layers, vocabulary, parameters)
    if model is not None:
        findings += _model(config, model, [x.role for x in layers])
    workers = config.workers or default_count()
    costs = estimate(config, layers, documents, tokens, workers)
    return {
        "name": config.name,
        "exists": (folder / config.name / RUN_FILE).is_file(),
        "documents": documents,
        "tokens": tokens,
        "layers": len(layers),
        "tracked_parameters": sum(x.out_features * (x.in_features + x.bias) for x in layers),
        "workers": workers,
        "costs": [asdict(cost) for cost in costs],
        "findings": findings,
    }


def _finding(level: str, what: str, do: str) -> dict[str, str]:
    return {"level": level, "what": what, "do": do}


def _install(config: RunConfig) -> list[dict[str, str]]:
    found = []
    if config.fit == "curvlinops" and importlib.util.find_spec("curvlinops") is None:
        found.append(
            _finding(
                "error",
                "`fit: curvlinops`, but curvlinops is not installed.",
                "Leave `fit` out, or pip install --no-deps curvlinops-for-pytorch==3.0.1.",
            )
        )
    if importlib.util.find_spec("torchvision") is not None:
        done = subprocess.run(
            [sys.executable, "-c", "import torchvision"], capture_output=True, check=False
        )
        if done.returncode:
            found.append(
                _finding(
                    "error",
                    "the installed torchvision does not import beside this torch, and transformers "
                    "then fails too.",
                    "pip uninstall torchvision (nothing here needs it).",
                )
            )
    return found


def _disk_and_memory(config: RunConfig, folder: Path) -> list[dict[str, str]]:
    found = []
    place = folder if folder.exists() else Path.cwd()
    free = shutil.disk_usage(place).free / 1e9
    if config.store_bytes is None and free < config.store_gigabytes + 1:
        found.append(
            _finding(
                "error",
                f"{free:.1f} GB are free in {place}, the store may take {config.store_gigabytes} GB.",
                "Make room, or lower `store_gigabytes`.",
            )
        )
    if config.device != "cpu" and not torch.cuda.is_available():
        found.append(_finding("note", "no accelerator here; the run uses the processor.", ""))
    return found


def _memory(
    config: RunConfig, layers: list[Any], vocabulary: int, parameters: float
) -> list[dict[str, str]]:
    """Compare what the workers may take with what is there."""
    memory = psutil.virtual_memory().available / 1e9
    workers = config.workers or default_count()
    factors = sum(12.0 * (x.out_features**2 + (x.in_features + 1) ** 2) for x in layers) / 1e9
    logits = LOGITS_COPIES * 4.0 * config.token_budget * vocabulary / 1e9
    need = workers * (0.5 + 4.0 * parameters / 1e9 + logits + min(factors, config.factor_gigabytes))
    if memory > need:
        return []
    return [
        _finding(
            "warning",
            f"{memory:.1f} GB of memory are available, {workers} workers may take {need:.1f} GB "
            f"({logits:.1f} GB each for the logits of {config.token_budget} tokens).",
            "Lower `token_budget`, `workers` or `factor_gigabytes`.",
        )
    ]


def _spec(config: RunConfig) -> ModelSpec:
    assert config.model is not None
    return ModelSpec(
        source=config.model,
        fingerprint="",
        tokenizer=config.tokenizer,
        revision=config.revision,
        adapter=config.adapter,
        gguf_file=config.gguf_file,
        device="cpu",
        layers=config.layers,
    )


def _sample_tokens(
    config: RunConfig, model: ModelSpec, loaded: list[Any], documents: int
) -> tuple[int, list[dict[str, str]]]:
    language = language_model(model)
    encoding = Encoding(
        max_tokens=min(config.max_tokens, language.max_tokens),
        loss_on=config.loss_on,
        append_eos=config.append_eos,
    )
    found, total, seen, cut = [], 0, 0, 0
    columns = ("id", "kind", "text", "prompt", "completion", "messages")
    for table in loaded:
        for row in table.select(range(0, len(table), max(1, len(table) * len(loaded) // SAMPLE))):
            chunks = encode(language.tokenizer, Document(**{k: row[k] for k in columns}), encoding)
            total += sum(len(c.tokens) for c in chunks)
            cut += len(chunks) > 1
            seen += 1
    if cut:
        found.append(
            _finding(
                "note",
                f"{cut} of {seen} sampled documents are longer than {encoding.max_tokens} tokens and "
                "are cut into chunks; gradients and scores are summed over chunks.",
                "",
            )
        )
    return round(total * documents / max(1, seen)), found


def _model(config: RunConfig, model: ModelSpec, roles: list[str]) -> list[dict[str, str]]:
    language, found = language_model(model), []
    if "head" not in roles:
        found.append(
            _finding(
                "warning",
                "the output head is not tracked; on small models it carries much of the influence.",
                "Set `layers: all`, or add `head`.",
            )
        )
    if any("lora_" in layer.name for layer in layers_of(model)):
        found.append(
            _finding(
                "note",
                "LoRA adapters alone carry gradient; with a tiny damping their inverse degenerates "
                "to 1 / damping.",
                "Keep `damping` relative (0.1 is the default).",
            )
        )
    deviation = batch_deviation(model)
    level = "note" if deviation < 1e-4 else "warning"
    found.append(
        _finding(
            level,
            f"gradients of a document alone and in a padded batch differ by {deviation:.1e} (relative).",
            "" if level == "note" else "Use an attention kernel that does not depend on the batch.",
        )
    )
    if language.tokenizer.unk_token_id is not None and config.loss_on == "completion":
        found.append(_finding("note", "documents made of unknown tokens only are refused.", ""))
    return found


def batch_deviation(model: ModelSpec) -> float:
    """How much a document's gradient depends on what else is in the batch.

    Returns:
        Largest relative difference over the tracked layers.
    """
    import numpy as np

    from influence.documents.gradients import per_document_gradients
    from influence.text import Chunk, collate

    language, layers = language_model(model), layers_of(model)
    generator = np.random.default_rng(0)
    vocabulary = int(language.model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]

    def chunk(length: int) -> Chunk:
        tokens = generator.integers(0, vocabulary, length).astype(np.int32)
        return Chunk(0, 0, tokens, np.arange(length) > 0)

    short, long = chunk(6), chunk(24)
    alone, _ = per_document_gradients(language.model, layers, collate([short], language.pad_id))
    both, _ = per_document_gradients(
        language.model, layers, collate([short, long], language.pad_id)
    )
    return max(
        float((alone[n][0] - both[n][0]).norm() / alone[n][0].norm().clamp_min(1e-30))
        for n in alone
    )


def print_examination(report: dict[str, Any], console: Console) -> None:
    """Print what ``examine`` found.

    Args:
        report: From ``examine``.
        console: Where to.
    """
    console.print(
        f"[bold]{escape(report['name'])}[/bold]: {report['documents']:,} documents, about "
        f"{report['tokens']:,} tokens, {report['layers']} tracked layers "
        f"({report['tracked_parameters']:,} parameters), {report['workers']} workers."
    )
    table = Table("stage", "time", "disk", title="Estimated cost")
    for cost in report["costs"]:
        table.add_row(cost["stage"], in_words(cost["seconds"]), f"{cost['disk'] / 1e6:,.0f} MB")
    console.print(table)
    if report["exists"]:
        console.print("This run exists; stages that are complete are not repeated.")
    colours = {"error": "bold red", "warning": "yellow", "note": "cyan"}
    for finding in report["findings"]:
        colour = colours[finding["level"]]
        console.print(
            f"[{colour}]{finding['level']}[/{colour}] {escape(finding['what'])} {escape(finding['do'])}"
        )


def summary(run: Run) -> dict[str, Any]:
    """A finished run in a few numbers.

    Returns:
        Plain values.
    """
    return {
        "model": run.model_name,
        "corpus": run.corpus.info(),
        "tokens": run.tokens.info(),
        "curvature": run.curvature.info(),
        "gradients": run.gradients.info() if run.gradients else None,
    }
