"""Implicit regularisation: which deterministic flow, or which SDE, stands for dropout, and to which order.

Zhang, Xu (TPAMI 2024, arXiv 2207.05952) describe dropout by the flow of R_S + R_1 + R_2 with

    R_1 = E R_S(.; eta) - R_S = L_S - R_S = v/(2n) sum_ik |z_ik|^2
    R_2 = lr/4 E |grad R_S(.; eta)|^2 = lr/4 (|grad L_S|^2 + tr Sigma),

v the variance of the masks and Sigma the covariance of the gradient. The SME of order 2 has lr/4 |grad L_S|^2 in its
drift and no tr Sigma, but it has the noise. No flow is of order 2 for every observable: E g feels the spread of the
paths, lr/2 times an integral over time of tr(Hess u Sigma), u the value function: g at the end of the flow that starts
here. For the mean E theta of a linear model that term is absent, and there the flow without tr Sigma is of order 2
while the flow of R_S + R_1 + R_2 is of order 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from smesolve.arguments import POINTS, checked
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.observables import named_observables
from smesolve.comparison.order_fit import fit_orders
from smesolve.comparison.outcomes import Status
from smesolve.comparison.weak_error import weak_error
from smesolve.comparison.weak_error_study import with_normal_errors
from smesolve.errors import SmesolveError
from smesolve.landscape.operators import check_linear_noise
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.kinks import kinks
from smesolve.problem.problem import Problem
from smesolve.solver.time_grid import grid_steps

__all__ = [
    "FLOWS",
    "RegularisationStudy",
    "covariance_trace",
    "exact_regularisation_orders",
    "first_penalty",
    "flow",
    "regularisation_orders",
    "second_penalty",
]

TOLERANCE, KINKED_TOLERANCE = 1e-11, 1e-6
"""Of the flows, relative; the second one where the network has kinks, along which a flow may slide: that stops a solver
of higher order or smaller tolerance."""

COLUMNS = 64
"""Columns of the noise factor that are held together."""

FLOWS = {
    "flow of R_S": (0, 0, 0),
    "flow of R_S + R_1": (1, 0, 0),
    "flow of R_S + R_1 + R_2": (1, 1, 1),
    "flow of R_S + R_1 + lr/4 |grad L_S|^2": (1, 1, 0),
}
"""Name -> (R_1, lr/4 |grad L_S|^2, lr/4 tr Sigma), each in or out."""

NOMINAL = {"flow of R_S": 0, "SME order 2": 2}
"""Weak orders that theory gives for a general observable; 1 for all others."""


@dataclass(frozen=True)
class RegularisationStudy:
    """Errors of flows and SMEs against dropout."""

    table: pd.DataFrame
    """model, lr, observable, value, dropout, error, stderr, low, high, resolved, at the horizon."""
    fits: pd.DataFrame
    """model, nominal order, observable, slope with interval, constant, points, p_value, left_out."""


@checked(theta=POINTS)
def first_penalty(problem: Problem, theta: Tensor) -> Tensor:
    """R_1(theta) = L_S - R_S: (...,)."""
    return problem.modified_loss(theta) - problem.loss(theta)


@checked(theta=POINTS)
def covariance_trace(problem: Problem, theta: Tensor) -> Tensor:
    """tr Sigma(theta) = |C|_F^2, exact: (...,). Cost: M noise products, 64 at a time.

    Raises:
        SmesolveError: the noise is not linear in its normals; `traces` and `sampled_traces` estimate.
    """
    check_linear_noise(problem)
    total = theta.new_zeros(theta.shape[:-1])
    for part in _trace_parts(problem):
        total = total + part(theta)  # not in place: R_2 is differentiated
    return total


def covariance_trace_gradient(problem: Problem, theta: Tensor) -> Tensor:
    """grad tr Sigma (D,) at theta (D,), part by part: the graphs of all M noise products are never held together."""
    total = torch.zeros_like(theta)
    for part in _trace_parts(problem):
        total += torch.func.grad(part)(theta)
    return total


def _trace_parts(problem: Problem) -> Iterator[Callable[[Tensor], Tensor]]:
    """theta -> sum of squares of some columns of C; together they are tr Sigma."""
    M = problem.noise_dim
    for first in range(0, M, COLUMNS):
        columns = torch.zeros(min(COLUMNS, M - first), M, dtype=problem.dtype, device=problem.device)
        columns[:, first:].fill_diagonal_(1.0)
        yield partial(_squared_columns, problem, columns)


def _squared_columns(problem: Problem, columns: Tensor, theta: Tensor) -> Tensor:
    return problem.noise_product(theta[..., None, :], columns).square().sum((-2, -1))


@checked(theta=POINTS)
def second_penalty(problem: Problem, theta: Tensor, lr: float) -> Tensor:
    """R_2(theta) = lr/4 (|grad L_S|^2 + tr Sigma), exact: (...,). Cost: see `covariance_trace`."""
    return lr / 4 * (problem.mean_gradient(theta).square().sum(-1) + covariance_trace(problem, theta))


@checked
def flow(problem: Problem, theta0: Tensor, name: str, lr: float, horizon: float) -> Tensor:
    """End (D,) of the gradient flow of a loss in `FLOWS` from theta0 (D,), by an ODE solver at 1e-11, or at
    1e-6 where the network has kinks.

    Cost of a velocity: one gradient; two more for lr/4 |grad L_S|^2; three noise products for each of M with tr Sigma.

    Raises:
        SmesolveError: an unknown name.
        ArithmeticError: the solver did not reach the horizon.
    """
    if name not in FLOWS:
        raise SmesolveError(f"name must be one of {', '.join(FLOWS)}, got {name!r}.")
    first, square, trace = FLOWS[name]
    plain = torch.func.grad(problem.loss)

    def velocity(t: float, y: np.ndarray) -> np.ndarray:
        theta = theta0.new_tensor(y)
        drift = problem.mean_gradient(theta) if first else plain(theta)
        if square:
            drift = drift + lr / 2 * problem.hessian_product(theta, drift)
        if trace:
            drift = drift + lr / 4 * covariance_trace_gradient(problem, theta)
        return -drift.detach().cpu().numpy()

    scale = max(1e-3, float(theta0.abs().max()))
    method, tolerance = ("RK45", KINKED_TOLERANCE) if kinks(problem, theta0) else ("DOP853", TOLERANCE)
    path = solve_ivp(
        velocity, (0.0, horizon), theta0.cpu().numpy(), method=method, rtol=tolerance, atol=tolerance * scale
    )
    if not path.success:
        raise ArithmeticError(f"the {name} did not converge: {path.message}")
    return theta0.new_tensor(path.y[:, -1])


@checked
def regularisation_orders(
    problem: DropoutProblem,
    theta0: Tensor,
    lrs: Sequence[float],
    horizon: float,
    observables: Sequence[str] = ("loss",),
    paths: int = 256,
    rel_tol: float | None = 0.1,
    max_paths: int = 2**14,
    seed: int = 0,
) -> RegularisationStudy:
    """Measured weak orders of the flows and of both SMEs against dropout.

    The means of dropout and the errors of the SMEs are those of `weak_error`, with its control variates and intervals;
    flows have no Monte Carlo error of their own. Arguments as in `weak_error`.
    """
    study = weak_error(
        problem,
        theta0,
        lrs,
        horizon,
        observables=observables,
        paths=paths,
        rel_tol=rel_tol,
        max_paths=max_paths,
        seed=seed,
    )
    final = study.table[np.isclose(study.table.time, horizon)]
    functions = named_observables(problem, observables)
    sdes = final.assign(model=[f"SME order {order}" for order in final.order], value=final.sde)
    rows = [sdes]
    for (lr, observable), group in final.groupby(["lr", "observable"], sort=False):
        mean = group.iloc[0]
        for name in FLOWS:
            end = flow(problem, theta0, name, lr, horizon)
            rows.append(_against(mean, name, float(functions[observable](end)), lr, observable))
    table = pd.concat(rows, ignore_index=True).rename(columns={"discrete": "dropout"})
    kept = ["model", "lr", "observable", "value", "dropout", "error", "stderr", "low", "high", "resolved"]
    return RegularisationStudy(table[kept], _fits(table))


def _against(mean: pd.Series, name: str, value: float, lr: float, observable: str) -> pd.DataFrame:
    """A row like those of `weak_error` for a model without noise."""
    error, half = value - mean.discrete, mean.discrete_half_width + mean.rounding
    return pd.DataFrame(
        [
            {
                "model": name,
                "lr": lr,
                "observable": observable,
                "value": value,
                "discrete": mean.discrete,
                "error": error,
                "stderr": mean.discrete_stderr,
                "half_width": mean.discrete_half_width,
                "solver_bias": 0.0,
                "solver_bias_half_width": 0.0,
                "rounding": mean.rounding,
                "tolerance": 0.0,
                "low": error - half,
                "high": error + half,
                "resolved": bool(abs(error) > half) and Status(mean.reason).has_interval,
            }
        ]
    )


def _fits(table: pd.DataFrame) -> pd.DataFrame:
    fits = []
    for model, rows in table.groupby("model", sort=False):
        fit = fit_orders(with_normal_errors(rows).assign(order=NOMINAL.get(model, 1)))
        fits.append(
            fit.drop(columns=["predicted_constant", "predicted_stderr"])
            .rename(columns={"order": "nominal"})
            .assign(model=model)
        )
    return pd.concat(fits, ignore_index=True)


@checked
def exact_regularisation_orders(
    problem: DropoutProblem, theta0: Tensor, lrs: Sequence[float], horizon: float, observables: Sequence[str]
) -> pd.DataFrame:
    """Errors and local orders without Monte Carlo, for networks with gradients affine in theta (`LinearNetwork`).

    Returns:
        A row for each model, observable and lr: `error`, and the local order `slope` from this lr to the next larger.

    Raises:
        SmesolveError: the gradient is not affine in theta, or D > 24.
    """
    moments = LinearMoments(problem, theta0)
    functions = named_observables(problem, observables)
    rows = []
    for observable, function in functions.items():
        for lr in sorted(lrs, reverse=True):
            dropout = moments.iteration(lr, grid_steps(horizon, lr, "horizon", "lr"), observable)
            errors = {
                f"SME order {order}": moments.equation(lr, order, horizon, observable) - dropout for order in (1, 2)
            }
            for name in FLOWS:
                errors[name] = float(function(flow(problem, theta0, name, lr, horizon))) - dropout
            rows += [
                {"model": model, "observable": observable, "lr": lr, "error": error} for model, error in errors.items()
            ]
    table = pd.DataFrame(rows)
    groups = table.groupby(["model", "observable"], sort=False)
    with np.errstate(divide="ignore", invalid="ignore"):
        table["slope"] = np.log(np.abs(table.error / groups.error.shift())) / np.log(table.lr / groups.lr.shift())
    return table
