r"""The Monte-Carlo error of EK-FAC eigenvalues, from repeated draws of labels.

The mean eigenvalue of all layers together is a mean over documents of ``||G_n||^2``.  Two or more
independent draws of the labels of the same documents separate the part of its error that comes from
the labels from the part that comes from the choice of documents.

The partial sums of a fit say more, and cost nothing: they are sums over different documents, so that
their scatter shows the error of every eigenvalue of their total (``sampling_error``).

Axes: O layer outputs, I layer inputs (bias included).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from influence.documents.gradients import backward, squared_norms
from influence.documents.labels import labels_from
from influence.layers import Layer
from influence.text import IGNORED, Batch


@dataclass(frozen=True, kw_only=True)
class EigenvalueNoise:
    """Relative standard errors of the mean eigenvalue of a fit on all documents."""

    labels: float
    """From one draw of labels a document."""
    documents: float
    """From the choice of documents and the labels together."""
    sample: int
    """Documents that these were estimated on."""


@dataclass(frozen=True, kw_only=True)
class SamplingError:
    """Sums behind the relative standard errors that a sample implies; those of two layers add up.

    An eigenvalue counts by the share of it that survives damping, ``Lambda / (Lambda + lambda)``.
    """

    eigenvalues: float
    """Weighted sum of squared relative errors of ``Lambda``."""
    inverse: float
    """Weighted sum of squared relative errors of ``1 / (Lambda + lambda)``, to first order."""
    weight: float
    """Sum of the weights."""

    def relative(self) -> tuple[float, float]:
        """Root mean squares: relative standard errors of an eigenvalue, of a damped inverse."""
        weight = max(self.weight, 1e-300)
        return (self.eigenvalues / weight) ** 0.5, (self.inverse / weight) ** 0.5


USUAL_DAMPING = 0.1
"""Of the mean eigenvalue; a fit does not know the damping that its results will be used with."""


def sampling_error(parts: Iterable[tuple[Tensor, int]], mean_OI: Tensor) -> SamplingError:
    """How far one layer's eigenvalues would be others, had other documents been drawn.

    Args:
        parts: For each part of the documents ``sum_n (Q_S^T G_n Q_A)^2`` and how many they are; at
            least two, of which one at a time is held.
        mean_OI: Their total over all documents, ``Lambda``, in float64.

    Returns:
        The layer's error: of labels and documents together, with parts taken as independent draws.
    """
    variance_OI = torch.zeros_like(mean_OI)
    total = squared = 0
    for part_OI, own in parts:
        variance_OI += (part_OI - own * mean_OI).square()
        total, squared = total + own, squared + own**2
    variance_OI /= total**2 - squared  # unbiased for unequal parts
    damped_OI = (mean_OI + USUAL_DAMPING * mean_OI.mean()).clamp_min(1e-150)
    kept_OI = mean_OI / damped_OI
    relative_OI = torch.where(mean_OI > 0, variance_OI / mean_OI.square(), 0.0)
    return SamplingError(
        eigenvalues=float((kept_OI * relative_OI).sum()),
        inverse=float((kept_OI * variance_OI / damped_OI.square()).sum()),
        weight=float(kept_OI.sum()),
    )


def label_noise(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Sequence[Batch],
    seed: int,
    draws: int,
    documents: int,
) -> EigenvalueNoise:
    """Estimate the error of the mean eigenvalue from several draws on a sample of documents.

    Args:
        model: The causal LM.
        layers: Tracked layers.
        batches: The sample; a row is a document.
        seed: Seed of the draws; they are independent of the fit's own.
        draws: Independent draws, at least 2.
        documents: Documents N of the fit, to which the error is scaled.

    Returns:
        Relative standard errors.
    """
    norms_DN = torch.stack(
        [
            torch.cat([_squared_norms(model, layers, batch, seed, draw) for batch in batches])
            for draw in range(1, draws + 1)
        ]
    ).double()
    mean = float(norms_DN.mean())
    if mean == 0.0:
        return EigenvalueNoise(labels=0.0, documents=0.0, sample=norms_DN.shape[1])
    within = float(norms_DN.var(dim=0).mean())
    overall = float(norms_DN.var(dim=1).mean()) if norms_DN.shape[1] > 1 else within
    return EigenvalueNoise(
        labels=(within / documents) ** 0.5 / mean,
        documents=(overall / documents) ** 0.5 / mean,
        sample=norms_DN.shape[1],
    )


def _squared_norms(
    model: nn.Module, layers: Sequence[Layer], batch: Batch, seed: int, draw: int
) -> Tensor:
    """``||G_n||^2`` of one draw."""
    keys = [f"noise-{int(x)}" for x in batch.document]

    def relabel(batch: Batch, logits_BTV: Tensor) -> Batch:
        targets_BT = batch.targets.clone()
        for row, label in enumerate(labels_from(logits_BTV, batch, keys, seed, draw)):
            targets_BT[row, targets_BT[row] != IGNORED] = torch.from_numpy(label).to(targets_BT)
        return replace(batch, targets=targets_BT)

    total_B = torch.zeros(len(batch.document), device=batch.targets.device)

    def consume(_name: str, inputs_BTI: Tensor, output_BTO: Tensor) -> None:
        nonlocal total_B
        total_B = total_B + squared_norms(inputs_BTI, output_BTO)

    backward(model, layers, batch, consume, relabel)
    return total_B.cpu()
