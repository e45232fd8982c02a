"""Stand-in until the table's file of this name is on main."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is explained."""

    kind: str = "likelihood"
    tokens: tuple[int, int] | None = None


def target_value(target: Target, log_probs: Sequence[Tensor]) -> Tensor:
    """Value in nats."""
    sums = [
        log_p[..., slice(*target.tokens) if target.tokens else slice(None)].sum(-1)
        for log_p in log_probs[:1]
    ] + [log_p.sum(-1) for log_p in log_probs[1:]]
    if target.kind == "contrast":
        return sums[0] - sums[1]
    if target.kind == "meaning":
        return torch.stack(sums).logsumexp(0)
    return sums[0]
