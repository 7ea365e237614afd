"""Heavy tails: whether so few values of a sample carry its mean that the sample does not determine it.

The mean of N values with skewness gamma and kurtosis kappa has the skewness gamma/sqrt(N) and the excess kurtosis

    (kappa - 3)/N,                                                                                         (1)

and the interval of the mean is reliable where both are small. In a sample of a law without variance, one value is as
large as the sum of all others, so that both numbers are of order one for any N. Unlike estimates of a tail index, they
need only moments, and they detect a moderate skewness with a light tail as well, which spoils the interval of a few
values.
"""

from __future__ import annotations

import numpy as np

from smesolve.sampling.moments import Moments

__all__ = ["HEAVY_TAILS", "shape_of", "shortage_of"]

HEAVY_TAILS = "heavy tails"
"""The verdict in tables."""

MEAN_SKEWNESS, MEAN_EXCESS = 0.25, 0.25
"""Largest skewness and excess kurtosis of the law of a mean. With these bounds, at most 7% of the samples of any
lognormal law, or of a law without variance or mean, have an interval that counts as reliable and misses."""

BOUND_FROM, BOUND_POWER = 256, 1 / 6
"""The bound on the skewness falls like N^(-1/6) from N = 256 on: the skewness of a mean falls like N^(-1/2) for a law
with a third moment, and not at all for a law without variance."""

NORMAL_SCORE, SCORED_FROM = 2.8, 24
"""Skewness or excess kurtosis of a few values, in standard deviations for normal values, that is not taken for a tail;
and the number of values below which this score falls in proportion to their number. Eight values of a lognormal or a
Pareto law have too little room for a skewness: with 2.8 standard deviations up to 29% of their samples are accepted and
miss, with 0.93 up to 8%, and a third of the samples of a normal law are refused."""


def shape_of(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Return skewness and kurtosis of one variable (P,); 0 and 3 for values that are all equal.

    They are clipped to sqrt(N) and N, the largest for N values: moments of rounding errors may be larger.
    """
    if moments.order < 4:
        return np.zeros(moments.mean.shape[1]), np.full(moments.mean.shape[1], np.nan)
    count, squares = moments.count, moments.sums[0][0].clip(min=0)
    spread = np.where(squares > 0, squares, 1.0)
    # One division after the other: powers of a small spread underflow.
    skewness = np.where(squares > 0, moments.sums[1][0] / spread / spread**0.5 * count**0.5, 0.0)
    kurtosis = np.where(squares > 0, moments.sums[2][0] / spread / spread * count, 3.0)
    return skewness.clip(-(count**0.5), count**0.5), kurtosis.clip(max=count)


def shortage_of(moments: Moments) -> np.ndarray:
    """Return the factor by which N must grow for the law of the mean of one variable to be within its bounds (P,)."""
    n = max(moments.count, 4)
    skewness, kurtosis = shape_of(moments)
    # Standard deviations of the skewness and kurtosis of n normal values (Fisher 1930).
    third = (6 * (n - 2) / ((n + 1) * (n + 3))) ** 0.5
    fourth = (24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))) ** 0.5
    bound = MEAN_SKEWNESS * (BOUND_FROM / max(n, BOUND_FROM)) ** BOUND_POWER
    score = NORMAL_SCORE * min(1.0, n / SCORED_FROM)
    ratio = np.abs(skewness) / max(bound * n**0.5, score * third)
    excess = (kurtosis - 3) / max(MEAN_EXCESS * n, score * fourth)  # (1)
    return np.asarray(np.fmax(ratio ** (1 / (0.5 - BOUND_POWER)), excess))
