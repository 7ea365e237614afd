"""Several independent draws a step, averaged."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from smesolve.arguments import checked
from smesolve.errors import SmesolveError
from smesolve.problem.derived_problem import DerivedProblem
from smesolve.problem.masks import MAX_MASKS
from smesolve.problem.problem import Problem

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

    @checked
    def __init__(self, problem: Problem, count: int) -> None:
        super().__init__(problem)
        self.count = count
        self.draw_dim = count * problem.draw_dim
        self.numbers_per_path = count * problem.numbers_per_path

    def draw(self, uniforms: Tensor) -> Any:
        """`count` draws, in the last leading dimension."""
        return self.problem.draw(uniforms.unflatten(-1, (self.count, -1)))

    @property
    def draw_count(self) -> float:
        """Sequences of `count` draws; infinity beyond the range of floats."""
        try:
            return self.problem.draw_count**self.count
        except OverflowError:
            return math.inf

    def all_draws(self) -> tuple[Tensor, Tensor]:
        """Every sequence of `count` draws (K, count, ...) and its probability (K,); refused beyond 2^22 of them."""
        if self.draw_count > MAX_MASKS:
            raise SmesolveError(f"count={self.count} makes more than {MAX_MASKS} sequences of draws; lower it.")
        draws, weights = self.problem.all_draws()
        places = torch.cartesian_prod(*[torch.arange(len(weights), device=weights.device)] * self.count).reshape(
            -1, self.count
        )
        return draws[places], weights[places].prod(-1)

    def gradient(self, theta: Tensor, draw: Any) -> Tensor:
        """The mean gradient of `count` draws: (..., D). Cost: that many gradients."""
        return self.problem.gradient(theta[..., None, :], draw).mean(-2)

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """That of one draw over sqrt(count)."""
        return self.problem.noise_product(theta, normals) / self.count**0.5

    def noise_factor(self, theta: Tensor) -> Tensor:
        """That of one draw over sqrt(count)."""
        return self.problem.noise_factor(theta) / self.count**0.5

    def noise_functions(self, draw: Any) -> Tensor | None:
        """Their sum over the draws, over sqrt(count)."""
        functions = self.problem.noise_functions(draw)
        return None if functions is None else functions.sum(-2) / self.count**0.5

    def noise_along(self, coefficients: Any, draw: Any) -> Tensor:
        """Their mean over the draws."""
        return torch.as_tensor(self.problem.noise_along(coefficients, draw)).mean(-1)
