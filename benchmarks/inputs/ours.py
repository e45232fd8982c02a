"""Our own methods, on the functions that `influence inputs` is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.inputs.setting import MASKS, Asked
from benchmarks.inputs.setting import load as load_asked
from influence.inputs.choice import METHODS
from influence.inputs.designs import leave_one_out, paired_random
from influence.inputs.evaluate import evaluate_masks
from influence.inputs.gradient.embedded import embed_target
from influence.inputs.gradient.integrated_gradients import integrate
from influence.inputs.passage import Passage, Unit, read_passages
from influence.inputs.removal import embedding_moments
from influence.inputs.targets import Target
from influence.models import LanguageModel, load_model


@dataclass(frozen=True, eq=False)
class State:
    loaded: LanguageModel
    passage: Passage
    asked: Asked
    folder: Path


def load(folder: Path) -> State:
    asked = load_asked(folder)[2]
    loaded = load_model(folder)
    (passage,) = read_passages(loaded, asked.prompt, [asked.completion])
    return State(loaded, passage, asked, folder)


def leave_one_out_by_token(state: State) -> dict[str, np.ndarray]:
    """One row for each token of the prompt and one for all of it."""
    spans_L2 = state.passage.spans_L2[: state.passage.first]
    units = [Unit(level="token", start=int(start), end=int(end)) for start, end in spans_L2]
    kept_MU = leave_one_out(len(units))
    table = evaluate_masks(state.loaded, [state.passage], units, "replace", kept_MU)
    (log_p_MT,) = table.log_probs
    without = {
        int(np.flatnonzero(~kept_U)[0]): m
        for m, kept_U in enumerate(kept_MU)
        if (~kept_U).sum() == 1
    }
    scores_PT = np.stack([log_p_MT[0] - log_p_MT[without[u]] for u in range(len(units))])
    return {"tokens_PT": scores_PT, "scores_P": scores_PT.sum(1), "value": log_p_MT[0].sum()}


def integrated_gradients(state: State) -> dict[str, np.ndarray]:
    """As many steps as captum and inseq take, reached by doubling from 8."""
    return _integrate(state, Target(), tolerance=0.0, most=state.asked.steps)


def integrated_gradients_of_first_token(state: State) -> dict[str, np.ndarray]:
    """The one token of which inseq integrates over the prompt alone."""
    return _integrate(state, Target(tokens=(0, 1)), tolerance=0.0, most=state.asked.steps)


def integrated_gradients_by_default(state: State) -> dict[str, np.ndarray]:
    """Steps are doubled until the completeness error is below 1 %."""
    return _integrate(state, Target())


def _integrate(state: State, target: Target, **steps: float) -> dict[str, np.ndarray]:
    embedded = embed_target(state.loaded, [state.passage], target)
    mean_D, _ = embedding_moments(state.loaded)
    found = integrate(embedded, embedded.baseline(mean_D), **steps)
    assert found.measures is not None
    return {
        "scores_P": found.scores_P,
        "value": np.array(found.value),
        "completeness_error": np.array(found.measures["completeness_error"]),
        "steps": np.array(found.measures["steps"]),
    }


def surrogate(state: State) -> dict[str, np.ndarray]:
    """64 masks of 20 parts, and a sparse linear model of them."""
    return _surrogate(state, paired_random(len(state.asked.parts), MASKS, 0))


def surrogate_of_their_masks(state: State) -> dict[str, np.ndarray]:
    """The same with the masks that ContextCite drew."""
    masks_MU = np.load(state.folder / "context_cite.npz")["masks_MU"]
    return _surrogate(
        state, np.vstack([np.ones_like(masks_MU[:1]), np.zeros_like(masks_MU[:1]), masks_MU])
    )


def _surrogate(state: State, kept_MU: np.ndarray) -> dict[str, np.ndarray]:
    units = [Unit(level="phrase", start=start, end=end) for start, end in state.asked.parts]
    table = evaluate_masks(state.loaded, [state.passage], units, "delete", kept_MU)
    (log_p_MT,) = table.log_probs
    solved = METHODS["sparse"].solve(kept_MU, log_p_MT.sum(1), 0)
    return {"log_p_MT": log_p_MT, "scores_P": solved.scores_U}


RUNS = {
    "leave-one-out": leave_one_out_by_token,
    "integrated gradients": integrated_gradients,
    "integrated gradients, steps by need": integrated_gradients_by_default,
    "integrated gradients, first token only": integrated_gradients_of_first_token,
    "surrogate": surrogate,
    "surrogate of their masks": surrogate_of_their_masks,
}
