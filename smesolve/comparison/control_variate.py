"""Martingale control variates along the noise-free path.

Let thetabar_j be the noise-free path of a process, u_j(theta) = phi(noise-free flow from step j to the target step K)
the value function, and lam_j and Lam_j its gradient and Hessian at thetabar_j. A step from theta_j has a prediction,
which is known before its noise, and a noise increment nu_j = s C chi_j, where chi_j (M) is independent of theta_j with
mean zero and covariance I, and s is -lr (iteration: chi are functions of the masks) or sqrt(lr dt) (equation: normals).
Then

    cv_1 = sum_j < lam, nu_j >                                                                             (1)
    cv_2 = sum_j < Lam (prediction_j - predictionbar_j), nu_j >                                            (2)
    cv_3 = sum_j s^2/2 (chi_j^T Q_j chi_j - tr Q_j),      Q_j = C^T Lam C at thetabar_j                    (3)

have mean zero, whatever lam, Lam and Q are. They are Taylor terms of phi(theta_K) in the noise: cv_1 the terms of first
order, cv_2 those of second order from two different steps, cv_3 those of second order from one step. The standard
deviation of the remainder is O(lr^1.5), that of phi(theta_K) is O(lr^0.5). cv_3 changes the constant and not the power
of lr: without it, the remainder of cv_1 and cv_2 is three to four times as large.

lam is exact for each process: it obeys the adjoint recursion through the process's own noise-free step, and is taken
at the time within the step at which the noise enters (`noise_time`),

    lam = noise_time lam_(j+1) + (1 - noise_time) lam_j.                                                   (4)

Lam and Q only change the variance, so the Lam of the mean iteration serves the iteration and every scheme: its error
O(lr) adds O(lr^2) to the standard deviation.

**Equations with jumps** have the same control variates with the noise of every jump: at time t, from the state y before
the jump, nu = -lr C chi, where chi are functions of its draw. Compensated jumps are martingales: with N jumps in a step
dt,

    cv_1 = sum_N < lam(t + lr/2), nu >                                                                     (5)
    cv_2 = sum_N < Lam (y - thetabar(t)), nu >                                                             (6)
    cv_3 = sum_N lr^2/2 chi^T Q chi - lr dt/2 tr Q                                                         (7)

have mean zero whatever lam, Lam, Q and thetabar are, because nu and chi have mean zero, chi has covariance I, and E N
is dt/lr. The number of jumps is random, and cv_3 removes its noise as well. lam and thetabar are interpolated between
the steps. A jump moves the state by nu - lr/2 (Db) nu to first order, as if nu came lr/2 later, so that lam is taken at
t + lr/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smesolve.comparison.draw_control_variate import DrawControlVariate, JumpDrawControlVariate
from smesolve.comparison.noise_free_path import NoiseFreePath, inner_products
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.value_hessians import ValueHessians
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Process, Step
from smesolve.solver.jump_integration import JumpIntegration, JumpNoise, JumpStep

__all__ = ["ControlVariate", "Controls", "JumpControlVariate", "control_of"]


@dataclass(frozen=True)
class JumpControlVariate:
    """The control variates of an equation with jumps for all targets (saved steps) and observables."""

    path: NoiseFreePath
    step_time: float
    """Time of one step of the process."""
    lr: float
    hessians: ValueHessians | None = None
    """Hessians of the value functions, with Q only where chi is known: (7) subtracts tr Q in every step."""

    @classmethod
    def of(
        cls, problem: Problem, path: NoiseFreePath, step_time: float, lr: float, hessians: ValueHessians | None
    ) -> JumpControlVariate:
        """Return the control variates of a problem, without (7) where its draws have no coordinates chi."""
        draw = problem.draw(torch.full((1, problem.draw_dim), 0.5, dtype=torch.float64, device="cpu"))
        if hessians is not None and problem.noise_coordinates(draw) is None:
            hessians = replace(hessians, quadratics=None)
        return cls(path, step_time, lr, hessians)

    @property
    def count(self) -> int:
        """Number of control variates for each target and observable."""
        return _count(self.hessians)

    def add(self, totals: Tensor, step: int, taken: JumpStep) -> None:
        """Add the terms of step j to the running totals (count, B, T, O), in place.

        Cost per jump: that of `ControlVariate.add`.
        """
        for noise in taken.noises:
            self._add_first(totals, step, noise)
        if self.hessians is None:
            return
        end = (step + 1) * self.step_time
        lam, Q = self.hessians.hessian_at(end), self.hessians.quadratic_at(end)
        rows = totals.shape[2] - lam.targets
        for noise in taken.noises:
            reference = self.path.states[step] + noise.time * (self.path.states[step + 1] - self.path.states[step])
            terms = lam.bilinear(noise.state - reference, noise.increment)  # (6)
            totals[1, :, rows:].index_add_(0, noise.paths, terms)
        if Q is not None:
            totals[2, :, rows:] -= self.lr * self.step_time / 2 * Q.trace  # (7)
            for noise in taken.noises:
                if noise.coordinates is not None:
                    terms = self.lr**2 / 2 * Q.bilinear(noise.coordinates, noise.coordinates)  # (7)
                    totals[2, :, rows:].index_add_(0, noise.paths, terms)

    def _add_first(self, totals: Tensor, step: int, noise: JumpNoise) -> None:
        after = self.path.adjoints[step + 1]
        before = self.path.adjoints[step][-len(after) :]
        early, late = (inner_products(noise.increment, adjoints) for adjoints in (before, after))
        weight = (noise.time + self.lr / (2 * self.step_time))[..., None]
        totals[0, :, -len(after) :].index_add_(0, noise.paths, early + weight * (late - early))  # (5)


@dataclass(frozen=True)
class ControlVariate:
    """The control variates of one process for all targets (saved steps) and observables.

    Without Hessians there is only cv_1. The targets with Hessians have cv_2 as well, and cv_3 where Q is known.
    """

    path: NoiseFreePath
    step_time: float
    """Time of one step of the process."""
    noise_time: float
    """Where in a step the noise enters: 0 at its beginning, 1 at its end."""
    variance: float
    """s^2 = lr^2 (iteration) or lr dt (equation): the variance that multiplies C C^T in a step."""
    hessians: ValueHessians | None = None

    @property
    def count(self) -> int:
        """Number of control variates for each target and observable."""
        return _count(self.hessians)

    def add(self, totals: Tensor, step: int, taken: Step) -> None:
        """Add the terms of step j to the running totals (count, B, T, O), in place.

        Cost per path, target and observable: D operations; D^2 + M^2 with dense Hessians, 64 D + 32 M with Hessians of
        low rank, twice as many between grid points of the Hessians.
        """
        after = self.path.adjoints[step + 1]
        adjoints = torch.lerp(self.path.adjoints[step][-len(after) :], after, self.noise_time)  # (4)
        totals[0, :, -len(after) :].add_(inner_products(taken.increment, adjoints))  # (1)
        if self.hessians is None:
            return
        end = (step + 1) * self.step_time
        lam, Q = self.hessians.hessian_at(end), self.hessians.quadratic_at(end)
        rows = slice(totals.shape[2] - lam.targets, None)
        terms = lam.bilinear(taken.prediction, taken.increment, self.path.predictions[step])
        totals[1, :, rows].add_(terms)  # (2)
        if Q is not None and taken.noise is not None:
            terms = Q.bilinear(taken.noise, taken.noise) - Q.trace
            totals[2, :, rows].add_(terms, alpha=self.variance / 2)  # (3)


def _count(hessians: ValueHessians | None) -> int:
    """Return 1 for cv_1, and one more each for cv_2 and cv_3, where what they need is known."""
    return 1 if hessians is None else 2 if hessians.quadratics is None else 3


Controls = ControlVariate | DrawControlVariate | JumpControlVariate | JumpDrawControlVariate
"""The control variates of any process."""


def control_of(
    design: StudyDesign,
    process: Process,
    saved: Sequence[int],
    lr: float,
    step_time: float,
    hessians: ValueHessians | None,
) -> Controls | None:
    """Make the control variates of a process (the iteration, or the equation under its scheme), or return None.

    `saved` are the step numbers of the times, and `step_time` is the time of one step of the process. The Hessians of
    the value functions are for control variates of second order.
    """
    if design.control == "none":
        return None
    path = NoiseFreePath.of(process, design.theta0, saved, design.observables, design.problem.reference_floats)
    if isinstance(process, JumpIntegration):
        if not design.problem.has_closed_form:
            return JumpDrawControlVariate.of(design.problem, path, step_time, lr)
        return JumpControlVariate.of(design.problem, path, step_time, lr, hessians)
    if design.problem.has_closed_form:
        return ControlVariate(path, step_time, process.noise_time, lr * step_time, hessians)
    return DrawControlVariate.of(design.problem, path, step_time)
