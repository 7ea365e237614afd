"""What all figures share: their size, the styles of curves, ticks, and the writing of files.

Each curve has its own colour, line style and marker, so that curves can be told apart in grey as well.
"""

# ruff: noqa: E402 (matplotlib is imported with care before anything that imports it)

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from smesolve.matplotlib_import import import_matplotlib

import_matplotlib()

# isort: split
import matplotlib
import matplotlib.figure
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

__all__ = [
    "DPI",
    "DROPOUT",
    "ORDERS",
    "PAGE",
    "SEQUENCE",
    "CurveStyle",
    "Figure",
    "band",
    "drawing",
    "legend_above",
    "log_ticks",
    "logarithmic",
    "points",
    "save_figure",
    "symlog_steps",
]


PAGE = 6.8
"""Width (inches) of a page with two columns. Figures are as wide, or half as wide, so that journals need not scale
them."""

DPI = 300
"""Resolution of PNG files, in dots per inch."""

SCREEN_DPI = 120
"""Resolution in a notebook, which shows one pixel of the picture as one pixel of the screen."""


class CurveStyle(NamedTuple):
    """How one curve is drawn."""

    label: str
    colour: str
    line: str | tuple[int, tuple[int, ...]]
    marker: str

    @property
    def line_options(self) -> dict[str, Any]:
        """Options of `Axes.plot` for a line with markers."""
        return {"color": self.colour, "linestyle": self.line, "marker": self.marker}


SEQUENCE = (
    CurveStyle("", "#000000", "-", "o"),
    CurveStyle("", "#d55e00", "--", "s"),
    CurveStyle("", "#0072b2", "-.", "^"),
    CurveStyle("", "#009e73", ":", "D"),
    CurveStyle("", "#cc79a7", (0, (5, 1, 1, 1, 1, 1)), "v"),
    CurveStyle("", "#e69f00", (0, (1, 2)), "x"),
)
"""Styles of the curves of one panel, in their order."""

DROPOUT = SEQUENCE[0]._replace(label="dropout")
ORDERS: dict[int | str, CurveStyle] = {
    **{order: SEQUENCE[order]._replace(label=f"SME order {order}") for order in (1, 2, 3)},
    "poisson": SEQUENCE[4]._replace(label="training steps at random times"),
}

STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "mathtext.fontset": "stix",
    "pdf.fonttype": 42,
}

_ONE_AT_A_TIME = threading.RLock()


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows as it is, although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        with drawing():
            self.savefig(picture, format="png", dpi=SCREEN_DPI)
        return picture.getvalue()


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with matplotlib's defaults and `STYLE` in place of the user's settings, which are restored afterwards.

    matplotlib has one set of settings for all threads. So one thread draws at a time: otherwise the last one to finish
    would restore what another one has set. Figures that a program draws by itself in another thread see these settings.
    """
    with _ONE_AT_A_TIME, matplotlib.rc_context():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)  # defaults that are to go
            defaults: dict[Any, Any] = {
                key: value for key, value in dict.items(matplotlib.rcParamsDefault) if key != "backend"
            }
            matplotlib.rcParams.update(defaults | STYLE)
        yield


def save_figure(figure: matplotlib.figure.Figure, directory: Path, name: str) -> None:
    """Write name.png and name.pdf; the same figure gives the same bytes."""
    with drawing():
        figure.savefig(directory / f"{name}.png", dpi=DPI, metadata={"Software": None})
        figure.savefig(directory / f"{name}.pdf", metadata={"CreationDate": None})


def points(axis: Axes, x: pd.Series, y: pd.Series, resolved: pd.Series, style: CurveStyle) -> None:
    """Draw markers; markers of unresolved values are hollow."""
    for chosen, face in ((resolved.astype(bool), style.colour), (~resolved.astype(bool), "white")):
        axis.plot(
            x[chosen],
            y[chosen],
            linestyle="",
            marker=style.marker,
            color=style.colour,
            markerfacecolor=face,
            markersize=4,
            zorder=3,
        )


def log_ticks(axis: Axes, values: Iterable[float]) -> None:
    """Make the x axis logarithmic, with ticks only at these values."""
    values = sorted(set(values))
    if len(values) == 1:
        axis.set_xlim(values[0] / 2, values[0] * 2)  # before the scale changes: one value has no width
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(values, [f"{value:.3g}" for value in values])


def band(axis: Axes, table: pd.DataFrame, x: str, column: str, index: int, label: str) -> None:
    """Draw a curve of `SEQUENCE`, with its interval if the table has one."""
    style = SEQUENCE[index]
    axis.plot(table[x], table[column], markersize=3, label=label, **style.line_options)
    if f"{column}_low" in table:
        low, high = table[f"{column}_low"], table[f"{column}_high"]
        axis.fill_between(table[x].astype(float), low, high, color=style.colour, alpha=0.2, linewidth=0)


def symlog_steps(axis: Axes) -> None:
    """Make the x axis a logarithmic axis of step numbers that begins at 0."""
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xlabel("step")
    axis.set_xlim(left=0)


def legend_above(axis: Axes, columns: int = 2, room: float = 0.3) -> None:
    """Put a legend above the curves. The y axis is stretched by the share `room` to make space for it."""
    low, high = axis.get_ylim()
    if axis.get_yscale() == "log":
        axis.set_ylim(low, high * (high / low) ** room)
    else:
        axis.set_ylim(low, high + room * (high - low))
    axis.legend(loc="upper left", ncol=columns, columnspacing=1.0)


def logarithmic(axis: Axes) -> None:
    """Make both axes logarithmic, with labels at 1, 2 and 5 where an axis spans less than one and a half decades."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    for one in (axis.xaxis, axis.yaxis):
        low, high = one.get_view_interval()
        if high < 30 * low:
            one.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            one.set_major_formatter("{x:g}")
        one.set_minor_formatter(NullFormatter())
