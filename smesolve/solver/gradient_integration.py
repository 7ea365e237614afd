"""Integration of a modified equation by the gradients of its problem only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.iteration import SampledStep
from smesolve.problem.linearization import Linearization
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.sampling.ensemble import Step
from smesolve.sampling.randomness import keyed_generator
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.schemes.gradient_scheme import GradientScheme

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
        if equation.order == "quadratic" or not equation.problem.autonomous:
            raise SmesolveError(
                f"scheme {scheme.__name__} knows orders 1 and 2 without schedules; take scheme='small_noise_rk4'."
            )
        means, deviations = scheme.weights(equation.lr / dt)
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
        return self._move(self.problem.linearize(theta), *self._draws(block, step, len(theta)))[0]

    def advance_split(self, theta: Tensor, block: int, step: int) -> Step | SampledStep:
        """Return the step and its noise: as a `Step` if the mean gradient is known, else as weighted draws."""
        draws, weights = self._draws(block, step)
        at = self.problem.linearize(theta)
        state, total = self._move(at, draws, weights)
        if not self.problem.has_closed_form:
            return SampledStep(state, [(self.dt * weight, draw) for weight, draw in zip(weights, draws, strict=True)])
        mean, noise = at.mean_gradient(), None
        coordinates: list[Any] = [self.problem.noise_coordinates(draw) for draw in draws]
        if coordinates[0] is not None:
            chi: Any = sum(weight * chi_r for weight, chi_r in zip(weights, coordinates, strict=True))
            noise = -((self.dt / self.equation.lr) ** 0.5) * chi
        return Step(state, theta - self.dt * mean, self.dt * (mean - total), noise)

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return an Euler step of the noise-free equation, twice, because it is its own prediction."""
        at = self.problem.linearize(theta)
        drift = -at.reference_gradient()
        if self.equation.order == 2:
            drift = drift + self.equation.lr / 2 * at.hessian_product(drift)
            if not self.problem.linear_step:
                drift = drift + self.equation.lr * self.problem.reference_second_term(theta)
        state = theta + self.dt * drift
        return state, state

    def noise_free_pullback(self, theta: Tensor, step: int, vectors: Tensor) -> Tensor | None:
        """Return None: automatic differentiation computes the Jacobians."""
        return None

    def _draws(self, block: int, step: int, count: int | None = None) -> tuple[list[Any], list[Tensor]]:
        """Return independent draws of one step and their weights (B, 1), of the first paths or of all."""
        problem, signs = self.problem, torch.ones(self.block_size, 1, dtype=self.problem.dtype, device="cpu")
        paths = self.block_size // (2 if self.antithetic else 1)
        generator = keyed_generator(self.seed, "gradients", block, step * self._nested)
        uniforms = torch.from_numpy(generator.random((len(self._means), paths, problem.draw_dim)))
        if self.antithetic:
            uniforms = uniforms.repeat(1, 2, 1)
            signs[paths:] = -1
        signs, uniforms = signs[:count].to(problem.device), uniforms[:, :count]
        weights = [mean + deviation * signs for mean, deviation in zip(self._means, self._deviations, strict=True)]
        return [problem.draw(part) for part in uniforms], weights

    def _move(self, at: Linearization, draws: list[Any], weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return y1 and the weighted sum of gradients."""
        gradients = [at.gradient(draw) for draw in draws]
        total: Any = sum(weight * gradient for weight, gradient in zip(weights, gradients, strict=True))
        state = at.theta - self.dt * total
        if self.equation.order == 2:
            curved = self._along(at.theta, draws[0], gradients[1])
            if self._deviations[0]:
                # The noise is antisymmetric in both draws: it is uncorrelated with what is symmetric in them.
                curved = (curved + self._along(at.theta, draws[1], gradients[0])) / 2
            state = state - self.dt * self.equation.lr / 2 * curved
            if not self.problem.linear_step:  # F2, symmetric in both draws for the same reason
                seconds = [self.problem.step_terms(at.theta, draw, 2)[1] for draw in draws[:2]]
                state = state + self.dt * self.equation.lr / 2 * (seconds[0] + seconds[1])
        return state, total

    def _along(self, theta: Tensor, draw: Any, direction: Tensor) -> Tensor:
        """Return (Dg)(theta; draw) direction."""
        return forward_derivative(lambda y: self.problem.gradient(y, draw), theta, direction)[1]
