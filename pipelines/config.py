"""A run: one flat YAML, one frozen model, validated before anything is computed."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.errors import RunError


class RunConfig(BaseModel):
    """Everything that decides what a run computes; paths are relative to the YAML's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's folder below `runs`."""

    # -- model ------------------------------------------------------------------------------------
    model: str | None = None
    """Folder with safetensors, hub id, `.gguf` file or LoRA adapter folder; None: `train: scratch`."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer; None: the model's own."""
    revision: str | None = None
    """Commit or branch of a hub id; None: the default branch."""
    adapter: str | None = None
    """LoRA adapter folder over `model`; None: no adapter, or `model` is itself one."""
    gguf_file: str | None = None
    """Name of the `.gguf` file inside the folder `model`; None: not GGUF."""
    layers: str | tuple[str, ...] = "all"
    """Tracked layers: `mlp`, `attention`, `head`, `all`, or name patterns such as `*.down_proj`."""

    # -- data -------------------------------------------------------------------------------------
    data: tuple[str, ...] = ("embedded",)
    """Dataset YAMLs, or names of those shipped in `datasets_cfg/`; joined in this order."""
    max_tokens: int = Field(512, ge=2)
    """Longer documents are cut into chunks of this many tokens; at most the model's context."""
    loss_on: Literal["completion", "all"] = "completion"
    """Whether the prompts of prompt/completion and chat documents carry loss."""
    append_eos: bool = False
    """Whether documents end with the end-of-sequence token (as they did in training)."""
    documents_per_shard: int = Field(256, ge=1)
    """Documents of one unit of work; decides the batches, hence part of every key."""
    token_budget: int = Field(2048, ge=2)
    """Tokens of one batch, padding included; more is faster on accelerators, and takes memory."""

    # -- training (only where the model is made here) ----------------------------------------------
    train: Literal["none", "scratch", "finetune"] = "none"
    """`scratch`: a small model of the sizes below; `finetune`: `model`, trained on the data."""
    architecture: Literal["llama", "gpt2"] = "llama"
    """Architecture of `scratch`."""
    vocabulary: int = Field(2048, ge=260)
    """Byte-level BPE tokens of `scratch`."""
    hidden_size: int = Field(128, ge=8)
    """Width of `scratch`."""
    mlp_size: int = Field(384, ge=8)
    """Inner width of the MLPs of `scratch`."""
    blocks: int = Field(3, ge=1)
    """Transformer blocks of `scratch`."""
    heads: int = Field(4, ge=1)
    """Attention heads of `scratch`."""
    epochs: float = Field(18.0, gt=0)
    """Passes over the corpus."""
    batch_documents: int = Field(32, ge=1)
    """Rows of a training batch."""
    learning_rate: float = Field(2e-3, gt=0)
    """AdamW's peak learning rate; linear warm-up and decay."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps that warm up."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decoupled weight decay on matrices."""
    train_seed: int = 0
    """Seed of the initial weights and of the order of the documents."""
    train_threads: int = Field(2, ge=1)
    """Torch threads of the training task; part of the key, as it changes the rounding."""
    checkpoints: int = Field(6, ge=1)
    """Checkpoints kept, evenly spaced, with optimizer state; work lost by a kill is at most one."""

    compute: Literal["float32", "bfloat16"] = "float32"
    """Products inside the model, or `bfloat16`; weights, factors, rows and scores stay float32."""

    # -- curvature --------------------------------------------------------------------------------
    curvature: Literal["ekfac", "kfac", "diagonal", "identity"] = "ekfac"
    """Approximation of the Fisher; `identity` is the plain gradient dot product."""
    damping: float = Field(0.1, gt=0)
    """Damping of a layer = this x the mean of its eigenvalues."""
    labels: Literal["sampled", "empirical"] = "sampled"
    """Fisher labels: drawn from the model (right), or the documents' own tokens."""
    label_seed: int = 0
    """Joined with the document's id to draw its labels."""
    curvature_documents: int | None = Field(None, ge=1)
    """Fit on about this many documents (whole shards, evenly spaced); None: all. Its error is printed."""
    partitions: int = Field(8, ge=1)
    """Partial sums of the fit, at least one a worker; changes nothing beyond rounding."""
    exact_head: int = Field(4096, ge=1)
    """Largest vocabulary whose output factor is exact; beyond it `head_rank` directions are kept."""
    head_rank: int = Field(256, ge=1)
    """Rank of the output factor of larger vocabularies; its error is measured and printed."""
    factor_gigabytes: float = Field(1.0, gt=0)
    """Memory for the factors of one pass; more layers than fit are fitted in several passes."""
    fit: Literal["direct", "curvlinops"] = "direct"
    """Who sums factors and eigenvalues; `curvlinops` is the slower reference, equal up to rounding."""

    # -- gradient store ---------------------------------------------------------------------------
    store: Literal["auto", "full", "factors", "top-eigen", "random"] = "auto"
    """Compression; `auto`: full rows where they fit, else what ranks best on a sample."""
    store_gigabytes: float = Field(4.0, gt=0)
    """Disk that the vectors may take under `auto`, `factors` and `top-eigen`."""
    store_bytes: int | None = Field(None, ge=64)
    """Bytes that a document's vector may take; None: `store_gigabytes` over the documents."""
    store_fidelity: float | None = Field(None, gt=0, lt=1)
    """Wanted Spearman correlation with exact scores; `auto` then takes the smallest form reaching it."""
    store_side: int = Field(16, ge=1)
    """p of `random`: p x p numbers a layer."""
    store_seed: int = 0
    """Seed of `random` and `factors`."""
    store_dtype: Literal["float32", "float16", "int8", "int4", "int2"] | None = None
    """Number format of the vectors; None: `factors` take what ranks best, the others int8."""
    self_influence: Literal["exact", "estimated"] = "exact"
    """Unless all is kept: exact, or estimated from what is kept (a much faster index)."""

    # -- trace ------------------------------------------------------------------------------------
    top: int = Field(20, ge=1)
    """Proponents and opponents shown."""
    candidates: int = Field(200, ge=1)
    """Documents of each sign that the search passes on to exact scoring."""

    # -- machine (changes no result) --------------------------------------------------------------
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, or `auto`: an accelerator where there is one."""
    workers: int | None = Field(None, ge=1)
    """Local worker processes; None: one for each core, at most 8, or one for each GPU."""

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("data"), str):
            return {**values, "data": (values["data"],)}
        return values

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.train != "scratch" and self.model is None:
            raise ValueError(
                "model: nothing given, a folder, hub id or .gguf file was expected. "
                "Set `model: PATH`, or `train: scratch` for a small model of your own."
            )
        if self.train == "scratch" and self.model is not None:
            raise ValueError(
                f"model: {self.model!r} given together with `train: scratch`, one of them was "
                "expected. Use `train: finetune` to go on training a model."
            )
        if self.train == "finetune" and self.adapter is not None:
            raise ValueError(
                f"adapter: {self.adapter!r} given together with `train: finetune`, which trains whole "
                "models. Use `train: none` to trace the adapter as it is, or merge it first."
            )
        if self.hidden_size % self.heads:
            raise ValueError(
                f"heads: {self.heads} do not divide hidden_size {self.hidden_size}. Change either."
            )
        if self.curvature == "identity" and self.store == "top-eigen":
            raise ValueError(
                "store: 'top-eigen' needs eigenvalues, and curvature is 'identity'. "
                "Use `store: random` or `store: full`."
            )
        if self.store == "factors" and self.store_dtype in ("float32", "float16"):
            raise ValueError(
                f"store_dtype: {self.store_dtype!r} given with `store: factors`, int8, int4, int2 or "
                "nothing was expected. Leave it out: what ranks best is taken."
            )
        if not self.data:
            raise ValueError("data: empty, at least one dataset YAML was expected.")
        return self


def read_run(path: str | Path) -> RunConfig:
    """Read a run's YAML strictly; relative paths in it are taken from its folder.

    Args:
        path: The YAML file.

    Returns:
        The validated run.

    Raises:
        RunError: For a missing file, bad YAML, an unknown key (with the nearest known one), or a
            value out of range.
    """
    file = Path(path)
    if not file.is_file():
        raise RunError(
            f"Run {file}: no such file, a YAML was expected. See `influence run --help`."
        )
    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"Run {file}: not valid YAML ({error}). Mend the file.") from None
    if not isinstance(values, dict):
        raise RunError(
            f"Run {file}: {type(values).__name__} found, `key: value` lines were expected. "
            "See `influence run --help` for an example."
        )
    values = {str(key): value for key, value in values.items()}
    values.setdefault("name", file.stem)
    return validate(_absolute(values, file.parent), where=f"Run {file}")


def validate(values: dict[str, Any], where: str) -> RunConfig:
    """Validate a run's values with messages for people.

    Args:
        values: The run's keys and values.
        where: What to name in a message.

    Returns:
        The run.

    Raises:
        RunError: Naming the key, what came and what was expected.
    """
    try:
        return RunConfig(**values)
    except ValidationError as error:
        raise RunError(f"{where}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(x) for x in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, RunConfig.model_fields, n=1, cutoff=0.4)
            hint = f"did you mean `{near[0]}`?" if near else "see README, 'Every key of a run'."
            lines.append(f"unknown key `{key}`; {hint}")
        elif key:
            lines.append(f"{key}: {item['input']!r} given; {item['msg']}.")
        else:
            lines.append(item["msg"].removeprefix("Value error, "))
    return " ".join(lines)


def _absolute(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make paths that exist relative to the YAML's folder absolute; leave names and hub ids."""

    def resolve(value: Any) -> Any:
        if isinstance(value, str) and (folder / value).exists():
            return str((folder / value).resolve())
        return value

    resolved = dict(values)
    for key in ("model", "tokenizer", "adapter"):
        resolved[key] = resolve(values.get(key))
    data = values.get("data", ("embedded",))
    resolved["data"] = (
        tuple(resolve(x) for x in data) if isinstance(data, list | tuple) else resolve(data)
    )
    return resolved
