"""Dropout compared with its modified equation: curves, distributions, errors."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from smesolve.comparison.agreement import agreement, at_most, headline, in_short, leading_rows
from smesolve.comparison.distribution_distance import DistributionDistance, distribution_distance
from smesolve.comparison.outcomes import Status
from smesolve.comparison.validity_range import ValidityRange
from smesolve.comparison.weak_error_figure import errors_against_lr, name_of, symbol_of
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.confidence import with_interval
from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.error_curves import with_reasons
from smesolve.experiments.shared.markdown import join, plain, table_of
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.section import Captioned, Section, formatted, interval, markdown
from smesolve.experiments.shared.validity_parts import ValidityPart
from smesolve.experiments.shared.weak_error_experiment import WeakErrorExperiment
from smesolve.experiments.shared.weak_error_parts import (
    at_horizon,
    bias_format,
    by_defects,
    divergence,
    largest_errors,
    measured_in_words,
    slopes,
)
from smesolve.figures import DROPOUT, ORDERS, PAGE, Figure, drawing, points
from smesolve.solver.orders import sorted_orders
from smesolve.solver.time_grid import even_grid

__all__ = ["Compare", "comparison_figure"]

CURVE_TIMES = 12
"""Largest number of times of observation, for curves over time."""

CAPTION = (
    "(a) means over time, (b) errors of the means over time, (c) distribution over paths at the horizon, (d) "
    "|error| at the horizon against the learning rate. Hollow: not resolved."
)

BY_DEFECTS = (
    "(a) means over time, (b) errors of the means over time, (c) |error| at the horizon against the learning rate, by "
    "defects. Hollow: not resolved."
)


@experiment("compare")
class Compare(WeakErrorExperiment):
    """Dropout compared with its modified equation: curves, distributions, errors."""

    title = "Dropout against its stochastic modified equation"
    example = "examples/digits.yaml --lrs '[0.1]' --out results/digits"
    writes = "tables (CSV), figures (PNG and PDF), blocks.journal (finished blocks of paths, for extend)"
    samples = 4096

    @cached_property
    def validity(self) -> ValidityPart:
        """The range of validity of the network, for the report."""
        return ValidityPart(self.design, self.size.work, self.settings.workers)

    def cells(self) -> list[Cell]:
        """Return the cells of the study, and the cell of the range of validity if it is cheap."""
        return [*super().cells(), *self.validity.cells(self.journal)]

    @property
    def times(self) -> list[float] | None:
        """The finest even grid of at most `CURVE_TIMES` times that all learning rates and dt divide.

        None if there is no such grid: weak_error then raises an error that names the step.
        """
        s = self.settings
        return even_grid(s.horizon, [step for step in (*s.lrs, s.dt) if step is not None], CURVE_TIMES)

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the comparison of dropout with its modified equation, in words and tables."""
        study = self.result(results)
        validity = next((result for result in results if isinstance(result, ValidityRange)), None)
        distances = distances_at_horizon(study)
        conclusion = join(
            f"**{plain(in_short(at_horizon(study)))}**",
            _agreements(study),
            _spreads(distances),
            self.other_estimator.conclusion(study, self.beside(results)),
            f"- {plain(validity.conclusion())}" if validity else "",
            divergence(study),
        )
        text = join(
            measured_in_words(study, self.settings),
            _horizon_table(study),
            "## Order: error against learning rate",
            slopes(study),
            "## Largest error over the times",
            largest_errors(study),
            *([] if by_defects(study) else _about_distributions(study, distances)),
            self.other_estimator.text(study, self.beside(results)),
            self.validity.text(validity) if validity else "",
        )
        tables = {"table": study.table} | ({} if by_defects(study) else {"distributions": distances})
        caption = BY_DEFECTS if by_defects(study) else CAPTION
        figures = {"comparison": Captioned(comparison_figure(study), caption)}
        return [Section(f"At the horizon T = {study.horizon:g}", tables, figures, text, conclusion.strip())]


def comparison_figure(study: WeakErrorStudy) -> Figure:
    """Draw means over time, errors over time, the final distribution, and the error against lr.

    Panels (a) to (c) are at the largest learning rate without a diverged path, (c) and (d) at the horizon. Panels (b),
    (c) and (d) show the first observable, (a) the first two. Without paths of the equations, as with defects, the
    distribution is left out.
    """
    layout = "AB;CC" if by_defects(study) else "AB;CD"
    with drawing():
        figure = Figure(figsize=(PAGE, 5.2), layout="constrained")
        axes = figure.subplot_mosaic(layout)
        last = max(axes)
        whole = study.table.groupby("lr").diverged.sum()
        lr = whole[whole == 0].index.max() if (whole == 0).any() else study.table.lr.max()
        rows = study.table[study.table.lr == lr]
        observables = list(rows.observable.unique())
        _means(axes["A"], rows, observables[:2], lr)
        _errors_over_time(axes["B"], rows[rows.observable == observables[0]], observables[0], lr)
        if last == "D":
            _distribution(axes["C"], study, lr, observables[0])
        errors_against_lr(axes[last], at_horizon(study), study.fit(), observables[0], predicted=False)
        for letter, axis in axes.items():
            axis.set_title(f"({letter.lower()}) {axis.get_title(loc='left')}", loc="left")
        return figure


def _means(axis: Axes, rows: pd.DataFrame, observables: list[str], lr: float) -> None:
    """Draw means over time; the markers of the three curves are staggered, because the curves overlap."""
    widest, lowest, highest = 0.0, np.inf, -np.inf
    for observable in observables:
        part = rows[rows.observable == observable]
        curves = [(DROPOUT, part[part.order == part.order.iloc[0]], "discrete")]
        curves += [(ORDERS[order], part[part.order == order], "sde") for order in sorted_orders(part.order)]
        for k, (style, curve, side) in enumerate(curves):
            mean, half = curve[side].to_numpy(), _half_width(curve, side).to_numpy()
            label = style.label if observable == observables[0] else None
            every = min(k, len(curve) - 1), len(curves)
            axis.plot(curve.time, mean, markevery=every, label=label, **style.line_options)
            axis.fill_between(curve.time, mean - half, mean + half, color=style.colour, alpha=0.25, linewidth=0)
            widest = np.nanmax([widest, half.max()])
            lowest, highest = np.nanmin([lowest, mean.min()]), np.nanmax([highest, mean.max()])
        end = curves[0][1].discrete.iloc[-1]
        axis.annotate(
            symbol_of(observable),
            (part.time.max(), end),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )
    thin = widest < 0.01 * (highest - lowest)
    axis.legend(
        loc="best", title="95% intervals: thinner than the lines" if thin else "bands: 95% intervals", title_fontsize=7
    )
    axis.set_xlabel("time $t = k\\,\\epsilon$")
    axis.set_ylabel(" and ".join(f"mean {name_of(o)} {symbol_of(o)}" for o in observables))
    axis.set_title(rf"means, $\epsilon$ = {lr:g}", loc="left")


def _half_width(curve: pd.DataFrame, side: str) -> pd.Series:
    """Return the half-width of the mean of one side; by defects the half-width of the equation is a sum of two."""
    name = f"{side}_half_width"
    return curve[name] if name in curve else curve.discrete_half_width + (curve.high - curve.low) / 2


def _errors_over_time(axis: Axes, rows: pd.DataFrame, observable: str, lr: float) -> None:
    axis.axhline(0, color="0.5", linewidth=0.6, zorder=0)
    orders = sorted_orders(rows.order)
    spacing = rows.time.min()
    largest = np.nanmax(np.abs(rows[["low", "high"]].to_numpy()), initial=0.0)
    power = int(np.floor(np.log10(largest))) if largest > 0 else 0
    for k, order in enumerate(orders):
        curve, style = rows[rows.order == order], ORDERS[order]
        # Shifted a little, so that the intervals of the two orders do not cover each other.
        time = curve.time + 0.12 * spacing * (k - (len(orders) - 1) / 2)
        error, half = curve.error / 10.0**power, (curve.high - curve.low) / 2 / 10.0**power
        axis.errorbar(time, error, half, capsize=1.5, elinewidth=0.8, label=style.label, **style.line_options)
        points(axis, time, error, curve.resolved, style)
    axis.set(xlabel="time $t = k\\,\\epsilon$", ylabel=f"error of the mean {name_of(observable)} [$10^{{{power}}}$]")
    axis.legend(loc="best", title="hollow: not resolved", title_fontsize=7)
    axis.set_title(rf"SME minus dropout, $\epsilon$ = {lr:g}", loc="left")


def _distribution(axis: Axes, study: WeakErrorStudy, lr: float, observable: str) -> None:
    orders = sorted_orders(study.table.order)
    styles = [DROPOUT, *(ORDERS[order] for order in orders)]
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
    bins = np.linspace(low, high, int(np.clip(2 * smallest ** (1 / 3), 8, 40)) + 1).tolist()
    for style, values in zip(styles, samples, strict=True):
        filled = style is DROPOUT
        weights = np.full(len(values), 1 / (max(len(values), 1) * (bins[1] - bins[0])))
        axis.hist(
            values,
            bins,
            weights=weights,
            histtype="stepfilled" if filled else "step",
            color="0.85" if filled else style.colour,
            edgecolor=style.colour,
            linestyle=style.line,
            linewidth=0.9,
            label=f"{style.label}, {len(values)} paths",
        )
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])
    axis.set(xlabel=f"{name_of(observable)} {symbol_of(observable)} at $T$ = {study.horizon:g}", ylabel="density")
    axis.legend(loc="best")


def _agreements(study: WeakErrorStudy) -> str:
    """Return how close each order is to dropout, for each observable and learning rate, and which order is closer."""
    final = at_horizon(study)
    leading = leading_rows(final)
    first = plain(headline(final, study.start, study.spread))
    lines = []
    for (observable, lr), rows in final.groupby(["observable", "lr"], sort=False):
        nearer = f" {_nearer(rows.set_index('order')).capitalize()}" if set(rows.order) == {1, 2} else ""
        if len(leading) and (observable, lr) == (leading.observable.iloc[0], leading.lr.iloc[0]):
            first += nearer
            continue
        lines.append(
            f"- {plain(observable)}, lr = {lr:g}: the mean {agreement(rows, study.start, study.spread)}.{nearer}"
        )
    return join(first, "\n".join(lines))


def _about_distributions(study: WeakErrorStudy, distances: pd.DataFrame) -> list[str]:
    return [
        "## Distribution of the observables at the horizon",
        _distributions(study),
        "## Distance of the distributions",
        markdown(distances, ["observable", "lr", "order", "spread", "distance"]),
        "`spread`: standard deviation over that of dropout; `distance`: Wasserstein distance of order 1 from the "
        "distribution under dropout, in standard deviations. Where an interval contains 1, or 0, no difference is "
        "resolved.",
    ]


def _spreads(distances: pd.DataFrame) -> str:
    """Return in words how far the distributions over paths are from the distribution under dropout."""
    lines = []
    for row in distances.to_dict("records"):
        if np.isnan(row["distance"]):
            continue
        same = row["spread_low"] <= 1 <= row["spread_high"]
        wide = "not distinguished from" if same else "narrower than" if row["spread"] < 1 else "wider than"
        apart = (
            f"at most {at_most(row['distance_high'])}"
            if row["distance_low"] == 0
            else with_interval(row["distance"], row["distance_low"], row["distance_high"], 2)
        )
        lines.append(
            f"- {plain(row['observable'])}, lr = {row['lr']:g}, order {row['order']}: the distribution over paths is "
            f"{wide} dropout's, with {interval(row, 'spread')} times its standard deviation, and lies {apart} of these "
            "from it (Wasserstein distance)."
        )
    return "\n".join(lines)


def distances_at_horizon(study: WeakErrorStudy) -> pd.DataFrame:
    """Compute the distances of the distributions over the kept paths from dropout's, at the horizon.

    Returns:
        Columns lr, order, observable, and those of `DistributionDistance`.
    """
    rows = []
    for (lr, order), observables in study.samples.items():
        for name, values in observables.items() if order is not None else ():
            found = distribution_distance(study.samples[lr, None][name], values)
            rows.append({"lr": lr, "order": order, "observable": name} | found._asdict())
    return pd.DataFrame(rows, columns=["lr", "order", "observable", *DistributionDistance._fields])


def _nearer(pair: pd.DataFrame) -> str:
    """Return which order is nearer to dropout, if the intervals of the absolute errors do not overlap."""
    if not all(Status(reason).has_interval for reason in pair.reason):
        return "which order is nearer to dropout is not resolved."
    half = (pair.high - pair.low) / 2
    low, high = (pair.error.abs() - half).clip(lower=0), pair.error.abs() + half
    for near, far in ((2, 1), (1, 2)):
        if high[near] < low[far]:
            factor = f"{low[far] / high[near]:.2g}"
            return f"order {near} is nearer to dropout than order {far}, by a factor of at least {factor}."
    return "which order is nearer to dropout is not resolved."


def _horizon_table(study: WeakErrorStudy) -> str:
    return formatted(
        with_reasons(at_horizon(study)),
        {
            "observable": "{observable}",
            "lr": "{lr:g}",
            "order": "{order}",
            "dropout": "{discrete:.6g}",
            "SME": "{sde:.6g}",
            "error": "{error:+.2e}",
            "95% interval": "[{low:+.2e}, {high:+.2e}]",
            "Monte Carlo ±": "{half_width:.1e}",
            "bias" if by_defects(study) else "solver bias": bias_format(study),
            "resolved": "{resolved}",
        },
    )


def _distributions(study: WeakErrorStudy) -> str:
    rows = []
    for (lr, order), observables in study.samples.items():
        for observable, values in observables.items():
            process = "dropout" if order is None else f"SME order {order}"
            if not np.isfinite(values).all():
                rows.append([observable, f"{lr:g}", process, "diverged", *[""] * 4])
                continue
            quantiles = [f"{q:.5g}" for q in np.quantile(values, [0.05, 0.5, 0.95])]
            rows.append(
                [observable, f"{lr:g}", process, f"{values.mean():.5g}", f"{values.std(ddof=1):.3g}", *quantiles]
            )
    rows.sort(key=lambda row: row[0])
    table = table_of(["observable", "lr", "process", "plain mean", "standard deviation", "5%", "median", "95%"], rows)
    counts = {len(values) for observables in study.samples.values() for values in observables.values()}
    return f"{table}\n\nPlain statistics of the first {max(counts)} paths, without control variates."
