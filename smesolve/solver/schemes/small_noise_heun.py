"""The small-noise Heun scheme."""

from __future__ import annotations

from torch import Tensor

from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes.scheme import Scheme

__all__ = ["SmallNoiseHeun"]


class SmallNoiseHeun(Scheme):
    """y1 = y + dt/2 (k1 + b(y + dt k1 + P)) + P: weak error O(dt^2 + lr^2 dt).

    k1 = b(y) and P = sqrt(lr) C(y + dt/2 k1) dW + dt lr b1(y + dt/2 k1), where a schedule is taken at the middle of the
    step.
    """

    in_threads = True
    noise_time = 0.5
    weak_error = "dt^2 + lr^2 dt"
    drift_evaluations = 2
    corrections = 1
    noise_products = 1

    def step(self, sde: PerturbedSDE, t0: float, t1: float, y: Tensor, dW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return one step, its prediction by the midpoint rule, and its noise."""
        dt = t1 - t0
        k1 = sde.leading_drift(t0, y)
        middle, noise, P = sde.perturbation((t0 + t1) / 2, y + dt / 2 * k1, dt, dW)
        k2 = sde.leading_drift(t1, y + dt * k1 + P, left_limit=True)
        return y + dt / 2 * (k1 + k2) + P, y + dt * middle + (P - noise), noise
