"""Fixtures of the conformance suite: every trap is tested on a toy Llama and on a toy GPT-2."""

from functools import lru_cache

import pytest

from tests.conformance import setting


@pytest.fixture(params=setting.KINDS)
def toy(request):
    return cached_toy(request.param)


@lru_cache(maxsize=2)
def cached_toy(kind):
    return setting.make_toy(kind)
