"""What a scheme is: a torchsde solver with declared properties whose step also returns its noise.

The modified equation is a perturbation of the gradient flow: its drift is b, of order one, plus lr b1, and its
noise is of size sqrt(lr). A small-noise scheme (Milstein & Tretyakov, SIAM J. Numer. Anal. 34, 1997) treats b to
high order and the perturbation, evaluated once a step near the middle of the noise-free path, to low order.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torchsde._core.base_sde import ForwardSDE
from torchsde._core.base_solver import BaseSDESolver
from torchsde.settings import LEVY_AREA_APPROXIMATIONS, NOISE_TYPES, SDE_TYPES

__all__ = ["NothingTestedWarning", "PerturbedSDE", "Scheme", "what_tests_nothing"]


SAME_STEP = 1e-9
"""Relative difference within which dt is lr: both are rounded."""


class NothingTestedWarning(UserWarning):
    """A comparison that would agree by construction."""


def what_tests_nothing(scheme: Any, name: str, order: Any, lr: float | None, dt: float) -> str | None:
    """The sentence on a scheme whose step of dt on the equation of an order is that of the iteration, or None.

    Args:
        scheme: a `Scheme` or `GradientScheme`.
        name: of the scheme.
        order: of the equation; only the one of order 1 has such steps.
        lr: the equation's, None for an SDE that is no modified equation.
        dt: step.
    """
    same = getattr(scheme, "at_learning_rate", None)
    if not same or order != 1 or lr is None or abs(dt - lr) > SAME_STEP * lr:
        return None
    return (
        f"scheme={name!r} with dt = lr on the order-1 equation tests nothing: {same}, so that it agrees with training "
        "far better than the SDE does; take dt < lr/10, or, where the problem has it, scheme='small_noise_rk4'."
    )


class PerturbedSDE(ForwardSDE):
    """An SDE in the form dY = (leading + correction) dt + g dW; without a split of its own, all drift is leading."""

    def __init__(self, sde: Any) -> None:
        super().__init__(sde)
        self.euler_increment = getattr(sde, "euler_increment", None)
        split = hasattr(sde, "leading_drift")
        self.leading_drift = sde.leading_drift if split else self.f
        self.parts = sde.parts if split else lambda t, y, v: (*self.f_and_g_prod(t, y, v), None)


class Scheme(BaseSDESolver):
    """A torchsde solver for Ito SDEs with general noise.

    A scheme of one's own subclasses this, declares its properties, writes `step`, and joins `SCHEMES`. `step`
    returns (y1, (prediction, increment)): a noise-free step from y0 and the mean-zero noise of the step, which
    control variates are made of. It asks for what holds at t1 by `LeftLimit(t1)`: a schedule may jump there.
    """

    sde_type = SDE_TYPES.ito
    noise_types = NOISE_TYPES.all()
    levy_area_approximations = LEVY_AREA_APPROXIMATIONS.all()
    strong_order = 0.5
    weak_order: ClassVar[float] = 1.0
    at_learning_rate: ClassVar[str | None] = None
    """What a step of dt = lr on the order-1 equation is, where its mean and covariance are those of the iteration."""

    noise_time: ClassVar[float]
    """Where in the step the noise enters, for control variates: 0 begin, 1 end. To first order in the noise, y1 moves
    by the noise-free flow over the rest of the step, applied to the increment."""
    weak_error: ClassVar[str]
    """Leading terms of the weak error for the modified equation."""
    drift_evaluations: ClassVar[int]
    """Mean gradients a step."""
    corrections: ClassVar[int]
    """Hessian products a step, at order 2."""
    noise_products: ClassVar[int]
    """Noise products a step."""

    def step(self, t0: Any, t1: Any, y0: Tensor, extra0: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """From y0 at t0 to (y1, (prediction, increment)) at t1; extra0 is not used."""
        raise NotImplementedError

    def advance(self, t0: Any, t1: Any, y0: Tensor) -> Tensor:
        """y1 alone, up to rounding that of `step`; a scheme overrides it where it has a shorter way."""
        return self.step(t0, t1, y0, ())[0]

    def _perturbation(self, t: Any, y: Tensor, dt: float, dW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Leading drift at y, noise increment at y, and noise increment plus dt times the drift's correction."""
        leading, noise, correction = self.sde.parts(t, y, dW)
        return leading, noise, noise if correction is None else noise + dt * correction
