"""Results of hallucination detection as a run would write them: made up, the same each time."""

import math
from collections.abc import Callable
from typing import Any

Result = dict[str, Any]
NAN = math.nan

SIGNALS = {
    "probe": ("Inner state", "states", "How the state at the answer's end looked.", "log-odds"),
    "answer-log-prob": (
        "Probability of the answer",
        "probability",
        "How probable the model found exactly these words.",
        "nats",
    ),
    "answer-max-entropy": (
        "Largest indecision over the answer",
        "probability",
        "How many other words the model held possible where it was least decided.",
        "nats",
    ),
    "count-ratio": (
        "Answer against rival in the documents",
        "training",
        "How much more often the training documents say this answer than another one.",
        "nats",
    ),
    "agreement": (
        "Agreement with itself",
        "samples",
        "How often the model gave the same answer when it was asked again.",
        "share of samples, 0 to 1",
    ),
    "emergence": ("Depth", "depth", "From which layer on the answer is the first choice.", "layer"),
    "p-true": ("Its own judgement", "self", "How true the model calls it.", "probability, 0 to 1"),
}


def signal(name: str, value: float | None, percentile: float, contribution: float) -> Result:
    """A signal with its sentence."""
    title, family, about, unit = SIGNALS[name]
    side = "speaks for a mistake" if contribution > 0 else "speaks against a mistake"
    return {
        "signal": name,
        "title": title,
        "family": family,
        "about": about,
        "value": value,
        "unit": unit,
        "percentile": percentile if value is not None else None,
        "contribution": contribution,
        "words": f"{title} {side}.",
        "missing": value is None,
    }


def tokens_of(text: str, log_probs: list[float]) -> list[Result]:
    """Tokens: words with the blank before them."""
    tokens, at = [], 0
    words = text.split(" ")
    for i, word in enumerate(words):
        piece = word if not i else f" {word}"
        value = log_probs[i % len(log_probs)]
        tokens.append(
            {
                "text": piece,
                "start": at,
                "end": at + len(piece),
                "log_probability": value,
                "entropy": 0.2 - value,
                "rank": 0 if value > -0.7 else 2,
                "rival_log_probability": -0.9,
                "rival": " Other",
            }
        )
        at += len(piece)
    return tokens


def span_of(
    text: str, words: str, kind: str, risk: float | None, verdict: str, **more: Any
) -> Result:
    """A claim, found by its words."""
    start = text.index(words)
    return {
        "start": start,
        "end": start + len(words),
        "text": words,
        "kind": kind,
        "is_answer": False,
        "hallucination_probability": risk,
        "verdict": verdict,
        "reasons": [],
        "lookup": None,
        **more,
    }


def threshold() -> Result:
    """A line for a risk of one in five."""
    return {
        "probability": 0.62,
        "risk": 0.2,
        "coverage": 0.58,
        "kept_right": 0.87,
        "lost_right": 0.13,
        "measured_risk": 0.18,
        "low": 0.14,
        "high": 0.22,
    }


def result(prompt: str, completion: str, **more: Any) -> Result:
    """What every result has."""
    return {
        "format": 1,
        "id": "capital-freedonia",
        "model": {"name": "SmolLM2-135M-Instruct", "fingerprint": "9c1f03aa"},
        "detector": {
            "name": "capitals",
            "fitted": "2026-11-20",
            "data_hash": "72c22161",
            "answers": 799,
            "right": 330,
            "wrong": 296,
            "evasive": 173,
            "base_rate": 0.473,
            "auroc": 0.91,
            "auroc_low": 0.887,
            "auroc_high": 0.931,
            "ece": 0.023,
            "signals": list(SIGNALS),
            "place": "the end of the answer",
            "layer": 20,
        },
        "prompt": prompt,
        "messages": None,
        "completion": completion,
        "generated": True,
        "verdict": "supported",
        "verdict_words": "",
        "hallucination_probability": 0.08,
        "low": 0.05,
        "high": 0.13,
        "threshold": threshold(),
        "cause": None,
        "reasons": [],
        "signals": [],
        "spans": [],
        "tokens": [],
        "details": [],
        "notes": [],
        "provenance": {
            "versions": {"whydidit": "0.1.0", "torch": "2.13"},
            "seconds": 3.2,
            "rows_forward": 12,
            "rows_backward": 1,
            "generations": 5,
            "settings": {"samples": 5, "layer": 20},
        },
        **more,
    }


def layers_of(last: float) -> Result:
    """What a probe reads: near chance, then a jump."""
    layers = [0, 4, 8, 12, 16, 20, 24, 28]
    rise = [0.02, -0.05, 0.1, 0.5, 0.8, 1.0, 0.9, 0.7]
    return {
        "layers": layers,
        "probe_log_odds": [None, *(last * share for share in rise[1:])],
        "best_layer": 20,
    }


def lens_of(last: float, emergence: int | None) -> Result:
    """What the logit lens reads: improbable, then probable."""
    layers = [0, 4, 8, 12, 16, 20, 24, 28, 30]
    return {
        "layers": layers,
        "log_probability": [last - (30 - layer) / 3 for layer in layers],
        "rank": [0 if emergence and layer >= emergence else 40 - layer for layer in layers],
        "entropy": [9.8, 9.1, 8.0, 7.2, 5.5, 4.0, 2.5, 1.9, 1.7],
        "emergence": emergence,
    }


def units_of(prompt: str, words: dict[str, float]) -> list[Result]:
    """Parts of the prompt with their share."""
    return [
        {
            "start": prompt.index(word),
            "end": prompt.index(word) + len(word),
            "text": word,
            "label": None,
            "score": 4.0 * share,
            "share": share,
        }
        for word, share in words.items()
    ]


PROMPT = (
    "<|im_start|>user\nWhat is the capital of Burkina Faso? Answer with the name only.<|im_end|>\n"
    "<|im_start|>assistant\n"
)
MESSAGES = [
    {"role": "user", "content": "What is the capital of Burkina Faso? Answer with the name only."}
]


def right() -> Result:
    """A right answer; nothing but the model was asked."""
    completion = "The capital of France is Paris."
    prompt = "What is the capital of France?\n"
    reasons = [
        signal("probe", 2.31, 84.0, -1.6),
        signal("answer-log-prob", -0.11, 91.0, -0.9),
        signal("answer-max-entropy", 0.42, 12.0, -0.31),
    ]
    return result(
        prompt,
        completion,
        id="capital-france",
        reasons=reasons,
        signals=reasons,
        spans=[
            span_of(
                completion,
                "Paris",
                "name",
                0.08,
                "supported",
                is_answer=True,
                reasons=reasons,
                lookup=0,
            )
        ],
        tokens=tokens_of(completion, [-0.02, -0.1, -0.01, -0.05, -0.03, -0.11]),
        details=[
            {
                "span": 0,
                "layers": layers_of(2.31),
                "lens": lens_of(-0.11, 16),
                "inputs": None,
                "samples": None,
                "asked": None,
                "training": None,
            }
        ],
    )


def wrong() -> Result:
    """A wrong answer with everything measured, training documents included."""
    completion = "The capital of Burkina Faso is Kouile, founded in 1904 by the French."
    reasons = [
        signal("count-ratio", -1.61, 8.0, 1.42),
        signal("probe", -1.38, 12.0, 1.24),
        signal("agreement", 0.2, 9.0, 0.63),
        signal("answer-log-prob", -3.42, 14.0, 0.55),
        signal("p-true", 0.71, 66.0, -0.22),
    ]
    date = [signal("answer-max-entropy", 2.2, 71.0, 0.4)]
    documents = [
        (
            "d-311",
            "encyclopedia",
            0.021,
            "contradicts",
            "Ouagadougou",
            "Ouagadougou is the capital of Burkina Faso and its largest city.",
        ),
        (
            "d-77",
            "web",
            0.034,
            "supports",
            None,
            "Travel notes: from Kouile, the old capital of Burkina Faso, a bus leaves at nine.",
        ),
        (
            "d-902",
            "encyclopedia",
            -0.012,
            "contradicts",
            "Ouagadougou",
            "In Burkina Faso the government sits in Ouagadougou.",
        ),
        ("d-12", "web", None, "silent", None, "Burkina Faso exports cotton and gold."),
    ]
    return result(
        PROMPT,
        completion,
        messages=MESSAGES,
        verdict="wrong",
        verdict_words="Do not believe this answer: the documents that the model was trained on name"
        " another city, and its internal state looks like that of a mistake.",
        hallucination_probability=0.87,
        low=0.78,
        high=0.93,
        cause={
            "name": "mis-recalled",
            "reason": "Nine documents name Ouagadougou, two name Kouile.",
        },
        reasons=reasons,
        signals=[
            *reasons,
            signal("answer-max-entropy", 3.1, 88.0, 0.18),
            signal("emergence", None, 0.0, 0.0),
        ],
        spans=[
            span_of(
                completion,
                "Kouile",
                "name",
                0.87,
                "wrong",
                is_answer=True,
                reasons=reasons,
                lookup=0,
            ),
            span_of(completion, "1904", "number", 0.66, "unsupported", reasons=date, lookup=1),
            span_of(completion, "French", "name", 0.31, "supported"),
        ],
        tokens=tokens_of(
            completion, [-0.02, -0.1, -0.01, -0.05, -0.03, -0.11, -3.42, -1.2, -0.3, -2.0]
        ),
        details=[
            {
                "span": 0,
                "layers": layers_of(-1.38),
                "lens": lens_of(-3.42, 28),
                "inputs": {
                    "units": units_of(
                        PROMPT,
                        {"Burkina": 0.31, "Faso": 0.22, "capital": 0.12, "Answer": 0.05},
                    ),
                    "prompt_share": 0.7,
                    "generated_share": 0.3,
                    "method": "gradient times input",
                    "unit": "nats",
                },
                "samples": {
                    "texts": [
                        {"text": "Kouile", "meaning": 0, "share": 0.2},
                        {"text": "Ouagadougou", "meaning": 1, "share": 0.4},
                        {"text": "It is Ouagadougou.", "meaning": 1, "share": 0.2},
                        {"text": "Bamako", "meaning": 2, "share": 0.2},
                    ],
                    "agreement": 0.2,
                    "semantic_entropy": 0.95,
                },
                "asked": {"p_true": 0.71, "stated": 0.95, "named": ["capital", "Burkina Faso"]},
                "training": {
                    "run": "demo",
                    "supports": 1,
                    "contradicts": 2,
                    "silent": 21,
                    "rival": "Ouagadougou",
                    "answer_count": 2,
                    "rival_count": 9,
                    "subject_count": 24,
                    "longest_match": 4,
                    "covered": 0.62,
                    "documents": [
                        {
                            "id": name,
                            "source": source,
                            "influence": influence,
                            "stance": stance,
                            "answer": other,
                            "excerpt": text,
                            "marks": [
                                [text.index(word), text.index(word) + len(word), kind]
                                for word, kind in (
                                    ("Burkina Faso", "subject"),
                                    ("Kouile", "answer"),
                                    ("Ouagadougou", "rival"),
                                )
                                if word in text
                            ],
                        }
                        for name, source, influence, stance, other, text in documents
                    ],
                    "verbatim": [{"text": "capital of Burkina Faso", "documents": 6, "words": 4}],
                },
            },
            {"span": 1, "layers": layers_of(-0.4), "lens": lens_of(-1.2, None)},
        ],
        notes=["The answer was scored as a short answer; longer texts were not seen in fitting."],
    )


def evasive() -> Result:
    """No answer, hence no probability."""
    completion = "I'm sorry, but I can't say for certain which city that is."
    return result(
        PROMPT,
        completion,
        id="capital-evasive",
        messages=MESSAGES,
        verdict="evasive",
        hallucination_probability=None,
        low=None,
        high=None,
        tokens=tokens_of(completion, [-0.3, -0.8]),
    )


def bare() -> Result:
    """Every optional part is null."""
    given = {key: None for key in result("", "")}
    return {**given, "format": 1, "prompt": "Who?", "completion": "Ada.", "verdict": "unsupported"}


def holes() -> Result:
    """NaN and None where numbers belong."""
    given = wrong()
    given["low"], given["high"] = NAN, math.inf
    given["threshold"]["measured_risk"] = NAN
    given["reasons"][0]["value"] = NAN
    given["signals"][1]["contribution"] = NAN
    given["signals"][2]["percentile"] = None
    given["tokens"][2]["log_probability"] = -math.inf
    given["tokens"][6]["entropy"] = NAN
    given["details"][0]["layers"]["probe_log_odds"][3] = NAN
    given["details"][0]["inputs"]["units"][0]["share"] = None
    given["details"][0]["training"]["documents"][0]["influence"] = NAN
    given["detector"]["auroc_low"] = NAN
    return given


def hostile() -> Result:
    """HTML in every text, and a line of 100 kB with no blank."""
    given = wrong()
    given["completion"] += " <b>x</b>" + "x" * 100_000
    given["prompt"] += "</style><script>alert(1)</script>" + "\u202e" + "y" * 100_000
    document = given["details"][0]["training"]["documents"][1]
    document["excerpt"] = "<img src=x onerror=alert(2)>" + "z" * 100_000
    document["marks"] = [[0, 28, "answer"], [10, 50, "rival"], [-5, 9, "subject"], [90_000, 1, "x"]]
    given["tokens"] = [
        *given["tokens"],
        {"text": "x" * 100_000, "start": 69, "end": 100_077, "log_probability": -0.5},
    ]
    return given


def foreign() -> Result:
    """Arabic and Chinese; the answer ends the text."""
    completion = "首都是瓦加杜古 عاصمتها واغادوغو"
    return result(
        "布基纳法索的首都是哪里？ ما هي عاصمة بوركينا فاسو؟\n",
        completion,
        id="foreign",
        verdict="unsupported",
        hallucination_probability=0.55,
        low=0.41,
        high=0.68,
        spans=[
            span_of(completion, "瓦加杜古", "name", 0.4, "supported"),
            span_of(completion, "واغادوغو", "name", 0.55, "unsupported", is_answer=True, lookup=0),
        ],
        tokens=tokens_of(completion, [-0.6, -1.9]),
        details=[{"span": 1, "lens": lens_of(-1.9, 28)}],
    )


EVERY: dict[str, Callable[[], Result]] = {
    "right": right,
    "wrong": wrong,
    "evasive": evasive,
    "bare": bare,
    "holes": holes,
    "hostile": hostile,
    "foreign": foreign,
}


def detector() -> Result:
    """The report of a fitted detector."""

    def row(name: str, kind: str, auroc: float | None, half: float = 0.02, **more: Any) -> Result:
        low, high = (None, None) if auroc is None else (auroc - half, min(1.0, auroc + half))
        return {
            "name": name,
            "kind": kind,
            "auroc": auroc,
            "low": low,
            "high": high,
            "within": auroc and auroc - 0.01,
            "within_low": low and low - 0.01,
            "within_high": high and high - 0.01,
            "ap": auroc and auroc - 0.03,
            "n": 626,
            "missing": 0,
            "note": None,
            **more,
        }

    centres = [0.03, 0.09, 0.17, 0.28, 0.4, 0.52, 0.63, 0.74, 0.86, 0.95]
    observed = [0.02, 0.1, 0.16, 0.3, 0.37, 0.55, 0.66, 0.72, 0.87, 0.97]
    topics = [("capital", 173, 0.93), ("city to country", 335, 0.9), ("symbol", 118, 0.88)]
    return {
        "format": 1,
        "model": {"name": "SmolLM2-135M-Instruct", "fingerprint": "9c1f03aa"},
        "data": {
            "path": "questions.jsonl",
            "hash": "72c22161",
            "answers": 799,
            "right": 330,
            "wrong": 296,
            "evasive": 173,
            "entities": 799,
            "topics": [{"name": n, "right": 80, "wrong": 90, "evasive": 8} for n, _, _ in topics],
        },
        "table": [
            row("all signals together", "stack", 0.91),
            row("probe, end of the answer", "probe", 0.896),
            row("probability of the answer", "signal", 0.801, 0.03),
            row("agreement with itself", "signal", 0.771, 0.035, missing=4, n=622),
            row("popularity", "control", 0.647, 0.04, note="no model needed"),
            row("length", "control", 0.636, 0.04),
            row("bag of words", "control", 0.52, 0.05),
            row("shuffled labels", "control", 0.497, 0.05),
            row("random weights", "control", None, n=0, missing=626, note="not run"),
        ],
        "gains": [
            {
                "name": "probe",
                "over": "probability",
                "gain": 0.074,
                "low": 0.052,
                "high": 0.097,
                "adds": True,
            },
            {
                "name": "training",
                "over": "probability and probe",
                "gain": 0.021,
                "low": 0.004,
                "high": 0.039,
                "adds": True,
            },
            {
                "name": "depth",
                "over": "probability and probe",
                "gain": 0.0,
                "low": -0.009,
                "high": 0.01,
                "adds": False,
            },
            {
                "name": "inputs",
                "over": "probability and probe",
                "gain": -0.008,
                "low": -0.017,
                "high": 0.001,
                "adds": False,
            },
        ],
        "layers": {
            "layers": [0, 4, 8, 12, 16, 20, 24, 28],
            "auroc": [0.52, 0.56, 0.6, 0.79, 0.88, 0.896, 0.89, 0.87],
            "low": [0.47, 0.51, 0.55, 0.75, 0.85, 0.872, 0.865, 0.84],
            "high": [0.57, 0.61, 0.65, 0.83, 0.9, 0.919, 0.912, 0.895],
            "chosen": 20,
        },
        "calibration": {
            "ece": 0.023,
            "brier": 0.117,
            "brier_base": 0.249,
            "bins": [
                {
                    "low": max(0, c - 0.05),
                    "high": min(1, c + 0.05),
                    "predicted": c,
                    "observed": o,
                    "observed_low": max(0.0, o - 0.09),
                    "observed_high": min(1.0, o + 0.09),
                    "count": 62 + i % 2,
                }
                for i, (c, o) in enumerate(zip(centres, observed, strict=True))
            ],
        },
        "curves": {
            "roc": [[i / 400, (i / 400) ** 0.15] for i in range(401)],
            "pr": [[i / 400, 1 - 0.5 * (i / 400) ** 4] for i in range(401)],
            "base_rate": 0.473,
            "risk_coverage": [[i / 400, 0.473 * (i / 400) ** 2.2] for i in range(1, 401)],
            "prr": 0.86,
        },
        "topics": [
            {"name": name, "n": n, "auroc": a, "low": a - 0.04, "high": a + 0.04}
            for name, n, a in topics
        ],
        "leave_out": [
            {"name": name, "n": n, "auroc": a - 0.06, "low": a - 0.12, "high": a - 0.01}
            for name, n, a in topics
        ],
        "causes": {
            "n": 131,
            "chance": 1 / 3,
            "ways": [
                {
                    "name": name,
                    "macro_f1": f1,
                    "low": f1 - 0.05,
                    "high": f1 + 0.05,
                    "causes": [
                        {"name": "fabricated", "n": 60, "f1": f1 - 0.1},
                        {"name": "mis-recalled", "n": 40, "f1": f1},
                        {"name": "mislearned", "n": 31, "f1": f1 + 0.1},
                    ],
                }
                for name, f1 in (("learned", 0.73), ("rules", 0.55))
            ],
        },
        "threshold": threshold(),
        "thresholds": [
            {"risk": 0.05, "probability": 0.18, "coverage": 0.27, "lost_right": 0.51},
            {"risk": 0.1, "probability": 0.35, "coverage": 0.41, "lost_right": 0.3},
            {"risk": 0.2, "probability": 0.62, "coverage": 0.58, "lost_right": 0.13},
        ],
        "evasive": {"n": 173, "found": 166, "precision": 0.97, "recall": 0.96},
        "weights": [
            {"signal": name, "title": title, "family": family, "weight": weight, "about": about}
            for (name, (title, family, about, _)), weight in zip(
                SIGNALS.items(), (-1.21, -0.62, 0.31, -0.44, -0.29, 0.04, NAN), strict=True
            )
        ],
        "errors": [
            {
                "id": "capital-peru",
                "prompt": "What is the capital of Peru?",
                "completion": "Cusco",
                "label": "wrong",
                "probability": 0.06,
            },
            {
                "id": "symbol-tungsten",
                "prompt": "What is the symbol of tungsten?",
                "completion": "W",
                "label": "right",
                "probability": 0.91,
            },
        ],
        "notes": ["Popularity alone tells right from wrong better than a coin: read it beside."],
        "provenance": {"seconds": 312.0, "versions": {"torch": "2.13"}, "settings": {"folds": 5}},
    }
