"""The measured records as a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.speed.setting import QUERIES, RANK, SIDE, Size, layer_shapes
from influence.documents.factors import OVERSAMPLING
from influence.documents.tokenwise import LENGTH_PROBES

STAGES = {
    "fit": "factors, eigenbases and eigenvalues of all documents, sampled labels",
    "index": f"every document's gradient as {SIDE} x {SIDE} numbers a layer, written to disk",
    "factors": f"every document's gradient as {RANK} pairs of vectors a layer, in 2 bits, written",
    "scores": f"exact scores of {QUERIES} queries against all documents",
}
PASSES = {
    "forward": "forward",
    "without_weights": "forward and backward, no weight gradients",
    "with_weights": "forward and backward, all weight gradients",
}
NOTES = """\
* One thread everywhere, float32, damping 0.1 x mean eigenvalue a layer, all linear layers of the
  blocks without the head, SDPA attention. Every figure is from a process of its own, after a
  warm-up on one batch; imports, model and token ids come before the clock. What a system writes
  and reads by default is inside.
* ours: index and factors by `whitened_rows` with a separable scale and estimated self-influence,
  into a gradient store (int8, int2). bergson projects plain gradients (its EK-FAC can't be combined
  with a projection).
* kronfluence: `fit_all_factors` and `compute_pairwise_scores` with their default arguments (float32,
  float64 eigenvectors), all queries in one batch, an attention mask that is 0 at the last token;
  `use_iterative_lambda_aggregation` was no faster. It has no index.
* bergson: the bodies of its `hessian`, `build` and `score` workers on a loaded model: kfac with
  eigenvalue correction, `projection_dim` 16 a module in the index, 0 for the scores, queries
  collected to disk and preconditioned as its `score` command does.
* Ratios are medians of the pairs of one repeat, with the lowest and the highest pair.
"""


def table(found: dict[str, Any]) -> str:
    """The page."""
    machine, records = found["machine"], found["records"]
    size = Size(**found["setting"])
    versions = {r["torch"] for r in records}
    torch = versions.pop() if len(versions) == 1 else _versions(records)
    repeats = max((r["repeat"] for r in records), default=-1) + 1
    parts = [
        f"# Speed beside the peers: {found['size']}",
        f"{size.blocks}-block Llama, width {size.width}, mlp {size.mlp}, vocabulary "
        f"{size.vocabulary}, random weights; {size.documents} documents of {size.tokens} random "
        f"tokens (Zipf); {QUERIES} queries.",
        f"{machine['cores']} cores ({machine['processor']}), one thread used; torch {torch}. "
        f"{repeats} of {found['repeats']} repeats in turn. Our code: {found['code']}.",
        *[f"**{name} did not run**: {why}" for name, why in found["failed"].items()],
        "## Stages",
        _stages(found),
        "## Bounds measured in the same run",
        _bounds(records),
        _over_training(records),
        "## CPU-seconds over the floor",
        "The floor adds up: the needed passes without weight gradients (two for the fit), the "
        "stage's matrix products at the measured rate, eigenvectors. It is a reference, not a proof.",
        _floors(found, size),
        "## Do they agree?",
        "Pearson's correlation over all pairs of query and document. With empirical labels all "
        "systems compute the same; with sampled ones each draws its own.",
        _agreement(found["agreement"]),
        "## Batch sizes",
        _tuned(found),
        "## Notes",
        NOTES,
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _versions(records: list[dict[str, Any]]) -> str:
    pairs = sorted({(r["system"], r["torch"]) for r in records})
    return ", ".join(f"{version} ({system})" for system, version in pairs)


def _rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _values(records: list[dict[str, Any]], system: str, stage: str, key: str) -> dict[int, float]:
    return {
        r["repeat"]: r[key]
        for r in records
        if (r["system"], r["stage"]) == (system, stage) and key in r
    }


def _ratio(records: list[dict[str, Any]], stage: str, peer: str, key: str) -> str:
    ours = _values(records, "ours", stage, key)
    theirs = _values(records, peer, stage, key)
    pairs = [ours[i] / theirs[i] for i in sorted(ours.keys() & theirs.keys())]
    if not pairs or peer == "ours":
        return ""
    return f"{median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def _stages(found: dict[str, Any]) -> str:
    records = found["records"]
    head = ["stage", "system", "CPU-s", "wall s", "peak MiB", "growth MiB"]
    head += ["ours / it, CPU", "ours / it, wall", "ours / it, growth"]
    body = []
    for stage in STAGES:
        for system in found["systems"]:
            if not _values(records, system, stage, "cpu"):
                continue
            figures = [
                f"{median(_values(records, system, stage, key).values()):.{digits}f}"
                for key, digits in (("cpu", 2), ("wall", 2), ("peak", 0), ("growth", 0))
            ]
            ratios = [_ratio(records, stage, system, key) for key in ("cpu", "wall", "growth")]
            body.append([stage, system, *figures, *ratios])
    explained = "\n".join(f"* {name}: {what}." for name, what in STAGES.items())
    return _rows(head, body) + "\n\n" + explained


def _bounds(records: list[dict[str, Any]]) -> str:
    body = []
    for stage, name in PASSES.items():
        seconds = [_values(records, "bounds", stage, key) for key in ("cpu", "wall")]
        if seconds[0]:
            body.append([name, *(f"{median(x.values()):.2f}" for x in seconds)])
    machine = {
        "products of the layers' sizes, 2,048 tokens, GFLOP/s": "gflops",
        "products 2,048 x 1,024 x 1,024, GFLOP/s": "gflops_large",
        "reading 256 MiB, GB/s": "gigabytes",
        "eigenvectors of every factor (float64)": "eigh",
    }
    for name, key in machine.items():
        values = _values(records, "bounds", "machine", key)
        if values:
            body.append([name, f"{median(values.values()):.3g}", ""])
    return _rows(["", "CPU-s or rate", "wall s"], body)


def _over_training(records: list[dict[str, Any]]) -> str:
    """The stores' cost over that of a plain training pass over the same documents."""
    plain = _values(records, "bounds", "with_weights", "cpu")
    parts = []
    for system, stage in (("ours", "index"), ("ours", "factors"), ("bergson", "index")):
        own = _values(records, system, stage, "cpu")
        pairs = [own[i] / plain[i] for i in sorted(own.keys() & plain.keys())]
        if pairs:
            parts.append(
                f"{system} {stage} {median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
            )
    return (
        "CPU-seconds of a store over those of forward and backward with all weight gradients: "
        f"{', '.join(parts)}."
    )


def floating_point(size: Size) -> dict[str, float]:
    """Operations of a stage in matrix products, beside the passes of the model."""
    shapes, n, t = layer_shapes(size), size.documents, size.tokens
    factors = sum(n * t * (o * o + i * i / readers) for o, i, readers in shapes)  # half: symmetric
    rotated = sum(2 * n * _rotation(t, o, i, readers) for o, i, readers in shapes)
    projected = sum(2 * n * t * SIDE * (o + i + SIDE) for o, i, _ in shapes)
    probes = RANK + OVERSAMPLING
    more = probes + 2 * LENGTH_PROBES
    paired = sum(
        2 * n * ((more + probes) * t * (o + i) + (more + probes) * o * o + probes * i * i)
        for o, i, _ in shapes
    )
    scored = sum(2 * n * (t * o * i + QUERIES * o * i) for o, i, _ in shapes)
    return {
        "fit": factors + rotated,
        "index": projected,
        "factors": paired,
        "scores": scored,
    }


def _rotation(t: int, o: int, i: int, readers: int) -> float:
    """Multiplications of `Q_S^T (sum g a^T) Q_A`, each side before or after the sum over tokens."""
    before_in, before_out = t * i * i / readers, t * o * o
    return t * o * i + min(before_in, o * i * i) + min(before_out, o * o * i)


def _floors(found: dict[str, Any], size: Size) -> str:
    records = found["records"]

    def middle(system: str, stage: str, key: str) -> float:
        return median(_values(records, system, stage, key).values())

    if not _values(records, "bounds", "machine", "gflops"):
        return "(no bounds)"
    one_pass = middle("bounds", "without_weights", "cpu")
    rate = middle("bounds", "machine", "gflops") * 1e9
    operations = floating_point(size)
    extra: dict[str, Callable[[], float]] = {
        "fit": lambda: 2 * one_pass + middle("bounds", "machine", "eigh"),
        "index": lambda: one_pass,
        "factors": lambda: one_pass,
        "scores": lambda: one_pass,
    }
    body = []
    for stage in STAGES:
        floor = extra[stage]() + operations[stage] / rate
        over = [
            f"{middle(system, stage, 'cpu') / floor:.2f}"
            if _values(records, system, stage, "cpu")
            else ""
            for system in found["systems"]
        ]
        products = f"{operations[stage] / rate:.2f}"
        body.append([stage, f"{floor:.2f}", products, *over])
    return _rows(["stage", "floor, CPU-s", "of which products", *found["systems"]], body)


def _agreement(agreement: dict[str, dict[str, float]]) -> str:
    kinds = [kind for kind in ("empirical", "sampled") if agreement[kind]]
    if not kinds:
        return "(not compared)"
    body = [
        [pair, *(f"{agreement[kind].get(pair, float('nan')):.6f}" for kind in kinds)]
        for pair in agreement["sampled"]
    ]
    return _rows(["", *(f"{kind} labels" for kind in kinds)], body)


def _tuned(found: dict[str, Any]) -> str:
    if not found["tuned"]:
        rows = sorted({r["rows"] for r in found["records"]})
        return f"Not tuned: {', '.join(map(str, rows))} documents for all systems and stages."
    body = [
        [
            f"{r['system']} {r['stage']}",
            str(r["rows"]),
            ", ".join(f"{t['rows']}: {t['cpu']:.2f}" for t in r["tried"]),
        ]
        for r in found["tuned"]
    ]
    explained = "Documents of a batch, tried once each on an eighth of the documents (CPU-seconds)."
    return explained + "\n\n" + _rows(["", "chosen", "tried"], body)
