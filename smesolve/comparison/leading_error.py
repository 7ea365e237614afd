"""Leading term of the weak error, without Monte Carlo.

With thetabar the flow of b = -grad L_S and u_t(theta) = g(flow of theta over T - t), the local errors of one step of
length lr add up along thetabar (Milstein 1986; Li, Tai, E 2019, section 4):

    E g(Theta_T) - E g(theta_{T/lr}) = c lr^order + O(lr^(order+1)),      c = int_0^T (D u_t)(thetabar(t)) dt.

Order 1: the equation lacks the drift lr b1 = -lr/2 (d_t b + (Db) b), d_t b being that of a schedule, so
D u = -grad u . b1: one adjoint path.

Order 1 where b jumps at kinks of the network: Db is not all of its derivative, but c is still that of the path
without noise. A walk of steps lr X, with E X = mu and Var X = s^2, spends below a level at distance L the mean
time L/mu + lr (mu^2 + s^2)/(2 mu^2), and the diffusion of the same drift and variance L/mu + lr s^2/(2 mu^2) (Wald's
identity; L >> lr): the walk half a step more, as without noise. (This is to first order in the jump, which is 1/n of
a gradient where one neuron switches on one sample.) So c is minus the slope at h = 0 of V_0(h) = g(Theta_T) for
Euler's method with steps h. Where in a step a kink is met is as good as random: V_0(h) scatters by O(h), and the
slope is fitted to hundreds of step sizes, with a standard error.

Order 2: D u is the lr^3 term of the one-step expectations. With L0 = b . grad, L1 = b1 . grad + 1/2 C C^T : Hess (the
generator of the equation is L0 + lr L1) and the step -lr g(theta; eta) of the iteration,

    D u = 1/2 (L0 L1 + L1 L0) u + 1/6 L0^3 u - 1/6 E_eta u'''[-g, -g, -g].

L0 commutes with the flow, L0 (g o flow) = (L0 g) o flow. The expectation over the masks is by enumeration; it holds
the third cumulant of the mask noise, which no Brownian motion has.
"""

from __future__ import annotations

import math
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
from smesolve.problem.kinks import kinks
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.problem import Problem
from smesolve.problem.schedule import LeftLimit
from smesolve.solver.modified_equation import ModifiedEquation

__all__ = ["first_constants", "leading_constants", "second_constant"]

SECOND_ORDER_DIM, SECOND_ORDER_DRAWS = 64, 1024
"""Largest D and number of draws for which the constant of order 2 is computed: it takes third derivatives of flows."""

NODES = 10
"""Intervals of Simpson's rule for the constant of order 2, each of `SUBSTEPS` Runge-Kutta steps."""

SUBSTEPS = 2

STEP_SIZES, FEWEST_STEPS = 256, 50
"""Step sizes to which the constant of a network with kinks is fitted, and the steps that the largest of them takes; the
smallest takes eight times as many."""

COLUMNS = ["order", "time", "observable", "constant", "stderr"]


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
        Columns order, time, observable, constant, stderr (0 but for networks with kinks); no rows where the problem
        is not `exact`. Cost: a few hundred gradients of one path for order 1, of 256 paths where the network has
        kinks; for order 2 (D <= 64, at most 1024 draws, neither schedules nor kinks) some seconds each.
    """
    rows: list[tuple[int, float, str, float, float]] = []
    if not problem.exact:
        return pd.DataFrame(rows, columns=COLUMNS)
    for time in times if 1 in orders else ():
        for name, value in first_constants(problem, theta0, time, observables, step).items():
            rows.append((1, time, name, *value))
    if 2 in orders and problem.autonomous and _affordable(problem) and not kinks(problem, theta0):
        for name, observable in observables.items():
            rows.append((2, times[-1], name, second_constant(problem, theta0, times[-1], observable), 0.0))
    return pd.DataFrame(rows, columns=COLUMNS)


def _affordable(problem: Problem) -> bool:
    return problem.draw_count <= SECOND_ORDER_DRAWS and problem.dim <= SECOND_ORDER_DIM


def first_constants(
    problem: Problem, theta0: Tensor, time: float, observables: Mapping[str, Observable], step: float
) -> dict[str, tuple[float, float]]:
    """c of order 1 and its standard error for each observable; the error is 0 where the network has no kinks.

    Nothing where it has kinks and the problem a schedule.
    """
    if not kinks(problem, theta0):
        return _from_adjoints(problem, theta0, time, observables, step)
    return _from_step_sizes(problem, theta0, time, observables, step) if problem.autonomous else {}


def _from_adjoints(
    problem: Problem, theta0: Tensor, time: float, observables: Mapping[str, Observable], step: float
) -> dict[str, tuple[float, float]]:
    """-int lam . b1 dt along the flow, lam its adjoint, by Simpson's rule from break to break."""
    edges = [0.0, *(end for end in problem.breaks if end < time), time]
    pieces = [np.linspace(a, b, 1 + 2 * max(8, round((b - a) / step / 2))) for a, b in pairwise(edges)]
    times = np.concatenate([pieces[0], *(piece[1:] for piece in pieces[1:])]).tolist()
    path = NoiseFreePath.of(_Flow(problem, times), theta0, [len(times) - 1], observables)
    equation: Any = ModifiedEquation(problem, lr=1.0, order=2)  # its correction is b1

    def integrand(t: float, node: int) -> np.ndarray:
        state = path.states[node : node + 1]
        correction = equation.correction(t, state, equation.leading_drift(t, state))[0]
        return -(path.adjoints[node][0] @ correction).cpu().numpy()

    total, first = np.zeros(len(observables)), 0
    for piece in pieces:
        sides = [*piece[:-1].tolist(), LeftLimit(piece[-1])]
        values = [integrand(t, first + node) for node, t in enumerate(sides)]
        total += simpson(values, dx=piece[1] - piece[0], axis=0)
        first += len(piece) - 1
    return {name: (float(constant), 0.0) for name, constant in zip(observables, total, strict=True)}


def _from_step_sizes(
    problem: Problem, theta0: Tensor, time: float, observables: Mapping[str, Observable], step: float
) -> dict[str, tuple[float, float]]:
    """Minus the slope of V_0(h) at h = 0, fitted with its h^2 over step sizes below `step`; V_0(h) scatters like h."""
    fewest = max(FEWEST_STEPS, math.ceil(time / step))
    counts = np.unique(np.geomspace(fewest, 8 * fewest, STEP_SIZES).round().astype(int))[::-1].copy()
    ends = torch.cat(
        [_euler(problem, theta0, time, part) for part in torch.tensor(counts, device="cpu").split(problem.block_size)]
    )
    found = {}
    for name, observable in observables.items():
        values = observable(ends).cpu().numpy()
        fit, covariance = np.polyfit(time / counts, values, 2, w=counts, cov=True)
        found[name] = (-float(fit[1]), float(covariance[1, 1] ** 0.5))
    return found


def _euler(problem: Problem, theta0: Tensor, time: float, counts: Tensor) -> Tensor:
    """Ends (K, D) of the gradient flow of L_S by Euler's method with counts[k] even steps, counts decreasing."""
    h = (time / counts).to(theta0)[:, None]
    theta = theta0.expand(len(counts), -1).clone()
    for step in range(int(counts[0])):
        moving = int((counts > step).sum())
        theta[:moving] -= h[:moving] * problem.mean_gradient(theta[:moving])
    return theta


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
    return forward_derivative(function, theta, direction)[1]
