"""Notebooks run from the first cell to the last on a tiny run, and are stored without output."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.pipelines import small

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUESTION = {
    "INFLUENCE_PROMPT": "The road 3 from Oslo to",
    "INFLUENCE_COMPLETION": " Lima",
    "INFLUENCE_CONTRAST": " Rome",
}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The folder of a run of forty short documents about roads."""
    folder = tmp_path_factory.mktemp("notebooks")
    return small.build(small.write_run(folder / "written"), folder / "runs").root


@pytest.fixture
def kernel_environment(tiny_run, monkeypatch):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    for name, value in {**QUESTION, "INFLUENCE_RUN": str(tiny_run), "PYTHONPATH": path}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # figures are wanted in the notebook
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_on_a_tiny_run(path, kernel_environment):
    notebook = nbformat.read(path, as_version=4)
    done = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    assert any("text/html" in output.get("data", {}) for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_output(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_there_is_a_notebook():
    assert NOTEBOOKS
