"""A whole run as a story: corpus -> tokenizer -> tokens -> model -> curvature -> gradients.

Each stage skips what exists, computes what is missing and seals it; ``run.yaml`` is written last and
names the stages that tracing reads.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

import gradients_store
from influence.sources import describe_source
from pipelines.cluster import Workers, default_count
from pipelines.config import RunConfig, validate
from pipelines.conversion import gguf_parts, unpack_gguf
from pipelines.corpus import build_corpus, build_tokens, document_ids
from pipelines.curvature import build_curvature
from pipelines.duplicates import sealed_duplicates
from pipelines.errors import RunError
from pipelines.estimate import estimate, in_words, planned_layers
from pipelines.gradient_files import load_form
from pipelines.gradients import (
    build_store,
    make_header,
    open_checked,
    plan_shards,
)
from pipelines.run_folder import RUN_FILE, Stage, clear_leftovers, locked, new_file
from pipelines.tokenizer import build_tokenizer
from pipelines.trace import Traced
from pipelines.training import build_model
from pipelines.worker import ModelSpec

PACKAGES = (
    "torch",
    "transformers",
    "curvlinops-for-pytorch",
    "datasets",
    "dask",
    "pyarrow",
    "whydidit",
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run whose stages are complete (``gradients`` may be missing: exact scoring only)."""

    config: RunConfig
    root: Path
    model: ModelSpec
    model_name: str
    corpus: Stage
    tokens: Stage
    curvature: Stage
    gradients: Stage | None


def build_run(
    config: RunConfig,
    folder: str | Path,
    workers: Workers,
    store: bool = True,
    announce: Callable[[str], None] = lambda _: None,
) -> Run:
    """Compute every stage that is missing.

    Args:
        config: The run.
        folder: Where runs live; the run gets ``folder/<name>``.
        workers: Where to run.
        store: Whether to fill the gradient store too (else only ``--exact`` tracing is possible).
        announce: Told what will take long, before it starts.

    Returns:
        The complete run.
    """
    root = Path(folder).resolve() / config.name
    with locked(root):
        clear_leftovers(root)
        corpus = build_corpus(config, root)
        tokenizer = _tokenizer(config, root, corpus)
        tokens = build_tokens(config, root, corpus, tokenizer, workers)
        _announce_cost(config, tokens, root, announce)
        model, name = _model(config, root, tokens, tokenizer, workers)
        ids = document_ids(corpus)
        curvature = build_curvature(config, root, tokens, ids, model, workers)
        model = with_head(model, curvature)
        gradients = None
        if store:
            gradients = build_store(config, root, corpus, tokens, curvature, model, workers)
        run = Run(
            config=config,
            root=root,
            model=model,
            model_name=name,
            corpus=corpus,
            tokens=tokens,
            curvature=curvature,
            gradients=gradients,
        )
        _write_run(run)
    return run


def _announce_cost(
    config: RunConfig, tokens: Stage, root: Path, announce: Callable[[str], None]
) -> None:
    """Say what a run that was never finished will take, from its corpus and sizes."""
    if (root / RUN_FILE).exists() or config.train != "scratch":
        return
    info = tokens.info()
    costs = estimate(
        config, planned_layers(config), info["documents"], info["tokens"], default_count()
    )
    parts = ", ".join(f"{cost.stage} {in_words(cost.seconds)}" for cost in costs)
    announce(
        f"{info['documents']:,} documents, {info['tokens']:,} tokens. Estimated: {parts}; "
        f"{sum(c.disk for c in costs) / 1e6:,.0f} MB of disk."
    )


def _tokenizer(config: RunConfig, root: Path, corpus: Stage) -> dict[str, Any]:
    if config.train == "scratch":
        stage = build_tokenizer(config, root, corpus)
        return {
            "source": str(stage.path),
            "gguf_file": None,
            "revision": None,
            "fingerprint": stage.info()["fingerprint"],
            "max_tokens": config.max_tokens,
        }
    assert config.model is not None
    about = describe_source(
        config.model,
        tokenizer=config.tokenizer,
        revision=config.revision,
        adapter=config.adapter,
        gguf_file=config.gguf_file,
    )
    return {
        "source": about.tokenizer_source,
        "gguf_file": about.tokenizer_gguf,
        "revision": config.revision,
        "fingerprint": about.tokenizer_fingerprint,
        "max_tokens": about.max_tokens,
    }


def _model(
    config: RunConfig, root: Path, tokens: Stage, tokenizer: dict[str, Any], workers: Workers
) -> tuple[ModelSpec, str]:
    if config.train != "none":
        stage = build_model(config, root, tokens, tokenizer, workers)
        info = stage.info()
        spec = ModelSpec(
            source=str(stage.path),
            fingerprint=info["fingerprint"],
            device=config.device,
            layers=config.layers,
            compute=config.compute,
        )
        name = f"{config.architecture} trained here" if config.model is None else "fine-tuned here"
        return spec, f"{name} ({info['parameters']:,} parameters)"
    assert config.model is not None
    about = describe_source(
        config.model,
        tokenizer=config.tokenizer,
        revision=config.revision,
        adapter=config.adapter,
        gguf_file=config.gguf_file,
    )
    folder, gguf_file = gguf_parts(config.model, config.gguf_file)
    if gguf_file is not None and config.adapter is None:
        stage = unpack_gguf(folder, gguf_file, about, root, workers)
        unpacked = ModelSpec(
            source=str(stage.path),
            fingerprint=stage.info()["fingerprint"],
            device=config.device,
            layers=config.layers,
            compute=config.compute,
        )
        return unpacked, about.name
    spec = ModelSpec(
        source=config.model,
        fingerprint=about.fingerprint,
        tokenizer=config.tokenizer,
        revision=config.revision,
        adapter=config.adapter,
        gguf_file=config.gguf_file,
        device=config.device,
        layers=config.layers,
        compute=config.compute,
    )
    return spec, about.name


def with_head(model: ModelSpec, curvature: Stage) -> ModelSpec:
    """The model as the stages after the curvature see it.

    Returns:
        The spec, with the head's low-rank basis where there is one.
    """
    head = curvature.info()["head"]
    return replace(model, head_basis=str(curvature.path / head)) if head else model


# -- run.yaml -------------------------------------------------------------------------------------


def _write_run(run: Run) -> None:
    stages = {"corpus": run.corpus.key, "tokens": run.tokens.key, "curvature": run.curvature.key}
    if run.gradients is not None:
        stages["gradients"] = run.gradients.key
    model = {k: v for k, v in asdict(run.model).items() if k != "head_basis"}
    model["source"] = _relative(run.model.source, run.root)
    content = {
        "settings": run.config.model_dump(mode="json"),
        "stages": stages,
        "model": {**model, "name": run.model_name},
        "versions": {"python": platform.python_version(), **versions()},
    }
    with new_file(run.root / RUN_FILE) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")


def _relative(source: str, root: Path) -> str:
    """Paths inside the run folder are stored relative to it, so that it can be moved."""
    path = Path(source)
    return str(path.relative_to(root)) if path.is_absolute() and root in path.parents else source


def versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers.

    Returns:
        By name.
    """
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def open_run(path: str | Path, folder: str | Path = "runs") -> Run:
    """Open a finished run.

    Args:
        path: The run's folder, or its name below ``folder``.
        folder: Where runs live.

    Returns:
        The run.

    Raises:
        RunError: If there is no such run, or it is unfinished or damaged.
    """
    root = next(
        (p for p in (Path(path), Path(folder) / str(path)) if (p / RUN_FILE).is_file()), None
    )
    if root is None:
        near = sorted(p.parent.name for p in Path(folder).glob(f"*/{RUN_FILE}"))
        known = f" Finished runs: {', '.join(near)}." if near else ""
        raise RunError(
            f"Run {path}: no finished run there (a folder with {RUN_FILE}), expected one.{known} "
            "Make one with `influence demo` or `influence run my.yaml`."
        )
    root = root.resolve()
    try:
        content = yaml.safe_load((root / RUN_FILE).read_text("utf-8"))
        stages, model = content["stages"], dict(content["model"])
        config = validate(content["settings"], where=f"Run {root / RUN_FILE}")
        name = model.pop("name")
        if (root / model["source"]).exists():
            model["source"] = str(root / model["source"])
        if isinstance(model["layers"], list):
            model["layers"] = tuple(model["layers"])
        spec = ModelSpec(**model)
        found = {n: Stage(n, key, root) for n, key in stages.items()}
        corpus, tokens, curvature = (found[n] for n in ("corpus", "tokens", "curvature"))
        unsealed = [stage for stage in found.values() if not stage.is_sealed()]
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(
            f"Run {root}: {RUN_FILE} is damaged ({' '.join(str(error).split())}), the file that "
            "`influence run` writes was expected. Run `influence run` again: finished stages are kept."
        ) from None
    for stage in unsealed:
        raise RunError(
            f"Run {root}: stage {stage.name}/{stage.key} is missing or unfinished, a sealed "
            "stage was expected. Run `influence run` again: finished stages are kept."
        )
    return Run(
        config=config,
        root=root,
        model=with_head(spec, curvature),
        model_name=name,
        corpus=corpus,
        tokens=tokens,
        curvature=curvature,
        gradients=found.get("gradients"),
    )


def open_traced(run: Run, exact: bool = False) -> Traced:
    """A run as tracing sees it.

    Args:
        run: A finished run.
        exact: Whether the store will not be searched.

    Returns:
        Specs of all shards, the opened store, and what reports print.

    Raises:
        RunError: If the run has no store and ``exact`` was not asked for.
    """
    if run.gradients is None and not exact:
        raise RunError(
            f"Run {run.root}: it has no gradient store, one was expected. Use `--exact`, or make "
            "the store with `influence run` or `influence index`."
        )
    store = None
    if run.gradients is not None:
        form = load_form(str(run.gradients.path / "sketch.safetensors"))
        header = make_header(run.config, run.corpus, run.tokens, run.curvature, run.model, form)
        store = open_checked(run.gradients, header)
    specs = plan_shards(
        run.config,
        run.corpus,
        run.tokens,
        run.curvature,
        run.model,
        run.gradients,
        store.header if store else None,
    )
    return Traced(
        name=run.config.name,
        root=run.root,
        corpus=run.corpus,
        specs=tuple(specs),
        store=store,
        settings=describe(run, store),
        quality=_quality(run),
        duplicates=sealed_duplicates(run.corpus, run.root),
    )


def describe(run: Run, store: gradients_store.Store | None) -> dict[str, Any]:
    """What a report says about how its numbers were made.

    Returns:
        Nested plain values.
    """
    corpus, tokens, curvature = run.corpus.info(), run.tokens.info(), run.curvature.info()
    config = run.config
    return {
        "name": config.name,
        "model": {
            "name": run.model_name,
            "fingerprint": run.model.fingerprint,
            "tracked layers": f"{len(curvature['layers'])} ({config.layers})",
        },
        "corpus": {
            "documents": corpus["documents"],
            "tokens": tokens["tokens"],
            "tokens with loss": tokens["loss_tokens"],
            "sources": corpus["sources"],
            "languages": corpus["languages"],
        },
        "curvature": {
            "kind": curvature["kind"],
            "labels": curvature["labels"],
            "damping": f"{config.damping} x mean eigenvalue of each layer",
            "fitted on documents": curvature["documents"],
            "relative standard error from that sample": curvature.get("sampling_error"),
            "head directions kept": curvature["head_rank"],
            "head factor left out": curvature["head_left_out"],
        },
        "store": _describe_store(store),
    }


def _describe_store(store: gradients_store.Store | None) -> dict[str, Any]:
    if store is None:
        return {"sketch": "none (exact scoring only)"}
    return {
        "sketch": store.header.sketch,
        "numbers a document": store.header.dimension,
        "dtype": store.header.dtype,
        "bytes": sum(shard.bytes for shard in store.shards),
        "effective dimension": store.quality.get("effective_dimension"),
    }


def _quality(run: Run) -> dict[str, Any]:
    curvature = run.curvature.info()
    store = run.gradients.info() if run.gradients else {}
    return {
        "store_fidelity": store.get("fidelity"),
        "recall": store.get("recall"),
        "covered_gradient_share": curvature["covered"],
        "left_out": [{"name": n, "share": s} for n, s in curvature["left_out"]],
        "label_noise": curvature["label_noise"],
    }
