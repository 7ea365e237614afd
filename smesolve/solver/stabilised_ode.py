"""Long gradient flows at the cost of few gradients: a Runge-Kutta-Chebyshev method for stiff dissipative equations.

Gradient descent follows the flow dy/dt = -grad L with steps below 2/lambda, lambda the largest eigenvalue of the
Hessian, however slowly the solution moves. Here a step of s gradients is stable along the negative real axis up to
about 0.65 s^2/lambda, so that its length grows like the square of its cost, and the accuracy decides how long a step
is. The method solves no system of equations, and its memory is a few copies of the state.

With the Chebyshev polynomials T_j, w0 = 1 + eps/s^2, eps = 2/13, w1 = T_s'(w0)/T_s''(w0), b_j = T_j''(w0)/T_j'(w0)^2
(b_0 = b_1 = b_2), a_j = 1 - b_j T_j(w0), and F_j = f(t, Y_j), a step of length h and order 2 is

    Y_0 = y_n,      Y_1 = Y_0 + b_1 w1 h F_0                                                                         (1)
    Y_j = (1 - mu_j - nu_j) Y_0 + mu_j Y_{j-1} + nu_j Y_{j-2} + m_j h F_{j-1} + g_j h F_0,      j = 2 ... s          (2)
    mu_j = 2 b_j w0/b_{j-1},   nu_j = -b_j/b_{j-2},   m_j = 2 b_j w1/b_{j-1},   g_j = -a_{j-1} m_j                   (3)
    y_{n+1} = Y_s,      error of the step = 4/5 (y_n - y_{n+1}) + 2/5 h (F(y_n) + F(y_{n+1}))                        (4)
    stable for h lambda <= 2/3 (s^2 - 1)(1 - 2 eps/15).                                                              (5)

Source: Sommeijer, Shampine, Verwer, "RKC: an explicit solver for parabolic PDEs" (J. Comput. Appl. Math. 88, 1997).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from smesolve.solver.ode import SMALLEST_SCALE

__all__ = ["solve_dissipative"]

Velocity = Callable[[Tensor], Tensor]

DAMPING = 2 / 13
"""eps of w0, which shortens the largest stable step so that stiff components decay."""

SAFETY = 1.2
"""Factor by which the estimate of the largest eigenvalue is raised: the power method approaches it from below."""

REFRESH = 20
"""Number of steps between two estimates of the largest eigenvalue."""

POWER_STEPS, POWER_ACCURACY = 30, 0.02
"""Largest number of products in the power method, and the relative change at which it stops."""

SHRINK, GROW = 0.1, 5.0
"""Smallest and largest factor between the lengths of two successive steps."""

MOST_STEPS = 100_000
"""Largest number of steps, accepted or rejected."""


@torch.no_grad()
def solve_dissipative(velocity: Velocity, start: Tensor, horizon: float, tolerance: float) -> Tensor:
    """Return the solution of dy/dt = velocity(y) at the horizon, for velocities with a negative real spectrum.

    Such are gradient flows near which the loss is convex or only mildly concave. All rows take the same steps, that of
    the row that needs the smallest one.

    Args:
        velocity: (..., D) -> (..., D).
        start: y (..., D) at time 0.
        horizon: time at the end.
        tolerance: largest error of a step, relative to each entry and to the root mean square of the row at the start,
            which counts as at least 0.001.

    Returns:
        y (..., D). Cost: about sqrt(1.5 h lambda) velocities for a step of length h. Rounding limits this number, and
        with it the length of a step: to about 30 in float32 with a tolerance of 1e-3.

    Raises:
        ArithmeticError: the velocity is not finite, or the solver does not reach the horizon in 100,000 steps.
    """
    floor = tolerance * start.square().mean(-1, keepdim=True).sqrt().clamp(min=SMALLEST_SCALE)
    most = _most_stages(tolerance, start.dtype)
    y, time = start, 0.0
    slope = velocity(y)
    direction = slope
    stiffness, h, age = 0.0, math.inf, 0
    for _ in range(MOST_STEPS):
        if age % REFRESH == 0:
            stiffness, direction = _largest_eigenvalue(velocity, y, slope, direction)
            h = min(h, horizon, 1 / stiffness if stiffness and math.isinf(h) else horizon)
        longest = 2 / 3 * (most**2 - 1) * (1 - 2 * DAMPING / 15) / max(SAFETY * stiffness, 1e-300)  # (5)
        h = min(h, longest)
        last = time + h >= horizon * (1 - 1e-12)
        h = horizon - time if last else h
        stages = max(2, 1 + math.ceil(math.sqrt(1 + 1.54 * h * SAFETY * stiffness)))
        candidate = _step(velocity, y, slope, h, stages)
        ahead = velocity(candidate)
        difference = 0.8 * (y - candidate) + 0.4 * h * (slope + ahead)  # (4)
        scale = floor + tolerance * torch.maximum(y.abs(), candidate.abs())
        error = float((difference / scale).square().mean(-1).sqrt().max())
        if math.isfinite(error) and error <= 1:
            y, slope, time, age = candidate, ahead, time + h, age + 1
            if last:
                return y
        elif h < 1e-12 * horizon:
            break
        else:
            age = 0  # the curvature may have grown
        # An error that is not finite shortens the step as much as possible.
        h *= min(GROW, max(SHRINK, 0.8 * max(error, 1e-12) ** (-1 / 3))) if math.isfinite(error) else SHRINK
    raise ArithmeticError(f"the flow did not reach the time {horizon:g}, it stopped at {time:g}.")


def _step(velocity: Velocity, y: Tensor, slope: Tensor, h: float, stages: int) -> Tensor:
    """Return Y_s of (1) and (2)."""
    first, coefficients = _coefficients(stages)
    before, current = y, y + first * h * slope  # (1)
    for mu, nu, m, g in coefficients:
        following = (1 - mu - nu) * y + mu * current + nu * before + (m * h) * velocity(current) + (g * h) * slope
        before, current = current, following  # (2)
    return current


@lru_cache(maxsize=256)
def _coefficients(stages: int) -> tuple[float, list[tuple[float, float, float, float]]]:
    """Return b_1 w1, and (3) for j = 2 ... s."""
    w0 = 1 + DAMPING / stages**2
    T, dT, ddT = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for j in range(2, stages + 1):
        T.append(2 * w0 * T[j - 1] - T[j - 2])
        dT.append(2 * T[j - 1] + 2 * w0 * dT[j - 1] - dT[j - 2])
        ddT.append(4 * dT[j - 1] + 2 * w0 * ddT[j - 1] - ddT[j - 2])
    w1 = dT[stages] / ddT[stages]
    b = [0.0, 0.0] + [ddT[j] / dT[j] ** 2 for j in range(2, stages + 1)]
    b[0] = b[1] = b[2]
    a = [1 - b[j] * T[j] for j in range(stages + 1)]
    rows = []
    for j in range(2, stages + 1):
        m = 2 * b[j] * w1 / b[j - 1]
        rows.append((2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], m, -a[j - 1] * m))  # (3)
    return b[1] * w1, rows


def _most_stages(tolerance: float, dtype: torch.dtype) -> int:
    """Return the number of stages up to which rounding, which grows like s^2, stays below the tolerance."""
    return max(2, round(math.sqrt(tolerance / (10 * torch.finfo(dtype).eps))))


def _largest_eigenvalue(velocity: Velocity, y: Tensor, slope: Tensor, direction: Tensor) -> tuple[float, Tensor]:
    """Return the largest size of an eigenvalue of the velocity's derivative in any row, and a direction to go on from.

    Both come from the power method, with differences of the velocity as products.
    """
    size = math.sqrt(torch.finfo(y.dtype).eps) * (y.norm(dim=-1, keepdim=True) + 1)
    found = 0.0
    for _ in range(POWER_STEPS):
        norm = direction.norm(dim=-1, keepdim=True)
        if not bool(torch.isfinite(norm).all()):
            raise ArithmeticError("the velocity of the flow is not finite.")
        direction = torch.where(norm > 0, direction / norm.clamp(min=1e-300), torch.ones_like(direction))
        direction = direction / direction.norm(dim=-1, keepdim=True)
        direction = (velocity(y + size * direction) - slope) / size
        before, found = found, float(direction.norm(dim=-1).max())
        if abs(found - before) <= POWER_ACCURACY * found:
            break
    return found, direction
