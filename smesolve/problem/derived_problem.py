"""Problems derived from another problem."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.call_numbers import check_call_number, check_rate
from smesolve.problem.linearization import Linearization
from smesolve.problem.linearized_problem import LinearizedProblem
from smesolve.problem.problem import Problem
from smesolve.validation import check_problem

__all__ = ["DerivedProblem", "ScaledProblem"]


class DerivedProblem(LinearizedProblem):
    """Everything as in `problem`; a subclass changes its linearization or its draws.

    Raises:
        SmesolveError: a problem under a schedule, which would be lost, or one whose step is not that of gradient
            descent, unless the class sets `any_step`.
    """

    any_step = False
    """Whether it may be made of a problem with any step."""

    def __init__(self, problem: Problem) -> None:
        check_problem("problem", problem)
        if not problem.autonomous:
            raise SmesolveError(
                f"{type(self).__name__} would lose the schedule of its problem, a {type(problem).__name__}; "
                f"schedule it last: ScheduledProblem({type(self).__name__}(...), ...)."
            )
        if not self.any_step and not (problem.linear_step and problem.conservative):
            raise SmesolveError(
                f"{type(self).__name__} changes gradients, not steps, got {problem!r}; make it of the problem that is "
                f"trained, and train it then: Training({type(self).__name__}(...), ...)."
            )
        self.problem = problem
        self.network, self.x, self.y, self.samples = problem.network, problem.x, problem.y, problem.samples
        self.dim, self.dtype, self.device = problem.dim, problem.dtype, problem.device
        self.test = problem.test
        self.has_closed_form, self.linear_noise = problem.has_closed_form, problem.linear_noise
        self.draw_dim, self.noise_dim = problem.draw_dim, problem.noise_dim
        self.linear_step, self.conservative = problem.linear_step, problem.conservative
        self.has_mean_step, self.largest_lr = problem.has_mean_step, problem.largest_lr

    @property
    def floats_per_path(self) -> int:
        """Floats in the working arrays of one path, approximately."""
        return self.problem.floats_per_path

    @property
    def reference_floats(self) -> int:
        """Floats in the working arrays of one `reference_gradient`."""
        return self.problem.reference_floats

    def linearize(self, theta: Tensor) -> Linearization:
        """Return everything at theta."""
        return self.problem.linearize(theta)

    def outputs(self, theta: Tensor) -> Tensor:
        """Return the outputs of the network without noise, (..., n, o)."""
        return self.problem.outputs(theta)

    def on_data(self, x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> Problem:
        """Return the problem of the same network on other data, without noise."""
        return self.problem.on_data(x, y)

    def draw(self, uniforms: Tensor) -> Any:
        """Return draws from uniforms (..., U)."""
        return self.problem.draw(uniforms)

    @property
    def draw_count(self) -> float:
        """Number of different draws."""
        return self.problem.draw_count

    def all_draws(self) -> tuple[Any, Tensor]:
        """Return every draw and its probability (K,)."""
        return self.problem.all_draws()

    def noise_coordinates(self, draw: Any) -> Tensor | None:
        """Return the functions of the draw that the noise product replaces by normals: (..., M)."""
        return self.problem.noise_coordinates(draw)

    def noise_coefficients(self, theta: Tensor, direction: Tensor) -> Any:
        """Return the coefficients of the noise along a direction, for `noise_along`."""
        return self.problem.noise_coefficients(theta, direction)

    def noise_along(self, coefficients: Any, draw: Any) -> Tensor:
        """Return the noise of first order in the draw along that direction: (...,)."""
        return self.problem.noise_along(coefficients, draw)


class ScaledProblem(DerivedProblem):
    """A problem whose learning rate is multiplied by `factor`: step(theta, draw, factor lr); losses stay.

    Gradients and their noise are multiplied by the factor u, and F_k of (1) in `smesolve.problem.training_step` by u^k.
    """

    any_step = True

    def __init__(self, problem: Problem, factor: float) -> None:
        super().__init__(problem)
        check_call_number("factor", factor)
        self.factor = factor

    def linearize(self, theta: Tensor) -> Linearization:
        """Return everything at theta."""
        return _Scaled(self, theta, self.problem.linearize(theta), self.factor)

    def noise_along(self, coefficients: Any, draw: Any) -> Tensor:
        """Return `factor` times the noise of `problem` along the direction."""
        return self.factor * self.problem.noise_along(coefficients, draw)

    def step(self, theta: Tensor, draw: Any, lr: float | Tensor) -> Tensor:
        """Return theta after a step with the learning rate factor lr: (..., D)."""
        check_rate(lr)
        return super().step(theta, draw, lr) if self.linear_step else self.problem.step(theta, draw, self.factor * lr)

    def step_terms(self, theta: Tensor, draw: Any, count: int) -> list[Tensor]:
        """Return the first `count` of u F, u^2 F2, u^3 F3, ..., each (..., D)."""
        terms = self.problem.step_terms(theta, draw, count)
        return [self.factor**power * term for power, term in enumerate(terms, start=1)]

    def mean_second_term(self, theta: Tensor) -> Tensor:
        """Return u^2 E F2: (..., D)."""
        return self.factor**2 * self.problem.mean_second_term(theta)


class _Scaled(Linearization):
    """The linearization `at` with gradients and noise multiplied by a factor, and the same losses."""

    def __init__(self, problem: Problem, theta: Tensor, at: Linearization, factor: float) -> None:
        super().__init__(problem, theta)
        self._at, self._factor = at, factor

    def loss(self) -> Tensor:
        return self._at.loss()

    def modified_loss(self) -> Tensor:
        return self._at.modified_loss()

    def gradient(self, draw: Any) -> Tensor:
        return self._factor * self._at.gradient(draw)

    def mean_gradient(self) -> Tensor:
        return self._factor * self._at.mean_gradient()

    def noise_product(self, normals: Tensor) -> Tensor:
        return self._factor * self._at.noise_product(normals)

    def noisy_mean_gradient(self, normals: Tensor, weight: float) -> Tensor:
        return self._factor * self._at.noisy_mean_gradient(normals, weight)

    def reference_gradient(self) -> Tensor:
        return self._factor * self._at.reference_gradient()

    def hessian_product(self, vector: Tensor) -> Tensor:
        return self._factor * self._at.hessian_product(vector)

    def noise_factor(self) -> Tensor:
        return self._factor * self._at.noise_factor()
