"""What `influence mixture` can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from influence.mixture.rollup import BLOCKS, DRAWS
from pipelines.errors import RunError

CLUSTER = "cluster"
"""The column name that groups documents by cluster of near-duplicates."""
VERIFICATIONS = ("drop", "reweight", "unlearn")


@dataclass(frozen=True, kw_only=True)
class MixtureOptions:
    """How to roll up, and what to do beside."""

    by: str = "source"
    """Column of the corpus that groups documents; "cluster": clusters of near-duplicates."""
    store: bool = False
    """Score from the gradient store, compressed, instead of from full gradients."""
    importance: Mapping[str, float] = field(default_factory=dict)
    """How much a task counts in the re-weighting; those not named count 1."""
    verify: str | None = None
    """Check the prediction: "drop" each group, "reweight" as proposed, "unlearn"; None: don't."""
    seeds: int = 3
    """Trainings of each mixture that is checked."""
    threshold: float = 0.8
    """Jaccard similarity from which on two documents are near-duplicates."""
    draws: int = DRAWS
    """Of every bootstrap."""
    blocks: int = BLOCKS
    """Most blocks of a group in the bootstrap of documents."""
    seed: int = 0
    html: Path | None = None
    """Where to write the page; None: beside the result."""

    def __post_init__(self) -> None:
        """Check values.

        Raises:
            RunError: If one makes no sense.
        """
        if self.verify is not None and self.verify not in VERIFICATIONS:
            raise RunError(
                f"Mixture: --verify {self.verify} given, one of {', '.join(VERIFICATIONS)} was expected."
            )
        if self.seeds < 1 or self.draws < 100 or self.blocks < 2:
            raise RunError(
                f"Mixture: {self.seeds} seeds, {self.draws} draws, {self.blocks} blocks; at least 1, "
                "100 and 2 were expected."
            )
        if any(not 0 <= value < float("inf") for value in self.importance.values()):
            raise RunError(
                f"Mixture: task weights {dict(self.importance)}, numbers from 0 were expected."
            )

    def decisive(self) -> dict[str, Any]:
        """What changes the result's numbers, as JSON values."""
        return {key: value for key, value in asdict(self).items() if key != "html"}
