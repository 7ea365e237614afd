"""Figures, tables and words on weak errors that the experiments compare and weak-error share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.confidence import CONFIDENCE
from smesolve.experiments.shared.figures import ORDERS, log_ticks, points
from smesolve.experiments.shared.markdown import table_of
from smesolve.experiments.shared.weak_error_experiment import WeakErrorSettings

__all__ = [
    "at_horizon",
    "divergence",
    "errors_against_lr",
    "largest_errors",
    "measured_in_words",
    "name_of",
    "number",
    "slope_in_words",
    "slopes",
    "symbol_of",
]

INTERVALS = (
    f"Intervals are {CONFIDENCE:.0%} intervals for one point each. That of an error adds the solver's bias (estimated "
    "from paths at dt and dt/2 with common noise, with its own interval) to the Monte Carlo interval. An error "
    "whose interval holds 0 is not resolved: it may have either sign and nothing is claimed about it."
)


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


def errors_against_lr(axis: Axes, study: WeakErrorStudy, observable: str, predicted: bool) -> None:
    """Draw |error| at the horizon against the learning rate, with its fit and, where asked for, its prediction."""
    final = np.isclose(study.table.time, study.horizon) & (study.table.observable == observable)
    rows = study.table[final & study.table.error.notna()].sort_values("lr")
    fits = study.fit()
    fits = fits[fits.observable == observable].set_index("order")
    axis.set_yscale("log")
    heights = pd.concat([rows.error.abs(), _floor(rows)])
    heights = heights[heights > 0]
    bottom = 0.4 * heights.min() if len(heights) else 1e-3
    for order in sorted(rows.order.unique()):
        part, style, fit = rows[rows.order == order], ORDERS[order], fits.loc[order]
        size, floor = part.error.abs(), _floor(part)
        axis.plot(part.lr, floor.clip(lower=bottom), color=style.colour, linestyle=":", linewidth=0.8, zorder=1)
        half = (part.high - part.low) / 2
        axis.errorbar(
            part.lr,
            size.clip(lower=bottom),
            np.array([np.minimum(half, (size - bottom).clip(lower=0)), half]),
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
            power = "" if order == 1 else f"^{order}"
            axis.plot(
                ends,
                abs(fit.predicted_constant) * ends**order,
                color=style.colour,
                linewidth=0.5,
                zorder=1,
                label=f"predicted: {abs(fit.predicted_constant):.3g} $\\epsilon{power}$",
            )
    axis.plot([], [], color="0.3", linestyle=":", linewidth=0.8, label="noise floor (95% half-width)")
    if len(rows) and not rows.resolved.all():
        axis.plot([], [], color="0.3", marker="o", markerfacecolor="white", linestyle="", label="not resolved")
    axis.set_ylim(bottom=0.6 * bottom)
    low, high = axis.get_ylim()
    # Room for the legend above the points.
    axis.set_ylim(low, high * (high / low) ** 0.45)
    log_ticks(axis, study.table.lr)
    axis.set_xlabel("learning rate $\\epsilon$")
    axis.set_ylabel(f"|error| of the mean {name_of(observable)}")
    axis.legend(loc="upper left")
    axis.set_title(f"weak error at $T$ = {study.horizon:g}", loc="left")


def _floor(rows: pd.DataFrame) -> pd.Series:
    """Return the half-width of the interval, solver bias included: a smaller error is not resolved."""
    return (rows.high - rows.low) / 2


def measured_in_words(study: WeakErrorStudy, settings: WeakErrorSettings) -> str:
    """Return what was compared, on how many paths, and what the intervals are."""
    table = study.table
    orders = " and ".join(str(order) for order in sorted(table.order.unique()))
    steps = ", ".join(
        f"{dt:g} (order {order}, lr {lr:g})"
        for (order, lr), dt in table.groupby(["order", "lr"], sort=False).dt.first().items()
    )
    lrs = ", ".join(f"{lr:g}" for lr in table.lr.unique())
    counts = pd.concat([table.discrete_paths, table.sde_paths])
    paths = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    aim = (
        ""
        if settings.rel_tol is None
        else f"; paths were added, up to {settings.max_paths} for rel_tol = {settings.rel_tol:g}"
    )
    return (
        f"All paths start from one theta0 (network.seed {settings.network.seed}). "
        f"Compared: the discrete dropout iteration and its modified equation of order {orders}, at "
        f"{table.time.nunique()} times up to T = {study.horizon:g}, for learning rates {lrs}. Paths on each side: "
        f"{paths}{aim}; control variates: {settings.control}. Scheme {table.scheme.iloc[0]} with "
        f"dt = {steps}.\n\n{INTERVALS}"
    )


def divergence(study: WeakErrorStudy) -> str:
    """Return which paths diverged."""
    diverged = study.table[study.table.diverged > 0].drop_duplicates(["order", "lr"])
    lines = [
        f"- {row.diverged} paths diverged: order {row.order}, lr {row.lr:g} ({row.discrete_diverged} of "
        f"{row.discrete_paths} of dropout, {row.sde_diverged} of {row.sde_paths} of the SME). No mean over the others "
        "is taken."
        for row in diverged.itertuples()
    ]
    return "\n".join(lines) or "No path diverged."


def at_horizon(study: WeakErrorStudy) -> pd.DataFrame:
    """Return the rows at the horizon."""
    rows = study.table[np.isclose(study.table.time, study.horizon)]
    return rows.sort_values(["observable", "lr", "order"], ascending=[True, False, True], kind="stable")


def slopes(study: WeakErrorStudy) -> str:
    """Return the table of the slopes."""
    fit = study.fit()
    table = table_of(
        ["order", "observable", "slope", "95% interval", "verdict", "points", "p-value of the fit", "left out"],
        (
            [
                row.order,
                row.observable,
                *slope_in_words(row),
                row.verdict,
                row.points,
                number(row.p_value, ".2f"),
                row.left_out or "none",
            ]
            for row in fit.itertuples()
        ),
    )
    note = (
        "Slopes p of error = c lr^p (1 + d lr + ...) by weighted least squares, the terms beyond d bounded by what the "
        "errors leave room for (two points: of c lr^p, the local slope between them); a slope needs two resolved "
        "points of one sign. `verdict`: certified where the interval holds the nominal order and neither of its "
        "neighbours. p-value 1.00: as many parameters as points, so the fit is not tested."
    )
    return f"{table}\n\n{note}"


def slope_in_words(row: Any) -> tuple[str, str]:
    """Return the slope of a row of the fit, and its interval."""
    if not np.isfinite(row.slope):
        return "not resolved", ""
    return f"{row.slope:.3f}", f"[{row.slope_low:.3f}, {row.slope_high:.3f}]"


def largest_errors(study: WeakErrorStudy) -> str:
    """Return the table of the largest errors over the times."""
    table = table_of(
        ["observable", "lr", "order", "max error", "95% interval", "near time", "resolved"],
        (
            [
                row.observable,
                f"{row.lr:g}",
                row.order,
                f"{row.error:.2e}",
                f"[{row.low:.2e}, {row.high:.2e}]",
                f"{row.time:g}",
                "yes" if row.resolved else "no",
            ]
            for row in study.maximum().itertuples()
        ),
    )
    meaning = (
        "max_k |E g(theta_k) - E g(Theta_(k lr))| over the times of the study; intervals hold for all times at once."
    )
    return f"{meaning}\n\n{table}"


def number(value: float, form: str) -> str:
    """Return a number in a format, "-" where it is not finite."""
    return format(value, form) if np.isfinite(value) else "-"
