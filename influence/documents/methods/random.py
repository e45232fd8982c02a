"""Random scores: what any method must beat.

``s(q, m)`` is a number from -1 to 1 made of hashes of the seed and of both texts, so it depends on
neither the order nor the number of queries and documents; equal texts have equal scores.
Sign and unit: none, by construction.
Known weaknesses: all of them.
Source: ours; the mixing function is that of SplitMix64, Steele et al. (2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from influence.documents.methods.families import TextMethod


def _hashes(kind: str, texts: Sequence[str], seed: int) -> np.ndarray:
    key = f"{kind}|{seed}|".encode()
    digests = (
        blake2b(key + text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for text in texts
    )
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def scores(queries: Sequence[str], documents: Sequence[str], seed: int) -> np.ndarray:
    """A seeded number for every pair of texts.

    Args:
        queries: Texts of the queries.
        documents: Texts of the documents.
        seed: Another seed gives other scores.

    Returns:
        ``[Q, N]`` in float64, uniform in [-1, 1).
    """
    mixed_QN = (
        _hashes("query", queries, seed)[:, None] ^ _hashes("document", documents, seed)[None, :]
    )
    mixed_QN = (mixed_QN ^ (mixed_QN >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed_QN = (mixed_QN ^ (mixed_QN >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_QN = mixed_QN ^ (mixed_QN >> np.uint64(31))
    return (mixed_QN >> np.uint64(11)) * 2.0**-52 - 1.0


METHOD = TextMethod(
    name="random",
    title="Random",
    about="Random numbers, seeded by the texts: what any method must beat.",
    unit="none",
    scores=scores,
)
