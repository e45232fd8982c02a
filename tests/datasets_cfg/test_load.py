"""Files of every kind -> the project's columns; mistakes -> one clear message each."""

import bz2
import gzip
import json
import logging

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets_cfg import CANONICAL, DatasetError, config_from, load

datasets.disable_progress_bars()

ROWS = [{"text": "one fish", "n": 1}, {"text": "two fish", "n": 2}]
CHAT = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello, é."}]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def read(folder, tmp_path):
    """Load files of the folder, the last path of which may be a pattern."""

    def call(form, *names, **settings):
        paths = [name if "://" in name else str(folder / name) for name in names]
        config = config_from({"name": "t", "format": form, "paths": paths, **settings}, "my.yaml")
        return load(config, cache_dir=tmp_path / "cache")

    return call


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_parquet(path):
    pq.write_table(pa.Table.from_pylist(ROWS), path)


WRITERS = {
    "parquet": ("a.parquet", write_parquet),
    "jsonl": ("a.jsonl", lambda path: path.write_text(lines(ROWS))),
    "json array": ("a.json", lambda path: path.write_text(json.dumps(ROWS, indent=1))),
    "jsonl gz": ("a.jsonl.gz", lambda path: path.write_bytes(gzip.compress(lines(ROWS).encode()))),
    "jsonl bz2": ("a.jsonl.bz2", lambda path: path.write_bytes(bz2.compress(lines(ROWS).encode()))),
    "csv": ("a.csv", lambda path: path.write_text("text,n\none fish,1\ntwo fish,2\n")),
    "txt": ("a.txt", lambda path: path.write_text("one fish\n\ntwo fish\n")),
    "txt gz": ("a.txt.gz", lambda path: path.write_bytes(gzip.compress(b"one fish\n\ntwo fish\n"))),
}


def format_of(name):
    stem = name.removesuffix(".gz").removesuffix(".bz2").rpartition(".")[2]
    return {"json": "jsonl", "txt": "text"}.get(stem, stem)


@pytest.mark.parametrize(("name", "write"), WRITERS.values(), ids=WRITERS)
def test_load_reads_files_of_every_kind(read, folder, name, write):
    write(folder / name)
    done = read(format_of(name), name)
    assert tuple(done.column_names[:8]) == CANONICAL
    assert done["text"][:] == ["one fish", "two fish"]
    assert set(done["kind"]) == {"text"}
    assert set(done["source"]) == {"t"}
    assert set(done["language"]) == {"und"}
    assert done["prompt"][:] == done["messages"][:] == [None, None]
    assert all(done.features[column].dtype == "string" for column in CANONICAL)
    if "n" in done.column_names:
        assert done["n"][:] == [1, 2]


@pytest.mark.parametrize(("name", "write"), WRITERS.values(), ids=WRITERS)
def test_load_writes_nothing_beside_the_data(read, folder, name, write):
    write(folder / name)
    read(format_of(name), name)
    assert [path.name for path in folder.iterdir()] == [name]


def test_load_takes_several_globs_each_file_once(read, folder):
    for name in ("a1.jsonl", "a2.jsonl", "b1.jsonl"):
        (folder / name).write_text(lines([{"text": name}]))
    done = read("jsonl", "a*.jsonl", "b?.jsonl", "a1.jsonl")
    assert done["text"][:] == ["a1.jsonl", "a2.jsonl", "b1.jsonl"]


def test_load_takes_a_folder_and_what_lies_below_it(read, folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "a.jsonl").write_text(lines([{"text": "deep"}]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines([{"text": "flat"}]).encode()))
    (folder / "notes.txt").write_text("not data")
    (folder / ".hidden.jsonl").write_text("not data")
    assert sorted(read("jsonl", ".")["text"]) == ["deep", "flat"]


def test_load_takes_a_name_with_glob_characters_as_it_stands(read, folder):
    (folder / "a[1].jsonl").write_text(lines([{"text": "odd"}]))
    (folder / "a1.jsonl").write_text(lines([{"text": "plain"}]))
    assert read("jsonl", "a[1].jsonl")["text"][:] == ["odd"]


def test_load_takes_file_urls(read, folder):
    (folder / "a.jsonl").write_text(lines(ROWS))
    assert len(read("jsonl", f"file://{folder}/*.jsonl")) == 2


def test_load_takes_urls_of_other_storage(read, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a1.jsonl", lines(ROWS).encode())
    memory.pipe("/bucket/a2.jsonl", lines([{"text": "red fish", "n": 3}]).encode())
    try:
        assert read("jsonl", "memory://bucket/a*.jsonl")["n"][:] == [1, 2, 3]
    finally:
        memory.rm("/bucket", recursive=True)


def test_load_explains_that_offline_mode_reads_no_other_storage(read, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a1.jsonl", lines(ROWS).encode())
    try:
        with pytest.raises(DatasetError, match=r"HF_HUB_OFFLINE is set.*Unset it"):
            read("jsonl", "memory://bucket/a1.jsonl")
    finally:
        memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("unit", "texts"),
    [("line", ["a", "b", "c"]), ("paragraph", ["a\nb", "c"]), ("file", ["a\nb\n\nc\n"])],
)
def test_load_cuts_text_files_as_asked(read, folder, unit, texts):
    (folder / "a.txt").write_text("a\nb\n\nc\n")
    assert read("text", "a.txt", one_document_per=unit, skip_empty=True)["text"][:] == texts


def test_load_keeps_the_words_of_csv_cells(read, folder):
    (folder / "a.csv").write_text("doc,body,lang,note\n007,12,NA,NA\n008,None,fr,\n")
    done = read("csv", "a.csv", text_column="body", id_column="doc", language_column="lang")
    assert done["id"][:] == ["007", "008"]
    assert done["text"][:] == ["12", "None"]
    assert done["language"][:] == ["NA", "fr"]
    assert done["note"][:] == ["NA", None]


def test_load_names_columns_and_keeps_the_others(read, folder):
    row = {"key": 7, "body": "x y", "site": "blog", "lang": "de", "tags": ["a"], "waste": 1}
    (folder / "a.jsonl").write_text(lines([row]))
    columns = {"text_column": "body", "id_column": "key", "source_column": "site"}
    done = read("jsonl", "a.jsonl", **columns, language_column="lang", drop_columns=["waste"])
    assert done.column_names == [*CANONICAL, "tags"]
    expected = {"id": "7", "source": "blog", "language": "de", "text": "x y", "tags": ["a"]}
    assert {key: done[0][key] for key in expected} == expected


def test_load_joins_prompts_and_completions(read, folder):
    (folder / "a.jsonl").write_text(lines([{"q": "1 + 1 =", "a": " 2"}]))
    done = read("jsonl", "a.jsonl", prompt_column="q", completion_column="a", language="en")
    expected = {"kind": "completion", "text": "1 + 1 = 2", "prompt": "1 + 1 =", "completion": " 2"}
    assert {key: done[0][key] for key in expected} == expected
    assert done[0]["messages"] is None
    assert done[0]["language"] == "en"


@pytest.mark.parametrize("form", [CHAT, json.dumps(CHAT)], ids=["list", "json"])
def test_load_reads_chats(read, folder, form):
    (folder / "a.jsonl").write_text(lines([{"m": form}]))
    done = read("jsonl", "a.jsonl", messages_column="m")
    assert done[0]["kind"] == "chat"
    assert json.loads(done[0]["messages"]) == CHAT
    assert done[0]["text"] == "user: Hi.\nassistant: Hello, é."


def test_load_takes_the_first_rows(read, folder):
    (folder / "a.jsonl").write_text(lines(ROWS))
    assert read("jsonl", "a.jsonl", limit=1)["n"][:] == [1]
    assert len(read("jsonl", "a.jsonl", limit=99)) == 2


def test_ids_are_content_hashes_and_unique(read, folder):
    rows = [{"text": "same", "n": 1}, {"text": "other", "n": 2}, {"text": "same", "n": 3}]
    (folder / "a.jsonl").write_text(lines([*rows, {"text": "same", "n": 4}]))
    first, other, second, third = read("jsonl", "a.jsonl")["id"]
    assert len(first) == 32
    assert (second, third) == (f"{first}-1", f"{first}-2")
    (folder / "b.jsonl").write_text(lines(rows[1:2]))
    assert read("jsonl", "b.jsonl")["id"][:] == [other]


def test_load_drops_empty_documents_when_asked_and_says_how_many(read, folder, caplog):
    (folder / "a.jsonl").write_text(lines([{"text": " "}, *ROWS, {"text": None}]))
    with caplog.at_level(logging.WARNING):
        assert read("jsonl", "a.jsonl", skip_empty=True)["n"][:] == [1, 2]
    assert "t: dropped 2 empty documents" in caplog.text


def test_load_makes_the_embedded_corpus():
    done = load(config_from({**EMBEDDED, "limit": 20}, "embedded.yaml"))
    assert tuple(done.column_names[:8]) == CANONICAL
    assert done[0]["id"].startswith("fact-capital-")
    assert {"fact", "corrupted", "duplicate_of"} <= set(done.column_names)


EMBEDDED = {
    "name": "embedded",
    "format": "embedded",
    "id_column": "id",
    "source_column": "source",
    "language_column": "language",
}

PAIRS = {"prompt_column": "q", "completion_column": "a"}
MISTAKES = {
    "unknown column": (
        '{"body": "x", "n": 1}\n',
        {"text_column": "bodi"},
        r"no column `bodi`. Did you mean `body`\? The data has: body, n",
    ),
    "no text column": ('{"txt": "x"}\n', {}, r"no column `text`. Did you mean `txt`"),
    "unknown dropped column": ('{"text": "x"}\n', {"drop_columns": ["z"]}, "no column `z`"),
    "column with our name": (
        '{"text": "x", "source": "s"}\n',
        {},
        r"column `source`, a name that load gives itself.*`source_column: source`",
    ),
    "empty document": ('{"text": "x"}\n{"text": " "}\n', {}, r"row 2 is empty \(`text`\)"),
    "only empty documents": ('{"text": ""}\n', {"skip_empty": True}, "all 1 documents are empty"),
    "malformed line": (
        '{"text": "x"}\n{"text": oops}\n',
        {},
        r"a.jsonl, line 2: not valid JSON \(Expecting value, column 10\)",
    ),
    "line that is no object": ('{"text": "x"}\n"y"\n', {}, "line 2: came as str, expected an obj"),
    "text is a number": ('{"text": 3}\n', {}, r"row 1, column `text`: came 3 \(int\), expected t"),
    "text is a list": ('{"text": "x"}\n{"text": ["y"]}\n', {}, r"row 2, column `text`: came \['y"),
    "duplicate ids": (
        '{"k": "x1", "text": "a"}\n{"k": "x1", "text": "b"}\n',
        {"id_column": "k"},
        r"id 'x1' comes more than once in column `k` \(the second time in document 2\)",
    ),
    "missing id": (
        '{"k": null, "text": "a"}\n',
        {"id_column": "k"},
        "row 1, column `k`: came None",
    ),
    "missing language": (
        '{"l": "en", "text": "a"}\n{"l": "", "text": "b"}\n',
        {"language_column": "l"},
        "row 2, column `l`: came ''",
    ),
    "prompt without completion": (
        '{"q": "x", "a": "y"}\n{"q": "why", "a": null}\n',
        PAIRS,
        r"row 2 has 'why' but an empty `a`",
    ),
    "completion without prompt": ('{"q": "", "a": "y"}\n', PAIRS, "row 1 has 'y' but an empty `q`"),
    "no prompt and completion": ('{"q": "", "a": ""}\n', PAIRS, "row 1 is empty (`q` and `a`)"),
    "chat that is no json": ('{"m": "hi"}\n', {"messages_column": "m"}, "row 1.*not valid JSON"),
    "chat without role": (
        '{"m": [{"content": "hi"}]}\n',
        {"messages_column": "m"},
        "row 1, column `m`: came .*each with text under `role` and `content`",
    ),
    "empty chat": ('{"m": []}\n', {"messages_column": "m"}, "row 1 is empty"),
}


@pytest.mark.parametrize(("content", "settings", "message"), MISTAKES.values(), ids=MISTAKES)
def test_load_refuses_documents_with(read, folder, content, settings, message):
    (folder / "a.jsonl").write_text(content)
    pattern = message.replace("(`q` and `a`)", r"\(`q` and `a`\)")
    with pytest.raises(DatasetError, match=rf"^t: .*{pattern}"):
        read("jsonl", "a.jsonl", **settings)


def test_load_names_a_missing_file_and_its_neighbour(read, folder):
    (folder / "texts.jsonl").write_text(lines(ROWS))
    with pytest.raises(DatasetError, match=r"no file `.*text.jsonl`.*Did you mean `texts.jsonl`"):
        read("jsonl", "text.jsonl")


def test_load_names_a_glob_without_match(read):
    with pytest.raises(DatasetError, match=r"no file matches `.*\*.jsonl`"):
        read("jsonl", "*.jsonl")


def test_load_names_a_folder_without_data(read, folder):
    (folder / "a.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"holds no .parquet or .pq file"):
        read("parquet", ".")


def test_load_names_storage_that_is_not_known(read):
    with pytest.raises(DatasetError, match=r"`nowhere://a.jsonl` cannot be listed"):
        read("jsonl", "nowhere://a.jsonl")


def test_load_names_an_empty_file(read, folder):
    (folder / "a.jsonl").write_text(lines(ROWS))
    (folder / "b.jsonl").write_text("")
    with pytest.raises(DatasetError, match=r"b.jsonl is empty \(0 bytes\)"):
        read("jsonl", "*.jsonl")


@pytest.mark.parametrize("form", ["jsonl", "csv", "text"])
def test_load_names_a_compressed_file_without_content(read, folder, form):
    name = {"jsonl": "a.jsonl.gz", "csv": "a.csv.gz", "text": "a.txt.gz"}[form]
    (folder / name).write_bytes(gzip.compress(b""))
    with pytest.raises(DatasetError, match=r"^t: .*(no documents|could not be read)"):
        read(form, name)


def test_load_names_a_file_of_another_format(read, folder):
    (folder / "a.csv").write_text("text\nx\n")
    with pytest.raises(DatasetError, match=r"looks like csv, but format is jsonl"):
        read("jsonl", "a.csv")


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv"])
def test_load_names_the_line_that_is_not_utf8(read, folder, name):
    start = b'{"text": "' if name == "a.jsonl" else b"text\n"
    end = b'"}\n' if name == "a.jsonl" else b"\n"
    (folder / name).write_bytes(start + b"caf\xe9 au lait" + end)
    with pytest.raises(DatasetError, match=r"not UTF-8"):
        read(format_of(name), name)


def test_load_names_a_broken_parquet_file(read, folder):
    (folder / "a.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DatasetError, match=r"a.parquet, could not be read: .*of this format"):
        read("parquet", "a.parquet")


def test_load_names_a_broken_json_array(read, folder):
    (folder / "a.json").write_text('[{"text": "a"}, {"text": ]')
    with pytest.raises(DatasetError, match=r"a.json, .*not valid JSON|a.json, could not be read"):
        read("jsonl", "a.json")


def test_load_names_a_crooked_csv_line(read, folder):
    (folder / "a.csv").write_text("text,n\na,1\nb,2,3,4\n")
    with pytest.raises(DatasetError, match=r"line 3"):
        read("csv", "a.csv")


def test_load_names_files_with_other_columns(read, folder):
    (folder / "a.jsonl").write_text(lines(ROWS))
    (folder / "b.jsonl").write_text(lines([{"body": "x"}]))
    with pytest.raises(DatasetError, match=r"2 files of format jsonl.*same columns"):
        read("jsonl", "*.jsonl")


def test_load_names_a_hub_dataset_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    config = config_from({"name": "t", "format": "hub", "hub_id": "no/such-data"}, "my.yaml")
    with pytest.raises(DatasetError, match=r"hub dataset `no/such-data` \(split train\) could not"):
        load(config, cache_dir=tmp_path)


def test_load_never_runs_code_of_a_dataset(monkeypatch, tmp_path):
    seen = {}

    def record(*args, **options):
        seen.update(options)
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", record)
    config = config_from({"name": "t", "format": "hub", "hub_id": "a/b"}, "my.yaml")
    assert len(load(config, cache_dir=tmp_path)) == 2
    assert "trust_remote_code" not in seen
