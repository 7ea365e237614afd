"""Moments of a random variable from its quantile function, with a bound on their error.

With U uniform on [0, 1) and X = F^{-1}(U), E g(X) is the integral of g(F^{-1}(u)). It is computed by the trapezoidal
rule on panels. At first they shrink like 2^-k towards both ends, where heavy tails lie, down to 2^-53, the spacing of
the uniforms that numpy draws; then the panels that contribute most to the error are halved. With T1, T2, T4 the rule on
a whole panel, its halves and its quarters, the error of T4 is at most

    |T4 - T2| + |T2 - T1| / 4

if g(F^{-1}) is convex or concave on the panel, or constant with one jump. This serves smooth and discrete laws alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["QuantileMoments", "quantile_moments"]

FINEST = 53
"""Uniforms are multiples of 2^-53."""

PARTS = 4
"""Number of initial panels per factor of 2 towards an end."""

MOST_PANELS = 2**17

ACCURACY = 2e-6
"""Target of the error bound, relative to the absolute moment."""

TAIL = 8
"""Number of factors of 2 from which the integral beyond 2^-53 is extrapolated."""

QUARTERS = np.arange(5) / 4
WHOLE = np.array([0.5, 0.0, 0.0, 0.0, 0.5])
HALVES = np.array([0.25, 0.0, 0.5, 0.0, 0.25])
FOUR = np.array([0.125, 0.25, 0.25, 0.25, 0.125])


@dataclass(frozen=True)
class QuantileMoments:
    """E (X - 1)^j for j = 1, ..., J, and the quadrature that found them."""

    values: np.ndarray
    """(J,)."""
    absolute: np.ndarray
    """E |X - 1|^j (J,)."""
    bounds: np.ndarray
    """Bounds on the errors of `values`, (J,): of the quadrature, the rounding of X, and the tails."""
    points: np.ndarray
    """Values X (N,)."""
    weights: np.ndarray
    """Their probabilities (N,)."""
    undecided: float
    """Total probability of the panels in which X is not constant."""


def quantile_moments(quantile: Callable[[np.ndarray], np.ndarray], orders: int) -> QuantileMoments:
    """Return the moments about 1, up to order J = `orders`, of the law with a quantile function of arrays.

    If the quantile is not finite, neither are the moments.
    """
    powers = np.arange(1, orders + 1)

    def panels(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return ends, values (n, 5), integrals and error bounds (n, J)."""
        values = quantile(begin[:, None] + (end - begin)[:, None] * QUARTERS)
        functions = (values[..., None] - 1) ** powers
        width = (end - begin)[:, None]
        whole, halves, four = (width * np.einsum("q,nqj->nj", rule, functions) for rule in (WHOLE, HALVES, FOUR))
        return begin, end, values, four, np.abs(four - halves) + np.abs(halves - whole) / 4

    with np.errstate(all="ignore"):
        edges = _first_edges()
        found = panels(edges[:-1], edges[1:])
        while True:
            begin, end, values, _, errors = found
            scale = _absolute(begin, end, values, powers)
            shares = np.max(errors / (ACCURACY * scale.sum(0) + np.finfo(float).tiny), axis=1)
            coarse = (shares > 0.5 / len(shares)) & (end - begin > 4 * np.spacing(end))
            if not shares.sum() > 1 or not coarse.any() or len(shares) + coarse.sum() > MOST_PANELS:
                break
            middle = (begin[coarse] + end[coarse]) / 2
            halves = panels(np.concatenate([begin[coarse], middle]), np.concatenate([middle, end[coarse]]))
            found = tuple(np.concatenate([old[~coarse], new]) for old, new in zip(found, halves, strict=True))
        # The first and the last uniform stand for the intervals beyond the panels.
        ends = quantile(np.array([0.0, 1 - 2.0**-FINEST]))
        points = np.concatenate([values.ravel(), ends])
        weights = np.concatenate([((end - begin)[:, None] * FOUR).ravel(), np.full(2, 2.0**-FINEST)])
        distances = points[:, None] - 1
        rounding = powers * np.abs(distances) ** (powers - 1) * (np.finfo(float).eps * np.abs(points))[:, None]
        bounds = errors.sum(0) + weights @ rounding + _beyond(begin, scale) + _beyond(1 - end, scale)
        constant = (values == values[:, :1]).all(1)
        return QuantileMoments(
            weights @ distances**powers,
            weights @ np.abs(distances) ** powers,
            bounds,
            points,
            weights,
            float((end - begin)[~constant].sum()),
        )


def _first_edges() -> np.ndarray:
    lower = 2.0 ** -np.arange(FINEST, 0, -1)
    inner = (lower[:-1, None] + np.diff(lower)[:, None] * np.arange(PARTS) / PARTS).ravel()
    return np.concatenate([inner, [0.5], np.unique(1 - inner)])


def _absolute(begin: np.ndarray, end: np.ndarray, values: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Return the integrals of |X - 1|^j over panels (n, J)."""
    integrals: np.ndarray = (end - begin)[:, None] * np.einsum(
        "q,nqj->nj", FOUR, np.abs(values[..., None] - 1) ** powers
    )
    return integrals


def _beyond(distance: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the integrals of |X - 1|^j beyond 2^-53 of an end, extrapolated as a geometric series.

    Args:
        distance: of the panels from that end (n,), the nearer edge.
        scale: their integrals (n, J).
    """
    near = [
        scale[(distance >= 2.0 ** -(first + TAIL)) & (distance < 2.0**-first)].sum(0)
        for first in (FINEST - 2 * TAIL, FINEST - TAIL)
    ]
    ratio = np.where(near[0] > 0, near[1] / np.where(near[0] > 0, near[0], 1.0), 0.0)
    return np.where(ratio < 1, near[1] * ratio / np.where(ratio < 1, 1 - ratio, 1.0), np.inf)
