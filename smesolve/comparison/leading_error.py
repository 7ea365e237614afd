"""Leading term of the weak error, without Monte Carlo.

With thetabar the flow of b = -grad L_S and u_t(theta) = g(flow of theta over T - t), the local errors of one step of
length lr add up along thetabar (Milstein 1986; Li, Tai, E 2019, section 4):

    E g(Theta_T) - E g(theta_{T/lr}) = c lr^order + O(lr^(order+1)),      c = int_0^T (D u_t)(thetabar(t)) dt.

Order 1: the equation lacks the drift lr b1 = -lr/2 (Db) b, so D u = 1/2 grad u . (Db) b: one adjoint path.

Order 2: D u is the lr^3 term of the one-step expectations. With L0 = b . grad, L1 = b1 . grad + 1/2 C C^T : Hess (the
generator of the equation is L0 + lr L1) and the step -lr g(theta; eta) of the iteration,

    D u = 1/2 (L0 L1 + L1 L0) u + 1/6 L0^3 u - 1/6 E_eta u'''[-g, -g, -g].

L0 commutes with the flow, L0 (g o flow) = (L0 g) o flow. The expectation over the masks is by enumeration; it holds
the third cumulant of the mask noise, which no Brownian motion has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from scipy.integrate import simpson
from torch import Tensor

from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.comparison.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Process

__all__ = ["first_constant", "leading_constants", "second_constant"]

SECOND_ORDER_DIM, SECOND_ORDER_DRAWS = 64, 1024
"""Largest D and number of draws for which the constant of order 2 is computed: it takes third derivatives of flows."""

NODES = 10
"""Intervals of Simpson's rule for the constant of order 2, each of `SUBSTEPS` Runge-Kutta steps."""

SUBSTEPS = 2


class _Flow(Process):
    """The gradient flow of L_S under the classical Runge-Kutta scheme: a process without noise."""

    def __init__(self, problem: Problem, step: float) -> None:
        self.problem, self.step = problem, step
        self.autonomous = True

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        h = self.step
        k1 = -self.problem.mean_gradient(theta)
        k2 = -self.problem.mean_gradient(theta + h / 2 * k1)
        k3 = -self.problem.mean_gradient(theta + h / 2 * k2)
        k4 = -self.problem.mean_gradient(theta + h * k3)
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
        Columns order, time, observable, constant; no rows where the problem is not `exact` or has schedules. Cost:
        a few hundred gradients of one path for order 1; for order 2 (D <= 64, at most 1024 draws) some seconds each.
    """
    rows = []
    for name, observable in observables.items() if problem.exact and problem.autonomous else ():
        for time in times if 1 in orders else ():
            rows.append((1, time, name, first_constant(problem, theta0, time, observable, step)))
        if 2 in orders and _affordable(problem):
            rows.append((2, times[-1], name, second_constant(problem, theta0, times[-1], observable)))
    return pd.DataFrame(rows, columns=["order", "time", "observable", "constant"])


def _affordable(problem: Problem) -> bool:
    return problem.draw_count <= SECOND_ORDER_DRAWS and problem.dim <= SECOND_ORDER_DIM


def first_constant(problem: Problem, theta0: Tensor, time: float, observable: Observable, step: float) -> float:
    """c of order 1: 1/2 int lam(t) . (Db b)(thetabar(t)) dt, lam the adjoint along the flow, by Simpson's rule."""
    steps = 2 * max(8, round(time / step / 2))
    path = NoiseFreePath.of(_Flow(problem, time / steps), theta0, [steps], {"g": observable})
    drift = -problem.mean_gradient(path.states)
    bend = -problem.hessian_product(path.states, drift)
    adjoints = torch.stack([adjoint[0, 0] for adjoint in path.adjoints])
    integrand = 0.5 * (adjoints * bend).sum(-1)
    return float(simpson(integrand.cpu().numpy(), dx=time / steps))


def second_constant(problem: Problem, theta0: Tensor, time: float, observable: Observable) -> float:
    """c of order 2, by Simpson's rule; each integrand is made of third derivatives of the flow to the last time."""
    draws, weights = problem.all_draws()
    flow = _Flow(problem, time / (NODES * SUBSTEPS))

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
