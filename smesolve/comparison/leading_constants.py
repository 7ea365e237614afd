"""Leading term of the weak error, without Monte Carlo.

With thetabar the flow of b = -grad L_S and u_t(theta) = g(flow of theta over T - t), the local errors of one step of
length lr add up along thetabar (Milstein 1986; Li, Tai, E 2019, section 4):

    E g(Theta_T) - E g(theta_{T/lr}) = c lr^order + O(lr^(order+1)),      c = int_0^T (D u_t)(thetabar(t)) dt.     (1)

Order 1: the equation does not have the drift lr b1 = -lr/2 (d_t b + (Db) b), where d_t b is the slope of a schedule.
One adjoint path gives

    D u = -grad u . b1,                                                                                    (2)

and b1 contains E F2 as well where the step is not that of gradient descent (`smesolve.solver.modified_equation`).

Order 1 where b jumps at kinks of the network: Db is only a part of its derivative, but c is still the constant of the
path without noise. A walk of steps lr X, with E X = mu and Var X = s^2, spends the mean time
L/mu + lr (mu^2 + s^2)/(2 mu^2) below a level at distance L, and the diffusion of the same drift and variance spends
L/mu + lr s^2/(2 mu^2) there (Wald's identity; L >> lr): the walk spends half a step more, as it does without noise.
This holds to first order in the jump, which is 1/n of a gradient where one neuron switches on one sample. So for
Euler's method with steps h,

    c = -d/dh V_0(h) at h = 0,      V_0(h) = g(Theta_T).                                                   (3)

The place of a kink within a step is practically random: V_0(h) scatters by O(h), and the slope is fitted to hundreds of
step sizes, with a standard error.

Order 2: D u is the lr^3 term of the one-step expectations. With xi the mask noise of the gradient, Sigma its covariance
and kappa3 its third cumulant, which no Brownian motion has,

    D u = [ 1/4 D^2 b : Sigma - 1/12 D^2 b[b, b] - 1/3 (Db)(Db) b ] . grad u                               (4)
          + [ 1/4 (b . grad) Sigma + 1/2 sym(Db Sigma) ] : Hess u                                          (5)
          + 1/6 kappa3 : D^3 u.                                                                            (6)

Expectations over the masks are computed by enumeration.

"poisson", training steps at random times: at time T such a path has taken N steps of the iteration, where N has a
Poisson law of mean T/lr, so that E g(Theta_T) = E m(lr N) with m(k lr) = E g(theta_k) = g(thetabar(k lr)) + O(lr). As
lr N has the mean T and the variance lr T,

    c = T/2 (d/dT)^2 g(thetabar(T)),                                                                       (7)
    (d/dT)^2 g(thetabar(T)) = D^2 g [b, b] + D g [(Db) b]    at thetabar(T).                               (8)

Integrals are adaptive, and each has a numerical error (`value_function`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.comparison.differences import first_difference, second_difference
from smesolve.comparison.value_function import BATCH_FLOATS, NESTED_ARRAYS, along, along_flow
from smesolve.entry_point import plain_surroundings
from smesolve.problem.kinks import kinks
from smesolve.problem.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.sampling.progress import Progress
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.ode import solve_ode
from smesolve.solver.orders import Order

__all__ = [
    "constants_floats",
    "constants_table",
    "constants_work",
    "draws_are_masks",
    "first_constants",
    "leading_constants",
    "poisson_constants",
    "second_constants",
]

MAX_DIM, MAX_DRAWS = 64, 1024
"""Largest D and number of draws for which the constant of order 2 is computed, as it needs third derivatives of
flows."""

STATE_FLOATS = 2**18
"""Largest number of third derivatives that are integrated at once."""

INTEGRATOR_ARRAYS = 52
"""Number of arrays of derivatives that the integration holds at once: stages, changes, and their parts."""

STEP_SIZES, FEWEST_STEPS = 256, 50
"""Number of step sizes to which the constant of a network with kinks is fitted, and steps of the largest of them; the
smallest takes eight times as many."""

STABLE_SHARE = 1 / 8
"""Share of the stability limit 2/lambda_max below which V_0(h) is a parabola in h."""

FIRST_WORK, SECOND_WORK = 3e3, 1e6
"""Work at one time of the constants of order 1, and of those of order 2, in gradients, about."""

FLOW_TOLERANCE = 1e-11
"""Relative tolerance of the flow behind the constant of "poisson", in float64."""

COLUMNS = ["order", "time", "observable", "constant", "stderr"]
TYPES = {"time": float, "constant": float, "stderr": float}


@plain_surroundings()
@torch.no_grad()
def leading_constants(
    problem: Problem,
    theta0: Tensor,
    times: Sequence[float],
    observables: Mapping[str, Observable],
    step: float,
    orders: Sequence[Order],
    stability_limit: float | None = None,
) -> pd.DataFrame:
    """Compute leading constants (1): of order 1 at every time, of order 2 at the last one where it is affordable.

    Args:
        problem: what is trained.
        theta0: (D,), the start.
        times: times of observation, increasing.
        observables: g by name, smooth.
        step: largest step of Euler's method for a network with kinks.
        orders: 1, 2 and/or "poisson"; other orders have no known constant.
        stability_limit: 2/lambda_max(Hess L_S(theta0)). Default: computed where the network has kinks.

    Returns:
        Columns order, time, observable, constant, stderr (the standard error of the fit for networks with kinks, else
        the numerical error). There are no rows where the mean gradient has no closed form, or no observable
        has a derivative.

    Cost: a few hundred gradients of one path for order 1, of 256 paths where the network has kinks; some seconds for
    order 2 (D <= 64, at most 1024 draws, the step of gradient descent, neither schedules nor kinks).
    """
    rows: list[tuple[Order, float, str, float, float]] = []
    if not problem.has_closed_form or not observables:
        return constants_table(rows)
    with Progress(False, constants_work(problem, times, orders)) as bar:
        for time in times if 1 in orders else ():
            with bar.part(FIRST_WORK):
                for name, value in first_constants(problem, theta0, time, observables, step, stability_limit).items():
                    rows.append((1, time, name, *value))
        if 2 in orders and _affordable(problem) and not kinks(problem, theta0):
            with bar.part(SECOND_WORK):
                for name, value in second_constants(problem, theta0, times[-1], observables).items():
                    rows.append((2, times[-1], name, *value))
        if "poisson" in orders and not kinks(problem, theta0):
            for time in times:
                with bar.part(FIRST_WORK):
                    for name, value in poisson_constants(problem, theta0, time, observables).items():
                        rows.append(("poisson", time, name, *value))
    return constants_table(rows)


def constants_work(problem: Problem, times: Sequence[float], orders: Sequence[Order]) -> float:
    """Return the work of `leading_constants` for the progress bar: the gradients of whole blocks that take as long."""
    if not problem.has_closed_form:
        return 0.0
    first = FIRST_WORK * len(times) * ((1 in orders) + ("poisson" in orders))
    return first + (SECOND_WORK if 2 in orders and _affordable(problem) else 0.0)


def constants_table(rows: Sequence[tuple[Order, float, str, float, float]] = ()) -> pd.DataFrame:
    """Return the rows as a table, whose columns have their types even without rows. Default: no rows."""
    return pd.DataFrame(list(rows), columns=COLUMNS).astype(TYPES)


def _affordable(problem: Problem) -> bool:
    plain = problem.autonomous and problem.conservative and problem.linear_step
    return plain and problem.draw_count <= MAX_DRAWS and problem.dim <= MAX_DIM and draws_are_masks(problem)


def draws_are_masks(problem: Problem) -> bool:
    """Return whether a draw is one tensor of masks.

    Draws of modules have several parts, and third derivatives of their gradients take some hundred times as long.
    """
    return isinstance(problem.sample(1, seed=0), Tensor)


def constants_floats(problem: Problem, orders: Sequence[Order], observables: int) -> float:
    """Return the largest number of floats in the arrays of `leading_constants`, for smooth networks."""
    if not problem.has_closed_form:
        return 0.0
    dim, at_once = problem.dim, min(observables, _observables_at_once(problem.dim))
    floats = 0.0
    if 1 in orders:
        floats = INTEGRATOR_ARRAYS * observables * dim
    if 2 in orders and _affordable(problem):
        pairs = dim * (dim + 1) / 2
        batch = min(at_once * pairs * problem.floats_per_path, BATCH_FLOATS)
        floats = max(floats, INTEGRATOR_ARRAYS * at_once * dim**3 + NESTED_ARRAYS * batch)
    return floats


def first_constants(
    problem: Problem,
    theta0: Tensor,
    time: float,
    observables: Mapping[str, Observable],
    step: float,
    stability_limit: float | None = None,
) -> dict[str, tuple[float, float]]:
    """Return c of order 1 and its standard error for each observable; see `leading_constants` for the arguments.

    Without kinks the error is a numerical error. The result is empty where the network has kinks and the problem
    follows a schedule, or its step is not that of gradient descent.
    """
    if not kinks(problem, theta0):
        return _from_adjoints(problem, theta0, time, observables)
    if not (problem.autonomous and problem.linear_step):
        return {}
    limit = problem.stability_limit(theta0) if stability_limit is None else stability_limit
    return _from_step_sizes(problem, theta0, time, observables, min(step, STABLE_SHARE * limit))


def _from_adjoints(
    problem: Problem, theta0: Tensor, time: float, observables: Mapping[str, Observable]
) -> dict[str, tuple[float, float]]:
    """Integrate (2) along the flow."""
    equation = ModifiedEquation(problem, lr=1.0, order=2)  # its correction is b1

    def density(t: float, left_limit: bool, theta: Tensor, derivatives: list[Tensor], tensors: list[Tensor]) -> Tensor:
        return -derivatives[0] @ equation.correction(t, theta[None], left_limit)[0]  # (2)

    return along_flow(problem, theta0, time, observables, 1, density)


def _from_step_sizes(
    problem: Problem, theta0: Tensor, time: float, observables: Mapping[str, Observable], largest: float
) -> dict[str, tuple[float, float]]:
    """Fit the slope (3) of V_0(h), with its h^2, over step sizes up to `largest`."""
    fewest = max(FEWEST_STEPS, math.ceil(time / largest))
    counts = np.unique(np.geomspace(fewest, 8 * fewest, STEP_SIZES).round().astype(int))[::-1].copy()
    ends = torch.cat(
        [
            _euler(problem, theta0, time, part)
            for part in torch.split(torch.tensor(counts, device="cpu"), problem.block_size)
        ]
    )
    found = {}
    for name, observable in observables.items():
        values = observable(ends).cpu().numpy()
        fit, covariance = np.polyfit(time / counts, values, 2, w=counts, cov=True)
        found[name] = (-float(fit[1]), float(covariance[1, 1] ** 0.5))  # (3)
    return found


def _euler(problem: Problem, theta0: Tensor, time: float, counts: Tensor) -> Tensor:
    """Return ends (K, D) of the gradient flow of L_S by Euler's method with counts[k] equal steps, counts
    decreasing."""
    h = (time / counts).to(theta0)[:, None]
    theta = theta0.expand(len(counts), -1).clone()
    for step in range(int(counts[0])):
        moving = int((counts > step).sum())
        theta[:moving] -= h[:moving] * problem.mean_gradient(theta[:moving])
    return theta


def second_constants(
    problem: Problem, theta0: Tensor, time: float, observables: Mapping[str, Observable]
) -> dict[str, tuple[float, float]]:
    """Return c of order 2 and its numerical error for each observable."""
    draws, weights = problem.all_draws()
    weights = weights.to(theta0)

    def density(t: float, left_limit: bool, theta: Tensor, derivatives: list[Tensor], tensors: list[Tensor]) -> Tensor:
        (lam, Lam, U), (hessian, third) = derivatives, tensors  # hessian: -Db, third: -D^2 b
        mean = problem.mean_gradient(theta)
        Sigma, Sigma_change, kappa_U = torch.zeros_like(hessian), torch.zeros_like(hessian), lam.new_zeros(len(lam))
        batch = max(1, BATCH_FLOATS // max(problem.floats_per_path, Lam.numel()))
        for some, share in zip(draws.split(batch), weights.split(batch), strict=True):

            def noise(at: Tensor, some: Tensor = some) -> Tensor:
                return problem.gradient(at, some) - problem.mean_gradient(at)

            repeated = theta.expand(len(share), -1)
            xi, change = noise(repeated), along(noise, repeated, -mean.expand_as(repeated))
            Sigma += (share[:, None] * xi).mT @ xi
            Sigma_change += (share[:, None] * change).mT @ xi  # (b . grad) Sigma is twice its symmetric part
            U_xi = torch.einsum("gijl,kl->gkij", U, xi)
            kappa_U += torch.einsum("k,gkij,ki,kj->g", share, U_xi, xi, xi)
        drift = third @ mean @ mean / 12 + hessian @ (hessian @ mean) / 3
        drift = drift - torch.einsum("kij,ij->k", third, Sigma) / 4  # (4), D^2 b = -D^3 L_S
        curvature = torch.einsum("gij,ij->g", Lam, Sigma_change - hessian @ Sigma) / 2  # (5)
        return lam @ drift + curvature + kappa_U / 6  # with (6)

    found: dict[str, tuple[float, float]] = {}
    names, count = list(observables), _observables_at_once(problem.dim)
    for begin in range(0, len(names), count):
        some = {name: observables[name] for name in names[begin : begin + count]}
        found |= along_flow(problem, theta0, time, some, 3, density)
    return found


def _observables_at_once(dim: int) -> int:
    """Return the number of observables whose third derivatives are integrated at once."""
    return max(1, STATE_FLOATS // dim**3)


def poisson_constants(
    problem: Problem, theta0: Tensor, time: float, observables: Mapping[str, Observable]
) -> dict[str, tuple[float, float]]:
    """Return c of "poisson" (7) and its numerical error for each observable. Cost: the flow, some hundred gradients."""
    tolerance = max(FLOW_TOLERANCE, torch.finfo(theta0.dtype).eps)
    path = solve_ode(lambda t, y: -problem.mean_gradient(y[None])[0], theta0, (0.0, time), tolerance, times=[time])
    theta = theta0.new_tensor(path.y.T)
    b = -problem.mean_gradient(theta)
    change = -problem.hessian_product(theta, b)  # (Db) b
    found = {}
    for name, observable in observables.items():

        def g(at: Tensor, observable: Observable = observable) -> Tensor:
            return observable(at)[:, None]

        second, first = second_difference(g, theta, b, b), first_difference(g, theta, change)  # (8)
        rounding = torch.finfo(theta.dtype).eps ** 0.5 * (float(second.abs()) + float(g(theta).abs()) + 1e-12)
        found[name] = (time / 2 * float(second + first), time / 2 * rounding)  # (7)
    return found
