"""The null model of an alignment: the same two spectra, with independent eigenvectors.

For symmetric H and S and U uniform (Haar) on the orthogonal group, X = tr(H U S U^T) has a law that depends only on the
two spectra. With H_0 = H - (tr H / D) I and S_0 likewise,

    E X          = tr H tr S / D                                                                                     (1)
    Var X        = 2 |H_0|_F^2 |S_0|_F^2 / ((D - 1)(D + 2))                                                          (2)
    E (X - EX)^3 = 8 D tr H_0^3 tr S_0^3 / ((D - 1)(D - 2)(D + 2)(D + 4)).                                           (3)

Derivation: X - E X = tr(H_0 U S_0 U^T). Its j-th moment is an O(D)-invariant form of degree j in the traceless H_0
and one in S_0; up to a factor there is one such form of degree 2, |.|_F^2, and one of degree 3, tr(.)^3. The factors
follow from H = S = e e^T, for which X is the squared coordinate of a uniform unit vector, Beta(1/2, (D - 1)/2).

Quantiles in the heavy tail are those of the shifted gamma law (Pearson type III) with these three moments; normal
quantiles would report chance as alignment. As D grows, the gamma law is exact in both extremes: X is a scaled
chi-squared variable if both spectra have one dominant eigenvalue, and normal if they have many. In the light tail the
gamma law ends too early, and is replaced by the normal quantile, which is further out. A test checks both against
sampled rotations.

The mean is that of the isotropic noise (tr S / D) I, the baseline of Zhu et al. (ICML 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from smesolve.entry_point import entry_point
from smesolve.validation import check_integer, check_list, check_number

__all__ = ["HaarNull", "haar_null"]


@dataclass(frozen=True)
class HaarNull:
    """Moments of tr(H U S U^T)."""

    mean: float
    standard_deviation: float
    skewness: float

    @classmethod
    def from_traces(cls, first: tuple[float, float, float], second: tuple[float, float, float], dim: int) -> HaarNull:
        """Return the null model from tr A, tr A^2 and tr A^3 of both matrices."""
        squares, cubes = zip(*(_centred(moments, dim) for moments in (first, second)), strict=True)
        variance = 2 * np.prod(squares) / ((dim - 1) * (dim + 2))  # (2)
        third = 8 * dim * np.prod(cubes) / ((dim - 1) * (dim - 2) * (dim + 2) * (dim + 4))  # (3)
        skewness = third / variance**1.5 if variance > 0 else 0.0
        return cls(first[0] * second[0] / dim, float(variance**0.5), float(skewness))  # (1)

    def quantile(self, probability: float) -> float:
        """Return a quantile of X, which is conservative in the light tail."""
        return self.mean + self.standard_deviation * self.standardised_quantile(probability)

    def standardised_quantile(self, probability: float) -> float:
        """Return a quantile of (X - mean) / standard deviation, from the gamma or the normal law, whichever is
        further."""
        pair = (float(stats.pearson3.ppf(probability, self.skewness)), float(stats.norm.ppf(probability)))
        return max(pair) if probability > 0.5 else min(pair)


@entry_point
def haar_null(first: tuple[float, float, float], second: tuple[float, float, float], dim: int) -> HaarNull:
    """Return the null model from tr A, tr A^2 and tr A^3 of both D x D matrices, D = `dim` >= 3."""
    for name, moments in (("first", first), ("second", second)):
        check_list(name, moments, check_number, size=3)
    check_integer("dim", dim, 3, remedy="there is no null model in fewer dimensions")
    return HaarNull.from_traces(first, second, dim)


def _centred(moments: tuple[float, float, float], dim: int) -> tuple[float, float]:
    """Return tr A_0^2 and tr A_0^3 of A_0 = A - (tr A / D) I."""
    first, second, third = moments
    mean = first / dim
    return max(second - first * mean, 0.0), third - 3 * mean * second + 2 * first * mean**2
