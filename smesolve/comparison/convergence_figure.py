"""The figure of a measurement of convergence: error against step, and error against work."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smesolve.comparison.weak_error_figure import name_of
from smesolve.figures import PAGE, SEQUENCE, CurveStyle, Figure, drawing, legend_above, log_ticks, points

__all__ = ["convergence_figure"]


def convergence_figure(table: pd.DataFrame, fits: pd.DataFrame, kind: str) -> Figure:
    """Draw |error| with its interval against the step and against seconds, a row for each observable.

    Hollow points are not resolved. `table` and `fits` are those of a `ConvergenceStudy`, and `kind` is "weak" or
    "strong".
    """
    observables = list(table.observable.unique())
    with drawing():
        figure = Figure(figsize=(PAGE, 2.9 * len(observables)), layout="constrained")
        for line, observable in zip(figure.subplots(len(observables), 2, squeeze=False), observables, strict=True):
            rows = table[(table.observable == observable) & table.error.notna()]
            orders = fits[fits.observable == observable].set_index("scheme")
            for number, (scheme, part) in enumerate(rows.groupby("scheme", sort=False)):
                style = SEQUENCE[number % len(SEQUENCE)]
                fit = orders.loc[scheme]
                order = f": order {fit.order:.2f}" if np.isfinite(fit.order) else ""
                _draw(line[0], part, part["dt"], style, f"{scheme}{order}")
                _draw(line[1], part, part.seconds, style, str(scheme))
            for axis in line:
                axis.set_yscale("log")
                axis.set_ylabel(f"{kind} error of {name_of(observable)}")
                legend_above(axis, columns=1 if len(orders) < 3 else 2, room=0.12 + 0.08 * len(orders))
            log_ticks(line[0], rows["dt"])
            line[0].set_xlabel("step dt")
            line[0].set_title("convergence; hollow: not resolved", loc="left")
            line[1].set_xscale("log")
            line[1].set_xlabel(f"seconds for {int(table.paths.max())} paths")
            line[1].set_title("work and precision", loc="left")
        return figure


def _draw(axis: Axes, rows: pd.DataFrame, x: pd.Series, style: CurveStyle, label: str) -> None:
    """Draw sizes of errors with their intervals, as far as these fit on a log scale."""
    size, half = rows.error.abs(), (rows.high - rows.low) / 2
    room = np.array([np.minimum(half, 0.9 * size), half])
    axis.errorbar(x, size, room, capsize=1.5, label=label, **style.line_options)
    points(axis, x, size, rows.resolved, style)
