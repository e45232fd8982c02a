"""A whole run, from documents to traces; what is there is not computed again."""

import json
import shutil

import pytest
import torch

from pipelines.config import RunConfig, read_run
from pipelines.curvature import curvature_key, read_curvature
from pipelines.errors import RunError
from pipelines.gradients import shapes_of, store_key
from pipelines.runs import open_run
from pipelines.store_forms import budget_of, simple_form
from pipelines.worker import ModelSpec, language_model
from tests.pipelines.small import build, digests, documents, on_model, states, traces, write_run


def test_a_run_goes_from_documents_to_a_trace(finished):
    [first, second] = traces(finished)
    assert first["n_documents"] == 40
    assert len(first["proponents"]) + len(first["opponents"]) == 40
    assert first["query"]["completion"] == " Lima"
    assert second["query"]["id"] == "colour"
    assert (finished.root / "traces" / "index.html").is_file()
    for folder in (first["folder"], second["folder"]):
        assert {"trace.json", "scores.parquet", "report.html"} <= {
            p.name for p in (finished.root / folder).iterdir()
        }


def test_every_stage_is_sealed_and_intact(finished):
    from pipelines.run_folder import damaged_files

    stages = (finished.corpus, finished.tokens, finished.curvature, finished.gradients)
    for stage in stages:
        assert stage.is_sealed()
        assert damaged_files(stage) == []
    assert not list(finished.root.rglob("partial"))
    assert not [p for p in finished.root.rglob(".*") if p.name != ".lock"]


def test_a_second_run_computes_nothing(written, copied):
    before = states(copied)
    build(written, copied.parent)
    assert states(copied) == before


@pytest.mark.parametrize(
    ("changes", "new"),
    [
        ({"damping": 0.5}, {"gradients"}),
        ({"store_dtype": "float32"}, {"gradients"}),
        ({"label_seed": 1}, {"curvature", "gradients"}),
        ({"layers": "mlp"}, {"curvature", "gradients"}),
        ({"train_seed": 1}, {"model", "curvature", "gradients"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_changed_setting_makes_new_stages_beside_the_old_bytes(written, copied, changes, new):
    old = digests(copied)
    build(written, copied.parent, **changes)
    after = digests(copied)
    assert {name: after[name] for name in old} == old
    assert {name.split("/")[0] for name in set(after) - set(old)} == new


def test_keys_follow_what_changes_bytes_and_nothing_else(finished):
    config, layers = finished.config, read_curvature(finished.curvature)
    shapes = shapes_of(finished.curvature, layers)

    def keys(**changes):
        changed = RunConfig(**{**config.model_dump(), **changes})
        form = simple_form(changed, layers, shapes, budget_of(changed, 40))
        return (
            curvature_key(changed, finished.tokens, finished.model),
            store_key(changed, finished.curvature, form),
        )

    own = keys()
    for same in (
        {"workers": 3},
        {"partitions": 9},
        {"device": "cuda"},
        {"factor_gigabytes": 0.1},
        {"top": 3},
        {"candidates": 7},
    ):
        assert keys(**same) == own, same
    for changed in (
        {"label_seed": 3},
        {"labels": "empirical"},
        {"layers": "mlp"},
        {"curvature": "kfac"},
        {"curvature_documents": 8},
        {"exact_head": 8},
        {"head_rank": 8},
        {"token_budget": 128},
    ):
        assert keys(**changed)[0] != own[0], changed
    for changed in (
        {"damping": 0.2},
        {"store": "random"},
        {"store": "random", "store_side": 3},
        {"store": "random", "store_seed": 3},
        {"store": "top-eigen", "store_gigabytes": 1e-6},
        {"store_dtype": "float16"},
    ):
        assert keys(**changed)[1] != own[1], changed
    kept = {"store": "top-eigen", "store_gigabytes": 1e-6}  # the same vectors, other columns
    assert keys(**kept, self_influence="estimated")[1] != keys(**kept)[1]


def test_curvlinops_fits_the_same_curvature(written, finished, copied):
    shutil.rmtree(copied / "curvature")
    shutil.rmtree(copied / "gradients")
    other = build(written, copied.parent, fit="curvlinops")
    assert other.curvature.key == finished.curvature.key
    ours, theirs = read_curvature(finished.curvature), read_curvature(other.curvature)
    for name, layer in ours.items():
        largest = float(layer.eigenvalues_OI.max())
        found = theirs[name].eigenvalues_OI
        assert (
            float((found.sum() - layer.eigenvalues_OI.sum()).abs()) < 1e-4 * largest * found.numel()
        )
        assert float(found.max()) == pytest.approx(largest, rel=1e-3)
    # another program's sums, hence other rounding
    assert any(not torch.equal(ours[n].eigenvalues_OI, theirs[n].eigenvalues_OI) for n in ours)


def test_other_documents_are_another_corpus(written, copied, tmp_path):
    rows = documents()
    rows[3]["text"] += " Or so they say."
    old = digests(copied)
    build(write_run(tmp_path / "other", rows), copied.parent)
    after = digests(copied)
    assert {name: after[name] for name in old} == old
    assert len(list((copied / "corpus").iterdir())) == 2


def test_a_moved_run_opens_and_traces_the_same(finished, copied, tmp_path):
    moved = shutil.move(copied, tmp_path / "elsewhere")
    expected = traces(finished)
    found = traces(open_run(moved))
    for a, b in zip(found, expected, strict=True):
        assert a["proponents"] == b["proponents"]
        assert a["opponents"] == b["opponents"]


def test_run_yaml_names_settings_stages_model_and_versions(finished):
    import yaml

    content = yaml.safe_load((finished.root / "run.yaml").read_text())
    assert set(content) == {"settings", "stages", "model", "versions"}
    assert set(content["stages"]) == {"corpus", "tokens", "curvature", "gradients"}
    assert content["model"]["source"].startswith("model/")
    assert "torch" in content["versions"]


def test_a_model_whose_files_changed_is_refused(toy_folder, tmp_path):
    folder = shutil.copytree(toy_folder, tmp_path / "model")
    run = build(write_run(tmp_path, **on_model(folder, max_tokens=48)), tmp_path / "runs")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))
    language_model.cache_clear()
    with pytest.raises(RunError, match=r"fingerprint \w+, \w+ was expected.*changed since.*again"):
        traces(run)
    again = build(tmp_path / "small.yaml", tmp_path / "runs")
    assert again.curvature.key != run.curvature.key
    assert traces(again)


def test_a_spec_without_fingerprint_is_not_compared(toy_folder):
    assert language_model(ModelSpec(source=str(toy_folder), fingerprint="")).name


def test_a_run_without_store_traces_exactly_only(written, copied, tmp_path):
    from pipelines.runs import build_run, open_traced
    from tests.pipelines.small import here

    shutil.rmtree(copied / "gradients")
    with here() as pool:
        run = build_run(read_run(written), copied.parent, pool, store=False)
    assert run.gradients is None
    with pytest.raises(RunError, match="no gradient store"):
        open_traced(run)
    [trace] = traces(run, traces_of_one(), exact=True)
    assert all(row["normalised"] is None for row in trace["proponents"])


def traces_of_one():
    from tests.pipelines.small import QUERIES

    return QUERIES[:1]
