"""Schemes that take noisy gradients in place of drift and diffusion.

A step is a weighted sum of gradients with independent draws,

    y1 = y - dt sum_r a_r g(y; draw_r),        sum_r a_r = 1,   sum_r a_r^2 = lr / dt,

so that its mean is exactly -dt grad L_S and its covariance exactly lr dt Sigma, as for an Euler step of the order-1
equation: only the training gradient of the network is needed. At order 2 the correction of the drift,
-lr/2 Hess L_S grad L_S, is estimated without bias from two of the draws: -lr/2 (Dg)(y; draw_0) g(y; draw_1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

__all__ = ["GradientScheme"]


class GradientScheme(ABC):
    """A scheme that needs gradients only. A scheme of your own defines `weights` and is added to `SCHEMES` by name."""

    weak_order: ClassVar[float] = 1.0
    at_learning_rate: ClassVar[str | None] = "its step has the mean and the covariance of the discrete iteration's"
    """A description of a step of dt = lr on the order-1 equation, where both sums above are 1."""
    noise_time: ClassVar[float] = 1.0
    """Where in the step the noise enters: at its end."""
    weak_error: ClassVar[str] = "dt"
    """Leading terms of the weak error for the modified equation."""
    drift_evaluations: ClassVar[int]
    """Gradients per step, each with a draw of its own."""
    corrections: ClassVar[int] = 1
    """Hessian products per step, at order 2."""
    noise_products: ClassVar[int] = 0
    """Noise products per step."""

    @staticmethod
    @abstractmethod
    def weights(ratio: float) -> tuple[list[float], list[float]]:
        """Return means and deviations, a_r = mean_r + deviation_r, for ratio = lr/dt.

        Deviations with the opposite sign give the antithetic path: the sign of the noise changes, and nothing else.

        Raises:
            SmesolveError: dt is too large for such weights to exist.
        """
