"""The compression benchmark runs on any finished run, and says what a store of that form would have."""

import json
import sys

import pytest

from benchmarks import compression
from pipelines import open_run
from tests.pipelines.small import build, here, write_run

NUMBERS = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose store holds the strongest coordinates, without rounding."""
    folder = tmp_path_factory.mktemp("compression")
    store = {"store": "top-eigen", "store_dtype": "float32", "store_bytes": 4 * NUMBERS + 4}
    return build(write_run(folder, top=2, candidates=10, **store), folder / "runs")


def test_a_form_has_the_fidelity_of_the_store_that_keeps_it(run):
    found = compression.measured(run, [NUMBERS + 4], None, here())
    [form] = [f for f in found["forms"] if f["kind"] == "top-eigen"]
    stored = run.gradients.info()
    assert (form["numbers"], stored["dimension"]) == (NUMBERS, NUMBERS)
    assert form["spearman"] == pytest.approx(stored["fidelity"]["spearman"], abs=2e-4)
    assert form["pearson"] == pytest.approx(stored["fidelity"]["pearson"], abs=2e-4)
    assert form["recall"] == pytest.approx(stored["recall"]["value"], abs=1e-4)
    assert 0.05 < form["spearman"] < 0.999  # else the comparison says nothing
    assert found["recall"] == {"top": 2, "candidates": 10}


def test_it_writes_a_file_a_plot_and_a_table(run, tmp_path, monkeypatch, capsys):
    words = ["compression", str(run.root), "--budgets", "100", "300", "--queries", "3"]
    words += ["--workers", "0", "--out", str(tmp_path / "results"), "--plots", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    compression.main()
    found = json.loads((tmp_path / "results" / "compression-small.json").read_text())
    kinds = {(f["kind"], f["dtype"]) for f in found["forms"]}
    assert {("factors", "int2"), ("top-eigen", "int8"), ("full", "int8")} <= kinds
    assert found["queries"] == 3
    assert found["sampled_documents"] == found["documents"] == 40
    whole = next(f for f in found["forms"] if f["kind"] == "full")
    assert whole["numbers"] == found["parameters"]
    assert whole["spearman"] == pytest.approx(1)
    table = capsys.readouterr().out
    assert f"| {found['parameters'] + 4:,} | whole rows |" in table
    assert len(table.strip().splitlines()) == 4 + len(found["forms"])
    plot = (tmp_path / "compression-small.svg").read_text()
    assert "low-rank factors, int2" in plot
    assert "small: 40 documents, 3 queries" in plot


def test_powers_of_two_are_the_budgets_where_none_are_given(run):
    found = compression.measured(open_run(run.root), None, 2, here())
    sizes = [f["bytes"] for f in found["forms"] if f["kind"] == "top-eigen"]
    assert sizes == [1 << k for k in range(8, 24) if 1 << k < found["parameters"]]
