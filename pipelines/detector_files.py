"""A detector on disk: JSON and safetensors, with the hashes of its data and its model; no pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from influence.hallucination.causes import CauseModel, cause_model_of
from influence.hallucination.detector import Detector, detector_of
from influence.states.probes.probe import Probe, probe_of
from pipelines.errors import RunError
from pipelines.run_folder import digest_of, new_file, write_json

DETECTOR, PROBES, REPORT, VALUES = (
    "detector.json",
    "probes.safetensors",
    "report.json",
    "values.parquet",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedDetector:
    """A detector with its probes, and what it was fitted to."""

    detector: Detector
    probe: Probe | None
    """Whose score is the signal `probe`."""
    layer_probes: tuple[Probe, ...]
    """One for each layer, of the same kind and place: for pictures."""
    about: dict[str, Any]
    """``name``, ``model``, ``fingerprint``, ``data_hash``, ``threshold``, ``auroc`` and more."""
    folder: Path
    causes: CauseModel | None = None
    """Why wrong answers are wrong, where labels told it; else rules decide."""


def detectors_folder(root: Path) -> Path:
    """Where detectors lie.

    Args:
        root: A run's folder, or the folder of runs.

    Returns:
        The folder.
    """
    return root / "hallucination" / "detectors"


def save_detector(saved: SavedDetector) -> Path:
    """Write a detector; `detector.json` last, with the checksum of the probes.

    Args:
        saved: The detector; its folder is made where it is not there.

    Returns:
        The folder.
    """
    probes = [saved.probe] if saved.probe is not None else []
    arrays = {
        f"{number}.{name}": array
        for number, probe in enumerate([*probes, *saved.layer_probes])
        for name, array in probe.arrays().items()
    }
    with new_file(saved.folder / PROBES) as temporary:
        save_file(arrays, str(temporary))
    content = {
        "about": saved.about,
        "detector": saved.detector.plain(),
        "causes": None if saved.causes is None else saved.causes.plain(),
        "has_probe": saved.probe is not None,
        "probes": [probe.about() for probe in [*probes, *saved.layer_probes]],
        "probes_checksum": digest_of(saved.folder / PROBES),
    }
    write_json(saved.folder / DETECTOR, content)
    return saved.folder


def load_detector(name: str | Path | None, root: Path, fingerprint: str) -> SavedDetector:
    """Read a detector of a model.

    Args:
        name: Of the detector, or its folder; None: the one that was fitted last to this model.
        root: Where detectors of this model may lie.
        fingerprint: Of the model.

    Returns:
        The detector.

    Raises:
        RunError: If there is none, it is damaged, or it was made for another model.
    """
    folder = _find(name, root, fingerprint)
    try:
        content = json.loads((folder / DETECTOR).read_text("utf-8"))
        if content["probes_checksum"] != digest_of(folder / PROBES):
            raise RunError(
                f"Detector {folder}: {PROBES} is damaged, its checksum differs. Fit the detector again."
            )
        arrays = load_file(folder / PROBES)
    except (ValueError, KeyError, OSError) as error:
        raise RunError(f"Detector {folder}: damaged ({error}). Fit the detector again.") from error
    about = content["about"]
    if about["fingerprint"] != fingerprint:
        raise RunError(
            f"Detector {folder}: made for {about['model']} (fingerprint {about['fingerprint']}), this "
            f"model's is {fingerprint}. A detector reads the states of the model that it was fitted "
            "to: fit one with `influence hallucination fit`."
        )
    probes = tuple(
        probe_of({n.partition(".")[2]: a for n, a in arrays.items() if n.startswith(f"{i}.")}, one)
        for i, one in enumerate(content["probes"])
    )
    first = 1 if content["has_probe"] else 0
    return SavedDetector(
        detector=detector_of(content["detector"]),
        probe=probes[0] if first else None,
        layer_probes=probes[first:],
        about=about,
        folder=folder,
        causes=cause_model_of(content["causes"]) if content.get("causes") else None,
    )


def _find(name: str | Path | None, root: Path, fingerprint: str) -> Path:
    folder = detectors_folder(root)
    if name is not None:
        found = [f for f in (Path(name), folder / name) if (f / DETECTOR).is_file()]
        if not found:
            known = ", ".join(sorted(p.parent.name for p in folder.glob(f"*/{DETECTOR}"))) or "none"
            raise RunError(
                f"Detector {name}: not found, a name or a folder with {DETECTOR} was expected. Known "
                f"here: {known}."
            )
        return found[0]
    mine = [p for p in folder.glob(f"*/{DETECTOR}") if _fingerprint(p) == fingerprint]
    if not mine:
        raise RunError(
            "Hallucination: no detector for this model yet. Fit one: "
            "`influence hallucination fit MODEL --data labelled.jsonl`."
        )
    return max(mine, key=lambda path: path.stat().st_mtime).parent


def _fingerprint(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text("utf-8"))["about"]["fingerprint"])
    except (ValueError, KeyError, OSError):
        return None
