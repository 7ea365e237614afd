"""Equations with jumps: a flow between the times of a Poisson process of rate 1/lr, and a jump at each of them.

With b = -grad L_S, g(theta; eta) the gradient of a draw and xi = -g - b, of mean zero,

    order 3    dTheta = f dt,   jumps lr xi(Theta - lr/2 b; eta) - lr/2 (b(Theta + lr xi(Theta; eta)) - b(Theta))    (1)
    Poisson    jumps -lr g(Theta; eta) and no drift: training steps at random times, weak order 1                    (2)

For another training step (`Problem.step`) the jumps of (2) are those of that step. The drift f of (1) is made of
differences along Euler steps y_0 = Theta, y_(j+1) = y_j + lr b(y_j):

    f = (11 b(y_0) - 7 b(y_1) + 2 b(y_2)) / 6.                                                                       (3)

(1) is the equation that `smesolve.symbolic.jump_equation` derives, with derivatives replaced by differences of
gradients over the distance of one step:

    f = b - lr/2 (Db) b + lr^2 (1/3 (Db)^2 b + 1/12 D^2 b [b, b]) + O(lr^3)                                          (4)
    jump = lr xi - lr^2/2 ((D xi) b + (Db) xi) - lr^3/4 D^2 b [xi, xi] + rest                                        (5)

The last term of (5) has the mean -lr^3/4 D^2 b : Sigma, which at rate 1/lr is the drift -lr^2/4 D^2 b : Sigma. The
jump's own draw is an unbiased draw of Sigma, and its fluctuation, although correlated with the jump, changes the
covariance of the jumps per unit of time by O(lr^3) only. The rest has mean O(lr^4) and changes the covariance as
little. Hence the generator is the derived one up to O(lr^3), and the weak order is 3; if b and xi are affine in theta,
the two are equal. Neither a derivative of a gradient nor a root of a covariance is needed.

Between two jumps the flow of f over a time s lr is Newton's interpolation of Euler's steps, with differences Delta^j,

    y(s) = y_0 + s Delta + s(s-1)/2 Delta^2 + s(s-1)(s-2)/6 Delta^3 + s^2 (s^2 - 6 s + 11)/24 Delta^4 + O(s^2 lr^5), (6)

which takes four gradients. It is exp(s (Delta - Delta^2/2 + Delta^3/3)) to fourth order, because lr f is the generator
log(1 + Delta) of an Euler step without the terms from Delta^4 on. At the end of the flow, with b_j = b(y_j),

    b(y(s)) = b_0 + s Delta b_0 + s(s-1)/2 Delta^2 b_0 + s(s-1)(s-2)/6 Delta^3 b_0 + O(lr^4),                        (7)

whose error changes the mean of a jump by O(lr^5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from smesolve.problem.problem import Problem
from smesolve.solver.ode import rk4_step

__all__ = ["JumpDynamics", "Poissonised", "ThirdOrder"]

LONGEST = 4.0
"""Longest flow (6) in units of lr. Longer flows are taken in parts, as Newton's polynomial grows outside its nodes. A
waiting time is longer with probability exp(-4)."""


DIFFERENCES = np.array([[1, 0, 0, 0], [-1, 1, 0, 0], [1, -2, 1, 0], [-1, 3, -3, 1]])
"""Delta^0 to Delta^3 of four values."""

FACTORS = np.array(
    [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, -1 / 2, 1 / 2, 0, 0], [0, 1 / 3, -1 / 2, 1 / 6, 0], [0, 0, 11, -6, 1]]
) / np.array([[1], [1], [1], [1], [24]])
"""Coefficients in s of the factors 1, s, s(s-1)/2, s(s-1)(s-2)/6 and s^2 (s^2 - 6 s + 11)/24 of (6) and (7)."""

NEWTON = torch.from_numpy(np.concatenate([FACTORS[1:].T @ DIFFERENCES, FACTORS[:4].T @ DIFFERENCES], axis=1))
"""Coefficients in s of the weights of b_0 to b_3, first in (6) and then in (7), with a row for each power."""


class JumpDynamics(Protocol):
    """The flow between the times of the Poisson process, and the jumps. States are (B, D), times (B, 1)."""

    def flow(self, y: Tensor, time: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the states after a time without jumps, and b there if it is known."""
        ...

    def jump(self, y: Tensor, draw: Any, b: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the size of a jump, and its part with a known mean: the noise for control variates.

        Args:
            y: states before the jump.
            draw: one draw per state.
            b: b(y). Default: it is computed if it is needed.
        """
        ...

    def compensator(self, y: Tensor) -> Tensor | None:
        """Return the mean of the second part of `jump` per unit of time, or None if it is 0 or unknown."""
        ...

    def noise_free(self, y: Tensor, time: float) -> Tensor:
        """Return the states after a time without noise."""
        ...


class ThirdOrder:
    """The equation of weak order 3 (1)."""

    def __init__(self, problem: Problem, lr: float) -> None:
        self.problem, self.lr = problem, lr

    def drift(self, y: Tensor, b: Tensor | None = None) -> Tensor:
        """Return f (3). Cost: three gradients, or two if b = b(y) is given."""
        b_0 = self._b(y) if b is None else b
        y_1 = y + self.lr * b_0
        b_1 = self._b(y_1)
        return (11 * b_0 - 7 * b_1 + 2 * self._b(y_1 + self.lr * b_1)) / 6  # (3)

    def flow(self, y: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flow of f (6), and b at its end (7). Cost: four gradients for times up to 4 lr."""
        parts = max(1, math.ceil(float(time.max()) / (LONGEST * self.lr) - 1e-9))
        for _ in range(parts):
            y, b = self._newton(y, time / (parts * self.lr))
        return y, b

    def jump(self, y: Tensor, draw: Any, b: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the jump (1), and lr xi at the shifted point, which has mean zero. Cost: about four gradients with b.

        If the noise is made of at most D functions of the draw, xi is computed as a noise product of these, which needs
        no mean gradient.
        """
        known = self.problem.noise_dim <= self.problem.dim
        chi = self.problem.noise_coordinates(draw) if known else None
        b = self._b(y) if b is None else b
        beside = y.add(self.problem.gradient(y, draw).add(b), alpha=-self.lr)  # y + lr xi
        at = self.problem.linearize(y.add(b, alpha=-self.lr / 2))
        noise = (at.gradient(draw) - at.mean_gradient() if chi is None else at.noise_product(chi)).mul(-self.lr)
        change = b.add(self.problem.mean_gradient(beside))
        return noise.add(change, alpha=self.lr / 2), noise  # (1)

    def compensator(self, y: Tensor) -> None:
        """Return None: the mean of xi is zero."""
        return

    def noise_free(self, y: Tensor, time: float) -> Tensor:
        """Return the flow of f."""
        return self.flow(y, torch.full_like(y[..., :1], time))[0]

    def _b(self, y: Tensor) -> Tensor:
        return -self.problem.mean_gradient(y)

    def _newton(self, y: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        at, gradients = y, [self.problem.mean_gradient(y)]  # -b_j
        for _ in range(3):
            at = at.add(gradients[-1], alpha=-self.lr)
            gradients.append(self.problem.mean_gradient(at))
        powers = torch.cat([torch.ones_like(s), s.expand(*s.shape[:-1], 4).cumprod(-1)], dim=-1)
        weights = -powers @ NEWTON.to(s)
        moved = _combined(gradients, self.lr * weights[..., :4]).add_(y)  # (6)
        return moved, _combined(gradients, weights[..., 4:])  # (7)


class Poissonised:
    """Training steps at the times of a Poisson process (2)."""

    def __init__(self, problem: Problem, lr: float) -> None:
        self.problem, self.lr = problem, lr

    def flow(self, y: Tensor, time: Tensor) -> tuple[Tensor, None]:
        """Return the states unchanged."""
        return y, None

    def jump(self, y: Tensor, draw: Any, b: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the jump (2), twice, because all of it is noise with a known mean. Cost: one gradient."""
        if self.problem.linear_step:
            size = -self.lr * self.problem.gradient(y, draw)
        else:
            size = self.problem.step(y, draw, self.lr) - y
        return size, size

    def compensator(self, y: Tensor) -> Tensor | None:
        """Return the mean of the jumps per unit of time, -grad L_S for gradient descent; None if it is not known."""
        if not self.problem.has_closed_form:
            return None
        return -self.problem.mean_gradient(y) if self.problem.linear_step else self._rate(self.problem.mean_step, y)

    def noise_free(self, y: Tensor, time: float) -> Tensor:
        """Return the mean motion dy = b dt, by one classical Runge-Kutta step."""
        return rk4_step(self._reference, y, time)

    def _reference(self, y: Tensor) -> Tensor:
        if self.problem.linear_step:
            return -self.problem.reference_gradient(y)
        return self._rate(self.problem.reference_step, y)

    def _rate(self, step: Callable[[Tensor, float], Tensor], y: Tensor) -> Tensor:
        return (step(y, self.lr) - y) / self.lr


def _combined(vectors: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return sum_k weight_k vector_k (..., D) for weights (..., K)."""
    total = vectors[0] * weights[..., :1]
    for k, vector in enumerate(vectors[1:], start=1):
        total.addcmul_(vector, weights[..., k : k + 1])
    return total
