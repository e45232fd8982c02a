"""Does the parroting index tell copied outputs from those that follow from a rule?

Small models are trained on a planted corpus (`datasets_cfg/memorised.py`): arbitrary facts whose
one document is repeated, against facts that follow from a rule shown over many documents, half of
them stated once, half of them held out. The index is judged by AUROC, beside what needs no influence:

    python benchmarks/parroting.py --runs runs

Writes `benchmarks/results/parroting.md`. AUROC is for memorised against rule-like outputs; 0.5 is
chance, intervals are 95 % over outputs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets_cfg.memorised import KINDS, Planted, documents, questions
from influence.evaluation.bootstrap import interval
from influence.evaluation.discrimination import auroc_of
from influence.mixture.parroting import overlap, window_of
from influence.mixture.verbatim import tokens_of
from pipelines.answers import says
from pipelines.cluster import Workers
from pipelines.config import RunConfig
from pipelines.parroting import ParrotingOptions, run_parroting
from pipelines.queries import Query
from pipelines.runs import Run, build_run
from pipelines.worker import language_model

RESULT = Path(__file__).parent / "results" / "parroting.md"
SIZES = {
    "small": {"hidden_size": 32, "mlp_size": 96, "blocks": 2, "heads": 2},
    "large": {"hidden_size": 96, "mlp_size": 288, "blocks": 3, "heads": 4},
}
SETTINGS = {
    "train": "scratch",
    "vocabulary": 512,
    "epochs": 12,
    "batch_documents": 32,
    "learning_rate": 0.003,
    "checkpoints": 6,
    "max_tokens": 48,
    "token_budget": 1024,
    "documents_per_shard": 256,
    "store": "top-eigen",
    "train_threads": 1,
    "device": "cpu",
}


def main() -> None:
    options = parsed()
    parts = []
    with Workers(options.workers, None) as workers:
        for seed in options.seeds:
            runs = [build(seed, size, options.runs, workers) for size in SIZES]
            asked = questions(seed)
            result = run_parroting(
                runs, queries(asked), ParrotingOptions(checkpoints=True, seed=seed), workers
            )
            alone = run_parroting(
                runs, queries(asked), ParrotingOptions(alone=True, seed=seed), workers
            )
            parts.append((seed, runs, asked, result, alone))
    options.out.write_text(report(parts), "utf-8")
    print(options.out.read_text("utf-8"))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/parroting"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


def build(seed: int, size: str, folder: Path, workers: Workers) -> Run:
    """Train one model on the planted corpus; stages that exist are reused."""
    data = folder / f"planted-{seed}"
    data.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in documents(seed)]
    (data / "documents.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    columns = {f"{name}_column": name for name in ("text", "id", "source", "language")}
    about = {"name": "planted", "format": "jsonl", "paths": [str(data / "documents.jsonl")]}
    (data / "data.yaml").write_text(yaml.safe_dump({**about, **columns}), "utf-8")
    own = {"name": f"{size}-{seed}", "data": (str(data / "data.yaml"),), "train_seed": seed}
    return build_run(RunConfig(**{**SETTINGS, **SIZES[size], **own}), folder, workers, store=False)


def queries(asked: Sequence[Mapping[str, Any]]) -> list[Query]:
    return [
        Query(id=q["id"], prompt=q["prompt"], completion=q["completion"], task=q["kind"])
        for q in asked
    ]


# -- the report ---------------------------------------------------------------------------------


def report(parts: Sequence[Any]) -> str:
    """The page, from all seeds."""
    planted = Planted()
    lines = [
        "# Parrot or abstraction: the index on planted facts",
        "",
        f"`python benchmarks/parroting.py`, {platform.machine()}, exact EK-FAC scores. Corpus: "
        f"{planted.memorised} arbitrary facts, each in {planted.repeats} equal documents; "
        f"{planted.rule} names that follow a rule, one document each; {planted.others} other "
        f"documents. Asked: {planted.memorised} memorised, {planted.asked} rule-like that are "
        f"stated once, {planted.asked} rule-like that no document states. Scores are "
        "means over six saved states, but for the final state alone. The mean overlap of the 100 best "
        "documents counts equal documents, and equal documents are how memorised facts were planted: it "
        "has to be right here. The index finds out from influence. The mean over saved states, rather "
        "than the final one, was chosen after looking at the first small model; the others were not "
        "looked at before.",
        "",
    ]
    for seed, runs, asked, result, alone in parts:
        rows = [row for row in result["rows"] if row["final"]]
        for run in runs:
            own = [row for row in rows if row["run"] == run.config.name]
            last = [row for row in alone["rows"] if row["run"] == run.config.name]
            lines += [f"## {run.config.name}: {run.model_name}", ""]
            lines += judged(run, asked, own, last, seed)
        lines += [
            "## Along the training (mean index, 95 % over outputs)",
            "",
            *states(result["summary"]),
        ]
    return "\n".join(lines) + "\n"


def judged(
    run: Run,
    asked: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    alone: Sequence[Mapping[str, Any]],
    seed: int,
) -> list[str]:
    """What the model answers, and AUROC of the index beside loss and overlap alone."""
    loaded = language_model(run.model)
    right = np.array([says(loaded, query) for query in queries(asked)])
    kind = np.array([q["kind"] for q in asked])
    memorised = kind == "memorised"
    scores = {
        "the index": np.array([row["index"] for row in rows], dtype=float),
        "share of influence on copies": np.array([row["copied"] for row in rows], dtype=float),
        "the index, final state alone": np.array([row["index"] for row in alone], dtype=float),
        "loss alone (lower: memorised)": -np.array([row["loss"] for row in rows]),
        "loss alone (higher: memorised)": np.array([row["loss"] for row in rows]),
        "lexical overlap alone (best document)": best_overlap(seed, asked),
        "lexical overlap alone (mean of 100 best)": best_overlap(seed, asked, 100),
    }
    found = [
        "| asked | outputs | answered | mean index | mean loss, nats |",
        "|---|---|---|---|---|",
    ]
    for name, about in KINDS.items():
        own = kind == name
        index, loss = scores["the index"][own], -scores["loss alone (lower: memorised)"][own]
        found.append(
            f"| {name}: {about} | {own.sum()} | {right[own].mean():.0%} | {np.nanmean(index):.3f} | "
            f"{loss.mean():.3f} |"
        )
    found += ["", "| AUROC, memorised against | " + " | ".join(GROUPS) + " |"]
    found.append("|---|" + "---|" * len(GROUPS))
    for name, values in scores.items():
        cells = []
        for others in GROUPS.values():
            kept = (memorised | np.isin(kind, others)) & np.isfinite(values)
            bounds = interval(auroc_of(values[kept], memorised[kept]), np.flatnonzero(kept))
            cells.append(f"{bounds.value:.3f} ({bounds.low:.3f} to {bounds.high:.3f})")
        found.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*found, ""]


GROUPS = {
    "all rule-like": ("rule, stated", "rule, held out"),
    "stated once": ("rule, stated",),
    "held out": ("rule, held out",),
}


def best_overlap(seed: int, asked: Sequence[Mapping[str, Any]], best: int = 1) -> np.ndarray:
    """Mean overlap of the documents that hold most of each output, influence or not."""
    texts = [tokens_of(row["text"]) for row in documents(seed)]
    found = []
    for question in asked:
        prompt = tokens_of(question["prompt"])
        window, first = window_of([*prompt, *tokens_of(question["completion"])], len(prompt))
        shares = sorted((overlap(window, first, tokens) for tokens in texts), reverse=True)
        found.append(float(np.mean(shares[:best])))
    return np.array(found)


def states(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    tasks = list(KINDS)
    lines = ["| run | step | " + " | ".join(f"{t}: index; loss" for t in tasks) + " |"]
    lines.append("|---|---|" + "---|" * len(tasks))
    by_state: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for row in summary:
        by_state.setdefault((row["run"], row["step"]), {})[row["task"]] = row
    for (run, step), own in by_state.items():
        cells = [
            f"{own[t]['index']:.2f} ({own[t]['low']:.2f} to {own[t]['high']:.2f}); "
            f"{own[t]['loss']:.2f}"
            for t in tasks
        ]
        lines.append(f"| {run} | {step} | " + " | ".join(cells) + " |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
