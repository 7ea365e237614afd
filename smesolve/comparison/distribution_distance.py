"""The distance of two laws, estimated from two samples: ratio of standard deviations, and Wasserstein distance.

The Wasserstein distance of order 1, W(P, Q) = int |F - G|, is a metric. So the distance of the samples P_n, Q_m obeys

    |W(P_n, Q_m) - W(P, Q)| <= W(P_n, P) + W(Q_m, Q).                                                         (1)

The right side is bounded by its 95% quantile under resampling, W(P*, P_n) + W(Q*, Q_m), with independent resamples P*
and Q* (bootstrap). The interval is conservative. It also covers where P = Q, where the interval of a plain bootstrap
does not, because the distance of two samples is never 0. The logarithm of a standard deviation of n values of kurtosis
kappa has the variance

    (kappa - (n - 3)/n) / (4 (n - 1)),                                                                        (2)

and kappa is taken about a trimmed mean, because small samples make it too small about their own. Student's quantile
has the degrees of freedom of the smaller sample. The paths of an equation come in antithetic pairs, which may be equal:
m paths count as m/2 values. Of samples of 8 to 64 values, 95% to 97% of the intervals hold the ratio of the standard
deviations of normal laws, 89% to 92% for exponential laws, and 81% to 85% for lognormal laws with a standard deviation
of the logarithm of 1.

Sources: del Barrio, Gine, Matran (Annals of Probability 27, 1999) for the law of W(P_n, P); Bonett (Computational
Statistics & Data Analysis 50, 2006) for (2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import trim_mean, wasserstein_distance

from smesolve.confidence import CONFIDENCE, student_quantile

__all__ = ["DistributionDistance", "distribution_distance"]

RESAMPLES = 200
"""Bootstrap resamples of each sample."""

LEAST = 8
"""Smallest sample for which a distance is computed."""


class DistributionDistance(NamedTuple):
    """Comparison of two laws by two samples; all numbers are NaN where the samples are too small or not finite."""

    spread: float
    """Ratio of the standard deviations, second over first, with its 95% interval."""
    spread_low: float
    spread_high: float
    distance: float
    """W(P_n, Q_m) in standard deviations of the first sample, with the interval of W(P, Q)."""
    distance_low: float
    distance_high: float


def distribution_distance(first: np.ndarray, second: np.ndarray, seed: int = 0) -> DistributionDistance:
    """Return the distance of the law of `second` from that of `first`.

    Args:
        first: values (n,) on independent paths of the iteration.
        second: values (m,) on paths of an equation, in antithetic pairs.
        seed: seed of the resamples.

    Cost: 200 sorts of each sample, and memory for 200 copies of both.
    """
    values = [np.asarray(part, dtype=float) for part in (first, second)]
    counts = [len(values[0]), len(values[1]) // 2]
    if min(counts) < LEAST or not all(np.isfinite(part).all() for part in values) or not values[0].std():
        return DistributionDistance(np.nan, np.nan, np.nan, np.nan, np.nan, np.nan)
    scale = float(values[0].std(ddof=1))
    ratio = float(values[1].std(ddof=1)) / scale
    variance = sum(_log_variance(part, count) for part, count in zip(values, counts, strict=True))
    half = float(student_quantile(min(counts) - 1)) * float(np.sqrt(variance))
    distance = float(wasserstein_distance(*values)) / scale
    generator = np.random.default_rng(np.random.SeedSequence([seed, RESAMPLES]))
    noise = _resampled(values[0], 1, generator) + _resampled(values[1], 2, generator)
    radius = float(np.quantile(noise, CONFIDENCE)) / scale  # (1)
    low, high = ratio * float(np.exp(-half)), ratio * float(np.exp(half))
    return DistributionDistance(ratio, low, high, distance, max(0.0, distance - radius), distance + radius)


def _log_variance(values: np.ndarray, count: int) -> float:
    """Return the variance of the logarithm of the standard deviation of values that count as `count`, eq. (2)."""
    if not values.std():
        return 0.0
    middle = trim_mean(values, 1 / (2 * np.sqrt(count - 4)))
    kurtosis = ((values - middle) ** 4).mean() / values.var() ** 2
    return float((kurtosis - (count - 3) / count) / (4 * (count - 1)))


def _resampled(values: np.ndarray, copies: int, generator: np.random.Generator) -> np.ndarray:
    """Return W(P*, P_n) (RESAMPLES,) of resamples in which each drawn value occurs `copies` times.

    Between two samples of one size it is the mean distance of their sorted values.
    """
    count = len(values) // copies
    kept = np.sort(values[: count * copies])
    draws = np.sort(generator.choice(kept, size=(RESAMPLES, count)), axis=1).repeat(copies, axis=1)
    return np.asarray(np.abs(draws - kept).mean(axis=1))
