"""Penalties that represent dropout in a deterministic loss, and the gradient flows of penalised losses.

Zhang, Xu (TPAMI 2024, arXiv 2207.05952) describe dropout by the flow of R_S + R_1 + R_2 with

    R_1 = E R_S(.; eta) - R_S = L_S - R_S = v/(2n) sum_ik |z_ik|^2                                                   (1)
    R_2 = lr/4 E |grad R_S(.; eta)|^2 = lr/4 (|grad L_S|^2 + tr Sigma),    tr Sigma = |C|_F^2                        (2)

where v is the variance of the masks and Sigma = C C^T the covariance of the gradient. The SME of order 2 has
lr/4 |grad L_S|^2 in its drift and no tr Sigma, but it has the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.landscape.operators import check_linear_noise, conservative_problem
from smesolve.problem.kinks import kinks
from smesolve.problem.problem import Problem
from smesolve.solver.ode import solve_ode
from smesolve.validation import check_choice, check_parameters, check_positive

__all__ = ["FLOWS", "covariance_trace", "covariance_trace_gradient", "first_penalty", "flow", "second_penalty"]

TOLERANCE, KINKED_TOLERANCE = 1e-11, 1e-6
"""Relative tolerances of the flows. Where the network has kinks, a flow may slide along them, where a solver of higher
order or smaller tolerance fails."""

COLUMNS = 64
"""Columns of the noise factor that are computed together."""

FLOWS = {
    "flow of R_S": (0, 0, 0),
    "flow of R_S + R_1": (1, 0, 0),
    "flow of R_S + R_1 + R_2": (1, 1, 1),
    "flow of R_S + R_1 + lr/4 |grad L_S|^2": (1, 1, 0),
}
"""Name -> (R_1, lr/4 |grad L_S|^2, lr/4 tr Sigma), each in or out."""


@entry_point
def first_penalty(problem: Problem, theta: Tensor) -> Tensor:
    """Return R_1(theta) of (1), (...,)."""
    theta = check_parameters("theta", theta, problem, None, finite=False)  # which may be part of a graph
    return problem.modified_loss(theta) - problem.loss(theta)


@entry_point
def covariance_trace(problem: Problem, theta: Tensor) -> Tensor:
    """Return tr Sigma(theta) of (2), exactly, (...,). Cost: M noise products, 64 at a time.

    Raises:
        SmesolveError: bad arguments, such as the state of an optimiser, or a noise that is not linear in its normals;
            `sampled_traces` estimates the trace of such a noise.
    """
    theta = check_parameters(
        "theta", theta, conservative_problem(problem), None, finite=False
    )  # which may be part of a graph
    check_linear_noise(problem)
    total = theta.new_zeros(theta.shape[:-1])
    for part in _trace_parts(problem):
        total = total + part(theta)  # not in place: R_2 is differentiated
    return total


@entry_point
def second_penalty(problem: Problem, theta: Tensor, lr: float) -> Tensor:
    """Return R_2(theta) of (2), exactly, (...,). Cost and errors: as `covariance_trace`."""
    theta = check_parameters(
        "theta", theta, conservative_problem(problem), None, finite=False
    )  # which may be part of a graph
    check_positive("lr", lr)
    return lr / 4 * (problem.mean_gradient(theta).square().sum(-1) + covariance_trace(problem, theta))


@entry_point
def flow(problem: Problem, theta0: Tensor, name: str, lr: float, horizon: float) -> Tensor:
    """Integrate the gradient flow of a penalised loss.

    Cost of a velocity: one gradient; two more for lr/4 |grad L_S|^2; three noise products per normal for tr Sigma.

    Args:
        problem: problem that is trained.
        theta0: start (D,).
        name: a name in `FLOWS`.
        lr: learning rate in R_2.
        horizon: time at the end.

    Returns:
        The end (D,), to a relative tolerance of 1e-11, or 1e-6 where the network has kinks.

    Raises:
        SmesolveError: bad arguments, such as a problem that follows a schedule, or the state of an optimiser.
        ArithmeticError: the solver does not reach the horizon.
    """
    if not conservative_problem(problem).autonomous:
        raise SmesolveError(
            f"problem must not depend on time for a flow, got a {type(problem).__name__}; take the problem without its "
            "schedule."
        )
    theta0 = check_parameters("theta0", theta0, problem)
    first, square, trace = FLOWS[check_choice("name", name, FLOWS)]
    check_positive("lr", lr)
    check_positive("horizon", horizon)
    if trace:
        check_linear_noise(problem)
    loss_gradient = torch.func.grad(problem.loss)

    def velocity(t: float, theta: Tensor) -> Tensor:
        drift: Tensor = problem.mean_gradient(theta) if first else loss_gradient(theta)
        if square:
            drift = drift + lr / 2 * problem.hessian_product(theta, drift)  # grad lr/4 |grad L_S|^2
        if trace:
            drift = drift + lr / 4 * covariance_trace_gradient(problem, theta)
        return -drift

    method, tolerance = ("RK45", KINKED_TOLERANCE) if kinks(problem, theta0) else ("DOP853", TOLERANCE)
    path = solve_ode(velocity, theta0, (0.0, horizon), tolerance, method=method, name=name)
    return theta0.new_tensor(path.y[:, -1])


def covariance_trace_gradient(problem: Problem, theta: Tensor) -> Tensor:
    """Return grad tr Sigma (D,), computed in parts, so that memory never holds the graphs of all M noise products."""
    total = torch.zeros_like(theta)
    for part in _trace_parts(problem):
        total += torch.func.grad(part)(theta)
    return total


def _trace_parts(problem: Problem) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield functions of theta: sums of squares of some columns of C, which add up to tr Sigma."""
    M = problem.noise_dim
    for first in range(0, M, COLUMNS):
        columns = torch.zeros(min(COLUMNS, M - first), M, dtype=problem.dtype, device=problem.device)
        columns[:, first:].fill_diagonal_(1.0)
        yield partial(_squared_columns, problem, columns)


def _squared_columns(problem: Problem, columns: Tensor, theta: Tensor) -> Tensor:
    return problem.noise_product(theta[..., None, :], columns).square().sum((-2, -1))
