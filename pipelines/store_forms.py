"""Which form a store's vectors take: candidates measured on a sample, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from influence.documents.preconditioner import LayerCurvature
from influence.documents.sketch import (
    Sketch,
    full,
    low_rank_factors,
    random_projection,
    top_eigen,
)
from pipelines.cluster import Workers
from pipelines.config import RunConfig
from pipelines.errors import RunError
from pipelines.form_candidates import (
    SAMPLE_DOCUMENTS,
    SCALE,
    Candidate,
    Fitted,
    compared,
    most_numbers,
)
from pipelines.gradient_files import NUMBER_BITS, StoredForm
from pipelines.run_folder import Stage, key_of, seal


def choose_form(
    config: RunConfig, stage_of: Callable[[str], Stage], run: Fitted, workers: Workers
) -> tuple[StoredForm, Stage | None]:
    """Decide what a store keeps of each gradient, by measurement where there is a choice.

    Args:
        config: The run's settings.
        stage_of: Makes the stage of a key.
        run: What to measure on.
        workers: Where to run.

    Returns:
        The form, and the sealed stage that holds the comparison; None where there was no choice.
    """
    budget = budget_of(config, run.documents)
    simple = simple_form(config, run.curvature, run.shapes, budget)
    if simple is not None:
        return simple, None
    stage = stage_of(
        key_of(
            curvature=Path(run.specs[0].curvature).name,
            damping=config.damping,
            budget=budget,
            fidelity=config.store_fidelity,
            store=config.store,
            dtype=config.store_dtype,
            seed=config.store_seed,
            separable=config.self_influence == "estimated",
        )
    )
    if not stage.is_sealed():
        whole = sum(o * i for o, i in run.shapes.values())
        candidates = compared(run, [*_curve(whole, budget), budget], config, workers)
        wanted = f"the most faithful form of at most {budget:,} bytes"
        if config.store_fidelity is not None:
            wanted = f"the smallest form with a rank agreement of {config.store_fidelity:g}"
        chosen = pick(candidates, config, budget)
        reached = chosen.bytes <= budget
        if config.store_fidelity is not None:
            reached = chosen.spearman >= config.store_fidelity
        seal(
            stage,
            {
                "wanted": wanted if reached else f"{wanted} (there is none; this is the nearest)",
                "documents": min(run.documents, SAMPLE_DOCUMENTS),
                "queries": len(run.queries),
                "chosen": asdict(chosen),
                "candidates": [asdict(c) for c in candidates],
            },
        )
    found = Candidate(**stage.info()["chosen"])
    return StoredForm(sketch=_sketch(found, config, run), dtype=found.dtype), stage


def budget_of(config: RunConfig, documents: int) -> int:
    """Bytes that a document's vector may take.

    Returns:
        ``store_bytes``, or what ``store_gigabytes`` leaves to each document.
    """
    if config.store_bytes is not None:
        return config.store_bytes
    return max(64, int(config.store_gigabytes * 1e9 / documents))


def simple_form(
    config: RunConfig,
    curvature: Mapping[str, LayerCurvature],
    shapes: Mapping[str, tuple[int, int]],
    budget: int,
) -> StoredForm | None:
    """The form where nothing has to be measured.

    Returns:
        The form that the run names, or whole rows where they fit; None: compare forms.
    """
    dtype, most = config.store_dtype or "int8", most_numbers(config)
    separable = config.self_influence == "estimated"
    whole_form = StoredForm(sketch=full(shapes), dtype=dtype)
    if config.store == "full":
        return whole_form
    if config.store == "random":
        sketch = random_projection(shapes, config.store_side, config.store_seed, separable)
        return StoredForm(sketch=sketch, dtype=dtype)
    if config.store == "top-eigen":
        whole = whole_form.sketch.dimension
        # gigabytes never counted the scales: stores of older releases keep their form
        room = budget if config.store_bytes is None else budget - SCALE
        numbers = min(whole, most, room * 8 // NUMBER_BITS[dtype])
        kept = top_eigen(curvature, config.damping, max(1, numbers))
        return StoredForm(sketch=kept, dtype=dtype)
    fits = whole_form.bytes <= budget and whole_form.sketch.dimension <= most
    return whole_form if config.store == "auto" and config.store_fidelity is None and fits else None


def describe_choice(comparison: Stage, form: StoredForm) -> str:
    """What was picked and why, in a sentence or two.

    Returns:
        Plain text.
    """
    info = comparison.info()
    chosen, wanted = Candidate(**info["chosen"]), info["wanted"]
    what = {
        "factors": f"{sum(form.sketch.ranks.values())} pairs of vectors over all layers",
        "random": f"random projections of side {form.sketch.side}",
        "top-eigen": f"{form.sketch.dimension:,} coordinates",
        "full": "whole rows",
    }[chosen.kind]
    return (
        f"Store: {what} in {form.dtype}, {form.bytes:,} bytes a document; rank agreement with exact "
        f"scores {chosen.spearman:.2f}, {chosen.recall:.0%} of the exact top passed on (sample of "
        f"{info['documents']} documents). Wanted: {wanted}. All candidates: "
        f"`influence store info {comparison.root.name}`."
    )


def pick(candidates: Sequence[Candidate], config: RunConfig, budget: int) -> Candidate:
    """The smallest form that reaches the wanted fidelity, or the most faithful one in the budget.

    Args:
        candidates: Measured forms.
        config: The run.
        budget: Bytes that a document's vector may take.

    Returns:
        One of them.  Where none fits, the smallest; where none reaches the fidelity, the most faithful.

    Raises:
        RunError: If there are no candidates.
    """
    if not candidates:
        raise RunError(
            f"Store: no form takes {budget:,} bytes a document or less, one pair of vectors of a "
            "layer at least was expected to fit. Raise `store_bytes` (or `store_gigabytes`)."
        )
    by_size = sorted(candidates, key=lambda c: (c.bytes, -c.spearman))
    if config.store_fidelity is not None:
        reached = [c for c in by_size if c.spearman >= config.store_fidelity]
        return reached[0] if reached else max(by_size, key=lambda c: c.spearman)
    fitting = [c for c in by_size if c.bytes <= budget]
    return max(fitting, key=lambda c: c.spearman) if fitting else by_size[0]


def _sketch(chosen: Candidate, config: RunConfig, run: Fitted) -> Sketch:
    separable = config.self_influence == "estimated"
    if chosen.kind == "factors":
        return low_rank_factors(run.shapes, chosen.detail["ranks"], config.store_seed, separable)
    if chosen.kind == "random":
        return random_projection(run.shapes, chosen.detail["side"], config.store_seed, separable)
    if chosen.kind == "top-eigen":
        return top_eigen(run.curvature, config.damping, chosen.detail["dimension"])
    return full(run.shapes)


def _curve(whole: int, budget: int) -> list[int]:
    """Budgets that show how fidelity grows with bytes."""
    return [1 << k for k in range(10, 24) if 1 << k < whole and 1 << k != budget]
