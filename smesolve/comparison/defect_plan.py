"""What the runs of an estimate by defects do: at which steps, and with which shifts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import fitting_block_size
from smesolve.solver.time_grid import grid_steps

__all__ = ["DefectPlan", "gregory_weights", "meets_breaks", "parts_of_horizon"]

NODES = 64
"""Least number of nodes at which the companion is moved; in fewer steps it is moved at every step."""

RUNS = 18
"""States of a path: the run, two companions, and the shifted runs of (3)."""

GREGORY = np.array([-5 / 8, 1 / 6, -1 / 24])
"""Corrections of the weights at the first three nodes, and of those at the last three."""

MORE_RUNS = 4
"""Shifted runs of (3a)."""

MOST_PARTS = 256
"""Largest number of equal parts of the horizon at whose ends the breaks of a schedule may lie."""


@dataclass(frozen=True)
class DefectPlan:
    """The runs of blocks of paths at one learning rate; formulas are those of `smesolve.comparison.defects`."""

    problem: Problem
    theta0: Tensor
    """(D,), the start."""
    lr: float
    saved: Sequence[int]
    """Step numbers of the observations, increasing and positive."""
    observables: Mapping[str, Observable]
    orders: Sequence[int]
    kinked: bool
    """The gradient jumps somewhere."""
    seed: int = 0
    """The run has the draws of the iteration with this seed."""

    @cached_property
    def block_size(self) -> int:
        """Paths in a block."""
        return min(fitting_block_size(self.states * self.problem.floats_per_path), self.problem.largest_block)

    @property
    def states(self) -> int:
        """States of a path, at most."""
        if 2 not in self.orders:
            return 2
        return RUNS if self.problem.linear_step else RUNS + MORE_RUNS

    @property
    def steps(self) -> int:
        """K."""
        return self.saved[-1]

    @cached_property
    def breaks(self) -> set[int]:
        """Steps that begin at a break of a schedule.

        Raises:
            SmesolveError: the learning rate does not divide a break.
        """
        last = self.steps * self.lr
        steps = (grid_steps(end, self.lr, "the schedule's break", "lr") for end in self.problem.breaks if end < last)
        return {step for step in steps if step < self.steps}

    @cached_property
    def spacing(self) -> int:
        """q, the steps from one node of the companion to the next; 1 where kinks are to be met at every step."""
        common = math.gcd(*self.saved, *self.breaks)
        most = 1 if self.kinked else max(1, self.steps // NODES)
        return max(q for q in range(1, most + 1) if common % q == 0)

    @cached_property
    def node_weights(self) -> dict[int, tuple[float, float]]:
        """Weights of the moves at each node, in units of q lr^2 w: as the end of a piece, and in the one that goes on.

        A piece goes from one break, or time of observation, to the next, and has the weights of Gregory's rule.
        """
        weights = {0: (0.0, 0.0)}
        for begin, end in pairwise(sorted({0, *self.saved, *self.breaks})):
            first, *inner, last = gregory_weights((end - begin) // self.spacing).tolist()
            weights[begin] = weights[begin][0], first
            weights |= {begin + (k + 1) * self.spacing: (0.0, weight) for k, weight in enumerate(inner)}
            weights[end] = last, 0.0
        return weights

    @property
    def shortest_piece(self) -> int:
        """The least number of steps from one break of a schedule, or end of the run, to the next."""
        return min(end - begin for begin, end in pairwise(sorted({0, self.steps, *self.breaks})))

    def at(self, step: int) -> Problem:
        """Return the problem in a step."""
        return self.problem.at(step * self.lr)

    @property
    def paired(self) -> bool:
        """Whether there is a second companion, moved by derivatives."""
        return self.kinked and 2 in self.orders

    @cached_property
    def shift(self) -> float | None:
        """The shifts of derivatives at kinks, a power of two; None for the shortest ones."""
        if not self.kinked:
            return None
        horizon = self.steps * self.lr
        limit = min(self.problem.stability_limit(self.theta0, horizon), horizon)
        longest = math.sqrt(self.lr * limit) / 2
        return float(2.0 ** math.floor(math.log2(longest)))  # rounding of the limit must not show in results


def gregory_weights(intervals: int) -> np.ndarray:
    """Return the weights of the rule of Gregory with third differences at the nodes of some intervals of length 1.

    They are those of Simpson's rule for two intervals, of the 3/8 rule for three, and 1 away from the ends of many.
    The error is of fourth order. The trapezoidal rule is all there is for one interval.
    """
    if intervals == 1:
        return np.array([0.5, 0.5])
    weights = np.ones(intervals + 1)
    weights[:3] += GREGORY
    weights[-3:] += GREGORY[::-1]
    return weights


def meets_breaks(problem: Problem, lr: float, horizon: float) -> bool:
    """Return whether every break of a schedule before the horizon is a step, as defects need it."""
    ends = [end for end in problem.breaks if end < horizon]
    return all(math.isclose(round(end / lr) * lr, end, rel_tol=1e-9) for end in ends)


def parts_of_horizon(problem: Problem, horizon: float) -> int:
    """Return the least number of equal parts of the horizon whose ends hold all breaks of a schedule before it.

    Raises:
        SmesolveError: more than 256 parts would be needed.
    """
    shares = [Fraction(end / horizon).limit_denominator(MOST_PARTS) for end in problem.breaks if end < horizon]
    parts = math.lcm(*(share.denominator for share in shares))
    for end in problem.breaks:
        if end < horizon and (
            parts > MOST_PARTS or not math.isclose(round(end / horizon * parts) / parts * horizon, end)
        ):
            raise SmesolveError(
                f"problem has a schedule with a break at {end:g}, and its breaks must be multiples of a part of the "
                f"horizon {horizon:g}, a half up to a {MOST_PARTS}th; move the breaks or the horizon."
            )
    return parts
