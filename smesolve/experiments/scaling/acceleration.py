"""The equation as an accelerator: at small lr, one step dt = c lr of the SDE replaces c steps of the iteration.

A path of the equation has T/(c lr) steps of several gradients each, a path of the iteration T/lr steps of one gradient.
The equation is therefore cheaper if c exceeds its number of gradients per step, provided that its error, the sum of
weak error and bias of the scheme, is acceptable. Both need about the same number of paths, because their observables
have about the same variance.

This requires mean gradient and noise in closed form. If they are known only by sampling, as for Adam, a step combines
gradients with weights a_r (`smesolve.solver.schemes.gradient_scheme`), and the conditions on mean and covariance

    sum_r a_r = 1,    sum_r a_r^2 = lr / dt = 1/c                                                             (1)

require at least c gradients, by the Cauchy-Schwarz inequality: as many as c steps of the iteration.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.comparison.cost import step_cost
from smesolve.comparison.gradient_flow import flow_change
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.cells import Cell, run_cells
from smesolve.experiments.shared.error_curves import curve
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.sampling_effort import EFFORT, SamplingEffort, SamplingSettings, check_study
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.experiments.shared.settings import TrainingSettings, check_one
from smesolve.figures import ORDERS, PAGE, Figure, drawing, log_ticks
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.observables import Observable, named_observables
from smesolve.problem.problem import Problem
from smesolve.result import Result, sentences
from smesolve.sampling.ensemble import Process, without_divergence_warnings
from smesolve.solver.integration import check_scheme, integration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import check_integer, check_list, check_positive

__all__ = [
    "Acceleration",
    "AccelerationSettings",
    "Accelerator",
    "acceleration",
    "gradients_per_step",
]

CAPTION = (
    "Left: |relative error| of each order against its step dt, in learning rates, with 95% intervals. Right: cost of "
    "the iteration over the cost of the equation against the same step, in gradients (lines) and in seconds (markers); "
    "above the grey line the equation is cheaper."
)

SCHEME = "small_noise_rk4"


@dataclass(frozen=True)
class AccelerationSettings(SamplingSettings):
    """The equation as an accelerator.

    Args:
        training: optimiser, loss and noise.
        keep_prob: probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
        lrs: learning rate of the iteration, in a list.
        horizon: last time T.
        factors: steps of the SDE in learning rates; each step divides the horizon.
        tolerance: largest relative error that counts as acceptable.
        orders: orders of the equation, 1 and/or 2.
        scheme: scheme of the equation. Default: small_noise_rk4.
        observables: the observable, in a list: loss, modified_loss, squared_norm, or a coordinate such as theta[0].
    """

    training: TrainingSettings = field(default_factory=TrainingSettings)
    keep_prob: float = 0.8
    lrs: list[float] = field(default_factory=lambda: [0.05])
    horizon: float = 1.0
    factors: list[int] = field(default_factory=lambda: [2, 4, 10, 20])
    tolerance: float = 0.01
    orders: list[int] = field(default_factory=lambda: [1, 2])
    scheme: str | None = None
    observables: list[str] = field(default_factory=lambda: ["modified_loss"])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one(self, "lrs", "observables")
        for factor in check_list("factors", self.factors, check_integer):
            grid_steps(self.horizon, factor * self.lrs[0], "horizon", f"{factor} lr (factors)")
        check_list("orders", self.orders, check_integer)


TOLERANCES = (1e-2, 1e-3)
"""Relative errors at which a summary states the speedup."""


@dataclass(frozen=True, repr=False)
class Acceleration(Result):
    """Error and cost of the equation with large steps, beside the iteration."""

    table: pd.DataFrame
    """One row per order and factor c: solver_dt; `relative` error (weak error and bias together) with `relative_low`,
    `relative_high`; `gradients` and `seconds` per path of the equation; `iteration_gradients`, `iteration_seconds` per
    path of the iteration; their ratios `gradient_speedup` and `speedup`."""

    def break_even(self, tolerances: Sequence[float]) -> pd.DataFrame:
        """Return one row per order and tolerance.

        Columns: the largest `factor` whose error is within the tolerance with its whole interval, the speedups there,
        and `factor_even`, `factor_even_seconds`, the factors from which on the equation is cheaper.
        """
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

    def summary(self) -> str:
        """Return the conclusions, one sentence per line."""
        return sentences(_conclusion(self.break_even(TOLERANCES)))

    @drawing()
    def plot(self) -> Figure:
        """Draw error and speedup against the step of the equation."""
        figure = Figure(figsize=(PAGE, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for order, part in self.table.groupby("order"):
            style = ORDERS[order]
            curve(left, part.factor, part.assign(resolved=True), style, style.label)
            right.plot(part.factor, part.gradient_speedup, color=style.colour, linestyle=style.line, label=style.label)
            right.plot(
                part.factor, part.speedup, color=style.colour, linestyle="", marker=style.marker,
                label=f"{style.label}, seconds",
            )  # fmt: skip
        right.axhline(1, color="0.5", linewidth=0.6, zorder=0)
        left.set_ylabel("|relative error|")
        right.set_ylabel("iteration's cost / equation's")
        for axis in (left, right):
            log_ticks(axis, self.table.factor)
            axis.set(yscale="log", xlabel=r"step of the equation, dt / $\epsilon$")
            axis.legend(loc="best")
        return figure


def gradients_per_step(scheme: str, order: int) -> float:
    """Return the cost of one step of a scheme, in gradients.

    A Hessian product counts as 4, so that speedups of order 2 in gradients are lower bounds where it takes fewer
    (`smesolve.comparison.cost`); speedups in seconds are measured.
    """
    check_scheme(None, scheme)
    return step_cost(order, scheme)


@entry_point
def acceleration(
    problem: Problem,
    theta0: Tensor,
    lr: float,
    horizon: float,
    factors: Sequence[int],
    orders: Sequence[int] = (1, 2),
    observable: str | Observable = "loss",
    scheme: str = SCHEME,
    effort: SamplingEffort = EFFORT,
) -> Acceleration:
    """Measure error and cost of the equation with steps of c lr.

    Args:
        problem: the problem.
        theta0: start (D,).
        lr: small learning rate of the iteration.
        horizon: last time.
        factors: values of c; each c lr divides the horizon. Factors at which paths diverge have no error.
        orders: orders of the equation.
        observable: the observable whose expectation is compared.
        scheme: scheme of the equation.
        effort: paths, tolerance, seed, progress bar and processes.

    Raises:
        SmesolveError: invalid arguments, or a problem without mean gradient and noise in closed form.
    """
    theta0 = check_study(problem, theta0, effort)
    lr, horizon = check_positive("lr", lr), check_positive("horizon", horizon)
    factors, orders = check_list("factors", factors, check_integer), check_list("orders", orders, check_integer)
    cells = _cells(problem, theta0, lr, horizon, factors, orders, observable, scheme, effort)
    return _combined(run_cells(cells, progress=effort.progress))


def _cells(
    problem: Problem,
    theta0: Tensor,
    lr: float,
    horizon: float,
    factors: Sequence[int],
    orders: Sequence[int],
    observable: str | Observable,
    scheme: str,
    effort: SamplingEffort,
) -> list[Cell]:
    """Return a cell that times the iteration, and one cell per factor."""
    if not problem.has_closed_form:  # (1)
        raise SmesolveError(
            f"acceleration needs mean gradient and noise in closed form, which {problem!r} does not have: by "
            "sampling, a step of the equation takes as many gradients as training takes over the same time, so nothing "
            "is gained; take SGD, with or without momentum, on a problem that has them."
        )
    steps = grid_steps(horizon, lr, "horizon", "lr")
    (function,) = named_observables(problem, [observable]).values()
    change = cache(lambda: flow_change(problem, theta0, horizon, function))

    def iteration_seconds() -> float:
        """Return the seconds of one path of the iteration."""
        return _seconds_per_step(DropoutIteration(problem, lr, effort.seed), theta0) * steps

    def rows(factor: int) -> list[dict[str, Any]]:
        """Return error and cost of each order with steps of factor lr."""
        dt, found = factor * lr, []
        with without_divergence_warnings():  # a row without an error shows it
            study = effort.weak_error(problem, theta0, [lr], [horizon], orders, observable, scheme=scheme, dt=dt)
        for row in study.table.itertuples():
            process = integration(ModifiedEquation(problem, lr, row.order), theta0, scheme, dt, effort.seed)
            gradients = gradients_per_step(scheme, row.order) * steps / factor
            error = row.error + row.solver_bias  # the error at this step; the study subtracts the solver bias
            low, high = error - row.half_width, error + row.half_width
            errors = {"relative": error, "relative_low": low, "relative_high": high}
            costs = {
                "gradients": gradients,
                "iteration_gradients": steps,
                "gradient_speedup": steps / gradients,
                "seconds": _seconds_per_step(process, theta0) * steps / factor,
            }
            head = {"order": row.order, "factor": factor, "solver_dt": dt}
            found.append(head | {name: value / change() for name, value in errors.items()} | costs)
        return found

    cells = [Cell("seconds of the iteration", iteration_seconds)]
    for factor in sorted(set(factors)):
        ensembles = effort.ensembles(problem, theta0, lr, [horizon], orders, scheme, factor * lr)
        cells.append(Cell(f"factor {factor}", partial(rows, factor), [ensembles]))
    return cells


def _combined(results: list[Any]) -> Acceleration:
    seconds, *cells = results
    table = pd.DataFrame([row for rows in cells for row in rows])
    table = table.assign(iteration_seconds=seconds, speedup=seconds / table.seconds)
    return Acceleration(table.sort_values(["order", "factor"], ignore_index=True))


@torch.no_grad()
def _seconds_per_step(process: Process, theta0: Tensor, repeats: int = 7) -> float:
    """Return the seconds per path and step: the minimum over repetitions of three steps of a block."""
    theta = theta0.expand(process.block_size, -1).contiguous()
    number, times = count(), []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(3):
            process.advance(theta, 0, next(number))
        times.append((time.perf_counter() - begin) / 3)
    return min(times) / process.block_size


@experiment("scaling", "acceleration")
class Accelerator(NetworkExperiment[AccelerationSettings]):
    """Cost and error of the equation with large steps that replace the iteration."""

    Settings = AccelerationSettings
    title = "Learning-rate scaling: acceleration"
    example = "examples/scaling_acceleration.yaml --out results/scaling_acceleration"

    def cells(self) -> list[Cell]:
        """Return a cell that times the iteration, and one cell per factor."""
        s = self.settings
        scheme, observable = s.scheme or SCHEME, s.observables[0]
        lr, effort = s.lrs[0], s.effort
        return _cells(self.problem, self.theta0, lr, s.horizon, s.factors, s.orders, observable, scheme, effort)

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the section of errors, costs and break-even."""
        result = _combined(results)
        even = result.break_even([self.settings.tolerance, self.settings.tolerance / 10])
        tables = {"table": result.table, "break_even": even}
        figures = {"acceleration": Captioned(result.plot(), CAPTION)}
        text = _report(result, self.settings)
        return [Section("The equation as an accelerator", tables, figures, text, _conclusion(even))]


def _conclusion(even: pd.DataFrame) -> str:
    lines = []
    for row in even.itertuples():
        if np.isfinite(row.factor):
            lines.append(
                f"- Order {row.order}, error at most {row.tolerance:g}: dt = {row.factor:g} lr, where the iteration "
                f"takes {row.gradient_speedup:.3g} times the equation's gradients and {row.speedup:.3g} times its "
                "seconds."
            )
        else:
            lines.append(f"- Order {row.order}, error at most {row.tolerance:g}: not reached at any step.")
    for row in even.drop_duplicates("order").itertuples():
        lines.append(
            f"- Break-even, order {row.order}: the equation costs less than the iteration from dt = "
            f"{row.factor_even:.3g} lr on in gradients, from {row.factor_even_seconds:.3g} lr on in seconds."
        )
    return "\n".join(lines)


def _report(result: Acceleration, settings: AccelerationSettings) -> str:
    return join(
        f"lr = {settings.lrs[0]:g}, T = {settings.horizon:g}. Error: mean under the equation with step dt minus mean "
        "under the iteration, weak error and bias of the scheme together, relative to the change along the gradient "
        "flow. Costs are per path; the number of paths for a given Monte Carlo interval is about the same on both "
        "sides. Seconds depend on the machine.",
        markdown(
            result.table,
            ["order", "factor", "relative", "gradients", "gradient_speedup", "seconds", "speedup"],
            headers={
                "factor": "dt / lr",
                "relative": "relative error",
                "gradient_speedup": "iteration's / these",
                "speedup": "iteration's seconds / these",
            },
        ),
    )
