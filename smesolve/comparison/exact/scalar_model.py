"""Closed forms for the scalar model of dropout: one neuron, one sample, unit feature.

With k = keep_prob, the loss (eta a - y)^2 / 2 and u = a/k - y, one step multiplies u by 1 with probability 1 - k, or by
1 - lr/k^2 with probability k:

    E u_n = (1 - lr/k)^n u_0,        E u_n^2 = (1 - 2 lr/k + lr^2/k^3)^n u_0^2                            (1)

The equations are geometric Brownian motions du = -rate u dt + sqrt(spread) u dW,

    rate = (1 + (order - 1) lr/(2 k)) / k,        spread = lr (1/k - 1)/k^2                               (2)
    E u(t) = exp(-rate t) u_0,                    E u(t)^2 = exp((-2 rate + spread) t) u_0^2              (3)

Second moments do not grow for

    lr < 2 k^2 (iteration),    lr < 2 k^2/(1 - order k) (equations; any lr where order k >= 1)             (4)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from smesolve.entry_point import entry_point
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import check_keep_prob, check_number, check_positive

__all__ = ["ScalarDropout", "scalar_dropout"]


@dataclass(frozen=True)
class ScalarDropout:
    """First and second moment of u = a/keep_prob - y in the scalar model of dropout."""

    mean: float
    second_moment: float
    stability_limit: float
    """Learning rate from which the second moment grows without bound."""


@entry_point
def scalar_dropout(keep_prob: float, lr: float, horizon: float, u0: float = 1.0) -> dict[int | None, ScalarDropout]:
    """Return the closed forms of the iteration, under the key None, and of the equations of order 1 and 2.

    Args:
        keep_prob: probability that the neuron is kept.
        lr: learning rate.
        horizon: time of the moments, a multiple of lr.
        u0: start. Default: 1.
    """
    k, lr = check_keep_prob("keep_prob", keep_prob), check_positive("lr", lr)
    horizon, u0 = check_positive("horizon", horizon), check_number("u0", u0)
    steps = grid_steps(horizon, lr, "horizon", "lr")
    moments: dict[int | None, ScalarDropout] = {
        None: ScalarDropout(
            (1 - lr / k) ** steps * u0,
            (1 - 2 * lr / k + lr**2 / k**3) ** steps * u0**2,
            2 * k**2,  # (1)
        )
    }
    for order in (1, 2):
        rate, spread = 1 / k * (1 + (order - 1) * lr / (2 * k)), lr * (1 / k - 1) / k**2  # (2)
        room = 1 - order * k
        moments[order] = ScalarDropout(
            math.exp(-rate * horizon) * u0,  # (3)
            math.exp((-2 * rate + spread) * horizon) * u0**2,
            2 * k**2 / room if room > 0 else math.inf,  # (4)
        )
    return moments
