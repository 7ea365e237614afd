"""Keyed Brownian motion on an integer grid, for torchsde's solvers and for ours."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from smesolve.arguments import POSITIVE, checked
from smesolve.sampling.randomness import keyed_normals

__all__ = ["GivenIncrements", "KeyedBrownian", "grid_steps"]


MOST_STEPS = 2**31
"""Steps of one path, at most: years of computing."""


def grid_steps(duration: float, step: float, what: str, name: str = "dt") -> int:
    """The whole number of steps in `duration`; `what` names the duration and `name` the step in errors.

    Raises:
        ValueError: the step is not positive or does not divide the duration.
    """
    POSITIVE(name, step, {})
    if abs(duration) / step > MOST_STEPS:
        raise ValueError(f"{name}={step:g} would take {duration / step:.2g} steps for {what}={duration:g}; raise it.")
    steps = round(duration / step)
    if abs(steps * step - duration) > 1e-9 * max(abs(duration), step):
        raise ValueError(
            f"{name}={step:g} does not divide {what}={duration:g}; take for example "
            f"{name}={_dividing(duration, step):.12g}."
        )
    return steps


def _dividing(duration: float, step: float) -> float:
    """The largest step up to `step` that divides the duration, of at most three digits if one is near."""
    fewest = max(1, math.ceil(duration / step))
    candidates = [duration / count for count in range(fewest, fewest + min(fewest, 100) + 1)]
    return next((one for one in candidates if abs(float(f"{one:.3g}") - one) < 1e-12 * one), candidates[0])


class KeyedBrownian:
    """Brownian increments (B, M) over intervals of the grid {k dt}, the same whenever they are asked for.

    The normals of grid step k are keyed by (seed, block, k). Over an interval of several grid steps the
    increments add up: a solver with step 2 dt sees the same path as one with step dt. Passed as `bm=` it drives
    `torchsde.sdeint`, whose own Brownian motion is not seeded by `torch.manual_seed`.

    Args:
        paths: B.
        noise_dim: M.
        dt: grid step.
        seed: root seed.
        block: path block; different blocks are independent.
        dtype: of the increments.
        device: of the increments.
    """

    levy_area_approximation = "none"

    @checked
    def __init__(
        self,
        paths: int,
        noise_dim: int,
        dt: float,
        seed: int = 0,
        block: int = 0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = (paths, noise_dim)
        self.dt, self.seed, self.block, self.dtype, self.device = dt, seed, block, dtype, device

    def __call__(self, ta: Any, tb: Any) -> Tensor:
        """W(tb) - W(ta).

        Raises:
            ValueError: the interval does not begin and end on the grid.
        """
        first = grid_steps(float(ta), self.dt, "the interval's begin")
        last = grid_steps(float(tb), self.dt, "the interval's end")
        if first == last:  # in torchsde, whose float sum of steps can end a rounding error before the last time
            return torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        increment = keyed_normals(self.shape, self.seed, self.block, first)
        for step in range(first + 1, last):
            increment += keyed_normals(self.shape, self.seed, self.block, step)
        return increment.mul_(self.dt**0.5).to(dtype=self.dtype, device=self.device)


class GivenIncrements:
    """A Brownian motion in torchsde's sense that returns `value` (B, M) over any interval."""

    levy_area_approximation = "none"

    def __init__(self, value: Tensor) -> None:
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, M)."""
        return tuple(self.value.shape)

    def __call__(self, ta: Any, tb: Any) -> Tensor:
        """The given increment."""
        return self.value
