"""Statistics of blocks of paths: moments of values and control variates, whose size does not depend on their number.

No path is kept. Each block is reduced to the joint moments of its residuals and control variates, one set for each half
of the block, which are merged over blocks. The residual is the value minus all control variates with coefficient one,
which is near the best coefficients, because control variates are Taylor terms of the value. The residual is small, so
that no digits are lost to cancellation when the coefficients are fitted in the end.
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
    """Statistics of blocks of paths, whose size does not depend on the number of paths."""

    shape: tuple[int, int]
    """(T, O): saved times and observables."""
    halves: tuple[Moments, Moments]
    """Moments of residuals and control variates of independent values at T O points, for both halves of the blocks."""
    plain: Moments
    """Moments of the plain values of all paths."""
    diverged: np.ndarray
    """Number of paths that are not finite or have a value beyond 1e70 (T, O)."""
    undefined: np.ndarray
    """Number of other paths on which the observable is not finite (T, O)."""
    values: np.ndarray
    """Plain values of the kept paths at the last time (paths, O)."""

    @classmethod
    def of(cls, values: np.ndarray, antithetic: bool, order: int, keep: int = 0) -> PathStatistics:
        """Summarise one block.

        Args:
            values: (2 + control variates, B, T, O): the plain values, the residuals, the control variates. Plain
                values are infinite on diverged paths, and NaN where the observable is undefined.
            antithetic: whether paths b and b + B/2 are a pair.
            order: order of the highest moment.
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
        """Return the statistics of the paths of both objects."""
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
        """Return the statistics as arrays for a journal, under names with this prefix; `from_arrays` inverts this."""
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
        """Return the statistics from the result of `arrays`."""
        times, observables, variables, order = arrays[f"{prefix}sizes"].tolist()
        first, second = (Moments.unpacked(arrays[prefix + name], variables, order) for name in ("first", "second"))
        plain = Moments.unpacked(arrays[f"{prefix}plain"], 1, order)
        diverged, undefined, values = (arrays[prefix + name] for name in ("diverged", "undefined", "values"))
        return cls((times, observables), (first, second), plain, diverged, undefined, values)


def merged(old: PathStatistics | None, new: PathStatistics) -> PathStatistics:
    """Return the merged statistics, or the new ones if there are no old ones."""
    return new if old is None else old.merged(new)
