"""The gradient flow of the modified loss: units of time and of change for the comparison of different problems."""

from __future__ import annotations

import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.solver.ode import rk4_step
from smesolve.validation import check_callable, check_parameters, check_positive, check_problem

__all__ = ["flow_change", "relaxation_time"]

FLOW_STEP = 0.02
"""Step of the flow in relaxation times; the error of the classical Runge-Kutta scheme is then about 1e-9."""


@entry_point
def relaxation_time(problem: Problem, theta0: Tensor) -> float:
    """Return 1/lambda_max(Hess L_S(theta0)), the shortest time scale of the gradient flow.

    Raises:
        SmesolveError: the Hessian has no positive eigenvalue.
    """
    problem = check_problem("problem", problem)
    time = problem.stability_limit(check_parameters("theta0", theta0, problem)) / 2
    if time == float("inf"):
        raise SmesolveError("the Hessian of L_S at theta0 has no positive eigenvalue; take another start.")
    return time


@entry_point
@torch.no_grad()
def flow_change(problem: Problem, theta0: Tensor, horizon: float, observable: Observable) -> float:
    """Return |g(flow over `horizon`) - g(theta0)| along dtheta/dt = -grad L_S.

    The flow has no noise, so this yardstick has no interval.

    Raises:
        SmesolveError: the problem follows a schedule, or the Hessian at theta0 has no positive eigenvalue.

    Cost: four mean gradients per step of `FLOW_STEP` relaxation times.
    """
    problem = check_problem("problem", problem)
    if not problem.autonomous:
        raise SmesolveError(
            f"problem must not depend on time for a flow, got a {type(problem).__name__}; take the problem without its "
            "schedule."
        )
    theta0, horizon = check_parameters("theta0", theta0, problem), check_positive("horizon", horizon)
    check_callable("observable", observable)
    steps = max(1, round(horizon / relaxation_time(problem, theta0) / FLOW_STEP))
    h, theta = horizon / steps, theta0
    for _ in range(steps):
        theta = rk4_step(lambda at: -problem.mean_gradient(at), theta, h)
    return float((observable(theta) - observable(theta0)).abs())
