"""Derivatives of the end of a run in its state at one step, by runs from shifted starts with the same draws."""

from __future__ import annotations

import torch
from torch import Tensor

from smesolve.comparison.defect_draws import Draws
from smesolve.comparison.defect_plan import DefectPlan
from smesolve.comparison.differences import cubic_stencil, first_difference, second_difference, stencil
from smesolve.comparison.instant import Instant
from smesolve.problem.observables import Observable
from smesolve.sampling.randomness import keyed_generator

__all__ = ["AFTER", "ShiftedRuns", "finite_values"]

AFTER = 0.625
"""Share of the paths whose shifts are after the step."""

WITHIN = 5 / 12
"""Where in a step the coefficients of (3) follow a schedule, between the right places for drift and noise: eq. (11)."""


class ShiftedRuns:
    """Eq. (3) of `smesolve.comparison.defects` at one random step of each path.

    Args:
        plan: of the sampler whose errors of order 2 are measured.
        block: of paths.
    """

    def __init__(self, plan: DefectPlan, block: int) -> None:
        self._plan = plan
        self._generator = keyed_generator(plan.seed, "defects", block, plan.steps + 1)
        self._chosen = torch.from_numpy(self._generator.integers(plan.steps, size=plan.block_size))
        self._after = torch.from_numpy(self._generator.random(plan.block_size) < AFTER)
        """Whether the shifts are after the step or before it (B,)."""
        self.placement = torch.where(self._after, 0.5 / AFTER, -0.5 / (1 - AFTER)).to(plan.theta0)
        """Weights (B,) of half the difference between shifts after and before the step."""
        self._paths = torch.zeros(0, dtype=torch.long, device="cpu")
        """Those whose step is past (A,)."""
        self._states: Tensor | None = None
        """(R, A, D)."""
        self._weights: Tensor | None = None
        """(R, A)."""

    def advance(self, step: int, run: Tensor, uniforms: Tensor) -> None:
        """Start the runs that are shifted before this step, and take it with all; run (B, D) before it."""
        paths = ((self._chosen == step) & ~self._after).nonzero()[:, 0]
        if len(paths):
            self._start(step, paths, run[paths], run[paths])
        if self._states is not None:
            problem = self._plan.at(step)
            self._states = problem.step(self._states, problem.draw(uniforms[self._paths]), self._plan.lr)

    def begin_after(self, step: int, before: Tensor, after: Tensor) -> None:
        """Start the runs that are shifted after this step; the run before and after it (B, D)."""
        paths = ((self._chosen == step) & self._after).nonzero()[:, 0]
        if len(paths):
            self._start(step, paths, before[paths], after[paths])

    def _start(self, step: int, paths: Tensor, x: Tensor, centre: Tensor) -> None:
        """Start the runs of some paths around `centre`, with coefficients of a step from x, each (A, D)."""
        lr = self._plan.lr
        shifts, weights = self._stencil(x, Instant.of(self._plan.problem, (step + WITHIN) * lr, lr))
        states = centre + shifts
        if self._states is not None and self._weights is not None:
            paths = torch.cat([self._paths, paths])
            states = torch.cat([self._states, states], dim=1)
            weights = torch.cat([self._weights, weights], dim=1)
        self._paths, self._states, self._weights = paths, states, weights

    def error(self, observable: Observable) -> Tensor:
        """Return eq. (4), K lr^3 Lambda v (B,), 0 where the step is still to come."""
        plan = self._plan
        result = plan.theta0.new_zeros(plan.block_size)
        if self._states is not None and self._weights is not None:
            defects = (self._weights * finite_values(observable, self._states)).sum(0)
            result[self._paths] = plan.steps * plan.lr**3 * defects
        return result

    def _stencil(self, x: Tensor, at: Instant) -> tuple[Tensor, Tensor]:
        """Return shifts (R, A, D) and weights (R, A): sum_r weight_r v(. + shift_r) = Lambda v at x (A, D)."""
        h = self._plan.shift
        draws = Draws(at.here, len(x), self._generator)
        b, other = draws.drift()(x), draws.drift()(x)
        noise = draws.noise()
        z = noise(x)
        inner, outer = draws.drift(), draws.drift()
        if self._plan.kinked:
            field = draws.drift()
            curved = second_difference(field, x, b, other, h) / -4  # eq. (8)
            if at.moves:
                curved = curved - at.second_in_time(field, x, b + other, h) / 12
        else:
            curved = second_difference(draws.drift(), x, z, z, h) / 4
            curved = curved - at.second(draws.drift(), x, b, other, h) / 12
        gradient_part = curved - first_difference(outer, x, at.first(inner, x, b, h), h) / 3
        hessian_part = (at.first(noise, x, b, h) + first_difference(draws.drift(), x, z, h)) / 2
        third = draws.third_cumulant(x)
        cubic, weights = stencil(third, x, h) if len(third) == 3 else cubic_stencil(third[0], x, h)
        more = []
        if not at.here.linear_step:  # eq. (3a)
            change = at.first(draws.second_term(), x, draws.drift()(x), h)
            change = change + first_difference(draws.drift(), x, draws.second_term()(x), h)
            (noise_of_F, noise_of_F2), F3 = draws.step_terms(x)
            gradient_part = gradient_part + change / 2 - F3
            more = [stencil([-noise_of_F, noise_of_F2], x, h)]
        parts = [stencil([gradient_part], x, h), stencil([hessian_part, z], x, h), (cubic, weights / 6), *more]
        return torch.cat([shifts for shifts, _ in parts]), torch.cat([weights for _, weights in parts])


def finite_values(observable: Observable, theta: Tensor) -> Tensor:
    """Return the values of an observable; infinite where a path diverged, NaN where the observable is not defined."""
    values = observable(theta)
    values = torch.where(values.isfinite(), values, torch.nan)
    return torch.where(theta.isfinite().all(-1), values, torch.inf)
