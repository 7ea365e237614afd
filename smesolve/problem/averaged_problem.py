"""The average of several independent draws per step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.derived_problem import DerivedProblem
from smesolve.problem.linearization import Linearization
from smesolve.problem.masks import MAX_MASKS
from smesolve.problem.module_draws import of_parts
from smesolve.problem.problem import Problem
from smesolve.validation import check_integer

__all__ = ["AveragedProblem"]


class AveragedProblem(DerivedProblem):
    """A problem whose gradient is the mean of `count` gradients with independent draws: Sigma becomes Sigma/count.

    With lr -> count lr the order-1 modified equation does not change: this is the linear scaling rule. The discrete
    iteration follows it as long as count lr itself stays small.

    Args:
        problem: the problem whose gradients are averaged.
        count: number of draws per step.

    Raises:
        SmesolveError: count is not a positive integer, or the problem has a schedule or a step other than gradient
            descent.

    Source: Wei, Kakade, Ma (arXiv 2002.12915), DROP_k.
    """

    @entry_point
    def __init__(self, problem: Problem, count: int) -> None:
        super().__init__(problem)
        self.count = check_integer("count", count)
        self.draw_dim = self.count * problem.draw_dim

    @property
    def floats_per_path(self) -> int:
        """Floats in the working arrays of one path: `count` times those of the problem."""
        return self.count * self.problem.floats_per_path

    def linearize(self, theta: Tensor) -> Linearization:
        """Return everything at theta."""
        return _Averaged(self, theta, self.count)

    def draw(self, uniforms: Tensor) -> Any:
        """Return `count` draws, in the last leading dimension."""
        return self.problem.draw(uniforms.unflatten(-1, (self.count, -1)))

    @property
    def draw_count(self) -> float:
        """Number of sequences of `count` draws; infinity beyond the range of floats."""
        try:
            return self.problem.draw_count**self.count
        except OverflowError:
            return math.inf

    def all_draws(self) -> tuple[Any, Tensor]:
        """Return all sequences of `count` draws (K, count, ...) and their probabilities (K,).

        Raises:
            SmesolveError: there are more than 2^22 sequences.
        """
        if self.draw_count > MAX_MASKS:
            raise SmesolveError(f"count={self.count} makes more than {MAX_MASKS} sequences of draws; lower it.")
        draws, weights = self.problem.all_draws()
        places = torch.cartesian_prod(*[torch.arange(len(weights), device=weights.device)] * self.count).reshape(
            -1, self.count
        )
        return of_parts(lambda part: part[places.to(part.device)], draws), weights[places].prod(-1)

    def noise_coordinates(self, draw: Any) -> Tensor | None:
        """Return the sum of the problem's coordinates over the draws, divided by sqrt(count)."""
        coordinates = self.problem.noise_coordinates(draw)
        return None if coordinates is None else coordinates.sum(-2) / self.count**0.5

    def noise_along(self, coefficients: Any, draw: Any) -> Tensor:
        """Return the mean of the problem's noise along the direction over the draws."""
        return self.problem.noise_along(coefficients, draw).mean(-1)


class _Averaged(Linearization):
    """The problem at theta, with averaged draws and noise divided by sqrt(count).

    The network is evaluated at theta when it is first needed: `gradient`, whose draws have one more dimension, does not
    need it.
    """

    problem: AveragedProblem

    def __init__(self, problem: AveragedProblem, theta: Tensor, count: int) -> None:
        super().__init__(problem, theta)
        self._root = float(count**0.5)
        self._made: Linearization | None = None

    @property
    def _at(self) -> Linearization:
        if self._made is None:
            self._made = self.problem.problem.linearize(self.theta)
        return self._made

    def loss(self) -> Tensor:
        return self._at.loss()

    def modified_loss(self) -> Tensor:
        return self._at.modified_loss()

    def gradient(self, draw: Any) -> Tensor:
        return self.problem.problem.gradient(self.theta[..., None, :], draw).mean(-2)

    def mean_gradient(self) -> Tensor:
        return self._at.mean_gradient()

    def noise_product(self, normals: Tensor) -> Tensor:
        return self._at.noise_product(normals) / self._root

    def noisy_mean_gradient(self, normals: Tensor, weight: float) -> Tensor:
        return self._at.noisy_mean_gradient(normals, weight * self._root) / self._root

    def reference_gradient(self) -> Tensor:
        return self._at.reference_gradient()

    def hessian_product(self, vector: Tensor) -> Tensor:
        return self._at.hessian_product(vector)

    def noise_factor(self) -> Tensor:
        return self._at.noise_factor() / self._root
