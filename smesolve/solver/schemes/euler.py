"""Euler-Maruyama, as torchsde has it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from smesolve.solver.schemes.scheme import Scheme

__all__ = ["Euler"]


class Euler(Scheme):
    """y1 = y + dt f(y) + g(y) dW: weak error O(dt).

    torchsde's `euler` discards the two parts of the step that control variates need, hence this class; its paths
    equal those of `torchsde.sdeint(..., method="euler")` up to rounding.
    """

    at_learning_rate = "its step is the discrete iteration with Gaussian noise"
    noise_time = 1.0
    weak_error = "dt"
    drift_evaluations = 1
    corrections = 1
    noise_products = 1

    def step(self, t0: Any, t1: Any, y0: Tensor, extra0: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One Euler-Maruyama step."""
        drift, noise = self.sde.f_and_g_prod(t0, y0, self.bm(t0, t1))
        prediction = y0 + drift * (t1 - t0)
        return prediction + noise, (prediction, noise)

    def advance(self, t0: Any, t1: Any, y0: Tensor) -> Tensor:
        """Drift and noise by one pullback, where the equation has it."""
        if self.sde.euler_increment is None:
            return super().advance(t0, t1, y0)
        return y0 + self.sde.euler_increment(t0, y0, t1 - t0, self.bm(t0, t1))
