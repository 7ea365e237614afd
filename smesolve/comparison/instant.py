"""Derivatives in time of what a step is made of, for problems that follow a schedule.

The clock is one more coordinate of the state, of drift 1 and without noise. A derivative along the drift is then that
along (1, b),

    d_t f + Df[b],                                                                                            (1)

and a second derivative of f along (1, b) and (1, b') is

    d_t^2 f + d_t Df[b + b'] + D^2 f[b, b'].                                                                    (2)

Time derivatives are central differences of the piece of the schedule that holds, which is continued smoothly beyond its
ends (`Problem.continued`). They are exact where f is affine in a factor of lr, and have a relative error of second
order in the offset to both sides elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from smesolve.comparison.differences import DrawnField, Field, first_difference, second_difference
from smesolve.problem.problem import Problem

__all__ = ["Instant"]


@dataclass(frozen=True)
class Instant:
    """A problem at a time, and an offset before and after it in the same piece of the schedule."""

    here: Problem
    earlier: Problem
    later: Problem
    offset: float

    @classmethod
    def of(cls, problem: Problem, time: float, offset: float, left_limit: bool = False) -> Instant:
        """Return a time with the piece that holds from there on, or as left limit the one before."""
        if problem.autonomous:
            return cls(problem, problem, problem, offset)
        earlier, later = (problem.continued(time, left_limit, sign * offset) for sign in (-1, 1))
        return cls(problem.at(time, left_limit), earlier, later, offset)

    @property
    def moves(self) -> bool:
        """Whether the problem depends on time."""
        return self.later is not self.earlier

    def slope(self, field: DrawnField) -> Field:
        """Return d_t of a field of a draw."""
        return lambda theta: (field(theta, self.later) - field(theta, self.earlier)) / (2 * self.offset)

    def first(self, field: DrawnField, x: Tensor, b: Tensor, shift: float | None = None) -> Tensor:
        """Return (1) at x (A, D) along the drift b (A, D); `shift` as in `first_difference`."""
        here = first_difference(field, x, b, shift)
        return here + self.slope(field)(x) if self.moves else here

    def second(self, field: DrawnField, x: Tensor, b: Tensor, other: Tensor, shift: float | None = None) -> Tensor:
        """Return (2) at x (A, D) along two draws of the drift, each (A, D)."""
        here = second_difference(field, x, b, other, shift)
        return here + self.second_in_time(field, x, b + other, shift) if self.moves else here

    def second_in_time(self, field: DrawnField, x: Tensor, both: Tensor, shift: float | None = None) -> Tensor:
        """Return the first two terms of (2) at x (A, D), `both` being the sum of both drifts."""
        sides = field(x, self.later) + field(x, self.earlier)
        return (sides - 2 * field(x)) / self.offset**2 + first_difference(self.slope(field), x, both, shift)
