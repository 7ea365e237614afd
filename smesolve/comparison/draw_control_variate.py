"""Control variates made from the draws, for problems whose mean gradient has no closed form.

Along the noise-free path thetabar_j of the reference gradient, with adjoints lam_j, let w_j be the coefficients of
<lam, g(thetabar_j; draw)> to first order in the draw. A step y -> y - sum_r c_r g(y; draw_r), with weights c_r known
before its draws, adds to the control variate

    - sum_r c_r w_j . draw_r,                                                                              (1)

which has mean zero whatever thetabar, lam and w are. It contains the part of the first-order Taylor term that is linear
in the draws. Products of masks, and the errors of lam and w at theta_j, remain. For a problem that does not expand its
gradient in the draws w = 0, and the control variate is 0.

For training steps at random times it is (1) with the draw of every jump, of weight c = lr. The number N of jumps in a
step of dt is random, with mean dt/lr, and its effect to first order is removed as well,

    - lr sum_N w_j . draw + (N - dt/lr) lr/dt < lam_(j+1), thetabar_(j+1) - thetabar_j >.                   (2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.problem.iteration import SampledStep
from smesolve.problem.problem import Problem
from smesolve.solver.jump_integration import JumpStep

__all__ = ["DrawControlVariate", "JumpDrawControlVariate"]


@dataclass(frozen=True)
class DrawControlVariate:
    """The control variate of one process for the last target (saved step) and all observables.

    The other targets have none, because U coefficients for every step and target take too much memory.
    """

    problem: Problem
    step_time: float
    """Time of one step of the process."""
    coefficients: list[list[Any]]
    """w_j by step and observable."""

    count = 1
    """Control variates for each target and observable."""

    @classmethod
    def of(cls, problem: Problem, path: NoiseFreePath, step_time: float = 0.0) -> DrawControlVariate:
        """Expand the gradient along a path, at the time of each step, which matters where a problem depends on time.

        Cost: four gradients of one path per step and observable. Memory: U floats per step and observable.
        """
        coefficients = []
        for step, (state, adjoints) in enumerate(zip(path.states[:-1], path.adjoints[1:], strict=True)):
            now = problem.at(step * step_time)
            coefficients.append([now.noise_coefficients(state, adjoint) for adjoint in adjoints[-1]])
        return cls(problem, step_time, coefficients)

    def add(self, totals: Tensor, step: int, taken: SampledStep) -> None:
        """Add the terms of step j to the running totals (1, B, T, O), in place.

        Cost per path: U operations per observable and draw.
        """
        now = self.problem.at(step * self.step_time)
        for column, coefficients in enumerate(self.coefficients[step]):
            for weight, draw in taken.terms:
                totals[0, :, -1, column] -= weight[:, 0] * now.noise_along(coefficients, draw)  # (1)


@dataclass(frozen=True)
class JumpDrawControlVariate:
    """The control variate of jumps for the last target (saved step) and all observables; others have none."""

    problem: Problem
    lr: float
    step_time: float
    """Time of one step of the process."""
    coefficients: list[list[Any]]
    """w_j by step and observable."""
    drifts: Tensor
    """< lam_(j+1), thetabar_(j+1) - thetabar_j > (K, O)."""

    count = 1
    """Control variates for each target and observable."""

    @classmethod
    def of(cls, problem: Problem, path: NoiseFreePath, step_time: float, lr: float) -> JumpDrawControlVariate:
        """Expand the gradient along a path. Cost and memory are those of `DrawControlVariate.of`."""
        last = torch.stack([adjoints[-1] for adjoints in path.adjoints[1:]])
        drifts = torch.einsum("kod,kd->ko", last, path.states.diff(dim=0))
        return cls(problem, lr, step_time, DrawControlVariate.of(problem, path, step_time).coefficients, drifts)

    def add(self, totals: Tensor, step: int, taken: JumpStep) -> None:
        """Add the terms of step j to the running totals (1, B, T, O), in place.

        Cost per path: U operations per observable and jump.
        """
        jumps = totals.new_zeros(totals.shape[1])
        for noise in taken.noises:
            jumps[noise.paths] += 1
            for column, coefficients in enumerate(self.coefficients[step]):
                along = self.problem.noise_along(coefficients, noise.draw)
                totals[0, noise.paths, -1, column] -= self.lr * along  # (2)
        surplus = jumps * (self.lr / self.step_time) - 1
        totals[0, :, -1] += surplus[:, None] * self.drifts[step]  # (2)
