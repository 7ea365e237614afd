"""Keyed Brownian motion on an integer grid, for the schemes of this package and for torchsde's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.machine_memory import check_numbers_fit
from smesolve.rounded_number import as_numbers
from smesolve.sampling.randomness import keyed_normals
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import (
    check_choice,
    check_device,
    check_dtype,
    check_integer,
    check_number,
    check_positive,
    check_seed,
)

__all__ = ["KeyedBrownian"]

LEVELS = ("none", "space-time")
"""What a Brownian motion knows of its path besides increments, in torchsde's words."""


class KeyedBrownian:
    """Brownian increments (B, M) over intervals of the grid {k dt}, the same whenever they are asked for.

    The normals of grid step k are keyed by (seed, block, k). Over an interval of several grid steps the increments add
    up, so that a solver with step 2 dt sees the same path as a solver with step dt. Pass it as `bm=` to
    `torchsde.sdeint`, whose own Brownian motion is not seeded by `torch.manual_seed`, or to `smesolve.solve`, to give
    solvers with different steps the same path.

    With levy_area_approximation="space-time" it also knows the time integrals that torchsde's method "srk" asks for:

        U(ta, tb) = int_ta^tb (W(t) - W(ta)) dt,      over one grid step  U = dt (W/2 + H),  H ~ N(0, dt/12).     (1)

    Args:
        paths: B.
        noise_dim: M.
        dt: grid step.
        seed: root seed.
        block: path block; different blocks are independent.
        dtype: of the increments, torch.float64 or torch.float32.
        device: of the increments.
        levy_area_approximation: "none" or "space-time".

    Raises:
        SmesolveError: paths or dt is not positive, an increment would not fit into the machine's memory, or another
            argument has a wrong type or value.
    """

    @entry_point
    def __init__(
        self,
        paths: int,
        noise_dim: int,
        dt: float,
        seed: int = 0,
        block: int = 0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        levy_area_approximation: str = "none",
    ) -> None:
        self.levy_area_approximation: str = check_choice("levy_area_approximation", levy_area_approximation, LEVELS)
        self.shape = (check_integer("paths", paths), check_integer("noise_dim", noise_dim, least=0))
        self.dt, self.seed = check_positive("dt", dt), check_seed("seed", seed)
        self.block = check_integer("block", block, least=0)
        check_numbers_fit(f"paths={paths}, noise_dim={noise_dim}", self.shape[0] * self.shape[1], "take fewer paths")
        self.dtype, self.device = check_dtype("dtype", dtype), check_device("device", device)

    def __repr__(self) -> str:
        return f"KeyedBrownian(paths={self.shape[0]}, noise_dim={self.shape[1]}, dt={self.dt:g}, seed={self.seed})"

    def __call__(self, ta: Any, tb: Any, return_U: bool = False, return_A: bool = False) -> Any:
        """Return W(tb) - W(ta), and with return_U also U(ta, tb) of (1), each (B, M).

        Raises:
            SmesolveError: ta or tb is not a time, the interval does not begin and end on the grid, or it ends before it
                begins; return_U is asked of a Brownian motion without space-time areas, or return_A (the areas between
                two motions) of any.
        """
        if return_A or (return_U and self.levy_area_approximation == "none"):
            asked = "the areas between Brownian motions" if return_A else "time integrals"
            remedy = "take another method" if return_A else "make it with levy_area_approximation='space-time'"
            raise SmesolveError(f"bm, a KeyedBrownian, does not have {asked}, which the method asks for; {remedy}.")
        begin, end = _checked_time("ta", ta), _checked_time("tb", tb)
        first = grid_steps(begin, self.dt, "the interval's begin", least=0)
        last = grid_steps(end, self.dt, "the interval's end", least=0)
        if last < first:
            raise SmesolveError(
                f"the interval must not end before it begins, got ta={begin:g} and tb={end:g}; swap them and take the "
                "increment with the other sign."
            )
        if first == last:  # in torchsde, whose float sum of steps can end a rounding error before the last time
            zero = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
            return (zero, zero) if return_U else zero
        if return_U:
            return self.increment(first, last), self.time_integral(first, last)
        return self.increment(first, last)

    def increment(self, first: int, last: int, block: int | None = None) -> Tensor:
        """Return W(last dt) - W(first dt), 0 <= first < last, of this path block or of another one: (B, M)."""
        if not 0 <= first < last:
            raise SmesolveError(f"the grid steps must be 0 <= first < last, got first={first} and last={last}.")
        block = self.block if block is None else block
        increment = keyed_normals(self.shape, self.seed, block, first)
        for step in range(first + 1, last):
            increment += keyed_normals(self.shape, self.seed, block, step)
        return increment.mul_(self.dt**0.5).to(dtype=self.dtype, device=self.device)

    def time_integral(self, first: int, last: int) -> Tensor:
        """Return U(first dt, last dt) of (1), 0 <= first < last: (B, M)."""
        path = torch.zeros(self.shape, dtype=torch.float64, device="cpu")
        total = torch.zeros_like(path)
        for step in range(first, last):
            increment = keyed_normals(self.shape, self.seed, self.block, step) * self.dt**0.5
            area = keyed_normals(self.shape, self.seed, self.block, step, "areas") * (self.dt / 12) ** 0.5
            total += self.dt * (path + increment / 2 + area)  # (1), from the value at the begin of each step
            path += increment
        return total.to(dtype=self.dtype, device=self.device)


def _checked_time(name: str, time: Any) -> float:
    """Return a time of at least 0. torchsde gives tensors of the dtype of its `ts`."""
    if isinstance(time, Tensor) and time.numel() == 1:
        time = as_numbers(time.detach().reshape(1))[0]
    return check_number(name, time, 0.0, low_allowed=True, remedy="the Brownian motion begins at 0")
