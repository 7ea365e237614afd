"""An SDE as schemes see it: dY = (leading drift + correction) dt + g dW, with small correction and noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchsde._core.base_sde import ForwardSDE

from smesolve.solver.modified_equation import ModifiedEquation

__all__ = ["PerturbedSDE"]


class PerturbedSDE:
    """Drift and noise of an SDE, for `Scheme.step`.

    Methods take a time t, states y (B, D) and, for noise, Brownian increments dW (B, M). The leading drift of a
    `ModifiedEquation` is b = -grad L_S. For any other SDE it is the whole drift.

    Args:
        sde: an Ito SDE in torchsde's sense, or a `ModifiedEquation`.
    """

    def __init__(self, sde: Any) -> None:
        self._equation = sde if isinstance(sde, ModifiedEquation) else None
        self._forward: Any = ForwardSDE(sde)  # completes f, g, g_prod and their combinations

    def leading_drift(self, t: float, y: Tensor, left_limit: bool = False) -> Tensor:
        """Return the leading drift at t, or just before t, where a schedule may jump: (B, D)."""
        if self._equation is not None:
            return self._equation.leading_drift(t, y, left_limit)
        return self.drift(t, y)

    def drift(self, t: float, y: Tensor) -> Tensor:
        """Return the whole drift: (B, D)."""
        drift: Tensor = self._forward.f(t, y)
        return drift

    def noise(self, t: float, y: Tensor, dW: Tensor) -> Tensor:
        """Return the noise g dW: (B, D)."""
        noise: Tensor = self._forward.g_prod(t, y, dW)
        return noise

    def drift_and_noise(self, t: float, y: Tensor, dW: Tensor) -> tuple[Tensor, Tensor]:
        """Return `drift` and `noise`, which share a forward pass, each (B, D)."""
        both: tuple[Tensor, Tensor] = self._forward.f_and_g_prod(t, y, dW)
        return both

    def correction(self, t: float, y: Tensor) -> Tensor:
        """Return the correction of the drift at t: (B, D)."""
        return torch.zeros_like(y) if self._equation is None else self._equation.correction(t, y)

    def perturbation(self, t: float, y: Tensor, dt: float, dW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the leading drift, the noise g dW, and the noise plus dt times the correction, each (B, D)."""
        if self._equation is None:
            drift, noise = self.drift_and_noise(t, y, dW)
            return drift, noise, noise
        leading, noise, correction = self._equation.parts(t, y, dW)
        return leading, noise, noise if correction is None else noise + dt * correction

    @property
    def has_pullbacks(self) -> bool:
        """Whether the two methods below can be called: compiled kernels compute Hessian products of the equation."""
        return self._equation is not None and self._equation.has_pullbacks

    def leading_pullback(self, t: float, y: Tensor, vectors: Tensor, left_limit: bool = False) -> Tensor:
        """Return vectors (..., D) times the Jacobian of the leading drift at y (..., D)."""
        assert self._equation is not None
        return self._equation.leading_pullback(t, y, vectors, left_limit)

    def correction_pullback(self, y: Tensor, vectors: Tensor) -> Tensor:
        """Return vectors (..., D) times the Jacobian of the correction at y (..., D)."""
        assert self._equation is not None
        return self._equation.correction_pullback(y, vectors)

    def small_noise_rk4(self, y: Tensor, dt: float, dW: Tensor, split: bool) -> tuple[Tensor, ...] | None:
        """Return a whole step of that scheme, with `split` also its prediction and noise; None without a kernel."""
        return None if self._equation is None else self._equation.small_noise_rk4(y, dt, dW, split)

    def euler_advance(self, t: float, y: Tensor, dt: float, dW: Tensor) -> Tensor:
        """Return y plus dt times the whole drift plus the noise, (B, D), by one pullback if the equation can."""
        if self._equation is not None:
            return self._equation.euler_advance(t, y, dt, dW)
        drift, noise = self.drift_and_noise(t, y, dW)
        return y + (dt * drift + noise)
