"""Small-noise Runge-Kutta scheme of four stages."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from smesolve.problem.schedule import LeftLimit
from smesolve.solver.schemes.scheme import Scheme

__all__ = ["SmallNoiseRK4"]


class SmallNoiseRK4(Scheme):
    """The classical Runge-Kutta stages with the perturbation P in the last two: weak error O(dt^4 + lr dt^2 + lr^2 dt).

    k1 = b(y), k2 = b(y + dt/2 k1), P = sqrt(lr) C(y + dt/2 k1) dW + dt lr b1(y + dt/2 k1),
    k3 = b(y + dt/2 k2 + P), k4 = b(y + dt k3 + P), y1 = y + dt/6 (k1 + 2 k2 + 2 k3 + k4) + P.
    Stages 3 and 4 carry half of the weights, so mean and covariance of the step match those of the equation.
    """

    noise_time = 0.5
    weak_error = "dt^4 + lr dt^2 + lr^2 dt"
    drift_evaluations = 4
    corrections = 1
    noise_products = 1

    def step(self, t0: Any, t1: Any, y0: Tensor, extra0: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One step; the prediction is the midpoint rule."""
        dt = t1 - t0
        middle = (t0 + t1) / 2
        k1 = self.sde.leading_drift(t0, y0)
        k2, noise, P = self._perturbation(middle, y0 + dt / 2 * k1, dt, self.bm(t0, t1))
        k3 = self.sde.leading_drift(middle, y0 + dt / 2 * k2 + P)
        k4 = self.sde.leading_drift(LeftLimit(t1), y0 + dt * k3 + P)
        y1 = y0 + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4) + P
        return y1, (y0 + dt * k2 + (P - noise), noise)
