"""What all figures share: their size, the styles of curves, ticks, and how they are written.

Each curve has a colour, a line style and a marker of its own, so that it can also be told apart in grey.
"""

# ruff: noqa: E402 (matplotlib is imported with care before anything that imports it)

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from smesolve.experiments.shared.matplotlib_import import import_matplotlib

import_matplotlib()

# isort: split
import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

__all__ = [
    "DPI",
    "DROPOUT",
    "ORDERS",
    "PAGE",
    "CurveStyle",
    "drawing",
    "log_ticks",
    "points",
    "save_figure",
]


PAGE = 6.8
"""Width (inches) of a page of two columns: figures are as wide, or half as wide, so no journal scales their fonts."""

DPI = 300
"""Of the PNG."""


class CurveStyle(NamedTuple):
    """How one process is drawn."""

    label: str
    colour: str
    line: str
    marker: str

    @property
    def line_options(self) -> dict[str, Any]:
        """Options of `Axes.plot` for a line with markers."""
        return {"color": self.colour, "linestyle": self.line, "marker": self.marker}


DROPOUT = CurveStyle("dropout", "#000000", "-", "o")
ORDERS = {1: CurveStyle("SME order 1", "#d55e00", "--", "s"), 2: CurveStyle("SME order 2", "#0072b2", "-.", "^")}

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


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with matplotlib's own defaults and `STYLE`, whatever the user's settings are; they are back afterwards."""
    with matplotlib.rc_context():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)  # defaults that are to go
            defaults = {key: value for key, value in dict.items(matplotlib.rcParamsDefault) if key != "backend"}
            matplotlib.rcParams.update(defaults | STYLE)
        yield


def save_figure(figure: Figure, directory: Path, name: str) -> None:
    """Write name.png and name.pdf; the same figure gives the same bytes."""
    with drawing():
        figure.savefig(directory / f"{name}.png", dpi=DPI, metadata={"Software": None})
        figure.savefig(directory / f"{name}.pdf", metadata={"CreationDate": None})


def points(axis: Axes, x: pd.Series, y: pd.Series, resolved: pd.Series, style: CurveStyle) -> None:
    """Markers, hollow where not resolved."""
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
    """A logarithmic x axis with ticks at these values alone."""
    values = sorted(set(values))
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(values, [f"{value:.3g}" for value in values])
    if len(values) == 1:
        axis.set_xlim(values[0] / 2, values[0] * 2)
