"""Implicit regularisation: weak orders of the deterministic flows and of the SDEs that approximate dropout.

The flows of R_S, R_S + R_1, R_S + R_1 + R_2 (`penalties`) and the SMEs of order 1 and 2 are compared. No flow has
order 2 for every observable: E g depends on the variance of the paths, which adds lr/2 times an integral over time of
tr(Hess u Sigma), where the value function u is g at the end of the flow from a point. For the mean E theta of a linear
model this term vanishes. There the flow without tr Sigma has order 2, and the flow of R_S + R_1 + R_2 has order 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from torch import Tensor

from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.order_fit import fit_orders
from smesolve.comparison.outcomes import Status
from smesolve.comparison.weak_error import weak_error
from smesolve.comparison.weak_error_study import with_normal_errors
from smesolve.entry_point import entry_point
from smesolve.experiments.landscape_sections.base import LandscapeSection
from smesolve.experiments.shared.cells import Cell, Ensembles
from smesolve.experiments.shared.markdown import join, plain
from smesolve.experiments.shared.section import Captioned, ReportedResult, Section, markdown
from smesolve.figures import PAGE, SEQUENCE, Figure, drawing, log_ticks
from smesolve.landscape.operators import check_linear_noise, dropout_problem
from smesolve.landscape.penalties import FLOWS, covariance_trace, first_penalty, flow
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import LinearNetwork
from smesolve.problem.observables import Observable, named_observables
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import (
    check_integer,
    check_list,
    check_observables,
    check_parameters,
    check_positive,
    check_tolerance,
)

__all__ = [
    "ImplicitRegularisation",
    "ImplicitRegularisationSettings",
    "RegularisationStudy",
    "exact_regularisation_orders",
    "linear_problem",
    "regularisation_orders",
]

CAPTION = (
    "|error| at the horizon against the learning rate, one line per flow and SME: (a) the network, measured, "
    "with 95% intervals; (b) the mean of a parameter and (c) the mean loss of a linear model, exact."
)

NOMINAL = {"flow of R_S": 0, "SME order 2": 2}
"""Theoretical weak orders for a general observable; 1 for all other models."""

COMPONENTS = 5
"""Largest number of inputs of the linear model: principal components of the data, scaled to unit variance."""

COLUMNS = ["model", "lr", "observable", "value", "dropout", "error", "stderr", "low", "high", "resolved"]


@dataclass(frozen=True)
class ImplicitRegularisationSettings:
    """Weak orders of flows and SMEs.

    Args:
        lrs: learning rates; each divides the horizon.
        horizon: last time T.
        observables: loss, modified_loss, squared_norm, coordinates such as theta[0]; the first one is drawn.
        paths: paths of dropout and of each SME, in the first round.
        rel_tol: paths are added until the interval of every error of an SME is at most this share of the error.
        max_paths: largest number of paths, at least `paths`.
    """

    lrs: list[float] = field(default_factory=lambda: [0.05, 0.025, 0.0125])
    horizon: float = 0.5
    observables: list[str] = field(default_factory=lambda: ["loss"])
    paths: int = 256
    rel_tol: float = 0.1
    max_paths: int = 2**14

    def __post_init__(self) -> None:
        check_list("implicit_regularisation.lrs", self.lrs, check_positive, distinct=True)
        check_positive("implicit_regularisation.horizon", self.horizon)
        check_observables("implicit_regularisation.observables", self.observables)
        check_integer("implicit_regularisation.paths", self.paths, 2)
        check_tolerance("implicit_regularisation.rel_tol", self.rel_tol)
        check_integer("implicit_regularisation.max_paths", self.max_paths, self.paths)


@dataclass(frozen=True, repr=False)
class RegularisationStudy(ReportedResult):
    """Errors of flows and SMEs relative to dropout."""

    table: pd.DataFrame
    """model, lr, observable, value, dropout, error, stderr, low, high, resolved, at the horizon."""
    fits: pd.DataFrame
    """model, nominal order, observable, slope with interval, constant, points, p_value, left_out."""

    def conclusion(self) -> str:
        """Return the order of each flow and equation, as a list in Markdown."""
        return "\n".join(
            f"- {row.model}, mean {plain(row.observable.replace('_', ' '))}: "
            + (
                f"order {row.slope:.2f} [{row.slope_low:.2f}, {row.slope_high:.2f}] over {row.points} learning rates"
                if np.isfinite(row.slope)
                else "order not resolved"
            )
            + f"; theory: {row.nominal}."
            for row in self.fits.itertuples()
        )

    @drawing()
    def plot(self, exact: pd.DataFrame | None = None) -> Figure:
        """Draw |error| against lr: (a) the network; if exact errors are given, (b) mean parameter and (c) mean loss."""
        first = self.table.observable.iloc[0]
        panels = [(f"mean {first.replace('_', ' ')}, network", self.table[self.table.observable == first])]
        if exact is not None:
            panels += [
                ("parameter mean, linear model", exact[exact.observable == "theta[0]"]),
                ("mean loss, linear model", exact[exact.observable == "loss"]),
            ]
        models = list((self.table if exact is None else exact).model.unique())
        figure = Figure(figsize=(PAGE * max(len(panels), 2) / 3, 3.4), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, letter, (title, rows) in zip(axes, "abc", panels, strict=False):
            for k, model in enumerate(models):
                _draw_errors(axis, rows[rows.model == model].sort_values("lr"), k, model)
            if (rows.error != 0).any():
                axis.set_yscale("log")
            log_ticks(axis, rows.lr)
            axis.set_xlabel("learning rate $\\epsilon$")
            axis.set_title(f"({letter}) {title}", loc="left")
        axes[0].set_ylabel("|error|")
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncol=len(panels))
        return figure


@entry_point
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
    """Measure the weak orders of the flows and of both SMEs against dropout.

    The means of dropout and the errors of the SMEs are those of `weak_error`, with its control variates and intervals;
    flows have no Monte Carlo error of their own. The arguments are documented in `weak_error`.
    """
    theta0 = check_parameters("theta0", theta0, dropout_problem(problem))
    check_linear_noise(problem)
    lrs = check_list("lrs", lrs, check_positive)
    check_positive("horizon", horizon)
    observables = check_observables("observables", observables)
    sampling = {"paths": paths, "rel_tol": rel_tol, "max_paths": max_paths, "seed": seed}
    final = _sme_errors(problem, theta0, lrs, horizon, observables=observables, **sampling)
    functions = named_observables(problem, observables)
    return _study(final, {lr: _flow_values(problem, theta0, lr, horizon, functions) for lr in lrs})


def _sme_errors(*given: Any, **options: Any) -> pd.DataFrame:
    """Return the table of `weak_error`, with these arguments, of both SMEs at the horizon."""
    return weak_error(*given, orders=(1, 2), **options).at_horizon().reset_index(drop=True)


def _flow_values(
    problem: DropoutProblem, theta0: Tensor, lr: float, horizon: float, functions: Mapping[str, Observable]
) -> dict[str, dict[str, float]]:
    """Return the observables at the end of each flow."""
    ends = {name: flow(problem, theta0, name, lr, horizon) for name in FLOWS}
    return {name: {key: float(function(end)) for key, function in functions.items()} for name, end in ends.items()}


def _study(final: pd.DataFrame, flow_values: Mapping[float, Mapping[str, Mapping[str, float]]]) -> RegularisationStudy:
    """Return errors and orders from the table of the SMEs at the horizon and the values of the flows."""
    rows = [final.assign(model=[f"SME order {order}" for order in final.order], value=final.sde)]
    for (lr, observable), group in final.groupby(["lr", "observable"], sort=False):
        for name, values in flow_values[lr].items():
            rows.append(_without_noise(group.iloc[0], name, values[observable], lr, observable))
    table = pd.concat(rows, ignore_index=True).rename(columns={"discrete": "dropout"})
    return RegularisationStudy(table[COLUMNS], _fits(table))


def _without_noise(mean: pd.Series, name: str, value: float, lr: float, observable: str) -> pd.DataFrame:
    """Return a row like those of `weak_error` for a model without noise."""
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
    """Return the measured orders of the models."""
    fits = []
    for model, rows in table.groupby("model", sort=False):
        fit = fit_orders(with_normal_errors(rows).assign(order=NOMINAL.get(model, 1)))
        fits.append(
            fit.drop(columns=["predicted_constant", "predicted_stderr"])
            .rename(columns={"order": "nominal"})
            .assign(model=model)
        )
    return pd.concat(fits, ignore_index=True)


@entry_point
def exact_regularisation_orders(
    problem: DropoutProblem, theta0: Tensor, lrs: Sequence[float], horizon: float, observables: Sequence[str]
) -> pd.DataFrame:
    """Compute errors and local orders without Monte Carlo, for networks with gradients affine in theta.

    Args:
        problem: problem on a network such as `LinearNetwork`, with D <= 24.
        theta0: start (D,).
        lrs: different learning rates; each divides the horizon.
        horizon: last time.
        observables: names of observables.

    Returns:
        One row per model, observable and lr: `error`, and the local order `slope` between this and the next larger lr.

    Raises:
        SmesolveError: the gradient is not affine in theta, or D > 24.
    """
    theta0 = check_parameters("theta0", theta0, dropout_problem(problem))
    lrs = check_list("lrs", lrs, check_positive, distinct=True)
    check_positive("horizon", horizon)
    observables = check_observables("observables", observables)
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


def linear_problem(problem: DropoutProblem) -> DropoutProblem:
    """Return dropout on the inputs of a linear model of the same data, whose errors are exact."""
    x = problem.x.flatten(1).cpu().numpy()
    left, spreads, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    varying = spreads > max(x.shape) * np.finfo(x.dtype).eps * np.abs(x).max()
    # Data that do not vary get components that are 0, not the directions of their rounding errors.
    inputs = np.where(varying, left, 0.0)[:, : max(1, min(COMPONENTS, int(varying.sum())))] * len(x) ** 0.5
    return DropoutProblem(LinearNetwork(inputs.shape[1]), inputs, problem.y[:, :1], law=problem.law)


class ImplicitRegularisation(LandscapeSection[ImplicitRegularisationSettings]):
    """Orders measured on the network, and exact orders of a linear model of the same data."""

    name = "implicit_regularisation"

    def cells(self) -> list[Cell]:
        """Return a cell for dropout and the SMEs, one for the flows at each learning rate, one for the linear model."""
        options, problem = self.options, self.problem
        check_linear_noise(problem)
        theta0 = problem.initial(self.settings.network.seed)
        functions = named_observables(problem, options.observables)
        linear = linear_problem(problem)
        exact = partial(
            exact_regularisation_orders,
            linear,
            linear.initial(self.settings.network.seed),
            options.lrs,
            options.horizon,
            ["theta[0]", "loss"],
        )
        journal = None if self.store is None else self.store.journal
        measure = partial(_sme_errors, problem, theta0, seed=self.settings.seed, journal=journal, **vars(options))
        most = options.max_paths  # rel_tol is given
        ensembles = [
            Ensembles(
                problem, theta0, lr, [options.horizon], (1, 2), options.paths, observables=len(functions), most=most
            )
            for lr in options.lrs
        ]
        flows = [
            Cell(
                f"implicit_regularisation, flows at lr {lr!r}",
                partial(_flow_values, problem, theta0, lr, options.horizon, functions),
            )
            for lr in options.lrs
        ]
        return [
            Cell("implicit_regularisation, dropout and SMEs", measure, ensembles),
            *flows,
            Cell("implicit_regularisation, linear model", exact),
        ]

    def summarise(self, results: list[Any]) -> Section:
        """Return the orders, and the sizes of the penalties at the start."""
        options, problem = self.options, self.problem
        final, *flow_values, exact = results
        study = _study(final, dict(zip(options.lrs, flow_values, strict=True)))
        lr, theta0 = min(options.lrs), problem.initial(self.settings.network.seed)
        parts = {
            "R_S": problem.loss(theta0),
            "R_1": first_penalty(problem, theta0),
            "lr/4 |grad L_S|^2": lr / 4 * problem.mean_gradient(theta0).square().sum(),
            "lr/4 tr Sigma": lr / 4 * covariance_trace(problem, theta0),
        }
        text = join(
            f"Error at the horizon {options.horizon:g}: value of the model minus the mean under dropout, one initial "
            "point. Slopes with 95% intervals from weighted regression over the learning rates; `nominal` is the order "
            "in theory for a general observable. R_2 = lr/4 (|grad L_S|^2 + tr Sigma).",
            markdown(study.fits, ["model", "observable", "nominal", "slope", "points", "left_out"]),
            f"At the start, lr = {lr:g}: " + ", ".join(f"{name} = {float(value):.3g}" for name, value in parts.items()),
            f"Exact, without Monte Carlo, on a linear model ({linear_problem(problem).x.shape[1]} principal components "
            "of the inputs, first output, dropout on the inputs): local order between the two smallest learning rates. "
            "For the mean of a parameter the flow without tr Sigma has order 2, and the tr Sigma in R_2 brings it back "
            "to order 1.",
            markdown(exact[exact.lr == lr], ["model", "observable", "error", "slope"]),
        )
        tables = {
            "implicit_regularisation": study.table,
            "implicit_regularisation_orders": study.fits,
            "implicit_regularisation_exact": exact,
        }
        figures = {"implicit_regularisation": Captioned(study.plot(exact), CAPTION)}
        return Section("Implicit regularisation", tables, figures, text, study.conclusion())


def _draw_errors(axis: Axes, rows: pd.DataFrame, index: int, label: str) -> None:
    style, size = SEQUENCE[index], rows.error.abs()
    axis.plot(rows.lr, size, label=label, markersize=3, **style.line_options)
    if "low" in rows:
        half = (rows.high - rows.low) / 2
        room = np.array([np.minimum(half, 0.9 * size), half])
        axis.errorbar(rows.lr, size, room, color=style.colour, linestyle="", capsize=1.5)
