"""The small-noise Runge-Kutta scheme with four stages."""

from __future__ import annotations

from torch import Tensor

from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes.scheme import Scheme

__all__ = ["SmallNoiseRK4"]


class SmallNoiseRK4(Scheme):
    """The classical Runge-Kutta stages with the perturbation P in the last two: weak error O(dt^4 + lr dt^2 + lr^2 dt).

    k1 = b(y), k2 = b(y + dt/2 k1), P = sqrt(lr) C(y + dt/2 k1) dW + dt lr b1(y + dt/2 k1),
    k3 = b(y + dt/2 k2 + P), k4 = b(y + dt k3 + P), y1 = y + dt/6 (k1 + 2 k2 + 2 k3 + k4) + P.
    Stages 3 and 4 carry half of the weights, so mean and covariance of the step match those of the equation.
    """

    in_threads = True
    noise_time = 0.5
    weak_error = "dt^4 + lr dt^2 + lr^2 dt"
    drift_evaluations = 4
    corrections = 1
    noise_products = 1

    def step(self, sde: PerturbedSDE, t0: float, t1: float, y: Tensor, dW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return one step, its prediction by the midpoint rule, and its noise."""
        dt, middle = t1 - t0, (t0 + t1) / 2
        if fused := sde.small_noise_rk4(y, dt, dW, split=True):
            state, prediction, noise = fused
            return state, prediction, noise
        k1 = sde.leading_drift(t0, y)
        k2, noise, P = sde.perturbation(middle, y + dt / 2 * k1, dt, dW)
        k3 = sde.leading_drift(middle, y + dt / 2 * k2 + P)
        k4 = sde.leading_drift(t1, y + dt * k3 + P, left_limit=True)
        return y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4) + P, y + dt * k2 + (P - noise), noise

    def noise_free_pullback(self, sde: PerturbedSDE, t0: float, t1: float, y: Tensor, vectors: Tensor) -> Tensor | None:
        """Return vectors times the Jacobian of a step without noise, by four products with Db and one with D(lr b1).

        The vectors go backwards through the stages; v_i is the cotangent of the argument of k_i.
        """
        dt, middle = t1 - t0, (t0 + t1) / 2
        if not sde.has_pullbacks:
            return None
        second = y + dt / 2 * sde.leading_drift(t0, y)
        k2, P = sde.leading_drift(middle, second), dt * sde.correction(middle, second)
        third = y + dt / 2 * k2 + P
        fourth = y + dt * sde.leading_drift(middle, third) + P
        v4 = sde.leading_pullback(t1, fourth, dt / 6 * vectors, left_limit=True)
        v3 = sde.leading_pullback(middle, third, dt / 3 * vectors + dt * v4)
        v2 = sde.leading_pullback(middle, second, dt / 3 * vectors + dt / 2 * v3)
        v2 = v2 + dt * sde.correction_pullback(second, vectors + v3 + v4)
        v1 = sde.leading_pullback(t0, y, dt / 6 * vectors + dt / 2 * v2)
        return vectors + v1 + v2 + v3 + v4

    def advance(self, sde: PerturbedSDE, t0: float, t1: float, y: Tensor, dW: Tensor) -> Tensor:
        """Return one step, by one kernel if there is one."""
        fused = sde.small_noise_rk4(y, t1 - t0, dW, split=False)
        return fused[0] if fused else self.step(sde, t0, t1, y, dW)[0]
