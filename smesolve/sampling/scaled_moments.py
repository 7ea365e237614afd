"""Moments of one variable, of values in units of a power of two, so that no power of them overflows or vanishes.

Squares of values below 1e-154 vanish, and fourth powers of values above 1e77 overflow. A power of two changes no digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smesolve.sampling.moments import Moments

__all__ = ["ScaledMoments"]


@dataclass(frozen=True)
class ScaledMoments:
    """Moments of one variable at P points, each in units of its own power of two."""

    moments: Moments
    """Moments of the values divided by 2^exponent, which are at most 1 in size."""
    exponent: np.ndarray
    """(P,)."""

    @classmethod
    def of(cls, values: np.ndarray, order: int) -> ScaledMoments:
        """Compute the moments of values (N, P) with N >= 1, up to degree `order`."""
        largest = np.abs(values).max(0)
        exponent = np.where(np.isfinite(largest), np.frexp(largest)[1], 0)
        return cls(Moments.of(np.ldexp(values, -exponent)[None], order), exponent)

    def merged(self, other: ScaledMoments) -> ScaledMoments:
        """Return the moments of both sets of values together."""
        exponent = np.maximum(self.exponent, other.exponent)
        return ScaledMoments(self._at(exponent).merged(other._at(exponent)), exponent)

    def _at(self, exponent: np.ndarray) -> Moments:
        """Return the moments in units of another power of two."""
        moved = self.exponent - exponent
        sums = tuple(np.ldexp(part, degree * moved) for degree, part in enumerate(self.moments.sums, start=2))
        return Moments(self.moments.count, np.ldexp(self.moments.mean, moved), sums)

    def packed(self) -> np.ndarray:
        """Return everything in one array (2 + order, P); `unpacked` is the inverse."""
        return np.concatenate([self.moments.packed(), self.exponent[None]])

    @classmethod
    def unpacked(cls, array: np.ndarray, order: int) -> ScaledMoments:
        """Return the moments in an array that `packed` returned."""
        return cls(Moments.unpacked(array[:-1], 1, order), array[-1].astype(int))
