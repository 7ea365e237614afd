"""Figures of a weak-error study, and what all figures share: size, style, looks, ticks.

Each curve has a colour, a line style and a marker of its own, so that it can also be told apart in grey.
"""

# ruff: noqa: E402 (matplotlib is imported with care before anything that imports it)

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from smesolve.study.matplotlib_import import import_matplotlib

import_matplotlib()

# isort: split
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from smesolve.comparison.weak_error_study import WeakErrorStudy

__all__ = [
    "DPI",
    "DROPOUT",
    "ORDERS",
    "PAGE",
    "Look",
    "comparison_figure",
    "drawing",
    "log_ticks",
    "points",
    "save_figure",
    "weak_error_figure",
]


PAGE = 6.8
"""Width (inches) of a page of two columns: figures are as wide, or half as wide, so no journal scales their fonts."""

DPI = 300
"""Of the PNG."""


class Look(NamedTuple):
    """How one process is drawn."""

    label: str
    colour: str
    line: str
    marker: str


DROPOUT = Look("dropout", "#000000", "-", "o")
ORDERS = {1: Look("SME order 1", "#d55e00", "--", "s"), 2: Look("SME order 2", "#0072b2", "-.", "^")}

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

SYMBOLS = {"loss": r"$R_S$", "modified_loss": r"$L_S$", "squared_norm": r"$|\theta|^2$"}

NAMES = {"loss": "loss", "modified_loss": "modified loss", "squared_norm": "squared norm"}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with matplotlib's own defaults and `STYLE`, whatever the user's settings are; they are back afterwards."""
    with matplotlib.rc_context():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)  # defaults that are to go
            defaults = {key: value for key, value in dict.items(matplotlib.rcParamsDefault) if key != "backend"}
            matplotlib.rcParams.update(defaults | STYLE)
        yield


def comparison_figure(study: WeakErrorStudy) -> Figure:
    """Dropout beside its modified equation: means over time, errors over time, final distribution, error against lr.

    (a) to (c) are at the largest learning rate without a diverged path, (c) and (d) at the horizon. (b), (c) and (d)
    show the first observable, (a) the first two.
    """
    with drawing():
        figure = Figure(figsize=(PAGE, 5.2), layout="constrained")
        axes = figure.subplots(2, 2)
        whole = study.table.groupby("lr").diverged.sum()
        lr = whole[whole == 0].index.max() if (whole == 0).any() else study.table.lr.max()
        rows = study.table[study.table.lr == lr]
        observables = list(rows.observable.unique())
        _means(axes[0, 0], rows, observables[:2], lr)
        _errors_over_time(axes[0, 1], rows[rows.observable == observables[0]], observables[0], lr)
        _distribution(axes[1, 0], study, lr, observables[0])
        _errors_against_lr(axes[1, 1], study, observables[0], predicted=False)
        for axis, letter in zip(axes.flat, "abcd", strict=True):
            axis.set_title(f"({letter}) {axis.get_title(loc='left')}", loc="left")
        return figure


def weak_error_figure(study: WeakErrorStudy) -> Figure:
    """|error| at the horizon against the learning rate, log-log, one panel for each observable.

    Points with 95% intervals, hollow where unresolved; dashed fits with their slopes; the noise floor dotted; the
    predicted leading term as a thin line.
    """
    with drawing():
        observables = list(study.table.observable.unique())
        columns = min(len(observables), 2)
        lines = -(-len(observables) // columns)
        figure = Figure(figsize=(PAGE / 2 * columns, 2.9 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).flat
        for axis, observable in zip(axes, observables, strict=False):
            _errors_against_lr(axis, study, observable, predicted=True)
        for axis in list(axes)[len(observables) :]:
            axis.set_visible(False)
        return figure


def save_figure(figure: Figure, directory: Path, name: str) -> None:
    """Write name.png and name.pdf; the same figure gives the same bytes."""
    with drawing():
        figure.savefig(directory / f"{name}.png", dpi=DPI, metadata={"Software": None})
        figure.savefig(directory / f"{name}.pdf", metadata={"CreationDate": None})


def points(axis: Axes, x: pd.Series, y: pd.Series, resolved: pd.Series, look: Look) -> None:
    """Markers, hollow where not resolved."""
    for chosen, face in ((resolved.astype(bool), look.colour), (~resolved.astype(bool), "white")):
        axis.plot(
            x[chosen],
            y[chosen],
            linestyle="",
            marker=look.marker,
            color=look.colour,
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


def _name(observable: str) -> str:
    return NAMES.get(observable, observable.replace("$", r"\$"))


def _symbol(observable: str) -> str:
    return SYMBOLS.get(observable, observable.replace("$", r"\$"))


def _means(axis: Axes, rows: pd.DataFrame, observables: list[str], lr: float) -> None:
    """Means over time; the markers of the three curves are staggered, as the curves lie on each other."""
    widest, lowest, highest = 0.0, np.inf, -np.inf
    for observable in observables:
        part = rows[rows.observable == observable]
        curves = [(DROPOUT, part[part.order == part.order.iloc[0]], "discrete")]
        curves += [(ORDERS[order], part[part.order == order], "sde") for order in sorted(part.order.unique())]
        for k, (look, curve, side) in enumerate(curves):
            mean, half = curve[side].to_numpy(), curve[f"{side}_half_width"].to_numpy()
            axis.plot(
                curve.time,
                mean,
                color=look.colour,
                linestyle=look.line,
                marker=look.marker,
                markevery=(min(k, len(curve) - 1), len(curves)),
                label=look.label if observable == observables[0] else None,
            )
            axis.fill_between(curve.time, mean - half, mean + half, color=look.colour, alpha=0.25, linewidth=0)
            widest = np.nanmax([widest, half.max()])
            lowest, highest = np.nanmin([lowest, mean.min()]), np.nanmax([highest, mean.max()])
        end = curves[0][1].discrete.iloc[-1]
        axis.annotate(
            _symbol(observable),
            (part.time.max(), end),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )
    thin = widest < 0.01 * (highest - lowest)
    axis.legend(title="95% intervals: thinner than the lines" if thin else "bands: 95% intervals", title_fontsize=7)
    axis.set_xlabel("time $t = k\\,\\epsilon$")
    axis.set_ylabel(" and ".join(f"mean {_name(o)} {_symbol(o)}" for o in observables))
    axis.set_title(rf"means, $\epsilon$ = {lr:g}", loc="left")


def _errors_over_time(axis: Axes, rows: pd.DataFrame, observable: str, lr: float) -> None:
    axis.axhline(0, color="0.5", linewidth=0.6, zorder=0)
    orders = sorted(rows.order.unique())
    spacing = rows.time.min()
    largest = np.nanmax(np.abs(rows[["low", "high"]].to_numpy()), initial=0.0)
    power = int(np.floor(np.log10(largest))) if largest > 0 else 0
    for k, order in enumerate(orders):
        curve, look = rows[rows.order == order], ORDERS[order]
        # Shifted a little, so that the intervals of the two orders do not cover each other.
        time = curve.time + 0.12 * spacing * (k - (len(orders) - 1) / 2)
        error, half = curve.error / 10.0**power, (curve.high - curve.low) / 2 / 10.0**power
        axis.errorbar(
            time,
            error,
            half,
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            capsize=1.5,
            elinewidth=0.8,
            label=look.label,
        )
        points(axis, time, error, curve.resolved, look)
    axis.set_xlabel("time $t = k\\,\\epsilon$")
    axis.set_ylabel(f"error of the mean {_name(observable)} [$10^{{{power}}}$]")
    axis.legend(title="hollow: not resolved", title_fontsize=7)
    axis.set_title(rf"SME minus dropout, $\epsilon$ = {lr:g}", loc="left")


def _distribution(axis: Axes, study: WeakErrorStudy, lr: float, observable: str) -> None:
    orders = sorted(study.table.order.unique())
    looks = [DROPOUT, *(ORDERS[order] for order in orders)]
    samples = [study.samples[lr, order][observable] for order in (None, *orders)]
    samples = [values[np.isfinite(values)] for values in samples]
    together = np.concatenate(samples)
    axis.set_title(rf"distribution over paths, $\epsilon$ = {lr:g}", loc="left")
    if not len(together):
        axis.text(0.5, 0.5, "all paths diverged", transform=axis.transAxes, ha="center")
        return
    low, high = np.quantile(together, [0.001, 0.999])
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    smallest = min(map(len, samples))
    bins = np.linspace(low, high, int(np.clip(2 * smallest ** (1 / 3), 8, 40)) + 1)
    for look, values in zip(looks, samples, strict=True):
        filled = look is DROPOUT
        weights = np.full(len(values), 1 / (max(len(values), 1) * (bins[1] - bins[0])))
        axis.hist(
            values,
            bins,
            weights=weights,
            histtype="stepfilled" if filled else "step",
            color="0.85" if filled else look.colour,
            edgecolor=look.colour,
            linestyle=look.line,
            linewidth=0.9,
            label=f"{look.label}, {len(values)} paths",
        )
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])
    axis.set_xlabel(f"{_name(observable)} {_symbol(observable)} at $T$ = {study.horizon:g}")
    axis.set_ylabel("density")
    axis.legend()


def _errors_against_lr(axis: Axes, study: WeakErrorStudy, observable: str, predicted: bool) -> None:
    final = np.isclose(study.table.time, study.horizon) & (study.table.observable == observable)
    rows = study.table[final & study.table.error.notna()].sort_values("lr")
    fits = study.fit()
    fits = fits[fits.observable == observable].set_index("order")
    axis.set_yscale("log")
    heights = pd.concat([rows.error.abs(), _floor(rows)])
    heights = heights[heights > 0]
    bottom = 0.4 * heights.min() if len(heights) else 1e-3
    for order in sorted(rows.order.unique()):
        part, look, fit = rows[rows.order == order], ORDERS[order], fits.loc[order]
        size, floor = part.error.abs(), _floor(part)
        axis.plot(part.lr, floor.clip(lower=bottom), color=look.colour, linestyle=":", linewidth=0.8, zorder=1)
        half = (part.high - part.low) / 2
        axis.errorbar(
            part.lr,
            size.clip(lower=bottom),
            np.array([np.minimum(half, (size - bottom).clip(lower=0)), half]),
            color=look.colour,
            linestyle="",
            capsize=1.5,
            elinewidth=0.8,
        )
        points(axis, part.lr, size.clip(lower=bottom), part.resolved, look)
        label = look.label
        used = part[part.resolved]
        if np.isfinite(fit.slope):
            anchor = used.iloc[0]
            lr = np.array([used.lr.min(), part.lr.max()])
            line = abs(anchor.error) * (lr / anchor.lr) ** fit.slope
            axis.plot(lr, line, color=look.colour, linestyle="--", zorder=1.5, linewidth=0.9)
            half = (fit.slope_high - fit.slope_low) / 2
            decimals = 2 if half >= 0.02 else 3
            interval = f"[{fit.slope_low:.{decimals}f}, {fit.slope_high:.{decimals}f}]"
            label = f"{look.label}: slope {fit.slope:.{decimals}f} {interval}"
        axis.plot([], [], color=look.colour, linestyle="--", marker=look.marker, linewidth=0.9, label=label)
        if predicted and np.isfinite(fit.predicted_constant):
            ends = np.array([part.lr.min(), part.lr.max()])
            power = "" if order == 1 else f"^{order}"
            axis.plot(
                ends,
                abs(fit.predicted_constant) * ends**order,
                color=look.colour,
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
    axis.set_ylabel(f"|error| of the mean {_name(observable)}")
    axis.legend(loc="upper left")
    axis.set_title(f"weak error at $T$ = {study.horizon:g}", loc="left")


def _floor(rows: pd.DataFrame) -> pd.Series:
    """Half-width of the interval, solver bias included: a smaller error is not resolved."""
    return (rows.high - rows.low) / 2
