"""The figure of weak errors against the learning rate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smesolve.figures import ORDERS, PAGE, Figure, drawing, legend_above, log_ticks, points
from smesolve.solver.orders import sorted_orders, weak_order

__all__ = ["errors_against_lr", "name_of", "symbol_of", "weak_error_figure"]

SYMBOLS = {
    "loss": r"$R_S$",
    "modified_loss": r"$L_S$",
    "squared_norm": r"$|\theta|^2$",
    "test_loss": r"$R_\mathrm{test}$",
    "accuracy": r"$A_S$",
    "test_accuracy": r"$A_\mathrm{test}$",
}

NAMES = {name: name.replace("_", " ") for name in SYMBOLS}


def name_of(observable: str) -> str:
    """Return the name of an observable in a figure."""
    return NAMES.get(observable, observable.replace("$", r"\$"))


def symbol_of(observable: str) -> str:
    """Return the symbol of an observable in a figure."""
    return SYMBOLS.get(observable, observable.replace("$", r"\$"))


def errors_against_lr(axis: Axes, final: pd.DataFrame, fits: pd.DataFrame, observable: str, predicted: bool) -> None:
    """Draw |error| at the horizon against the learning rate, with its fit and, if wanted, the predicted leading terms.

    `final` holds rows of a weak-error table at the horizon, and `fits` is a result of `WeakErrorStudy.fit`.
    """
    rows = final[(final.observable == observable) & final.error.notna()].sort_values("lr")
    fits = fits[fits.observable == observable].set_index("order")
    axis.set_yscale("log")
    heights = pd.concat([rows.error.abs(), _floor(rows)])
    heights = heights[heights > 0]
    bottom = 0.4 * heights.min() if len(heights) else 1e-3
    for order in sorted_orders(rows.order):
        part, style, fit = rows[rows.order == order], ORDERS[order], fits.loc[order]
        size, floor = part.error.abs(), _floor(part)
        axis.plot(part.lr, floor.clip(lower=bottom), color=style.colour, linestyle=":", linewidth=0.8, zorder=1)
        axis.errorbar(
            part.lr,
            size.clip(lower=bottom),
            np.array([np.minimum(floor, (size - bottom).clip(lower=0)), floor]),
            color=style.colour,
            linestyle="",
            capsize=1.5,
            elinewidth=0.8,
        )
        points(axis, part.lr, size.clip(lower=bottom), part.resolved, style)
        label = style.label
        used = part[part.resolved]
        if np.isfinite(fit.slope):
            anchor = used.iloc[0]
            lr = np.array([used.lr.min(), part.lr.max()])
            line = abs(anchor.error) * (lr / anchor.lr) ** fit.slope
            axis.plot(lr, line, color=style.colour, linestyle="--", zorder=1.5, linewidth=0.9)
            half = (fit.slope_high - fit.slope_low) / 2
            decimals = 2 if half >= 0.02 else 3
            interval = f"[{fit.slope_low:.{decimals}f}, {fit.slope_high:.{decimals}f}]"
            label = f"{style.label}: slope {fit.slope:.{decimals}f} {interval}"
        axis.plot([], [], color=style.colour, linestyle="--", marker=style.marker, linewidth=0.9, label=label)
        if predicted and np.isfinite(fit.predicted_constant):
            ends = np.array([part.lr.min(), part.lr.max()])
            power = "" if weak_order(order) == 1 else f"^{order}"
            axis.plot(
                ends,
                abs(fit.predicted_constant) * ends ** weak_order(order),
                color=style.colour,
                linewidth=0.5,
                zorder=1,
                label=f"predicted: {abs(fit.predicted_constant):.3g} $\\epsilon{power}$",
            )
    axis.plot([], [], color="0.3", linestyle=":", linewidth=0.8, label="noise floor (95% half-width)")
    if len(rows) and not rows.resolved.all():
        axis.plot([], [], color="0.3", marker="o", markerfacecolor="white", linestyle="", label="not resolved")
    axis.set_ylim(bottom=0.6 * bottom)
    log_ticks(axis, final.lr)
    axis.set_xlabel("learning rate $\\epsilon$")
    axis.set_ylabel(f"|error| of the mean {name_of(observable)}")
    legend_above(axis, columns=1, room=0.45)
    axis.set_title(f"weak error at $T$ = {final.time.iloc[0]:g}", loc="left")


def _floor(rows: pd.DataFrame) -> pd.Series:
    """Return the half-width of the interval, solver bias included: a smaller error is not resolved."""
    return (rows.high - rows.low) / 2


MOST_PANELS = 12
"""Observables in a figure; each panel takes a third of a second."""


def weak_error_figure(final: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Draw |error| at the horizon against the learning rate, log-log, one panel per observable.

    Points have 95% intervals and are hollow where unresolved. Fits are dashed, with their slopes; the noise floor is
    dotted; the predicted leading term is a thin line. Of more than 12 observables, the first 12 are drawn, and the
    figure says so. The arguments are those of `errors_against_lr`.
    """
    with drawing():
        observables, count = list(final.observable.unique())[:MOST_PANELS], final.observable.nunique()
        columns = min(len(observables), 2)
        lines = -(-len(observables) // columns)
        figure = Figure(figsize=(PAGE / 2 * columns, 2.9 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).flatten()
        for axis, observable in zip(axes, observables, strict=False):
            errors_against_lr(axis, final, fits, observable, predicted=True)
        for axis in axes[len(observables) :]:
            axis.set_visible(False)
        if count > MOST_PANELS:
            figure.suptitle(f"the first {MOST_PANELS} of {count} observables; the table has all of them")
        return figure
