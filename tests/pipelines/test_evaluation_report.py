"""The evaluation page and table: no name may act, no missing number may show, the best is marked."""

import base64
import copy
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from pipelines.errors import RunError
from pipelines.report.characters import pieces, visible
from pipelines.report.evaluation_page import render_evaluation, write_evaluation_page
from pipelines.report.evaluation_reading import decimals_of, findings, fixed, places
from pipelines.report.evaluation_terminal import print_evaluation

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(2)>'
BIDI = "ek\u202efac\u202c\u200b"
NASTY = (SCRIPT, IMAGE, BIDI, "</style><style>*{}</style>", "' onfocus='x", "{{ 7*7 }}", "W" * 300)
NAN = float("nan")

METHODS = (
    ("ekfac", "EK-FAC", "Inverse of the Kronecker-factored Fisher, eigenvalues refitted."),
    ("ekfac-averaged", "EK-FAC, mean over checkpoints", "The same at every stored state."),
    ("source", "SOURCE", "Unrolled training in segments (Bae et al., 2024)."),
    ("identity", "Gradient dot product", "Plain inner product of gradients."),
    ("trak", "TRAK", "Projected gradients and a closed form (Park et al., 2023)."),
    ("bm25", "BM25", "Words in common, weighted by rarity."),
    ("random", "Random", "Seeded by the document's text."),
)
MEASURES = (
    ("lds", "LDS", "higher", (0.412, 0.436, 0.44, 0.12, 0.21, 0.07, -0.004), 0.03),
    (
        "brittleness",
        "Brittleness, k = 20",
        "higher",
        (0.31, 0.33, 0.3, 0.11, 0.2, 0.22, 0.01),
        0.05,
    ),
    ("facts", "Fact tracing, MRR", "higher", (0.62, 0.6, 0.58, 0.31, 0.44, 0.83, 0.004), 0.04),
    ("tail-patch", "Tail-patch", "higher", (0.81, 0.79, 0.8, 0.92, 0.6, 0.4, 0.02), 0.07),
    (
        "randomised",
        "Agreement with random weights",
        "lower",
        (0.05, 0.07, 0.11, 0.4, 0.1, 1, 1),
        0.02,
    ),
)


def sample_result() -> dict[str, Any]:
    """A realistic evaluation."""
    measures = []
    for name, title, better, means, half in MEASURES:
        rows = [
            {"method": method, "mean": m, "low": m - half, "high": m + half, "n": 50, "extra": {}}
            for (method, *_), m in zip(METHODS, means, strict=True)
        ]
        measures.append(
            {
                "name": name,
                "title": title,
                "about": f"What {title} means, and when to use it.",
                "better": better,
                "reference": None,
                "setting": {"subsets": 100, "seeds": 3, "share": 0.5, "nested": {"draws": 2000}},
                "rows": rows,
            }
        )
    measures[0]["reference"] = {
        "name": "ceiling",
        "value": 0.8012,
        "about": "The LDS of a perfect score against these noisy retrainings.",
    }
    for row in measures[2]["rows"]:
        row["extra"] = {"recall@1": row["mean"] * 0.8, "recall@5": row["mean"], "queries": 50}
    return {
        "format": 1,
        "run": "demo",
        "created_with": {"version": "0.1.0", "torch": "2.13", "model": {"parameters": 1_104_512}},
        "n_documents": 2_480,
        "n_queries": 50,
        "methods": [
            {"name": n, "title": t, "about": a, "unit": "nats per document removed, times N"}
            for n, t, a in METHODS
        ],
        "measures": measures,
        "notes": ["Only 3 seeds were trained for each subset."],
        "seconds": {"retraining": 5400.0, "scores": 61.2},
    }


class Page(HTMLParser):
    """Elements and attributes, and what a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.code: dict[str, list[str]] = {"script": [], "style": []}
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in {"meta"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"unbalanced </{tag}>"

    def handle_data(self, data: str) -> None:
        self.code.get(self.open[-1] if self.open else "", self.texts).append(data)

    @property
    def shown(self) -> str:
        labels = [attrs.get("aria-label", "") for _, attrs in self.tags]
        return " ".join([*self.texts, *labels])


def poisoned(value: Any, payload: str) -> Any:
    """A result with a payload added to every string and to every key of user data."""
    fixed_keys = {"format", "run", "created_with", "methods", "measures", "notes", "seconds"}
    fixed_keys |= {"name", "title", "about", "unit", "better", "reference", "setting", "rows"}
    fixed_keys |= {"method", "mean", "low", "high", "n", "extra", "value", "n_documents"}
    fixed_keys |= {"n_queries"}
    if isinstance(value, dict):
        return {
            (k if k in fixed_keys else k + payload): v if k == "better" else poisoned(v, payload)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [poisoned(inner, payload) for inner in value]
    return value + payload if isinstance(value, str) else value


def printed(result: dict[str, Any], width: int = 120) -> str:
    out = io.StringIO()
    print_evaluation(result, Console(file=out, width=width, force_terminal=True))
    return out.getvalue()


# hostile text


@pytest.mark.parametrize("payload", NASTY, ids=range(len(NASTY)))
def test_the_page_holds_only_its_own_elements_and_attributes(payload):
    before = Page(render_evaluation(sample_result()))
    after = Page(render_evaluation(poisoned(sample_result(), payload)))
    extra = {"span": {"class", "title"}}
    assert {tag for tag, _ in after.tags} == {tag for tag, _ in before.tags}
    for tag, attrs in after.tags:
        known = {name for other, given in before.tags if other == tag for name in given}
        assert set(attrs) <= known | extra.get(tag, set())
        assert not [name for name in attrs if name.startswith("on")]
    assert after.code == before.code


@pytest.mark.parametrize("payload", NASTY, ids=range(len(NASTY)))
def test_hostile_names_are_shown_and_not_dropped(payload):
    shown = "".join(Page(render_evaluation(poisoned(sample_result(), payload))).texts)
    text = visible(payload)
    for place in ("SOURCE", "LDS", "ceiling", "demo", "recall@5", "subsets", "torch", "retraining"):
        assert place + text in shown


def test_page_and_terminal_hold_no_hidden_characters_outside_of_marks():
    result = poisoned(sample_result(), BIDI)
    assert not [char for char, hidden in pieces(render_evaluation(result)) if hidden]
    out = re.sub(r"\x1b\[[0-9;]*m", "", printed(poisoned(sample_result(), "\x1b[2J\u202e")))
    assert not [char for char, hidden in pieces(out) if hidden]
    assert "[ESC][2J[U+202E]" in printed({"run": "\x1b[2J\u202e"})


def test_the_page_loads_nothing_and_runs_only_its_own_script():
    page = Page(render_evaluation(poisoned(sample_result(), IMAGE)))
    for _, attrs in page.tags:
        assert not {"src", "srcset", "background", "poster", "data", "action"} & set(attrs)
        assert attrs.get("href", "#").startswith("#")
    (script,), (style,) = page.code["script"], page.code["style"]
    assert not re.search(r"url\(|@import|https?://", style + script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [
        attrs["content"]
        for _, attrs in page.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_links_lead_to_places_on_the_page():
    page = Page(render_evaluation(sample_result()))
    places_on_page = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(places_on_page)) == len(places_on_page)
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} <= set(places_on_page)


def test_the_terminal_prints_names_and_not_their_markup():
    result = sample_result()
    result["methods"][0]["title"] = "[bold red]EK[/] [link=x]FAC"
    out = printed(result, width=200)
    assert "[bold red]EK[/]" in out
    assert "[link=x]FAC" in out


# missing values


def holes(result: dict[str, Any], hole: object) -> dict[str, Any]:
    """A result with a hole in every kind of place that holds a number."""
    result = copy.deepcopy(result)
    lds, brittleness, facts, tail, randomised = result["measures"]
    lds["rows"][0]["mean"] = hole
    lds["rows"][1] |= {"low": hole, "high": hole}
    lds["rows"][2]["n"] = hole
    lds["reference"]["value"] = hole
    for row in brittleness["rows"]:
        row["mean"] = hole
    facts["rows"][0]["extra"] = {"recall@1": hole, "recall@5": 0.5, "list": [hole, 1.0]}
    tail["setting"] = {"learning_rate": hole, "deep": {"x": hole}, "list": [1.0, hole]}
    randomised["rows"] = []
    result["seconds"]["retraining"] = hole
    result["created_with"]["torch"] = hole
    result["n_queries"] = hole
    return result


@pytest.mark.parametrize("hole", [None, NAN, math.inf, -math.inf], ids=str)
def test_missing_numbers_never_show(hole):
    result = holes(sample_result(), hole)
    before = json.dumps(result)
    shown, out = Page(render_evaluation(result)).shown, printed(result)
    for text in (shown, out):
        assert not re.search(r"\b(nan|inf|none|null|undefined)\b", text, re.IGNORECASE)
    assert not re.search(r"\b(nan|inf)\b", render_evaluation(result), re.IGNORECASE)
    assert "Brittleness, k = 20: nothing was measured." in shown
    assert "Not measured: EK-FAC." in "".join(Page(render_evaluation(result)).texts)
    assert json.dumps(result) == before


def test_methods_without_a_row_and_rows_without_a_method_both_show():
    result = sample_result()
    result["methods"].append({"name": "adam", "title": "Adam", "about": None, "unit": None})
    result["measures"][0]["rows"].append({"method": "stranger", "mean": 0.3})
    page = Page(render_evaluation(result))
    assert {"Adam", "stranger"} <= set(page.texts)
    assert page.texts.count("not measured") == len(MEASURES) + len(MEASURES) - 1
    assert "stranger" in printed(result)


def test_in_a_check_nobody_is_best_and_the_table_leaves_it_out():
    result = sample_result()
    check = next(m for m in result["measures"] if m["name"] == "randomised")
    before = Page(render_evaluation(result))
    check["check"] = True
    page = Page(render_evaluation(result))
    assert page.texts.count("best") == before.texts.count("best") - 1
    assert page.texts.count(check["title"]) == before.texts.count(check["title"]) - 1
    said = next(x for x in findings(result) if x.startswith(check["title"]))
    assert said == "Agreement with random weights: from 1.00 (Random) to 0.05 (EK-FAC)."
    assert not any(place.best or place.level for place in places(result, check))


def test_a_measure_of_rows_that_are_no_methods_stands_by_itself():
    result = sample_result()
    flags = [("self-influence", 0.4), ("loss", 0.45)]
    rows = [{"method": n, "mean": m, "low": m - 0.02, "high": m + 0.02, "n": 9} for n, m in flags]
    chance = {"name": "chance", "value": 0.5, "about": "A coin."}
    measure = {"name": "corruption", "title": "Corruption", "better": "higher", "rows": rows}
    result["measures"].append({**measure, "reference": chance})
    said = findings(result)[-1]
    assert said == "Corruption: no better than chance, loss has 0.450, 0.430 to 0.470."
    page = Page(render_evaluation(result))
    assert page.texts.count("not measured") == 0
    assert sum(text.strip() == "Corruption" for text in page.texts) == 1
    rows[1]["high"] = 0.55
    assert "loss is best" in findings(result)[-1]


def test_methods_of_one_title_keep_their_own_numbers():
    result = sample_result()
    for method in result["methods"]:
        method["title"] = "the same"
    texts = Page(render_evaluation(result)).texts
    assert {"0.436", "0.120", "0.0700"} & set(texts) == {"0.436", "0.120"}
    assert texts.count("best") == len(MEASURES) + 1  # and once in the legend


@pytest.mark.parametrize("result", [{}, {"format": 1, "measures": [], "methods": []}], ids=str)
def test_an_empty_evaluation_says_that_nothing_was_measured(result):
    assert "Nothing was measured yet." in Page(render_evaluation(result)).shown
    assert "Nothing was measured yet." in printed(result)


def test_another_format_is_refused():
    with pytest.raises(RunError, match="format 2, expected 1"):
        render_evaluation({"format": 2})
    with pytest.raises(RunError, match="Run `influence evaluate` again"):
        print_evaluation({"format": 2}, Console(file=io.StringIO()))


# what it says


def test_places_are_ordered_and_the_best_is_marked():
    result = sample_result()
    lds = places(result, result["measures"][0])
    assert [p.name for p in lds][:3] == ["SOURCE", "EK-FAC, mean over checkpoints", "EK-FAC"]
    assert [p.best for p in lds] == [True] + [False] * 6
    assert [p.level for p in lds] == [False, True, True] + [False] * 4
    tail = places(result, result["measures"][3])  # 0.92 - 0.07 against 0.81 + 0.07
    assert [p.level for p in tail] == [False, True, True, True] + [False] * 3
    result["measures"][3]["rows"][3] |= {"low": None, "high": None}
    assert not [p.name for p in places(result, result["measures"][3]) if p.level]
    lower = places(result, result["measures"][4])
    assert [p.value for p in lower][:2] == ["0.05", "0.07"]
    assert (lower[0].best, lower[1].level, lower[2].level) == (True, True, False)


def test_findings_say_who_is_best_and_how_far():
    found = findings(sample_result())
    assert found[0] == (
        "LDS: SOURCE is best (0.440, 0.410 to 0.470; ceiling 0.801); EK-FAC, mean over checkpoints "
        "and EK-FAC are not clearly worse."
    )
    assert (
        found[2] == "Fact tracing, MRR: BM25 is best (0.830, 0.790 to 0.870), clear of the others."
    )


def test_one_query_has_no_interval_and_nothing_to_be_clear_of():
    result = sample_result()
    for row in result["measures"][0]["rows"]:
        row |= {"n": 1, "low": row["mean"], "high": row["mean"]}
    assert findings(result)[0] == "LDS: SOURCE is best (0.440; ceiling 0.801)."


def test_intervals_without_width_are_left_out():
    result = sample_result()
    for row in result["measures"][0]["rows"]:
        row |= {"low": row["mean"], "high": row["mean"]}
    assert findings(result)[0] == "LDS: SOURCE is best (0.440; ceiling 0.801)."
    assert not [p for p in places(result, result["measures"][0]) if p.interval or p.level]


def test_one_method_is_not_called_the_best():
    result = sample_result()
    lds = result["measures"][0]
    lds["rows"] = [lds["rows"][0], {"method": "random", "mean": NAN}]
    assert findings(result)[0] == "LDS: EK-FAC has 0.412, 0.382 to 0.442; ceiling 0.801."
    assert not [p for p in places(result, lds) if p.best or p.level]


def test_equal_means_are_all_best():
    result = sample_result()
    for row in result["measures"][0]["rows"]:
        row |= {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert " and 4 others are best (0.500, 0.400 to 0.600; ceiling 0.801)." in findings(result)[0]


@pytest.mark.parametrize(
    ("value", "decimals", "expected"),
    [
        (0.4361, 3, "0.436"),
        (-0.004, 3, "−0.004"),
        (-0.0001, 3, "0.000"),
        (1234.6, 0, "1,235"),
        (0, 2, "0.00"),
        (2e-7, 3, "2.0×10⁻⁷"),
        (NAN, 3, ""),
        (None, 3, ""),
    ],
)
def test_numbers_of_a_measure_have_the_same_decimals(value, decimals, expected):
    assert fixed(value, decimals) == expected


def test_decimals_come_from_the_largest_number():
    rows = [{"method": "a", "mean": 0.02}, {"method": "b", "mean": 0.0004}]
    assert decimals_of({"rows": rows}) == 4
    assert decimals_of({"rows": [{"method": "a", "mean": 0.9996}]}) == 2
    assert decimals_of({"rows": [{"method": "a", "mean": 31.2}]}) == 1
    assert decimals_of({"rows": []}) == decimals_of({"rows": [{"mean": 0.0}]}) == 3


def test_dots_and_intervals_stand_where_their_numbers_say():
    result = sample_result()
    result["measures"] = result["measures"][:1]
    result["measures"][0]["rows"] = [
        {"method": "ekfac", "mean": 0.5, "low": 0.25, "high": 0.75, "n": 9},
        {"method": "random", "mean": 0.0, "low": None, "high": None, "n": 9},
    ]
    result["measures"][0]["reference"]["value"] = 1.0
    tags = Page(render_evaluation(result)).tags
    room = 0.03 / 1.06
    circles = [float(a["cx"][:-1]) for t, a in tags if t == "circle"]
    assert circles == pytest.approx([50.0, 100 * room], abs=0.01)
    (whisker,) = [a for t, a in tags if t == "line" and a["class"] == "whisker"]
    ends = [float(whisker[x][:-1]) for x in ("x1", "x2")]
    assert ends == pytest.approx([100 * (room + share / 1.06) for share in (0.25, 0.75)], abs=0.01)
    limits = [float(a["x1"][:-1]) for t, a in tags if t == "line" and a["class"] == "limit"]
    assert limits == pytest.approx([100 * (1 - room)] * 3, abs=0.01)


def test_the_page_explains_each_measure_and_method_and_gives_settings():
    shown = Page(render_evaluation(sample_result())).shown
    for text in (
        "Can these scores be trusted?", "2,480 documents, 50 queries", "What LDS means, and when to use",
        "Unit: nats per document removed, times N", "nested.draws", "2000", "1,104,512", "recall@5",
        "90 min", "Only 3 seeds were trained", "lower is better",
    ):  # fmt: skip
        assert text in shown


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_terminal_shows_every_method_and_number(width):
    out = re.sub(r"\x1b\[[0-9;]*m", "", printed(sample_result(), width))
    for text in ("BM25", "TRAK", "0.440 *", "0.412 ~", "0.830 *", "ceiling 0.801"):
        assert text in out
    assert max(map(len, out.splitlines())) <= width


def test_the_page_is_written_whole_and_is_the_same_each_time(tmp_path):
    path = write_evaluation_page(sample_result(), tmp_path / "evaluation.html")
    first = path.read_bytes()
    assert write_evaluation_page(sample_result(), path).read_bytes() == first
    assert first.decode() == render_evaluation(sample_result())
    with pytest.raises(RunError):
        write_evaluation_page({"format": 9}, path)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.html"]
