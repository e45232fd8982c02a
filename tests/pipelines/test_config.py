"""A run's YAML: read strictly, with messages that say what to do."""

from pathlib import Path

import pytest
import yaml

from pipelines.config import RunConfig, read_run, validate
from pipelines.demo import demo_config
from pipelines.errors import RunError


def written(tmp_path, **values):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(values), "utf-8")
    return file


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"^Run .*mine\.yaml: model: nothing given, a folder, hub id or \.gguf file"),
        ({"train": "scratch", "model": "gpt2"}, "'gpt2' given together with `train: scratch`"),
        ({"train": "scratch", "heads": 3}, "heads: 3 do not divide hidden_size 128"),
        (
            {"train": "scratch", "curvature": "identity", "store": "top-eigen"},
            "'top-eigen' needs eigenvalues, and curvature is 'identity'",
        ),
        ({"train": "scratch", "data": []}, "data: empty, at least one dataset YAML"),
        ({"train": "scratch", "epoch": 3}, "unknown key `epoch`; did you mean `epochs`?"),
        ({"train": "scratch", "qqqqqq": 3}, "unknown key `qqqqqq`; see README"),
        ({"train": "scratch", "epochs": -1}, "epochs: -1 given; Input should be greater than 0"),
        ({"train": "scratch", "store": "tiny"}, "store: 'tiny' given; Input should be 'auto'"),
        ({"train": "scratch", "name": "a/b"}, "name: 'a/b' given; String should match"),
        ({"train": "scratch", "workers": 0}, "workers: 0 given"),
        ({"train": "scratch", "data": None}, "data: None given"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path, values, message):
    with pytest.raises(RunError, match=message):
        read_run(written(tmp_path, **values))


def test_several_mistakes_are_named_at_once(tmp_path):
    with pytest.raises(RunError, match=r"epochs: -1 given.*unknown key `hed`"):
        read_run(written(tmp_path, train="scratch", epochs=-1, hed=1))


@pytest.mark.parametrize(
    ("content", "message"),
    [("- a\n- b", "list found, `key: value` lines"), ("", "NoneType found"), ("a: [", "not valid")],
)
def test_what_is_no_yaml_of_a_run_is_refused(tmp_path, content, message):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(RunError, match=message):
        read_run(file)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"name: \xff\xfe")
    with pytest.raises(RunError, match="not valid YAML"):
        read_run(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RunError, match="no such file, a YAML was expected"):
        read_run(tmp_path / "none.yaml")


def test_the_name_is_the_files_unless_given(tmp_path):
    assert read_run(written(tmp_path, train="scratch")).name == "mine"
    assert read_run(written(tmp_path, train="scratch", name="other")).name == "other"


def test_paths_count_from_the_yamls_folder_and_names_stay(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "docs.yaml").write_text("")
    config = read_run(written(tmp_path, model="model", data=["docs.yaml", "embedded"]))
    assert config.model == str(tmp_path / "model")
    assert config.data == (str(tmp_path / "docs.yaml"), "embedded")
    assert read_run(written(tmp_path, model="org/name")).model == "org/name"
    assert read_run(written(tmp_path, model="org/name", data="docs.yaml")).data == (
        str(tmp_path / "docs.yaml"),
    )


def test_settings_survive_a_round_trip_through_yaml(tmp_path):
    config = read_run(written(tmp_path, train="scratch", layers=["mlp", "head"], epochs=3))
    stored = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert validate(stored, "here") == config


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        demo_config().epochs = 3


def test_every_field_says_what_it_means():
    source = (Path(__file__).parents[2] / "pipelines" / "config.py").read_text()
    for name in RunConfig.model_fields:
        after = source.split(f"\n    {name}:", 1)[1].split("\n    ", 1)[1]
        assert after.startswith('"""') or '"""' in after[:120], name


def test_the_demo_is_a_valid_run():
    assert demo_config().train == "scratch"
