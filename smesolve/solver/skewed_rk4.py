"""The equation of order 3 in steps of many learning rates, if there are too many jumps to go from one to the next.

Any noise with the covariance and the third cumulant of the jumps keeps weak order 3. Jumps that are c times as large,
one per time lr c^3, have this third cumulant; a Brownian part provides the rest of the covariance. A step of dt has its
noise at the two Gauss nodes, with the noise of a time h = dt/2 at each. One jump per node is due if

    h = lr c^3,      N = c lr xi(w; eta) + sqrt(lr h (1 - 1/c)) C(w) chi,      w = y - lr/2 b(y),                   (1)
    E N = 0,   Cov N = lr h Sigma(w),   third cumulant of N = lr^2 h times that of xi(w),                           (2)

with a draw eta and normals chi. The kick adds the terms of the drift f other than b (`smesolve.solver.jumps`), and
corrects N as a jump corrects lr xi,

    y + h (f(y) - b(y)) + N - lr/2 (b(w + N) - b(w)),                                                               (3)

so that its mean and its second and third moments are those of the equation without b over the time h, up to O(lr^4)
for a fixed h/lr. Before, between and after the kicks the classical Runge-Kutta scheme follows the flow of b:

    flow over (1/2 - sqrt(3)/6) dt,   (3),   flow over sqrt(3)/3 dt,   (3),   flow over (1/2 - sqrt(3)/6) dt.        (4)

As the noise is small, of size lr, Gauss quadrature reduces the error from the commutator of noise and flow to
O(lr dt^4), from O(lr dt^2) for a symmetric splitting (McLachlan, BIT 35, 1995). The fourth cumulant is c times too
large, an error of O(c lr^3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.problem import Problem
from smesolve.sampling.randomness import keyed_generator, keyed_normals
from smesolve.solver.jumps import ThirdOrder
from smesolve.solver.ode import rk4_step

__all__ = ["SKEWED_RK4", "SkewedRK4"]

SKEWED_RK4 = "skewed_rk4"
"""Name of the scheme."""

OUTER, INNER = 0.5 - 3**0.5 / 6, 3**0.5 / 3
"""Lengths of the flows in (4)."""


class SkewedRK4:
    """The equation of order 3 under the scheme (4), with weak error O(dt^4 + lr^2 dt) beside the equation's O(lr^3).

    Args:
        problem: a problem with mean gradient and noise in closed form.
        lr: learning rate.
        dt: step, at least 2 lr.
        seed: root seed of draws and normals.

    Raises:
        SmesolveError: dt is below 2 lr, where a single jump has more covariance than a kick may have.
    """

    in_threads = False
    gradients = 25.0
    """Cost of a step in gradients, approximately: three flows, and two kicks with a draw and a noise product each."""

    def __init__(self, problem: Problem, lr: float, dt: float, seed: int = 0) -> None:
        if dt < 2 * lr * (1 - 1e-9):
            raise SmesolveError(
                f"dt={dt:g} is below 2 lr = {2 * lr:g}, the shortest step of scheme={SKEWED_RK4!r}; leave scheme out, "
                "which goes from jump to jump, or take a larger dt."
            )
        self.problem, self.lr, self.dt, self.seed = problem, lr, dt, seed
        self._equation = ThirdOrder(problem, lr)
        self.block_size = problem.block_size
        self.scale = max(1.0, (dt / (2 * lr)) ** (1 / 3))
        """c (1)."""

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """Return one step of every path of a block. Cost: about 25 gradients per path for any dt."""
        problem = self.problem
        uniforms = keyed_generator(self.seed, "gradients", block, step).random((2, self.block_size, problem.draw_dim))
        normals = keyed_normals((2, self.block_size, problem.noise_dim), self.seed, block, step).to(theta)
        return self.move(theta, [problem.draw(part) for part in torch.from_numpy(uniforms)], list(normals))

    def move(self, y: Tensor, draws: list[Any], normals: list[Tensor]) -> Tensor:
        """Return a step (4) from states (B, D), with a draw and normals (B, M) for each of the two kicks."""
        y = self.flow(y, OUTER * self.dt)
        y = self.flow(self.kick(y, draws[0], normals[0]), INNER * self.dt)
        return self.flow(self.kick(y, draws[1], normals[1]), OUTER * self.dt)

    def kick(self, y: Tensor, draw: Any, normals: Tensor) -> Tensor:
        """Return (3): the noise of half a step, and its drift without b. Cost: about 6.5 gradients."""
        lr, h, c = self.lr, self.dt / 2, self.scale
        b = self._b(y)
        beyond = self._equation.drift(y, b) - b
        w = y - lr / 2 * b
        at = self.problem.linearize(w)
        mean = at.mean_gradient()  # -b(w)
        N: Tensor = c * lr * (mean - at.gradient(draw))  # (1)
        if c > 1:
            N = N + (lr * h * (1 - 1 / c)) ** 0.5 * at.noise_product(normals)
        return y + h * beyond + N + lr / 2 * (self.problem.mean_gradient(w + N) - mean)  # (3)

    def flow(self, y: Tensor, time: float) -> Tensor:
        """Return the flow of b by the classical Runge-Kutta scheme. Cost: four gradients."""
        return rk4_step(self._b, y, time)

    def _b(self, y: Tensor) -> Tensor:
        return -self.problem.mean_gradient(y)
