"""Ordinary differential equations for tensors: paths without noise, such as gradient flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from torch import Tensor

__all__ = ["SMALLEST_SCALE", "rk4_step", "solve_ode"]

SMALLEST_SCALE = 1e-3
"""Size that a smaller state counts as in absolute tolerances."""


def rk4_step(velocity: Callable[[Tensor], Tensor], start: Tensor, time: float) -> Tensor:
    """Return the solution of dtheta/dt = velocity(theta) after a time, by one classical Runge-Kutta step: (..., D)."""
    k1 = velocity(start)
    k2 = velocity(start + time / 2 * k1)
    k3 = velocity(start + time / 2 * k2)
    k4 = velocity(start + time * k3)
    return start + time / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def solve_ode(
    velocity: Callable[[float, Tensor], Tensor],
    start: Tensor,
    interval: tuple[float, float],
    tolerance: float,
    *,
    times: Sequence[float] | None = None,
    method: str = "DOP853",
    name: str = "solution",
) -> Any:
    """Solve dtheta/dt = velocity(t, theta) by `scipy.integrate.solve_ivp` with dense output.

    Args:
        velocity: (t, theta) -> (D,).
        start: theta (D,) at the beginning of the interval.
        interval: beginning and end.
        tolerance: relative tolerance, and absolute tolerance in units of the largest entry of the start.
        times: times of the states in `y`. Default: the steps of the solver.
        method: method of `solve_ivp`.
        name: name of the solution in the error.

    Returns:
        The result of `solve_ivp`: states `y` (D, T) in numpy, and `sol`, a function of time.

    Raises:
        ArithmeticError: the solver does not reach the end.
    """

    def right_hand_side(t: float, y: np.ndarray) -> np.ndarray:
        return velocity(t, start.new_tensor(y)).detach().cpu().double().numpy()

    path = solve_ivp(
        right_hand_side,
        interval,
        start.cpu().double().numpy(),
        method=method,
        t_eval=times,
        dense_output=True,
        rtol=tolerance,
        atol=tolerance * max(SMALLEST_SCALE, float(start.abs().max())),
    )
    if not path.success:
        raise ArithmeticError(f"the {name} did not converge: {path.message}")
    return path
