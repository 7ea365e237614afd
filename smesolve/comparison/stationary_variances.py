"""Exact stationary variances of iteration and equations, for problems whose gradient is affine.

All equations have the stationary mean theta* of the iteration. They differ in the stationary variance
E|theta - theta*|^2, which the noise maintains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from smesolve.comparison.exact import LinearMoments
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.one_at_a_time import hessian
from smesolve.problem.problem import Problem
from smesolve.solver.orders import Order
from smesolve.validation import check_list, check_parameters, check_positive

__all__ = ["EQUATIONS", "stationary_variances"]

EQUATIONS: tuple[Order, ...] = (1, 2, "quadratic")
"""Orders of the equations that are compared."""


@entry_point
def stationary_variances(problem: Problem, theta0: Tensor, lrs: Sequence[float]) -> pd.DataFrame:
    """Compute E|theta - theta*|^2 in the stationary states of iteration and equations.

    theta* is the minimum of L_S, which is the stationary mean of the iteration and of all equations. Learning rates at
    which an equation has no stationary state are left out for that equation.

    Args:
        problem: a problem whose gradient is affine in theta.
        theta0: (D,), the start, which matters only in directions without curvature: they stay at theta0.
        lrs: learning rates.

    Returns:
        A row for each lr and equation: `exact`, the variance of the iteration; `variance`, that of the equation; and
        `ratio`, variance / exact, NaN where there is no noise at theta*.

    Raises:
        SmesolveError: the gradient is not affine, D > 24, or a learning rate at which the iteration has no stationary
            state.
    """
    theta0 = check_parameters("theta0", theta0, problem)
    lrs = check_list("lrs", lrs, check_positive)
    moments = LinearMoments(problem, theta0)
    curvature = hessian(problem.modified_loss, torch.zeros_like(theta0))
    if int(torch.linalg.matrix_rank(curvature, hermitian=True)) == problem.dim:
        best = -torch.linalg.solve(curvature, problem.mean_gradient(torch.zeros_like(theta0)))
    else:  # without curvature, parameters stay at their start
        best = theta0 - torch.linalg.pinv(curvature, hermitian=True) @ problem.mean_gradient(theta0)

    def variance(theta: Tensor) -> Tensor:
        squares: Tensor = (theta - best).square().sum(-1)
        return squares

    rounding = torch.finfo(best.dtype).eps * float(best.square().sum())
    rows = []
    for lr in lrs:
        if lr >= moments.stability_limit():
            raise SmesolveError(
                f"lr={lr:g} is beyond the limit {moments.stability_limit():.4g} of the iteration's second "
                "moments; take a smaller lr."
            )
        exact = moments.stationary(lr, None, variance)
        for equation in EQUATIONS:
            if lr < moments.stability_limit(equation):
                found = moments.stationary(lr, equation, variance)
                ratio = found / exact if exact > rounding else math.nan  # without noise at theta* there is no ratio
                row = {"lr": lr, "equation": str(equation), "exact": exact, "variance": found, "ratio": ratio}
                rows.append(row)
    return pd.DataFrame(rows)
