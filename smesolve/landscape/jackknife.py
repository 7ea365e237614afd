"""Jackknife: value, bias, variance and skewness of a smooth function of means and U-statistics.

Source: Efron, Stein (Annals of Statistics 9, 1981). With t the function of all N samples, t_i without sample i and t_ij
without two, the pseudo-values and their second differences are

    p_i  = N t - (N - 1) t_i                                                                                         (1)
    q_ij = N t - (N - 1)(t_i + t_j) + (N - 2) t_ij.                                                                  (2)

The mean of the p_i has no bias of order 1/N. Its variance estimate v_1 = var(p_i)/N is too large by the interaction of
pairs of samples, v_2 = var(q_ij)/2, which is half of v_1 where single samples have no effect: near an extremum, such as
a cosine of 1, or for the norm of isotropic noise. The variance estimate here is

    V = max(v_1 - v_2/2, v_2/3).                                                                                     (3)

Half of the excess is kept, because v_1 and v_2 are estimates: without it, intervals cover 92% to 94%. The second term
is for samples at an extremum, where all p_i are nearly equal, however far the extremum is from the truth.

The law of the mean of the p_i has the skewness gamma/sqrt(N), where gamma is the skewness of the p_i. The interval is
that of `Estimate` with the degrees of freedom of v_1 as an estimate (Satterthwaite),

    2 / (2/(N - 1) + k/N),                                                                                           (4)

with k the excess kurtosis of the p_i, or 0 if it is negative: with long tails, a variance is known less well than with
N - 1 degrees of freedom. Biases, variances and third cumulants of independent sets of samples add up, and Welch's
formula combines their degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from smesolve.landscape.estimates import Estimate

__all__ = ["LeftOut", "jackknife", "pairs_of", "without_samples"]

NEIGHBOURS = 50
"""Number of following samples with which each sample forms a pair; a part of all pairs suffices for their variance."""

ROUNDING = 1e-12
"""Relative differences between pseudo-values that are rounding errors."""

PAIRS_SHARE = 1 / 3
"""Least variance in units of the interaction of pairs, chosen by measured coverage (`benchmarks/coverage.py`): with a
quarter, 93.5% of the intervals of a cosine near 1 from 30 draws cover it, with a third 95.8%."""


@dataclass(frozen=True)
class LeftOut:
    """Statistics (W,) of N samples, recomputed without some of them."""

    one: np.ndarray
    """Statistics (N, W) without sample i."""
    two: np.ndarray
    """Statistics (P, W) without the samples of each pair."""
    pairs: np.ndarray
    """The pairs (2, P)."""


def pairs_of(count: int) -> np.ndarray:
    """Return pairs (2, P) of each of `count` samples with at most `NEIGHBOURS` others, no pair twice."""
    first = np.arange(count)
    distances = range(1, min(NEIGHBOURS, (count - 1) // 2) + 1)
    return np.concatenate([[first, (first + distance) % count] for distance in distances], axis=1)


def without_samples(rows: np.ndarray) -> LeftOut:
    """Return means over samples (N, W) without one and without two of them."""
    count, total = len(rows), rows.sum(0)
    pairs = pairs_of(count)
    return LeftOut((total - rows) / (count - 1), (total - rows[pairs].sum(0)) / (count - 2), pairs)


def jackknife(
    function: Callable[[np.ndarray], np.ndarray], values: np.ndarray, samples: Sequence[LeftOut]
) -> tuple[Estimate, list[np.ndarray]]:
    """Estimate a function (..., W) -> (...) of statistics, and return its pseudo-values for each set of samples.

    `values` (W,) are the statistics from all samples, and `samples` independent sets of these; none where the
    statistics are exact.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = float(function(values))
        if not np.isfinite(whole):  # a quotient by 0
            return Estimate(np.nan, np.nan), [np.full(len(part.one), np.nan) for part in samples]
        bias, variances, shapes, pseudo_values = 0.0, [], [], []
        for left_out in samples:
            N, one = len(left_out.one), function(left_out.one)
            first, second = one[left_out.pairs]
            pseudo = N * whole - (N - 1) * one  # (1)
            differences = N * whole - (N - 1) * (first + second) + (N - 2) * function(left_out.two)  # (2)
            interaction = float(differences.var()) / 2
            bias += whole - float(pseudo.mean())
            single = float(pseudo.var(ddof=1)) / N
            variances.append(max(single - interaction / 2, interaction * PAIRS_SHARE))  # (3)
            shapes.append(_shape(pseudo))
            pseudo_values.append(pseudo)
        variance = sum(variances)
    if not variance > 0:  # the statistics are exact or NaN
        return Estimate(whole - bias, variance**0.5), pseudo_values
    shares = [part / variance for part in variances]  # whose powers neither overflow nor vanish
    freedom = 1 / sum(share**2 / freedom for share, (_, freedom) in zip(shares, shapes, strict=True))
    skewness = sum(share**1.5 * skewness for share, (skewness, _) in zip(shares, shapes, strict=True))
    return Estimate(whole - bias, variance**0.5, freedom, skewness), pseudo_values


def _shape(pseudo: np.ndarray) -> tuple[float, float]:
    """Return the skewness of the mean of pseudo-values, and the degrees of freedom (4) of their variance.

    Equal pseudo-values have those of a normal law.
    """
    N = len(pseudo)
    if not np.ptp(pseudo) > ROUNDING * np.abs(pseudo).max():
        return 0.0, N - 1
    skewness, kurtosis = (float(moment(pseudo, bias=False)) for moment in (stats.skew, stats.kurtosis))
    return skewness / N**0.5, 2 / (2 / (N - 1) + max(kurtosis, 0.0) / N)
