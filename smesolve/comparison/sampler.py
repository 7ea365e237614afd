"""Blocks of paths of one process, or of two on one Brownian motion, as values of observables and control variates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from smesolve.comparison.control_variate import Controls
from smesolve.comparison.path_statistics import PathStatistics
from smesolve.problem.observables import Observable, in_threads
from smesolve.sampling.ensemble import Process, block_of

__all__ = ["PairSampler", "Sampler"]


@dataclass(frozen=True)
class Sampler:
    """Blocks of one process, as values of the observables and of their control variates.

    Memory of a block: B T O (2 + control variates) floats. Memory of its statistics: T O times the number of moments,
    which is 70 for three control variates.
    """

    process: Process
    """The iteration or an integration."""
    theta0: Tensor
    """(D,), the start."""
    saved: Sequence[int]
    """Step numbers of the observations, increasing and positive."""
    observables: Mapping[str, Observable]
    """By name."""
    control: Controls | None
    keep: int = 0
    """Number of paths whose values at the last time are kept."""
    cost: float = 1.0
    """Work of a block, in gradients."""

    @property
    def in_threads(self) -> bool:
        """Whether blocks may run in threads: process, observables and control variates keep nothing between calls."""
        return self.process.in_threads and all(map(in_threads, self.observables.values()))

    @torch.no_grad()
    def values(self, block: int) -> np.ndarray:
        """Run a block and return (2 + control variates, B, T, O): plain values, residuals, control variates."""
        theta = block_of(self.process, self.theta0)
        controls = 0 if self.control is None else self.control.count
        values = theta.new_zeros(2 + controls, self.process.block_size, len(self.saved), len(self.observables))
        row = 0
        for step in range(self.saved[-1]):
            if self.control is None:
                theta = self.process.advance(theta, block, step)
            else:
                taken = self.process.advance_split(theta, block, step)
                add: Callable[[Tensor, int, Any], None] = self.control.add  # `control_of` chose it for these steps
                add(values[2:], step, taken)
                theta = taken.state
            if step + 1 == self.saved[row]:
                alive = theta.isfinite().all(-1)
                for column, observable in enumerate(self.observables.values()):
                    found = observable(theta)
                    found = torch.where(found.isfinite(), found, torch.nan)
                    values[0, :, row, column] = torch.where(alive, found, torch.inf)
                row += 1
        result = values.cpu().numpy().astype(np.float64, copy=False)
        with np.errstate(invalid="ignore"):  # diverged paths are counted, not subtracted
            result[1] = result[0] - result[2:].sum(0)
        return result

    def statistics(self, block: int) -> PathStatistics:
        """Return the statistics of one block, with moments up to the fourth."""
        return self._statistics(self.values(block), block)

    def _statistics(self, values: np.ndarray, block: int) -> PathStatistics:
        keep = max(0, self.keep - block * self.process.block_size)
        return PathStatistics.of(values, self.process.antithetic, 4, keep)

    def run(self, block: int) -> dict[str, np.ndarray]:
        """Return the statistics of one block as arrays."""
        return self.statistics(block).arrays()


@dataclass(frozen=True)
class PairSampler:
    """Blocks of pairs of paths, of two processes on one Brownian motion: the first process, and the difference."""

    PREFIX: ClassVar[str] = "difference "
    """Prefix of the names of the arrays of the difference."""

    first: Sampler
    second: Sampler
    cost: float = 1.0
    """Work of a block, in gradients."""

    @property
    def in_threads(self) -> bool:
        """Whether blocks may run in threads."""
        return self.first.in_threads and self.second.in_threads

    def statistics(self, block: int) -> tuple[PathStatistics, PathStatistics]:
        """Return statistics of the first process, and of first - second with the control variates of both processes."""
        a, b = self.first.values(block), self.second.values(block)
        with np.errstate(invalid="ignore"):  # diverged paths are counted, not subtracted
            gap = a - b  # also of the control variates, as nearly collinear ones would spoil the regression
        difference = PathStatistics.of(np.concatenate([gap, b[2:]]), self.first.process.antithetic, 2)
        return self.first._statistics(a, block), difference

    def run(self, block: int) -> dict[str, np.ndarray]:
        """Return both statistics as arrays, those of the difference under names with a prefix."""
        first, difference = self.statistics(block)
        return first.arrays() | difference.arrays(self.PREFIX)
