"""Means of observables over ensembles, with control variates and standard errors, from streaming statistics.

Antithetic pairs are averaged first: with control variates the odd powers of the noise are most of what is left, and
they cancel in a pair. The coefficients of the control variates come from regression. They are cross-fitted: those used
on one half of the paths were fitted on the other half, so that each term keeps its zero mean exactly and the estimate
its unbiasedness.

No path is kept. Each block leaves the joint moments of its residuals and control variates, one set for each half of it,
which are merged over blocks. The residual is the value less all control variates with coefficient one, near which the
best ones lie (they are Taylor terms of the value): what is left is small, and so no digits are lost to cancellation
when the coefficients are chosen in the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from smesolve.comparison.control_variate import ControlVariate
from smesolve.comparison.draw_control import DrawControl
from smesolve.comparison.observables import Observable
from smesolve.sampling.ensemble import Process, block_of
from smesolve.sampling.moments import Moments

__all__ = ["Estimate", "PairSampler", "Sampler", "Statistics", "draw", "estimate", "merged"]

LARGEST = 1e70
"""A path with a larger value counts as diverged: the fourth powers of values are summed."""

NEGLIGIBLE = 1e-14
"""Control variates whose spread is a smaller share of the values are rounding alone, without mean zero: they get no
coefficient, which would be huge."""

COLLINEAR = 1e-12
"""Directions of the control variates with a smaller share of their correlation matrix get no coefficient."""


@dataclass(frozen=True)
class Estimate:
    """Means over paths for all saved times and observables; arrays (T, O)."""

    mean: np.ndarray
    stderr: np.ndarray
    """Standard error of `mean`, control variates applied."""
    plain_stderr: np.ndarray
    """Standard error of the plain mean of the same paths."""
    kurtosis: np.ndarray
    """Kurtosis of the averaged values (3 for a normal law); far above 100 the standard error cannot be trusted. NaN for
    differences, whose fourth moments are not kept."""
    paths: int
    diverged: int
    """Paths with a value that is not finite or beyond 1e70; with one of them the means are NaN."""


@dataclass(frozen=True)
class Statistics:
    """What is kept of blocks of paths: its size does not depend on their number."""

    shape: tuple[int, int]
    """(T, O): saved times and observables."""
    halves: tuple[Moments, Moments]
    """Of the residuals and the control variates of independent values, at T O points, one for each half of a block."""
    plain: Moments
    """Of the plain values of all paths."""
    diverged: int
    values: np.ndarray
    """Plain values at the last time of the first paths, as many as were asked for (paths, O)."""

    @classmethod
    def of(cls, values: np.ndarray, antithetic: bool, order: int, keep: int = 0) -> Statistics:
        """Of one block.

        Args:
            values: (2 + control variates, B, T, O): the plain values, the residuals, the control variates.
            antithetic: paths b and b + B/2 are a pair.
            order: highest moment.
            keep: number of paths whose values are kept.
        """
        points = values.reshape(*values.shape[:2], -1)
        with np.errstate(invalid="ignore"):
            diverged = int((~(np.abs(points) < LARGEST).all(axis=(0, 2))).sum())
        if diverged:
            points = np.full_like(points, np.nan)
        independent = points[1:]
        if antithetic:
            independent = independent.reshape(len(independent), 2, -1, points.shape[-1]).mean(1)
        middle = independent.shape[1] // 2
        if middle < 1:
            raise ValueError(f"block_size must be at least {4 if antithetic else 2}, got {values.shape[1]}.")
        halves = Moments.of(independent[:, :middle], order), Moments.of(independent[:, middle:], order)
        return cls(values.shape[2:], halves, Moments.of(points[:1], 2), diverged, values[0, :keep, -1].copy())

    @property
    def paths(self) -> int:
        """Paths that were seen."""
        return self.plain.count

    def merged(self, other: Statistics) -> Statistics:
        """Statistics of the paths of both."""
        first, second = (mine.merged(theirs) for mine, theirs in zip(self.halves, other.halves, strict=True))
        return Statistics(
            self.shape,
            (first, second),
            self.plain.merged(other.plain),
            self.diverged + other.diverged,
            np.concatenate([self.values, other.values]),
        )

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """All of it as arrays, for a journal, under names with this prefix; `from_arrays` undoes it."""
        first, second = self.halves
        return {
            f"{prefix}sizes": np.array([*self.shape, len(first.mean), first.order, self.diverged]),
            f"{prefix}first": first.packed(),
            f"{prefix}second": second.packed(),
            f"{prefix}plain": self.plain.packed(),
            f"{prefix}values": self.values,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> Statistics:
        """The statistics that `arrays` gave."""
        times, observables, variables, order, diverged = arrays[f"{prefix}sizes"].tolist()
        first, second = (Moments.unpacked(arrays[prefix + name], variables, order) for name in ("first", "second"))
        plain = Moments.unpacked(arrays[f"{prefix}plain"], 1, 2)
        return cls((times, observables), (first, second), plain, diverged, arrays[f"{prefix}values"])


@dataclass(frozen=True)
class Sampler:
    """Blocks of one process: the observables and their control variates.

    Memory of a block: B T O (2 + control variates) numbers; of its statistics: T O times the number of moments, 70 for
    three control variates.
    """

    process: Process
    """The iteration or an integration."""
    theta0: Tensor
    """(D,), the start."""
    saved: Sequence[int]
    """Step numbers of the observations, increasing and positive."""
    observables: Mapping[str, Observable]
    """By name."""
    control: ControlVariate | DrawControl | None
    """Control variates, or None."""
    keep: int = 0
    """Number of paths whose values at the last time are kept."""
    cost: float = 1.0
    """Work of a block."""

    @torch.no_grad()
    def values(self, block: int) -> np.ndarray:
        """(2 + control variates, B, T, O) float64: plain values, residuals, control variates; one number a path."""
        theta = block_of(self.process, self.theta0)
        controls = 0 if self.control is None else self.control.count
        values = theta.new_zeros(2 + controls, self.process.block_size, len(self.saved), len(self.observables))
        row = 0
        for step in range(self.saved[-1]):
            if self.control is None:
                theta = self.process.advance(theta, block, step)
            else:
                taken = self.process.advance_split(theta, block, step)
                self.control.add(values[2:], step, taken)
                theta = taken.state
            if step + 1 == self.saved[row]:
                for column, observable in enumerate(self.observables.values()):
                    values[0, :, row, column] = observable(theta)
                row += 1
        result = values.cpu().numpy().astype(np.float64, copy=False)
        with np.errstate(invalid="ignore"):  # diverged paths are counted, not subtracted
            result[1] = result[0] - result[2:].sum(0)
        return result

    def statistics(self, block: int) -> Statistics:
        """Of one block, with moments up to the fourth."""
        return self._statistics(self.values(block), block)

    def _statistics(self, values: np.ndarray, block: int) -> Statistics:
        keep = max(0, self.keep - block * self.process.block_size)
        return Statistics.of(values, self.process.antithetic, 4, keep)

    def run(self, block: int) -> dict[str, np.ndarray]:
        """The statistics as arrays."""
        return self.statistics(block).arrays()


@dataclass(frozen=True)
class PairSampler:
    """Pairs of paths of two processes in one block, on one Brownian motion: the first process, and the difference."""

    PREFIX: ClassVar[str] = "difference "
    """Of the names of the arrays of the difference."""

    first: Sampler
    second: Sampler
    cost: float = 1.0
    """Work of a block."""

    def statistics(self, block: int) -> tuple[Statistics, Statistics]:
        """Of the first process, and of first - second with the control variates of both (and no fourth moments)."""
        a, b = self.first.values(block), self.second.values(block)
        with np.errstate(invalid="ignore"):  # diverged paths are counted, not subtracted
            gap = a - b  # of the control variates as well: nearly collinear ones would spoil the regression
        difference = Statistics.of(np.concatenate([gap, b[2:]]), self.first.process.antithetic, 2)
        return self.first._statistics(a, block), difference

    def run(self, block: int) -> dict[str, np.ndarray]:
        """Both statistics as arrays, those of the difference under names with a prefix."""
        first, difference = self.statistics(block)
        return first.arrays() | difference.arrays(self.PREFIX)


def merged(old: Statistics | None, new: Statistics) -> Statistics:
    """Old and new statistics together, where there are old ones."""
    return new if old is None else old.merged(new)


def draw(sampler: Sampler, paths: int) -> Statistics:
    """Statistics of whole blocks, at least so many paths."""
    blocks = range(-(-paths // sampler.process.block_size))
    return reduce(Statistics.merged, (sampler.statistics(block) for block in blocks))


def estimate(statistics: Statistics) -> Estimate:
    """Means and standard errors, each half with the coefficients that were fitted on the other."""
    paths, diverged = statistics.paths, statistics.diverged
    if diverged:
        nothing = np.full(statistics.shape, np.nan)
        return Estimate(nothing, nothing, nothing, nothing, paths, diverged)
    first, second = statistics.halves
    adjusted = first.combined(_weights(second)).merged(second.combined(_weights(first)))
    plain = statistics.plain

    def over_observables(values: np.ndarray) -> np.ndarray:
        return values.reshape(statistics.shape)

    count, squares = adjusted.count, adjusted.sums[0][0].clip(min=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        kurtosis = np.where(squares > 0, adjusted.sums[2][0] * count / squares**2, 3.0) if adjusted.order == 4 else None
    return Estimate(
        mean=over_observables(adjusted.mean[0]),
        stderr=over_observables((squares / (count - 1) / count) ** 0.5),
        plain_stderr=over_observables((plain.sums[0][0] / (paths - 1) / paths) ** 0.5),
        kurtosis=over_observables(kurtosis) if kurtosis is not None else np.full(statistics.shape, np.nan),
        paths=paths,
        diverged=0,
    )


def _weights(moments: Moments) -> np.ndarray:
    """(1, -beta): beta of the control variates by regression of the residual on them, for every point (1 + c, P)."""
    covariance = moments.covariance()
    size = np.diagonal(covariance, axis1=1, axis2=2) / moments.count
    rounding = size <= NEGLIGIBLE**2 * (moments.mean[0] ** 2 + size[:, 0])[:, None]
    covariance = np.where(rounding[:, :, None] | rounding[:, None, :], 0.0, covariance)
    spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    spread = np.where(spread > 0, spread, 1.0)
    correlation = covariance / spread[:, :, None] / spread[:, None, :]
    inverse = np.linalg.pinv(correlation[:, 1:, 1:], rcond=COLLINEAR, hermitian=True)
    beta = (inverse @ correlation[:, 1:, :1])[..., 0] * spread[:, :1] / spread[:, 1:]
    return np.concatenate([np.ones((1, len(beta))), -beta.T])
