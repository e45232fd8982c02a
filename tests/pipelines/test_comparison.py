"""A trace beside other methods: the same query, their own strongest documents, one file of all scores."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipelines import cli
from pipelines.comparison import beside, compare_methods
from pipelines.method_scores import method_scores
from pipelines.report.terminal import print_trace
from pipelines.report.trace_page import render_trace
from pipelines.runs import open_traced
from pipelines.traces import TraceOptions, run_traces
from tests.pipelines.small import QUERIES, here

NAMES = ("ekfac", "identity", "bm25", "random")


@pytest.fixture(scope="module")
def compared(finished):
    with here() as pool:
        return compare_methods(finished, list(QUERIES), NAMES, pool)


@pytest.fixture(scope="module")
def traced(finished, compared):
    options = TraceOptions(top=5, candidates=40, compared=compared)
    with here() as pool:
        return list(run_traces(open_traced(finished), list(QUERIES), options, pool))


def test_scores_are_the_methods_own_and_influence_is_divided_by_n(finished, compared):
    with here() as pool:
        plain = method_scores(finished, list(QUERIES), NAMES, pool)
    np.testing.assert_allclose(compared.scores["ekfac"], plain["ekfac"] / 40)
    np.testing.assert_array_equal(compared.scores["bm25"], plain["bm25"])
    units = {m["name"]: m["unit"] for m in compared.methods}
    assert units["ekfac"] == "nats per document removed"
    assert not any(unit.endswith("times N") for unit in units.values())


def test_ekfac_shares_every_document_with_the_trace_and_has_its_scores(traced):
    for trace in traced:
        entries = {m["name"]: m for m in trace["methods"]}
        assert list(entries) == list(NAMES)
        assert entries["ekfac"]["shared"] == 1.0
        first = entries["ekfac"]["proponents"][0]
        assert first["id"] == trace["proponents"][0]["id"]
        assert first["score"] == pytest.approx(trace["proponents"][0]["score"], rel=1e-4)
        assert 0 <= entries["random"]["shared"] <= 1


def test_documents_stand_in_each_methods_own_order(compared, traced):
    for q, trace in enumerate(traced):
        for entry in trace["methods"]:
            scores_N = compared.scores[entry["name"]][q]
            found = [row["score"] for row in entry["proponents"]]
            assert found == sorted(scores_N.tolist(), reverse=True)[:5]


def test_a_trace_without_proponents_shares_nothing(compared):
    entries = beside(compared, QUERIES[0].name, {"proponents": []})
    assert {entry["shared"] for entry in entries} == {None}


def test_every_document_is_in_the_file_with_units(traced, compared):
    for q, trace in enumerate(traced):
        table = pq.read_table(f"{trace['folder']}/methods.parquet")
        assert table.column_names == ["id", *NAMES]
        assert table.num_rows == 40
        np.testing.assert_array_equal(table.column("bm25"), compared.scores["bm25"][q])
        assert table.schema.metadata[b"ekfac"] == b"nats per document removed"


def test_page_and_terminal_show_the_methods_and_escape_their_texts(traced):
    trace = json.loads(json.dumps(traced[0]))
    trace["methods"][2]["proponents"][0]["text"] = "<script>alert(1)</script>"
    html = render_trace(trace)
    assert "What other methods say" in html
    assert "<script>alert(1)" not in html
    assert "&lt;script&gt;alert(1)" in html
    out = io.StringIO()
    print_trace(trace, Console(file=out, width=120))
    assert "BM25" in out.getvalue()
    assert "What other methods say" not in render_trace({**trace, "methods": []})


def test_the_command_takes_methods_as_words(finished, monkeypatch, capsys):
    words = ["trace", "small", "--runs", str(finished.root.parent), "--workers", "0", "--json"]
    words += ["--prompt", "The sky is", "--completion", " blue", "--methods", "bm25", "random"]
    monkeypatch.setattr("sys.argv", ["influence", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in result["methods"]] == ["bm25", "random"]
