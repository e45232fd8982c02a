"""The mixture page and tables: no name may act, a missing number is missing, the pictures are right."""

import copy
import io
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pipelines.errors import RunError
from pipelines.report import matrices
from pipelines.report import mixture_reading as reading
from pipelines.report.characters import pieces, visible
from pipelines.report.mixture_page import render_mixture, write_mixture_page
from pipelines.report.mixture_pictures import (
    agreement_plot,
    change_rows,
    half_bars,
    tail_plot,
    task_charts,
)
from pipelines.report.mixture_tables import MADE
from pipelines.report.mixture_terminal import print_mixture
from pipelines.report.numbers import MINUS
from pipelines.report.scales import scale_of
from tests.pipelines import mixture_examples as examples
from tests.pipelines.test_inputs_report import ELEMENTS, NASTY, Page
from tests.pipelines.test_report import paths, without

EVERY = {name: getattr(examples, name) for name in ("example", "bare", "holes", "many")}
SMALL = {name: make for name, make in EVERY.items() if name != "many"}
ALSO = {"ol", "polygon", "circle", "strong", "small", "code"}
CODED = {"effect", "relation", "format", "column", "folder"}
NAN = float("nan")


def poisoned(value: Any, payload: str, key: str = "") -> Any:
    """A copy with a payload behind every string, codes aside."""
    if isinstance(value, dict):
        users = {"scores", "intervals", "path"}
        return {
            k + payload if k in users and not isinstance(v, dict | list) else k: poisoned(
                v, payload, k
            )
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [poisoned(inner, payload, key) for inner in value]
    coded = key in CODED or (key == "kind" and value in reading.CHECKS)
    return value + payload if isinstance(value, str) and not coded else value


def printed(result: dict[str, Any], width: int = 120) -> str:
    out = io.StringIO()
    print_mixture(result, Console(file=out, width=width))
    return out.getvalue()


def shown_of(result: dict[str, Any]) -> str:
    return " ".join(Page(render_mixture(result)).shown.replace("\u00a0", " ").split())


def one_cell(**changes: Any) -> dict[str, Any]:
    """An example in which one cell (arithmetic, textbook) is changed."""
    result = examples.example()
    (cell,) = [c for c in result["cells"] if (c["task"], c["group"]) == ("arithmetic", "textbook")]
    cell.update(changes)
    return result


# -- nothing acts, nothing hides -------------------------------------------------------------------


@pytest.mark.parametrize("payload", NASTY, ids=range(len(NASTY)))
def test_no_string_adds_an_element_or_an_attribute(payload):
    before = Page(render_mixture(examples.example()))
    after = Page(render_mixture(poisoned(examples.example(), payload)))
    assert {tag for tag, _ in after.tags} <= ELEMENTS | ALSO
    known = {name for _, given in before.tags for name in given} | {"class", "title"}
    for _, attrs in after.tags:
        assert set(attrs) <= known
        assert not [name for name in attrs if name.startswith("on")]
    assert after.code == before.code


@pytest.mark.parametrize("payload", NASTY, ids=range(len(NASTY)))
def test_hostile_names_are_shown_as_text(payload):
    texts = "".join(Page(render_mixture(poisoned(examples.example(), payload))).texts)
    start = visible(payload)[:20]
    for name in ("capitals", "textbook", "doc-3", "demo", "en", "intervals are wide."):
        assert name + start in texts


def test_page_and_terminal_hold_no_hidden_characters_outside_of_marks():
    result = poisoned(examples.example(), "\u202e\u200b\x1b[2J")
    assert not [char for char, hidden in pieces(render_mixture(result)) if hidden]
    out = printed(result)
    assert not [char for char, hidden in pieces(out) if hidden]
    assert "[ESC][2J" in out
    assert "[U+202E]" in out


def test_the_terminal_prints_names_and_not_their_markup():
    out = printed(poisoned(examples.example(), "[bold red]"), width=200)
    assert "capitals[bold red]" in out
    assert "textbook[bold red]" in out


def test_the_page_loads_nothing_and_its_links_lead_somewhere(tmp_path):
    page = Page(render_mixture(examples.example()))
    places = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(places)) == len(places)
    for tag, attrs in page.tags:
        assert not {"src", "srcset", "background", "poster", "data", "action"} & set(attrs)
        if tag == "a":
            assert attrs["href"].startswith("#")
            assert attrs["href"][1:] in places
        if tag == "label":
            assert attrs["for"] in places
    assert not re.search(
        r"url\(|@import|https?://", "".join(page.code["style"] + page.code["script"])
    )


@pytest.mark.parametrize("key", ["text", "id", "group", "language"])
def test_a_line_of_100_kb_in_a_suspect_is_cut_and_counted(key):
    result = examples.example()
    result["suspects"][0][key] = "<script>" + "x" * 100_000
    html = render_mixture(result)
    assert "x" * 5_000 not in html
    assert len(html) < len(render_mixture(examples.example())) + 20_000
    if key == "text":
        assert "96,008 more characters" in html


def test_names_of_100_kb_do_not_fill_page_or_terminal():
    long = "n" * 100_000
    result = examples.example(
        tasks=(*examples.TASKS[:5], long), groups=(*examples.SOURCES[:7], long)
    )
    result["notes"] = [long]
    result["suspects"][0]["reasons"] = [{"kind": long, "value": 1, "unit": long, "words": long}]
    html = render_mixture(result)
    assert "n" * 1_200 not in html
    assert len(html) < 3 * len(render_mixture(examples.example()))
    assert "n" * 500 not in printed(result, width=1_000)


# -- links to the data ---------------------------------------------------------------------------


def test_tables_are_linked_where_they_exist(tmp_path):
    folder = tmp_path / "a b#%"
    folder.mkdir()
    for name in ("cells.csv", "cells.parquet", "layers.csv"):
        (folder / name).touch()
    result = {**examples.example(), "folder": str(folder)}
    beside = write_mixture_page(result, folder / "page.html").read_text("utf-8")
    links = [a["href"] for tag, a in Page(beside).tags if tag == "a" and a["href"][0] != "#"]
    assert sorted(links) == ["./cells.csv", "./cells.parquet", "./layers.csv"]
    above = write_mixture_page(result, tmp_path / "page.html").read_text("utf-8")
    assert 'href="./a%20b%23%25/cells.csv"' in above
    elsewhere = write_mixture_page(result, tmp_path / "other" / "page.html").read_text("utf-8")
    assert "cells.csv" not in elsewhere


def test_every_picture_has_its_table():
    html = render_mixture(examples.example())
    for name, make in MADE.items():
        table = make(reading.read(examples.example()), [])
        assert table.rows, name
        assert all(len(row) == len(table.head) for row in table.rows)
        for heading in table.head:
            assert f'<th scope="col">{heading}</th>' in html


# -- missing numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("hole", [None, NAN, float("inf")], ids=str)
def test_a_missing_number_never_shows_as_a_number(hole):
    result = examples.holes(hole)
    before = copy.deepcopy(result)
    shown, out = shown_of(result), printed(result)
    for text in (shown, out):
        assert not re.search(r"\b(nan|inf|null|undefined)\b", text, re.IGNORECASE)
        assert not re.search(r"\bNone\b", text)
        assert not re.search(rf"[+{MINUS}]\d", text), "a score out of nothing"
        assert "( per document)" not in text
    assert repr(result) == repr(before)
    assert "not measured" in shown
    cells = Page(render_mixture(result)).having("missing")
    assert len(cells) >= 2 * len(result["cells"])


def test_without_intervals_nothing_is_said_about_signs():
    result = examples.bare()
    said = reading.findings(reading.read(result))
    assert said[0] == (
        "48 of 48 pairs of task and source have no interval: nothing is said about their sign."
    )
    assert not any("helps" in s or "hurts" in s for s in said[1:])
    page = Page(render_mixture(result))
    assert not page.having("p6")
    assert not page.having("whisker")
    assert len(page.having("unknown")) == 2 * 48 + 1  # and once in the legend
    assert "+7.87n" in printed(result)


def test_every_value_may_be_missing_or_null():
    result = examples.example(("one", "two"), ("a", "b", "c"))
    for path in paths(result):
        if path == ("format",):
            continue
        for value in (..., None):
            changed = without(result, path, value)
            assert "<h1>" in render_mixture(changed), path
            assert printed(changed), path


@pytest.mark.parametrize("result", [{}, {"format": 1, "cells": [], "tasks": []}], ids=str)
def test_an_empty_analysis_says_that_nothing_was_measured(result):
    assert "Nothing was measured yet." in shown_of(result)
    assert "Nothing was measured yet." in printed(result)


def test_another_format_is_refused():
    with pytest.raises(RunError, match=r"format 2, expected 1.*Run `influence mixture` again"):
        render_mixture({"format": 2})
    with pytest.raises(RunError, match="format 2"):
        printed({"format": 2})


# -- what it says ------------------------------------------------------------------------------------


def test_findings_name_who_helps_and_who_hurts_with_units():
    said = reading.findings(reading.read(examples.example()))
    assert said[0] == (
        "“textbook” helps 5 of 6 tasks, most of all “arithmetic” (+7.87 millionths of a nat per "
        "document); it hurts none."
    )
    assert said[1].startswith("“spam” hurts 5 of 6 tasks, most of all “code” (−4.02 millionths")
    assert said[2] == "16 of 48 pairs of task and source can't be told apart from zero."
    assert said[-1] == (
        "Predicted and measured changes agree closely: Spearman +0.86, +0.74 to +0.93, over 48 "
        "pairs. What was named most helpful turned out so for 4 of 6 tasks."
    )


def test_an_unclear_cell_is_never_named_as_help():
    result = examples.example()
    for cell in result["cells"]:
        cell["effect"] = "unclear"
    found = reading.read(result)
    assert not any(line.helped or line.hurt for line in reading.glance(found))
    assert not [s for s in reading.findings(found) if " helps " in s or " hurts " in s]
    assert not [s for s in reading.advice(found) if "find more" in s or "take less" in s]


@pytest.mark.parametrize(
    ("rank", "words"),
    [
        ({"value": 0.86, "low": 0.7, "high": 0.9}, "agree closely"),
        ({"value": 0.6, "low": 0.2, "high": 0.9}, "agree in part"),
        ({"value": 0.3, "low": 0.1, "high": 0.5}, "hardly agree"),
        ({"value": 0.86, "low": -0.1, "high": 0.9}, "can't be told from unrelated"),
        ({"value": None, "low": None, "high": None}, "is not known"),
    ],
)
def test_agreement_is_called_what_it_is(rank, words):
    check = {**examples.example()["verification"], "spearman": rank}
    assert words in reading.agreement(check)


def test_advice_follows_the_check():
    result = examples.example()
    assert not any("--verify" in s for s in reading.advice(result))
    result["verification"]["spearman"]["value"] = 0.2
    assert reading.advice(result)[0].endswith("do not act on them yet.")
    result["verification"] = None
    assert "Run again with --verify drop" in reading.advice(result)[0]


def reweighted(*measured):
    """The example, trained on its proposed weights: a task's measured change with its interval."""
    result = examples.example()
    counts = (0.5, 0.3, 0.2)
    result["reweighting"]["tasks"] = [
        {
            "name": f"t{n}",
            "change": -0.2,
            "low": -0.4,
            "high": -0.1,
            "importance": counts[n],
            "loss": 2.0,
        }
        for n in range(len(measured))
    ]
    rows = [
        {"task": f"t{n}", "group": "proposed weights", "predicted": -0.1, "before": 2.0}
        | dict(zip(("measured", "measured_low", "measured_high"), one, strict=True))
        for n, one in enumerate(measured)
    ]
    check = {"kind": "reweight", "seeds": 2, "rows": rows, "spearman": {"value": 0.9}}
    return {**result, "verification": check}


def test_weights_that_were_trained_on_are_judged_by_what_was_measured():
    """Not by how predicted and measured changes rank: all may rise, in the order predicted."""
    down, up, none, one = (-0.8, -0.9, -0.7), (1.6, 1.5, 1.7), (-0.2, -0.4, 0.2), (0.1, None, None)
    worse = reweighted(up, down, none)
    words = reading.agreement(worse["verification"], worse["reweighting"])
    assert "fell clearly on 1 of 3 tasks and rose clearly on 1" in words
    assert "the loss rises by 13\xa0%" in words  # 1.8 ** 0.5 * 0.6 ** 0.3 * 0.9 ** 0.2
    assert reading.advice(worse)[0].startswith("Do not take the proposed weights")
    assert words.replace("\xa0", " ") in shown_of(worse)
    better = reweighted(down, up, none)
    assert "the tasks gained" in reading.advice(better)[0]
    assert "falls by 9.5\xa0%" in reading.agreement(better["verification"], better["reweighting"])
    assert "falls by 10\xa0%" in reading.reweighting_words(better["reweighting"])
    assert "--seeds 3" in reading.advice(reweighted(one, one))[0]
    assert "told from noise" in reading.agreement(reweighted(one)["verification"])


def test_predicted_changes_stand_as_shares_of_the_losses_where_those_are_known():
    tasks = [
        {"name": name, "change": change, "low": 2 * change, "high": change / 2, "loss": loss}
        for name, change, loss in (("long", -60.0, 300.0), ("short", -0.8, 1.0))
    ]
    found = change_rows({"tasks": tasks})
    assert found["unit"] == "% of the task's loss"
    assert [(row["name"], row["value"]) for row in found["rows"]] == [
        ("short", f"{MINUS}80.0"),
        ("long", f"{MINUS}20.0"),
    ]
    tasks[0]["loss"] = None
    found = change_rows({"tasks": tasks})
    assert found["unit"] == "nats a question"
    assert found["rows"][0]["name"] == "long"


def test_a_predicted_change_counts_only_where_its_interval_is_clear():
    proposal = examples.example()["reweighting"]
    assert "falls clearly on 6 of 6 tasks and rises clearly on none" in reading.reweighting_words(
        proposal
    )
    for task in proposal["tasks"]:
        task["high"] = 1.0
    assert "falls clearly on none of 6" in reading.reweighting_words(proposal)
    for task in proposal["tasks"]:
        task["high"] = None
    assert "no intervals" in reading.reweighting_words(proposal)


def test_means_too_large_for_first_order_are_warned_of_and_notes_stand_at_the_top():
    result = one_cell(mean=2.5)
    said = reading.warnings(result)
    assert "The largest mean is 2.5 nats per document" in said[0]
    assert said[-1] == result["notes"][0]
    assert result["notes"][0] in shown_of(result)


@pytest.mark.parametrize(
    ("values", "unit", "text"),
    [
        ([2.0, -30.0], "nats", "+2.0"),
        ([0.02, -0.03], "thousandths of a nat", "+20.0"),
        ([2e-6, -3e-6], "millionths of a nat", "+2.00"),
        ([2e-9, None], "billionths of a nat", "+2.00"),
        ([2e-13], "billionths of a nat", "+0.000200"),
        ([None, 0.0], "nats", ""),
    ],
)
def test_numbers_of_a_table_share_a_unit(values, unit, text):
    scale = scale_of(values)
    assert scale.unit == unit
    assert scale.text(values[0]) == text
    assert scale.text(NAN) == scale.words(None) == ""


def test_one_outlier_does_not_blank_the_others():
    scale = scale_of([*([2e-6] * 9), 2e-3])
    assert scale.text(2e-6) == "+2.00"
    assert scale.text(2e-3) == "+2,000.00"


# -- pictures ----------------------------------------------------------------------------------------


def test_the_map_colours_by_sign_and_strength_within_a_task():
    matrix = matrices.influence_matrix(examples.example(), "mean")
    rows = dict(matrix.rows)
    column = matrix.columns.index("arithmetic")
    assert rows["textbook"][column].kind == "p6"
    assert rows["spam"][column].kind == "n2"  # 2.07 of 7.87
    assert rows["atlas"][column].kind == "unclear n"
    assert rows["textbook"][column].text == "+7.87"
    assert "helps" in rows["textbook"][column].title
    assert "millionths of a nat per document removed" in matrix.unit
    totals = matrices.influence_matrix(examples.example(), "total")
    assert "whole group removed" in totals.unit
    assert dict(totals.rows)["textbook"][column].text != "+7.87"


def test_unclear_and_missing_cells_have_no_strong_colour():
    matrix = matrices.influence_matrix(one_cell(effect="unclear"), "mean")
    cell = dict(matrix.rows)["textbook"][matrix.columns.index("arithmetic")]
    assert cell.kind == "unclear p"
    assert "not told apart from zero" in cell.title
    matrix = matrices.influence_matrix(one_cell(mean=None), "mean")
    cell = dict(matrix.rows)["textbook"][matrix.columns.index("arithmetic")]
    assert (cell.kind, cell.text) == ("missing", "")


def test_groups_that_act_alike_stand_side_by_side():
    names = ["a", "b", "c", "d"]
    correlation = np.array(
        [[1, -0.8, 0.9, -0.7], [-0.8, 1, -0.7, 0.9], [0.9, -0.7, 1, -0.8], [-0.7, 0.9, -0.8, 1]]
    )
    order = [names[i] for i in matrices.by_likeness(correlation)]
    assert {tuple(sorted(order[:2])), tuple(sorted(order[2:]))} == {("a", "c"), ("b", "d")}
    correlation[0, 1] = correlation[1, 0] = np.nan
    assert sorted(matrices.by_likeness(correlation)) == [0, 1, 2, 3]


def test_shares_of_layers_add_up_to_one_with_the_weaker_ones_together():
    result = examples.example()
    result["layers"] = [
        {"task": task, "layer": f"model.layers.{i}.mlp.up", "total": 0.0, "absolute": 1.0 + i}
        for task in examples.TASKS
        for i in range(100)
    ]
    matrix = matrices.layer_matrix(result)
    assert len(matrix.rows) == matrices.MOST_LAYERS
    assert matrix.rows[-1][0] == "53 weaker layers together"
    rest = sum(1.0 + i for i in range(53)) / sum(1.0 + i for i in range(100))
    assert matrix.rows[-1][1][0].text == f"{100 * rest:.0f}\u00a0%"


def test_layers_without_sizes_show_signed_shares():
    result = examples.example(("one", "two"), ("a", "b", "c"))
    result["layers"] = [
        {"task": "one", "layer": name, "total": total, "absolute": None}
        for name, total in (("up", 3.0), ("down", -1.0))
    ]
    matrix = matrices.layer_matrix(result)
    assert [cells[0].text for _, cells in matrix.rows] == ["+75\u00a0%", f"{MINUS}25\u00a0%"]
    assert [cells[0].kind for _, cells in matrix.rows] == ["p6", "n2"]
    assert "+ helps" in matrix.unit
    result["layers"][0]["total"] = result["layers"][1]["total"] = None
    assert matrices.layer_matrix(result) is None


def test_dots_stand_in_order_with_their_intervals():
    (chart, *_) = task_charts(examples.example())
    names = [row["name"] for row in chart["rows"]]
    assert names[0] == "atlas"
    assert names[-1] == "spam"
    assert [row["kind"] for row in chart["rows"]][:2] == ["pro", "pro"]
    assert chart["rows"][-1]["kind"] == "opp"
    assert "open" in {row["kind"] for row in chart["rows"]}
    assert all("whisker" in row["drawing"] for row in chart["rows"])
    (bare, *_) = task_charts(examples.bare())
    assert {row["kind"] for row in bare["rows"]} == {"neutral"}
    assert not any("whisker" in row["drawing"] for row in bare["rows"])
    (many, *_) = task_charts(examples.many())
    assert len(many["rows"]) == 16
    assert many["left_out"] == 44


def test_a_tail_is_drawn_with_the_slope_of_its_exponent():
    ccdf = [[10.0**k, 10.0 ** (-1.5 * k)] for k in range(5)]
    entry = {"task": "t", "ccdf": ccdf, "tail": {"exponent": 2.5, "from": 1.0}}
    drawn = str(tail_plot(entry))
    points = re.search(r'class="against" points="([^"]+)"', drawn)[1].split()
    (x0, y0), (x1, y1) = (tuple(map(float, point.split(","))) for point in points)
    dots = re.findall(r'<circle class="curve" cx="([\d.]+)%" cy="([\d.]+)"', drawn)
    assert len(dots) == 5
    # the fitted line runs through the first and the last dot: both axes share their frame
    low, high = (0 - 0.06 * 4), (4 + 0.06 * 4)
    assert x0 == pytest.approx(100 * (0 - low) / (high - low), abs=0.01)
    assert x1 == pytest.approx(100 * (4 - low) / (high - low), abs=0.01)
    low, high = -6 - 0.06 * 6, 0 + 0.06 * 6
    assert y0 == pytest.approx(100 - 100 * (0 - low) / (high - low), abs=0.01)
    assert y1 == pytest.approx(100 - 100 * (-6 - low) / (high - low), abs=0.01)
    assert "against" not in str(tail_plot({**entry, "tail": None}))


def test_half_bars_are_sorted_and_tasks_without_help_are_left_out():
    result = examples.example()
    result["concentration"][0] |= {"half": 0, "half_share": 0.0, "curve": [], "ccdf": []}
    bars = half_bars(result)
    assert [bar.label for bar in bars] == list(examples.TASKS[1:])
    assert "No document has a positive score" in shown_of(result)


def test_the_check_draws_a_dot_a_pair_and_marks_wrong_signs():
    row = {"task": "t", "group": "g", "predicted": 0.2, "measured": -0.1}
    rows = [
        row | {"measured_low": -0.2, "measured_high": -0.05},
        row | {"measured": 0.1, "measured_low": 0.05, "measured_high": 0.2},
        row | {"measured_low": -0.2, "measured_high": 0.1},
        row,
        row | {"measured": None},
    ]
    drawn = str(agreement_plot({"rows": rows}))
    assert re.findall(r'<circle class="(\w+)"', drawn) == ["opp", "pro", "neutral", "neutral"]
    assert drawn.count('class="whisker"') == 3
    assert 'class="random"' in drawn
    assert agreement_plot({"rows": [row | {"predicted": None}]}) == ""


def test_suspects_show_reasons_duplicates_and_text():
    result = examples.example()
    page = Page(render_mixture(result))
    texts = " ".join("".join(page.texts).split())
    assert texts.count("and 4 near-duplicates") == 4
    assert "doc-3-0" in texts
    assert "Its influence on itself is 9 times that of its neighbours." in texts
    assert "0.0310 nats per document removed" in texts
    assert "5 documents" in texts


def test_suspects_stand_under_their_strongest_reason_with_how_sure_it_is():
    result = examples.example()
    html, shown = render_mixture(result), shown_of(result)
    for title in ("Hurt many tasks", "Contradicted by similar documents", "Bent the model most"):
        assert f"<h3>{title}</h3>" in html
    own = {reading.sureness(one) for one in result["suspects"]}
    assert own == {"clear", "hint"}
    kinds = dict(reading.by_kind(result["suspects"]))
    assert sum(map(len, kinds.values())) == len(result["suspects"])
    assert all(
        any(reason["kind"] == "duplicate" for reason in one["reasons"])
        for one in kinds["Near-duplicates"]
    )
    assert "clear" in shown
    assert "hint" in shown


def test_a_clear_reason_counts_before_a_hint_and_none_says_nothing():
    hint = {"kind": "hurts", "clear": False}
    clear = {"kind": "duplicate", "clear": True}
    assert reading.by_kind([{"reasons": [hint, clear]}])[0][0] == "Near-duplicates"
    assert reading.sureness({"reasons": [hint, clear]}) == "clear"
    assert reading.sureness({"reasons": [hint]}) == "hint"
    assert reading.sureness({"reasons": [{"kind": "hurts"}]}) == ""
    assert reading.by_kind([{"reasons": []}])[0][0] == "For other reasons"


def test_many_groups_and_tasks_stay_legible():
    result = examples.many()
    page = Page(render_mixture(result))
    assert "22 more tasks" in page.shown
    assert page.having("upright")
    sheets = [attrs for _, attrs in page.having("sheet")]
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in sheets)
    tables = sum(tag == "table" for tag, _ in page.tags)
    wide = len(page.having("index")) - len(page.having("glance"))
    assert len(sheets) == tables - wide


def test_every_picture_says_what_it_is_and_every_cell_has_words():
    page = Page(render_mixture(examples.example()))
    pictures = [attrs for tag, attrs in page.tags if tag == "svg" and "role" in attrs]
    assert pictures
    assert all(attrs["aria-label"] for attrs in pictures)
    shown = shown_of(examples.example())
    for unit in (
        "millionths of a nat per document removed",
        "nats per document removed",
        "a question",
        "mean reciprocal rank",
        "correlation",
    ):
        assert unit in shown


# -- terminal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", EVERY)
def test_the_terminal_fits_and_says_units_and_signs(name, width):
    out = printed(EVERY[name](), width)
    assert max(len(line) for line in out.splitlines() if "Page:" not in line) <= width
    assert "per document removed (+ helps, - hurts)" in out
    assert "? not told apart from zero; n no interval; - not measured" in out
    if name == "example":
        for word in ("textbook", "arithmetic", "+7.87", "+0.15?", f"{MINUS}4.02", "x 2.73"):
            assert word in out
    if name == "many":
        assert "40 weaker sources left out" in " ".join(out.split())
        assert "task 29" in out


@pytest.mark.parametrize("name", EVERY)
def test_the_same_analysis_gives_the_same_page(name):
    assert render_mixture(EVERY[name]()) == render_mixture(EVERY[name]())
