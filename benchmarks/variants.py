"""Does a detector that was fitted to plain statements understand them, or their wording?

    python benchmarks/variants.py MODEL STATEMENTS.jsonl VARIANTS.jsonl RUNS > results/variants.md

How the sets are made: `influence hallucination bed MODEL --set statements --start START --out F`, then
the same with `--set variants`. For each topic a detector is fitted to the plain statements about the
entities of three folds and judged on all statements about the entities of the other two. AUROC is of
wrong against right statements, with 95 % intervals by entity.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from influence.evaluation import bootstrap, discrimination
from influence.hallucination.choice import choose_signals
from pipelines.cluster import Workers
from pipelines.detector_files import load_detector
from pipelines.detector_fit import FitOptions, fit
from pipelines.evidence import Collected, find_evidence, places_of
from pipelines.input_models import FoundModel, find_model
from pipelines.labelled_answers import Answer, read_labelled

SIGNALS = (
    "answer-log-prob,answer-mean-log-prob,answer-first-log-prob,answer-margin,answer-entropy,"
    "answer-max-entropy,mean-log-prob,min-log-prob,names-gain,probe"
)
ALONE = ("answer-log-prob", "mean-log-prob", "names-gain")
JUDGED_FOLDS = (3, 4)


def main() -> None:
    model_name, *files, runs = sys.argv[1:]
    model = find_model(model_name, Path(runs))
    answers, kinds = [], []
    for file in files:
        answers += read_labelled(file)
        lines = Path(file).read_text("utf-8").split("\n")
        kinds += [json.loads(line)["variant"] for line in lines if line.strip()]
    with Workers(0, None, Console(stderr=True)) as workers:
        print("# Statements in other words\n")
        print((__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip() + "\n")
        for topic in sorted({str(one.topic) for one in answers}):
            own = [n for n, one in enumerate(answers) if one.topic == topic]
            rows = _of_topic(
                model, [answers[n] for n in own], [kinds[n] for n in own], topic, workers
            )
            print("\n".join(rows) + "\n", flush=True)


def _of_topic(
    model: FoundModel, answers: list[Answer], kinds: list[str], topic: str, workers: Workers
) -> list[str]:
    train = [
        one
        for one, kind in zip(answers, kinds, strict=True)
        if kind == "plain" and one.fold not in JUDGED_FOLDS
    ]
    options = FitOptions(name=f"plain-{topic}", signals=SIGNALS)
    fit(model, train, options, workers)
    saved = load_detector(options.name, model.root, model.spec.fingerprint)
    judged = [n for n, one in enumerate(answers) if one.fold in JUDGED_FOLDS]
    answers, kinds = [answers[n] for n in judged], [kinds[n] for n in judged]
    signals = choose_signals(list(saved.detector.signals))
    wanted = Collected(signals=signals, places=places_of(options.place))
    found = find_evidence(model.spec, answers, wanted, model.root, workers, None, only_answers=True)
    alone_NS = found.values(choose_signals(",".join(ALONE)))
    scores = {name: -alone_NS[:, s] for s, name in enumerate(ALONE)}
    scores["detector"] = saved.detector.log_odds(found.values(signals, saved.probe))
    lines = [
        f"## {topic}\n",
        "| statements | right, wrong | " + " | ".join(scores) + " |",
        "|---" * (len(scores) + 2) + "|",
    ]
    for kind in dict.fromkeys(kinds):
        own_N = np.array([one == kind for one in kinds])
        wrong_N = np.array([one.label == "wrong" for one in answers])[own_N]
        entities = [str(one.entity) for one, own in zip(answers, own_N, strict=True) if own]
        areas = [
            bootstrap.measure(discrimination.auroc_of, values_N[own_N], wrong_N, entities)
            for values_N in scores.values()
        ]
        cells = [f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]" for area in areas]
        counts = f"{(~wrong_N).sum()}, {wrong_N.sum()}"
        lines.append(f"| {kind} | {counts} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
