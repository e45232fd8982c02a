"""What a search returns.

Axes: Q queries, k rows kept, G groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradients_store.histogram import Histogram


@dataclass(frozen=True, kw_only=True)
class Top:
    """The k strongest rows of each query, strongest first; equal scores: the lower row first."""

    ids: tuple[tuple[str, ...], ...]
    """Document ids ``[Q][k]``."""
    rows: NDArray[np.int64]
    """Rows of the store ``[Q, k]``."""
    scores: NDArray[np.float32]
    """Scores ``[Q, k]``."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over the scored rows, for each query."""

    count: int
    """Rows scored."""
    total: NDArray[np.float64]
    """Sum of scores ``[Q]``."""
    total_squares: NDArray[np.float64]
    """Sum of squared scores ``[Q]``."""


@dataclass(frozen=True, kw_only=True)
class GroupSums:
    """Sums over the scored rows that share the value of a column, such as the source."""

    names: tuple[str, ...]
    """Values of the column, in the order in which they first appear."""
    count: NDArray[np.int64]
    """Rows of each group ``[G]``."""
    total: NDArray[np.float64]
    """Sum of scores ``[Q, G]``."""
    positive: NDArray[np.float64]
    """Sum of the positive scores ``[Q, G]``."""
    negative: NDArray[np.float64]
    """Sum of the negative scores ``[Q, G]``."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What one pass over the store found."""

    proponents: Top
    """The largest scores."""
    opponents: Top
    """The smallest scores, the most negative first."""
    moments: Moments
    """Sums over all scored rows."""
    histograms: tuple[Histogram, ...]
    """One histogram of all scored rows for each query."""
    groups: Mapping[str, GroupSums]
    """Sums by group, for each column asked for."""
