"""Martingale control variates along the noise-free path.

Let thetabar_j be the noise-free path of a process, u_j(theta) = phi(noise-free flow from step j to the target step K)
the value function, lam_j and Lam_j its gradient and Hessian at thetabar_j. A step from theta_j has a prediction, known
before its noise, and a noise increment nu_j = s C chi_j, where chi_j (M) is independent of theta_j with mean zero and
covariance I, and s is -lr (iteration: chi are functions of the masks) or sqrt(lr dt) (equation: normals). Then

    cv_1 = sum_j < lam, nu_j >
    cv_2 = sum_j < Lam (prediction_j - predictionbar_j), nu_j >
    cv_3 = sum_j s^2/2 (chi_j^T Q_j chi_j - tr Q_j),      Q_j = C^T Lam C at thetabar_j

have mean zero, whatever lam, Lam and Q are. They are the Taylor terms of phi(theta_K) of first and second order in the
noise: of first order; of second order from two different steps; of second order from one step. What is left has a
standard deviation O(lr^1.5) where phi(theta_K) has O(lr^0.5). cv_3 does not change the power of lr but its constant:
without it cv_1 and cv_2 leave three to four times as much.

lam is exact for each process: the adjoint recursion through its own noise-free step, taken where in the step the noise
enters (`noise_time`). Lam and Q only move the variance, so one Lam, that of the mean iteration, serves the iteration
and every scheme: it is off by O(lr), which costs O(lr^2).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.comparison.value_hessians import ValueHessians
from smesolve.sampling.ensemble import Step

__all__ = ["ControlVariate"]


@dataclass(frozen=True)
class ControlVariate:
    """The control variates of one process for all targets (saved steps) and observables.

    cv_1 alone without Hessians; with them cv_2, and cv_3 where Q is there, for the targets that have Hessians.
    """

    path: NoiseFreePath
    step_time: float
    """Time of one step of the process."""
    noise_time: float
    """Where in a step the noise enters, as the process says."""
    variance: float
    """s^2 = lr^2 (iteration) or lr dt (equation): the variance that multiplies C C^T in a step."""
    hessians: ValueHessians | None = None

    @property
    def count(self) -> int:
        """Control variates for each target and observable."""
        if self.hessians is None:
            return 1
        return 2 if self.hessians.quadratics is None else 3

    def add(self, totals: Tensor, step: int, taken: Step) -> None:
        """Add the terms of step j to the running totals (count, B, T, O), in place.

        Cost: D a target and observable; D^2 + M^2 where they have dense Hessians, 64 D + 32 M where of low rank.
        """
        after = self.path.adjoints[step + 1]
        before = self.path.adjoints[step][-after.shape[0] :]
        adjoints = self.noise_time * after + (1 - self.noise_time) * before
        totals[0, :, -after.shape[0] :] += _inner(taken.increment, adjoints)
        if self.hessians is None:
            return
        point = self.hessians.index((step + 1) * self.step_time)
        lam = self.hessians.hessians[point]
        rows = slice(totals.shape[2] - lam.targets, None)
        deviation = taken.prediction - self.path.predictions[step]
        totals[1, :, rows] += lam.bilinear(deviation, taken.increment)
        if self.hessians.quadratics is not None and taken.noise is not None:
            Q = self.hessians.quadratics[point]
            totals[2, :, rows] += self.variance / 2 * (Q.bilinear(taken.noise, taken.noise) - Q.trace())


def _inner(vectors: Tensor, adjoints: Tensor) -> Tensor:
    """< adjoint, vector > for each path, target and observable: (B, T, O)."""
    return (vectors @ adjoints.flatten(0, 1).mT).unflatten(-1, adjoints.shape[:2])
