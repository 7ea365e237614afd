"""The linear scaling rule: figure and report."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from smesolve.comparison.scaling.linear_scaling_rule import LinearScalingRule, linear_scaling_rule
from smesolve.problem.problem import Problem
from smesolve.study.figures import DROPOUT, ORDERS, PAGE, drawing, log_ticks
from smesolve.study.markdown import join
from smesolve.study.scaling_configuration import ScalingConfig
from smesolve.study.scaling_effort import configured_effort
from smesolve.study.scaling_section import curve
from smesolve.study.section import Captioned, Section, interval, markdown

__all__ = ["kappa_figure", "kappa_section"]

CAPTION = (
    "|relative error| of the order-1 equation against kappa. Markers: readout (exact) and network (measured, with 95% "
    "intervals, hollow where not resolved); lines: their leading terms; dotted grey: the tolerance."
)


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
        configured_effort(config),
    )
    return Section(
        "Linear scaling rule",
        {"table": result.table, "reach": result.reach()},
        {"kappa": Captioned(kappa_figure(result), CAPTION)},
        _report(result, config),
        _conclusion(result),
    )


def kappa_figure(result: LinearScalingRule) -> Figure:
    """Relative error against kappa with the leading term and the tolerance."""
    with drawing():
        figure = Figure(figsize=(PAGE / 2, 2.9), layout="constrained")
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


def _conclusion(result: LinearScalingRule) -> str:
    lines = []
    for row in result.reach().to_dict("records"):
        holds, fails = row["holds"], row["fails"]
        follows = f"the iteration follows up to kappa = {holds:g}" if np.isfinite(holds) else "it never follows"
        breaks = f", no longer at {fails:g}" if np.isfinite(fails) else ", the largest measured"
        if np.isfinite(row["kappa"]):
            breaks += f"; the error reaches the tolerance at kappa = {interval(row, 'kappa')}"
        lines.append(
            f"- {row['model']}: {follows}{breaks}; predicted from the leading constant: {row['predicted']:.3g}."
        )
    return "\n".join(lines)


def _report(result: LinearScalingRule, config: ScalingConfig) -> str:
    verdicts = {True: "yes", False: "no"}
    table = result.table.assign(follows=[verdicts.get(one, "not resolved") for one in result.table.follows])
    return join(
        f"kappa masks a step at kappa lr, lr = {config.lrs[0]:g}, leave the order-1 equation unchanged. Errors of that "
        f"equation against the iteration at T = {config.horizon:g}, relative to the change along the gradient flow; it "
        f"follows where the whole interval is inside the tolerance {result.tolerance:g}.",
        markdown(
            table,
            {
                "model": "model",
                "kappa": "kappa",
                "kappa lr": "lr",
                "relative error": "relative",
                "leading term": "predicted",
                "follows": "follows",
            },
        ),
    )
