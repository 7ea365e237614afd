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

from collections.abc import Sequence
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
    def from_traces(cls, first: Sequence[float], second: Sequence[float], dim: int) -> HaarNull:
        """Return the null model from tr A, tr A^2 and tr A^3 of both D x D matrices, D = `dim` >= 3.

        Moments of X that no float can hold are infinite or NaN.
        """
        both = np.array([first, second], dtype=float)  # whose products overflow without an error
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            squares, cubes = zip(*(_centred(moments, dim) for moments in both), strict=True)
            variance = 2 * np.prod(squares) / ((dim - 1) * (dim + 2))  # (2)
            third = 8 * dim * np.prod(cubes) / ((dim - 1) * (dim - 2) * (dim + 2) * (dim + 4))  # (3)
            size = variance**1.5
            skewness = 0.0 if size == 0 else third / size
            mean = both[0, 0] * both[1, 0] / dim  # (1)
        return cls(float(mean), float(variance**0.5), float(skewness))

    def quantile(self, probability: float) -> float:
        """Return a quantile of X for a probability in (0, 1). It is conservative in the light tail."""
        return self.mean + self.standard_deviation * self.standardised_quantile(probability)

    def standardised_quantile(self, probability: float) -> float:
        """Return a quantile of (X - mean) / standard deviation: that of the gamma or of the normal law, whichever is
        further from the median."""
        check_number("probability", probability, 0.0, 1.0)
        pair = (float(stats.pearson3.ppf(probability, self.skewness)), float(stats.norm.ppf(probability)))
        return max(pair) if probability > 0.5 else min(pair)


@entry_point
def haar_null(first: Sequence[float], second: Sequence[float], dim: int) -> HaarNull:
    """Return the null model (1) to (3).

    Args:
        first: tr A, tr A^2 and tr A^3 of the first matrix.
        second: the same of the second matrix.
        dim: number D of rows and columns of both, at least 3.

    Raises:
        SmesolveError: there are not three finite numbers for each matrix, or dim is below 3.
    """
    check_integer("dim", dim, 3, remedy="there is no null model in fewer dimensions")
    first = check_list("first", first, check_number, size=3)
    second = check_list("second", second, check_number, size=3)
    return HaarNull.from_traces(first, second, dim)


def _centred(moments: np.ndarray, dim: int) -> tuple[float, float]:
    """Return tr A_0^2 and tr A_0^3 of A_0 = A - (tr A / D) I from tr A, tr A^2 and tr A^3."""
    first, second, third = moments
    mean = first / dim
    return max(second - first * mean, 0.0), third - 3 * mean * second + 2 * first * mean**2
