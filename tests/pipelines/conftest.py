"""One tiny finished run, shared by all tests here; tests that break things work on a copy."""

import os
import shutil

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from tests.pipelines import small
from tests.toys import save_toy, toy_llama, toy_tokenizer

torch.set_num_threads(1)  # waiting for a second thread costs more than these tiny products


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The YAML of the tiny run, not yet run."""
    return small.write_run(tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="session")
def finished(written, tmp_path_factory):
    """The tiny run, computed in this process; read only."""
    return small.build(written, tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copied(finished, tmp_path):
    """The folder of a copy of the tiny run, below `tmp_path / "runs"`."""
    return shutil.copytree(finished.root, tmp_path / "runs" / "small")


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """A Llama of one block in float32 with a tokenizer that knows its vocabulary."""
    tokenizer = toy_tokenizer(bos=True)
    model = toy_llama(vocab=len(tokenizer), d=16, layers=1, dtype=torch.float32)
    return save_toy(tmp_path_factory.mktemp("toy"), model, tokenizer)
