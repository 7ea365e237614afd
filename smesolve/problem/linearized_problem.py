"""Problems that are defined by their linearization."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from smesolve.problem.linearization import Linearization
from smesolve.problem.problem import Problem

__all__ = ["LinearizedProblem"]


class LinearizedProblem(Problem, ABC):
    """A problem that defines `linearize`. All methods that take theta are shortcuts to it."""

    @abstractmethod
    def linearize(self, theta: Tensor) -> Linearization:
        """Return everything at theta, by one forward pass."""

    def check(self) -> None:
        """Do nothing: methods are shortcuts to `linearize`, and constructors check sizes."""

    def loss(self, theta: Tensor) -> Tensor:
        """Return R_S(theta), the loss without noise: (...,). Cost: one forward pass."""
        return self.linearize(theta).loss()

    def modified_loss(self, theta: Tensor) -> Tensor:
        """Return L_S(theta), the mean of the noisy loss: (...,). Cost: one forward pass."""
        return self.linearize(theta).modified_loss()

    def gradient(self, theta: Tensor, draw: Any) -> Tensor:
        """Return the noisy gradient for given draws: (..., D). Cost: one gradient."""
        return self.linearize(theta).gradient(draw)

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """Return grad L_S(theta), the mean of `gradient` over its draws: (..., D). Cost: one gradient."""
        return self.linearize(theta).mean_gradient()

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """Return C(theta) normals, (..., D) from standard normals (..., M), with the covariance of `gradient`."""
        return self.linearize(theta).noise_product(normals)

    def reference_gradient(self, theta: Tensor) -> Tensor:
        """Return a smooth function close to `mean_gradient`: (..., D)."""
        return self.linearize(theta).reference_gradient()

    def hessian_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """Return Hess L_S(theta) vector: (..., D). Cost: two gradients."""
        self.check_vectors(theta, vector=vector)
        return self.linearize(theta).hessian_product(vector)

    def third_derivative(self, theta: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return D^3 L_S(theta)[first, second]: (..., D). Cost: some 3 to 10 gradients."""
        self.check_vectors(theta, first=first, second=second)
        return self.linearize(theta).third_derivative(first, second)

    def noise_factor(self, theta: Tensor) -> Tensor:
        """Return C(theta), (..., D, K) with C C^T = Cov(gradient): small problems and tests."""
        return self.linearize(theta).noise_factor()
