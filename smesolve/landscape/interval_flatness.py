"""Interval flatness: the width of the interval along a direction in which the loss stays below a threshold.

    F_v = |right - left|                                                                                             (1)

with the nearest points on each side of theta along v where the loss is `factor` times the loss at theta; the papers
take 2 (Zhang, Zhou, Xu, arXiv 2111.01022).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.validation import check_callable, check_number, check_tensor

__all__ = ["interval_flatness", "interval_width"]

BISECTIONS = 40
GROWTH = 1.3
"""Factor between the trial distances on the way to the first crossing."""
REACH = 1e3
"""Distance, in norms of theta, from which on the loss is assumed never to cross the threshold."""
CHUNK = 16
"""Points whose loss is computed together."""


@entry_point
def interval_flatness(
    loss: Callable[[Tensor], Tensor], theta: Tensor, directions: Tensor, factor: float = 2.0
) -> np.ndarray:
    """Return F_v (k,) along unit vectors v (k, D): the width of the interval where loss < factor loss(theta).

    Args:
        loss: loss (...,) of parameters (..., D).
        theta: parameters (D,) at the centre.
        directions: unit vectors (k, D).
        factor: threshold in units of the loss at theta, above 1.
    """
    check_callable("loss", loss)
    theta = check_tensor("theta", theta, "D")
    directions = check_tensor("directions", directions, len(theta), ("k",), dtype=theta.dtype)
    check_number("factor", factor, 1.0, remedy="the threshold is factor times the loss at theta")
    return interval_width(loss, theta, directions, factor * loss(theta))


def interval_width(
    loss: Callable[[Tensor], Tensor], theta: Tensor, directions: Tensor, threshold: Tensor
) -> np.ndarray:
    """Return the width (k,), in lengths of the directions (k, D), of the interval around theta where loss < threshold.

    Each side is searched in steps that grow by 30% from 1e-4 |theta| to the first crossing, which is located by
    bisection. A rise and fall of the loss within one such step is missed. The width is NaN where the loss does not
    cross the threshold on one of the sides.
    """
    sides = torch.cat([directions, -directions])
    norm = float(theta.norm()) or 1.0

    def crosses(distance: Tensor) -> Tensor:
        points = [
            loss(theta + part[:, None] * side)
            for part, side in zip(torch.split(distance, CHUNK), torch.split(sides, CHUNK), strict=True)
        ]
        values = torch.cat(points)
        return ~(values < threshold)  # a loss that is not finite has crossed

    low, high = sides.new_zeros(len(sides)), sides.new_full((len(sides),), 1e-4 * norm)
    found = crosses(high)
    while not found.all() and float(high.max()) < REACH * norm:
        low, high = torch.where(found, low, high), torch.where(found, high, GROWTH * high)
        found = found | crosses(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        beyond = crosses(middle)
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    width = torch.where(found, high, torch.nan).reshape(2, -1).sum(0)
    return width.cpu().numpy()
