"""What a study of scaling writes, and what the figures and reports of these studies share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from smesolve.study.figures import DROPOUT, ORDERS, Look
from smesolve.study.markdown import table_of

__all__ = ["LOOKS", "QUADRATIC", "Section", "curve", "interval", "log_ticks", "markdown"]

QUADRATIC = Look("quadratic equation", "#009e73", ":", "D")

LOOKS = {"iteration": DROPOUT, "1": ORDERS[1], "2": ORDERS[2], "quadratic": QUADRATIC}


@dataclass(frozen=True)
class Section:
    """Tables and figures by file name without ending, and the report in Markdown."""

    tables: dict[str, pd.DataFrame]
    figures: dict[str, Figure]
    text: str


def interval(row: pd.Series | tuple, name: str, form: str = ".3g") -> str:
    """value [low, high] of the columns name, name_low, name_high; "-" where there is no value."""
    get = row.__getitem__ if isinstance(row, pd.Series) else lambda key: getattr(row, key)
    value, low, high = (float(get(name + end)) for end in ("", "_low", "_high"))
    if not np.isfinite(value):
        return "-"
    if not np.isfinite(low) or low == high:
        return format(value, form)
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def markdown(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; numbers with three digits."""
    cells = [[f"{cell:.3g}" if isinstance(cell, float | np.floating) else cell for cell in row] for row in rows]
    return table_of(headers, [["-" if cell == "nan" else cell for cell in row] for row in cells])


def curve(axis: Axes, x: pd.Series, part: pd.DataFrame, look: Look, label: str | None, line: str | None = None) -> None:
    """|relative| with its interval against x; hollow where unresolved."""
    size = part.relative.abs()
    half = (part.relative_high - part.relative_low) / 2
    bottom = size[size > 0].min() / 10 if (size > 0).any() else 1e-16
    axis.errorbar(
        x,
        size,
        [np.minimum(half, size - bottom).clip(lower=0), half],
        color=look.colour,
        linestyle=look.line if line is None else line,
        capsize=1.5,
        elinewidth=0.8,
        label=label,
    )
    for resolved, face in ((True, look.colour), (False, "white")):
        chosen = part.resolved.astype(bool) == resolved
        axis.plot(
            x[chosen], size[chosen], linestyle="", marker=look.marker, color=look.colour, markerfacecolor=face, zorder=3
        )


def log_ticks(axis: Axes, values: Iterable[float]) -> None:
    """A logarithmic x axis with ticks at these values alone."""
    values = sorted(set(values))
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(values, [f"{value:.3g}" for value in values])
