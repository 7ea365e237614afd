"""What the sections of a landscape study share: checkpoints, verdicts, curves with bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from smesolve.landscape.estimates import Estimate, mean_over

__all__ = [
    "COLOURS",
    "LINES",
    "MARKERS",
    "against_first",
    "band",
    "checkpoints",
    "known_or_unresolved",
    "legend_above",
    "logarithmic",
    "signed",
    "symlog_steps",
]

COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "x")


def checkpoints(steps: int, count: int) -> list[int]:
    """0 and then step numbers evenly spaced in their logarithm, up to `steps`."""
    return sorted({0, *np.unique(np.round(np.geomspace(1, steps, count - 1))).astype(int).tolist()})


def against_first(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Differences of the measures of each training to those of the first one, paired by run, with their intervals."""
    wide = table.pivot(index="run", columns="training", values=list(measures))
    first, *others = table.training.unique()
    rows = []
    for name in others:
        row: dict[str, object] = {"training": name}
        for measure in measures:
            row |= mean_over(wide[measure, name] - wide[measure, first]).columns(measure)
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["training", *measures])


def signed(estimate: Estimate, higher: str, lower: str, null: float = 0.0) -> str:
    """`higher` or `lower` with the interval, where it leaves out the null; else that nothing is resolved."""
    if estimate.low > null:
        return f"{higher} ({estimate})"
    if estimate.high < null:
        return f"{lower} ({estimate})"
    return "unresolved" if np.isnan(estimate.value) else f"unresolved ({estimate})"


def known_or_unresolved(row: Any, column: str) -> str:
    """The value in a row of a table with its interval; "unresolved" where it is not a number."""
    value = getattr(row, column)
    if np.isnan(value):
        return "unresolved"
    return f"{value:.3g} [{getattr(row, f'{column}_low'):.3g}, {getattr(row, f'{column}_high'):.3g}]"


def band(axis: Axes, table: pd.DataFrame, x: str, column: str, index: int, label: str) -> None:
    """A curve with its interval; every curve has a colour, a line style and a marker of its own."""
    colour = COLOURS[index]
    axis.plot(
        table[x], table[column], color=colour, linestyle=LINES[index], marker=MARKERS[index], markersize=3, label=label
    )
    if f"{column}_low" in table:
        axis.fill_between(
            table[x].astype(float),
            table[f"{column}_low"],
            table[f"{column}_high"],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )


def symlog_steps(axis: Axes) -> None:
    """Steps on a logarithmic axis that begins at 0."""
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xlabel("step")
    axis.set_xlim(left=0)


def legend_above(axis: Axes, columns: int = 2, room: float = 0.3) -> None:
    """A legend over the curves, for which the axis is stretched by the share `room`."""
    low, high = axis.get_ylim()
    if axis.get_yscale() == "log":
        axis.set_ylim(low, high * (high / low) ** room)
    else:
        axis.set_ylim(low, high + room * (high - low))
    axis.legend(loc="upper left", ncol=columns, columnspacing=1.0)


def logarithmic(axis: Axes) -> None:
    """Both axes logarithmic, with labels at 1, 2 and 5 where an axis spans less than one and a half decades."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    for one in (axis.xaxis, axis.yaxis):
        low, high = one.get_view_interval()
        if high < 30 * low:
            one.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            one.set_major_formatter("{x:g}")
        one.set_minor_formatter(NullFormatter())
