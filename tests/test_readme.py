"""What the README says exists: keys, commands, options, links; and its Python compiles.

`python -m tests.test_readme` prints the table of run keys for the README.
"""

import ast
import inspect
import re
from pathlib import Path

import click
import numpy as np
import pytest
import typer.main

from datasets_cfg import DatasetConfig
from gradients_store import Header, Rows, seal, write_shard
from pipelines import config
from pipelines.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    + list((ROOT / "docs").glob("*.md"))
)
COMMAND_LINE = re.compile(r"^(?:\$ )?influence ([^\n]*(?:\\\n[^\n]*)*)", re.MULTILINE)


def run_keys():
    """Name, default and meaning of each key of a run, as the code states them."""
    tree = ast.parse(inspect.getsource(config))
    [model] = [x for x in tree.body if isinstance(x, ast.ClassDef) and x.name == "RunConfig"]
    meanings = {}
    for field, text in zip(model.body, model.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            meanings[field.target.id] = inspect.cleandoc(text.value.value)
    for name, field in config.RunConfig.model_fields.items():
        yield name, default_of(field), meanings[name]


def default_of(field):
    if field.is_required():
        return "the file's name"
    if isinstance(field.default, tuple):
        return "`" + ", ".join(field.default) + "`"
    return "" if field.default is None else f"`{str(field.default).lower()}`"


def row_of(name, default, meaning):
    return f"| `{name}` | {default} | {meaning} |"


def fenced(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def options_of(command):
    found = set()
    for parameter in command.params:
        if isinstance(parameter, click.Option) or parameter.param_type_name == "option":
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found | {"--help"}


def commands(group=None, path=()):
    """Each command of the program by the words that call it, groups included."""
    group = typer.main.get_command(app) if group is None else group
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())


def command_of(line):
    words = line.replace("\\\n", " ").split()
    for length in (2, 1):
        if tuple(words[:length]) in COMMANDS:
            return COMMANDS[tuple(words[:length])]
    raise AssertionError(f"README names `influence {line}`, which is no command.")


@pytest.mark.parametrize("key", [pytest.param(key, id=key[0]) for key in run_keys()])
def test_every_run_key_stands_in_the_readme_as_in_the_code(key):
    assert row_of(*key) in README, "print the rows with `python -m tests.test_readme`"


def test_the_readme_names_every_dataset_key():
    missing = [name for name in DatasetConfig.model_fields if f"`{name}`" not in README]
    assert missing == []


def test_the_readme_names_every_command():
    missing = [" ".join(path) for path in COMMANDS if f"influence {' '.join(path)}" not in README]
    assert missing == []


@pytest.mark.parametrize("line", COMMAND_LINE.findall(README), ids=lambda line: line[:40])
def test_commands_and_options_in_the_readme_exist(line):
    used = set(re.findall(r"(?<![\w-])--[a-z-]+", re.sub(r'"[^"]*"', "", line)))
    assert used <= options_of(command_of(line))


def test_options_named_in_prose_exist():
    known = set().union(*(options_of(command) for command in COMMANDS.values()))
    others = {"--no-deps", "--constraint", "--editable", "--index-url"}  # pip's
    used = set(re.findall(r"`(--[a-z-]+)", README))
    assert used <= known | others


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), f"{page.name} links to {target}"
            if anchor:
                assert anchor in anchors(file.read_text("utf-8")), f"{page.name}: {target}"


def anchors(text):
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in headings}


@pytest.mark.parametrize("snippet", fenced("python"), ids=lambda snippet: snippet[:30])
def test_python_in_the_readme_compiles(snippet):
    compile(snippet, "README.md", "exec")


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_duckdb_reads_a_store_as_the_readme_says(tmp_path, monkeypatch, capsys, dtype):
    size = 100_001  # more than DuckDB's arrays hold
    vectors = np.random.default_rng(0).standard_normal((3, size)).astype(np.float32)
    ids = ["fact-capital-china-1", "near", "far"]
    vectors[1] += vectors[0]
    header = Header(
        **{name: "x" for name in ("model", "tokenizer", "corpus", "curvature", "curvature_kind")},
        layers=("a",),
        damping=0.1,
        sketch="full",
        sketch_size=size,
        sketch_seed=None,
        sketch_coordinates=None,
        dtype=dtype,
        dimension=size,
        n_documents=3,
        shard_documents=3,
    )
    plain = dict.fromkeys(("n_tokens", "loss", "self_influence", "gradient_norm"), np.ones(3))
    texts = {"source": ["facts"] * 3, "language": ["en"] * 3}
    rows = Rows(id=ids, vector=vectors, **texts, **plain)
    root = tmp_path / "runs/demo/gradients/key/store"
    seal(root, header, [write_shard(root, 0, rows, header)], {})
    monkeypatch.chdir(tmp_path)
    [snippet] = [s for s in fenced("python") if "duckdb" in s]
    exec(compile(snippet, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    found = re.findall(r"│ (near|far) +│ facts +│ +(\S+) │", shown)
    expected = {"near": vectors[1] @ vectors[0] / 3, "far": vectors[2] @ vectors[0] / 3}
    assert [name for name, _ in found] == sorted(expected, key=expected.get, reverse=True)
    for name, nats in found:
        assert float(nats) == pytest.approx(expected[name], rel=0.02, abs=2.0)


def test_run_yamls_in_the_readme_are_valid():
    import yaml

    from datasets_cfg import config_from

    examples = [yaml.safe_load(text) for text in fenced("yaml")]
    assert len(examples) >= 4
    for values in examples:
        if "format" in values:
            config_from(values, "README")
        else:
            config.validate({"name": "example", **values}, "README")


if __name__ == "__main__":
    print("\n".join(row_of(*key) for key in run_keys()))  # noqa: T201
