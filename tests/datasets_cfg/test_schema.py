"""Reading a dataset's YAML: strict, and clear about what is wrong."""

import pytest
from pydantic import ValidationError

from datasets_cfg import DatasetConfig, DatasetError, config_from, read_config, shipped_names

TEXTS = {"name": "t", "format": "jsonl", "paths": ["a.jsonl"]}

MISTAKES = {
    "unknown key": (
        {"text_colum": "body"},
        r"unknown key `text_colum`. Did you mean `text_column`",
    ),
    "no name": ({"name": None}, r"`name` came as None"),
    "unknown format": ({"format": "xml"}, r"`format` came as 'xml'.*'parquet'"),
    "paths not a list": ({"paths": "a.jsonl"}, r"`paths` came as 'a.jsonl'.*\[a.jsonl\]"),
    "no paths": ({"paths": []}, r"format jsonl needs `paths`"),
    "paths of a hub": ({"format": "hub", "hub_id": "a/b"}, r"`paths` came with format hub"),
    "no hub id": ({"format": "hub", "paths": []}, r"format hub needs `hub_id`"),
    "hub id of files": ({"hub_id": "a/b"}, r"`hub_id` came with format jsonl"),
    "split of files": ({"split": "test"}, r"`split` came with format jsonl"),
    "unit of jsonl": ({"one_document_per": "line"}, r"belongs to text"),
    "limit of zero": ({"limit": 0}, r"`limit` came as 0, expected 1 or more"),
    "limit in words": ({"limit": "ten"}, r"`limit` came as 'ten'"),
    "language no": ({"language": False}, r"`language` came as False.*quotes"),
    "prompt alone": ({"prompt_column": "q"}, r"`prompt_column` came without `completion_column`"),
    "completion alone": ({"completion_column": "a"}, r"`completion_column` came without `prompt_c"),
    "two kinds": ({"text_column": "t", "messages_column": "m"}, r"came together, expected one"),
    "two sources": ({"source": "s", "source_column": "s"}, r"`source` and `source_column`"),
    "dropped and used": ({"drop_columns": ["text"]}, r"`text` is used and in `drop_columns`"),
}


@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES)
def test_config_from_refuses_what_does_not_fit(change, message):
    with pytest.raises(DatasetError, match=rf"my.yaml: .*{message}"):
        config_from({**TEXTS, **change}, "my.yaml")


def test_config_from_names_a_missing_key():
    with pytest.raises(DatasetError, match=r"`name` is missing; add a line `name: ...`"):
        config_from({"format": "embedded"}, "my.yaml")


def test_config_from_names_all_that_does_not_fit():
    with pytest.raises(DatasetError, match=r"limit.*source_column"):
        config_from({**TEXTS, "limit": 0, "source": "s", "source_column": "s"}, "my.yaml")


def test_a_config_does_not_change():
    config = config_from(TEXTS, "my.yaml")
    with pytest.raises(ValidationError, match=r"frozen"):
        config.limit = 3


def test_every_setting_says_what_it_means():
    for name, field in DatasetConfig.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_configs_are_valid(name):
    assert read_config(name).name


def test_read_config_reads_a_file(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("name: t\nformat: text\npaths: [a.txt, b.txt]\n")
    config = read_config(path)
    assert config.paths == (str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    assert config.kind == "text"


def test_read_config_names_the_nearest_shipped_one():
    with pytest.raises(DatasetError, match=r"embeded: no such file.*Did you mean `embedded`"):
        read_config("embeded")


FILES = {
    "a list": ("- name\n", "came as list, expected `key: value` lines"),
    "empty": ("", "came as NoneType, expected `key: value` lines"),
    "not yaml": ("name: [t\nformat: x\n", r"line 2: not valid YAML"),
    "a key twice": ("name: t\nname: u\n", r"line 2: not valid YAML \(key `name` is given twice\)"),
    "a typo": ("name: t\nfromat: text\n", "unknown key `fromat`. Did you mean `format`"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_read_config_refuses_a_bad_file(tmp_path, content, message):
    path = tmp_path / "my.yaml"
    path.write_text(content)
    with pytest.raises(DatasetError, match=rf"my.yaml: ?.*{message}"):
        read_config(path)
