"""Leading term of the weak error, without Monte Carlo.

With thetabar the flow of b = -grad L_S and u_t(theta) = g(flow of theta over T - t), the local errors of one step of
length lr add up along thetabar (Milstein 1986; Li, Tai, E 2019, section 4):

    E g(Theta_T) - E g(theta_{T/lr}) = c lr^order + O(lr^(order+1)),      c = int_0^T (D u_t)(thetabar(t)) dt.

Order 1: the equation lacks the drift lr b1 = -lr/2 (d_t b + (Db) b), d_t b being that of a schedule, so
D u = -grad u . b1: one adjoint path.

Order 2: D u is the lr^3 term of the one-step expectations. With L0 = b . grad, L1 = b1 . grad + 1/2 C C^T : Hess (the
generator of the equation is L0 + lr L1) and the step -lr g(theta; eta) of the iteration,

    D u = 1/2 (L0 L1 + L1 L0) u + 1/6 L0^3 u - 1/6 E_eta u'''[-g, -g, -g].

L0 commutes with the flow, L0 (g o flow) = (L0 g) o flow. The expectation over the masks is by enumeration; it holds
the third cumulant of the mask noise, which no Brownian motion has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.integrate import simpson
from torch import Tensor

from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.comparison.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.problem.schedule import LeftLimit
from smesolve.solver.modified_equation import ModifiedEquation

__all__ = ["first_constant", "leading_constants", "second_constant"]

SECOND_ORDER_DIM, SECOND_ORDER_DRAWS = 64, 1024
"""Largest D and number of draws for which the constant of order 2 is computed: it takes third derivatives of flows."""

NODES = 10
"""Intervals of Simpson's rule for the constant of order 2, each of `SUBSTEPS` Runge-Kutta steps."""

SUBSTEPS = 2


class _Flow:
    """The gradient flow of L_S under the classical Runge-Kutta scheme on a grid of times, even where the problem is
    autonomous: a process without noise."""

    def __init__(self, problem: Problem, times: Sequence[float]) -> None:
        self.problem, self.times = problem, times
        self.autonomous = problem.autonomous

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        begin, end = self.times[step : step + 2]
        h, middle = end - begin, self.problem.at((begin + end) / 2)
        k1 = -self.problem.at(begin).mean_gradient(theta)
        k2 = -middle.mean_gradient(theta + h / 2 * k1)
        k3 = -middle.mean_gradient(theta + h / 2 * k2)
        k4 = -self.problem.at(LeftLimit(end)).mean_gradient(theta + h * k3)
        state = theta + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return state, state


@torch.no_grad()
def leading_constants(
    problem: Problem,
    theta0: Tensor,
    times: Sequence[float],
    observables: Mapping[str, Observable],
    step: float,
    orders: Sequence[int],
) -> pd.DataFrame:
    """Leading constants of the orders asked for: order 1 at every time, order 2 at the last one where affordable.

    Args:
        step: about the grid spacing of order 1.

    Returns:
        Columns order, time, observable, constant; no rows where the problem is not `exact`. Cost: a few hundred
        gradients of one path for order 1; for order 2 (D <= 64, at most 1024 draws, no schedules) some seconds each.
    """
    rows = []
    for name, observable in observables.items() if problem.exact else ():
        for time in times if 1 in orders else ():
            rows.append((1, time, name, first_constant(problem, theta0, time, observable, step)))
        if 2 in orders and problem.autonomous and _affordable(problem):
            rows.append((2, times[-1], name, second_constant(problem, theta0, times[-1], observable)))
    return pd.DataFrame(rows, columns=["order", "time", "observable", "constant"])


def _affordable(problem: Problem) -> bool:
    return problem.draw_count <= SECOND_ORDER_DRAWS and problem.dim <= SECOND_ORDER_DIM


def first_constant(problem: Problem, theta0: Tensor, time: float, observable: Observable, step: float) -> float:
    """c of order 1: -int lam . b1 dt along the flow, lam its adjoint, by Simpson's rule from break to break."""
    edges = [0.0, *(end for end in problem.breaks if end < time), time]
    pieces = [np.linspace(a, b, 1 + 2 * max(8, round((b - a) / step / 2))) for a, b in pairwise(edges)]
    times = np.concatenate([pieces[0], *(piece[1:] for piece in pieces[1:])]).tolist()
    path = NoiseFreePath.of(_Flow(problem, times), theta0, [len(times) - 1], {"g": observable})
    equation: Any = ModifiedEquation(problem, lr=1.0, order=2)  # its correction is b1

    def integrand(t: float, node: int) -> float:
        state = path.states[node : node + 1]
        return -float(equation.correction(t, state, equation.leading_drift(t, state))[0] @ path.adjoints[node][0, 0])

    total, first = 0.0, 0
    for piece in pieces:
        sides = [*piece[:-1].tolist(), LeftLimit(piece[-1])]
        values = [integrand(t, first + node) for node, t in enumerate(sides)]
        total += float(simpson(values, dx=piece[1] - piece[0]))
        first += len(piece) - 1
    return total


def second_constant(problem: Problem, theta0: Tensor, time: float, observable: Observable) -> float:
    """c of order 2, by Simpson's rule; each integrand is made of third derivatives of the flow to the last time."""
    draws, weights = problem.all_draws()
    flow = _Flow(problem, np.linspace(0, time, NODES * SUBSTEPS + 1).tolist())

    def drift(theta: Tensor) -> Tensor:
        return -problem.mean_gradient(theta)

    def correction(theta: Tensor) -> Tensor:
        return problem.hessian_product(theta, drift(theta)) / 2

    def columns(theta: Tensor) -> Tensor:
        return problem.noise_factor(theta).mT

    def L0(function: Observable) -> Observable:
        return lambda theta: _along(function, theta, drift(theta))

    def L1(function: Observable) -> Observable:
        def apply(theta: Tensor) -> Tensor:
            directions = columns(theta)
            repeated = theta[..., None, :].expand_as(directions)
            second = _along(lambda at: _along(function, at, directions), repeated, directions)
            return _along(function, theta, correction(theta)) + second.sum(-1) / 2

        return apply

    def third_moment(function: Observable, theta: Tensor) -> Tensor:
        steps = -problem.gradient(theta[..., None, :], draws.to(theta))
        repeated = theta[..., None, :].expand_as(steps)
        once = lambda at: _along(function, at, steps)  # noqa: E731
        twice = lambda at: _along(once, at, steps)  # noqa: E731
        return _along(twice, repeated, steps) @ weights.to(theta)

    # All nodes at once: node j stops moving after the steps that are left to it.
    steps = NODES * SUBSTEPS
    states = [theta0]
    for step in range(steps):
        states.append(flow.noise_free_step(states[-1], step)[0])
    theta = torch.stack(states[::SUBSTEPS])
    left = torch.arange(steps, -1, -SUBSTEPS, device=theta.device)

    def at_end(function: Observable) -> Observable:
        def after(at: Tensor) -> Tensor:
            for step in range(steps):
                moving = (left > step).reshape(-1, *[1] * (at.ndim - 1))
                at = torch.where(moving, flow.noise_free_step(at, step)[0], at)
            return function(at)

        return after

    u = at_end(observable)
    integrand = (L0(L1(u))(theta) + L1(at_end(L0(observable)))(theta)) / 2
    integrand = integrand + (at_end(L0(L0(L0(observable))))(theta) - third_moment(u, theta)) / 6
    return float(simpson(integrand.cpu().numpy(), dx=time / NODES))


def _along(function: Callable[[Tensor], Tensor], theta: Tensor, direction: Tensor) -> Tensor:
    """Derivative of function at theta along a direction, for any leading dimensions."""
    return torch.func.jvp(function, (theta.contiguous(),), (direction.contiguous(),))[1]
