"""Long horizons: growth of the weak error with time, and what is left of it in the stationary state.

Weak order is a statement about a fixed horizon. In the stationary state the mean is right in all equations, and what is
compared is the variance that the noise keeps up, E|theta - theta*|^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from smesolve.arguments import checked
from smesolve.comparison.confidence import student_quantile
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.observables import Observable, named_observables
from smesolve.comparison.scaling.gradient_flow import flow_change
from smesolve.comparison.scaling.readout_problem import readout_problem
from smesolve.comparison.scaling.sampling_effort import EFFORT, SamplingEffort
from smesolve.errors import SmesolveError
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.module_problem import ModuleProblem
from smesolve.problem.one_at_a_time import hessian
from smesolve.problem.problem import Problem
from smesolve.solver.integration import solve
from smesolve.solver.modified_equation import ModifiedEquation, Order
from smesolve.solver.time_grid import grid_numbers, on_grid

__all__ = ["EQUATIONS", "LongHorizon", "long_horizon", "stationary_variances"]

EQUATIONS: tuple[Order, ...] = (1, 2, "quadratic")


@dataclass(frozen=True)
class LongHorizon:
    """Weak errors at many horizons and variances in the stationary state."""

    table: pd.DataFrame
    """A row for each model ("readout", exact; "network", measured), equation and time: `relative` error with interval
    `relative_low`, `relative_high`, and `resolved`."""

    stationary: pd.DataFrame
    """A row for each noise ("dropout", "label noise"), lr and equation: `exact` variance of the iteration, `variance`
    of the equation, `ratio` of both."""

    lr: float

    def worse(self) -> pd.DataFrame:
        """Where order 2 is worse than order 1 in the stationary state, and where the quadratic equation is nearest.

        A row for each noise: the number of learning rates, at how many of them the stationary variance of order 2 is
        farther from the exact one than that of order 1, and at how many that of the quadratic equation is nearest.
        """
        rows = []
        for noise, group in self.stationary.groupby("noise", sort=False):
            off = (group.pivot(index="lr", columns="equation", values="ratio") - 1).abs()
            order_2, nearest = off["2"] > off["1"], off["quadratic"] < off[["1", "2"]].min(axis=1)
            row = {"noise": noise, "lrs": len(off), "order_2_worse": order_2.sum(), "quadratic_nearest": nearest.sum()}
            rows.append(row)
        return pd.DataFrame(rows)

    def nearest(self) -> pd.DataFrame:
        """For each model and time the equation whose |error| is surely the smallest; "" where intervals overlap."""
        half = (self.table.relative_high - self.table.relative_low) / 2
        size = self.table.relative.abs()
        bounds = self.table.assign(least=size - half, most=size + half)
        rows = []
        for (model, time), group in bounds.groupby(["model", "time"], sort=False):
            best = group.loc[group.most.idxmin()]
            sure = (group.least[group.equation != best.equation] > best.most).all()
            orders = group.set_index("equation")
            rows.append(
                {
                    "model": model,
                    "time": time,
                    "nearest": best.equation if sure else "",
                    "order_2_worse": bool(orders.least["2"] > orders.most["1"]),
                }
            )
        return pd.DataFrame(rows)


@checked
def stationary_variances(problem: Problem, theta0: Tensor, lrs: Sequence[float]) -> pd.DataFrame:
    """E|theta - theta*|^2 in the stationary states of iteration and equations; problem with an affine gradient.

    theta* is the minimum of L_S, the stationary mean of them all. Learning rates without a stationary state of an
    equation are left out for that equation.
    """
    moments = LinearMoments(problem, theta0)
    curvature = hessian(problem.modified_loss, torch.zeros_like(theta0))
    best = -torch.linalg.solve(curvature, problem.mean_gradient(torch.zeros_like(theta0)))

    def variance(theta: Tensor) -> Tensor:
        return (theta - best).square().sum(-1)

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
                row = {"lr": lr, "equation": str(equation), "exact": exact, "variance": found, "ratio": found / exact}
                rows.append(row)
    return pd.DataFrame(rows)


@checked
def long_horizon(
    problem: DropoutProblem,
    theta0: Tensor,
    lr: float,
    times: Sequence[float],
    lrs: Sequence[float],
    observable: str | Observable = "modified_loss",
    effort: SamplingEffort = EFFORT,
    quadratic_paths: int = 256,
) -> LongHorizon:
    """Measure errors at many horizons and compute the stationary variances.

    The network's quadratic equation is measured as its difference from order 2 on the same Brownian motion.

    Args:
        problem: what is trained.
        theta0: (D,), the start.
        lr: learning rate of the errors over time; divides all times.
        times: increasing horizons.
        lrs: learning rates of the stationary variances of the readout, in units of its mean-square limit.
        observable: whose expectation is compared.
        effort: paths, tolerance, seed, progress bars and processes.
        quadratic_paths: paths of the network's quadratic equation, whose step costs 60 gradients.

    Raises:
        SmesolveError: bad arguments.
    """
    steps = grid_numbers(times, lr, "times", "lr")
    times = [on_grid(time, lr, "times", "lr") for time in times]
    readout, start = readout_problem(problem, theta0)
    moments = LinearMoments(readout, start)
    (name,) = named_observables(problem, [observable])
    functions = {model: named_observables(one, [observable])[name] for model, one in _models(readout, problem)}
    rows = []
    change = flow_change(readout, start, times[-1], functions["readout"])
    for time, count in zip(times, steps, strict=True):
        discrete = moments.iteration(lr, count, observable)
        for equation in EQUATIONS:
            error = (moments.equation(lr, equation, time, observable) - discrete) / change
            rows.append(("readout", str(equation), time, error, error, error, True))
    change = flow_change(problem, theta0, times[-1], functions["network"])
    study = effort.weak_error(problem, theta0, [lr], times, (1, 2), observable, progress=effort.progress)
    for row in study.table.itertuples():
        errors = (value / change for value in (row.error, row.low, row.high))
        rows.append(("network", str(row.order), row.time, *errors, row.resolved))
    ends = [
        solve(
            ModifiedEquation(problem, lr, order),
            theta0,
            [0, *times],
            dt=lr,
            paths=quadratic_paths,
            seed=effort.seed,
            workers=effort.workers,
        )[1:]
        for order in (2, "quadratic")
    ]
    gap = functions["network"](ends[1]) - functions["network"](ends[0])
    for row, mean, spread in zip(
        study.table[study.table.order == 2].itertuples(), gap.mean(-1).tolist(), gap.std(-1).tolist(), strict=True
    ):
        more = float(student_quantile(quadratic_paths - 1)) * spread / quadratic_paths**0.5
        low, high = row.low + mean - more, row.high + mean + more
        relative = (value / change for value in (row.error + mean, low, high))
        rows.append(("network", "quadratic", row.time, *relative, low > 0 or high < 0))
    columns = ["model", "equation", "time", "relative", "relative_low", "relative_high", "resolved"]

    limit = moments.stability_limit()
    variances = [stationary_variances(readout, start, [share * limit for share in lrs]).assign(noise="dropout")]
    variances.append(_label_noise(problem, theta0, lrs).assign(noise="label noise"))
    return LongHorizon(pd.DataFrame(rows, columns=columns), pd.concat(variances, ignore_index=True), lr)


def _models(readout: DropoutProblem, problem: DropoutProblem) -> tuple[tuple[str, DropoutProblem], ...]:
    return ("readout", readout), ("network", problem)


def _label_noise(problem: DropoutProblem, theta0: Tensor, lrs: Sequence[float]) -> pd.DataFrame:
    """The same readout without dropout and with noise on its labels, which does not depend on theta.

    Nor does its variance depend on the targets: they are zero, so that theta* = 0 and nothing cancels.
    """
    readout, start = readout_problem(problem, theta0)
    linear = torch.nn.Linear(readout.width, readout.out_features, bias=False).to(readout.x)
    noisy = ModuleProblem(linear, readout.x, torch.zeros_like(readout.y), label_noise=1.0)
    limit = LinearMoments(noisy, start).stability_limit()
    return stationary_variances(noisy, start, [share * limit for share in lrs])
