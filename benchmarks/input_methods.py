"""How often each method gives the deciding word the largest score; prints a Markdown table.

    python benchmarks/input_methods.py [--prompts 100] [--rows 64]

Prompts are 12 words, of which one decides the answer: in a GPT-2 with weights set by hand, and in a
Llama and a GPT-2 trained here for 400 steps (`tests/influence/trigger_models.py`). Where a score has
a sign, the number in brackets ranks by its size alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from influence.inputs.choice import METHODS
from influence.inputs.explain import How
from tests.influence.trigger_models import (
    accuracy,
    explanation_of_words,
    planted_gpt2,
    questions,
    trained,
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--rows", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {"planted GPT-2": planted_gpt2()}
    for family, name in (("llama", "trained Llama"), ("gpt2", "trained GPT-2")):
        start = time.process_time()
        models[name] = trained(family)
        print(f"{name}: {time.process_time() - start:.1f} CPU-s", file=sys.stderr)
    asked, how = questions(args.prompts), How(heldout=0, rows=args.rows)
    print(f"| method | {' | '.join(models)} | CPU-ms a prompt |")
    print("|---|" + "---|" * (len(models) + 1))
    right = [f"{accuracy(model, asked):.2f}" for model in models.values()]
    print(f"| *answers that are right* | {' | '.join(right)} | |")
    for name, method in METHODS.items():
        start = time.process_time()
        cells = [hits(model, asked, name, how, method.signed) for model in models.values()]
        spent = (time.process_time() - start) / (len(models) * len(asked))
        print(f"| {name} | {' | '.join(cells)} | {1000 * spent:.0f} |", flush=True)


def hits(model: Any, asked: list[Any], method: str, how: How, signed: bool) -> str:
    found = [explanation_of_words(model, question, method, how) for question in asked]
    scores = [explanation.solution.scores_U for explanation in found]
    by_score = np.mean([s.argmax() == q.trigger for s, q in zip(scores, asked, strict=True)])
    by_size = np.mean([np.abs(s).argmax() == q.trigger for s, q in zip(scores, asked, strict=True)])
    return f"{by_score:.2f}" + f" ({by_size:.2f})" * signed


if __name__ == "__main__":
    main()
