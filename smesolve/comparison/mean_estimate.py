"""Means of observables over paths, with control variates and reliable intervals.

The values y, averaged over antithetic pairs, have control variates z of mean zero. Most of the remainder consists of
odd powers of the noise, which cancel in a pair. Means are taken of

    y - sum_c beta_c z_c,                                                                                  (1)

with coefficients beta from regression. They are cross-fitted: the coefficients for one half of the paths are fitted on
the other half, so that each term has mean zero exactly and the estimate is unbiased.

The moments that are kept also determine the length of the interval, and whether it is reliable. The mean of N values
with skewness gamma has skewness gamma/sqrt(N), which shifts the quantiles of the t statistic by

    (2 z^2 + 1)/6  gamma/sqrt(N)                                                                           (2)

(Cornish and Fisher; Hall, The Bootstrap and Edgeworth Expansion, 1992, section 2.6). The interval is that much longer
on both sides, and three times as long where the skewness or the excess kurtosis of the mean are above their bounds
(`smesolve.sampling.heavy_tails`), or there are fewer than 16 values. Where skewness or kurtosis of the plain values is
above its bound, no interval is reliable: control variates, which know the first two powers of the noise, remove all
spread from the paths of a sample, but not from a rare path outside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smesolve.comparison.path_statistics import PathStatistics
from smesolve.confidence import student_quantile
from smesolve.sampling.heavy_tails import shape_of, shortage_of
from smesolve.sampling.moments import Moments
from smesolve.sampling.observed_paths import SKEW_SHIFT

__all__ = ["MeanEstimate"]

LENGTHENED = 3.0
"""Factor of the interval where the moments of the averaged values are above their bounds, but the moments of the plain
values are not."""

FEW = 16
"""Number of values below which the interval is lengthened whatever their moments are. These tell too little then: of
eight antithetic pairs, whose means are much like squares of normals, 10% to 13% of the intervals miss otherwise."""

FITTED_ON = 10
"""Least number of values, in equivalents of normal values, on which coefficients are fitted. A regression on fewer
values removes their spread and hides the spread of all others."""

NEGLIGIBLE = 1e-14
"""Share of the values below which the spread of a control variate is rounding, which need not have mean zero. Such
control variates get no coefficient, as it would be huge."""

COLLINEAR = 1e-12
"""Relative eigenvalue of the correlation matrix of the control variates below which a direction gets no coefficient."""


@dataclass(frozen=True)
class MeanEstimate:
    """Means over paths for all saved times and observables; arrays (T, O)."""

    mean: np.ndarray
    stderr: np.ndarray
    """Standard error of `mean`, with control variates."""
    plain_stderr: np.ndarray
    """Standard error of the plain mean of the same paths."""
    skewness: np.ndarray
    """Skewness of the averaged values; 0 for differences, whose third moments are not kept."""
    kurtosis: np.ndarray
    """Kurtosis of the averaged values, 3 for a normal law; NaN for differences."""
    shortage: np.ndarray
    """Factor by which the number of values must grow for the law of the mean to be within its bounds, by estimate."""
    plain_shortage: np.ndarray
    """The same factor for the plain values."""
    values: int
    """Number of independent values that are averaged: pairs of paths where these are antithetic."""
    freedom: int
    """Degrees of freedom of `stderr`: the number of values minus the mean and the coefficients of the control variates
    of both halves."""
    paths: int
    """Number of paths."""
    diverged: np.ndarray
    """Number of paths that are not finite or have a value beyond 1e70; the mean is NaN if it is not 0."""
    undefined: np.ndarray
    """Number of other paths on which the observable is not finite; the mean is NaN if it is not 0."""

    @classmethod
    def of(cls, statistics: PathStatistics) -> MeanEstimate:
        """Return means and standard errors; each half has the coefficients that are fitted on the other half."""
        paths, (first, second) = statistics.paths, statistics.halves
        adjusted = first.combined(_weights(second)).merged(second.combined(_weights(first)))  # (1)
        plain = statistics.plain

        def over_observables(values: np.ndarray) -> np.ndarray:
            return values.reshape(statistics.shape)

        count, squares = adjusted.count, adjusted.sums[0][0].clip(min=0)
        skewness, kurtosis = shape_of(adjusted)
        return cls(
            mean=over_observables(adjusted.mean[0]),
            stderr=over_observables((squares / (count - 1) / count) ** 0.5),
            plain_stderr=over_observables((plain.sums[0][0] / (paths - 1) / paths) ** 0.5),
            skewness=over_observables(skewness),
            kurtosis=over_observables(kurtosis),
            shortage=over_observables(shortage_of(adjusted)),
            plain_shortage=over_observables(shortage_of(plain)),
            values=count,
            freedom=max(1, count - 1 - _fitted(first) - _fitted(second)),
            paths=paths,
            diverged=statistics.diverged,
            undefined=statistics.undefined,
        )

    @property
    def half_width(self) -> np.ndarray:
        """Half-width of the 95% interval of `mean`."""
        return np.asarray(student_quantile(self.freedom) * self.stderr + self.correction)

    @property
    def correction(self) -> np.ndarray:
        """Part of the half-width that is due to skewness and kurtosis."""
        student = student_quantile(self.freedom)
        corrected = student + SKEW_SHIFT * np.abs(self.skewness) / self.values**0.5  # (2)
        lengthened = (self.shortage > 1) | (self.values < FEW)
        return np.asarray((np.where(lengthened, LENGTHENED, 1.0) * corrected - student) * self.stderr)

    @property
    def heavy_tailed(self) -> np.ndarray:
        """Whether so few paths carry the mean that no interval is reliable (T, O)."""
        return self.plain_shortage > 1


def _weights(moments: Moments) -> np.ndarray:
    """Return (1, -beta) at every point (1 + c, P), with beta from a regression of the residual on the control variates.

    Where there are too few values for a regression, beta is zero, so that the coefficients remain one.
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


def _fitted(moments: Moments) -> int:
    """Return how many coefficients these values may have."""
    return len(moments.mean) - 1 if moments.count >= FITTED_ON else 0


def _equivalent(moments: Moments, used: np.ndarray) -> np.ndarray:
    """Return the number of normal values (P,) that estimate second moments as precisely as these values.

    The relative variance of a second moment is (kappa - 1)/N with the kurtosis kappa, which is 3 for a normal law.

    Args:
        moments: joint moments of the residual and the control variates.
        used: which of these variables (1 + c, P) count.
    """
    if moments.order < 4:
        return np.full(moments.mean.shape[1], moments.count)
    variables = [moments.combined(unit[:, None] * np.ones_like(moments.mean)) for unit in np.eye(len(moments.mean))]
    kurtosis = np.where(used, [shape_of(variable)[1] for variable in variables], 3.0).max(0)
    return np.asarray(moments.count * 2 / (kurtosis.clip(min=3.0) - 1))
