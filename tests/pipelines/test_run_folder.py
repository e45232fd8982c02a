"""Names, keys, atomic writes, seals and the lock."""

import json
import os

import pytest

from pipelines.errors import RunError
from pipelines.run_folder import (
    SEAL,
    Stage,
    clear_leftovers,
    damaged_files,
    explain_os_error,
    key_of,
    locked,
    new_file,
    seal,
    write_json,
)


@pytest.fixture
def stage(tmp_path):
    made = Stage("tokens", "abc", tmp_path)
    write_json(made.path / "a.json", 1)
    write_json(made.path / "more" / "b.json", 2)
    return made


def test_key_of_depends_on_names_and_values_and_not_on_their_order():
    assert key_of(a=1, b=[1, 2]) == key_of(b=(1, 2), a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(b=1), key_of(a="1"), key_of(a=None)}) == 5


def test_a_new_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "deep" / "file"
    with new_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"

    def fail():
        with new_file(path) as temporary:
            temporary.write_text("other")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "half"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_new_file_can_be_read_by_others(tmp_path):
    with new_file(tmp_path / "file") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_seal_holds_checksums_and_what_the_stage_says(stage):
    assert not stage.is_sealed()
    seal(stage, {"count": 3})
    assert stage.is_sealed()
    assert stage.info() == {"count": 3}
    content = json.loads((stage.path / SEAL).read_text())
    assert sorted(content["files"]) == ["a.json", "more/b.json"]
    assert damaged_files(stage) == []


def test_a_seal_leaves_out_partial_sums_and_leftovers(stage):
    write_json(stage.path / "partial" / "c.json", 3)
    write_json(stage.path / ".a.json.xyz", 3)
    write_json(stage.path / ".step-000001" / "d.json", 3)
    seal(stage, {})
    content = json.loads((stage.path / SEAL).read_text())
    assert sorted(content["files"]) == ["a.json", "more/b.json"]


def test_changed_and_missing_files_are_found(stage):
    seal(stage, {})
    (stage.path / "a.json").write_text("2")
    (stage.path / "more" / "b.json").unlink()
    assert damaged_files(stage) == ["a.json", "more/b.json"]


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"info": 3}'])
def test_a_damaged_seal_is_refused(stage, content):
    seal(stage, {})
    (stage.path / SEAL).write_text(content)
    for look in (stage.info, lambda: damaged_files(stage)):
        with pytest.raises(RunError, match=r"its seal can't be read .* Remove this folder"):
            look()


def test_leftovers_of_a_kill_are_cleared_and_nothing_else(stage):
    root = stage.root
    for name in ("tokens/abc/.a.json.x", "tokens/abc/.step-1/file", "tokens/abc/deep/.b.tmp"):
        write_json(root / name, 1)
    for name in (".run.yaml.x", ".lock", "traces/q/.trace.json.x", "run.yaml", "exact/k/.a.x"):
        write_json(root / name, 1)
    clear_leftovers(root)
    left = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    kept = {".lock", "traces/q/.trace.json.x", "run.yaml", "exact/k/.a.x"}
    assert left == {"tokens/abc/a.json", "tokens/abc/more/b.json", *kept}


def test_one_process_at_a_time_works_in_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(RunError, match="another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_errors_of_the_system_say_what_to_do(tmp_path):
    with pytest.raises(OSError) as missing:  # noqa: PT011
        (tmp_path / "none").read_text()
    assert "none: No such file or directory. Check that" in explain_os_error(missing.value)
    full = OSError(28, os.strerror(28), str(tmp_path / "a"))
    assert "no space left" in explain_os_error(full)
