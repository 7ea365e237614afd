r"""Joint central moments of several variables, which are kept instead of the values themselves.

For q variables x_1..x_q at P points, with N values each, these are: N, the means, and the sums over the values of

    prod_{i in I} (x_i - mean_i)      for every multiset I of 2 up to `order` variables.                   (1)

The sums about other centres c follow by expansion, with d = mean - c,

    prod_{i in I} (x_i - c_i) = sum_{J subset of I} prod_{i in J} (x_i - mean_i) prod_{i in I \ J} d_i.    (2)

With (2) two sets of values are merged: their sums about the common mean are added, as Chan, Golub and LeVeque (1983) do
for the variance and Pebay (Sandia report SAND2008-6212, 2008) for higher moments. The moments of a linear combination
w.x follow by contraction,

    sum_I (orderings of I) prod_{i in I} w_i (sum of I),                                                   (3)

so that coefficients can be chosen after the values have been discarded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, combinations, combinations_with_replacement, pairwise
from math import factorial, prod

import numpy as np

__all__ = ["Moments"]

CHUNK_FLOATS = 2**16
"""Number of deviations of one variable that are multiplied at once, so that products up to degree 4 stay in a cache."""


@cache
def _multisets(variables: int, degree: int) -> np.ndarray:
    """Return all multisets of `degree` variables, increasing (A, degree)."""
    found = list(combinations_with_replacement(range(variables), degree))
    return np.array(found, dtype=int).reshape(len(found), degree)


@cache
def _positions(variables: int, degree: int, kept: tuple[int, ...]) -> np.ndarray:
    """Return, for each multiset, the row of its entries at `kept` among the multisets of degree len(kept): (A,)."""
    rows = {tuple(multiset): row for row, multiset in enumerate(_multisets(variables, len(kept)).tolist())}
    return np.array([rows[tuple(multiset)] for multiset in _multisets(variables, degree)[:, kept].tolist()])


@cache
def _multiplicities(variables: int, degree: int) -> np.ndarray:
    """Return the number of distinct orderings of each multiset (A,)."""
    counts = [np.bincount(multiset, minlength=variables) for multiset in _multisets(variables, degree)]
    return np.array([factorial(degree) / prod(factorial(int(c)) for c in count) for count in counts])


@cache
def _expansion(variables: int, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of the terms of (2) with |J| >= 2 for each multiset I of this degree, (terms, A) both.

    They are rows of the sums of degrees from 2 on, and rows of the products of d of degrees from 0 on.
    """
    begins = [0, *accumulate(len(_multisets(variables, size)) for size in range(degree + 1))]
    kept = [some for size in range(2, degree + 1) for some in combinations(range(degree), size)]
    others = [tuple(k for k in range(degree) if k not in some) for some in kept]
    rows = [_positions(variables, degree, some) + begins[len(some)] - begins[2] for some in kept]
    return np.stack(rows), np.stack([_positions(variables, degree, rest) + begins[len(rest)] for rest in others])


def _chunks(points: int, values: int) -> list[int]:
    """Return the edges of chunks of points. No chunk holds a single point unless there is only one point.

    numpy adds a single column in pairs and several columns row by row, which rounds differently.
    """
    count = max(1, min(-(-points * values // CHUNK_FLOATS), points // 2))
    return [points * k // count for k in range(count + 1)]


def _central(values: np.ndarray, order: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return means (q, P) of values (q, N, P), and sums of products of deviations (A, P) of each degree from 2 on."""
    mean = values.mean(1)
    # A sum of N equal numbers is off by N roundings, all in one direction: what is left of the mean is added to it.
    mean = mean + (values - mean[:, None]).mean(1)
    deviations = values - mean[:, None]
    products, sums = list(deviations), []
    for degree in range(2, order + 1):
        rows = _positions(len(values), degree, tuple(range(degree - 1)))
        last = _multisets(len(values), degree)[:, -1]
        made: Iterable[np.ndarray] = (products[row] * deviations[k] for row, k in zip(rows, last, strict=True))
        if degree < order:  # the next degree is made of these
            made = products = list(made)
        sums.append(np.stack([product.sum(0) for product in made]))  # (1)
    return mean, sums


@dataclass(frozen=True)
class Moments:
    """Central moments of q variables at P points, of degrees 2 to the order."""

    count: int
    """N, the number of values."""
    mean: np.ndarray
    """(q, P)."""
    sums: tuple[np.ndarray, ...]
    """For each degree from 2 on, the sums of products of deviations (A, P), one row per multiset of variables."""

    @classmethod
    def of(cls, values: np.ndarray, order: int) -> Moments:
        """Compute the moments of values (q, N, P) with N >= 1, up to degree `order`.

        Points are independent of each other and are taken in chunks, so that the memory of the products does not grow
        with P. The result does not depend on the chunks, to the last bit. Cost: N P C(q + order, order) products.
        """
        edges = _chunks(values.shape[2], values.shape[1])
        parts = [_central(values[:, :, begin:end], order) for begin, end in pairwise(edges)]
        means, sums = zip(*parts, strict=True)
        return cls(
            values.shape[1],
            np.concatenate(means, axis=1),
            tuple(np.concatenate(degree, axis=1) for degree in zip(*sums, strict=True)),
        )

    @property
    def order(self) -> int:
        """The highest degree."""
        return len(self.sums) + 1

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both sets of values together."""
        count = self.count + other.count
        mean = self.mean + (other.mean - self.mean) * (other.count / count)
        pairs = zip(self._about(mean), other._about(mean), strict=True)
        return Moments(count, mean, tuple(mine + theirs for mine, theirs in pairs))

    def _about(self, centre: np.ndarray) -> list[np.ndarray]:
        """Return the sums about another centre (q, P)."""
        shift, variables = self.mean - centre, len(self.mean)
        sums = np.concatenate(self.sums)
        products = [shift[_multisets(variables, degree)].prod(1) for degree in range(self.order + 1)]
        stacked, moved = np.concatenate(products), []
        for degree in range(2, self.order + 1):
            rows, others = _expansion(variables, degree)
            moved.append(self.count * products[degree] + (sums[rows] * stacked[others]).sum(0))  # (2)
        return moved

    def combined(self, weights: np.ndarray) -> Moments:
        """Return the moments of the one variable sum_i weights_i x_i, weights (q, P)."""
        sums = []
        for degree, mine in enumerate(self.sums, start=2):
            multisets = _multisets(len(weights), degree)
            factor = _multiplicities(len(weights), degree)[:, None] * weights[multisets].prod(1)
            sums.append((factor * mine).sum(0, keepdims=True))  # (3)
        return Moments(self.count, (weights * self.mean).sum(0, keepdims=True), tuple(sums))

    def covariance(self) -> np.ndarray:
        """Return the sums of products of two deviations, one matrix per point (P, q, q), not divided by N."""
        variables = len(self.mean)
        pairs = np.sort(np.indices((variables, variables)).reshape(2, -1).T, axis=1)
        rows = {tuple(multiset): row for row, multiset in enumerate(_multisets(variables, 2).tolist())}
        return self.sums[0][[rows[tuple(pair)] for pair in pairs.tolist()]].T.reshape(-1, variables, variables)

    def packed(self) -> np.ndarray:
        """Return count, means and all sums in one array (1 + q + A, P); `unpacked` is the inverse."""
        return np.concatenate([np.full((1, self.mean.shape[1]), self.count), self.mean, *self.sums])

    @classmethod
    def unpacked(cls, array: np.ndarray, variables: int, order: int) -> Moments:
        """Return the moments in an array that `packed` returned."""
        sizes = [len(_multisets(variables, degree)) for degree in range(2, order + 1)]
        parts = np.split(array[1 + variables :], np.cumsum(sizes)[:-1])
        return cls(int(array[0, 0]), array[1 : 1 + variables], tuple(parts))
