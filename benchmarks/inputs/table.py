"""What was measured as a Markdown page.

Axes: P tokens of the prompt, T of the completion, M masks.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

TITLES = {
    "ours": "**ours**",
    "captum_peer": "captum 0.9.0",
    "inseq_peer": "inseq 0.7.1",
    "context_cite_peer": "ContextCite 0.0.4",
}
KINDS = {
    "leave-one-out": "Leave one token out",
    "integrated gradients": "Integrated gradients",
    "surrogate": "Sparse surrogate of 20 parts, 64 masks",
}


def agreement(folder: Path) -> dict[str, str]:
    """How far every run's numbers are from ours, in words."""
    found = {}
    first = folder / "ours-integrated gradients, first token only.npz"
    masked = folder / "ours-surrogate of their masks.npz"
    for path in sorted(folder.glob("*-*.npz")):
        system, _, name = path.stem.partition("-")
        theirs = dict(np.load(path))
        kind = name.partition(",")[0]
        ours = folder / f"ours-{kind}.npz"
        if system == "ours":
            found[f"{system}/{name}"] = _own(theirs)
        elif kind == "surrogate" and masked.exists():
            found[f"{system}/{name}"] = _same_masks(theirs, dict(np.load(masked)))
        elif name == "integrated gradients" and system == "inseq_peer" and first.exists():
            found[f"{system}/{name}"] = _first_token(
                theirs, dict(np.load(first)), dict(np.load(ours))
            )
        elif kind != "surrogate" and ours.exists():
            found[f"{system}/{name}"] = _difference(theirs, dict(np.load(ours)), system)
    return found


def _own(ours: dict[str, np.ndarray]) -> str:
    if "steps" not in ours:
        return ""
    return f"{int(ours['steps'])} steps, completeness error {ours['completeness_error']:.1e} nats"


def _difference(theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray], system: str) -> str:
    if system == "inseq_peer" and "tokens_PT" in ours:  # it tells sizes only, token by token
        apart = np.abs(np.abs(ours["tokens_PT"]) - theirs["tokens_PT"])
        return f"{apart.max():.1e} for each token of both, signs lost"
    apart = np.abs(theirs["scores_P"] - ours["scores_P"])
    share = apart.max() / np.abs(ours["scores_P"]).max()
    correlation = np.corrcoef(theirs["scores_P"], ours["scores_P"])[0, 1]
    first = f"{apart.max():.1e}, {share:.1e} of the largest"
    return first if share < 1e-2 else f"**{first}; correlation {correlation:.3f}**"


def _first_token(
    theirs: dict[str, np.ndarray], first: dict[str, np.ndarray], ours: dict[str, np.ndarray]
) -> str:
    apart = np.abs(theirs["tokens_PT"][:, 0] - first["scores_P"]).max()
    correlation = np.corrcoef(theirs["scores_P"], ours["scores_P"])[0, 1]
    return f"{apart:.1e} for the completion's first token; **all: correlation {correlation:.3f}**"


def _same_masks(theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> str:
    log_p_MT = -np.logaddexp(0, -theirs["logits_MT"].astype(np.float64))
    apart = np.abs(log_p_MT - ours["log_p_MT"][2:]).max()
    correlation = np.corrcoef(theirs["scores_P"], ours["scores_P"])[0, 1]
    return (
        f"{apart:.1e} for each token and mask; its scores correlate with ours by {correlation:.3f}"
    )


def page(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    setting, machine = found["setting"], found["machine"]
    model = setting["model"] or "a random Llama (width 256, 4 layers, MLP 768, 4,096 tokens)"
    lines = [
        "# Input attribution beside captum, inseq and ContextCite",
        "",
        f"`python -m benchmarks.inputs --repeats {setting['repeats']}`, code {found['code']}: a "
        f"completion of {setting['target_tokens']} tokens after a prompt of "
        f"{setting['prompt_tokens']}, {model}, float32, one thread of {machine['cores']} cores "
        f"({machine['processor']}). All systems in one run, in turns; medians, in brackets "
        f"fewest to most and the number of turns. Load averages before and after: "
        f"{' and '.join(f'{load:.1f}' for load in found['load'])}; above the number of cores, other work "
        "kept the machine busy, and processor time is the figure to trust.",
    ]
    for kind, title in KINDS.items():
        lines += ["", f"## {title}", "", *_header(), *_rows(found, kind)]
    return "\n".join(lines) + "\n\n" + NOTES.format(**setting)


def _header() -> list[str]:
    return [
        "| | seconds by the clock | of processor time | largest difference from ours, nats "
        "| clock over ours | processor over ours |",
        "|---|---|---|---|---|---|",
    ]


def _rows(found: dict[str, Any], kind: str) -> list[str]:
    named = [r for r in found["records"] if not r["name"].endswith("first token only")]
    chosen = [r for r in named if r["name"].partition(",")[0] == kind]
    own = [r for r in chosen if r["system"] == "ours" and r["name"] == kind and "cpu" in r]
    names = dict.fromkeys((r["system"], r["name"]) for r in chosen)
    lines = []
    for system, name in names:
        runs = [r for r in chosen if (r["system"], r["name"]) == (system, name)]
        label = TITLES[system] + name[len(kind) :]
        if any("failed" in r for r in runs):
            lines.append(f"| {label} | left out: {runs[0]['failed']} | | | | |")
            continue
        ratios = ["", ""]
        if own and (system, name) != ("ours", kind):
            ratios = [f"{_median(runs, key) / _median(own, key):.1f}" for key in ("wall", "cpu")]
        agreed = found["agreement"].get(f"{system}/{name}", "")
        times = [_spread(runs, key) for key in ("wall", "cpu")]
        lines.append(f"| {' | '.join([label, *times, agreed, *ratios])} |")
    return lines


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return median(r[key] for r in runs)


def _spread(runs: list[dict[str, Any]], key: str) -> str:
    values = sorted(r[key] for r in runs)
    return f"{median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f}; {len(values)})"


NOTES = """\
What is compared:

- **Leave one token out**: the embedding of a removed token is the mean of all embeddings, in all
  systems. captum's default reads the whole sequence again on top of the cached keys with
  transformers 5, so its numbers are wrong; `forward_in_tokens=False` and
  `use_cached_outputs=False` are right. inseq explains one token at a time, and tells sizes without signs.
- **Integrated gradients**: {steps} Gauss-Legendre steps from the mean embedding; ours gets there
  by doubling from 8 and pays for all the steps on its way. captum moves the prompt, as we
  do, and takes the tokens of the completion one by one. inseq moves what was said before each token
  as well, so that only the first token's numbers are the same quantity.
- **Sparse surrogate**: ContextCite's masks are independent, ours come in complementary pairs; the
  difference is between what both read on ContextCite's masks.
"""
