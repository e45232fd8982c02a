"""Changed mixtures: which documents to take away, and how often each one counts.

Axes: N documents, G groups, A changes of the mixture, C clusters of a group, T tasks, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.errors import RunError


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """A mixture, and what its scores predict."""

    names: tuple[str, ...]
    """Of the groups."""
    group_N: np.ndarray
    """Each document's group, 0 to G - 1."""
    cluster_N: np.ndarray
    """Each document's cluster of near-duplicates."""
    tokens_N: np.ndarray
    """Tokens of each document."""
    removed: Callable[[np.ndarray], np.ndarray]
    """From how much of each document is taken away ``[A, N]`` (1: all, -1: it stands twice) to the
    predicted change of losses in nats: ``[A, Q]`` by query, or ``[A, T]`` where scores are known by
    task only (in the order in which tasks first appear; then there are no intervals)."""


def drop_sets(
    predicted: Predicted, tokens: int | None = None, share: float = 1.0, seed: int = 0
) -> dict[str, np.ndarray]:
    """Draw of each group documents of as many tokens, whole clusters at a time.

    Clusters of a group are taken in a random order; one that would exceed the number of tokens is
    passed over. So sets differ by less than the shortest cluster that is left.

    Args:
        predicted: The mixture.
        tokens: Of each group; None: ``share`` of what the smallest group has.
        share: Between 0 and 1.
        seed: Of the draw.

    Returns:
        By group, booleans ``[N]``: the documents to take away.

    Raises:
        RunError: If there is one group only, or one has fewer tokens than asked for.
    """
    if len(predicted.names) < 2:
        raise RunError(
            f"Verification: one group only ({', '.join(predicted.names)}), at least two were expected, "
            "as there is nothing to compare it with. Choose a column with several values."
        )
    tokens_G = np.bincount(predicted.group_N, predicted.tokens_N, len(predicted.names))
    wanted = int(share * tokens_G.min()) if tokens is None else tokens
    short = [
        f"{name} has {int(own):,}"
        for name, own in zip(predicted.names, tokens_G, strict=True)
        if own < wanted
    ]
    if short or wanted < 1:
        raise RunError(
            f"Verification: {wanted:,} tokens of each group to be taken away, but "
            f"{', '.join(short[:5])}. Ask for at most {int(tokens_G.min()):,}, or join small groups."
        )
    sets = {
        name: _drawn(predicted, group, wanted, seed) for group, name in enumerate(predicted.names)
    }
    empty = [name for name, own_N in sets.items() if not own_N.any()]
    if empty:
        raise RunError(
            f"Verification: no document of {', '.join(empty[:5])} has {wanted:,} tokens or fewer, some "
            "were expected. Ask for more tokens."
        )
    return sets


def _drawn(predicted: Predicted, group: int, wanted: int, seed: int) -> np.ndarray:
    rows = np.flatnonzero(predicted.group_N == group)
    _, cluster_n = np.unique(predicted.cluster_N[rows], return_inverse=True)
    tokens_C = np.bincount(cluster_n, predicted.tokens_N[rows])
    taken_C, left = np.zeros(len(tokens_C), dtype=bool), float(wanted)
    for cluster in np.random.default_rng([seed, 21, group]).permutation(len(tokens_C)):
        if tokens_C[cluster] <= left:
            taken_C[cluster] = True
            left -= tokens_C[cluster]
    dropped_N = np.zeros(len(predicted.group_N), dtype=bool)
    dropped_N[rows[taken_C[cluster_n]]] = True
    return dropped_N


def copies_of(predicted: Predicted, weights: Mapping[str, float], seed: int = 0) -> np.ndarray:
    """How often each document counts under weights of the groups.

    Args:
        predicted: The mixture.
        weights: By group, at least 0; groups that are not named keep 1.
        seed: Of the draw of documents that a broken weight counts once more.

    Returns:
        Whole numbers ``[N]``; of a group of weight 1.5, half of the documents count twice.

    Raises:
        RunError: If a group is unknown, a weight is negative, or all are as they are now.
    """
    unknown = sorted(set(weights) - set(predicted.names))
    if unknown or any(not 0 <= weight < np.inf for weight in weights.values()):
        raise RunError(
            f"Verification: weights {dict(weights)} given, numbers from 0 were expected for some of "
            f"{', '.join(predicted.names)}."
        )
    copies_N = np.ones(len(predicted.group_N), dtype=int)
    for name, weight in weights.items():
        group = predicted.names.index(name)
        rows = np.flatnonzero(predicted.group_N == group)
        order = np.random.default_rng([seed, 22, group]).permutation(len(rows))
        copies_N[rows] = int(weight)
        copies_N[rows[order[: round((weight - int(weight)) * len(rows))]]] += 1
    if (copies_N == 1).all():
        raise RunError(
            "Verification: the weights leave every document as it is, a changed mixture was expected. "
            "There is nothing to check."
        )
    return copies_N
