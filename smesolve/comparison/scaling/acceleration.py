"""The equation as an accelerator: for small lr, steps dt = c lr of the SDE in place of c steps of the iteration.

A path of the equation has T/(c lr) steps of several gradients each, a path of the iteration T/lr of one. So the
equation is cheaper from c = gradients a step on, provided that its error, weak error and scheme's bias together, is
acceptable. Both take about as many paths, as their observables have about the same variance.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from smesolve.arguments import checked
from smesolve.comparison.cost import step_cost
from smesolve.comparison.observables import Observable, named_observables
from smesolve.comparison.scaling.gradient_flow import flow_change
from smesolve.comparison.scaling.sampling_effort import EFFORT, SamplingEffort
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Process, without_divergence_warnings
from smesolve.sampling.progress import hidden
from smesolve.solver.integration import check_scheme, integration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.time_grid import grid_steps

__all__ = ["Acceleration", "acceleration", "gradients_per_step"]


@dataclass(frozen=True)
class Acceleration:
    """Error and cost of the equation with large steps, beside the iteration."""

    table: pd.DataFrame
    """A row for each order and factor c: dt, `relative` error (weak error and bias together) with `relative_low`,
    `relative_high`, `gradients` a path and `gradient_speedup` (gradients of the iteration over these), `seconds` a path
    and `speedup`, and the same of the iteration as `iteration_gradients`, `iteration_seconds`."""

    def break_even(self, tolerances: Sequence[float]) -> pd.DataFrame:
        """A row for each order and tolerance: the largest factor whose error is inside the tolerance with its whole
        interval, its speedups, and `factor_even`, `factor_even_seconds`, from which on the equation is cheaper."""
        rows = []
        for order, group in self.table.groupby("order"):
            bound = group[["relative_low", "relative_high"]].abs().max(axis=1)
            even = {
                "factor_even": float((group.factor / group.gradient_speedup).median()),
                "factor_even_seconds": float((group.factor / group.speedup).median()),
            }
            for tolerance in tolerances:
                inside = group[bound <= tolerance]
                best = inside.loc[inside.factor.idxmax()] if len(inside) else None
                found = {
                    name: np.nan if best is None else best[name] for name in ("factor", "gradient_speedup", "speedup")
                }
                rows.append({"order": order, "tolerance": tolerance} | found | even)
        return pd.DataFrame(rows)


@checked
def gradients_per_step(scheme: str, order: int) -> float:
    """Gradients, about, that one step of a scheme costs."""
    check_scheme(None, scheme)
    return step_cost(order, scheme)


@checked
def acceleration(
    problem: Problem,
    theta0: Tensor,
    lr: float,
    horizon: float,
    factors: Sequence[int],
    orders: Sequence[int] = (1, 2),
    observable: str | Observable = "loss",
    scheme: str = "small_noise_rk4",
    effort: SamplingEffort = EFFORT,
) -> Acceleration:
    """Measure error and cost of the equation with steps of c lr.

    Args:
        problem: what is trained.
        theta0: (D,), the start.
        lr: small learning rate of the iteration.
        horizon: last time.
        factors: c; c lr divides the horizon. Those at which paths diverge have no error.
        orders: of the equation.
        observable: whose expectation is wanted.
        scheme: of the equation.
        effort: paths, tolerance, seed, progress bars and processes.

    Raises:
        SmesolveError: bad arguments.
    """
    (name,) = named_observables(problem, [observable])
    change = flow_change(problem, theta0, horizon, named_observables(problem, [observable])[name])
    steps = grid_steps(horizon, lr, "horizon", "lr")
    base = _seconds_per_step(DropoutIteration(problem, lr, effort.seed), theta0) * steps
    rows = []
    for factor in tqdm(sorted(set(factors)), desc="factors", disable=hidden(effort.progress)):
        with without_divergence_warnings():  # a row without an error says it
            study = effort.weak_error(
                problem, theta0, [lr], [horizon], orders, observable, scheme=scheme, dt=factor * lr
            )
        for row in study.table.itertuples():
            process = integration(ModifiedEquation(problem, lr, row.order), theta0, scheme, factor * lr, effort.seed)
            seconds = _seconds_per_step(process, theta0) * steps / factor
            gradients = gradients_per_step(scheme, row.order) * steps / factor
            low, high = row.error - row.half_width, row.error + row.half_width
            errors = {"relative": row.error, "relative_low": low, "relative_high": high}
            costs = {
                "gradients": gradients,
                "iteration_gradients": steps,
                "gradient_speedup": steps / gradients,
                "seconds": seconds,
                "iteration_seconds": base,
                "speedup": base / seconds,
            }
            head = {"order": row.order, "factor": factor, "dt": factor * lr}
            rows.append(head | {name: value / change for name, value in errors.items()} | costs)
    return Acceleration(pd.DataFrame(rows).sort_values(["order", "factor"], ignore_index=True))


@torch.no_grad()
def _seconds_per_step(process: Process, theta0: Tensor, repeats: int = 7) -> float:
    """Seconds that a step takes for one path of a block: the least of some repetitions of three steps."""
    theta = theta0.expand(process.block_size, -1).contiguous()
    number, times = count(), []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(3):
            process.advance(theta, 0, next(number))
        times.append((time.perf_counter() - begin) / 3)
    return min(times) / process.block_size
