"""Variances in the stationary state, of problems whose gradient is affine: exact, for iteration and equations.

In the stationary state the mean is right in all equations, and what is compared is the variance that the noise keeps
up, E|theta - theta*|^2.
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
from smesolve.solver.modified_equation import Order
from smesolve.validation import check_list, check_parameters, check_positive

__all__ = ["EQUATIONS", "stationary_variances"]

EQUATIONS: tuple[Order, ...] = (1, 2, "quadratic")


@entry_point
def stationary_variances(problem: Problem, theta0: Tensor, lrs: Sequence[float]) -> pd.DataFrame:
    """Compute E|theta - theta*|^2 in the stationary states of iteration and equations.

    The gradient of the problem is affine.

    theta* is the minimum of L_S, the stationary mean of them all. Learning rates without a stationary state of an
    equation are left out for that equation.

    Returns:
        A row for each lr and equation: `exact` variance of the iteration, `variance` of the equation, `ratio` of both,
        NaN where there is no noise at theta*.
    """
    theta0 = check_parameters("theta0", theta0, problem)
    lrs = check_list("lrs", lrs, check_positive)
    moments = LinearMoments(problem, theta0)
    curvature = hessian(problem.modified_loss, torch.zeros_like(theta0))
    best = -torch.linalg.solve(curvature, problem.mean_gradient(torch.zeros_like(theta0)))

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
