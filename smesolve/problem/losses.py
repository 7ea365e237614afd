"""Losses of one sample each."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

__all__ = ["LOSSES", "SampleLoss"]

SampleLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs (n, ...), targets (n, ...)) -> one loss for each sample (n,), as torch's losses with reduction="none"."""


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"y must have the shape of the module's outputs, {tuple(outputs.shape)}, for loss='squared_error', got "
            f"{tuple(targets.shape)}; a vector becomes one column by y.reshape(-1, 1), and class labels are for "
            "loss='cross_entropy'."
        )
    return (outputs - targets).square().reshape(len(outputs), -1).sum(1) / 2


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


LOSSES: dict[str, SampleLoss] = {"squared_error": _squared_error, "cross_entropy": _cross_entropy}
"""Losses by name: |f - y|^2 / 2, and cross-entropy with class indices; add to it to name one of your own."""
