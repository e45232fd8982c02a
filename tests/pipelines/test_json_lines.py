"""Files of one JSON object a line: what is read, and what is said of files that cannot be."""

import json

import pytest

from pipelines.errors import RunError
from pipelines.json_lines import chat_of, check_distinct, read_objects


def test_objects_come_in_order_with_their_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}\n', "utf-8")
    assert read_objects(file, "Who", "things") == [
        (f"Who {file}, line 1", {"a": 1}),
        (f"Who {file}, line 3", {"a": 2}),
    ]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_line_ends_where_json_lines_end(tmp_path, separator):
    text = f"before{separator}after"
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"a": text}, ensure_ascii=False), "utf-8")
    [(_, values)] = read_objects(file, "Who", "things")
    assert values == {"a": text}


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_objects(file, "Who", "things")[0][1] == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty, one JSON object a line was expected"),
        (b"\n \n", "empty, one JSON object a line was expected"),
        (b'{"a": 1}\n{', "line 2: not JSON"),
        (b"[1]", "line 1: a list, a JSON object was expected"),
        (b'{"a": "\xff"}', "not UTF-8 text .* a .jsonl of things was expected"),
    ],
)
def test_a_bad_file_gets_one_message(tmp_path, content, message):
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(RunError, match=message):
        read_objects(file, "Who", "things")


def test_a_missing_file_gets_one_message(tmp_path):
    with pytest.raises(RunError, match=r"Who .*no such file, a .jsonl of things was expected"):
        read_objects(tmp_path / "none.jsonl", "Who", "things")


def test_ids_that_occur_twice_are_named():
    check_distinct(["a", "b"], "Who")
    with pytest.raises(RunError, match="Who: id 'b' occurs twice"):
        check_distinct(["a", "b", "b"], "Who")


def test_a_chat_is_roles_and_contents():
    assert chat_of([{"role": "user", "content": "Hi"}], "Who") == (("user", "Hi"),)


@pytest.mark.parametrize(
    "bad", [None, [], "user", [{"role": "user"}], [{"role": 1, "content": ""}]]
)
def test_what_is_no_chat_is_refused(bad):
    with pytest.raises(RunError, match="Who: messages must be a non-empty list"):
        chat_of(bad, "Who")
