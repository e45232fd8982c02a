"""What a run will cost and what looks wrong, before anything is computed."""

import json
import sys

import pytest

from pipelines import cli
from pipelines.config import read_run
from pipelines.doctor import batch_deviation, examine, print_examination, summary
from pipelines.estimate import estimate, in_words, planned_layers
from pipelines.worker import ModelSpec
from tests.pipelines.small import on_model, quiet, write_run


def levels(report):
    return {f["level"] for f in report["findings"]}


def test_a_run_from_scratch_is_examined_without_computing_anything(written, tmp_path):
    report = examine(read_run(written), tmp_path / "runs")
    assert report["documents"] == 40
    assert report["exists"] is False
    assert [cost["stage"] for cost in report["costs"]] == ["training", "curvature", "gradients"]
    assert all(cost["seconds"] >= 0 and cost["disk"] > 0 for cost in report["costs"])
    assert not (tmp_path / "runs").exists()
    print_examination(report, quiet())


def test_a_finished_run_is_known(written, finished):
    assert examine(read_run(written), finished.root.parent)["exists"] is True


def test_a_models_folder_is_examined(toy_folder, tmp_path):
    report = examine(read_run(write_run(tmp_path, **on_model(toy_folder))), tmp_path)
    assert report["layers"] == 8
    assert [cost["stage"] for cost in report["costs"]] == ["curvature", "gradients"]
    said = " ".join(finding["what"] for finding in report["findings"])
    assert "are cut into chunks" in said
    assert "in a padded batch differ by" in said
    print_examination(report, quiet())


def test_a_head_that_is_not_tracked_is_warned_of(toy_folder, tmp_path):
    settings = on_model(toy_folder, layers="mlp")
    report = examine(read_run(write_run(tmp_path, **settings)), tmp_path)
    assert any("head is not tracked" in f["what"] for f in report["findings"])
    assert "warning" in levels(report)


def test_a_full_disk_is_an_error_and_exit_code_2(written, tmp_path, monkeypatch, capsys):
    values = {**json.loads(written.read_text()), "store_gigabytes": 1e9}
    other = written.with_name("huge.yaml")
    other.write_text(json.dumps(values))
    arguments = ["influence", "doctor", str(other), "--runs", str(tmp_path), "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert cli.guarded(cli.app) == 2
    report = json.loads(capsys.readouterr().out)
    assert "error" in levels(report)


def test_gradients_do_not_depend_on_the_batch(toy_folder):
    assert batch_deviation(ModelSpec(source=str(toy_folder), fingerprint="")) < 1e-4


def test_estimates_grow_with_documents_and_shrink_with_workers(written):
    config = read_run(written)
    layers = planned_layers(config)

    def seconds(documents, workers):
        costs = estimate(config, layers, documents, 100 * documents, workers)
        return {cost.stage: (cost.work, cost.disk) for cost in costs}, costs

    small, _ = seconds(100, 1)
    large, _ = seconds(200, 1)
    assert all(large[n][0] > small[n][0] for n in small)
    assert large["gradients"][1] == 2 * small["gradients"][1]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s"), (60, "about 60 s"), (600, "about 10 min"), (9000, "about 2.5 h")],
)
def test_durations_are_told_as_people_do(seconds, words):
    assert in_words(seconds) == words


def test_a_summary_is_json(finished):
    assert json.loads(json.dumps(summary(finished)))["corpus"]["documents"] == 40
