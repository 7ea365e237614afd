"""Result and figure of the comparison of flows with dropout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smesolve.experiments.shared.markdown import plain
from smesolve.figures import PAGE, SEQUENCE, Figure, drawing, log_ticks
from smesolve.result import Result, sentences

__all__ = ["RegularisationStudy", "order_sentences", "regularisation_figure"]


@dataclass(frozen=True, repr=False)
class RegularisationStudy(Result):
    """Errors of flows and SMEs relative to dropout."""

    table: pd.DataFrame
    """model, lr, observable, value, dropout, error, stderr, low, high, resolved, at the horizon."""
    fits: pd.DataFrame
    """model, nominal order, observable, slope with interval, constant, points, p_value, left_out."""

    def summary(self) -> str:
        """Return the order of each flow and equation, one sentence per line."""
        return sentences(order_sentences(self.fits))

    def plot(self) -> Figure:
        """Return |error| against the learning rate."""
        return regularisation_figure(self)


def order_sentences(fits: pd.DataFrame) -> str:
    """Return the order of each flow and equation, as a list in Markdown."""
    return "\n".join(
        f"- {row.model}, mean {plain(row.observable.replace('_', ' '))}: "
        + (
            f"order {row.slope:.2f} [{row.slope_low:.2f}, {row.slope_high:.2f}] over {row.points} learning rates"
            if np.isfinite(row.slope)
            else "order not resolved"
        )
        + f"; theory: {row.nominal}."
        for row in fits.itertuples()
    )


def regularisation_figure(study: RegularisationStudy, exact: pd.DataFrame | None = None) -> Figure:
    """Draw |error| against lr: (a) the network; if exact errors are given, (b) mean parameter and (c) mean loss."""
    first = study.table.observable.iloc[0]
    panels = [(f"mean {first.replace('_', ' ')}, network", study.table[study.table.observable == first])]
    if exact is not None:
        panels += [
            ("parameter mean, linear model", exact[exact.observable == "theta[0]"]),
            ("mean loss, linear model", exact[exact.observable == "loss"]),
        ]
    models = list((study.table if exact is None else exact).model.unique())
    with drawing():
        figure = Figure(figsize=(PAGE * max(len(panels), 2) / 3, 3.4), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, letter, (title, rows) in zip(axes, "abc", panels, strict=False):
            for k, model in enumerate(models):
                _draw_errors(axis, rows[rows.model == model].sort_values("lr"), k, model)
            if (rows.error != 0).any():
                axis.set_yscale("log")
            log_ticks(axis, rows.lr)
            axis.set_xlabel("learning rate $\\epsilon$")
            axis.set_title(f"({letter}) {title}", loc="left")
        axes[0].set_ylabel("|error|")
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncol=len(panels))
        return figure


def _draw_errors(axis: Axes, rows: pd.DataFrame, index: int, label: str) -> None:
    style, size = SEQUENCE[index], rows.error.abs()
    axis.plot(rows.lr, size, label=label, markersize=3, **style.line_options)
    if "low" in rows:
        half = (rows.high - rows.low) / 2
        room = np.array([np.minimum(half, 0.9 * size), half])
        axis.errorbar(rows.lr, size, room, color=style.colour, linestyle="", capsize=1.5)
