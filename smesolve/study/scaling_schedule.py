"""Weak order under schedules: figure and report."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from smesolve.comparison.order_fit import CORRECTED_POINTS
from smesolve.comparison.scaling.schedules import Schedules, schedules
from smesolve.problem.problem import Problem
from smesolve.study.figures import ORDERS, PAGE, drawing, log_ticks
from smesolve.study.markdown import join
from smesolve.study.scaling_configuration import ScalingConfig
from smesolve.study.scaling_effort import configured_effort
from smesolve.study.section import Captioned, Section, interval, markdown

__all__ = ["schedule_figure", "schedule_section"]

CAPTION = (
    "|error| at the horizon against the learning rate, one panel for each schedule. Markers with 95% intervals: the "
    "network, measured; thin lines without markers: its readout, exact."
)


def schedule_section(problem: Problem, config: ScalingConfig) -> Section:
    """Run the study."""
    result = schedules(
        problem,
        problem.initial(config.network.seed),
        config.lrs,
        config.horizon,
        config.schedules,
        config.orders,
        config.observables[0],
        configured_effort(config),
    )
    return Section(
        "Weak order under schedules",
        {"table": result.table, "fit": result.fit},
        {"schedule": Captioned(schedule_figure(result), CAPTION)},
        _report(result),
        _conclusion(result),
    )


def schedule_figure(result: Schedules) -> Figure:
    """|error| against lr, a panel for each schedule: markers the network, thin lines the readout."""
    names = list(result.table.schedule.unique())
    with drawing():
        figure = Figure(figsize=(PAGE / 3 * min(len(names), 3), 2.4 * -(-len(names) // 3)), layout="constrained")
        axes = figure.subplots(-(-len(names) // 3), min(len(names), 3), squeeze=False, sharex=True, sharey=True)
        axes = list(axes.flat)
        for axis, name in zip(axes, names, strict=False):
            for order, part in result.table[result.table.schedule == name].groupby("order"):
                look = ORDERS[order]
                network, readout = (part[part.model == model].sort_values("lr") for model in ("network", "readout"))
                size = network.error.abs()
                axis.errorbar(
                    network.lr, size, (network.high - network.low) / 2, color=look.colour, linestyle=look.line,
                    marker=look.marker, capsize=1.5, label=f"network, {look.label}",
                )  # fmt: skip
                axis.plot(
                    readout.lr,
                    readout.error.abs(),
                    color=look.colour,
                    linestyle=look.line,
                    linewidth=0.5,
                    label=f"readout, order {order}, exact",
                )
            log_ticks(axis, result.table.lr)
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


def _conclusion(result: Schedules) -> str:
    lines = []
    for (model, order), rows in result.fit.groupby(["model", "order"], sort=False):
        slopes = "; ".join(
            f"{row.schedule} {interval(row._asdict(), 'slope', '.2f')} ({_kept(row)})" for row in rows.itertuples()
        )
        lines.append(f"- {model}, order {order}, slopes and whether the order is kept: {slopes}.")
    return "\n".join(lines)


def _report(result: Schedules) -> str:
    fit = result.fit.sort_values(["model", "schedule", "order"])
    fit = fit.assign(kept=[_kept(row) for row in fit.itertuples()], left_out=fit.left_out.replace("", "none"))
    return join(
        "Slopes of |error| against lr with 95% intervals; for the readout, whose errors are exact, the local slope of "
        "the two smallest learning rates. `step` jumps and `warm_up` has its kink at half the horizon, where a step of "
        "the iteration ends for every learning rate. Constant: c of error = c lr^order, for the network; predicted "
        "without Monte Carlo, by an integral along the gradient flow, at order 1 of networks without kinks alone: that "
        "of order 2 is known for problems that do not depend on time.",
        markdown(
            fit,
            {
                "schedule": "schedule",
                "model": "model",
                "order": "order",
                "slope": "slope",
                "order kept": "kept",
                "constant": "constant",
                "predicted constant": "predicted_constant",
                "left out": "left_out",
            },
            {"slope": ".3f", "constant": ".4g", "predicted_constant": ".4g"},
        ),
    )


def _kept(row: tuple) -> str:
    if not np.isfinite(row.slope):
        return "not resolved"
    if row.model == "readout":
        return "exact"
    if row.points <= CORRECTED_POINTS:
        return "not tested: as many parameters as points"
    if row.slope_low > row.order or row.slope_high >= row.order:
        return "yes" if row.slope_low > row.order - 0.5 else "not resolved"
    return "no"
