"""A problem at one theta, where its losses, gradients and noise share one forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.one_at_a_time import forward_derivative

if TYPE_CHECKING:
    from smesolve.problem.problem import Problem

__all__ = [
    "Linearization",
    "PointwiseLinearization",
    "dense_noise_factor",
    "reference_hessian_product",
    "reference_third_derivative",
]

T = TypeVar("T")


class Linearization(ABC):
    """Everything that a problem computes at theta (..., D), as `Problem.linearize` returns it.

    A subclass computes only once what its methods share. The leading dimensions of draws, normals and vectors broadcast
    against those of theta.

    Attributes:
        problem: the problem.
        theta: (..., D), where it is evaluated.
    """

    def __init__(self, problem: Problem, theta: Tensor) -> None:
        self.problem, self.theta = problem, theta

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.problem!r}, theta of shape {tuple(self.theta.shape)})"

    @abstractmethod
    def loss(self) -> Tensor:
        """Return R_S(theta), the loss without noise: (...,)."""

    @abstractmethod
    def modified_loss(self) -> Tensor:
        """Return L_S(theta), the mean of the noisy loss: (...,)."""

    @abstractmethod
    def gradient(self, draw: Any) -> Tensor:
        """Return the noisy gradient for given draws: (..., D)."""

    @abstractmethod
    def mean_gradient(self) -> Tensor:
        """Return grad L_S(theta), the mean of `gradient` over its draws: (..., D)."""

    @abstractmethod
    def noise_product(self, normals: Tensor) -> Tensor:
        """Return C(theta) normals, (..., D) from (..., M), with mean zero and the covariance of `gradient`."""

    def noisy_mean_gradient(self, normals: Tensor, weight: float) -> Tensor:
        """Return weight `mean_gradient` + `noise_product`: (..., D)."""
        return weight * self.mean_gradient() + self.noise_product(normals)

    def noisy_step(self, normals: Tensor, weight: float, scale: float) -> Tensor:
        """Return theta + scale `noisy_mean_gradient`, a step of an Euler scheme: (..., D)."""
        return torch.add(self.theta, self.noisy_mean_gradient(normals, weight), alpha=scale)

    def gradient_and_mean(self, draw: Any) -> tuple[Tensor, Tensor]:
        """Return the gradient and the mean gradient, each (..., D): a training step and its prediction."""
        return self.gradient(draw), self.mean_gradient()

    def mean_noise_and_curvature(self, normals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean gradient g, the noise product, and Hess L_S g, each (..., D): the parts of order 2."""
        mean = self.mean_gradient()
        return mean, self.noise_product(normals), self.hessian_product(mean)

    def reference_gradient(self) -> Tensor:
        """Return a smooth function close to `mean_gradient`: (..., D). Default: `mean_gradient`."""
        return self.mean_gradient()

    def hessian_product(self, vector: Tensor) -> Tensor:
        """Return Hess L_S(theta) vector, the derivative of `reference_gradient`: (..., D). Cost: two gradients."""
        return reference_hessian_product(self.problem, self.theta, vector)

    def third_derivative(self, first: Tensor, second: Tensor) -> Tensor:
        """Return D^3 L_S(theta)[first, second], the derivative of `hessian_product`: (..., D).

        Cost: some 3 to 10 gradients.
        """
        return reference_third_derivative(self.problem, self.theta, first, second)

    def noise_factor(self) -> Tensor:
        """Return the matrix C(theta), (..., D, M), whose columns are the noise products of the unit vectors."""
        return dense_noise_factor(self.problem, self.theta)

    def covariance(self) -> Tensor:
        """Return Sigma(theta) = Cov(gradient): (..., D, D)."""
        factor = self.noise_factor()
        return factor @ factor.mT

    def evaluate(self, function: Callable[..., T], *tensors: Tensor) -> T:
        """Return function(self, *tensors). A `CompiledProblem` compiles the function together with the forward pass."""
        return function(self, *tensors)


class PointwiseLinearization(Linearization):
    """The linearization of a problem that defines its own methods: each method calls the problem's at theta."""

    def loss(self) -> Tensor:
        """Return `Problem.loss`."""
        return self.problem.loss(self.theta)

    def modified_loss(self) -> Tensor:
        """Return `Problem.modified_loss`."""
        return self.problem.modified_loss(self.theta)

    def gradient(self, draw: Any) -> Tensor:
        """Return `Problem.gradient`."""
        return self.problem.gradient(self.theta, draw)

    def mean_gradient(self) -> Tensor:
        """Return `Problem.mean_gradient`."""
        return self.problem.mean_gradient(self.theta)

    def noise_product(self, normals: Tensor) -> Tensor:
        """Return `Problem.noise_product`."""
        return self.problem.noise_product(self.theta, normals)

    def reference_gradient(self) -> Tensor:
        """Return `Problem.reference_gradient`."""
        return self.problem.reference_gradient(self.theta)

    def hessian_product(self, vector: Tensor) -> Tensor:
        """Return `Problem.hessian_product`."""
        return self.problem.hessian_product(self.theta, vector)

    def third_derivative(self, first: Tensor, second: Tensor) -> Tensor:
        """Return `Problem.third_derivative`."""
        return self.problem.third_derivative(self.theta, first, second)

    def noise_factor(self) -> Tensor:
        """Return `Problem.noise_factor`."""
        return self.problem.noise_factor(self.theta)


def reference_hessian_product(problem: Problem, theta: Tensor, vector: Tensor) -> Tensor:
    """Return the derivative of `problem.reference_gradient` at theta along a vector, by forward differentiation.

    Leading dimensions broadcast.
    """
    return forward_derivative(problem.reference_gradient, *torch.broadcast_tensors(theta, vector))[1]


def reference_third_derivative(problem: Problem, theta: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the derivative of `problem.hessian_product(., second)` at theta along `first`, by forward differentiation.

    Leading dimensions broadcast.
    """
    theta, first, second = torch.broadcast_tensors(theta, first, second)
    return forward_derivative(lambda at: problem.hessian_product(at, second), theta, first)[1]


def dense_noise_factor(problem: Problem, theta: Tensor) -> Tensor:
    """Return the matrix C(theta) (..., D, M), whose columns are the noise products of the unit vectors."""
    if not problem.linear_noise:
        raise SmesolveError(
            f"{type(problem).__name__} has no noise factor, as its noise is not a linear map of normals; estimate the "
            "covariance from noise_product."
        )
    columns = torch.eye(problem.noise_dim, dtype=problem.dtype, device=problem.device)
    return problem.noise_product(theta[..., None, :], columns).expand(*theta.shape[:-1], -1, -1).mT
