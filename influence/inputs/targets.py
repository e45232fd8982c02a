"""What is explained: how likely an output is, alone, against another, or as a set of paraphrases.

Axes: M masks, T tokens of a continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from influence.errors import InputError
from influence.inputs.table import Table

KINDS = ("likelihood", "contrast", "meaning")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A number, in nats, made of the log-probabilities of some continuations' tokens.

    - `likelihood`: of the first continuation, `sum_t log p(t)`.
    - `contrast`: the first rather than the second, `sum_t log p(A_t) - sum_t log p(B_t)`.
    - `meaning`: any continuation of a group, `log sum_k exp sum_t log p(k_t)`; of several groups
      the mean, weighted by their shares.
    """

    kind: str = "likelihood"
    tokens: tuple[int, int] | None = None
    """Columns of the first continuation that count, from and to (not included); None: all."""
    groups: tuple[tuple[int, ...], ...] | None = None
    """For `meaning`: numbers of the continuations that mean the same; None: all of them do."""
    shares: tuple[float, ...] | None = None
    """For `meaning`: weight of each group, in all 1; None: all alike."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            near = get_close_matches(self.kind, KINDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"inputs: target {self.kind!r}, expected one of {', '.join(KINDS)}.{hint}"
            )
        if self.tokens is not None and (self.kind == "meaning" or not _is_span(self.tokens)):
            raise InputError(
                f"inputs: tokens {self.tokens} of a {self.kind}, expected (from, to) with 0 <= from "
                "< to, and none for a meaning, which is of whole outputs."
            )
        if self.kind != "meaning" and (self.groups, self.shares) != (None, None):
            raise InputError(f"inputs: groups of a {self.kind}, expected them for a meaning only.")
        if self.kind == "meaning":
            _check_groups(self.groups, self.shares)


def target_value(target: Target, log_probs: Sequence[Tensor]) -> Tensor:
    """The target as a differentiable function of log-probabilities.

    Args:
        target: What is explained.
        log_probs: For each continuation `[..., T]`, in nats; T differs, what comes before does not.

    Returns:
        `[...]`, in nats.

    Raises:
        InputError: If the continuations do not fit the target.
    """
    _check_continuations(target, [values.shape[-1] for values in log_probs])
    if target.kind == "meaning":
        whole = torch.stack([values.sum(dim=-1) for values in log_probs])
        groups = target.groups or (tuple(range(len(log_probs))),)
        shares = target.shares or (1 / len(groups),) * len(groups)
        likely = [whole[list(group)].logsumexp(dim=0) for group in groups]
        return torch.stack([s * value for s, value in zip(shares, likely, strict=True)]).sum(dim=0)
    start, stop = target.tokens or (0, log_probs[0].shape[-1])
    value = log_probs[0][..., start:stop].sum(dim=-1)
    return value - log_probs[1].sum(dim=-1) if target.kind == "contrast" else value


def values_of(target: Target, table: Table) -> np.ndarray:
    """The target under every mask of a table.

    Args:
        target: What is explained.
        table: Log-probabilities of its continuations.

    Returns:
        `[M]` float64, in nats.
    """
    value = target_value(target, [torch.from_numpy(values) for values in table.log_probs])
    return value.numpy()


def _is_span(tokens: tuple[int, int]) -> bool:
    return len(tokens) == 2 and 0 <= tokens[0] < tokens[1]


def _check_groups(
    groups: tuple[tuple[int, ...], ...] | None, shares: tuple[float, ...] | None
) -> None:
    members = [number for group in groups or () for number in group]
    if groups is not None and (not all(groups) or len(set(members)) < len(members) or not groups):
        raise InputError(
            f"inputs: groups {groups} of continuations, expected disjoint ones that are not empty."
        )
    count = 1 if groups is None else len(groups)
    weights = shares if shares is not None else (1 / count,) * count
    if len(weights) != count or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise InputError(
            f"inputs: shares {shares} of {count} groups of continuations, expected one for each, "
            "none negative, 1 in all."
        )


def _check_continuations(target: Target, lengths: Sequence[int]) -> None:
    last = max((number for group in target.groups or () for number in group), default=0)
    least = 2 if target.kind == "contrast" else last + 1
    if len(lengths) < least:
        raise InputError(
            f"inputs: a {target.kind} of {len(lengths)} continuations, expected {least} or more."
        )
    if target.tokens is not None and target.tokens[1] > lengths[0]:
        raise InputError(
            f"inputs: tokens {target.tokens} of a completion of {lengths[0]} tokens, expected "
            "(from, to) within it."
        )
