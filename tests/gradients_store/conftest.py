"""Stores on a local disk and in memory://, made from seeded random rows."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from gradients_store import Header, Rows, Store, open_store, seal, write_shard

QUALITY = {"fidelity": {"pearson": 0.99, "queries": 8}}
DTYPES = ("float32", "float16", "int8", "int4", "int2")


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder that does not exist yet, on each kind of file system."""
    if request.param == "local":
        yield str(tmp_path / "store")
        return
    uri = f"memory://{uuid.uuid4().hex}/store"
    yield uri
    memory = fsspec.filesystem("memory")
    if memory.exists(uri.rsplit("/", 1)[0]):
        memory.rm(uri.rsplit("/", 1)[0], recursive=True)


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def make_header() -> Callable[..., Header]:
    def make(**changes: Any) -> Header:
        fields: dict[str, Any] = {
            "model": "model-1",
            "tokenizer": "tokenizer-1",
            "corpus": "corpus-1",
            "layers": ("h.0", "h.1"),
            "curvature": "curvature-1",
            "curvature_kind": "ekfac",
            "damping": 0.1,
            "sketch": "top-eigen",
            "sketch_size": 6,
            "sketch_seed": 0,
            "sketch_coordinates": "coordinates-1",
            "dtype": "float32",
            "dimension": 6,
            "n_documents": 23,
            "shard_documents": 10,
        }
        return Header(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., Rows]:
    def make(header: Header, index: int = 0, **changes: Any) -> Rows:
        count = header.rows_of_shard(index)
        first = index * header.shard_documents
        draw = np.random.default_rng(index)
        fields: dict[str, Any] = {
            "id": [f"doc-{first + row}" for row in range(count)],
            "source": [("wiki", "web", "läw")[(first + row) % 3] for row in range(count)],
            "language": np.array([("en", "de")[(first + row) % 2] for row in range(count)]),
            "n_tokens": np.arange(count) + 5,
            "loss": draw.random(count) * 9,
            "self_influence": draw.random(count),
            "gradient_norm": draw.random(count),
            "vector": draw.standard_normal((count, header.dimension)).astype(np.float32),
        }
        return Rows(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def make_store(make_rows: Callable[..., Rows]) -> Callable[..., Store]:
    """Write and open a store; `vector_NP` replaces the random vectors."""

    def make(root: str, header: Header, vector_NP: Any = None) -> Store:
        shards = []
        for index in range(header.n_shards):
            first = index * header.shard_documents
            part = slice(first, first + header.shard_documents)
            changes = {} if vector_NP is None else {"vector": vector_NP[part]}
            shards.append(write_shard(root, index, make_rows(header, index, **changes), header))
        seal(root, header, shards, QUALITY)
        return open_store(root, expect=header)

    return make


@pytest.fixture(scope="session")
def written(make_rows: Callable[..., Rows]) -> Callable[[Header], np.ndarray]:
    """The vectors ``[N, P]`` that `make_store` writes."""

    def vectors(header: Header) -> np.ndarray:
        parts = [np.asarray(make_rows(header, i).vector) for i in range(header.n_shards)]
        return np.concatenate(parts)

    return vectors
