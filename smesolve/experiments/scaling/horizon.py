"""Long horizons: growth of the weak error with time, and errors in the stationary state.

Weak order is a statement about a fixed horizon. In the stationary state all equations have the right mean, and the
variance E|theta - theta*|^2 is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.gradient_flow import flow_change
from smesolve.comparison.readout_problem import readout_problem
from smesolve.comparison.stationary_variances import EQUATIONS, stationary_variances
from smesolve.confidence import student_quantile
from smesolve.entry_point import entry_point
from smesolve.experiments.shared.cells import Cell, run_cells
from smesolve.experiments.shared.error_curves import STYLES, curve
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.problems import check_exact_readout
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.sampling_effort import EFFORT, SamplingEffort, SamplingSettings, check_study
from smesolve.experiments.shared.section import Captioned, ReportedResult, Section, markdown
from smesolve.experiments.shared.settings import check_one
from smesolve.figures import PAGE, Figure, drawing, log_ticks
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.module_problem import ModuleProblem
from smesolve.problem.observables import Observable, named_observables
from smesolve.problem.problem import Problem
from smesolve.solver.integration import solve
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.time_grid import grid_numbers, on_grid
from smesolve.validation import check_integer, check_list, check_positive

__all__ = ["Horizon", "HorizonSettings", "LongHorizon", "long_horizon"]

CAPTION = (
    "Above: |relative error| of each equation against the horizon, for the readout (exact) and the network (measured, "
    "with 95% intervals, hollow if not resolved). Below: stationary variance of each equation over the exact one "
    "of the iteration, against the learning rate; grey: 1, where the equation is exact."
)

QUADRATIC_PATHS = 256
"""Paths of the quadratic equation of the network, which costs 60 gradients per step."""


@dataclass(frozen=True)
class HorizonSettings(SamplingSettings):
    """Long horizons.

    Args:
        keep_prob: probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
        lrs: learning rate of the errors over time, in a list; it divides all times.
        times: horizons.
        multiples: learning rates of the stationary variances, in units of the mean-square limit of the readout's
            iteration.
        observables: the observable, in a list: loss, modified_loss, squared_norm, or a coordinate such as theta[0].
    """

    keep_prob: float = 0.8
    lrs: list[float] = field(default_factory=lambda: [0.05])
    times: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0, 8.0])
    multiples: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.4, 0.8])
    observables: list[str] = field(default_factory=lambda: ["modified_loss"])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one(self, "lrs", "observables")
        check_list("times", self.times, check_positive)
        check_list("multiples", self.multiples, check_positive, distinct=True)


@dataclass(frozen=True, repr=False)
class LongHorizon(ReportedResult):
    """Weak errors at many horizons and variances in the stationary state."""

    table: pd.DataFrame
    """One row per model ("readout", exact; "network", measured), equation and time: `relative` error with interval
    `relative_low`, `relative_high`, and `resolved`."""

    stationary: pd.DataFrame
    """One row per noise ("dropout", "label noise"), lr and equation: `exact` variance of the iteration, `variance` of
    the equation, and their `ratio`."""

    lr: float

    def worse(self) -> pd.DataFrame:
        """Return where order 2 is worse than order 1 in the stationary state, and where the quadratic equation is best.

        One row per noise: `lrs`, the number of learning rates; `order_2_worse`, at how many of them the stationary
        variance of order 2 is farther from the exact one than the variance of order 1; `quadratic_nearest`, at how many
        the variance of the quadratic equation is nearest.
        """
        rows = []
        for noise, group in self.stationary.groupby("noise", sort=False):
            off = (group.pivot(index="lr", columns="equation", values="ratio") - 1).abs()
            order_2, nearest = off["2"] > off["1"], off["quadratic"] < off[["1", "2"]].min(axis=1)
            row = {"noise": noise, "lrs": len(off), "order_2_worse": order_2.sum(), "quadratic_nearest": nearest.sum()}
            rows.append(row)
        return pd.DataFrame(rows)

    def nearest(self) -> pd.DataFrame:
        """Return the equation with the smallest |error|, by model and time; "" if the intervals overlap."""
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

    @drawing()
    def plot(self) -> Figure:
        """Draw errors against the horizon for both models, and stationary variances over the exact one."""
        figure = Figure(figsize=(PAGE, 5.2), layout="constrained")
        axes = figure.subplots(2, 2)
        for axis, model in zip(axes[0], ("readout", "network"), strict=True):
            for equation, part in self.table[self.table.model == model].groupby("equation", sort=False):
                curve(axis, part.time, part, STYLES[equation], STYLES[equation].label)
            axis.set_yscale("log")
            log_ticks(axis, self.table.time)
            axis.set(xlabel="horizon $T$", ylabel="|relative error|")
            axis.set_title(f"{model}, $\\epsilon$ = {self.lr:g}", loc="left")
            axis.legend(loc="best")
        for axis, (noise, group) in zip(axes[1], self.stationary.groupby("noise", sort=False), strict=True):
            for equation, part in group.groupby("equation", sort=False):
                style = STYLES[equation]
                axis.plot(part.lr, part.ratio, label=style.label, **style.line_options)
            axis.axhline(1, color="0.5", linewidth=0.6, zorder=0)
            log_ticks(axis, group.lr)
            axis.set(xlabel=r"learning rate $\epsilon$", ylabel="stationary variance / exact")
            axis.set_title(f"readout, {noise}", loc="left")
            axis.legend(loc="best")
        return figure

    def conclusion(self) -> str:
        """Return the conclusions, as a list in Markdown."""
        lines = [
            f"- Stationary variance, {row.noise}: order 2 is farther from the exact value than order 1 at "
            f"{row.order_2_worse} of {row.lrs} learning rates; the quadratic equation is nearest at "
            f"{row.quadratic_nearest}."
            for row in self.worse().itertuples()
        ]
        for model, rows in self.nearest().groupby("model", sort=False):
            worse = ", ".join(f"{time:g}" for time in rows.time[rows.order_2_worse])
            best = "; ".join(f"T = {row.time:g}: {row.nearest or 'not resolved'}" for row in rows.itertuples())
            lines.append(
                f"- Over time, {model}: order 2 is worse than order 1, beyond the intervals, at "
                f"{f'T = {worse}' if worse else 'no T'}. Nearest equation: {best}."
            )
        return "\n".join(lines)


@entry_point
def long_horizon(
    problem: DropoutProblem,
    theta0: Tensor,
    lr: float,
    times: Sequence[float],
    lrs: Sequence[float],
    observable: str | Observable = "modified_loss",
    effort: SamplingEffort = EFFORT,
    quadratic_paths: int = QUADRATIC_PATHS,
) -> LongHorizon:
    """Measure errors at many horizons and compute the stationary variances.

    The network's quadratic equation is measured as its difference from order 2 on the same Brownian motion.

    Args:
        problem: the problem.
        theta0: start (D,).
        lr: learning rate of the errors over time; divides all times.
        times: increasing horizons.
        lrs: different learning rates of the stationary variances of the readout, in units of its mean-square limit.
        observable: the observable whose expectation is compared.
        effort: paths, tolerance, seed, progress bar and processes.
        quadratic_paths: paths of the quadratic equation of the network, which costs 60 gradients per step.

    Raises:
        SmesolveError: invalid arguments.
    """
    theta0 = check_study(problem, theta0, effort, DropoutProblem)
    lr = check_positive("lr", lr)
    times = check_list("times", times, check_positive)
    lrs = check_list("lrs", lrs, check_positive, distinct=True)
    check_integer("quadratic_paths", quadratic_paths, 2)
    cells = _cells(problem, theta0, lr, times, lrs, observable, effort, quadratic_paths)
    return _combined(run_cells(cells, progress=effort.progress), lr)


def _cells(
    problem: DropoutProblem,
    theta0: Tensor,
    lr: float,
    times: Sequence[float],
    lrs: Sequence[float],
    observable: str | Observable,
    effort: SamplingEffort,
    quadratic_paths: int,
) -> list[Cell]:
    """Return cells for the readout, the network, its quadratic equation, and two stationary variances."""
    counts = grid_numbers(times, lr, "times", "lr")
    times = [on_grid(time, lr, "times", "lr") for time in times]
    readout, start = readout_problem(problem, theta0)
    (name,) = named_observables(problem, [observable])
    of_readout, of_network = (named_observables(one, [observable])[name] for one in (readout, problem))

    def exact() -> list[dict[str, Any]]:
        """Return the errors of the readout in all equations."""
        moments, rows = LinearMoments(readout, start), []
        change = flow_change(readout, start, times[-1], of_readout)
        for time, count in zip(times, counts, strict=True):
            discrete = moments.iteration(lr, count, observable)
            for equation in EQUATIONS:
                error = (moments.equation(lr, equation, time, observable) - discrete) / change
                rows.append({"equation": str(equation), "time": time} | _errors(error, error, error, True))
        return [{"model": "readout"} | row for row in rows]

    def measured() -> dict[str, Any]:
        """Return the errors of orders 1 and 2 of the network, and the change by which they are divided."""
        study = effort.weak_error(problem, theta0, [lr], times, (1, 2), observable)
        rows = [
            {"equation": str(row.order), "time": row.time} | _errors(row.error, row.low, row.high, bool(row.resolved))
            for row in study.table.itertuples()
        ]
        return {"rows": rows, "change": flow_change(problem, theta0, times[-1], of_network)}

    def quadratic() -> list[dict[str, float]]:
        """Return the difference between the quadratic equation and order 2 at each time, on one Brownian motion."""
        options: dict[str, Any] = {"dt": lr, "paths": quadratic_paths, "seed": effort.seed, "workers": effort.workers}
        second, other = (
            of_network(solve(ModifiedEquation(problem, lr, order), theta0, [0, *times], **options)[1:])
            for order in (2, "quadratic")
        )
        gap = other - second
        quantile = float(student_quantile(quadratic_paths - 1))
        return [
            {"mean": mean, "half": quantile * spread / quadratic_paths**0.5}
            for mean, spread in zip(gap.mean(-1).tolist(), gap.std(-1).tolist(), strict=True)
        ]

    def stationary(one: Problem, noise: str) -> pd.DataFrame:
        """Return the stationary variances at shares of the mean-square limit of the iteration."""
        limit = LinearMoments(one, start).stability_limit()
        return stationary_variances(one, start, [share * limit for share in lrs]).assign(noise=noise)

    return [
        Cell("readout", exact),
        Cell("network", measured, [effort.ensembles(problem, theta0, lr, times, (1, 2))]),
        Cell("quadratic equation", quadratic),
        Cell("stationary, dropout", partial(stationary, readout, "dropout")),
        Cell("stationary, label noise", partial(stationary, _with_label_noise(readout), "label noise")),
    ]


def _with_label_noise(readout: DropoutProblem) -> ModuleProblem:
    """Return the readout without dropout and with noise on its labels, which does not depend on theta.

    The variance does not depend on the targets. They are set to zero, so that theta* = 0 and no digits cancel.
    """
    linear = torch.nn.Linear(readout.width, readout.out_features, bias=False).to(readout.x)
    return ModuleProblem(linear, readout.x, torch.zeros_like(readout.y), label_noise=1.0)


def _errors(error: float, low: float, high: float, resolved: bool) -> dict[str, Any]:
    return {"relative": error, "relative_low": low, "relative_high": high, "resolved": resolved}


def _combined(results: list[Any], lr: float) -> LongHorizon:
    """Return the result; the error of the network's quadratic equation is the error of order 2 plus the difference."""
    readout, network, gaps, *stationary = results
    rows, change = list(network["rows"]), network["change"]
    second = [row for row in rows if row["equation"] == "2"]
    for row, gap in zip(second, gaps, strict=True):
        low = row["relative_low"] + gap["mean"] - gap["half"]
        high = row["relative_high"] + gap["mean"] + gap["half"]
        errors = _errors(row["relative"] + gap["mean"], low, high, low > 0 or high < 0)
        rows.append({"equation": "quadratic", "time": row["time"]} | errors)
    measured = [
        {"model": "network"} | row | {key: row[key] / change for key in ("relative", "relative_low", "relative_high")}
        for row in rows
    ]
    return LongHorizon(pd.DataFrame([*readout, *measured]), pd.concat(stationary, ignore_index=True), lr)


@experiment("scaling", "horizon")
class Horizon(NetworkExperiment[HorizonSettings]):
    """Growth of the weak error with the horizon, and stationary variances."""

    Settings = HorizonSettings
    title = "Learning-rate scaling: horizon"
    example = "examples/scaling_horizon.yaml --out results/scaling_horizon"

    def cells(self) -> list[Cell]:
        """Return cells for the errors over time and for the stationary variances."""
        s = self.settings
        check_exact_readout(self.dropout_problem)
        lr, observable = s.lrs[0], s.observables[0]
        return _cells(
            self.dropout_problem, self.theta0, lr, s.times, s.multiples, observable, s.effort, QUADRATIC_PATHS
        )

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the section of the errors over time and of the stationary variances."""
        result = _combined(results, self.settings.lrs[0])
        tables = {"table": result.table, "stationary": result.stationary}
        figures = {"horizon": Captioned(result.plot(), CAPTION)}
        text = _report(result)
        return [Section("Growth of the weak error with the horizon", tables, figures, text, result.conclusion())]


def _report(result: LongHorizon) -> str:
    return join(
        f"lr = {result.lr:g}. Errors relative to the change along the gradient flow over the last horizon; the "
        "readout's are exact. An error whose interval contains 0 is not resolved.",
        markdown(
            result.table,
            ["model", "equation", "time", "relative", "resolved"],
            headers={"time": "T", "relative": "relative error"},
        ),
        "## Stationary variance",
        "E|theta - theta*|^2 of the readout in the stationary state, all exact: the variance of the iteration, and the "
        "ratio of the variance of each equation to it. Label noise: the same readout without dropout, normal "
        "noise on the targets.",
        markdown(
            result.stationary,
            ["noise", "lr", "equation", "exact", "ratio"],
            {"ratio": ".8f"},
            headers={"ratio": "equation / exact"},
        ),
    )
