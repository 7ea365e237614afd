"""Means of observables over paths, with control variates, and intervals that can be believed.

The values y, averaged over antithetic pairs, have control variates z of mean zero: with them the odd powers of the
noise are most of what is left, and they cancel in a pair. Means are taken of

    y - sum_c beta_c z_c,                                                                                  (1)

with coefficients beta from regression. They are cross-fitted: those used on one half of the paths were fitted on the
other half, so that each term keeps its zero mean exactly and the estimate its unbiasedness.

The moments that are kept also say whether a mean can be believed, and how long its interval must be. The mean of N
values with skewness gamma has skewness gamma/sqrt(N), which shifts the quantiles of the t statistic by

    (2 z^2 + 1)/6  gamma/sqrt(N)                                                                           (2)

(Cornish and Fisher; Hall, The Bootstrap and Edgeworth Expansion, 1992, section 2.6). The interval is that much longer
on both sides, and three times as long where the skewness gamma/sqrt(N) or the excess kurtosis of the mean,

    (kappa - 3)/N,                                                                                         (3)

are above their bounds, or where there are fewer than 16 values. Where those of the plain values are above them, no
interval is believed: control variates, which know the first two powers of the noise, take all spread from the paths
that were seen and nothing from a rare one that was not. In a sample of a law without variance one value is as large as
the sum of all others, so that both numbers are of order one for any N. Unlike estimates of a tail index they need no
values, and they see a moderate skew as well, which has a light tail and spoils the interval of a few values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smesolve.comparison.path_statistics import PathStatistics
from smesolve.confidence import NORMAL_QUANTILE, student_quantile
from smesolve.sampling.moments import Moments

__all__ = ["MeanEstimate"]

MEAN_SKEWNESS, MEAN_EXCESS = 0.25, 0.25
"""Largest skewness and excess kurtosis of the law of a mean. With these bounds at most 7% of the samples of any
lognormal law, or of one without variance or mean, have an interval that is believed and misses."""

BOUND_FROM, BOUND_POWER = 256, 1 / 6
"""The bound on the skewness falls like N^(-1/6) from N = 256 on: the skewness of a mean falls like N^(-1/2) where there
is a third moment, and not at all where there is no variance."""

LENGTHENED = 3.0
"""Factor of the interval where the moments of the averaged values are above their bounds and those of the plain values
are not."""

FEW = 16
"""Number of values below which the interval is lengthened whatever their moments are. These tell too little then: of
eight antithetic pairs, whose means are much like squares of normals, 10% to 13% of the intervals miss otherwise."""

SKEW_SHIFT = (2 * NORMAL_QUANTILE**2 + 1) / 6
"""Shift of the quantiles of the t statistic in units of the skewness of the mean (2)."""

NORMAL_SCORE = 2.8
"""Skewness or excess kurtosis of a few normal values, in standard deviations, that is not taken for a tail."""

FITTED_ON = 10
"""Coefficients are fitted on values that tell as much as this number of normal ones. A regression on fewer takes the
spread from the values that it sees and hides that of the rest."""

NEGLIGIBLE = 1e-14
"""Control variates whose spread is a smaller share of the values are rounding, without mean zero. They get no
coefficient, which would be huge."""

COLLINEAR = 1e-12
"""Directions of the control variates with a smaller share of their correlation matrix get no coefficient."""


@dataclass(frozen=True)
class MeanEstimate:
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
    """Factor of the number of values at which the law of the mean would be within its bounds, as far as these tell."""
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

    @classmethod
    def of(cls, statistics: PathStatistics) -> MeanEstimate:
        """Return means and standard errors, each half with the coefficients that were fitted on the other."""
        paths, (first, second) = statistics.paths, statistics.halves
        adjusted = first.combined(_weights(second)).merged(second.combined(_weights(first)))  # (1)
        plain = statistics.plain

        def over_observables(values: np.ndarray) -> np.ndarray:
            return values.reshape(statistics.shape)

        count, squares = adjusted.count, adjusted.sums[0][0].clip(min=0)
        skewness, kurtosis = _shape(adjusted)
        return cls(
            mean=over_observables(adjusted.mean[0]),
            stderr=over_observables((squares / (count - 1) / count) ** 0.5),
            plain_stderr=over_observables((plain.sums[0][0] / (paths - 1) / paths) ** 0.5),
            skewness=over_observables(skewness),
            kurtosis=over_observables(kurtosis),
            shortage=over_observables(_shortage(adjusted)),
            plain_shortage=over_observables(_shortage(plain)),
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
        """What skewness and kurtosis add to the half-width."""
        student = student_quantile(self.freedom)
        corrected = student + SKEW_SHIFT * np.abs(self.skewness) / self.values**0.5  # (2)
        lengthened = (self.shortage > 1) | (self.values < FEW)
        return np.asarray((np.where(lengthened, LENGTHENED, 1.0) * corrected - student) * self.stderr)

    @property
    def heavy_tailed(self) -> np.ndarray:
        """Whether so few paths carry the mean that no interval of it can be believed (T, O)."""
        return self.plain_shortage > 1


def _shape(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Return skewness and kurtosis of one variable (P,); those of a normal law for values that are all equal.

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
    """Return `MeanEstimate.shortage` of one variable (P,)."""
    n = max(moments.count, 4)
    skewness, kurtosis = _shape(moments)
    # Standard deviations of the skewness and kurtosis of n normal values (Fisher 1930).
    third = (6 * (n - 2) / ((n + 1) * (n + 3))) ** 0.5
    fourth = (24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))) ** 0.5
    bound = MEAN_SKEWNESS * (BOUND_FROM / max(n, BOUND_FROM)) ** BOUND_POWER
    ratio = np.abs(skewness) / max(bound * n**0.5, NORMAL_SCORE * third)
    excess = (kurtosis - 3) / max(MEAN_EXCESS * n, NORMAL_SCORE * fourth)  # (3)
    return np.asarray(np.fmax(ratio ** (1 / (0.5 - BOUND_POWER)), excess))


def _weights(moments: Moments) -> np.ndarray:
    """Return (1, -beta) at every point (1 + c, P), beta by regression of the residual on the control variates.

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


def _fitted(moments: Moments) -> int:
    """Return how many coefficients these values may have."""
    return len(moments.mean) - 1 if moments.count >= FITTED_ON else 0


def _equivalent(moments: Moments, used: np.ndarray) -> np.ndarray:
    """Return how many normal values tell the second moments of the used variables (1 + c, P) as well as these do (P,).

    The relative variance of a second moment is (kappa - 1)/N, kappa the kurtosis, 3 for a normal law.
    """
    if moments.order < 4:
        return np.full(moments.mean.shape[1], moments.count)
    variables = [moments.combined(unit[:, None] * np.ones_like(moments.mean)) for unit in np.eye(len(moments.mean))]
    kurtosis = np.where(used, [_shape(variable)[1] for variable in variables], 3.0).max(0)
    return np.asarray(moments.count * 2 / (kurtosis.clip(min=3.0) - 1))
