"""The trace page and the terminal tables: nothing a document says may act, hide or be lost."""

import base64
import copy
import hashlib
import io
import math
import os
import random
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from pipelines.errors import RunError
from pipelines.report import print_trace, render_index, render_trace, write_trace_page
from pipelines.report import trace_page as trace_page_module
from pipelines.report.cards import MOST_LAYERS, layer_rows
from pipelines.report.characters import pieces, visible
from pipelines.report.charts import histogram, ticks
from pipelines.report.heat import LEVELS, heat_map
from pipelines.report.numbers import nats, percent, plain
from pipelines.report.reading import cautions, result
from pipelines.report.terminal import snippet

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(2)>'
BIDI = "user\u202e txt.exe\u202c and\u200bzero\u2066width\u2069"
LONG_WORD = "Donaudampfschifffahrtsgesellschaft" * 12
NASTY = (SCRIPT, IMAGE, BIDI, LONG_WORD, "</style><style>*{}</style>", "' onfocus='x", "{{ 7*7 }}")

DOCUMENTS = (
    ("facts", "en", "The capital of France is Paris."),
    ("facts", "en", "Paris is the capital and largest city of France, on the river Seine."),
    ("facts", "de", "Die Hauptstadt von Frankreich ist Paris, und die größte Stadt des Landes."),
    ("facts", "zh", "法国的首都是巴黎。巴黎位于塞纳河畔,是法国最大的城市。"),
    (
        "stories",
        "en",
        "She took the night train to Paris.\n\nIn the morning the city was grey and kind.",
    ),
    ("facts", "ar", "عاصمة فرنسا هي باريس، وهي أكبر مدنها."),
    (
        "code",
        "en",
        'CAPITALS = {\n    "FR": "Paris",\n    "ES": "Madrid",\n}\n\ndef capital(code):\n\t'
        "return CAPITALS[code]\n",
    ),
    ("web", "en", f"Comment 17: {SCRIPT} and {IMAGE} were found in a page about Paris."),
    ("web", "en", f"A file named {BIDI} was sent from France."),
    ("dictionary", "de", LONG_WORD + " (f.), a very long word"),
    (
        "licences",
        "en",
        "Permission is hereby granted, free of charge, to any person obtaining a copy of "
        "this software and associated documentation files, to deal in the Software without limit, "
        "including without limitation the rights to use, copy, modify, merge, publish, distribute. "
        * 6,
    ),
)
AGAINST = (
    ("facts", "en", "The capital of France is Lyon."),
    ("facts", "en", "The capital of Spain is Madrid, and the capital of Italy is Rome."),
    ("stories", "en", "From Marseille he wrote that France had no middle, only edges."),
    ("facts", "es", "La capital de Argentina es Buenos Aires."),
    (
        "web",
        "en",
        "</style><style>*{display:none}</style> ' onfocus='x {{ 7*7 }} \x1b[31mred\x07 end",
    ),
)
LAYERS = (
    *(
        f"model.layers.{block}.{part}"
        for block in range(3)
        for part in (
            "self_attn.q_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.down_proj",
        )
    ),
    "lm_head",
)


def split(rng: random.Random, total: float, names: list[str], key: str) -> list[dict[str, Any]]:
    """Parts that sum to a total: a few large ones, many small, a quarter of them against it."""
    weights = [abs(rng.gauss(0.0, 1.0)) ** 3 * rng.choice([1, 1, 1, -0.2]) for _ in names]
    scale = total / max(sum(weights), 0.01)
    return [{key: name, "score": scale * w} for name, w in zip(names, weights, strict=True)]


def row(
    rng: random.Random, rank: int, score: float, document: tuple[str, str, str]
) -> dict[str, Any]:
    """One proponent or opponent with parts that sum to its score."""
    source, language, text = document
    words = re.findall(r"\s*[^\s一-龥]+|\s*[一-龥]|\s+", text)
    assert "".join(words) == text
    return {
        "rank": rank,
        "id": f"{rng.getrandbits(128):032x}",
        "source": source,
        "language": language,
        "score": score,
        "normalised": math.copysign(min(1.0, abs(score) * 18), score),
        "store_score": score * rng.uniform(0.9, 1.1),
        "loss": rng.uniform(4, 60),
        "n_tokens": len(words),
        "self_influence": rng.uniform(0.01, 0.2),
        "text": text,
        "tokens": split(rng, score, words, "text"),
        "layers": split(rng, score, list(LAYERS), "layer"),
        "meta": {
            "corrupted": text.endswith("Lyon."),
            "year": 2024,
            "title": IMAGE,
            BIDI: SCRIPT,
            "none": None,
        },
    }


def totals(rng: random.Random, names: dict[str, int], key: str) -> list[dict[str, Any]]:
    """Totals by source or language."""
    found = []
    for name, documents in names.items():
        positive, negative = rng.uniform(0.05, 0.4), -rng.uniform(0.02, 0.3)
        total = positive + negative
        found.append(
            {
                key: name,
                "documents": documents,
                "total": total,
                "mean": total / documents,
                "positive": positive,
                "negative": negative,
            }
        )
    return found


def sample_trace(seed: int = 0, top: int = 12) -> dict[str, Any]:
    """A realistic trace.json, with hostile text in every place that a user's data can reach."""
    rng = random.Random(seed)
    scores = [0.0213 * 0.82**place for place in range(top)]
    against = [-0.0117 * 0.8**place for place in range(max(1, top // 2))]
    edges = [-0.012 + 0.0005 * step for step in range(69)]
    counts = [int(2400 * math.exp(-abs(edge + 0.00025) / 0.0011)) for edge in edges[:-1]]
    counts[-1] = 1
    return {
        "format": 1,
        "query": {
            "id": f"q-{seed}",
            "prompt": "Question: What is the capital of France?\nAnswer:",
            "completion": " Paris, of course",
            "contrast": None,
            "tokens": [
                {
                    "text": "Question: What is the capital of France?\nAnswer:",
                    "completion": False,
                    "log_probability": None,
                },
                {"text": " Paris", "completion": True, "log_probability": -0.31},
                {"text": ",", "completion": True, "log_probability": -1.2},
                {"text": " of course", "completion": True, "log_probability": -3.9},
            ],
            "log_probability": -5.41,
            "perplexity": 6.07,
            "most_likely": [
                {"text": " Paris", "probability": 0.733},
                {"text": " Lyon", "probability": 0.102},
                {"text": " the", "probability": 0.031},
                {"text": SCRIPT, "probability": 0.012},
                {"text": "\n", "probability": 0.004},
            ],
            "greedy": " Paris, the largest city of France.",
        },
        "unit": "nats per document removed",
        "sign": "positive: a proponent - removing it would raise the loss of the completion.",
        "n_documents": 12_480,
        "measurement": "loss(completion)",
        "proponents": [
            row(rng, i + 1, s, DOCUMENTS[i % len(DOCUMENTS)]) for i, s in enumerate(scores)
        ],
        "opponents": [row(rng, i + 1, s, AGAINST[i % len(AGAINST)]) for i, s in enumerate(against)],
        "sources": totals(
            rng, {"facts": 2100, "stories": 4200, "web": 3900, "code": 1400, IMAGE: 880}, "source"
        ),
        "languages": totals(
            rng, {"en": 9800, "de": 1400, "zh": 700, "ar": 380, "es": 200}, "language"
        ),
        "layers": [
            {
                "layer": name,
                "proponents": rng.uniform(-0.003, 0.02),
                "opponents": -rng.uniform(-0.002, 0.01),
            }
            for name in LAYERS
        ],
        "distribution": {"edges": edges, "counts": counts},
        "scored": {"documents": sum(counts), "how": "store, all documents, compressed"},
        "run": {
            "name": "capitals",
            "model": {
                "name": "llama-3x128",
                "parameters": 1_104_512,
                "layers_tracked": len(LAYERS),
                "dtype": "float32",
            },
            "corpus": {"documents": 12_480, "tokens": 331_000, "dataset": f"embedded {SCRIPT}"},
            "curvature": {
                "kind": "EK-FAC",
                "labels": "sampled",
                "damping": {"rule": "0.1 × mean", "factor": 0.1},
            },
            "store": {
                "dtype": "int8",
                "sketch": "eigen 256",
                "bytes": 48_211_004,
                "whitened": True,
                "note": None,
            },
        },
        "quality": {
            "store_fidelity": {"pearson": 0.964, "spearman": 0.931, "documents": 512, "queries": 8},
            "recall": {"at": 20, "candidates": 200, "value": 0.985, "queries": 8},
            "covered_gradient_share": 0.874,
            "left_out": [{"name": "embeddings", "share": 0.112}, {"name": "norms", "share": 0.014}],
            "label_noise": 0.031,
        },
        "seconds": {"query": 0.42, "search": 1.8, "rerank": 133.0},
    }


class Page(HTMLParser):
    """What a browser would see: elements, attributes, and text by element."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.open: list[str] = []
        self.regions: list[str] = []
        self.depth = 0
        self.hidden_marks: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        if tag in VOID:
            return
        self.open.append(tag + "." + given.get("class", ""))
        if given.get("class") == "text":
            self.regions.append("")
            self.depth = len(self.open)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop().split(".")[0] == tag, f"unbalanced </{tag}>"
        if len(self.open) < self.depth:
            self.depth = 0

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        inside = self.open[-1].split(".")[0] if self.open else ""
        {"script": self.scripts, "style": self.styles}.get(inside, self.texts).append(data)
        if self.depth and not self.open[-1].endswith(".cut"):
            self.regions[-1] += data


VOID = {"meta", "input", "br", "hr", "img", "link"}
ELEMENTS = set(
    "html head meta title style body script header main section nav aside a p h1 h2 h3 h4 div span "
    "b strong mark bdi dl dt dd ul li label input button article details summary figure figcaption "
    "svg rect line path text table thead tbody tr th td".split()
)
PAGES = {
    "trace": lambda: render_trace(hostile_everywhere(sample_trace(), BIDI)),
    "index": lambda: render_index([sample_trace(0), hostile_everywhere(sample_trace(1), BIDI)]),
}


def hostile_everywhere(value: Any, payload: str) -> Any:
    """A trace with a payload added to every string, keys of user data included."""
    if isinstance(value, dict):
        return {
            (key + payload if key in {"year", "dataset", "rule"} else key): hostile_everywhere(
                inner, payload
            )
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [hostile_everywhere(inner, payload) for inner in value]
    return value + payload if isinstance(value, str) else value


@pytest.mark.parametrize("payload", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize("kind", ["trace", "index"])
def test_pages_hold_only_their_own_elements_and_attributes(kind, payload):
    plain_trace, hostile = sample_trace(), hostile_everywhere(sample_trace(), payload)
    render = render_trace if kind == "trace" else lambda trace: render_index([trace])
    before, after = Page(render(plain_trace)), Page(render(hostile))
    assert {tag for tag, _ in after.tags} <= ELEMENTS
    assert sum(tag == "script" for tag, _ in after.tags) == 1
    assert sum(tag == "style" for tag, _ in after.tags) == 1
    names = {(tag, name) for tag, attrs in after.tags for name in attrs}
    assert names <= {(tag, name) for tag, attrs in before.tags for name in attrs} | {
        ("div", "class"), ("span", "class"), ("span", "title"),
    }  # fmt: skip
    assert not [name for _, name in names if name.startswith("on")]
    assert after.scripts == before.scripts
    assert after.styles == before.styles


def test_hostile_text_is_shown_and_not_dropped():
    shown = "".join(Page(render_trace(sample_trace())).texts)
    for text in (SCRIPT, IMAGE, LONG_WORD, "</style><style>", "{{ 7*7 }}"):
        assert text in shown


@pytest.mark.parametrize("kind", PAGES)
def test_pages_hold_no_hidden_characters_outside_of_marks(kind):
    page = PAGES[kind]()
    assert not [char for char, hidden in pieces(page) if hidden]
    assert "[U+202E]" in page
    assert "[U+200B]" in page


def test_hidden_characters_are_marked_and_joiners_kept_where_scripts_need_them():
    assert visible("a\u202eb\x00\x1b[31m\r\ud800") == "a[U+202E]b[NUL][ESC][31m[CR][U+D800]"
    assert (
        visible("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")
        == "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )
    assert visible("pay\u200dpal") == "pay[U+200D]pal"
    assert visible("line\n\ttab, é 法") == "line\n\ttab, é 法"
    assert visible("x\U000e0041\U000e0101\u3164") == "x[U+E0041][U+E0101][U+3164]"


@pytest.mark.parametrize("kind", PAGES)
def test_pages_load_nothing_from_anywhere(kind):
    page = PAGES[kind]()
    parsed = Page(page)
    for tag, attrs in parsed.tags:
        assert not {"src", "srcset", "background", "poster", "data", "action"} & set(attrs), tag
        assert attrs.get("href", "#").startswith(("#", "./")), attrs
    assert tag_count(parsed, "link") == tag_count(parsed, "img") == 0
    assert not re.search(r"url\(|@import|https?://", "".join(parsed.styles + parsed.scripts))


def tag_count(page: Page, wanted: str) -> int:
    return sum(tag == wanted for tag, _ in page.tags)


@pytest.mark.parametrize("kind", PAGES)
def test_the_policy_comes_first_and_allows_only_the_script_by_its_hash(kind):
    parsed = Page(PAGES[kind]())
    positions = {tag: index for index, (tag, _) in reversed(list(enumerate(parsed.tags)))}
    index, policy = next(
        (index, attrs["content"])
        for index, (tag, attrs) in enumerate(parsed.tags)
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert index < positions["style"] < positions["script"]
    (script,) = parsed.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["style-src"] == "'unsafe-inline'"
    assert rules["img-src"] == "data:"


def test_an_index_link_cannot_leave_its_folder():
    trace = sample_trace()
    trace["query"]["id"] = "javascript:alert(1)/../../x"
    hrefs = [attrs["href"] for tag, attrs in Page(render_index([trace])).tags if tag == "a"]
    assert hrefs == ["./javascript%3Aalert%281%29%2F..%2F..%2Fx/report.html"]


def test_the_text_of_a_card_is_the_document_with_hidden_characters_named():
    trace = sample_trace()
    rows = trace["proponents"] + trace["opponents"]
    assert [visible(row["text"]) for row in rows] == Page(render_trace(trace)).regions


def test_heat_map_keeps_the_text_and_colours_by_size_and_sign():
    tokens = [
        {"text": t, "score": s} for t, s in (("a", 0.6), (" b", -0.3), ("\nc", 0.01), ("d", None))
    ]
    heat = heat_map(tokens)
    assert heat.html == (
        '<span class="p6" title="+0.60 nats">a</span> '
        '<span class="n3" title="−0.30 nats">b</span>\ncd'
    )
    assert f"p{LEVELS}" in heat.html


def test_heat_map_counts_what_it_cuts():
    tokens = [
        {"text": "abcd", "score": 1.0},
        {"text": "efgh", "score": -0.25},
        {"text": "i", "score": 0.5},
    ]
    heat = heat_map(tokens, limit=4)
    assert Page(str(heat.html)).texts == ["abcd"]
    assert (heat.characters_cut, heat.score_cut) == (5, 0.25)


def test_tokens_that_do_not_join_back_bring_the_stored_text():
    trace = sample_trace(top=1)
    trace["proponents"][0]["tokens"] = [{"text": "<bos>The capital", "score": 0.01}]
    shown = "".join(Page(render_trace(trace)).texts)
    assert "<bos>The capital" in shown
    assert trace["proponents"][0]["text"] in shown
    assert "do not join back" in shown


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value of a nested dict; of lists the first entry."""
    if isinstance(value, dict):
        return [p for key, inner in value.items() for p in [(*at, key), *paths(inner, (*at, key))]]
    return paths(value[0], (*at, 0)) if isinstance(value, list) and value else []


def without(trace: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The trace with one value replaced, or removed when the value is ``...``."""
    changed = copy.deepcopy(trace)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return changed


@pytest.mark.parametrize("value", [..., None], ids=["missing", "none"])
def test_every_value_may_be_missing_except_the_format(value):
    trace = sample_trace(top=1)
    for path in paths(trace):
        same_code = len(path) > 1 and path[0] in {"opponents", "languages", "seconds"}
        if path == ("format",) or isinstance(path[-1], int) or same_code:
            continue
        changed = without(trace, path, value)
        page = Page(render_trace(changed))
        assert not page.open, path
        assert not re.search(r"\bNone\b|\bnan\b|Undefined", "".join(page.texts)), path
        render_index([changed])
        print_trace(changed, Console(file=io.StringIO(), width=100))


def test_numbers_that_are_not_finite_leave_no_trace_on_the_page():
    trace = sample_trace(top=1)
    for path in paths(trace):
        inner: Any = trace
        for key in path:
            inner = inner[key]
        if isinstance(inner, float) and path[0] != "run":
            page = render_trace(without(trace, path, math.nan))
            assert not re.search(r"\b(nan|inf)\b", "".join(Page(page).texts)), path
            assert '="nan' not in page, path


def test_an_empty_trace_renders():
    page = Page(render_trace({}))
    assert "What this cannot tell" in page.texts
    assert render_index([])
    print_trace({}, Console(file=io.StringIO()))


def test_another_format_is_refused():
    with pytest.raises(RunError, match="has format 2, expected 1"):
        render_trace({**sample_trace(), "format": 2})


def test_the_page_is_deterministic_and_of_reasonable_size():
    trace = sample_trace(top=20)
    page = render_trace(trace)
    assert page == render_trace(copy.deepcopy(trace))
    assert len(page.encode()) < 600_000


def test_rendering_does_not_change_the_trace():
    trace = sample_trace()
    kept = copy.deepcopy(trace)
    render_trace(trace)
    print_trace(trace, Console(file=io.StringIO()))
    assert trace == kept


def test_write_trace_page_writes_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    assert write_trace_page(sample_trace(), path) == path
    assert path.read_text(encoding="utf-8") == render_trace(sample_trace())
    before = path.read_bytes()

    def fail(*given):
        raise KeyboardInterrupt

    for where, name in ((os, "replace"), (trace_page_module, "render_trace")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, fail)
            with pytest.raises(KeyboardInterrupt):
                write_trace_page(sample_trace(1), path)
        assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_lone_surrogate_can_be_written(tmp_path):
    trace = sample_trace(top=1)
    trace["proponents"][0]["text"] = "half \ud83d pair"
    trace["proponents"][0]["tokens"] = []
    page = write_trace_page(trace, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "[U+D83D]" in page


def test_result_names_the_main_source_its_share_and_the_effect_of_the_first_document():
    trace = sample_trace()
    for place, entry in enumerate(trace["proponents"]):
        entry["source"] = "facts" if place < 7 else f"other {place}"
    said = result(trace)
    assert "7 of the 12 strongest proponents are from “facts”, which holds 17\u00a0%" in said
    assert "strongest proponent would raise the loss by about 0.021 nats" in said
    assert "falls by 2.1\u00a0%" in said
    assert "strongest opponent would lower the loss by about 0.012 nats" in said


def test_result_of_a_contrast_speaks_of_the_difference():
    trace = sample_trace()
    trace["query"]["contrast"] = " Lyon"
    assert "raise the loss difference by about 0.021 nats" in result(trace)
    assert "probability" not in result(trace)
    assert "rather than “Lyon”" in "".join(Page(render_trace(trace)).texts)


def test_cautions_name_low_quality_and_flagged_documents():
    trace = sample_trace()
    assert cautions(trace) == ["2 of the 18 documents shown are flagged “corrupted”."]
    trace["quality"]["recall"]["value"] = 0.5
    trace["quality"]["store_fidelity"]["spearman"] = 0.2
    trace["quality"]["covered_gradient_share"] = 0.3
    text = " ".join(cautions(trace))
    assert "found 50\u00a0%" in text
    assert "Spearman 0.200" in text
    assert "only 30\u00a0%" in text


def test_many_layers_are_added_up_without_losing_score():
    layers = [
        {"layer": f"model.layers.{i}.mlp.up_proj", "score": 0.01 * (i + 1)} for i in range(60)
    ]
    rows = layer_rows(layers)
    assert len(rows) == MOST_LAYERS
    assert rows[-1].label == f"{60 - MOST_LAYERS + 1} weaker layers together"
    assert rows[-2].label == "block 59 · mlp.up_proj"
    total = sum(float(row.value.replace("−", "-")) for row in rows)
    assert total == pytest.approx(sum(entry["score"] for entry in layers), abs=0.01)


def test_histogram_draws_a_column_for_each_filled_bin_and_a_marker_for_each_document():
    page = Page(
        str(histogram([-2.0, -1.0, 0.0, 1.0], [4.0, 0.0, 100.0], {"pro": [0.9], "opp": [-1.5]}))
    )
    classes = [attrs.get("class") for _, attrs in page.tags]
    assert classes.count("opp column") == classes.count("pro column") == 1
    assert classes.count("marker") == 2
    assert histogram([], [], {}) == histogram([0.0, 1.0], [0.0], {}) == ""


def test_ticks_are_round_and_inside():
    assert ticks(-0.012, 0.022) == pytest.approx([-0.01, 0.0, 0.01, 0.02])
    assert ticks(1.0, 1.0) == []


def test_scores_read_with_sign_and_unit():
    assert nats(0.0213) == "+0.021 nats"
    assert nats(-2.1e-7) == "−2.1×10⁻⁷ nats"
    assert nats(-0.0008, 0.0213) == "−0.0008 nats"
    assert nats(3e-6, 0.0213) == "+3.0×10⁻⁶ nats"
    assert nats(0.0) == "0 nats"
    assert nats(None) == nats(math.nan) == nats(True) == ""
    assert plain(12345.6) == "12,346"
    assert plain(9.999e-5, 2) == "1.0×10⁻⁴"
    assert [percent(v) for v in (0.0, 0.0312, 0.174, 1.0, 0.999, 0.9999)] == [
        f"{text}\u00a0%" for text in ("0", "3.1", "17", "100", "over 99", "over 99")
    ]


def printed(trace: dict[str, Any], width: int = 160) -> str:
    stream = io.StringIO()
    print_trace(
        trace, Console(file=stream, width=width, force_terminal=True, color_system="truecolor")
    )
    return stream.getvalue()


def test_the_terminal_says_unit_sign_count_and_quality():
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(sample_trace()))
    for wanted in (
        "nats per document removed", "N = 12,480", "positive: a proponent", "Proponents (+)",
        "Opponents (-)", "+0.0213", "−0.0117", "Spearman 0.931", "search recall at 20", "zh",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_the_terminal_prints_text_as_text_and_never_as_commands():
    trace = sample_trace(top=1)
    trace["proponents"][0].update(text="[red]x[/red] \x1b[2J\x07 end", tokens=[], source="[bold]s")
    trace["opponents"][0]["tokens"] = [{"text": "\x1b[2J \x07[red]", "score": -0.01}]
    text = printed(trace)
    assert "[ESC][2J [U+0007][red]" in text
    assert "[red]x[/red] [ESC][2J[U+0007] end" in text
    assert text.count("[bold]s") == 2  # in the result and in the table
    assert "\x1b[2J" not in text
    assert "\x07" not in text


def test_line_breaks_and_indentation_are_single_blanks_in_the_terminal():
    texts = ["if x:", "\n", "        ", "return\t\t1", "  "]
    row = {"tokens": [{"text": text, "score": 1e-5} for text in texts]}
    assert snippet(row).plain == "if x: return 1 "


def test_the_terminal_shows_the_strongest_token_of_a_long_document():
    trace = sample_trace(top=1)
    tokens = [{"text": f" w{i}", "score": 1e-5} for i in range(900)]
    tokens[600] = {"text": " needle", "score": 0.02}
    trace["proponents"][0].update(text="".join(t["text"] for t in tokens), tokens=tokens)
    text = printed(trace)
    assert re.search(r"\x1b\[1;34m ?needle", text)
    assert " w1 " not in text
