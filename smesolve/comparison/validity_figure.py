"""The figure of a range of validity."""

from __future__ import annotations

import numpy as np
import pandas as pd

from smesolve.comparison.weak_error_figure import name_of
from smesolve.figures import ORDERS, PAGE, Figure, drawing, log_ticks

__all__ = ["validity_figure"]


def validity_figure(errors: pd.DataFrame, table: pd.DataFrame, tolerance: float, limit: float) -> Figure:
    """Draw relative errors against the learning rate, with the tolerance and the ranges, one panel per observable.

    The arguments are parts of a `ValidityRange`; the training is stable up to the learning rate `limit`.
    """
    observables = list(table.observable.unique())
    with drawing():
        figure = Figure(figsize=(PAGE / 2 * max(len(observables), 1), 3.4), layout="constrained")
        for axis, observable in zip(figure.subplots(1, len(observables), squeeze=False)[0], observables, strict=True):
            axis.axhline(tolerance, color="0.5", linewidth=0.6, label=f"tolerance {tolerance:g}")
            if np.isfinite(limit):
                axis.axvline(limit, color="0.3", linestyle="--", linewidth=0.8, label=f"stability limit {limit:.3g}")
            for order, rows in errors[errors.observable == observable].groupby("order"):
                style, rows = ORDERS[int(str(order))], rows[rows.relative > 0]
                known = rows.relative_high.where(np.isfinite(rows.relative_high), rows.relative)
                half = np.array([rows.relative - rows.relative_low, known - rows.relative])
                axis.errorbar(rows.lr, rows.relative, half, capsize=1.5, label=style.label, **style.line_options)
                found = table[(table.observable == observable) & (table.order == order)].iloc[0]
                if np.isfinite(found.lr_low) and np.isfinite(found.lr_high):
                    low = max(found.lr_low, errors.lr.min() / 2)  # the axis is logarithmic, and lr_low may be 0
                    axis.axvspan(low, found.lr_high, color=style.colour, alpha=0.2, linewidth=0)
            axis.set_yscale("log")
            log_ticks(axis, errors.lr)
            axis.set_xlabel("learning rate $\\epsilon$")
            axis.set_ylabel(f"|error| of the mean {name_of(observable)} / its change")
        # All panels have the same lines, and bands take the whole height of a panel: the legend is outside.
        lines, labels = axis.get_legend_handles_labels()
        title = "bands: largest learning rates, 95%"
        figure.legend(lines, labels, loc="outside lower center", ncols=2, title=title, title_fontsize=7)
        return figure
