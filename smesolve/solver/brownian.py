"""Keyed Brownian motion on an integer grid, for torchsde's solvers and for ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smesolve.arguments import checked
from smesolve.rounded_number import as_numbers
from smesolve.sampling.randomness import keyed_normals
from smesolve.solver.time_grid import grid_steps

__all__ = ["GivenIncrements", "KeyedBrownian"]


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
            SmesolveError: the interval does not begin and end on the grid.
        """
        first, last = (
            grid_steps(_number(time), self.dt, f"the interval's {end}", least=0)
            for time, end in ((ta, "begin"), (tb, "end"))
        )
        if first == last:  # in torchsde, whose float sum of steps can end a rounding error before the last time
            return torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        increment = keyed_normals(self.shape, self.seed, self.block, first)
        for step in range(first + 1, last):
            increment += keyed_normals(self.shape, self.seed, self.block, step)
        return increment.mul_(self.dt**0.5).to(dtype=self.dtype, device=self.device)


def _number(time: Any) -> float:
    """A time of torchsde, which is a tensor of the dtype of its `ts`."""
    return as_numbers(time.detach().reshape(1))[0] if isinstance(time, Tensor) else float(time)


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
