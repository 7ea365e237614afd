"""Small-noise Heun scheme."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from smesolve.problem.schedule import LeftLimit
from smesolve.solver.schemes.scheme import Scheme

__all__ = ["SmallNoiseHeun"]


class SmallNoiseHeun(Scheme):
    """y1 = y + dt/2 (k1 + b(y + dt k1 + P)) + P: weak error O(dt^2 + lr^2 dt).

    k1 = b(y), P = sqrt(lr) C(y + dt/2 k1) dW + dt lr b1(y + dt/2 k1), under a schedule at the middle of the step.
    """

    noise_time = 0.5
    weak_error = "dt^2 + lr^2 dt"
    drift_evaluations = 2
    corrections = 1
    noise_products = 1

    def step(self, t0: Any, t1: Any, y0: Tensor, extra0: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One step; the prediction is the midpoint rule."""
        dt = t1 - t0
        k1 = self.sde.leading_drift(t0, y0)
        middle, noise, P = self._perturbation((t0 + t1) / 2, y0 + dt / 2 * k1, dt, self.bm(t0, t1))
        k2 = self.sde.leading_drift(LeftLimit(t1), y0 + dt * k1 + P)
        return y0 + dt / 2 * (k1 + k2) + P, (y0 + dt * middle + (P - noise), noise)
