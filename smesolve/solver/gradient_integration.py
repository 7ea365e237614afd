"""Integration of a modified equation by the gradients of its problem only.

Under a schedule a step takes the gradients of the time at which it begins. At order 2 the term -1/2 d_t b of the drift
(`smesolve.problem.schedule`) is that of the same draws; it is the difference of the gradients over a step to both
sides, with the schedule continued (`Problem.continued`), which is exact for factors of the learning rate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.iteration import SampledStep
from smesolve.problem.linearization import Linearization
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Step
from smesolve.sampling.randomness import keyed_generator
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.schemes.gradient_scheme import GradientScheme
from smesolve.solver.schemes.scheme_trial import checked_weights

__all__ = ["GradientIntegration"]


class GradientIntegration:
    """A modified equation under a `GradientScheme` with step dt, as a process on blocks of paths.

    Args:
        equation: the modified equation, whose problem need not have a closed form.
        scheme: the scheme.
        dt: step.
        seed: root seed of the draws.
        nested: number of finer steps per step. A step takes the draws of the first of them, so that two integrations
            share as many draws as they can.
        antithetic: whether path b + B/2 of a block of B paths takes the draws of path b, with the noise's sign changed.
    """

    in_threads = False

    def __init__(
        self,
        equation: ModifiedEquation,
        scheme: type[GradientScheme],
        dt: float,
        seed: int = 0,
        nested: int = 1,
        antithetic: bool = False,
    ) -> None:
        if not isinstance(equation, ModifiedEquation):
            raise SmesolveError(
                f"scheme {scheme.__name__} takes the gradients of a ModifiedEquation's problem, got "
                f"{type(getattr(equation, 'sde', equation)).__name__}; take another scheme."
            )
        if equation.order == "quadratic":
            raise SmesolveError(f"scheme {scheme.__name__} knows orders 1 and 2; take scheme='small_noise_rk4'.")
        means, deviations = checked_weights(scheme, equation.lr / dt)
        self.equation, self.problem = equation, equation.problem
        self.dt, self.seed, self.antithetic = dt, seed, antithetic
        self.block_size, self.noise_time = equation.block_size, scheme.noise_time
        self.autonomous = self.problem.autonomous
        self._nested = nested
        self._means, self._deviations = means, deviations

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """Return one step of the scheme for every path of a block, or for its first ones. Cost: its gradients and
        corrections.
        """
        now = self.problem.at(step * self.dt)
        return self._move(now.linearize(theta), step, *self._draws(now, block, step, len(theta)))[0]

    def advance_split(self, theta: Tensor, block: int, step: int) -> Step | SampledStep:
        """Return the step and its noise: as a `Step` if the mean gradient is known, else as weighted draws."""
        now = self.problem.at(step * self.dt)
        draws, weights = self._draws(now, block, step)
        at = now.linearize(theta)
        state, total = self._move(at, step, draws, weights)
        if not self.problem.has_closed_form:
            return SampledStep(state, [(self.dt * weight, draw) for weight, draw in zip(weights, draws, strict=True)])
        mean, noise = at.mean_gradient(), None
        coordinates: list[Any] = [now.noise_coordinates(draw) for draw in draws]
        if coordinates[0] is not None:
            chi: Any = sum(weight * chi_r for weight, chi_r in zip(weights, coordinates, strict=True))
            noise = -((self.dt / self.equation.lr) ** 0.5) * chi
        return Step(state, theta - self.dt * mean, self.dt * (mean - total), noise)

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return an Euler step of the noise-free equation, twice, because it is its own prediction."""
        now = self.problem.at(step * self.dt)
        at = now.linearize(theta)
        drift = -at.reference_gradient()
        if self.equation.order == 2:
            drift = drift + self.equation.lr / 2 * at.hessian_product(drift)
            if not self.problem.autonomous:
                drift = drift - self.equation.lr / 2 * self.problem.drift_slope(step * self.dt, theta)
            if not self.problem.linear_step:
                drift = drift + self.equation.lr * now.reference_second_term(theta)
        state = theta + self.dt * drift
        return state, state

    def noise_free_pullback(self, theta: Tensor, step: int, vectors: Tensor) -> Tensor | None:
        """Return None: automatic differentiation computes the Jacobians."""
        return None

    def _draws(
        self, problem: Problem, block: int, step: int, count: int | None = None
    ) -> tuple[list[Any], list[Tensor]]:
        """Return independent draws of one step and their weights (B, 1), of the first paths or of all."""
        signs = torch.ones(self.block_size, 1, dtype=self.problem.dtype, device="cpu")
        paths = self.block_size // (2 if self.antithetic else 1)
        generator = keyed_generator(self.seed, "gradients", block, step * self._nested)
        uniforms = torch.from_numpy(generator.random((len(self._means), paths, problem.draw_dim)))
        if self.antithetic:
            uniforms = uniforms.repeat(1, 2, 1)
            signs[paths:] = -1
        signs, uniforms = signs[:count].to(problem.device), uniforms[:, :count]
        weights = [mean + deviation * signs for mean, deviation in zip(self._means, self._deviations, strict=True)]
        return [problem.draw(part) for part in uniforms], weights

    def _move(self, at: Linearization, step: int, draws: list[Any], weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return y1 and the weighted sum of gradients."""
        gradients = [at.gradient(draw) for draw in draws]
        total: Any = sum(weight * gradient for weight, gradient in zip(weights, gradients, strict=True))
        state = at.theta - self.dt * total
        if self.equation.order == 2:
            now = self.problem.at(step * self.dt)
            curved = _along(now, at.theta, draws[0], gradients[1])
            if self._deviations[0]:
                # The noise is antisymmetric in both draws: it is uncorrelated with what is symmetric in them.
                curved = (curved + _along(now, at.theta, draws[1], gradients[0])) / 2
            if not self.problem.autonomous:
                curved = curved - self._slope(at.theta, step, draws[:2])
            state = state - self.dt * self.equation.lr / 2 * curved
            if not self.problem.linear_step:  # F2, symmetric in both draws for the same reason
                seconds = [now.step_terms(at.theta, draw, 2)[1] for draw in draws[:2]]
                state = state + self.dt * self.equation.lr / 2 * (seconds[0] + seconds[1])
        return state, total

    def _slope(self, theta: Tensor, step: int, draws: list[Any]) -> Tensor:
        """Return the time derivative of the gradient, the mean over draws where it has no closed form: (B, D)."""
        time = step * self.dt
        if self.problem.has_closed_form:
            return -self.problem.drift_slope(time, theta)
        earlier, later = (self.problem.continued(time, False, ahead) for ahead in (-self.dt, self.dt))
        differences = [later.gradient(theta, draw) - earlier.gradient(theta, draw) for draw in draws]
        total: Any = sum(differences)
        slope: Tensor = total / (2 * self.dt * len(draws))
        return slope


def _along(problem: Problem, theta: Tensor, draw: Any, direction: Tensor) -> Tensor:
    """Return (Dg)(theta; draw) direction."""
    return forward_derivative(lambda y: problem.gradient(y, draw), theta, direction)[1]
