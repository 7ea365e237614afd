"""Error against width: figure and report."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from smesolve.comparison.scaling.width_sweep import ARMS, WidthSweep, width_sweep
from smesolve.problem.problem import Problem
from smesolve.study.figures import DROPOUT, ORDERS, PAGE, drawing, log_ticks
from smesolve.study.markdown import join
from smesolve.study.scaling_configuration import ScalingConfig
from smesolve.study.scaling_effort import configured_effort
from smesolve.study.scaling_section import curve, with_reasons
from smesolve.study.section import Captioned, Section, interval, markdown

__all__ = ["width_figure", "width_section"]

CAPTION = (
    "Left: |relative error| against the width, one panel for each order, with 95% intervals, hollow where not "
    "resolved; right: share of the penalty in the modified loss at the start against the width. One line for each arm."
)


def width_section(problem: Problem, config: ScalingConfig) -> Section:
    """Run the study."""
    result = width_sweep(
        problem.x,
        problem.y,
        config.widths,
        config.keep_prob,
        config.lrs[0],
        config.horizon,
        config.orders,
        configured_effort(config),
    )
    return Section(
        "Error against width",
        {"table": result.table, "slopes": result.slopes},
        {"width": Captioned(width_figure(result), CAPTION)},
        _report(result),
        _conclusion(result),
    )


def width_figure(result: WidthSweep) -> Figure:
    """Relative error and share of the penalty against width in the arms."""
    orders = sorted(result.table.order.unique())
    with drawing():
        figure = Figure(figsize=(PAGE, 2.8), layout="constrained")
        *errors, share = figure.subplots(1, len(orders) + 1)
        looks = (DROPOUT, ORDERS[1], ORDERS[2])
        for look, arm in zip(looks, ARMS, strict=True):
            part = result.table[result.table.arm == arm]
            for axis, order in zip(errors, orders, strict=True):
                rows = part[(part.order == order) & part.relative.notna()]
                curve(axis, rows.width, rows, look, arm)
            rows = part.drop_duplicates("width")
            share.plot(rows.width, rows.penalty, color=look.colour, linestyle=look.line, marker=look.marker)
        for axis, order in zip(errors, orders, strict=True):
            axis.set_ylabel(f"|relative error|, order {order}")
        share.set_ylabel("penalty / modified loss at the start")
        for axis in (*errors, share):
            log_ticks(axis, result.table.width)
            axis.set_yscale("log")
            axis.set_xlabel("width")
        figure.legend(*errors[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        return figure


def _conclusion(result: WidthSweep) -> str:
    lines = [
        f"- {row['arm']}, order {row['order']}: "
        + (
            f"|relative error| goes like width^{interval(row, 'slope', '.2f')} over {row['points']} widths."
            if np.isfinite(row["slope"])
            else f"no slope, {row['points']} widths are resolved."
        )
        for row in result.slopes.to_dict("records")
    ]
    return "\n".join(lines)


def _report(result: WidthSweep) -> str:
    return join(
        "Mean-field scaling: 1/m sum_r eta_r A_r tanh(W_r . x), each particle moved by lr. Arms: "
        f"{'; '.join(f'{arm}: {meaning}' for arm, meaning in ARMS.items())}. `relative`: error of the modified loss "
        "over its change along the gradient flow. `penalty`: share of the penalty in the modified loss at the start.",
        markdown(
            with_reasons(result.table),
            ["arm", "width", "order", "keep_prob", "lr", "penalty", "relative", "resolved"],
        ),
        "Chizat, Marion, Yesbay (arXiv 2510.07554) state that the penalty survives only at learning rates of order "
        "1/width. What is measured here is the weak error of the equation, and the share of the penalty at the start, "
        "for these widths, this data set and this horizon alone; the statement itself, a limit of infinite width, is "
        "not tested.",
    )
