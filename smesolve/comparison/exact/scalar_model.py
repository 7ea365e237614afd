"""Closed forms for the scalar model of dropout: one neuron, one sample, unit feature.

With k = keep_prob, the loss (eta a - y)^2 / 2 and u = a/k - y, one step multiplies u by 1 with probability 1 - k and by
1 - lr/k^2 with probability k:

    E u_n^j = (1 - k + k (1 - lr/k^2)^j)^n u_0^j                                                          (1)

The equations are geometric Brownian motions du = -rate u dt + sqrt(spread) u dW,

    rate = (1 + (order - 1) lr/(2 k)) / k,        spread = lr (1/k - 1)/k^2                               (2)
    E u(t)^j = exp((-j rate + j (j - 1)/2 spread) t) u_0^j                                                (3)

Order 3 and training steps at random times ("poisson") jump at rate 1/lr. With G = 1/k^2 with probability k and 0
otherwise, a jump multiplies u by 1 + c (G - 1/k), so that

    E u(t)^j = exp(t (-j rate + (E(1 + c (G - 1/k))^j - 1)/lr)) u_0^j                                     (4)
    order 3:   rate = (1 + lr/(2 k) + lr^2/(3 k^2))/k,    c = -lr (1 + lr/k)                               (5)
    poisson:   rate = 0, and a jump multiplies u by 1 - lr G                                                (6)

Second moments do not grow for

    lr < 2 k^2 (iteration, poisson),    lr < 2 k^2/(1 - order k) (orders 1, 2; any lr where order k >= 1)  (7)
    order 3:   z (1 + z)^2 (1 - k)/k < 2 + z + 2/3 z^2,    z = lr/k                                       (8)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from smesolve.entry_point import entry_point
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import check_keep_prob, check_number, check_positive

__all__ = ["ScalarDropout", "scalar_dropout"]

LARGEST_EXPONENT = math.log(sys.float_info.max)


@dataclass(frozen=True)
class ScalarDropout:
    """Moments of u = a/keep_prob - y in the scalar model of dropout."""

    mean: float
    second_moment: float
    third_moment: float
    fourth_moment: float
    stability_limit: float
    """Learning rate from which the second moment grows without bound."""

    @property
    def moments(self) -> tuple[float, float, float, float]:
        """E u, E u^2, E u^3, E u^4."""
        return self.mean, self.second_moment, self.third_moment, self.fourth_moment


@entry_point
def scalar_dropout(
    keep_prob: float, lr: float, horizon: float, u0: float = 1.0
) -> dict[int | str | None, ScalarDropout]:
    """Return the closed forms by equation: None for the iteration, and 1, 2, 3 and "poisson".

    Args:
        keep_prob: probability that the neuron is kept.
        lr: learning rate.
        horizon: time of the moments, a multiple of lr.
        u0: u at the start. Default: 1.
    """
    k, lr = check_keep_prob("keep_prob", keep_prob), check_positive("lr", lr)
    horizon, u0 = check_positive("horizon", horizon), check_number("u0", u0)
    steps = grid_steps(horizon, lr, "horizon", "lr")

    def of(growth: Callable[[int], float], limit: float) -> ScalarDropout:
        first, second, third, fourth = (growth(j) * u0**j for j in (1, 2, 3, 4))
        return ScalarDropout(first, second, third, fourth, limit)

    def over_masks(j: int, kept: float, dropped: float) -> float:
        return k * kept**j + (1 - k) * dropped**j

    def diffusing(rate: float, spread: float) -> Callable[[int], float]:
        return lambda j: _exponential((-j * rate + j * (j - 1) / 2 * spread) * horizon)  # (3)

    def jumping(rate: float, kept: float, dropped: float) -> Callable[[int], float]:
        return lambda j: _exponential((-j * rate + (over_masks(j, kept, dropped) - 1) / lr) * horizon)  # (4)

    one_step = 1 - lr / k**2
    moments: dict[int | str | None, ScalarDropout] = {
        None: of(lambda j: _power(over_masks(j, one_step, 1.0), steps), 2 * k**2)  # (1), (7)
    }
    for order in (1, 2):
        rate, spread = 1 / k * (1 + (order - 1) * lr / (2 * k)), lr * (1 / k - 1) / k**2  # (2)
        room = 1 - order * k
        moments[order] = of(diffusing(rate, spread), 2 * k**2 / room if room > 0 else math.inf)  # (7)
    rate, c = (1 + lr / (2 * k) + lr**2 / (3 * k**2)) / k, -lr * (1 + lr / k)  # (5)
    moments[3] = of(jumping(rate, 1 + c * (1 / k**2 - 1 / k), 1 - c / k), _limit_of_order_3(k))
    moments["poisson"] = of(jumping(0.0, one_step, 1.0), 2 * k**2)  # (6)
    return moments


def _limit_of_order_3(k: float) -> float:
    """Return k z with the least positive root z = lr/k of (8); infinity where there is none."""
    ratio = (1 - k) / k
    roots = np.roots([ratio, 2 * ratio - 2 / 3, ratio - 1, -2.0])
    positive = [root.real for root in roots if abs(root.imag) < 1e-12 * abs(root) and root.real > 0]
    return k * float(min(positive, default=math.inf))


def _power(base: float, exponent: int) -> float:
    """Return base^exponent, or infinity with its sign where it overflows."""
    try:
        return base**exponent
    except OverflowError:
        return math.inf if base > 0 or exponent % 2 == 0 else -math.inf


def _exponential(exponent: float) -> float:
    """Return exp(exponent), or infinity where it overflows."""
    return math.exp(exponent) if exponent < LARGEST_EXPONENT else math.inf
