"""Pages and tables of hallucination detection: no text may act, hide or be lost; numbers said whole."""

import copy
import io
import json
import math
import re
from typing import Any

import pytest
from rich.console import Console

from pipelines.errors import RunError
from pipelines.report import detector_reading
from pipelines.report import hallucination_reading as reading
from pipelines.report.characters import pieces, visible
from pipelines.report.charts import Span
from pipelines.report.claims import claims
from pipelines.report.detector_page import render_detector, write_detector_page
from pipelines.report.hallucination_claim import marked_excerpt
from pipelines.report.hallucination_page import (
    render_hallucination,
    render_hallucination_index,
    risk_bar,
    write_hallucination_index,
    write_hallucination_page,
)
from pipelines.report.hallucination_terminal import print_detector, print_hallucination
from pipelines.report.numbers import MINUS
from pipelines.report.plots import Axis, Line, Mark, plot
from tests.pipelines import hallucination_examples as examples
from tests.pipelines.hallucination_examples import EVERY, detector, right, wrong
from tests.pipelines.test_inputs_report import ELEMENTS, NASTY, Page
from tests.pipelines.test_report import paths, without

ALSO = {"ol", "polygon", "circle", "strong"}
CODED = {"verdict", "family", "stance", "kind"}
KINDS = {"subject", "answer", "rival", "verbatim"}


def poisoned(value: Any, payload: str, key: str = "") -> Any:
    """A copy with a payload behind every string, codes that choose a colour aside."""
    if isinstance(value, dict):
        users = {"torch", "samples", "folds", "whydidit"}
        return {
            k + payload if k in users and not isinstance(v, dict | list) else k: poisoned(
                v, payload, k
            )
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [poisoned(inner, payload, "mark" if str(inner) in KINDS else "") for inner in value]
    coded = key in CODED or key == "mark"
    return value + payload if isinstance(value, str) and not coded else value


def printed(given: dict[str, Any], width: int = 120, **more: Any) -> str:
    out = io.StringIO()
    show = print_detector if "table" in given else print_hallucination
    show(given, Console(file=out, width=width, **more))
    return out.getvalue()


def page_of(given: dict[str, Any]) -> str:
    return render_detector(given) if "table" in given else render_hallucination(given)


def shown_of(given: dict[str, Any]) -> str:
    return " ".join(Page(page_of(given)).shown.replace("\u00a0", " ").split())


ALL = {**EVERY, "detector": detector}

# -- nothing acts, nothing hides, nothing is lost -------------------------------------------------


@pytest.mark.parametrize("payload", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize("name", ["wrong", "detector"])
def test_no_string_adds_an_element_or_an_attribute(name, payload):
    given = ALL[name]()
    before, after = Page(page_of(given)), Page(page_of(poisoned(given, payload)))
    assert {tag for tag, _ in after.tags} <= ELEMENTS | ALSO
    names = {(tag, attr) for tag, attrs in after.tags for attr in attrs}
    assert names <= {(tag, attr) for tag, attrs in before.tags for attr in attrs} | {("p", "dir")}
    assert not [attr for _, attr in names if attr.startswith("on") or attr == "style"]
    assert after.code == before.code
    assert not after.open
    assert visible(payload) in after.shown
    assert not [c for c, hidden in pieces(printed(poisoned(given, payload))) if hidden]


@pytest.mark.parametrize("name", ["wrong", "detector"])
def test_a_script_in_any_one_string_stays_text(name):
    """Codes too: a verdict, a family or a stance that is none of ours."""
    given, script = small(ALL[name]()), "<script>alert(1)</script>"
    for path in paths(given):
        inner: Any = given
        for key in path:
            inner = inner[key]
        if isinstance(inner, str):
            html = page_of(without(given, path, script))
            assert script not in html, path
            assert html.count("<script") == 1, path


@pytest.mark.parametrize("name", ALL)
def test_the_page_loads_nothing_and_has_sound_links(name):
    parsed = Page(page_of(ALL[name]()))
    assert not parsed.open
    for tag, attrs in parsed.tags:
        assert not {"src", "srcset", "background", "action", "style"} & set(attrs), tag
        assert attrs.get("href", "#").startswith("#"), attrs
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {attrs["href"][1:] for _, attrs in parsed.tags if "href" in attrs} <= set(ids)
    policy = next(attrs["content"] for _, attrs in parsed.tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")
    assert len(parsed.code["script"]) == len(parsed.code["style"]) == 1


@pytest.mark.parametrize("name", ALL)
def test_page_and_terminal_show_no_hole_and_no_hidden_character(name):
    given = ALL[name]()
    html, said = page_of(given), printed(given)
    assert not [char for char, hidden in pieces(html + said) if hidden]
    for text in (Page(html).shown, said):
        assert not re.search(r"\b(None|nan|NaN|inf|Undefined)\b", text)
    assert '="nan' not in html


def small(value: Any) -> Any:
    """A copy in which lists of dicts or points keep two entries."""
    if isinstance(value, dict):
        return {key: small(inner) for key, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return [small(inner) for inner in value[:2]]
    return value


@pytest.mark.parametrize("missing", [True, False], ids=["missing", "none or nan"])
@pytest.mark.parametrize("name", ["wrong", "detector"])
def test_every_value_may_be_missing_except_the_format(name, missing):
    given = small(ALL[name]())
    for path in paths(given):
        inner: Any = given
        for key in path:
            inner = inner[key]
        if path[0] in {"format", "provenance"} or (missing and isinstance(path[-1], int)):
            continue
        if missing and len(path) > 2:
            continue  # deeper values are read as the same ones are when they are None
        number = isinstance(inner, int | float) and not isinstance(inner, bool)
        hole = without(given, path, ... if missing else math.nan if number else None)
        html = page_of(hole)
        said = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.S)
        said += "" if missing or len(path) > 3 else printed(hole)
        assert not re.search(r"\b(None|nan|inf|Undefined)\b", said), path
        assert said.count("<table") == said.count("</table>"), path


def test_an_empty_result_renders():
    assert "What not to conclude" in Page(render_hallucination({})).texts
    assert "could not be scored" in printed({})
    assert "No row of the comparison has a result." in Page(render_detector({})).texts
    assert "No answers yet." in Page(render_hallucination_index([], [])).texts


@pytest.mark.parametrize("name", ["wrong", "detector"])
def test_another_format_is_refused(name):
    with pytest.raises(RunError, match="has format 2, expected 1"):
        page_of({**ALL[name](), "format": 2})


def test_100_kb_in_one_line_make_a_page_of_reasonable_size():
    given = examples.hostile()
    html = page_of(given)
    assert len(html.encode()) < 300_000
    assert len(given["completion"]) > 100_000
    assert "characters" in html
    assert "&lt;img src=x onerror=alert(2)&gt;" in html
    assert len(printed(given)) < 20_000


@pytest.mark.parametrize("name", ["wrong", "detector"])
def test_pages_are_the_same_each_time_and_leave_the_result_alone(name, tmp_path):
    given = ALL[name]()
    kept = copy.deepcopy(given)
    write = write_detector_page if name == "detector" else write_hallucination_page
    path = write(given, tmp_path / "page.html")
    assert path.read_text(encoding="utf-8") == page_of(json.loads(json.dumps(given)))
    printed(given)
    assert str(given) == str(kept)


# -- the answer and its claims --------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in EVERY if name != "hostile"])
def test_claims_join_back_to_the_answer(name):
    given = EVERY[name]()
    cut = claims(given, 20_000)
    assert "".join(piece.text for piece in cut) == given["completion"]
    spans = given["spans"] or []
    for number, span in enumerate(spans):
        own = [piece for piece in cut if piece.number == number]
        assert "".join(piece.text for piece in own) == span["text"]
        assert [piece.ends for piece in own] == [False] * (len(own) - 1) + [True]


def test_of_overlapping_claims_the_shorter_owns_the_words_and_one_label_ends_each():
    given = wrong()
    whole = {"start": 0, "end": len(given["completion"]), "verdict": "unsupported"}
    given["spans"].append({**whole, "hallucination_probability": 0.5})
    cut = claims(given, 20_000)
    assert "".join(piece.text for piece in cut) == given["completion"]
    assert [piece.text for piece in cut if piece.number == 0] == ["Kouile"]
    assert [piece.number for piece in cut if piece.ends] == [0, 1, 2, 3]
    assert len([tag for tag, _ in Page(page_of(given)).having("label") if tag == "span"]) == 4


def test_a_claim_says_verdict_probability_and_reason_without_colour():
    html = page_of(wrong())
    claim = re.search(r'<span class="claim wrong" tabindex="0">Kouile(.*?)</span></span>', html)[1]
    words = re.sub(r"<[^>]+>", "", claim).replace("\u00a0", " ")
    assert words.startswith("✗ 87 %Likely wrong, 87 % likely to be wrong. Answer against rival")
    assert 'href="#closer-0"' in claim
    third = re.search(r'<span class="claim supported" tabindex="0">French(.*?)</span></span>', html)
    assert "closer" not in third[1]


@pytest.mark.parametrize(
    ("start", "end"), [(-5, 3), (10, 5), (10**9, 10**9 + 1), (0, 10**9), (None, None)]
)
def test_limits_outside_the_text_are_moved_inside(start, end):
    given = right()
    given["spans"][0] |= {"start": start, "end": end}
    assert "".join(piece.text for piece in claims(given, 20_000)) == given["completion"]
    assert not Page(page_of(given)).open


def test_marked_words_of_a_document_stand_where_they_are():
    text = "Kouile is in Burkina Faso, not Ouagadougou."
    marks = [[31, 42, "rival"], [0, 6, "answer"], [13, 25, "subject"], [3, 9, "subject"]]
    html = marked_excerpt(
        {"excerpt": text, "marks": [*marks, [0, 2, "x onclick"], [50, 60, "rival"]]}
    )
    found = re.findall(r'<span class="word (\w+)" title="[^"]+">([^<]+)</span>', html)
    assert found == [("answer", "Kouile"), ("subject", "Burkina Faso"), ("rival", "Ouagadougou")]
    assert re.sub(r"<[^>]+>", "", html) == text


def test_a_document_without_marks_gets_those_of_both_answers():
    given = wrong()
    for document in given["details"][0]["training"]["documents"]:
        document["marks"] = []
    html = page_of(given)
    assert html.count('<span class="word answer" title="this answer">Kouile</span>') == 1
    assert html.count('<span class="word rival" title="another answer">Ouagadougou</span>') == 2


def test_a_probability_on_the_line_is_shown_and_without_a_line_none_is():
    given = {**wrong(), "hallucination_probability": 0.62}
    assert reading.is_over(given) is False
    given["threshold"]["probability"] = None
    assert "every answer is withheld" in shown_of(given)


def test_the_bar_ends_at_the_probability_and_marks_the_line():
    html = risk_bar(wrong())
    assert '<rect class="opp" y="22" width="87.00%"' in html
    assert '<line class="abstain" x1="62.00%" x2="62.00%"' in html
    assert '<line class="whisker" x1="78.00%" x2="93.00%"' in html
    assert 'class="pro" y="22" width="8.00%"' in risk_bar(right())
    assert risk_bar(examples.evasive()) == ""


# -- what is said ---------------------------------------------------------------------------------


def test_the_verdict_comes_first_with_probability_line_and_cost():
    said = shown_of(wrong())
    assert "Should one believe “Kouile”?" in said
    order = ["Likely wrong", "Do not believe this answer", "about 87 would be wrong", "Why", "+1.4"]
    places = [said.index(words) for words in order]
    assert places == sorted(places)
    assert "95 % interval 78 % to 93 %" in said
    assert "above the line at 62 %: withhold" in said
    assert "58 % of the answers stay, 18 % of those are wrong (95 % interval 14 % to 22 %)" in said
    assert "13 % of the right answers are withheld too" in said
    assert "below the line at 62 %: the answer may be shown" in shown_of(right())


def test_three_reasons_carry_value_unit_percentile_and_signed_contribution():
    said = reading.reasons(wrong())
    assert [reason["signal"] for reason in said] == ["count-ratio", "probe", "agreement"]
    html = page_of(wrong())
    top = html[html.index('<section id="reading"') : html.index('<section id="answer"')]
    assert top.count("<li>") == 3
    text = re.sub(r"<[^>]+>", "", top).replace("\u00a0", " ")
    assert f"{MINUS}1.61 nats · lower than 92 % of the labelled answers · +1.4 log-odds" in text
    assert "multiplies the odds of a mistake by 4.1" in text
    assert "0.200 (share of samples, 0 to 1)" in text


@pytest.mark.parametrize(
    ("contribution", "expected"),
    [
        (math.log(4), "multiplies the odds of a mistake by 4.0"),
        (-math.log(2), "divides the odds of a mistake by 2.0"),
        (0.001, "changes nothing"),
    ],
)
def test_contributions_are_said_as_changes_of_the_odds(contribution, expected):
    assert reading.effect(contribution) == expected


def test_each_picture_has_its_sentence_with_numbers():
    said = shown_of(wrong())
    for words in (
        "gave “Kouile,” a probability of 3.3 %; its other choice, “Other”, had 41 %",
        f"At layer 20, which tells right from wrong best, the model's state looks like that of a"
        f" mistake: {MINUS}1.4 log-odds of being right (20 %). 6 of the 7 layers read lean that way.",
        "first choice from layer 28 of 30 on: late in its depth",
        "Of what the answer rests on, 70 % is in the prompt, 30 % in what the model had already",
        "“Burkina” did most: 31 %",
        "it gave this answer 20 % of the time, 3 different meanings in all",
        "Semantic entropy 0.95 nats",
        "the model holds it true to 71 %. Asked how sure it is, it says 95 %.",
        "1 supports it, 2 contradict it and 21 say neither",
        "beside “Kouile” in 2 documents, beside the other answer “Ouagadougou” in 9 documents",
        "Mis-recalled: what it was trained on says something else. Nine documents",
        "+0.0210 nats",
        f"{MINUS}0.0120 nats",
        "influence not measured",
        "capital of Burkina Faso 4 6",
    ):
        assert words in said, words
    assert "In none of the layers read is the first piece of “1904”" in said


def test_what_was_not_measured_is_named_with_what_to_give():
    said = shown_of(right())
    for name in ("inputs", "samples", "asked", "training"):
        assert reading.NEEDED[name] in said
    for name in ("tokens", "layers", "lens"):
        assert reading.NEEDED[name] not in said
    assert "Not measured here" not in shown_of(wrong())
    assert all(words in shown_of(examples.bare()) for words in reading.NEEDED.values())
    assert "No training document was read." in said
    assert "No training document was read." not in shown_of(wrong())


def test_signals_are_listed_by_what_they_count_with_unit_percentile_and_sign():
    html = page_of(wrong())
    table = html[html.index('<section id="signals"') : html.index('<section id="detector"')]
    values = re.findall(r'<b class="(\w+)-ink">([^<]+)</b>', table)
    assert values[0] == ("opp", "+1.42")
    assert ("pro", f"{MINUS}0.22") in values
    sizes = [abs(float(v.replace(MINUS, "-"))) for _, v in values]
    assert sizes == sorted(sizes, reverse=True)
    assert "not measured" in table
    assert f"{MINUS}3.42 nats" in table


def test_the_detector_says_how_far_to_trust_it():
    said = shown_of(wrong())
    assert "799 labelled answers (330 right, 296 wrong and 173 evasive)" in said
    assert (
        "in 91 % of pairs (AUROC 0.910, 95 % interval 0.887 to 0.931; a coin would get 0.5)" in said
    )
    assert "off by 2.3 % on average" in said
    assert "47 % were wrong" in said


def test_an_evasive_answer_has_no_probability_and_no_line():
    said = shown_of(examples.evasive())
    assert "does not commit to an answer" in said
    assert "likely to be wrong" not in said
    assert "withhold" not in said
    assert "answer the question?" in said


# -- the index ------------------------------------------------------------------------------------


def test_the_index_is_sorted_by_risk_counts_verdicts_and_links_below_itself(tmp_path):
    results = [
        {**make(), "page": str(tmp_path / "a b" / f"{name}.html")} for name, make in EVERY.items()
    ]
    results[0]["page"] = str(tmp_path.parent / "elsewhere.html")
    html = write_hallucination_index(results, tmp_path / "index.html").read_text(encoding="utf-8")
    parsed = Page(html)
    assert not parsed.open
    rows = re.findall(r'<tr class="(\w+)">.*?class="risk-cell">([^<]*)', html, re.S)
    risks = [float(risk[:-2]) if risk else -1 for _, risk in rows]
    assert risks == sorted(risks, reverse=True)
    assert len(rows) == len(EVERY)
    links = [attrs["href"] for tag, attrs in parsed.tags if tag == "a"]
    assert sorted(links) == sorted(f"./a%20b/{name}.html" for name in EVERY if name != "right")
    shown = {attrs["id"] for tag, attrs in parsed.tags if tag == "input"}
    assert shown == {"show-all", "show-wrong", "show-unsupported", "show-supported", "show-evasive"}
    for name in shown - {"show-all"}:
        assert f"#{name}:checked ~ .panel tbody tr:not(.{name[5:]})" in html
        number = sum(row[0] == name[5:] for row in rows)
        label = re.search(rf'<label for="{name}">[^<]* (\d+)</label>', html)
        assert int(label[1]) == number


# -- the detector ---------------------------------------------------------------------------------


def test_the_report_starts_with_its_headline_and_names_the_strongest_control():
    said = shown_of(detector())
    assert "the wrong one the higher probability in 91 % of pairs (AUROC 0.910" in said
    assert "probe, end of the answer, reaches 0.896 alone" in said
    assert "strongest control, popularity, reaches 0.647" in said
    given = detector()
    given["table"] = [row for row in given["table"] if row["name"] not in {"popularity", "length"}]
    assert "No control gets far from a coin: the strongest, bag of words" in shown_of(given)


def test_controls_stand_in_the_same_table_and_dots_where_their_values_are():
    html = page_of(detector())
    table = html[html.index('<table class="index scores compare"') :]
    names = re.findall(r'<th scope="row"><bdi>([^<]+)</bdi>', table)
    order = [row["name"] for row in detector_reading.rows(detector())]
    assert names == order
    assert order[0] == "all signals together"
    assert order[-1] == "random weights"
    dots = [float(x) for x in re.findall(r'<circle class="\w+" cx="([\d.]+)%"', table)[:8]]
    values = [row["auroc"] for row in detector_reading.rows(detector())[:8]]
    slope = (dots[0] - dots[1]) / (values[0] - values[1])
    for a, b, u, v in zip(dots, dots[2:], values, values[2:], strict=False):
        assert (a - b) / (u - v) == pytest.approx(slope, rel=0.02)
    assert "not measured" in table


def test_gains_carry_signs_and_say_what_adds():
    said = shown_of(detector())
    assert "“probe” and “training” add to what was there before" in said
    assert "For “depth” and “inputs” no gain can be shown" in said
    assert "+0.074 +0.052 to +0.097" in said
    assert f"{MINUS}0.008 {MINUS}0.017 to +0.001" in said


def test_curves_thresholds_and_mistakes_have_sentence_and_table():
    html, said = page_of(detector()), shown_of(detector())
    for words in (
        "A probe reaches 0.520 at layer 0 and 0.896 at layer 20, where it is best.",
        "differs from it by 2.3 % on average",
        "Each dot stands for 62 to 63 answers",
        "Where 10 % of the right answers are called wrong, 71 % of the wrong ones are found",
        "Where 50 % of the wrong answers are found, 97 % of those called wrong are wrong",
        "With all answers shown 47 % are wrong; with the 50 % of lowest risk shown, 10 % are",
        "PRR 0.860",
        "base rate 47 %",
        "the line: 58 %",
        "Answers above 62 % are withheld.",
        "Of 173 evasive answers 166 were called evasive",
        "Why 131 wrong answers are wrong is told from training documents with a macro-F1 of 0.73",
        "95 % interval 0.68 to 0.78; naming causes at random gets 0.33, rules on counts 0.55.",
        f"by {MINUS}1.2 log-odds",
        "Cusco",
        "not fitted",
    ):
        assert words in said, words
    figures = re.findall(r"<figure.*?</figure>", html, re.S)
    assert len(figures) == 10
    assert all("<table" in figure and "said-result" in figure for figure in figures)


def test_without_labelled_causes_or_evasive_answers_nothing_is_said_of_them():
    said = shown_of({**detector(), "causes": None, "evasive": {"n": 0, "found": 1}})
    assert "Why wrong answers are wrong" not in said
    assert "evasive answers 1" not in said


# -- plots ----------------------------------------------------------------------------------------


def test_points_bands_whiskers_and_marks_are_drawn_where_their_values_are():
    x, y = Axis(span=Span(low=0.0, high=10.0), name="layer"), Axis(span=Span(low=-1.0, high=1.0))
    points = [(0.0, -1.0), (5.0, 0.5), (10.0, 1.0)]
    limits = [(-1.0, 0.0), (0.0, 0.75), (0.5, 1.0)]
    chart = plot(
        [Line(points=points, limits=limits), Line(points=points, limits=limits, dots=True)],
        x,
        y,
        "said",
        [Mark(at=5.0, name="five"), Mark(at=0.0, name="zero", upright=False)],
    )
    assert '<polyline class="curve" points="0.00,100.00 50.00,25.00 100.00,0.00"/>' in chart
    band = re.search(r'class="band" points="([^"]+)"', chart)[1]
    assert (
        band.split()
        == "0.00,100.00 50.00,50.00 100.00,25.00 100.00,0.00 50.00,12.50 0.00,50.00".split()
    )
    dots = re.findall(r'cx="([\d.]+)%" cy="([\d.]+)"', chart)
    assert dots == [("12.00", "160.0"), ("56.00", "47.5"), ("100.00", "10.0")]
    whiskers = re.findall(
        r'class="whisker" x1="56.00%" x2="56.00%" y1="([\d.]+)" y2="([\d.]+)"', chart
    )
    assert whiskers == [("85.0", "28.8")]
    assert '<line class="limit" x1="56.00%" x2="56.00%"' in chart
    assert '<line class="limit" x1="12%" x2="100%" y1="85.0" y2="85.0"/>' in chart
    assert plot([Line(points=[])], x, y, "said") == ""


# -- the terminal ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ALL if name != "foreign"])
@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_keeps_its_width(name, width):
    assert max(map(len, printed(ALL[name](), width=width).splitlines())) <= width


def test_the_terminal_says_verdict_answer_and_reasons_without_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    said = printed(wrong(), width=400, force_terminal=True).replace("\u00a0", " ")
    assert "✗ Likely wrong" in said
    assert "{Kouile ✗ 87 %}, founded in {1904 ? 66 %} by the {French ✓ 31 %}." in said
    assert re.search(r"\+.*? Answer against rival in the documents speaks for a mistake\.", said)
    assert "| withhold above 62 %" in said
    assert "38;" not in said
    assert "48;" not in said


def test_with_colour_claims_have_a_background_and_no_braces(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    said = printed(wrong(), width=400, force_terminal=True, color_system="truecolor")
    assert re.search(r"\x1b\[30;48;2;240;167;124mKouile ✗ 87\u00a0%\x1b\[0m", said)
    assert "{Kouile" not in said


def test_the_terminal_shows_the_comparison_with_controls():
    said = printed(detector(), width=120)
    assert "0.890 to 0.930" in said
    assert "popularity" in said
    assert "not shown" in said
    assert "Popularity alone" in said
