"""Losses per sample, and their targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from smesolve.errors import SmesolveError

__all__ = ["LOSSES", "ROUNDING", "SampleLoss", "class_targets"]

SampleLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs (n, ...), targets (n, ...)) -> one loss per sample (n,), as torch's losses with reduction="none"."""


ROUNDING = 1e-4
"""Largest difference of a sum of probabilities from 1: they may have been rounded to few digits."""


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape != targets.shape:
        raise SmesolveError(
            f"y must have the shape of the module's outputs, {tuple(outputs.shape)}, for loss='squared_error', got "
            f"{tuple(targets.shape)}; a vector becomes one column by y.reshape(-1, 1), and class labels are for "
            "loss='cross_entropy'."
        )
    return (outputs - targets).square().reshape(len(outputs), -1).sum(1) / 2


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy. The gradient of torch's own function has no forward derivative under `python -O`."""
    logs = outputs - outputs.logsumexp(1, keepdim=True)
    if targets.is_floating_point():
        return -(targets * logs).sum(1)
    return -logs.gather(1, targets[:, None])[:, 0]


def class_targets(y: Tensor, outputs: Tensor) -> Tensor:
    """Return targets for loss='cross_entropy', as torch takes them: int64 class indices, or probabilities.

    y holds whole numbers (n,) of any dtype, or probabilities of the classes (n, C), as the outputs have them.

    Raises:
        SmesolveError: targets have another shape, labels are not the index of a class (torch silently leaves out -100),
            or the numbers are not probabilities (their losses might be negative).
    """
    if outputs.ndim != 2:
        raise SmesolveError(
            f"module must map x to outputs (n, classes) for loss='cross_entropy', got shape {tuple(outputs.shape)}; "
            "end it with one output per class."
        )
    samples, classes = outputs.shape
    if y.shape == outputs.shape:
        return _probabilities(y.to(outputs.dtype))
    if y.shape != (samples,):
        raise SmesolveError(
            f"y must hold class indices of shape ({samples},), or class probabilities of shape "
            f"{tuple(outputs.shape)}, for loss='cross_entropy', got shape {tuple(y.shape)}; a column of labels becomes "
            "a vector by y.reshape(-1)."
        )
    labels = y.to(torch.int64)
    wrong = (labels < 0) | (labels >= classes)
    if y.is_floating_point():
        wrong |= labels != y
    if wrong.any():
        found = y.to(torch.float64)[wrong][0].item()
        raise SmesolveError(
            f"y must hold the indices of the classes, whole numbers from 0 to {classes - 1}, for loss='cross_entropy', "
            f"got {found:g}; number the classes from 0, and leave out samples without a label."
        )
    return labels


def _probabilities(y: Tensor) -> Tensor:
    """Return y after checking that it holds non-negative numbers whose sum over the classes is 1 up to rounding."""
    off = (y.sum(1) - 1).abs().max().item()
    if (y < 0).any() or off > ROUNDING:
        got = f"{y.min().item():g} among them" if (y < 0).any() else f"a sum that differs from 1 by {off:.2g}"
        raise SmesolveError(
            f"y must hold class probabilities for loss='cross_entropy', as it has the shape of the module's outputs: "
            f"non-negative numbers with the sum 1 for each sample, got {got}; give the indices of the classes, or "
            "normalise y."
        )
    return y


LOSSES: dict[str, SampleLoss] = {"squared_error": _squared_error, "cross_entropy": _cross_entropy}
"""Losses by name: |f - y|^2 / 2, and cross-entropy with `class_targets`. Add a loss of your own to use it by name."""
