"""Weak order under schedules of the learning rate and of keep_prob."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from smesolve.comparison.exact import ScheduledMoments
from smesolve.comparison.order_fit import CORRECTED_POINTS
from smesolve.comparison.readout_problem import readout_problem
from smesolve.entry_point import entry_point, nearest_name
from smesolve.errors import SmesolveError, shown
from smesolve.experiments.shared.cells import Cell, run_cells
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.problems import check_exact_readout
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.sampling_effort import SamplingEffort, ToleranceSettings, check_study
from smesolve.experiments.shared.schedule_settings import named_schedule
from smesolve.experiments.shared.section import Captioned, ReportedResult, Section, interval, markdown
from smesolve.experiments.shared.settings import check_one, check_string
from smesolve.figures import ORDERS, PAGE, Figure, drawing, log_ticks
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.observables import Observable
from smesolve.problem.schedule import ScheduledProblem, cosine
from smesolve.validation import check_integer, check_list, check_positive

__all__ = ["SCHEDULES", "Schedule", "ScheduleSettings", "Schedules", "schedules"]

CAPTION = (
    "|error| at the horizon against the learning rate, one panel per schedule. Markers with 95% intervals: the "
    "network, measured; thin lines without markers: its readout, exact."
)

NUMBERS: dict[str, Callable[[float], dict[str, float]]] = {
    "constant": lambda horizon: {},
    "step": lambda horizon: {"time": horizon / 2, "factor": 0.3},
    "cosine": lambda horizon: {"last": 0.1},
    "warm_up": lambda horizon: {"duration": horizon / 2, "first": 0.1},
}
"""Horizon -> numbers of the schedules of the learning rate (`named_schedule`)."""


def _scheduled(name: str) -> Callable[[Any, float], ScheduledProblem]:
    return lambda problem, horizon: ScheduledProblem(problem, named_schedule(name, horizon, **NUMBERS[name](horizon)))


SCHEDULES: dict[str, Callable[[Any, float], ScheduledProblem]] = {
    **{name: _scheduled(name) for name in NUMBERS},
    "keep_prob": lambda problem, horizon: ScheduledProblem(
        problem, keep_prob=lambda t: 1 - (1 - problem.law.keep_prob) * cosine(horizon, 0.25)(t)
    ),
}
"""Functions (problem, horizon) -> the problem under the schedule. The jump of "step" and the kink of "warm_up" are at
half the horizon; "keep_prob" lowers the probability of dropping to a quarter along half a cosine."""

CERTIFYING = SamplingEffort(rel_tol=0.05, max_paths=2**15)
"""Effort for certifying slopes."""


@dataclass(frozen=True)
class ScheduleSettings(ToleranceSettings):
    """Weak order under schedules.

    Args:
        keep_prob: probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
        lrs: learning rates, which the schedules multiply; each divides half the horizon.
        horizon: last time T.
        schedules: constant, step, cosine, warm_up, keep_prob.
        orders: orders of the equation, 1 and/or 2.
        observables: the observable, in a list: loss, modified_loss, squared_norm, or a coordinate such as theta[0].
    """

    keep_prob: float = 0.8
    lrs: list[float] = field(default_factory=lambda: [0.1, 0.05])
    horizon: float = 1.0
    schedules: list[str] = field(default_factory=lambda: list(SCHEDULES))
    orders: list[int] = field(default_factory=lambda: [1, 2])
    observables: list[str] = field(default_factory=lambda: ["modified_loss"])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one(self, "observables")
        check_list("lrs", self.lrs, check_positive, distinct=True)
        check_list("schedules", self.schedules, check_string, distinct=True)
        check_list("orders", self.orders, check_integer)


@dataclass(frozen=True, repr=False)
class Schedules(ReportedResult):
    """Weak errors and slopes under each schedule."""

    table: pd.DataFrame
    """One row per schedule, model ("readout", exact; "network", measured), order and lr: `error`, `low`, `high`,
    `resolved`."""

    fit: pd.DataFrame
    """One row per schedule, model and order: `slope` with `slope_low`, `slope_high`; for the network `constant` with
    its interval, and `predicted_constant` at order 1 (`first_constants`). For the readout the slope between the two
    smallest learning rates; it has no interval, because the errors of the readout are exact."""

    @drawing()
    def plot(self) -> Figure:
        """Draw |error| against lr, one panel per schedule: markers for the network, thin lines for the readout."""
        names = list(self.table.schedule.unique())
        figure = Figure(figsize=(PAGE / 3 * min(len(names), 3), 2.4 * -(-len(names) // 3)), layout="constrained")
        grid = figure.subplots(-(-len(names) // 3), min(len(names), 3), squeeze=False, sharex=True, sharey=True)
        axes = list(grid.flat)
        for axis, name in zip(axes, names, strict=False):
            for order, part in self.table[self.table.schedule == name].groupby("order"):
                style = ORDERS[order]
                network, readout = (part[part.model == model].sort_values("lr") for model in ("network", "readout"))
                size = network.error.abs()
                half, label = (network.high - network.low) / 2, f"network, {style.label}"
                axis.errorbar(network.lr, size, half, capsize=1.5, label=label, **style.line_options)
                thin, label = style.line_options | {"marker": "", "linewidth": 0.5}, f"readout, order {order}, exact"
                axis.plot(readout.lr, readout.error.abs(), label=label, **thin)
            log_ticks(axis, self.table.lr)
            axis.set_yscale("log")
            axis.set_title(name, loc="left")
            axis.set_xlabel(r"learning rate $\epsilon$")
            axis.tick_params(labelbottom=True)
        for axis in axes[len(names) :]:
            axis.set_visible(False)
        for axis in axes[::3]:
            axis.set_ylabel("|error|")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        return figure

    def conclusion(self) -> str:
        """Return the conclusions, as a list in Markdown."""
        lines = []
        for (model, order), rows in self.fit.groupby(["model", "order"], sort=False):
            slopes = "; ".join(
                f"{row.schedule} {interval(row._asdict(), 'slope', '.2f')} ({_kept(row)})" for row in rows.itertuples()
            )
            lines.append(f"- {model}, order {order}, slopes and whether the order is kept: {slopes}.")
        return "\n".join(lines)


@entry_point
def schedules(
    problem: DropoutProblem,
    theta0: Tensor,
    lrs: Sequence[float],
    horizon: float,
    names: Sequence[str] = tuple(SCHEDULES),
    orders: Sequence[int] = (1, 2),
    observable: str | Observable = "loss",
    effort: SamplingEffort = CERTIFYING,
) -> Schedules:
    """Measure weak errors of the network and compute those of its readout, under each schedule.

    Args:
        problem: the problem.
        theta0: start (D,).
        lrs: different learning rates, which the schedules multiply; each divides half the horizon.
        horizon: last time.
        names: names in `SCHEDULES`.
        orders: orders of the equation.
        observable: the observable whose expectation is compared.
        effort: paths, tolerance, seed, progress bar and processes.

    Raises:
        SmesolveError: invalid arguments, an unknown schedule, fewer than two learning rates.
    """
    theta0 = check_study(problem, theta0, effort, DropoutProblem)
    lrs = check_list("lrs", lrs, check_positive, distinct=True)
    horizon = check_positive("horizon", horizon)
    names = check_list("names", names, check_string, distinct=True)
    orders = check_list("orders", orders, check_integer)
    cells = _cells("names", problem, theta0, lrs, horizon, names, orders, observable, effort)
    return _combined(run_cells(cells, progress=effort.progress))


def _cells(
    argument: str,
    problem: DropoutProblem,
    theta0: Tensor,
    lrs: Sequence[float],
    horizon: float,
    names: Sequence[str],
    orders: Sequence[int],
    observable: str | Observable,
    effort: SamplingEffort,
) -> list[Cell]:
    """Return cells for the network and for its readout, under each schedule."""
    for name in names:
        if name not in SCHEDULES:
            raise SmesolveError(
                f"{argument} holds {shown(name)}, which is unknown; {nearest_name(name, list(SCHEDULES))}."
            )
    if len(lrs) < 2:
        raise SmesolveError(
            f"lrs must hold at least two learning rates for a slope, got {list(lrs)}; add a smaller one."
        )
    readout, start = readout_problem(problem, theta0)

    def measured(name: str) -> dict[str, pd.DataFrame]:
        """Return the errors of the network, and their fit."""
        study = effort.weak_error(SCHEDULES[name](problem, horizon), theta0, lrs, [horizon], orders, observable)
        table, fit = study.table[["order", "lr", "error", "low", "high", "resolved"]], study.fit()
        return _named(name, "network", table, fit.drop(columns=["observable", "p_value"]))

    def exact(name: str) -> dict[str, pd.DataFrame]:
        """Return the errors of the readout, and the slope of the last two."""
        moments, rows, fits = ScheduledMoments(SCHEDULES[name](readout, horizon), start), [], []
        for order in orders:
            errors = [moments.error(lr, order, horizon, observable) for lr in lrs]
            columns = {"order": order, "lr": lrs, "error": errors, "low": errors, "high": errors, "resolved": True}
            rows.append(pd.DataFrame(columns))
            slope = {"slope": _last_slope(lrs, errors), "slope_low": np.nan, "slope_high": np.nan, "points": 2}
            fits.append({"order": order} | slope | {"left_out": ""})
        return _named(name, "readout", pd.concat(rows, ignore_index=True), pd.DataFrame(fits))

    cells = []
    for name in names:
        scheduled = SCHEDULES[name](problem, horizon)
        ensembles = [effort.ensembles(scheduled, theta0, lr, [horizon], orders) for lr in lrs]
        cells.append(Cell(f"network, {name}", partial(measured, name), ensembles))
        cells.append(Cell(f"readout, {name}", partial(exact, name)))
    return cells


def _named(schedule: str, model: str, table: pd.DataFrame, fit: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return both tables with columns for schedule and model."""
    return {"table": table.assign(schedule=schedule, model=model), "fit": fit.assign(schedule=schedule, model=model)}


def _combined(results: list[dict[str, pd.DataFrame]]) -> Schedules:
    table, fit = (pd.concat([result[name] for result in results], ignore_index=True) for name in ("table", "fit"))
    return Schedules(table, fit)


def _last_slope(lrs: Sequence[float], errors: Sequence[float]) -> float:
    (small, e_small), (large, e_large) = sorted(zip(lrs, errors, strict=True))[:2]
    return float(np.log(e_large / e_small) / np.log(large / small)) if e_large * e_small > 0 else np.nan


@experiment("scaling", "schedule")
class Schedule(NetworkExperiment[ScheduleSettings]):
    """Weak orders under schedules of the learning rate and of keep_prob."""

    Settings = ScheduleSettings
    title = "Learning-rate scaling: schedule"
    example = "examples/scaling_schedule.yaml --out results/scaling_schedule"

    def cells(self) -> list[Cell]:
        """Return cells for the network and for its readout, under each schedule."""
        s = self.settings
        check_exact_readout(self.dropout_problem)
        given = s.lrs, s.horizon, s.schedules, s.orders, s.observables[0], s.effort
        return _cells("schedules", self.dropout_problem, self.theta0, *given)

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the section of the slopes."""
        result = _combined(results)
        tables = {"table": result.table, "fit": result.fit}
        figures = {"schedule": Captioned(result.plot(), CAPTION)}
        return [Section("Weak order under schedules", tables, figures, _report(result), result.conclusion())]


def _report(result: Schedules) -> str:
    fit = result.fit.sort_values(["model", "schedule", "order"])
    fit = fit.assign(kept=[_kept(row) for row in fit.itertuples()], left_out=fit.left_out.replace("", "none"))
    return join(
        "Slopes of |error| against lr with 95% intervals; for the readout, whose errors are exact, the local slope of "
        "the two smallest learning rates. `step` jumps and `warm_up` has its kink at half the horizon, where a step of "
        "the iteration ends for every learning rate. Constant: c of error = c lr^order, for the network; predicted "
        "without Monte Carlo, by an integral along the gradient flow, only at order 1 and for networks without kinks; "
        "constants of order 2 are predicted for problems that do not depend on time.",
        markdown(
            fit,
            ["schedule", "model", "order", "slope", "kept", "constant", "predicted_constant", "left_out"],
            {"slope": ".3f", "constant": ".4g", "predicted_constant": ".4g"},
            headers={"kept": "order kept", "predicted_constant": "predicted constant", "left_out": "left out"},
        ),
    )


def _kept(row: Any) -> str:
    if not np.isfinite(row.slope):
        return "not resolved"
    if row.model == "readout":
        return "exact"
    if row.points <= CORRECTED_POINTS:
        return "not tested: as many parameters as points"
    if row.slope_low > row.order or row.slope_high >= row.order:
        return "yes" if row.slope_low > row.order - 0.5 else "not resolved"
    return "no"
