"""From a question to an explanation: passages, units, masks or passes, scores.

The few steps that a caller on one machine and a pipeline on many share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from influence.errors import InputError
from influence.inputs.choice import choose
from influence.inputs.designs import paired_random
from influence.inputs.evaluate import evaluate_masks
from influence.inputs.explanation import SIGN, Explanation, Solution
from influence.inputs.faithfulness import Faithfulness, curve_masks, measure
from influence.inputs.gradient.embedded import Passes, embed_target
from influence.inputs.methods import (
    MaskMethod,
    Method,
    TokenMethod,
    TokenScores,
    solve_tokens,
)
from influence.inputs.passage import Passage, Unit, context, read_passages, units_of_tokens
from influence.inputs.table import Table, extended, rows_of, selected
from influence.inputs.targets import Target, values_of
from influence.inputs.units import split_units
from influence.models import LanguageModel

LEAST_ROWS, ROWS_A_UNIT = 128, 4
RANDOM_RANKINGS = 4
"""Random rankings beside each exact curve."""
HELDOUT_SEED = 1
"""Joined with the caller's seed: held-out masks are not those of a method."""
UNSIGNED = "no sign: how much it matters, not in which direction"


@dataclass(frozen=True, kw_only=True)
class Question:
    """An output, and the parts of its prompt that may have led to it."""

    prompt: str | tuple[tuple[str, str], ...]
    """Text, or a chat as `(role, content)` pairs."""
    completion: str
    contrast: str | None = None
    """Explain the completion rather than this one."""
    meanings: tuple[tuple[str, ...], ...] = ()
    """Outputs that mean the same count as one; the first group holds the completion."""
    shares: tuple[float, ...] | None = None
    """Weight of each meaning, 1 in all; None: only the first counts."""
    span: tuple[int, int] | None = None
    """Characters of the completion that are explained; None: all of them."""
    before: bool = False
    """Whether what the completion says before the span counts as prompt."""
    unit: str = "word"
    """Level of the units."""
    examples: tuple[tuple[int, int], ...] | None = None
    """Character ranges of the in-context examples; None: found by their form."""


@dataclass(frozen=True, kw_only=True)
class How:
    """How masks are drawn and parts removed."""

    operator: str = "delete"
    """What stands in the place of a removed unit; one of `OPERATORS`."""
    rows: int | None = None
    """Most masks of a method; None: 4 a unit, at least 128."""
    heldout: int = 32
    """Random masks beside, on which every method is judged; 0: none."""
    curves: bool = False
    """Whether to evaluate each step of the deletion and insertion curves, and of random ones."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A question in tokens."""

    question: Question
    passages: tuple[Passage, ...]
    """Of the completion, then of its contrast or paraphrases."""
    units: tuple[Unit, ...]
    owner_L: np.ndarray
    """Unit of each token of the first passage; `ALWAYS` where it is never removed."""
    target: Target


def prepare(loaded: LanguageModel, question: Question) -> Prepared:
    """Tokenise a question, cut its prompt into units and find what is explained.

    Args:
        loaded: The model.
        question: What to explain.

    Returns:
        Passages, units and target.

    Raises:
        InputError: If the question has no answer as it is asked.
    """
    question = _with_context(question)
    if question.contrast is not None and question.meanings:
        raise InputError(
            "inputs: a contrast and paraphrases given, one of them was expected. Leave one out."
        )
    counted = question.meanings[: None if question.shares else 1]
    others = [text for group in counted for text in group] + [question.contrast]
    texts = list(dict.fromkeys([question.completion, *(x for x in others if x is not None)]))
    passages = read_passages(loaded, as_read(question.prompt), texts)
    units = split_units(passages[0], question.unit, question.examples)
    return Prepared(
        question=question,
        passages=passages,
        units=units,
        owner_L=units_of_tokens(passages[0], units),
        target=_target(question, passages, texts, counted),
    )


def _with_context(question: Question) -> Question:
    """With ``before``, the output up to the span becomes part of the prompt."""
    if not question.before:
        return question
    if question.span is None:
        raise InputError(
            "inputs: the output before a span was asked for without a span, expected one. Say which "
            "words of the completion are explained."
        )
    longer, part = context(as_read(question.prompt), question.completion, question.span)
    prompt = longer if isinstance(longer, str) else tuple((m["role"], m["content"]) for m in longer)
    return replace(question, prompt=prompt, completion=part, span=None, before=False)


def as_read(prompt: str | tuple[tuple[str, str], ...]) -> str | list[dict[str, str]]:
    """A question's prompt as tokenizers want it.

    Returns:
        Text, or a chat's messages.
    """
    if isinstance(prompt, str):
        return prompt
    return [{"role": role, "content": content} for role, content in prompt]


def _target(
    question: Question,
    passages: Sequence[Passage],
    texts: Sequence[str],
    counted: Sequence[tuple[str, ...]],
) -> Target:
    if counted:
        groups = tuple(tuple(texts.index(text) for text in group) for group in counted)
        return Target(kind="meaning", groups=groups, shares=question.shares)
    kind = "likelihood" if question.contrast is None else "contrast"
    return Target(kind=kind, tokens=_tokens_of_span(passages[0], question.span))


def _tokens_of_span(passage: Passage, span: tuple[int, int] | None) -> tuple[int, int] | None:
    """The completion's tokens that end within the span's characters."""
    if span is None:
        return None
    last_T = passage.spans_L2[passage.first :, 1] - 1 - passage.begin
    inside = np.flatnonzero((last_T >= span[0]) & (last_T < span[1]))
    if not len(inside):
        raise InputError(
            f"inputs: no token of the completion ends within its characters {span[0]} to {span[1]}, "
            "expected at least one. Choose whole words."
        )
    return int(inside[0]), int(inside[-1]) + 1


def masks(prepared: Prepared, method: MaskMethod, how: How) -> np.ndarray:
    """The rows that a method and its judgement need.

    Args:
        prepared: The question.
        method: Perturbation or surrogate.
        how: Rows and seed.

    Returns:
        ``[M, U]``, bool: which units stand; the first row keeps all.
    """
    design_MU = method.design(len(prepared.units), _rows(prepared, how), how.seed)
    return together(design_MU, heldout_masks(len(prepared.units), how))


def heldout_masks(units: int, how: How) -> np.ndarray:
    """Random masks on which any method is judged, and the two that keep all and none.

    Args:
        units: How many.
        how: How many masks, and the seed.

    Returns:
        ``[H + 2, U]``, bool; fewer where there are not as many. Where none are wanted, only the mask
        that keeps all.
    """
    ends_2U = np.stack([np.ones(units, bool), np.zeros(units, bool)])
    if not how.heldout:
        return ends_2U[:1]
    return together(ends_2U, paired_random(units, how.heldout + 1, how.seed + HELDOUT_SEED))


def wanted_curves(scores_U: np.ndarray, how: How) -> np.ndarray | None:
    """Masks that make the deletion and insertion curves of some scores exact.

    Args:
        scores_U: What a method says.
        how: Whether they are wanted.

    Returns:
        ``[M, U]``, bool; None: not wanted.
    """
    return curve_masks(scores_U, RANDOM_RANKINGS, how.seed) if how.curves else None


def together(*masks_MU: np.ndarray) -> np.ndarray:
    """Masks of several designs, each once, in the order in which they come first.

    Args:
        *masks_MU: Of the same units.

    Returns:
        ``[M, U]``, bool.
    """
    joined_MU = np.concatenate(masks_MU)
    _, first = np.unique(joined_MU, axis=0, return_index=True)
    return joined_MU[np.sort(first)]


def explain_masks(prepared: Prepared, method: MaskMethod, table: Table, how: How) -> Explanation:
    """Solve a method's equations on the evaluated table, and judge it on held-out rows.

    Args:
        prepared: The question.
        method: Perturbation or surrogate.
        table: Holds at least ``masks(prepared, method, how)``.
        how: The same as there.

    Returns:
        Scores in nats; ``forward_rows`` counts the method's own rows, evaluated now or before.
    """
    design_MU = method.design(len(prepared.units), _rows(prepared, how), how.seed)
    own = selected(table, design_MU)
    solution = method.solve(design_MU, values_of(prepared.target, own), how.seed)
    judged = _judge(prepared, solution.scores_U, table, how, design_MU)
    return _explanation(prepared, method, solution, (len(design_MU), 0), judged)


def attribute(
    loaded: LanguageModel, prepared: Prepared, method: TokenMethod, seed: int = 0
) -> tuple[TokenScores, Passes]:
    """Run a gradient or attention method.

    Args:
        loaded: The model.
        prepared: The question.
        method: Which.
        seed: Of the method's noise.

    Returns:
        Scores of the prompt's tokens, and what went through the model for them.
    """
    embedded = embed_target(loaded, prepared.passages, prepared.target)
    return method.attribute(embedded, seed), embedded.passes


def explain_tokens(
    prepared: Prepared,
    method: TokenMethod,
    found: TokenScores,
    passes: Passes,
    table: Table,
    how: How,
) -> Explanation:
    """Sum scores of tokens over units, and judge them on held-out rows.

    Args:
        prepared: The question.
        method: Gradient or attention.
        found: What it says of the prompt's tokens.
        passes: What went through the model for it.
        table: Holds at least ``heldout_masks``.
        how: Its seed.

    Returns:
        Scores in the method's unit.
    """
    solution = solve_tokens(found, prepared.owner_L, len(prepared.units))
    rows = (passes.forward_rows, passes.backward_rows)
    judged = _judge(prepared, solution.scores_U, table, how)
    return _explanation(prepared, method, solution, rows, judged)


def explain(
    loaded: LanguageModel, question: Question, method: str = "occlusion", how: How | None = None
) -> Explanation:
    """Which parts of a prompt made the model say it?

    Args:
        loaded: The model.
        question: Prompt, completion, and how the prompt is cut.
        method: A name of ``METHODS``.
        how: Removal, rows and seed; None: the defaults.

    Returns:
        One score a unit; positive: the unit supports the completion.
    """
    prepared, how, (chosen,) = prepare(loaded, question), how or How(), choose(method)

    def evaluate(kept_MU: np.ndarray) -> Table:
        passages, units = prepared.passages, prepared.units
        return evaluate_masks(loaded, passages, units, how.operator, kept_MU, seed=how.seed)

    if isinstance(chosen, MaskMethod):
        table = evaluate(masks(prepared, chosen, how))
        solve = partial(explain_masks, prepared, chosen)
    else:
        assert isinstance(chosen, TokenMethod)
        table = evaluate(heldout_masks(len(prepared.units), how))
        solve = partial(
            explain_tokens, prepared, chosen, *attribute(loaded, prepared, chosen, how.seed)
        )
    found = solve(table, replace(how, curves=False))
    steps_MU = wanted_curves(found.solution.scores_U, how)
    return found if steps_MU is None else solve(extended(table, steps_MU, evaluate), how)


def _rows(prepared: Prepared, how: How) -> int:
    return how.rows or max(LEAST_ROWS, ROWS_A_UNIT * len(prepared.units))


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """What a table says of some scores."""

    faithfulness: Faithfulness
    value: float
    value_without: float | None


def _judge(
    prepared: Prepared,
    scores_U: np.ndarray,
    table: Table,
    how: How,
    design_MU: np.ndarray | None = None,
) -> _Judged:
    """Compare scores with masks outside their design."""
    units = len(prepared.units)
    judging_MU, steps_MU = heldout_masks(units, how), wanted_curves(scores_U, how)
    judged = selected(table, judging_MU if steps_MU is None else together(judging_MU, steps_MU))
    values_M = values_of(prepared.target, judged)
    nothing = rows_of(judged, np.zeros((1, units), bool))[0]
    heldout_M = _heldout(judged, judging_MU, design_MU)
    return _Judged(
        faithfulness=measure(
            judged.kept_MU, values_M, scores_U, heldout_M=heldout_M, seed=how.seed
        ),
        value=float(values_M[0]),
        value_without=float(values_M[nothing]) if nothing >= 0 else None,
    )


def _explanation(
    prepared: Prepared,
    method: Method,
    solution: Solution,
    rows: tuple[int, int],
    judged: _Judged,
) -> Explanation:
    return Explanation(
        method=method.name,
        unit=method.unit,
        sign=SIGN if method.signed else UNSIGNED,
        units=prepared.units,
        solution=solution,
        target=prepared.target,
        forward_rows=rows[0],
        backward_rows=rows[1],
        **vars(judged),
    )


def _heldout(judged: Table, judging_MU: np.ndarray, design_MU: np.ndarray | None) -> np.ndarray:
    """Random masks of a table that the method did not see, ``[M]`` bool."""
    random_M = np.arange(len(judged.kept_MU)) < len(judging_MU)
    if design_MU is None:
        return random_M
    random_M[rows_of(judged, design_MU[rows_of(judged, design_MU) >= 0])] = False
    return random_M
