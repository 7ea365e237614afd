"""The equation as an accelerator: figure and report."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smesolve.comparison.scaling.acceleration import Acceleration, acceleration
from smesolve.problem.problem import Problem
from smesolve.study.figures import ORDERS, PAGE, drawing, log_ticks
from smesolve.study.markdown import join
from smesolve.study.scaling_configuration import ScalingConfig
from smesolve.study.scaling_effort import configured_effort
from smesolve.study.scaling_section import curve
from smesolve.study.section import Captioned, Section, markdown

__all__ = ["acceleration_figure", "acceleration_section"]

CAPTION = (
    "Left: |relative error| of each order against its step dt, in learning rates, with 95% intervals. Right: cost of "
    "the iteration over that of the equation against the same step, in gradients (lines) and in seconds (markers); "
    "above the grey line the equation is cheaper."
)


def acceleration_section(problem: Problem, config: ScalingConfig) -> Section:
    """Run the study."""
    result = acceleration(
        problem,
        problem.initial(config.network.seed),
        config.lrs[0],
        config.horizon,
        config.factors,
        config.orders,
        config.observables[0],
        config.scheme or "small_noise_rk4",
        configured_effort(config),
    )
    tolerances = [config.tolerance, config.tolerance / 10]
    even = result.break_even(tolerances)
    return Section(
        "The equation as an accelerator",
        {"table": result.table, "break_even": even},
        {"acceleration": Captioned(acceleration_figure(result), CAPTION)},
        _report(result, config),
        _conclusion(even),
    )


def acceleration_figure(result: Acceleration) -> Figure:
    """Error and speed-up against the step of the equation."""
    with drawing():
        figure = Figure(figsize=(PAGE, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for order, part in result.table.groupby("order"):
            look = ORDERS[order]
            curve(left, part.factor, part.assign(resolved=True), look, look.label)
            right.plot(part.factor, part.gradient_speedup, color=look.colour, linestyle=look.line, label=look.label)
            right.plot(
                part.factor, part.speedup, color=look.colour, linestyle="", marker=look.marker,
                label=f"{look.label}, seconds",
            )  # fmt: skip
        right.axhline(1, color="0.5", linewidth=0.6, zorder=0)
        left.set_ylabel("|relative error|")
        right.set_ylabel("iteration's cost / equation's")
        for axis in (left, right):
            log_ticks(axis, result.table.factor)
            axis.set_yscale("log")
            axis.set_xlabel(r"step of the equation, dt / $\epsilon$")
            axis.legend()
        return figure


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
            lines.append(f"- Order {row.order}, error at most {row.tolerance:g}: reached at no step that was tried.")
    for row in even.drop_duplicates("order").itertuples():
        lines.append(
            f"- Break-even, order {row.order}: the equation costs less than the iteration from dt = "
            f"{row.factor_even:.3g} lr on in gradients, from {row.factor_even_seconds:.3g} lr on in seconds."
        )
    return "\n".join(lines)


def _report(result: Acceleration, config: ScalingConfig) -> str:
    return join(
        f"lr = {config.lrs[0]:g}, T = {config.horizon:g}. Error: mean under the equation with step dt minus mean under "
        "the iteration, weak error and bias of the scheme together, relative to the change along the gradient flow. "
        "Costs are those of one path, and the number of paths for a given Monte Carlo interval is about the same on "
        "both sides. Seconds depend on the machine.",
        markdown(
            result.table,
            {
                "order": "order",
                "dt / lr": "factor",
                "relative error": "relative",
                "gradients": "gradients",
                "iteration's / these": "gradient_speedup",
                "seconds": "seconds",
                "iteration's seconds / these": "speedup",
            },
        ),
    )
