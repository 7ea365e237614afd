"""What is kept of blocks of paths: moments of values and control variates, whose size does not depend on their number.

No path is kept. Each block leaves the joint moments of its residuals and control variates, one set for each half of it,
which are merged over blocks. The residual is the value less all control variates with coefficient one, near which the
best ones lie, as they are Taylor terms of the value. What is left is small, and so no digits are lost to cancellation
when the coefficients are chosen in the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from smesolve.errors import SmesolveError
from smesolve.sampling.moments import Moments

__all__ = ["PathStatistics", "merged"]

LARGEST = 1e70
"""A path with a larger value counts as diverged: the fourth powers of values are summed."""


@dataclass(frozen=True)
class PathStatistics:
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
    def of(cls, values: np.ndarray, antithetic: bool, order: int, keep: int = 0) -> PathStatistics:
        """Summarise one block.

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
        """Number of paths."""
        return self.plain.count

    def merged(self, other: PathStatistics) -> PathStatistics:
        """Return the statistics of the paths of both."""
        first, second = (mine.merged(theirs) for mine, theirs in zip(self.halves, other.halves, strict=True))
        return PathStatistics(
            self.shape,
            (first, second),
            self.plain.merged(other.plain),
            self.diverged + other.diverged,
            self.undefined + other.undefined,
            np.concatenate([self.values, other.values]),
        )

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Return all of it as arrays for a journal, under names with this prefix; `from_arrays` undoes it."""
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
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> PathStatistics:
        """Return the statistics that `arrays` gave."""
        times, observables, variables, order = arrays[f"{prefix}sizes"].tolist()
        first, second = (Moments.unpacked(arrays[prefix + name], variables, order) for name in ("first", "second"))
        plain = Moments.unpacked(arrays[f"{prefix}plain"], 1, order)
        diverged, undefined, values = (arrays[prefix + name] for name in ("diverged", "undefined", "values"))
        return cls((times, observables), (first, second), plain, diverged, undefined, values)


def merged(old: PathStatistics | None, new: PathStatistics) -> PathStatistics:
    """Return old and new statistics together, where there are old ones."""
    return new if old is None else old.merged(new)
