"""Effective orientations: the fewest caps of the sphere that cover the directions of vectors.

Vectors theta_1, ..., theta_m have k effective orientations if k is the smallest number of unit vectors u_1, ..., u_k,
which need not be among them, with

    for each j there is an i with   u_i . theta_j / |theta_j| > c,        c = 0.95                                   (1)

(Zhang, Xu, TPAMI 2024, arXiv 2207.05952; k/m is the effective ratio). A cap of (1) has the angular radius arccos c.

- **Directions on a circle**, such as weights of one input with a bias: k is found exactly. An arc shorter than
  2 arccos c is a cap, and there is a smallest covering by successive arcs, each of which begins at one of the
  directions; all first directions are tried.
- **Otherwise** the smallest covering is a hard combinatorial problem, and k is bounded from both sides. No cap covers
  two directions with

    theta_i . theta_j / (|theta_i||theta_j|) <= cos(2 arccos c) = 2 c^2 - 1.                                         (2)

  The direction that could share a cap with the fewest others begins a cap. The cap grows around the neighbours of this
  direction, nearest ones first, as long as one cap covers them all. This is repeated with the remaining directions. The
  number of these caps is the upper bound. The lower bound is a packing: directions of which no two fit into a cap,
  found in the same way.

Groups in which all pairs of cosines exceed c (complete linkage) are smaller than caps, so that more of them are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smesolve.entry_point import entry_point
from smesolve.landscape.array_checks import check_array, unit_rows
from smesolve.validation import check_flag, check_number

__all__ = ["Covering", "covering"]

THRESHOLD = 0.95
"""c of (1)."""

MOVES = 30
"""Largest number of steps in the search for the centre of a cap."""


@dataclass(frozen=True)
class Covering:
    """Caps that cover the directions of vectors, and a lower bound on their number."""

    centres: np.ndarray
    """Unit vectors (k, d), the centres of the caps."""
    groups: np.ndarray
    """For each vector the index of a cap that covers it, from 1 to k, (m,); 0 for a vector of zeros."""
    lower: int
    """No covering has fewer caps than this."""

    @property
    def upper(self) -> int:
        """Number of the caps, k."""
        return len(self.centres)

    @property
    def exact(self) -> bool:
        """Whether no covering has fewer caps than this one."""
        return self.lower == self.upper


@entry_point
def covering(weights: np.ndarray, lines: bool = False, threshold: float = THRESHOLD) -> Covering:
    """Cover the directions of vectors by caps (1): by the fewest caps on a circle, else greedily with a lower bound.

    Args:
        weights: vectors (m, d). A vector of zeros has no direction, and is not covered.
        lines: whether to cover directions up to their sign, with |u . theta| in place of u . theta.
        threshold: c of (1), between 0 and 1.

    Returns:
        The caps. Cost: k m on a circle; otherwise m^2 d, and at most m^2 d `MOVES` where all directions are close, with
        memory m^2.

    Raises:
        SmesolveError: weights are not a two-dimensional array of finite numbers, or the threshold is out of bounds.
    """
    weights = check_array("weights", weights, "(m, d)")
    check_flag("lines", lines)
    check_number("threshold", threshold, 0.0, 1.0)
    directed = weights.any(axis=1)
    units = unit_rows(weights[directed])
    if len(units) == 0:
        return Covering(np.empty((0, weights.shape[1])), np.zeros(len(weights), dtype=int), 0)
    plane = _plane(units)
    if plane is not None:
        centres = _arcs(units @ plane.T, lines, threshold) @ plane
        lower = len(centres)
    else:
        neighbours = _neighbours(units, lines, threshold)
        centres, lower = _grown_caps(units, neighbours, lines, threshold), _packing(neighbours)
    groups = np.zeros(len(weights), dtype=int)
    groups[directed] = 1 + _cosines(units, centres, lines).argmax(axis=1)
    return Covering(centres, groups, lower)


def _cosines(units: np.ndarray, others: np.ndarray, lines: bool) -> np.ndarray:
    """Return the cosines (m, k) between unit vectors (m, d) and (k, d), up to their sign for lines."""
    cosines: np.ndarray = units @ others.T
    return np.abs(cosines) if lines else cosines


def _plane(units: np.ndarray) -> np.ndarray | None:
    """Return an orthonormal basis (1 or 2, d) of the span of unit vectors (m, d), None where it has more dimensions.

    A centre outside the span covers no more than its projection, so that coverings in the span suffice.
    """
    _, spreads, basis = np.linalg.svd(units, full_matrices=False)
    rank = int((spreads > max(units.shape) * np.finfo(units.dtype).eps * spreads[0]).sum())
    return basis[:rank] if rank <= 2 else None


def _arcs(points: np.ndarray, lines: bool, threshold: float) -> np.ndarray:
    """Return the centres (k, 1 or 2) of the fewest caps that cover points (m, 1 or 2) of a circle."""
    if points.shape[1] == 1:
        return np.array([[1.0]]) if lines else np.unique(np.sign(points), axis=0)
    period = np.pi if lines else 2 * np.pi
    angles = np.unique(np.arctan2(points[:, 1], points[:, 0]) % period)
    count, width = len(angles), 2 * np.arccos(threshold)
    twice = np.concatenate([angles, angles + period])
    ends = np.searchsorted(twice, twice + width)  # the first direction that the arc from each direction does not reach
    first = np.arange(count)
    reached, arcs = first.copy(), np.zeros(count, dtype=int)
    while (left := reached < first + count).any():
        reached = np.where(left, np.minimum(ends[np.minimum(reached, 2 * count - 1)], first + count), reached)
        arcs += left
    best = int(arcs.argmin())
    middles, start = [], best
    while start < best + count:
        end = min(int(ends[start]), best + count)
        middles.append((twice[start] + twice[end - 1]) / 2)
        start = end
    return np.stack([np.cos(middles), np.sin(middles)], axis=1)


def _neighbours(units: np.ndarray, lines: bool, threshold: float) -> np.ndarray:
    """Return which pairs of directions (m, d) fit into one cap, (m, m)."""
    fit: np.ndarray = _cosines(units, units, lines) > 2 * threshold**2 - 1  # (2)
    np.fill_diagonal(fit, True)  # which rounding could deny at thresholds near 1
    return fit


def _loneliest(neighbours: np.ndarray, left: np.ndarray) -> int:
    """Return the index of the remaining direction with the fewest neighbours among the remaining ones."""
    return int(np.where(left, neighbours[:, left].sum(axis=1), len(left) + 1).argmin())


def _packing(neighbours: np.ndarray) -> int:
    """Return the size of a set of directions of which no two are neighbours (m, m)."""
    left, size = np.ones(len(neighbours), dtype=bool), 0
    while left.any():
        left &= ~neighbours[_loneliest(neighbours, left)]
        size += 1
    return size


def _grown_caps(units: np.ndarray, neighbours: np.ndarray, lines: bool, threshold: float) -> np.ndarray:
    """Return the centres (k, d) of caps that cover the directions (m, d), each grown around the loneliest remaining
    one."""
    left, centres = np.ones(len(units), dtype=bool), []
    while left.any():
        seed = _loneliest(neighbours, left)
        candidates = left & neighbours[seed]
        signs = np.sign(units @ units[seed]) if lines else np.ones(len(units))
        directed = units * signs[:, None]  # lines as the directions on the side of the seed
        centre, covered = units[seed], np.zeros(len(units), dtype=bool)
        while True:
            covered |= candidates & (directed @ centre > threshold)
            covered[seed] = True
            outside = candidates & ~covered
            if not outside.any():
                break
            nearest = int(np.where(outside, directed @ centre, -2.0).argmax())
            candidates[nearest] = False
            if neighbours[nearest, covered].all():
                grown = _cap_around(directed[covered | (np.arange(len(units)) == nearest)], centre, threshold)
                if grown is not None:
                    centre, candidates[nearest] = grown, True
        centres.append(centre)
        left &= ~covered
    return np.array(centres)


def _cap_around(directions: np.ndarray, centre: np.ndarray, threshold: float) -> np.ndarray | None:
    """Return the centre of a cap that covers all directions (k, d), or None where none is found.

    The centre of the smallest ball around points is approached by steps towards the farthest one (Badoiu, Clarkson,
    SODA 2003); the smallest cap has the same centre.
    """
    for step in range(MOVES):
        cosines = directions @ (centre / np.linalg.norm(centre))
        farthest = int(cosines.argmin())
        if cosines[farthest] > threshold:
            unit: np.ndarray = centre / np.linalg.norm(centre)
            return unit
        centre = centre + (directions[farthest] - centre) / (step + 2)
    return None
