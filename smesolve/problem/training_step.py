"""The training step of a problem, theta' = step(theta, draw, lr), and the terms of it in the modified equation.

The training step is that of gradient descent, theta - lr gradient(theta, draw), or any other one that is smooth in lr,

    step(theta, draw, lr) = theta + lr F + lr^2 F2 + lr^3 F3 + ...,      F = -gradient(theta, draw).             (1)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.call_numbers import check_rate, check_term_count
from smesolve.problem.one_at_a_time import transposed_derivative
from smesolve.problem.step_expansion import taylor_terms

__all__ = ["REFERENCE_DRAWS", "TrainingStep"]

REFERENCE_DRAWS = 32
"""Number of fixed draws over which means without a closed form are taken."""


class TrainingStep(ABC):
    """The part of `Problem` about the training step. If the step is linear in lr, it follows from the gradient."""

    has_closed_form: bool
    linear_step: bool = True
    """Whether `step` is theta - lr gradient(theta, draw). A problem with another step sets this to False."""
    conservative: bool = True
    """Whether the mean gradient is the gradient of a function, so that its Jacobian is symmetric."""
    has_mean_step: bool = True
    """Whether `mean_step` is known where the mean gradient is; control variates need it."""
    largest_lr: float = math.inf
    """Largest learning rate for which `step` is defined."""

    # --- parts of the step, defined by the problem --------------------------------------------------------------------

    @abstractmethod
    def gradient(self, theta: Tensor, draw: Any) -> Tensor:
        """Return the noisy gradient for given draws: (..., D)."""

    @abstractmethod
    def mean_gradient(self, theta: Tensor) -> Tensor:
        """Return the mean of `gradient` over its draws: (..., D)."""

    @abstractmethod
    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """Return (..., D) from standard normals (..., M): mean zero and the covariance of `gradient`."""

    @abstractmethod
    def reference_gradient(self, theta: Tensor) -> Tensor:
        """Return a smooth function close to `mean_gradient`: (..., D)."""

    @abstractmethod
    def hessian_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """Return the derivative of `reference_gradient` along a vector: (..., D)."""

    @abstractmethod
    def third_derivative(self, theta: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return the derivative of `hessian_product(., second)` along `first`: (..., D)."""

    @abstractmethod
    def sample(self, count: int, seed: int, step: int = 0) -> Any:
        """Return `count` independent draws, keyed by (seed, step)."""

    @abstractmethod
    def _missing(self, name: str) -> SmesolveError:
        """Return the error for a method that is not defined."""

    @property
    def limit_in_words(self) -> str:
        """The meaning of `stability_limit`, for messages."""
        if self.linear_step and self.conservative:
            return "2/lambda_max(Hess L_S(theta0))"
        return "where an eigenvalue of the mean step's Jacobian leaves the unit circle"

    # --- the step -----------------------------------------------------------------------------------------------------

    def step(self, theta: Tensor, draw: Any, lr: float | Tensor) -> Tensor:
        """Return theta after one training step: (..., D), a smooth function of lr that is theta at lr = 0.

        Default: theta - lr gradient(theta, draw). A problem that defines another step sets ``linear_step = False``,
        and its `gradient` is -F of (1), minus the derivative of the step in lr at lr = 0.

        Raises:
            SmesolveError: theta, draw or lr is malformed, such as a negative lr.
        """
        check_rate(lr)
        return theta - lr * self.gradient(theta, draw)

    def step_terms(self, theta: Tensor, draw: Any, count: int) -> list[Tensor]:
        """Return the first `count` of F, F2, F3, ... of (1) for one draw, each (..., D).

        Default: derivatives of `step` in lr at lr = 0. Cost: one gradient, and 2^count times the work of the step's
        other operations.
        """
        check_term_count(count)
        if self.linear_step:
            first = -self.gradient(theta, draw)
            return [first, *[torch.zeros_like(first)] * (count - 1)]
        return taylor_terms(lambda lr: self.step(theta, draw, lr), theta, count)[1:]

    def mean_second_term(self, theta: Tensor) -> Tensor:
        """Return E F2 of (1) over the draws: (..., D). Default: 0 for a linear step."""
        if self.linear_step:
            return torch.zeros_like(theta)
        raise self._missing("mean_second_term")

    def mean_step(self, theta: Tensor, lr: float | Tensor) -> Tensor:
        """Return the mean of `step` over the draws: (..., D). Default: theta - lr grad L_S for a linear step."""
        check_rate(lr)
        if self.linear_step:
            return theta - lr * self.mean_gradient(theta)
        raise self._missing("mean_step")

    def step_noise(self, theta: Tensor, normals: Tensor, lr: float | Tensor) -> Tensor:
        """Return noise (..., D) made of standard normals (..., M), with mean zero and the covariance of `step`.

        Default: -lr C normals. Only exact moments need it.
        """
        check_rate(lr)
        if self.linear_step:
            return -lr * self.noise_product(theta, normals)
        raise self._missing("step_noise")

    def reference_second_term(self, theta: Tensor) -> Tensor:
        """Return a smooth function close to `mean_second_term`, as `reference_gradient` does: (..., D)."""
        if self.has_closed_form or self.linear_step:
            return self.mean_second_term(theta)
        draws = self.sample(REFERENCE_DRAWS, seed=0)
        return self.step_terms(theta[..., None, :], draws, 2)[1].mean(-2)

    def reference_step(self, theta: Tensor, lr: float | Tensor) -> Tensor:
        """Return a smooth function close to `mean_step`, as `reference_gradient` does: (..., D)."""
        check_rate(lr)
        if self.linear_step:
            return theta - lr * self.reference_gradient(theta)
        if self.has_closed_form and self.has_mean_step:
            return self.mean_step(theta, lr)
        return self.step(theta[..., None, :], self.sample(REFERENCE_DRAWS, seed=0), lr).mean(-2)

    def adjoint_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """Return the transposed Jacobian of `reference_gradient` times a vector: (..., D). Cost: two gradients.

        For a conservative problem this is `hessian_product`.
        """
        if self.conservative:
            return self.hessian_product(theta, vector)
        return transposed_derivative(self.reference_gradient, theta, vector)
