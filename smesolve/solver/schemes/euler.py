"""The Euler-Maruyama scheme."""

from __future__ import annotations

from torch import Tensor

from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes.scheme import Scheme

__all__ = ["Euler"]


class Euler(Scheme):
    """y1 = y + dt f(y) + g(y) dW: weak error O(dt).

    Paths equal those of ``torchsde.sdeint(..., method="euler")`` up to rounding. torchsde's method does not return the
    two parts of the step that control variates need.
    """

    at_learning_rate = "its step is the discrete iteration with Gaussian noise"
    in_threads = True
    noise_time = 1.0
    weak_error = "dt"
    drift_evaluations = 1
    corrections = 1
    noise_products = 1

    def step(self, sde: PerturbedSDE, t0: float, t1: float, y: Tensor, dW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return one step, its prediction and its noise."""
        drift, noise = sde.drift_and_noise(t0, y, dW)
        prediction = y + drift * (t1 - t0)
        return prediction + noise, prediction, noise

    def advance(self, sde: PerturbedSDE, t0: float, t1: float, y: Tensor, dW: Tensor) -> Tensor:
        """Return one step, with drift and noise by one pullback."""
        return sde.euler_advance(t0, y, t1 - t0, dW)
