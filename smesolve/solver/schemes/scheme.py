"""The base class of schemes: one step of an SDE, which also returns its noise, with declared properties.

The modified equation is a perturbation of the gradient flow: its drift is b, of order one, plus lr b1, and its
noise is of size sqrt(lr). A small-noise scheme (Milstein & Tretyakov, SIAM J. Numer. Anal. 34, 1997) treats b to
high order, and to low order the perturbation, evaluated once per step near the middle of the noise-free path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from smesolve.solver.perturbed_sde import PerturbedSDE

__all__ = ["NothingTestedWarning", "Scheme", "what_tests_nothing"]


SAME_STEP = 1e-9
"""Relative difference up to which dt counts as lr, because both are rounded."""


class NothingTestedWarning(UserWarning):
    """A comparison that would agree by construction."""


def what_tests_nothing(scheme: Any, name: str, order: Any, lr: float | None, dt: float) -> str | None:
    """Return a warning if a step of the scheme on the equation is a step of the discrete iteration, else None.

    Args:
        scheme: a `Scheme` or `GradientScheme`.
        name: name of the scheme.
        order: order of the equation. Only the equation of order 1 has such steps.
        lr: learning rate of the equation, or None for an SDE that is no modified equation.
        dt: step of the scheme.
    """
    same = getattr(scheme, "at_learning_rate", None)
    if not same or order != 1 or lr is None or abs(dt - lr) > SAME_STEP * lr:
        return None
    return (
        f"scheme={name!r} with dt = lr on the order-1 equation tests nothing: {same}, so that it agrees with training "
        "far better than the SDE does; take dt < lr/10, or, where the problem has it, scheme='small_noise_rk4'."
    )


class Scheme(ABC):
    """A scheme for Ito SDEs with general noise.

    A scheme of your own subclasses this, declares its properties, defines `step`, and is added to `SCHEMES` by name.
    `solve` needs `step` only; measurements such as `weak_error` need all properties.
    """

    weak_order: ClassVar[float] = 1.0
    """Weak order for SDEs whose noise is not small."""
    in_threads: ClassVar[bool] = False
    """Whether a scheme keeps no state between calls, so that threads may share it."""
    at_learning_rate: ClassVar[str | None] = None
    """A description of a step of dt = lr on the order-1 equation, if its mean and covariance are the iteration's."""

    noise_time: ClassVar[float]
    """Where in the step the noise enters, for control variates: 0 at its beginning, 1 at its end. To first order in the
    noise, y1 changes by the increment, carried along by the noise-free flow over the rest of the step."""
    weak_error: ClassVar[str]
    """Leading terms of the weak error for the modified equation."""
    drift_evaluations: ClassVar[int]
    """Mean gradients per step."""
    corrections: ClassVar[int]
    """Hessian products per step, at order 2."""
    noise_products: ClassVar[int]
    """Noise products per step."""

    @abstractmethod
    def step(self, sde: PerturbedSDE, t0: float, t1: float, y: Tensor, dW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return y1, its prediction, and its noise, each (B, D).

        Control variates use the prediction, which is a noise-free step from y, and the noise, which has mean zero given
        y.

        Args:
            sde: drift and noise. Ask for values at t1 with `left_limit=True`, because a schedule may jump there.
            t0: beginning of the step.
            t1: end of the step.
            y: states at t0, (B, D).
            dW: Brownian increments of the step, (B, M).
        """

    def noise_free_pullback(self, sde: PerturbedSDE, t0: float, t1: float, y: Tensor, vectors: Tensor) -> Tensor | None:
        """Return vectors (..., D) times the Jacobian of y1 in y (..., D) at zero increments.

        Default: None, for automatic differentiation.
        """
        return None

    def advance(self, sde: PerturbedSDE, t0: float, t1: float, y: Tensor, dW: Tensor) -> Tensor:
        """Return y1 of `step`, up to rounding. A scheme overrides this method if it can do so faster."""
        return self.step(sde, t0, t1, y, dW)[0]
