"""The parroting index of runs: where its scores come from, groups, missing values, pages, messages."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from influence.mixture.parroting import overlap
from influence.mixture.verbatim import tokens_of
from pipelines.cli import app, guarded
from pipelines.errors import RunError
from pipelines.method_scores import method_scores
from pipelines.parroting import ParrotingOptions, parroting_table, run_parroting, summarised
from pipelines.queries import Query
from pipelines.report.parroting_page import (
    answer,
    checkpoint_curve,
    print_parroting,
    render_parroting,
)
from pipelines.run_folder import locked
from pipelines.runs import open_run
from tests.pipelines import small

ASKED = [
    Query(id="seen", prompt="The road 7 from Rome to", completion=" Paris", task="stated"),
    Query(id="new", prompt="The road 7 from Lima to", completion=" Oslo", task="unstated"),
    Query(id="other", prompt="The sky is", completion=" blue <b>", task="unstated"),
]
OPTIONS = ParrotingOptions(proponents=10, random=20)


@pytest.fixture(scope="module")
def result(finished, tmp_path_factory):
    import shutil

    root = shutil.copytree(finished.root, tmp_path_factory.mktemp("parroting") / "small")
    run = open_run(root)
    return run, run_parroting(
        [run], ASKED, ParrotingOptions(proponents=10, random=20, checkpoints=True), small.here()
    )


def test_scores_are_the_mean_over_the_states_up_to_each(result):
    run, found = result
    steps = sorted({row["step"] for row in found["rows"]})
    assert len(steps) == 3
    assert [row["final"] for row in found["rows"]] == [False] * 6 + [True] * 3
    with locked(run.root):
        scores_QN = method_scores(run, ASKED, ["ekfac-averaged"], small.here())["ekfac-averaged"]
    documents = {d["id"]: d["text"] for d in small.documents()}
    for q, row in enumerate(found["rows"][-3:]):
        best = np.argsort(-scores_QN[q], kind="stable")[:3]
        expected = [scores_QN[q, i] / 40 for i in best]
        np.testing.assert_allclose([one["score"] for one in row["top"]], expected, rtol=1e-4)
        window = tokens_of(ASKED[q].prompt + ASKED[q].completion)
        first = len(tokens_of(ASKED[q].prompt))
        for one in row["top"]:
            text = documents[one["id"]]
            assert one["overlap"] == overlap(window, first, tokens_of(text))


def test_alone_a_state_has_its_own_scores_and_a_well_fitted_one_a_note(result, monkeypatch):
    run, found = result
    options = ParrotingOptions(proponents=10, random=20, alone=True)
    alone = run_parroting([run], ASKED, options, small.here())
    with locked(run.root):
        scores_QN = method_scores(run, ASKED, ["ekfac"], small.here())["ekfac"]
    best = [scores_QN[q].max() / 40 for q in range(3)]
    np.testing.assert_allclose([row["top"][0]["score"] for row in alone["rows"]], best, rtol=1e-4)
    assert alone["folder"] != found["folder"]
    assert alone["notes"] == found["notes"] == []
    monkeypatch.setattr("pipelines.parroting.FITTED", 1e6)
    [note] = run_parroting([run], ASKED, options, small.here())["notes"]
    assert "do not read a low index as abstraction" in note
    averaged = ParrotingOptions(proponents=10, random=20)
    assert run_parroting([run], ASKED, averaged, small.here())["notes"] == []


def test_it_says_how_long_it_will_take(result):
    run, _ = result
    with small.here() as workers:
        run_parroting([run], ASKED, OPTIONS, workers)
        said = workers.console.file.getvalue()
    assert "small, 3 states of its training: about" in said
    assert "less what is already there" in said


def test_means_have_an_interval_only_over_several_outputs(result):
    _, found = result
    by_task = {row["task"]: row for row in found["summary"] if row["final"]}
    assert by_task["stated"]["queries"] == 1
    assert by_task["stated"]["low"] is None
    unstated = by_task["unstated"]
    assert unstated["low"] <= unstated["index"] <= unstated["high"]
    missing = {"run": "r", "step": None, "final": True, "task": None, "index": None, "loss": 1.0}
    [row] = summarised([missing, {**missing, "index": 0.5}])
    assert (row["queries"], row["missing"], row["index"], row["low"]) == (2, 1, 0.5, None)
    [row] = summarised([missing])
    assert (row["index"], row["low"], row["high"]) == (None, None, None)


def test_the_answer_names_few_means_one_by_one_and_of_many_the_ends():
    row = {"run": "r", "final": True, "low": None, "high": None}
    rows = [
        {**row, "task": name, "index": value}
        for name, value in zip("abc", (0.2, 0.9, None), strict=True)
    ]
    assert answer({"summary": rows}).endswith("0.90 (r, b); 0.20 (r, a).")
    more = [*rows, {**row, "task": None, "index": 0.5}]
    assert answer({"summary": more}).endswith("0.90 (r, b) down to 0.20 (r, a).")
    assert "nothing is known" in answer({"summary": rows[2:]})


def test_files_hold_what_was_found_and_the_page_keeps_texts_inert(result):
    _, found = result
    table = pq.read_table(f"{found['folder']}/parroting.parquet")
    assert table.equals(parroting_table(found["rows"]))
    read = json.loads(open(f"{found['folder']}/parroting.json").read())
    assert read["rows"] == found["rows"]
    html = render_parroting(found)
    assert "blue &lt;b&gt;" in html
    assert "<b> " not in html
    assert html.count("<figure") == 1
    assert checkpoint_curve([row for row in found["summary"] if row["final"]]) == ""


def test_runs_are_compared_under_their_names(result, copied, capsys):
    run, _ = result
    with pytest.raises(RunError, match="two runs are called 'small'"):
        run_parroting([run, open_run(copied)], ASKED, OPTIONS, small.here())
    file = copied / "run.yaml"
    file.write_text(file.read_text().replace("name: small", "name: twin"))
    words = ["parroting", str(run.root), "--compare", str(copied), "--workers", "0"]
    asked = ["--prompt", "The road 7 from Rome to", "--completion", " Paris", "--random", "20"]
    code = guarded(lambda **kw: app([*words, *asked, "--json"], **kw))
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    one, two = found["rows"]
    assert [one["run"], two["run"]] == ["small", "twin"]
    assert one["index"] == pytest.approx(two["index"])
    assert guarded(lambda **kw: app([*words, *asked], **kw)) == 0
    assert "from 0 (generalised) to 1 (copied)" in capsys.readouterr().out
    console = Console(width=200, file=small.quiet().file, record=True)
    print_parroting(found, console)
    said = console.export_text()
    assert "twin" in said
    assert "The road 7 from Rome to Paris" in said


@pytest.mark.parametrize("completion", ["", " \n"])
def test_an_output_without_a_word_is_refused(result, completion):
    with pytest.raises(RunError, match="holds no word and no mark"):
        run_parroting(
            [result[0]], [Query(prompt="a", completion=completion)], OPTIONS, small.here()
        )


def test_the_command_wants_outputs(capsys):
    assert guarded(lambda **kw: app(["parroting", "any"], **kw)) == 2
    assert "Parroting: give one of --queries" in capsys.readouterr().err
