"""Martingale control variates of equations with jumps.

They are the control variates of `control_variate` with the noise of every jump: at time t, from the state y before the
jump, nu = -lr C chi, where chi are functions of its draw. Compensated jumps are martingales: with N jumps in a step dt,

    cv_1 = sum_N < lam(t + lr/2), nu >                                                                     (1)
    cv_2 = sum_N < Lam (y - thetabar(t)), nu >                                                             (2)
    cv_3 = sum_N lr^2/2 chi^T Q chi - lr dt/2 tr Q                                                         (3)

have mean zero whatever lam, Lam, Q and thetabar are, because nu and chi have mean zero, chi has covariance I, and E N
is dt/lr. The number of jumps is random, and cv_3 removes its noise as well. lam and thetabar are interpolated between
the steps. A jump moves the state by nu - lr/2 (Db) nu to first order, as if nu came lr/2 later, so that lam is taken at
t + lr/2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smesolve.comparison.noise_free_path import NoiseFreePath, inner_products
from smesolve.comparison.value_hessians import ValueHessians
from smesolve.problem.problem import Problem
from smesolve.solver.jump_integration import JumpNoise, JumpStep

__all__ = ["JumpControlVariate"]


@dataclass(frozen=True)
class JumpControlVariate:
    """The control variates of an equation with jumps for all targets (saved steps) and observables."""

    path: NoiseFreePath
    step_time: float
    """Time of one step of the process."""
    lr: float
    hessians: ValueHessians | None = None
    """Hessians of the value functions, with Q only where chi is known: (3) subtracts tr Q in every step."""

    @classmethod
    def of(
        cls, problem: Problem, path: NoiseFreePath, step_time: float, lr: float, hessians: ValueHessians | None
    ) -> JumpControlVariate:
        """Return the control variates of a problem, without (3) where its draws have no coordinates chi."""
        draw = problem.draw(torch.full((1, problem.draw_dim), 0.5, dtype=torch.float64, device="cpu"))
        if hessians is not None and problem.noise_coordinates(draw) is None:
            hessians = replace(hessians, quadratics=None)
        return cls(path, step_time, lr, hessians)

    @property
    def count(self) -> int:
        """Number of control variates for each target and observable."""
        if self.hessians is None:
            return 1
        return 2 if self.hessians.quadratics is None else 3

    def add(self, totals: Tensor, step: int, taken: JumpStep) -> None:
        """Add the terms of step j to the running totals (count, B, T, O), in place.

        Cost per jump: that of `ControlVariate.add`.
        """
        for noise in taken.noises:
            self._add_first(totals, step, noise)
        if self.hessians is None:
            return
        point = self.hessians.index((step + 1) * self.step_time)
        lam = self.hessians.hessians[point]
        rows = totals.shape[2] - lam.targets
        for noise in taken.noises:
            reference = self.path.states[step] + noise.time * (self.path.states[step + 1] - self.path.states[step])
            terms = lam.bilinear(noise.state - reference, noise.increment)  # (2)
            totals[1, :, rows:].index_add_(0, noise.paths, terms)
        if self.hessians.quadratics is not None:
            Q = self.hessians.quadratics[point]
            totals[2, :, rows:] -= self.lr * self.step_time / 2 * Q.trace()  # (3)
            for noise in taken.noises:
                if noise.coordinates is not None:
                    terms = self.lr**2 / 2 * Q.bilinear(noise.coordinates, noise.coordinates)  # (3)
                    totals[2, :, rows:].index_add_(0, noise.paths, terms)

    def _add_first(self, totals: Tensor, step: int, noise: JumpNoise) -> None:
        after = self.path.adjoints[step + 1]
        before = self.path.adjoints[step][-len(after) :]
        early, late = (inner_products(noise.increment, adjoints) for adjoints in (before, after))
        weight = (noise.time + self.lr / (2 * self.step_time))[..., None]
        totals[0, :, -len(after) :].index_add_(0, noise.paths, early + weight * (late - early))  # (1)
