"""Fixtures of the conformance suite: every trap is tested on a toy Llama and on a toy GPT-2."""

from functools import lru_cache

import pytest
import torch

from tests.conformance import setting


@pytest.fixture(autouse=True)
def _one_thread():
    """Toys are too small for threads: on a busy machine these cost twenty times what they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=setting.KINDS)
def toy(request):
    return cached_toy(request.param)


@lru_cache(maxsize=2)
def cached_toy(kind):
    return setting.make_toy(kind)
