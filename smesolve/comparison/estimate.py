"""Means of observables over ensembles, with control variates and standard errors, from streaming statistics.

Antithetic pairs are averaged first: with control variates the odd powers of the noise are most of what is left, and
they cancel in a pair. The coefficients of the control variates come from regression. They are cross-fitted: those used
on one half of the paths were fitted on the other half, so that each term keeps its zero mean exactly and the estimate
its unbiasedness.

No path is kept. Each block leaves the joint moments of its residuals and control variates, one set for each half of it,
which are merged over blocks. The residual is the value less all control variates with coefficient one, near which the
best ones lie (they are Taylor terms of the value): what is left is small, and so no digits are lost to cancellation
when the coefficients are chosen in the end.

The same moments say whether a mean can be believed, and how long its interval must be. Of N values with skewness
gamma the mean has skewness gamma/sqrt(N), which shifts the quantiles of the t statistic by

    (2 z^2 + 1)/6  gamma/sqrt(N)

(Cornish and Fisher; Hall, The Bootstrap and Edgeworth Expansion, 1992, section 2.6). The interval is that much longer
on both sides, and three times as long where skewness or excess kurtosis, (kappa - 3)/N, of the mean are above their
bounds (`Estimate.half_width`). Where the plain values have so much, no interval is believed (`Estimate.heavy_tailed`):
control variates, which know the first two powers of the noise, take all spread from the paths that were seen and
nothing from a rare one that was not. In a sample of a law without variance one value is as large as the sum of all
others, so both numbers are of order one for any N. Unlike estimates of a tail index they need no values, and they see a
moderate skew as well, which has a light tail and spoils the interval of a few values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from smesolve.comparison.confidence import NORMAL_QUANTILE, student_quantile
from smesolve.comparison.control_variate import ControlVariate
from smesolve.comparison.draw_control import DrawControl
from smesolve.comparison.observables import Observable
from smesolve.errors import SmesolveError
from smesolve.sampling.ensemble import Process, block_of
from smesolve.sampling.moments import Moments

__all__ = ["Estimate", "PairSampler", "Sampler", "Statistics", "draw", "estimate", "merged"]

LARGEST = 1e70
"""A path with a larger value counts as diverged: the fourth powers of values are summed."""

MEAN_SKEWNESS, MEAN_EXCESS = 0.25, 0.25
"""Skewness and excess kurtosis of the law of a mean that are large. With these bounds at most 7% of the samples of any
lognormal law, or of one without variance or mean, have an interval that is believed and misses."""

BOUND_FROM, BOUND_POWER = 256, 1 / 6
"""The bound on the skewness falls like N^(-1/6) from N = 256 on: the skewness of a mean falls like N^(-1/2) where there
is a third moment, and not at all where there is no variance."""

LENGTHENED = 3.0
"""Factor of the interval where those of the averaged values are large and those of the plain values are not."""

SKEW_SHIFT = (2 * NORMAL_QUANTILE**2 + 1) / 6
"""Shift of the quantiles of the t statistic in units of the skewness of the mean."""

NORMAL_SCORE = 2.8
"""Skewness or excess kurtosis of a few normal values, in standard deviations, that is not taken for a tail."""

FITTED_ON = 10
"""Coefficients are fitted on values that tell as much as so many normal ones. A regression on fewer takes the spread
from the values that it sees and hides that of the rest."""

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
    skewness: np.ndarray
    """Of the averaged values; 0 for differences, whose third moments are not kept."""
    kurtosis: np.ndarray
    """Of the averaged values, 3 for a normal law; NaN for differences."""
    shortage: np.ndarray
    """By which factor more values would bring the law of the mean within its bounds, as far as these tell."""
    plain_shortage: np.ndarray
    """The same for the plain values."""
    values: int
    """Independent values that were averaged: pairs of paths where these are antithetic."""
    freedom: int
    """Degrees of freedom of `stderr`: the values less the mean and the coefficients of the control variates of both
    halves."""
    paths: int
    diverged: np.ndarray
    """Paths that left the finite numbers, or with a value beyond 1e70; with one of them a mean is NaN."""
    undefined: np.ndarray
    """Other paths on which the observable is not finite; with one of them a mean is NaN."""

    @property
    def half_width(self) -> np.ndarray:
        """Of the 95% interval of `mean`."""
        return student_quantile(self.freedom) * self.stderr + self.correction

    @property
    def correction(self) -> np.ndarray:
        """What skewness and kurtosis add to the half-width."""
        student = student_quantile(self.freedom)
        corrected = student + SKEW_SHIFT * np.abs(self.skewness) / self.values**0.5
        return (np.where(self.shortage > 1, LENGTHENED, 1.0) * corrected - student) * self.stderr

    @property
    def heavy_tailed(self) -> np.ndarray:
        """Where so few paths carry the mean that no interval of it can be believed (T, O)."""
        return self.plain_shortage > 1


@dataclass(frozen=True)
class Statistics:
    """What is kept of blocks of paths: its size does not depend on their number."""

    shape: tuple[int, int]
    """(T, O): saved times and observables."""
    halves: tuple[Moments, Moments]
    """Of the residuals and the control variates of independent values, at T O points, one for each half of a block."""
    plain: Moments
    """Of the plain values of all paths."""
    diverged: np.ndarray
    """Paths that left the finite numbers, or with a value beyond 1e70 (T, O)."""
    undefined: np.ndarray
    """Other paths on which the observable is not finite (T, O)."""
    values: np.ndarray
    """Plain values at the last time of the first paths, as many as were asked for (paths, O)."""

    @classmethod
    def of(cls, values: np.ndarray, antithetic: bool, order: int, keep: int = 0) -> Statistics:
        """Of one block.

        Args:
            values: (2 + control variates, B, T, O): the plain values, the residuals, the control variates. Of the
                plain values those of diverged paths are infinite, those of undefined observables NaN.
            antithetic: paths b and b + B/2 are a pair.
            order: highest moment.
            keep: number of paths whose values are kept.
        """
        points = values.reshape(*values.shape[:2], -1)
        with np.errstate(invalid="ignore"):
            undefined = np.isnan(points[0]).sum(0)
            diverged = (~(np.abs(points) < LARGEST).all(0)).sum(0) - undefined
        if (diverged + undefined).any():
            points = np.where(diverged + undefined > 0, np.nan, points)
        independent = points[1:]
        if antithetic:
            independent = independent.reshape(len(independent), 2, -1, points.shape[-1]).mean(1)
        middle = independent.shape[1] // 2
        if middle < 1:
            raise SmesolveError(f"block_size must be at least {4 if antithetic else 2}, got {values.shape[1]}.")
        halves = Moments.of(independent[:, :middle], order), Moments.of(independent[:, middle:], order)
        return cls(
            shape=values.shape[2:],
            halves=halves,
            plain=Moments.of(points[:1], order),
            diverged=diverged.reshape(values.shape[2:]),
            undefined=undefined.reshape(values.shape[2:]),
            values=values[0, :keep, -1].copy(),
        )

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
            self.undefined + other.undefined,
            np.concatenate([self.values, other.values]),
        )

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """All of it as arrays, for a journal, under names with this prefix; `from_arrays` undoes it."""
        first, second = self.halves
        return {
            f"{prefix}sizes": np.array([*self.shape, len(first.mean), first.order]),
            f"{prefix}first": first.packed(),
            f"{prefix}second": second.packed(),
            f"{prefix}plain": self.plain.packed(),
            f"{prefix}diverged": self.diverged,
            f"{prefix}undefined": self.undefined,
            f"{prefix}values": self.values,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> Statistics:
        """The statistics that `arrays` gave."""
        times, observables, variables, order = arrays[f"{prefix}sizes"].tolist()
        first, second = (Moments.unpacked(arrays[prefix + name], variables, order) for name in ("first", "second"))
        plain = Moments.unpacked(arrays[f"{prefix}plain"], 1, order)
        diverged, undefined, values = (arrays[prefix + name] for name in ("diverged", "undefined", "values"))
        return cls((times, observables), (first, second), plain, diverged, undefined, values)


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
    paths, (first, second) = statistics.paths, statistics.halves
    adjusted = first.combined(_weights(second)).merged(second.combined(_weights(first)))
    plain = statistics.plain

    def over_observables(values: np.ndarray) -> np.ndarray:
        return values.reshape(statistics.shape)

    count, squares = adjusted.count, adjusted.sums[0][0].clip(min=0)
    skewness, kurtosis = _shape(adjusted)
    return Estimate(
        mean=over_observables(adjusted.mean[0]),
        stderr=over_observables((squares / (count - 1) / count) ** 0.5),
        plain_stderr=over_observables((plain.sums[0][0] / (paths - 1) / paths) ** 0.5),
        skewness=over_observables(skewness),
        kurtosis=over_observables(kurtosis),
        shortage=over_observables(_shortage(adjusted)),
        plain_shortage=over_observables(_shortage(plain)),
        values=count,
        freedom=max(1, count - 1 - 2 * (len(first.mean) - 1)),
        paths=paths,
        diverged=statistics.diverged,
        undefined=statistics.undefined,
    )


def _shape(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Skewness and kurtosis of one variable (P,); of values that are all equal those of a normal law.

    Those of N values are at most sqrt(N) and N; where the variable is the rounding of what cancels, its moments are not
    those of any values.
    """
    if moments.order < 4:
        return np.zeros(moments.mean.shape[1]), np.full(moments.mean.shape[1], np.nan)
    count, squares = moments.count, moments.sums[0][0].clip(min=0)
    spread = np.where(squares > 0, squares, 1.0)
    # One division after the other: powers of a small spread underflow.
    skewness = np.where(squares > 0, moments.sums[1][0] / spread / spread**0.5 * count**0.5, 0.0)
    kurtosis = np.where(squares > 0, moments.sums[2][0] / spread / spread * count, 3.0)
    return skewness.clip(-(count**0.5), count**0.5), kurtosis.clip(max=count)


def _shortage(moments: Moments) -> np.ndarray:
    """`Estimate.shortage` of one variable (P,)."""
    n = max(moments.count, 4)
    skewness, kurtosis = _shape(moments)
    # Standard deviations of the skewness and kurtosis of n normal values (Fisher 1930).
    third = (6 * (n - 2) / ((n + 1) * (n + 3))) ** 0.5
    fourth = (24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))) ** 0.5
    bound = MEAN_SKEWNESS * (BOUND_FROM / max(n, BOUND_FROM)) ** BOUND_POWER
    ratio = np.abs(skewness) / max(bound * n**0.5, NORMAL_SCORE * third)
    return np.fmax(ratio ** (1 / (0.5 - BOUND_POWER)), (kurtosis - 3) / max(MEAN_EXCESS * n, NORMAL_SCORE * fourth))


def _weights(moments: Moments) -> np.ndarray:
    """(1, -beta): beta of the control variates by regression of the residual on them, for every point (1 + c, P).

    Where the values are too few for a regression beta is zero: the coefficients stay at one.
    """
    covariance = moments.covariance()
    size = np.diagonal(covariance, axis1=1, axis2=2) / moments.count
    rounding = size <= NEGLIGIBLE**2 * (moments.mean[0] ** 2 + size[:, 0])[:, None]
    covariance = np.where(rounding[:, :, None] | rounding[:, None, :], 0.0, covariance)
    covariance = np.where(np.isfinite(covariance).all((1, 2), keepdims=True), covariance, 0.0)
    spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    spread = np.where(spread > 0, spread, 1.0)
    correlation = covariance / spread[:, :, None] / spread[:, None, :]
    inverse = np.linalg.pinv(correlation[:, 1:, 1:], rcond=COLLINEAR, hermitian=True)
    beta = (inverse @ correlation[:, 1:, :1])[..., 0] * spread[:, :1] / spread[:, 1:]
    beta[_equivalent(moments, np.diagonal(covariance, axis1=1, axis2=2).T > 0) < FITTED_ON] = 0.0
    return np.concatenate([np.ones((1, len(beta))), -beta.T])


def _equivalent(moments: Moments, used: np.ndarray) -> np.ndarray:
    """How many normal values would know the second moments of the used variables (1 + c, P) as well as these do (P,).

    The relative variance of a second moment is (kappa - 1)/N, kappa the kurtosis, 3 for a normal law.
    """
    if moments.order < 4:
        return np.full(moments.mean.shape[1], moments.count)
    alone = [moments.combined(unit[:, None] * np.ones_like(moments.mean)) for unit in np.eye(len(moments.mean))]
    kurtosis = np.where(used, [_shape(variable)[1] for variable in alone], 3.0).max(0)
    return moments.count * 2 / (kurtosis.clip(min=3.0) - 1)
