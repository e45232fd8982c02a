"""Results of input attribution as a run would write them: made up, the same each time."""

import re
from typing import Any

import numpy as np

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(2)>'
BIDI = "user\u202e txt.exe\u202c and\u200bzero\u2066width\u2069"
ABOUT = {
    "occlusion": ("Occlusion", "Change of the target when a window of units is removed."),
    "leave-one-out": ("Leave one out", "Change of the target when one unit is removed."),
    "shapley": ("Shapley values", "Mean change when a unit joins a random set of others."),
    "lime": ("LIME", "Weights of a linear model fitted to random removals."),
    "tree": ("Decision tree", "Change that a tree fitted to random removals predicts."),
    "integrated-gradients": (
        "Integrated gradients",
        "Gradient times change of embedding along the way from the mean embedding.",
    ),
    "saliency": ("Saliency", "Length of the gradient at a unit's embeddings."),
    "rollout": ("Attention rollout", "Share of attention that reaches a unit over all layers."),
}
SAMPLED = {"shapley", "lime", "tree"}
UNSIGNED = {"saliency": "nats per unit of embedding", "rollout": "share of attention, from 0 to 1"}
GRADIENT = {"integrated-gradients", "saliency", "rollout"}
SIGN = "positive: supports the output; without it the output would be less likely"


def cut(text: str, pattern: str) -> list[tuple[int, int]]:
    """Return where a pattern matches."""
    return [match.span() for match in re.finditer(pattern, text)]


def explanation(
    method: str,
    prompt: str,
    spans: list[tuple[int, int]],
    scores: list[float],
    level: str = "word",
    labels: list[str | None] | None = None,
    trusted: bool = True,
) -> dict[str, Any]:
    """One method's scores of units, with intervals for the sampled ones."""
    title, about = ABOUT[method]
    order = sorted(range(len(spans)), key=lambda i: -abs(scores[i]))
    half = 0.1 * max(map(abs, scores)) if method in SAMPLED else None
    total = sum(scores)
    left = np.array([0.0, *np.cumsum([scores[i] for i in order])])
    share = np.linspace(0, 1, len(left))
    sampled = method not in GRADIENT
    return {
        "method": method,
        "title": title,
        "about": about,
        "unit": UNSIGNED.get(method, "nats"),
        "sign": SIGN if method not in UNSIGNED else "no sign: larger matters more",
        "signed": method not in UNSIGNED,
        "level": level,
        "operator": "delete" if sampled else None,
        "forward_rows": 64 if method in SAMPLED else len(spans) + 1,
        "backward_rows": 0 if sampled else 1,
        "units": [
            {
                "start": start,
                "end": end,
                "text": prompt[start:end],
                "label": labels[i] if labels else None,
                "score": scores[i],
                "low": None if half is None else scores[i] - half,
                "high": None if half is None else scores[i] + half,
                "rank": order.index(i) + 1,
            }
            for i, (start, end) in enumerate(spans)
        ],
        "measures": {
            "heldout_r2": (0.93 if trusted else 0.12) if method in SAMPLED else None,
            "lds": (0.95 if trusted else 0.31) if sampled else None,
            "completeness_error": 0.0004 if method in {"shapley", "integrated-gradients"} else None,
            "comprehensiveness": 0.8 * total if sampled else None,
            "sufficiency": 0.1 * total if sampled else None,
        },
        "curves": {
            "deletion": np.stack([share, -0.3 - left], 1).tolist(),
            "insertion": np.stack([share, -0.3 - total + left], 1).tolist(),
            "deletion_random": np.stack([share, -0.3 - total * share], 1).tolist(),
            "insertion_random": np.stack([share, -0.3 - total * (1 - share)], 1).tolist(),
        }
        if sampled
        else None,
        "notes": [],
        "trusted": trusted,
    }


def result(
    prompt: str, completion: str, explanations: list[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    """One result around its explanations."""
    words = cut(completion, r"\s*\S+")
    return {
        "format": 1,
        "model": {"name": "HuggingFaceTB/SmolLM2-135M", "fingerprint": "9f2c51d0"},
        "text": prompt + completion,
        "begin": len(prompt),
        "prompt": prompt,
        "completion": completion,
        "contrast": None,
        "target": {
            "kind": "likelihood",
            "words": f"log-probability of “{completion.strip()}”",
            "span": None,
            "meanings": [],
            "shares": None,
        },
        "value": -0.31,
        "value_without": -5.42,
        "tokens": [
            {"text": prompt, "start": 0, "end": len(prompt)},
            *(
                {
                    "text": completion[a:b],
                    "start": len(prompt) + a,
                    "end": len(prompt) + b,
                    "log_probability": -0.31 / len(words),
                }
                for a, b in words
            ),
        ],
        "explanations": explanations,
        "attention": None,
        "seconds": 0.84,
        "provenance": {"seed": 0, "rows": 64, "versions": {"torch": "2.15.0", "whydidit": "0.1.0"}},
        **more,
    }


def question() -> dict[str, Any]:
    """A short question by words, one method."""
    prompt = "Question: What is the capital of France?\nAnswer: The capital is"
    spans = cut(prompt, r"\w+")
    known = {"France": 4.31, "capital": 0.62, "What": -0.04, "Answer": -0.37}
    scores = [known.get(prompt[a:b], 0.01 * (i % 3)) for i, (a, b) in enumerate(spans)]
    return result(prompt, " Paris", [explanation("leave-one-out", prompt, spans, scores)])


SENTENCES = (
    "The bridge was finished in 1931 after six years of work.",
    "It crosses the river at its narrowest point, below the old customs house.",
    "The engineer in charge was Marta Lindqvist, who had built two smaller bridges before.",
    "Some accounts name her brother Erik instead.",
    "Toll was collected until 1964.",
    "Today about 30,000 cars cross it each day.",
    "In winter the deck is heated, so that no salt is needed.",
)


def context() -> dict[str, Any]:
    """A long context by sentence, a surrogate that can be trusted."""
    prompt = " ".join(SENTENCES) + "\n\nWho was the engineer in charge of the bridge?"
    spans = [(prompt.index(s), prompt.index(s) + len(s)) for s in SENTENCES]
    scores = [0.21, 0.02, 6.84, -1.12, 0.03, -0.05, 0.01]
    made = explanation("shapley", prompt, spans, scores, "sentence")
    given = result(prompt, " Marta Lindqvist, it is said", [made])
    given["target"]["span"] = [len(prompt) + 1, len(prompt) + 16]
    return given


def examples() -> dict[str, Any]:
    """A prompt with demonstrations, their shares, a surrogate that fails its check, attention."""
    shots = [
        ("the plot is thin", "negative"),
        ("a warm and funny film", "positive"),
        ("I left after ten minutes", "negative"),
        ("everyone should see it", "positive"),
    ]
    blocks = [f"Review: {text}\nLabel: {label}\n\n" for text, label in shots]
    prompt = "".join(blocks) + "Review: it made me laugh and cry\nLabel:"
    starts = [sum(map(len, blocks[:i])) for i in range(len(blocks))]
    spans = [(s, s + len(b) - 2) for s, b in zip(starts, blocks, strict=True)]
    names: list[str | None] = [f"example {i}" for i in range(1, 5)]
    scores = [-0.22, 1.31, -0.1, 0.94]
    made = explanation("lime", prompt, spans, scores, "example", names, trusted=False)
    given = result(prompt, " positive", [made])
    size = sum(abs(score) for score in scores)
    given["in_context"] = [
        {"label": n, "text": b, "score": s, "share": abs(s) / size}
        for n, b, s in zip(names, blocks, scores, strict=True)
    ]
    words = re.findall(r"\w+", prompt + " positive")
    given["attention"] = {
        "layers": 4,
        "heads": 6,
        "words": words,
        "matrices": "attention.arrow",
        "compared": {
            "before": "SmolLM2-135M",
            "after": "SmolLM2-135M fine-tuned",
            "unit": "bits of Jensen-Shannon divergence, 0 to 1",
            "heads": [
                {
                    "layer": 3,
                    "head": 1,
                    "change": 0.62,
                    "gained": [["funny", 0.31], ["positive", 0.12]],
                    "lost": [["Review", -0.4]],
                },
                {"layer": 1, "head": 4, "change": 0.31, "gained": [["cry", 0.2]], "lost": []},
            ],
        },
    }
    return given


def attention_of(given: dict[str, Any]) -> np.ndarray:
    """Causal attention for a result's words, layers and heads."""
    entry = given["attention"]
    shape = (entry["layers"], entry["heads"], len(entry["words"]), len(entry["words"]))
    rng = np.random.default_rng(0)
    logits = np.where(np.tri(shape[-1], dtype=bool), rng.normal(0, 2.5, shape), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def chinese() -> dict[str, Any]:
    """A Chinese question by words."""
    prompt = "法国的首都是巴黎。西班牙的首都是哪里?首都是"
    found = ["法国", "的", "首都", "是", "巴黎", "西班牙", "的", "首都", "是", "哪里", "首都", "是"]
    spans, at = [], 0
    for word in found:
        at = prompt.index(word, at)
        spans.append((at, at + len(word)))
        at += len(word)
    scores = [0.3, 0.0, 0.2, 0.1, -1.6, 5.2, 0.1, 0.7, 0.0, 0.4, 0.6, 0.2]
    return result(prompt, "马德里", [explanation("occlusion", prompt, spans, scores)])


def meaning() -> dict[str, Any]:
    """Several ways to say the answer count as one."""
    given = question()
    given["target"]["kind"] = "meaning"
    given["target"]["meanings"] = [[" Paris", " the city of Paris"], [" Lyon"]]
    return given


def contrast() -> dict[str, Any]:
    """A contrast by all methods."""
    prompt = "When Mary and John went to the store, John gave a drink to"
    spans = cut(prompt, r"\w+")
    base = [0.0, 2.4, 0.1, -0.9, 0.05, 0.1, 0.0, 0.2, 1.5, 0.3, 0.05, 0.1, 0.2]
    made = []
    for number, method in enumerate(ABOUT):
        rng = np.random.default_rng(number)
        scores = [float(s + rng.normal(0, 0.08)) for s in base]
        if method in UNSIGNED:
            scores = [abs(score) / 4 for score in scores]
        made.append(explanation(method, prompt, spans, scores, trusted=method != "tree"))
    given = result(prompt, " Mary", made, contrast=" John", value=3.25, value_without=-0.12)
    given["target"]["kind"] = "contrast"
    return given


def hostile() -> dict[str, Any]:
    """Text that wants to act, hide, and be very long: 100 kB, a unit a word, thousands of them."""
    nasty = f"{SCRIPT} {IMAGE} {BIDI} \x00 \x1b[31mred {{{{ 7*7 }}}} </style><style>*{{}}</style>"
    prompt = f"{nasty} " + "lorem ipsum dolor sit amet " * 3700 + f"{nasty} so say"
    spans = cut(prompt, r"\S+")
    rng = np.random.default_rng(0)
    scores = (rng.normal(0, 1, len(spans)) ** 5 / 1000).tolist()
    scores[3], scores[-2], scores[len(spans) // 2] = 2.0, -1.4, 1.1
    made = explanation("shapley", prompt, spans, scores)
    made["notes"] = [nasty]
    return result(prompt, f" {SCRIPT}{BIDI}", [made])


EVERY = {
    "question": question,
    "context": context,
    "examples": examples,
    "chinese": chinese,
    "contrast": contrast,
    "meaning": meaning,
    "hostile": hostile,
}
