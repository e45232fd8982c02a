"""Which parts of the prompt made the model say it? Masks and passes over Dask, then scores.

For each question: prepare, plan the masks that are not evaluated yet, evaluate them in parts, run the
gradient and attention methods, solve.  A part that is written is never computed again: another method,
or another span of the same output, often needs no pass at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from influence.inputs.choice import choose
from influence.inputs.explain import (
    RANDOM_RANKINGS,
    How,
    Prepared,
    Question,
    explain_masks,
    explain_tokens,
    heldout_masks,
    masks,
    prepare,
    together,
)
from influence.inputs.explanation import Explanation
from influence.inputs.faithfulness import curve_masks
from influence.inputs.methods import MaskMethod, Method, TokenMethod
from influence.inputs.table import Table
from pipelines.cluster import Workers, default_count
from pipelines.errors import RunError
from pipelines.estimate import OVERHEAD, in_words, products_per_second
from pipelines.input_files import (
    read_maps,
    read_parts,
    read_scores,
    write_units,
)
from pipelines.input_maps import MapTask, describe_maps, draw_maps
from pipelines.input_questions import Asked
from pipelines.input_result import describe
from pipelines.input_samples import with_meanings
from pipelines.input_steps import MaskTask, TokenTask, attribute_tokens, evaluate_part
from pipelines.queries import Query
from pipelines.report.inputs_page import write_inputs_index, write_inputs_page
from pipelines.run_folder import key_of, write_json
from pipelines.runs import Run, versions
from pipelines.worker import ModelSpec, language_model

RESULT = "inputs.json"
SHORT, LEAST_RATE = 10.0, 1e9
"""Seconds that need no announcement, and operations a second that any machine does."""
PART_ROWS = 64
"""Masks of one task."""


@dataclass(frozen=True, kw_only=True)
class InputsOptions:
    """What to compute of each question."""

    methods: str | tuple[str, ...] = ("occlusion",)
    how: How = field(default_factory=How)
    attention: bool = False
    """Whether to keep what every head looks at, word by word."""
    compare: ModelSpec | None = None
    """Another model with the same tokenizer, whose heads are compared."""
    target: str | None = None
    """`likelihood`, `contrast` or `meaning`; None: what is given decides."""
    samples: int = 16
    """Answers to sample where the target is `meaning` and no paraphrases are given."""
    html: Path | None = None
    """Where to write the page; None: beside the scores."""
    model_name: str | None = None
    """For display; None: the name of its folder."""
    token_budget: int = 4096
    """Tokens of a batch, padding included."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Planned:
    """A question, what it needs, and where its files lie."""

    asked: Asked
    prepared: Prepared
    parts: Path
    """Folder of all that went through the model for these tokens and units."""
    result: Path
    """Folder of this explanation."""

    def scores_path(self, method: Method, seed: int) -> Path:
        """Where a gradient or attention method's scores lie."""
        key = key_of(target=asdict(self.prepared.target), seed=seed)
        return self.parts / f"{method.name}-{key}.arrow"


def run_inputs(
    model: ModelSpec, asked: Sequence[Asked], options: InputsOptions, root: Path, workers: Workers
) -> Iterator[dict[str, Any]]:
    """Attribute outputs to the parts of their prompts.

    Args:
        model: Which model said it.
        asked: What to explain.
        options: How.
        root: A run's folder, or where those of plain models lie.
        workers: Where to run.

    Yields:
        One result a question, a plain dict (see ``docs/inputs.md``); its files are already written.

    Raises:
        RunError: If the options do not fit.
    """
    methods = choose(options.methods)
    if options.html is not None and len(asked) > 1:
        raise RunError(
            f"Inputs: --html {options.html} given for {len(asked)} texts, one was expected. Leave it "
            "out: each text's page is written beside its scores, and an index of all of them."
        )
    samples = (options.samples, options.how.seed)
    asked = with_meanings(model, asked, options.target, samples, root, workers)
    planned = [_plan(model, one, options, root) for one in asked]
    todo = [one for one in planned if not (one.result / RESULT).exists()]
    begun = time.perf_counter()
    _compute(model, todo, methods, options, workers)
    seconds = (time.perf_counter() - begun) / max(len(todo), 1)
    results = []
    for one in planned:
        if not (one.result / RESULT).exists():
            write_result(model, one, methods, options, seconds)
        result = json.loads((one.result / RESULT).read_text("utf-8"))
        result["folder"] = str(one.result)
        result["page"] = str(_write_page(one, result, options.html))
        results.append(result)
        yield result
    if len(results) > 1:
        write_inputs_index(results, root / "inputs" / "index.html")


def inputs_of_queries(
    run: Run, queries: Sequence[Query], methods: str, unit: str, workers: Workers
) -> dict[str, dict[str, Any]]:
    """Which parts of their prompts the traced outputs came from.

    Args:
        run: Whose model said it.
        queries: What is traced; those without a prompt are left out.
        methods: Names.
        unit: Level of the parts.
        workers: Where to run.

    Returns:
        Results by the queries' names.
    """
    asked = [
        Asked(
            id=query.name,
            question=Question(
                prompt=query.prompt,
                completion=query.completion,
                contrast=query.contrast,
                unit=unit,
            ),
        )
        for query in queries
        if query.prompt
    ]
    model = replace(run.model, head_basis=None)
    options = InputsOptions(methods=methods, model_name=f"{run.config.name}: {run.model_name}")
    found = run_inputs(model, asked, options, run.root, workers)
    return {result["id"]: result for result in found}


def _write_page(one: Planned, result: dict[str, Any], path: Path | None) -> Path:
    maps = one.result / "attention.arrow"
    weights_LHWW = read_maps(maps)[0] if maps.exists() else None
    return write_inputs_page(result, path or one.result / "report.html", weights_LHWW)


def _compute(
    model: ModelSpec,
    todo: Sequence[Planned],
    methods: Sequence[Method],
    options: InputsOptions,
    workers: Workers,
) -> None:
    """Everything that goes through the model; what is there already is not computed again."""
    wanted = [_wanted(one.prepared, methods, options.how) for one in todo]
    _announce(model, todo, wanted, workers)
    _evaluate(model, todo, wanted, options, workers, "Prompts with parts removed")
    tokens = [task for one in todo for task in _token_tasks(model, one, methods, options)]
    workers.map(attribute_tokens, tokens, "Gradients and attention")
    if options.how.curves:
        steps = [_steps(one, methods, options.how) for one in todo]
        _evaluate(model, todo, steps, options, workers, "Deletion and insertion curves")
    workers.map(draw_maps, _map_tasks(model, todo, options), "Maps of the heads")


def _announce(
    model: ModelSpec, todo: Sequence[Planned], wanted: Sequence[np.ndarray], workers: Workers
) -> None:
    """Say what the masks will take, where that is more than a few seconds."""
    rows = sum(
        len(kept_MU) * len(one.prepared.passages) for one, kept_MU in zip(todo, wanted, strict=True)
    )
    tokens = sum(
        len(kept_MU) * sum(len(p.tokens) for p in one.prepared.passages)
        for one, kept_MU in zip(todo, wanted, strict=True)
    )
    parameters = sum(p.numel() for p in language_model(model).model.parameters())
    work = 2.0 * parameters * tokens * OVERHEAD
    if work < SHORT * LEAST_RATE:
        return
    count = default_count() if workers.count is None else max(1, workers.count)
    seconds = work / products_per_second() / count
    if seconds > SHORT:
        workers.console.print(
            f"{rows:,} prompts of up to {tokens / rows:,.0f} tokens, {parameters / 1e6:,.0f} "
            f"million parameters: {in_words(seconds)}; what was evaluated before is not repeated."
        )


def _evaluate(
    model: ModelSpec,
    todo: Sequence[Planned],
    wanted: Sequence[np.ndarray],
    options: InputsOptions,
    workers: Workers,
    label: str,
) -> None:
    tasks = [
        task
        for one, kept_MU in zip(todo, wanted, strict=True)
        for task in _mask_tasks(model, one, kept_MU, options)
    ]
    workers.map(evaluate_part, tasks, label)


def _steps(one: Planned, methods: Sequence[Method], how: How) -> np.ndarray:
    """Masks of the curves of all methods."""
    table = read_parts(one.parts)
    assert table is not None
    plain = replace(how, curves=False)
    found = [_explanation(one, method, table, plain).solution.scores_U for method in methods]
    return together(*(curve_masks(scores_U, RANDOM_RANKINGS, how.seed) for scores_U in found))


def _plan(model: ModelSpec, asked: Asked, options: InputsOptions, root: Path) -> Planned:
    prepared = prepare(language_model(model), asked.question)
    how = options.how
    key = key_of(
        model=model.fingerprint,
        compute=model.compute,
        tokens=[p.tokens.tolist() for p in prepared.passages],
        units=[[u.start, u.end] for u in prepared.units],
        operator=how.operator,
        seed=how.seed if how.operator == "noise" else None,
    )
    result = key_of(
        id=asked.id,
        methods=options.methods,
        how=asdict(how),
        target=asdict(prepared.target),
        meanings=[asked.question.meanings, asked.question.shares],
        attention=options.attention,
        compare=options.compare and options.compare.fingerprint,
    )
    return Planned(
        asked=asked,
        prepared=prepared,
        parts=root / "inputs" / "parts" / key,
        result=root / "inputs" / f"{key}-{result}",
    )


def _mask_tasks(
    model: ModelSpec, one: Planned, wanted_MU: np.ndarray, options: InputsOptions
) -> list[MaskTask]:
    """Tasks for the masks that no part holds yet."""
    packed = [row.tobytes() for row in np.packbits(wanted_MU, axis=1)]
    table = read_parts(one.parts)
    if table is not None:
        known = {row.tobytes() for row in np.packbits(table.kept_MU, axis=1)}
        packed = [row for row in packed if row not in known]
    parts = [tuple(packed[i : i + PART_ROWS]) for i in range(0, len(packed), PART_ROWS)]
    return [
        MaskTask(
            model=model,
            question=one.asked.question,
            operator=options.how.operator,
            seed=options.how.seed,
            kept=part,
            path=str(one.parts / f"masks-{key_of(kept=[row.hex() for row in part])}.arrow"),
            token_budget=options.token_budget,
        )
        for part in parts
    ]


def _wanted(prepared: Prepared, methods: Sequence[Method], how: How) -> np.ndarray:
    """Masks of all methods and of their judgement."""
    own = [masks(prepared, m, how) for m in methods if isinstance(m, MaskMethod)]
    return together(heldout_masks(len(prepared.units), how), *own)


def _token_tasks(
    model: ModelSpec, one: Planned, methods: Sequence[Method], options: InputsOptions
) -> list[TokenTask]:
    """Tasks for the methods whose scores are not there yet."""
    seed = options.how.seed
    return [
        TokenTask(
            model=model,
            question=one.asked.question,
            method=method.name,
            seed=seed,
            path=str(one.scores_path(method, seed)),
        )
        for method in methods
        if isinstance(method, TokenMethod) and read_scores(one.scores_path(method, seed)) is None
    ]


def _map_tasks(model: ModelSpec, todo: Sequence[Planned], options: InputsOptions) -> list[MapTask]:
    if not options.attention and options.compare is None:
        return []
    return [
        MapTask(
            model=model,
            question=one.asked.question,
            compare=options.compare,
            path=str(one.result / "attention.arrow"),
        )
        for one in todo
    ]


def write_result(
    model: ModelSpec,
    one: Planned,
    methods: Sequence[Method],
    options: InputsOptions,
    seconds: float,
) -> dict[str, Any]:
    """Solve every method's equations, judge them, and write what came out.

    Args:
        model: The model.
        one: The question; its parts are complete.
        methods: Which.
        options: How.
        seconds: What the passes took.

    Returns:
        The result.
    """
    table = read_parts(one.parts)
    assert table is not None
    found = [_explanation(one, method, table, options.how) for method in methods]
    result = describe(language_model(model), one.asked, one.prepared, found, table, options.how)
    result["model"]["name"] = options.model_name or result["model"]["name"]
    result["seconds"] = round(seconds, 3)
    result["provenance"]["versions"] = versions()
    if (one.result / "attention.arrow").exists():
        result["attention"] = describe_maps(one.result / "attention.arrow")
    write_units(one.result / "units.parquet", result["explanations"])
    write_json(one.result / RESULT, result)
    return result


def _explanation(one: Planned, method: Method, table: Table, how: How) -> Explanation:
    if isinstance(method, MaskMethod):
        return explain_masks(one.prepared, method, table, how)
    assert isinstance(method, TokenMethod)
    found = read_scores(one.scores_path(method, how.seed))
    assert found is not None
    return explain_tokens(one.prepared, method, *found, table, how)
