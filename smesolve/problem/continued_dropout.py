"""Dropout whose keep_prob goes on smoothly beyond the end of a schedule's piece, even to above 1."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from smesolve.problem.derived_problem import DerivedProblem
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.linearization import Linearization

__all__ = ["ContinuedDropout"]


class ContinuedDropout(DerivedProblem):
    """A `DropoutProblem` at the variance v = 1/keep - 1 of its masks, which a schedule that is continued may make < 0.

    L_S is affine in v, so that its gradient is known at every v,

        grad L_S = (1 - v) grad L_S at v = 0  +  v grad L_S at v = 1.                                            (1)

    The noise at v < 0 is that at v = 0, which is none.

    Args:
        problem: with dropout masks.
        variance: v.
    """

    def __init__(self, problem: DropoutProblem, variance: float) -> None:
        super().__init__(problem)
        self.variance = variance
        self.ends = problem.with_keep_prob(1.0), problem.with_keep_prob(0.5)
        """The problems with v = 0 and v = 1."""
        self.nearest = problem.with_keep_prob(1 / (1 + max(variance, 0.0)))
        """The problem with the closest keep_prob of at most 1."""

    def linearize(self, theta: Tensor) -> Linearization:
        """Return everything at theta."""
        return _Continued(self, theta)


class _Continued(Linearization):
    """The mean gradient (1), and all else of the nearest problem."""

    problem: ContinuedDropout

    def __init__(self, problem: ContinuedDropout, theta: Tensor) -> None:
        super().__init__(problem, theta)
        self._at = problem.nearest.linearize(theta)

    def loss(self) -> Tensor:
        return self._at.loss()

    def modified_loss(self) -> Tensor:
        return self._at.modified_loss()

    def gradient(self, draw: Any) -> Tensor:
        return self._at.gradient(draw)

    def mean_gradient(self) -> Tensor:
        v = self.problem.variance
        none, half = (end.mean_gradient(self.theta) for end in self.problem.ends)
        return (1 - v) * none + v * half  # (1)

    def noise_product(self, normals: Tensor) -> Tensor:
        return self._at.noise_product(normals)
