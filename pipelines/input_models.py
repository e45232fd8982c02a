"""Which model a command means: a run's, or one from a folder, the hub or a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from influence.errors import ModelError
from influence.sources import describe_source
from pipelines.errors import RunError
from pipelines.run_folder import RUN_FILE
from pipelines.runs import open_run
from pipelines.worker import ModelSpec


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A model, and where what is learned of it is written."""

    spec: ModelSpec
    name: str
    """For display."""
    root: Path
    """A run's folder, or the folder of runs."""


def find_model(name: str, runs: Path, device: str = "auto") -> FoundModel:
    """Find what a user calls a model.

    Args:
        name: A run's folder or name; or a folder, hub id, `.gguf` file or LoRA adapter.
        runs: Where runs live.
        device: Of a model that is not a run's.

    Returns:
        The model.

    Raises:
        RunError: If it is neither.
    """
    if any((folder / RUN_FILE).is_file() for folder in (Path(name), runs / name)):
        run = open_run(name, runs)
        name = f"{run.config.name}: {run.model_name}"
        return FoundModel(spec=replace(run.model, head_basis=None), name=name, root=run.root)
    try:
        about = describe_source(name)
    except ModelError as error:
        near = ", ".join(sorted(p.parent.name for p in runs.glob(f"*/{RUN_FILE}")))
        known = f" Finished runs in {runs}: {near}." if near else ""
        raise RunError(f"Neither a finished run nor a model: {error}{known}") from error
    spec = ModelSpec(source=name, fingerprint=about.fingerprint, device=device)
    return FoundModel(spec=spec, name=about.name, root=runs.resolve())
