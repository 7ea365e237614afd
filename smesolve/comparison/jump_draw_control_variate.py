"""Control variates of training steps at random times, for problems whose mean gradient has no closed form.

They are the control variates of `draw_control_variate` with the draw of every jump. The number N of jumps in a step of
dt is random, with mean dt/lr, and its effect to first order is removed as well. Along the noise-free path thetabar_j
with adjoints lam_j,

    cv = -lr sum_N w_j . draw + (N - dt/lr) lr/dt < lam_(j+1), thetabar_(j+1) - thetabar_j >                     (1)

has mean zero whatever thetabar, lam and w are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smesolve.comparison.draw_control_variate import DrawControlVariate
from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.problem.problem import Problem
from smesolve.solver.jump_integration import JumpStep

__all__ = ["JumpDrawControlVariate"]


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
        return cls(problem, lr, step_time, DrawControlVariate.of(problem, path).coefficients, drifts)

    def add(self, totals: Tensor, step: int, taken: JumpStep) -> None:
        """Add the terms of step j to the running totals (1, B, T, O), in place.

        Cost per path: U operations per observable and jump.
        """
        jumps = totals.new_zeros(totals.shape[1])
        for noise in taken.noises:
            jumps[noise.paths] += 1
            for column, coefficients in enumerate(self.coefficients[step]):
                along = self.problem.noise_along(coefficients, noise.draw)
                totals[0, noise.paths, -1, column] -= self.lr * along  # (1)
        surplus = jumps * (self.lr / self.step_time) - 1
        totals[0, :, -1] += surplus[:, None] * self.drifts[step]  # (1)
