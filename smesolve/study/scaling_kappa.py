"""The linear scaling rule: figure and report."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from smesolve.comparison.scaling.linear_scaling_rule import LinearScalingRule, linear_scaling_rule
from smesolve.problem.problem import Problem
from smesolve.study.figures import DROPOUT, ORDERS, STYLE
from smesolve.study.markdown import join
from smesolve.study.scaling_configuration import ScalingConfig
from smesolve.study.scaling_section import Section, curve, interval, log_ticks, markdown

__all__ = ["kappa_figure", "kappa_section"]


def kappa_section(problem: Problem, config: ScalingConfig) -> Section:
    """Run the study."""
    result = linear_scaling_rule(
        problem,
        problem.initial(config.network.seed),
        config.lrs[0],
        config.kappas,
        config.horizon,
        config.tolerance,
        config.observables[0],
        config.effort,
    )
    return Section(
        {"table": result.table, "reach": result.reach()}, {"kappa": kappa_figure(result)}, _report(result, config)
    )


def kappa_figure(result: LinearScalingRule) -> Figure:
    """Relative error against kappa with the leading term and the tolerance."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 2.9), layout="constrained")
        axis = figure.subplots()
        for look, (model, part) in zip((DROPOUT, ORDERS[1]), result.table.groupby("model", sort=False), strict=True):
            curve(axis, part.kappa, part, look, f"{model}: {'exact' if model == 'readout' else 'measured'}", line="")
            axis.plot(
                part.kappa, part.predicted.abs(), color=look.colour, linestyle=look.line, linewidth=0.8,
                label=f"{model}: leading term",
            )  # fmt: skip
        axis.axhline(result.tolerance, color="0.5", linestyle=":", label=f"tolerance {result.tolerance:g}")
        log_ticks(axis, result.table.kappa)
        axis.set_yscale("log")
        axis.set_xlabel(r"masks a step $\kappa$, learning rate $\kappa\epsilon$")
        axis.set_ylabel("|relative error| of the order-1 equation")
        axis.legend()
        return figure


def _report(result: LinearScalingRule, config: ScalingConfig) -> str:
    lines = []
    for row in result.reach().itertuples():
        holds = f"the iteration follows up to kappa = {row.holds:g}" if np.isfinite(row.holds) else "it never follows"
        fails = f", no longer at {row.fails:g}" if np.isfinite(row.fails) else ", the largest measured"
        cross = (
            f"; the error reaches the tolerance at kappa = {interval(row, 'kappa')}" if np.isfinite(row.kappa) else ""
        )
        lines.append(f"- {row.model}: {holds}{fails}{cross}; predicted from the leading constant: {row.predicted:.3g}.")
    return join(
        "## Linear scaling rule",
        f"kappa masks a step at kappa lr, lr = {config.lrs[0]:g}, leave the order-1 equation unchanged. Errors of that "
        f"equation against the iteration at T = {config.horizon:g}, relative to the change along the gradient flow; it "
        f"follows where the whole interval is inside the tolerance {result.tolerance:g}.",
        markdown(
            ["model", "kappa", "kappa lr", "relative error", "leading term", "follows"],
            [
                [
                    row.model,
                    row.kappa,
                    row.lr,
                    interval(row, "relative"),
                    row.predicted,
                    {True: "yes", False: "no"}.get(row.follows, "not resolved"),
                ]
                for row in result.table.itertuples()
            ],
        ),
        "\n".join(lines),
    )
