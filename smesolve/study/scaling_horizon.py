"""Long horizons: figure and report."""

from __future__ import annotations

from matplotlib.figure import Figure

from smesolve.comparison.scaling.long_horizon import LongHorizon, long_horizon
from smesolve.problem.problem import Problem
from smesolve.study.figures import PAGE, drawing, log_ticks
from smesolve.study.markdown import join
from smesolve.study.scaling_configuration import ScalingConfig
from smesolve.study.scaling_effort import configured_effort
from smesolve.study.scaling_section import LOOKS, curve
from smesolve.study.section import Captioned, Section, markdown

__all__ = ["horizon_figure", "horizon_section"]

CAPTION = (
    "Above: |relative error| of each equation against the horizon, for the readout (exact) and the network (measured, "
    "with 95% intervals, hollow where not resolved). Below: stationary variance of each equation over the exact one "
    "of the iteration, against the learning rate; grey: 1, where the equation is exact."
)


def horizon_section(problem: Problem, config: ScalingConfig) -> Section:
    """Run the study."""
    result = long_horizon(
        problem,
        problem.initial(config.network.seed),
        config.lrs[0],
        config.times,
        config.multiples,
        config.observables[0],
        configured_effort(config),
    )
    tables = {"table": result.table, "stationary": result.stationary}
    return Section(
        "Growth of the weak error with the horizon",
        tables,
        {"horizon": Captioned(horizon_figure(result), CAPTION)},
        _report(result),
        _conclusion(result),
    )


def horizon_figure(result: LongHorizon) -> Figure:
    """Errors against the horizon for both models, and stationary variances over the exact one."""
    with drawing():
        figure = Figure(figsize=(PAGE, 5.2), layout="constrained")
        axes = figure.subplots(2, 2)
        for axis, model in zip(axes[0], ("readout", "network"), strict=True):
            for equation, part in result.table[result.table.model == model].groupby("equation", sort=False):
                curve(axis, part.time, part, LOOKS[equation], LOOKS[equation].label)
            axis.set_yscale("log")
            log_ticks(axis, result.table.time)
            axis.set_xlabel("horizon $T$")
            axis.set_ylabel("|relative error|")
            axis.set_title(f"{model}, $\\epsilon$ = {result.lr:g}", loc="left")
            axis.legend()
        for axis, (noise, group) in zip(axes[1], result.stationary.groupby("noise", sort=False), strict=True):
            for equation, part in group.groupby("equation", sort=False):
                look = LOOKS[equation]
                axis.plot(
                    part.lr, part.ratio, color=look.colour, linestyle=look.line, marker=look.marker, label=look.label
                )
            axis.axhline(1, color="0.5", linewidth=0.6, zorder=0)
            log_ticks(axis, group.lr)
            axis.set_xlabel(r"learning rate $\epsilon$")
            axis.set_ylabel("stationary variance / exact")
            axis.set_title(f"readout, {noise}", loc="left")
            axis.legend()
        return figure


def _conclusion(result: LongHorizon) -> str:
    lines = [
        f"- Stationary variance, {row.noise}: order 2 is farther from the exact one than order 1 at "
        f"{row.order_2_worse} of {row.lrs} learning rates; the quadratic equation is nearest at "
        f"{row.quadratic_nearest}."
        for row in result.worse().itertuples()
    ]
    for model, rows in result.nearest().groupby("model", sort=False):
        worse = ", ".join(f"{time:g}" for time in rows.time[rows.order_2_worse])
        best = "; ".join(f"T = {row.time:g}: {row.nearest or 'not resolved'}" for row in rows.itertuples())
        lines.append(
            f"- Over time, {model}: order 2 is worse than order 1, beyond the intervals, at "
            f"{f'T = {worse}' if worse else 'no T'}. Nearest equation: {best}."
        )
    return "\n".join(lines)


def _report(result: LongHorizon) -> str:
    return join(
        f"lr = {result.lr:g}. Errors relative to the change along the gradient flow over the last horizon; the "
        "readout's are exact. An interval that holds 0 is not resolved.",
        markdown(
            result.table,
            {
                "model": "model",
                "equation": "equation",
                "T": "time",
                "relative error": "relative",
                "resolved": "resolved",
            },
        ),
        "## Stationary variance",
        "E|theta - theta*|^2 of the readout in the stationary state, all exact: the iteration's, and the ratio of that "
        "of each equation to it. Label noise: the same readout without dropout, targets with normal noise.",
        markdown(
            result.stationary,
            {"noise": "noise", "lr": "lr", "equation": "equation", "exact": "exact", "equation / exact": "ratio"},
            {"ratio": ".8f"},
        ),
    )
