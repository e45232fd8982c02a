"""The scaling benchmark runs, and its lines, shapes and arithmetic are right."""

import json

import pytest

from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling.lines import line
from benchmarks.scaling.plan import MODELS, Assumptions, plan, work_a_token
from benchmarks.scaling.plots import draw


def test_the_tiny_size_runs_from_end_to_end(tmp_path):
    """All parts but the workers', whose run is that of the pipelines' own tests."""
    records = [
        record
        for part in ("search", "model", "scheduler")
        for record in scaling.measured(part, "tiny")
    ]
    assert {record["part"] for record in records} == {"search", "model", "scheduler"}
    json.dumps(records)
    text = scaling.tables(records)
    assert "| index | documents |" in text
    assert "| 40 | 4 | at once, log 1000 |" in text
    files = draw(records, tmp_path)
    assert [file.name for file in files] == [
        "scaling-search.svg",
        "scaling-model.svg",
        "scaling-scheduler.svg",
    ]
    assert all(file.read_text().startswith("<?xml") for file in files)


def test_a_line_is_found_and_a_curve_is_told():
    straight = line([1, 2, 4, 8], [3.5, 4, 5, 7])
    assert straight.fixed == pytest.approx(3)
    assert straight.slope == pytest.approx(0.5)
    assert straight.off == ()
    square = line([1, 2, 4, 8], [1, 4, 16, 64])
    assert square.off
    assert square.power == pytest.approx(2)


def test_the_shapes_are_those_of_the_models():
    """Parameters of the tracked linear layers, from the models' configurations."""
    small, large = (sum(o * i for o, i in model.layers()) for model in MODELS)
    assert small == 106_168_320  # SmolLM2-135M without embeddings and norms
    assert large == 973_078_528  # Llama-3.2-1B without embeddings and norms


def test_the_arithmetic_follows_from_its_assumptions():
    given = Assumptions()
    work = work_a_token(MODELS[0], given.tokens, given.head_rank)
    once, twice = plan(MODELS[0], given), plan(MODELS[0], Assumptions(documents=2e9))
    assert once["index_hours"] * 3600 * given.gpus * given.flops == pytest.approx(
        1e9 * 512 * work["index"]
    )
    assert once["tasks"] == 1e9 / 4096
    for key in ("index_hours", "tasks", "store_bytes", "scheduler_hours"):
        assert twice[key] == pytest.approx(2 * once[key])
    for key in ("fit_hours", "tasks_a_second", "index_flops_a_token"):
        assert twice[key] == pytest.approx(once[key])
