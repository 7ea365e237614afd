"""Several independent draws a step, averaged."""

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
from smesolve.problem.problem import Problem
from smesolve.validation import check_integer

__all__ = ["AveragedProblem"]


class AveragedProblem(DerivedProblem):
    """The mean of `count` gradients with independent draws takes the place of each gradient: Sigma becomes Sigma/count.

    With lr -> count lr the order-1 modified equation stays what it was: the linear scaling rule. The discrete iteration
    follows as long as count lr itself stays small.

    Args:
        problem: whose gradients are averaged.
        count: draws a step.

    Source: Wei, Kakade, Ma (arXiv 2002.12915), DROP_k.
    """

    @entry_point
    def __init__(self, problem: Problem, count: int) -> None:
        super().__init__(problem)
        self.count = check_integer("count", count)
        self.draw_dim = self.count * problem.draw_dim

    @property
    def floats_per_path(self) -> int:
        """Floats in the working arrays of one path: those of every draw."""
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

    def all_draws(self) -> tuple[Tensor, Tensor]:
        """Return every sequence of `count` draws (K, count, ...) and its probability (K,); at most 2^22 of them."""
        if self.draw_count > MAX_MASKS:
            raise SmesolveError(f"count={self.count} makes more than {MAX_MASKS} sequences of draws; lower it.")
        draws, weights = self.problem.all_draws()
        places = torch.cartesian_prod(*[torch.arange(len(weights), device=weights.device)] * self.count).reshape(
            -1, self.count
        )
        return draws[places], weights[places].prod(-1)

    def noise_coordinates(self, draw: Any) -> Tensor | None:
        """Return their sum over the draws, divided by sqrt(count)."""
        coordinates = self.problem.noise_coordinates(draw)
        return None if coordinates is None else coordinates.sum(-2) / self.count**0.5

    def noise_along(self, coefficients: Any, draw: Any) -> Tensor:
        """Return the mean over the draws."""
        return self.problem.noise_along(coefficients, draw).mean(-1)


class _Averaged(Linearization):
    """Draws are averaged, and noise divided by sqrt(count).

    The network is evaluated when it is first needed: gradients have one more dimension, that of the draws.
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
        return self._at.noisy_mean_gradient(normals / self._root, weight)

    def reference_gradient(self) -> Tensor:
        return self._at.reference_gradient()

    def hessian_product(self, vector: Tensor) -> Tensor:
        return self._at.hessian_product(vector)

    def noise_factor(self) -> Tensor:
        return self._at.noise_factor() / self._root
