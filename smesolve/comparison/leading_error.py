"""Leading term of the weak error, without Monte Carlo.

The order-1 equation lacks the drift lr b1 = -lr/2 (Db) b, so to leading order its error at time T is

    E g(Theta_T) - E g(theta_{T/lr}) = lr c_1 + O(lr^2),    c_1 = 1/2 int_0^T lam(t) . (Db b)(thetabar(t)) dt,

with thetabar the flow of b = -grad L_S, and lam the adjoint of g(thetabar(T)) along it (Li, Tai, E 2019, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from scipy.integrate import simpson
from torch import Tensor

from smesolve.comparison.control_variate import NoiseFreePath
from smesolve.comparison.observables import Observable
from smesolve.problem.dropout import DropoutProblem
from smesolve.sampling.ensemble import Process

__all__ = ["leading_constants"]


class _Flow(Process):
    """The gradient flow of L_S under the classical Runge-Kutta scheme: a process without noise."""

    def __init__(self, problem: DropoutProblem, step: float) -> None:
        self.problem, self.step = problem, step

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        h = self.step
        k1 = -self.problem.mean_gradient(theta)
        k2 = -self.problem.mean_gradient(theta + h / 2 * k1)
        k3 = -self.problem.mean_gradient(theta + h / 2 * k2)
        k4 = -self.problem.mean_gradient(theta + h * k3)
        state = theta + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return state, state


def leading_constants(
    problem: DropoutProblem,
    theta0: Tensor,
    times: Sequence[float],
    observables: Mapping[str, Observable],
    step: float,
    orders: Sequence[int],
) -> pd.DataFrame:
    """c_1 for each time and observable, by Simpson's rule on a grid of about `step`.

    Returns:
        Columns order, time, observable, constant; empty unless 1 is among the orders. Cost: a few hundred
        gradients of one path.
    """
    rows = []
    for time in times if 1 in orders else ():
        steps = 2 * max(8, round(time / step / 2))
        flow = _Flow(problem, time / steps)
        path = NoiseFreePath.of(flow, theta0, [steps], observables)
        drift = -problem.mean_gradient(path.states)
        bend = -problem.hessian_product(path.states, drift)
        adjoints = torch.stack([adjoint[0] for adjoint in path.adjoints])
        values = 0.5 * torch.einsum("jod,jd->oj", adjoints, bend)
        for name, integrand in zip(observables, values, strict=True):
            constant = float(simpson(integrand.cpu().numpy(), dx=time / steps))
            rows.append({"order": 1, "time": time, "observable": name, "constant": constant})
    return pd.DataFrame(rows, columns=["order", "time", "observable", "constant"])
