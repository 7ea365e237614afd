"""The map of weak errors over learning rate and keep_prob: figures and report."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator
from matplotlib.tri import Triangulation

from smesolve.comparison.scaling.error_map import COLLAPSE_BELOW, POWERS, ErrorMap, error_map
from smesolve.problem.problem import Problem
from smesolve.study.figures import PAGE, drawing
from smesolve.study.markdown import join, plain
from smesolve.study.scaling_configuration import ScalingConfig
from smesolve.study.scaling_effort import configured_effort
from smesolve.study.scaling_section import with_reasons
from smesolve.study.section import Captioned, Section, markdown

__all__ = ["collapse_figure", "map_figure", "map_section"]

MAP_CAPTION = (
    "Colour: |relative error| over learning rate and keep_prob, one panel for each model and order; white: its "
    "contours; hatched: not resolved. Lines: predicted limits of stability; open markers: observed ones."
)

COLLAPSE_CAPTION = (
    "|relative error| a unit of time against lr / keep_prob^q, one column for each of q = 0, 1, 2, one row for each "
    "order. Lines: the readout, exact; markers: the network, measured, resolved cells alone; grey: keep_prob. Errors "
    "collapse where all lie on one curve."
)

LEVELS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Relative errors of the contours."""

COLLAPSED = 0.25
"""Root mean square distance of ln|error| from one curve under which errors count as collapsed: 25%."""

MODELS = {"readout": "readout alone (exact)", "network": "network (measured)"}

LINES = {"iteration": ("-", "o"), "order 1": ("--", "s"), "order 2": (":", "^")}


def map_section(problem: Problem, config: ScalingConfig) -> Section:
    """Run the study."""
    result = error_map(
        problem,
        problem.initial(config.network.seed),
        config.keep_probs,
        config.multiples,
        config.relaxations,
        config.orders,
        config.observables[0],
        configured_effort(config),
    )
    collapse = result.collapse(config.seed)
    return Section(
        f"Map of the weak error of {plain(result.observable)}",
        {"table": result.table, "limits": result.limits, "collapse": collapse},
        {
            "map": Captioned(map_figure(result), MAP_CAPTION),
            "collapse": Captioned(collapse_figure(result), COLLAPSE_CAPTION),
        },
        _report(result, collapse),
        _conclusion(result, collapse),
    )


def map_figure(result: ErrorMap) -> Figure:
    """Heat maps of the relative error, one for each model and order, with contours and limits of stability."""
    orders = sorted(result.table.order.unique())
    with drawing():
        figure = Figure(figsize=(PAGE / 2 * len(orders), 5.6), layout="constrained")
        axes = figure.subplots(2, len(orders), squeeze=False, sharex=True, sharey=True)
        size = result.table.relative.abs()
        norm = LogNorm(max(size[size > 0].min(), 1e-6), min(size.max(), 1.0))
        for line, model in zip(axes, MODELS, strict=True):
            for axis, order in zip(line, orders, strict=True):
                cells = result.table.query("model == @model and order == @order")
                mesh = _heat_map(axis, cells, norm)
                _limits(axis, result.limits, order)
                axis.set_title(f"{MODELS[model]}, order {order}", loc="left")
        for axis in axes[-1]:
            axis.set_xlabel(r"learning rate $\epsilon$")
        for axis in axes[:, 0]:
            axis.set_ylabel("keep_prob")
        figure.colorbar(mesh, ax=axes, label="|error| / change along the gradient flow", shrink=0.7)
        axes[0, 0].set_xlim(result.table.lr.min() / 2, 3 * result.table.lr.max())
        entries = {}
        for axis in axes[0]:
            entries |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        entries["not resolved"] = Rectangle((0, 0), 1, 1, facecolor="white", edgecolor="0.3", hatch="//////")
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4)
        return figure


def _edges(centres: np.ndarray) -> np.ndarray:
    """Edges halfway between sorted centres on a log scale."""
    logs = np.log(centres)
    if len(logs) == 1:
        return np.exp(np.array([logs[0] - 0.5, logs[0] + 0.5]))
    middle = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - middle[0]], middle, [2 * logs[-1] - middle[-1]]]))


def _heat_map(axis: Axes, cells: pd.DataFrame, norm: LogNorm) -> object:
    keeps = np.sort(cells.keep_prob.unique())
    heights = _edges(keeps)
    axis.set_xscale("log")
    axis.set_yscale("log")
    for bottom, top, keep in zip(heights[:-1], heights[1:], keeps, strict=True):
        row = cells[cells.keep_prob == keep].sort_values("lr")
        edges = _edges(row.lr.to_numpy())
        values = np.ma.masked_invalid(row.relative.abs().clip(lower=norm.vmin).to_numpy()[None])
        mesh = axis.pcolormesh(edges, [bottom, top], values, norm=norm, cmap="cividis")
        for left, right, resolved in zip(edges[:-1], edges[1:], row.resolved, strict=True):
            if not resolved:
                box = Rectangle(
                    (left, bottom), right - left, top - bottom, facecolor="white", edgecolor="0.3", hatch="//////", lw=0
                )
                axis.add_patch(box)
    known = cells[cells.resolved & (cells.relative != 0)]
    if known.keep_prob.nunique() > 1 and known.lr.nunique() > 2:
        # triangles of neighbours in the sheared grid of cells
        triangles = Triangulation(np.log(known.multiple), np.log(known.keep_prob)).triangles
        height = np.log10(known.relative.abs())
        lines = axis.tricontour(
            known.lr,
            known.keep_prob,
            triangles,
            height,
            levels=np.log10(LEVELS),
            colors="white",
            linestyles="solid",
            linewidths=0.9,
        )
        lines.set_path_effects([patheffects.withStroke(linewidth=1.8, foreground="black")])
        axis.clabel(lines, fmt=lambda level: f"{10**level:g}", fontsize=7, inline_spacing=1)
    axis.yaxis.set_major_locator(FixedLocator(keeps))
    axis.set_yticks(keeps, [f"{keep:g}" for keep in keeps])
    axis.yaxis.set_minor_locator(NullLocator())
    return mesh


def _limits(axis: Axes, limits: pd.DataFrame, order: int) -> None:
    """Predicted limits as lines and observed ones as markers, of the iteration and of this order."""
    halo = [patheffects.withStroke(linewidth=2.4, foreground="white")]
    for process in ("iteration", f"order {order}"):
        line, marker = LINES[process]
        rows = limits[(limits.process == process) & np.isfinite(limits.predicted)].sort_values("keep_prob")
        axis.plot(
            rows.predicted, rows.keep_prob, color="#d55e00" if process == "iteration" else "black", linestyle=line,
            path_effects=halo, label=f"limit of the {process}" if process == "iteration" else f"limit of {process}",
        )  # fmt: skip
        axis.plot(
            rows.observed, rows.keep_prob, linestyle="", marker=marker, markerfacecolor="white", color="black",
            label=f"observed, {process}",
        )  # fmt: skip


def collapse_figure(result: ErrorMap) -> Figure:
    """Errors a unit of time against lr / keep_prob^q for q = 0, 1, 2: lines the readout, markers the network."""
    orders = sorted(result.table.order.unique())
    keeps = sorted(result.table.keep_prob.unique())
    with drawing():
        figure = Figure(figsize=(PAGE, 2.4 * len(orders)), layout="constrained")
        axes = figure.subplots(len(orders), len(POWERS), squeeze=False, sharey="row")
        for line, order in zip(axes, orders, strict=True):
            for axis, power in zip(line, POWERS, strict=True):
                for k, keep in enumerate(keeps):
                    colour, cells = f"{0.75 * k / max(len(keeps) - 1, 1):.2f}", result.table[result.table.resolved]
                    cells = cells.query("order == @order and keep_prob == @keep").sort_values("lr")
                    for model in MODELS:
                        part = cells[cells.model == model]
                        axis.loglog(
                            part.lr / keep**power,
                            (part.relative / part.horizon).abs(),
                            color=colour,
                            linestyle=("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))[k % 5]
                            if model == "readout"
                            else "",
                            marker="" if model == "readout" else "os^Dv"[k % 5],
                            label=f"keep_prob {keep:g}" if model == "readout" else None,
                        )
                axis.set_xlabel((r"$\epsilon$", r"$\epsilon$ / keep_prob", r"$\epsilon$ / keep_prob$^2$")[int(power)])
            line[0].set_ylabel(f"order {order}: |relative error| / T")
        for axis in axes.flat:
            axis.xaxis.set_minor_formatter(NullFormatter())
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(keeps))
        return figure


def _report(result: ErrorMap, collapse: pd.DataFrame) -> str:
    table = result.table
    counts = table.groupby(["model", "order"], sort=False).resolved.agg(["sum", "size"])
    cells = "; ".join(
        f"{model}, order {order}: {row['sum']} of {row['size']}" for (model, order), row in counts.iterrows()
    )
    return join(
        "`relative`: error over the change of the observable along the gradient flow of the modified loss. "
        "`multiple`: lr in units of the mean-square limit of the readout's iteration. Readout: the last layer alone, "
        f"on the features of the start, exact. Network: measured. Resolved cells: {cells}.",
        markdown(with_reasons(table), ["model", "order", "keep_prob", "lr", "multiple", "relative", "resolved"]),
        "## Limits of stability",
        "Learning rate from which second moments of the readout grow: predicted, from the exact moment map; observed, "
        "from a resampled population of paths of the iteration and of the solver, which knows nothing of the "
        "prediction. Limits beyond 2/lambda_max, where the mean of the iteration diverges first, are predicted alone.",
        markdown(
            _ratios(result.limits),
            {
                "keep_prob": "keep_prob",
                "process": "process",
                "predicted": "predicted",
                "observed / predicted": "ratio",
                "within 2%": "within",
            },
            {"ratio": ".4f"},
        ),
        "## The natural parameter",
        f"ln|error| of the resolved cells with multiple at most {COLLAPSE_BELOW:g} around one parabola in ln(lr / "
        "keep_prob^q): root mean square distance for q = 0, 1, 2, and the q of least distance. Ordinate `relative`: "
        "the error at the horizon, a fixed number of relaxation times; `rate`: this over the horizon, the error a unit "
        "of time. Data and curvature are those of one problem, so the power of keep_prob alone is identified.",
        ""
        if collapse.empty
        else markdown(
            collapse,
            {
                "model": "model",
                "order": "order",
                "ordinate": "ordinate",
                **{f"distance, q = {power:g}": f"spread_{power:g}" for power in POWERS},
                "best q": "power",
                "its distance": "spread",
                "cells": "cells",
            },
        ),
        "Models and orders that are not listed have fewer than 8 such cells, or fewer than 3 keep_probs.",
    )


def _conclusion(result: ErrorMap, collapse: pd.DataFrame) -> str:
    within = _ratios(result.limits[np.isfinite(result.limits.observed)]).within
    return "\n".join(
        [
            _nearer(result.table),
            f"- Limits of stability: {(within == 'yes').sum()} of {len(within)} observed ones agree with the "
            "prediction to within 2%, whole interval included.",
            *(_verdict(row) for row in collapse.itertuples()),
        ]
    )


def _ratios(limits: pd.DataFrame) -> pd.DataFrame:
    """Limits with the interval of observed / predicted, and whether it lies within 2% of 1, whole or in its middle."""
    table = limits.assign(ratio_low=limits.low / limits.predicted, ratio_high=limits.high / limits.predicted)
    return table.assign(within=[_within(row) for row in table.itertuples()])


def _within(row: tuple) -> str:
    if not np.isfinite(row.observed):
        return "not observed"
    if row.ratio_low >= 0.98 and row.ratio_high <= 1.02:
        return "yes"
    if row.ratio_low > 1.02 or row.ratio_high < 0.98:
        return "no"
    return "estimate is, interval is not" if abs(row.ratio - 1) <= 0.02 else "not resolved"


def _nearer(table: pd.DataFrame) -> str:
    lines = []
    for model, group in table.groupby("model", sort=False):
        if set(group.order) != {1, 2}:
            continue
        first, second = (group[group.order == order].set_index(["keep_prob", "lr"]) for order in (1, 2))
        bounds = {k: _bounds(one) for k, one in ((1, first), (2, second))}
        second_nearer = bounds[2][1] < bounds[1][0]
        first_nearer = bounds[1][1] < bounds[2][0]
        low = first[first_nearer].multiple.min()
        where = f", from multiple {low:.2g} on" if first_nearer.any() else ""
        lines.append(
            f"- {model}: order 2 is nearer in {second_nearer.sum()} of {len(first)} cells, order 1 in "
            f"{first_nearer.sum()}{where}; the others are not resolved."
        )
    return "\n".join(lines)


def _bounds(one: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Lower and upper bound of |relative|; no bounds where nothing is resolved."""
    half = (one.relative_high - one.relative_low) / 2
    size = one.relative.abs().where(one.resolved)
    return size - half, size + half


def _verdict(row: tuple) -> str:
    collapsed = [f"{power:g}" for power in POWERS if getattr(row, f"spread_{power:g}_high") < COLLAPSED]
    apart = [f"{power:g}" for power in POWERS if getattr(row, f"spread_{power:g}_low") > COLLAPSED]
    head = f"- {row.model}, order {row.order}, {row.ordinate}: "
    if collapsed:
        text = f"collapses on lr / keep_prob^q to within {COLLAPSED:.0%} for q = {', '.join(collapsed)}"
    else:
        text = "no collapse is shown"
    return head + text + (f"; does not for q = {', '.join(apart)}." if apart else ".")
