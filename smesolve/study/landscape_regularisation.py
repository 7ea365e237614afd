"""Section "implicit_regularisation": flows and SMEs against dropout, and the order of each."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smesolve.experiments.shared.figures import PAGE, drawing, log_ticks
from smesolve.experiments.shared.markdown import plain
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.landscape.implicit_regularisation import (
    RegularisationStudy,
    covariance_trace,
    exact_regularisation_orders,
    first_penalty,
    regularisation_orders,
)
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import LinearNetwork
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_section import COLOURS, LINES, MARKERS

__all__ = ["linear_problem", "regularisation_figure", "regularisation_section"]

CAPTION = (
    "|error| at the horizon against the learning rate, one line for each flow and SME: (a) the network, measured, "
    "with 95% intervals; (b) the mean of a parameter and (c) the mean loss of a linear model, exact."
)

COMPONENTS = 5
"""Inputs of the linear model: at most so many principal components of the data, of unit variance."""


def regularisation_section(problem: DropoutProblem, config: LandscapeConfig) -> Section:
    """Measure the orders on the network, and exactly on a linear model of the same data."""
    options = config.implicit_regularisation
    theta = problem.initial(config.network.seed)
    study = regularisation_orders(
        problem,
        theta,
        options.lrs,
        options.horizon,
        options.observables,
        options.paths,
        options.rel_tol,
        options.max_paths,
        config.seed,
    )
    linear = linear_problem(problem)
    exact = exact_regularisation_orders(
        linear, linear.initial(config.network.seed), options.lrs, options.horizon, ["theta[0]", "loss"]
    )
    smallest = exact[exact.lr == min(options.lrs)]
    lr = min(options.lrs)
    parts = {
        "R_S": problem.loss(theta),
        "R_1": first_penalty(problem, theta),
        "lr/4 |grad L_S|^2": lr / 4 * problem.mean_gradient(theta).square().sum(),
        "lr/4 tr Sigma": lr / 4 * covariance_trace(problem, theta),
    }
    text = "\n\n".join(
        [
            f"Error at the horizon {options.horizon:g}: value of the model minus the mean under dropout, one initial "
            "point. Slopes with 95% intervals from weighted regression over the learning rates; `nominal` is the order "
            "that theory gives for a general observable. R_2 = lr/4 (|grad L_S|^2 + tr Sigma).",
            markdown(study.fits, ["model", "observable", "nominal", "slope", "points", "left_out"]),
            f"At the start, lr = {lr:g}: " + ", ".join(f"{name} = {float(value):.3g}" for name, value in parts.items()),
            f"Exact, without Monte Carlo, on a linear model ({linear.x.shape[1]} principal components of the inputs, "
            "first output, dropout on the inputs): local order between the two smallest learning rates. For the mean "
            "of a parameter the flow without tr Sigma has order 2, and R_2's tr Sigma brings it back to order 1.",
            markdown(smallest, ["model", "observable", "error", "slope"]),
        ]
    )
    tables = {
        "implicit_regularisation": study.table,
        "implicit_regularisation_orders": study.fits,
        "implicit_regularisation_exact": exact,
    }
    return Section(
        "Implicit regularisation",
        tables,
        {"implicit_regularisation": Captioned(regularisation_figure(study, exact), CAPTION)},
        text,
        _conclusion(study.fits),
    )


def linear_problem(problem: DropoutProblem) -> DropoutProblem:
    """Dropout on the inputs of a linear model of the same data, whose errors are known without Monte Carlo."""
    x = problem.x.flatten(1).cpu().numpy()
    left, spreads, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    varying = spreads > max(x.shape) * np.finfo(x.dtype).eps * np.abs(x).max()
    # Data that do not vary have components that are 0, not the directions that rounding gives them.
    inputs = np.where(varying, left, 0.0)[:, : max(1, min(COMPONENTS, int(varying.sum())))] * len(x) ** 0.5
    return DropoutProblem(LinearNetwork(inputs.shape[1]), inputs, problem.y[:, :1], masks=problem.law)


def _conclusion(fits: pd.DataFrame) -> str:
    return "\n".join(
        f"- {row.model}, mean {plain(row.observable.replace('_', ' '))}: "
        + (
            f"order {row.slope:.2f} [{row.slope_low:.2f}, {row.slope_high:.2f}] over {row.points} learning rates"
            if np.isfinite(row.slope)
            else "order not resolved"
        )
        + f"; theory: {row.nominal}."
        for row in fits.itertuples()
    )


def regularisation_figure(study: RegularisationStudy, exact: pd.DataFrame) -> Figure:
    """|error| against lr: (a) the network, measured; (b) mean parameter and (c) mean loss of a linear model, exact."""
    first = study.table.observable.iloc[0]
    panels = [
        (f"mean {first.replace('_', ' ')}, network", study.table[study.table.observable == first]),
        ("parameter mean, linear model", exact[exact.observable == "theta[0]"]),
        ("mean loss, linear model", exact[exact.observable == "loss"]),
    ]
    models = list(exact.model.unique())
    with drawing():
        figure = Figure(figsize=(PAGE, 3.4), layout="constrained")
        axes = figure.subplots(1, 3)
        for axis, letter, (title, rows) in zip(axes, "abc", panels, strict=True):
            for k, model in enumerate(models):
                _errors(axis, rows[rows.model == model].sort_values("lr"), k, model)
            if (rows.error != 0).any():
                axis.set_yscale("log")
            log_ticks(axis, rows.lr)
            axis.set_xlabel("learning rate $\\epsilon$")
            axis.set_title(f"({letter}) {title}", loc="left")
        axes[0].set_ylabel("|error|")
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncol=3)
        return figure


def _errors(axis: Axes, rows: pd.DataFrame, index: int, label: str) -> None:
    style = {"color": COLOURS[index], "linestyle": LINES[index], "marker": MARKERS[index], "markersize": 3}
    size = rows.error.abs()
    axis.plot(rows.lr, size, label=label, **style)
    if "low" in rows:
        half = (rows.high - rows.low) / 2
        room = np.array([np.minimum(half, 0.9 * size), half])
        axis.errorbar(rows.lr, size, room, color=COLOURS[index], linestyle="", capsize=1.5)
