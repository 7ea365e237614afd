"""Leading term of the weak error of training steps at random times, without Monte Carlo.

At time T such a path has taken N steps of the iteration, where N has a Poisson law of mean T/lr, so that

    E g(Theta_T) = E m(lr N),      m(k lr) = E g(theta_k) = g(thetabar(k lr)) + O(lr),                    (1)

with thetabar the flow of b. As lr N has the mean T and the variance lr T,

    E g(Theta_T) - E g(theta_{T/lr}) = c lr + O(lr^2),      c = T/2 (d/dT)^2 g(thetabar(T)),              (2)
    (d/dT)^2 g(thetabar(T)) = D^2 g [b, b] + D g [(Db) b]    at thetabar(T).                              (3)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from smesolve.comparison.differences import first_difference, second_difference
from smesolve.problem.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.solver.ode import solve_ode

__all__ = ["poisson_constants"]

TOLERANCE = 1e-11
"""Relative tolerance of the flow in float64."""


def poisson_constants(
    problem: Problem, theta0: Tensor, time: float, observables: Mapping[str, Observable]
) -> dict[str, tuple[float, float]]:
    """Return c (2) and its numerical error for each observable.

    Args:
        problem: what is trained, with a mean gradient in closed form.
        theta0: (D,), the start.
        time: T.
        observables: g by name, smooth.

    Cost: the flow, some hundred gradients of one path.
    """
    tolerance = max(TOLERANCE, torch.finfo(theta0.dtype).eps)
    path = solve_ode(lambda t, y: -problem.mean_gradient(y[None])[0], theta0, (0.0, time), tolerance, times=[time])
    theta = theta0.new_tensor(path.y.T)
    b = -problem.mean_gradient(theta)
    change = -problem.hessian_product(theta, b)  # (Db) b
    found = {}
    for name, observable in observables.items():

        def g(at: Tensor, observable: Observable = observable) -> Tensor:
            return observable(at)[:, None]

        second, first = second_difference(g, theta, b, b), first_difference(g, theta, change)  # (3)
        rounding = torch.finfo(theta.dtype).eps ** 0.5 * (float(second.abs()) + float(g(theta).abs()) + 1e-12)
        found[name] = (time / 2 * float(second + first), time / 2 * rounding)  # (2)
    return found
