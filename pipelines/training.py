"""Stage 2 (only where asked): a small causal LM from the corpus, or fine-tuning.

A plain, readable loop with transformers' own models.  The order of the documents is a pure function
of (seed, epoch), so that a killed training goes on from its last checkpoint to the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influence.documents.gradients import logits_of
from influence.models import fingerprint, quiet_transformers
from influence.text import Batch, Chunk, collate
from pipelines.checkpoints import checkpoint, resume
from pipelines.cluster import Workers, report_share
from pipelines.config import RunConfig
from pipelines.conversion import gguf_parts, plain_model
from pipelines.corpus import shards
from pipelines.errors import RunError
from pipelines.run_folder import Stage, key_of, seal, write_json
from pipelines.tokens import read_chunks
from pipelines.worker import device_here

BETAS = (0.9, 0.98)
"""AdamW's decay rates of the first and the second moment."""


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """One training; everything here but ``out`` and ``device`` changes its bytes."""

    tokens: str
    """Folder of the sealed token shards."""
    tokenizer: str
    """Folder or id of the tokenizer."""
    start: str | None
    """Model to go on from; None: from scratch."""
    gguf_file: str | None
    revision: str | None
    sizes: tuple[tuple[str, Any], ...]
    """Architecture and sizes of a model from scratch."""
    epochs: float
    batch_documents: int
    learning_rate: float
    warmup: float
    weight_decay: float
    seed: int
    threads: int
    checkpoints: int
    device: str
    out: str


def build_model(
    config: RunConfig, root: Path, tokens: Stage, tokenizer: dict[str, Any], workers: Workers
) -> Stage:
    """Train the model as one task on one worker; run again to resume from the last checkpoint.

    Args:
        config: The run, with ``train`` not ``none``.
        root: The run's folder.
        tokens: The sealed token shards.
        tokenizer: ``source`` and ``fingerprint`` of the tokenizer.
        workers: Where to run.

    Returns:
        The sealed stage: safetensors, tokenizer, ``checkpoints/``; its info holds the losses.
    """
    spec = plan_training(config, tokens, tokenizer)
    settings = {k: v for k, v in asdict(spec).items() if k not in ("out", "device", "tokens")}
    settings["start"] = _start_fingerprint(config)
    settings["tokenizer"] = tokenizer["fingerprint"]
    stage = Stage("model", key_of(tokens=tokens.key, **settings), root)
    if stage.is_sealed():
        return stage
    spec = TrainSpec(**{**vars(spec), "out": str(stage.path)})
    label = "Training the model" if spec.start is None else "Fine-tuning the model"
    [info] = workers.map(train, [spec], label)
    return seal(stage, {**info, "fingerprint": fingerprint(stage.path)})


def _start_fingerprint(config: RunConfig) -> str | None:
    if config.model is None:
        return None
    return fingerprint(
        config.model,
        tokenizer=config.tokenizer,
        revision=config.revision,
        gguf_file=config.gguf_file,
    )


def plan_training(config: RunConfig, tokens: Stage, tokenizer: dict[str, Any]) -> TrainSpec:
    """The training of a run; pure.

    Args:
        config: The run, with ``train`` not ``none``.
        tokens: The sealed token shards.
        tokenizer: ``source`` of the tokenizer.

    Returns:
        A spec without ``out``.
    """
    sizes = ("architecture", "hidden_size", "mlp_size", "blocks", "heads", "max_tokens")
    return TrainSpec(
        tokens=str(tokens.path),
        tokenizer=tokenizer["source"],
        start=config.model,
        gguf_file=config.gguf_file,
        revision=config.revision,
        sizes=tuple((n, getattr(config, n)) for n in sizes) if config.model is None else (),
        epochs=config.epochs,
        batch_documents=config.batch_documents,
        learning_rate=config.learning_rate,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        seed=config.train_seed,
        threads=config.train_threads,
        checkpoints=config.checkpoints,
        device=config.device,
        out="",
    )


def train(spec: TrainSpec) -> dict[str, Any]:
    """Train from the last checkpoint, or from the start (runs on a worker).

    Args:
        spec: The training.

    Returns:
        Steps, parameters and the loss by step (mean nats per token, ten points).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.threads)
    try:
        return _train(spec)
    finally:
        torch.set_num_threads(threads)


def _train(spec: TrainSpec) -> dict[str, Any]:
    tokenizer = trained_tokenizer(spec)
    trained = train_on(spec, read_corpus(spec.tokens), tokenizer, Path(spec.out) / "checkpoints")
    out = Path(spec.out)
    with quiet_transformers():
        trained.model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    write_json(out / "training.json", {**_record(spec), "losses": trained.losses})
    return {
        "steps": trained.plan.steps,
        "parameters": _count(trained.model),
        "losses": trained.losses[:: max(1, len(trained.losses) // 10)],
    }


def trained_tokenizer(spec: TrainSpec) -> Any:
    """The tokenizer of a training.

    Returns:
        A Hugging Face tokenizer.
    """
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(spec.tokenizer, trust_remote_code=False)


def read_corpus(tokens: str) -> list[Chunk]:
    """All chunks of the sealed token shards.

    Returns:
        Chunks in the order of the corpus.
    """
    return [chunk for path in _shard_paths(tokens) for chunk in read_chunks(path)]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training loop leaves."""

    model: Any
    plan: Plan
    losses: list[tuple[int, float]]
    """``(step, mean loss in nats a token)``, about a hundred of them."""


def train_on(
    spec: TrainSpec,
    chunks: Sequence[Chunk],
    tokenizer: Any,
    checkpoints: Path | None,
    kept_N: np.ndarray | None = None,
) -> Trained:
    """The training loop itself.

    Args:
        spec: The training.
        chunks: The documents to train on, all or a part of the corpus.
        tokenizer: Its vocabulary's size and special tokens decide the embeddings.
        checkpoints: Folder to resume from and to write checkpoints to; None: neither.
        kept_N: Which documents of the corpus to train on: others are missing from the batches that
            they belong to. Steps, their order and the other documents stay as they are. None: all.

    Returns:
        The trained model, on the worker's device.
    """
    device = torch.device(device_here(spec.device))
    model: Any = start_model(spec, tokenizer).to(device)
    model.eval()  # no dropout, whose draws a resumed training would not repeat
    optimizer = make_optimizer(model, spec.learning_rate, spec.weight_decay)
    plan = Plan.of(spec, [len(chunk.tokens) for chunk in chunks])
    state: dict[str, Any] = {"step": 0, "losses": []}
    if checkpoints:
        state = resume(checkpoints, model, optimizer)
    losses: list[tuple[int, float]] = [(int(a), float(b)) for a, b in state["losses"]]
    kept = [kept_N is None or bool(kept_N[chunk.document]) for chunk in chunks]
    for step, planned in plan.batches(from_step=state["step"]):
        rows = [row for row in planned if kept[row]]
        if not rows:
            continue
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate(step)
        batch = collate([chunks[i] for i in rows], tokenizer.pad_token_id or 0).to(device)
        loss = mean_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = _finite(loss.item(), step)
        if step % max(1, plan.steps // 100) == 0:
            report_share(step / plan.steps)
            losses.append((step, value))
        if checkpoints and ((step + 1) % plan.every == 0 or step + 1 == plan.steps):
            checkpoint(checkpoints, step + 1, model, optimizer, losses)
    return Trained(model=model, plan=plan, losses=losses)


def _record(spec: TrainSpec) -> dict[str, Any]:
    """The settings of a training without the places where its files lie."""
    places = ("out", "tokens", "tokenizer", "start", "device")
    return {k: v for k, v in asdict(spec).items() if k not in places}


def mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean loss of a batch's counted tokens, in nats a token.

    Returns:
        A scalar.
    """
    counted_BT = batch.targets != -100
    logits_KV = logits_of(model, batch)[counted_BT]
    return nn.functional.cross_entropy(logits_KV, batch.targets[counted_BT])


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise RunError(
            f"Training: the loss at step {step} is {loss}, a finite number was expected. "
            "Lower `learning_rate`; checkpoints before this step are kept."
        )
    return loss


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _shard_paths(folder: str) -> Iterator[Path]:
    path = Path(folder)
    return shards(Stage(path.parent.name, path.name, path.parent.parent))


def start_model(spec: TrainSpec, tokenizer: Any) -> nn.Module:
    """The model that training starts from.

    Args:
        spec: The training.
        tokenizer: Its vocabulary's size and special tokens decide the embeddings.

    Returns:
        A transformers causal LM in float32, without dropout.
    """
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    torch.manual_seed(spec.seed)
    if spec.start is not None:
        folder, gguf_file = gguf_parts(spec.start, spec.gguf_file)
        return plain_model(folder, spec.revision, gguf_file)
    sizes = dict(spec.sizes)
    shared = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if sizes["architecture"] == "llama":
        config = LlamaConfig(
            hidden_size=sizes["hidden_size"],
            intermediate_size=sizes["mlp_size"],
            num_hidden_layers=sizes["blocks"],
            num_attention_heads=sizes["heads"],
            num_key_value_heads=sizes["heads"],
            max_position_embeddings=sizes["max_tokens"],
            tie_word_embeddings=False,
            **shared,
        )
    else:
        config = GPT2Config(
            n_embd=sizes["hidden_size"],
            n_inner=sizes["mlp_size"],
            n_layer=sizes["blocks"],
            n_head=sizes["heads"],
            n_positions=sizes["max_tokens"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **shared,
        )
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


@dataclass(frozen=True)
class Plan:
    """Which documents at which step, and the learning rate; pure functions of the settings."""

    lengths: tuple[int, ...]
    batch: int
    steps: int
    every: int
    peak: float
    warmup: int
    seed: int

    @classmethod
    def of(cls, spec: TrainSpec, lengths: Sequence[int]) -> Plan:
        """The plan of a training over chunks of these lengths.

        Returns:
            The plan.
        """
        steps = max(1, round(spec.epochs * math.ceil(len(lengths) / spec.batch_documents)))
        return cls(
            lengths=tuple(lengths),
            batch=spec.batch_documents,
            steps=steps,
            every=max(1, math.ceil(steps / spec.checkpoints)),
            peak=spec.learning_rate,
            warmup=max(1, int(spec.warmup * steps)),
            seed=spec.seed,
        )

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to nearly nothing.

        Returns:
            The learning rate of a step.
        """
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return self.peak * max(0.02, (self.steps - step) / max(1, self.steps - self.warmup))

    def batches(self, from_step: int) -> Iterator[tuple[int, list[int]]]:
        """Batches of rows of similar length in random order, from a step on.

        Yields:
            ``(step, rows)``.
        """
        a_pass = math.ceil(len(self.lengths) / self.batch)
        epoch, cuts = -1, []
        for step in range(from_step, self.steps):
            if step // a_pass != epoch:
                epoch = step // a_pass
                cuts = self._cuts(epoch)
            yield step, cuts[step % a_pass]

    def _cuts(self, epoch: int) -> list[list[int]]:
        """One pass: shuffled, sorted by length with some noise, cut, and the batches shuffled."""
        generator = np.random.default_rng([self.seed, epoch])
        noise = generator.uniform(0.85, 1.15, len(self.lengths))
        order = np.argsort(np.array(self.lengths) * noise, kind="stable")
        cuts = [order[i : i + self.batch].tolist() for i in range(0, len(order), self.batch)]
        return [cuts[i] for i in generator.permutation(len(cuts))]


def make_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only.

    Returns:
        The optimizer; its groups permute the order of the parameters, hence states by name.
    """
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=BETAS,
    )
