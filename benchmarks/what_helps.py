"""What makes scores predict retraining better? The variants of docs/evaluation.md, in LDS.

    influence run benchmarks/evaluation.yaml
    influence evaluate evaluation lds
    python benchmarks/what_helps.py runs/evaluation [states weights damping labels uncovered ensemble]

Each line: LDS with its 95 % interval, and the gain over plain EK-FAC at the final state, paired by
query.  Everything but the variants' own scores is taken from the run's folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influence.documents.evaluation.bootstrap import difference
from influence.documents.evaluation.lds import lds
from influence.documents.gradients import logits_of, token_losses
from influence.documents.labels import sample_labels
from influence.documents.methods import METHODS
from influence.text import Batch, Chunk, collate, encode_query
from pipelines import Query, Run, Workers, build_run, open_run
from pipelines.corpus import document_ids
from pipelines.evaluation_queries import evaluation_queries
from pipelines.method_scores import StateSpec, plan_scores, score_gradients, state_specs
from pipelines.retraining import half_subsets, membership, retrained
from pipelines.tokens import batches, read_table
from pipelines.training import read_corpus
from pipelines.worker import language_model

HALVES, SEEDS, QUERIES = 40, 2, 50


@dataclass(frozen=True, eq=False)
class Bench:
    """A run with its ground truth."""

    run: Run
    workers: Workers

    @cached_property
    def queries(self) -> list[Query]:
        return evaluation_queries(self.run, QUERIES, 0)

    @cached_property
    def inside_SN(self) -> np.ndarray:
        return membership(self.halves, self.run.tokens.info()["documents"])

    @cached_property
    def halves(self) -> list[np.ndarray]:
        return half_subsets(self.run.tokens.info()["documents"], HALVES, 0)

    @cached_property
    def losses_SRQ(self) -> np.ndarray:
        label = "Training on halves"
        return retrained(self.run, self.halves, SEEDS, self.queries, self.workers, label).losses_SRQ

    @cached_property
    def states(self) -> list[StateSpec]:
        return self.states_of(self.run)

    def states_of(self, run: Run) -> list[StateSpec]:
        return list(state_specs(run, METHODS["ekfac-averaged"], self.workers))

    def scores(self, method: str, state: StateSpec, run: Run | None = None) -> np.ndarray:
        """Scores ``[Q, N]`` at one state."""
        specs = plan_scores(run or self.run, self.queries, method, (state,), 0)
        self.workers.map(score_gradients, [s for s in specs if not Path(s.out).exists()], None)
        tables = [read_table(Path(s.out)) for s in specs]
        return np.concatenate([np.stack([c.to_numpy() for c in t.columns]) for t in tables], axis=1)

    @cached_property
    def plain_Q(self) -> np.ndarray:
        scores_QN = self.scores("ekfac", self.states[-1])
        return lds(scores_QN, self.inside_SN, self.losses_SRQ, 0).per_query_Q

    def say(self, what: str, scores_QN: np.ndarray) -> None:
        found = lds(scores_QN, self.inside_SN, self.losses_SRQ, 0)
        own, gain = found.interval, difference(found.per_query_Q, self.plain_Q, 0)
        print(
            f"{what:48s} {own.mean:.3f} ({own.low:.3f} to {own.high:.3f})   "
            f"gain {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})",
            flush=True,
        )


# -- which states, which weights, which damping ------------------------------------------------------


def states(bench: Bench) -> None:
    found = {m: [bench.scores(m, s) for s in bench.states] for m in ("ekfac", "ekfac-cosine")}
    count = len(bench.states)
    for method, scores in found.items():
        for number, scores_QN in enumerate(scores):
            bench.say(f"{method}, state {number + 1} of {count}", scores_QN)
        bench.say(f"{method}, mean over all", sum(scores))
        rates = [s.learning_rates for s in bench.states]
        bench.say(
            f"{method}, weighted by learning rates",
            sum(r * s for r, s in zip(rates, scores, strict=True)),
        )
        for part in range(2, count):
            bench.say(f"{method}, mean over the first {part}", sum(scores[:part]))
            bench.say(f"{method}, mean over the last {part}", sum(scores[-part:]))


def weights(bench: Bench) -> None:
    heads = [bench.scores("ekfac-head", s) for s in bench.states]
    blocks = [bench.scores("ekfac", s) - h for s, h in zip(bench.states, heads, strict=True)]
    for factor in (0.0, 0.25, 0.5, 2.0, 4.0):
        bench.say(f"head x {factor}, final state", blocks[-1] + factor * heads[-1])
        bench.say(f"head x {factor}, mean over states", sum(blocks) + factor * sum(heads))
    bench.say("head alone, final state", heads[-1])
    bench.say("head alone, mean over states", sum(heads))


def damping(bench: Bench) -> None:
    for factor in (0.01, 1.0, 10.0):
        run = replace(bench.run, config=bench.run.config.model_copy(update={"damping": factor}))
        scores = [bench.scores("ekfac", s, run) for s in bench.states]
        bench.say(f"damping {factor}, final state", scores[-1])
        bench.say(f"damping {factor}, mean over states", sum(scores))


def labels(bench: Bench) -> None:
    """The mean of scores from curvatures with their own draws of labels."""
    total: Any = bench.scores("ekfac", bench.states[-1])
    for draw in (1, 2, 3):
        config = bench.run.config.model_copy(update={"label_seed": draw})
        run = replace(bench.run, config=config)
        [state] = state_specs(run, METHODS["ekfac"], bench.workers)
        total = total + bench.scores("ekfac", state)
        bench.say(f"{draw + 1} label draws, final state", total)


def ensemble(bench: Bench) -> None:
    """Other trainings on the same documents, each with scores of its own."""
    final: Any = bench.scores("ekfac", bench.states[-1])
    averaged: Any = sum(bench.scores("ekfac", s) for s in bench.states)
    cosine: Any = sum(bench.scores("ekfac-cosine", s) for s in bench.states)
    for seed in (1, 2):
        config = bench.run.config.model_copy(
            update={"train_seed": seed, "name": f"{bench.run.config.name}-{seed}"}
        )
        other = build_run(config, bench.run.root.parent, bench.workers)
        own = bench.states_of(other)
        final = final + bench.scores("ekfac", own[-1], other)
        averaged = averaged + sum(bench.scores("ekfac", s, other) for s in own)
        cosine = cosine + sum(bench.scores("ekfac-cosine", s, other) for s in own)
        bench.say(f"{seed + 1} trainings, final states", final)
        bench.say(f"{seed + 1} trainings, mean over states", averaged)
        bench.say(f"{seed + 1} trainings, mean cosine over states", cosine)


# -- embeddings and norms, which the pipeline leaves out ---------------------------------------------


def uncovered(bench: Bench) -> None:
    """EK-FAC for the embedding (its input factor is diagonal: which token), a diagonal for norms."""
    torch.set_num_threads(2)
    chunks = read_corpus(str(bench.run.tokens.path))
    ids = document_ids(bench.run.corpus)
    parts: dict[str, list[np.ndarray]] = {"embedding": [], "norms": []}
    for state in bench.states:
        for name, scores_QN in _uncovered_scores(bench, state, chunks, ids).items():
            parts[name].append(scores_QN)
    linear = [bench.scores("ekfac", s) for s in bench.states]
    for where, at in (("final state", slice(-1, None)), ("mean over states", slice(None))):
        rest = {name: sum(found[at]) for name, found in parts.items()}
        whole: Any = sum(linear[at])
        for name, scores_QN in rest.items():
            bench.say(f"{name} alone, {where}", scores_QN)
            bench.say(f"Linear layers and {name}, {where}", whole + scores_QN)
        bench.say(f"all parameters, {where}", whole + sum(rest.values()))


def _uncovered_scores(
    bench: Bench, state: StateSpec, chunks: Sequence[Chunk], ids: Sequence[str]
) -> dict[str, np.ndarray]:
    loaded = language_model(state.model)
    config = bench.run.config
    work = [w.batch for w in batches(chunks, loaded.pad_id, config.token_budget)]
    vocabulary, width = loaded.model.get_input_embeddings().weight.shape

    def per_document(
        made: Sequence[Batch], count: int, basis: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Gradients by document: the embedding's in the basis ``[N, V, D]``, the norms' ``[N, P]``."""
        table: Any = None
        norms: Any = None
        for batch in made:
            embedded_BTD, norms_BP = _backward(loaded.model, batch)
            if table is None:
                table = torch.zeros(count, vocabulary, width, dtype=torch.float32)
                norms = torch.zeros(count, norms_BP.shape[1], dtype=torch.float64)
            rotated = embedded_BTD if basis is None else embedded_BTD @ basis
            rows = batch.document[:, None].expand_as(batch.input_ids)
            where = (rows * vocabulary + batch.input_ids).reshape(-1)
            table.view(-1, width).index_add_(0, where, rotated.reshape(-1, width).float())
            norms.index_add_(0, batch.document, norms_BP.double())
        return table, norms

    drawn = [_with_labels(loaded.model, batch, ids, config.label_seed) for batch in work]
    covariance = sum(
        g.reshape(-1, width).double().T @ g.reshape(-1, width).double()
        for g in (_backward(loaded.model, batch)[0] for batch in drawn)
    )
    basis = torch.linalg.eigh(covariance).eigenvectors.float()
    sampled, sampled_norms = per_document(drawn, len(ids), basis)
    fisher_VD, fisher_P = sampled.square().mean(dim=0), sampled_norms.square().mean(dim=0)
    del sampled
    asked = []
    for number, query in enumerate(bench.queries):
        chunk = encode_query(loaded.tokenizer, query.prompt, query.completion, loaded.max_tokens)
        batch = collate([chunk], loaded.pad_id)
        asked.append(replace(batch, document=torch.full_like(batch.document, number)))
    query_QVD, query_QP = per_document(asked, len(asked), basis)
    document_NVD, document_NP = per_document(work, len(ids), basis)
    solved_QVD = query_QVD / (fisher_VD + config.damping * fisher_VD.mean())
    solved_QP = query_QP / (fisher_P + config.damping * fisher_P.mean())
    return {
        "embedding": (solved_QVD.flatten(1) @ document_NVD.flatten(1).T).double().numpy(),
        "norms": (solved_QP @ document_NP.T).numpy(),
    }


def _with_labels(model: nn.Module, batch: Batch, ids: Sequence[str], seed: int) -> Batch:
    drawn = sample_labels(model, batch, [ids[int(d)] for d in batch.document], seed)
    targets = batch.targets.clone()
    for row, own in enumerate(drawn):
        targets[row, targets[row] != -100] = torch.from_numpy(own).long()
    return replace(batch, targets=targets)


def _backward(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Gradients at the embedding's output ``[B, T, D]``, and of all norms' weights ``[B, P]``."""
    kept: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}

    def at_embedding(_m: nn.Module, _i: Any, output: Tensor) -> Tensor:
        kept["embedding"] = output.detach().requires_grad_(True)
        return kept["embedding"]

    def at_norm(name: str, module: Any, _i: Any, output: Tensor) -> None:
        before = output.detach() / module.weight

        def on_gradient(gradient: Tensor) -> None:
            found[name] = (gradient * before).sum(dim=1)

        output.register_hook(on_gradient)

    handles = [model.get_input_embeddings().register_forward_hook(at_embedding)]  # type: ignore[operator]
    for name, module in model.named_modules():
        if type(module).__name__.endswith("RMSNorm"):
            handles.append(module.register_forward_hook(partial(at_norm, name)))
    try:
        with torch.enable_grad():
            token_losses(logits_of(model, batch), batch.targets).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    gradient = kept["embedding"].grad
    assert gradient is not None
    return gradient, torch.cat([found[name] for name in sorted(found)], dim=1)


PARTS: dict[str, Callable[[Bench], None]] = {
    "states": states,
    "weights": weights,
    "damping": damping,
    "labels": labels,
    "uncovered": uncovered,
    "ensemble": ensemble,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    arguments = parser.parse_args()
    with Workers() as workers:
        bench = Bench(open_run(arguments.run), workers)
        for name in arguments.parts or PARTS:
            PARTS[name](bench)


if __name__ == "__main__":
    main()
