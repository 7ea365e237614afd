"""Result and figures of the experiment map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator
from matplotlib.tri import Triangulation

from smesolve.comparison.collapse import POWERS, spreads_about_one_curve
from smesolve.figures import PAGE, Figure, drawing
from smesolve.result import Result, sentences
from smesolve.solver.orders import Order, equation_name, sorted_orders

__all__ = ["ErrorMap", "nearer_order"]

LEVELS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Relative errors of the contours."""

MODELS = {"readout": "readout only (exact)", "network": "network (measured)"}

LINES: dict[str, tuple[Any, str]] = {
    "iteration": ("-", "o"),
    "order 1": ("--", "s"),
    "order 2": (":", "^"),
    "order 3": ("-.", "D"),
    "poisson": ((0, (5, 1, 1, 1, 1, 1)), "v"),
}


@dataclass(frozen=True, repr=False)
class ErrorMap(Result):
    """Weak errors and limits of stability over lr and keep_prob."""

    table: pd.DataFrame
    """A row for each model ("readout", "network"), keep_prob, multiple and order: lr, horizon, `discrete` and `sde`
    (means), `error`, `relative` with `relative_low` and `relative_high`, `resolved`, and `reason` where it is not."""

    limits: pd.DataFrame
    """A row for each keep_prob and process ("iteration", "order 1", ..., "poisson") of the readout: `predicted` (exact)
    and `observed` lr with `low`, `high`; `observed / predicted` as `ratio`; NaN if there is no limit to observe."""

    observable: str

    def collapse(self, seed: int = 0) -> pd.DataFrame:
        """Return the distances of the errors from one curve in lr / keep_prob^q; see `spreads_about_one_curve`."""
        return spreads_about_one_curve(self.table, seed)

    def summary(self) -> str:
        """Return in how many cells each order is nearest, one sentence per model."""
        return sentences(nearer_order(self.table))

    @drawing()
    def plot(self) -> Figure:
        """Draw heat maps of the relative error, one per model and order, with contours and stability limits."""
        orders = sorted_orders(self.table.order)
        figure = Figure(figsize=(PAGE / 2 * len(orders), 5.6), layout="constrained")
        axes = figure.subplots(2, len(orders), squeeze=False, sharex=True, sharey=True)
        size = self.table.relative.abs()
        norm = LogNorm(max(size[size > 0].min(), 1e-6), min(size.max(), 1.0))
        for line, model in zip(axes, MODELS, strict=True):
            for axis, order in zip(line, orders, strict=True):
                cells = self.table.query("model == @model and order == @order")
                mesh = _heat_map(axis, cells, norm)
                _limits(axis, self.limits, order)
                axis.set_title(f"{MODELS[model]}, {equation_name(order)}", loc="left")
        for axis in axes[-1]:
            axis.set_xlabel(r"learning rate $\epsilon$")
        for axis in axes[:, 0]:
            axis.set_ylabel("keep_prob")
        figure.colorbar(mesh, ax=axes, label="|error| / change along the gradient flow", shrink=0.7)
        axes[0, 0].set_xlim(self.table.lr.min() / 2, 3 * self.table.lr.max())
        entries: dict[str, Any] = {}
        for axis in axes[0]:
            entries |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        entries["not resolved"] = Rectangle((0, 0), 1, 1, facecolor="white", edgecolor="0.3", hatch="//////")
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4)
        return figure

    @drawing()
    def plot_collapse(self) -> Figure:
        """Draw errors per unit of time against lr / keep_prob^q: the readout as lines, the network as markers."""
        orders = sorted_orders(self.table.order)
        keeps = sorted(self.table.keep_prob.unique())
        figure = Figure(figsize=(PAGE, 2.4 * len(orders)), layout="constrained")
        axes = figure.subplots(len(orders), len(POWERS), squeeze=False, sharey="row")
        for line, order in zip(axes, orders, strict=True):
            for axis, power in zip(line, POWERS, strict=True):
                for k, keep in enumerate(keeps):
                    colour, cells = f"{0.75 * k / max(len(keeps) - 1, 1):.2f}", self.table[self.table.resolved]
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
            line[0].set_ylabel(f"{equation_name(order)}: |relative error| / T")
        for axis in axes.flat:
            axis.xaxis.set_minor_formatter(NullFormatter())
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(keeps))
        return figure


def nearer_order(table: pd.DataFrame) -> str:
    """Return in how many cells each equation is nearest to the iteration, as a list in Markdown."""
    lines = []
    for model, group in table.groupby("model", sort=False):
        cells = {order: one.set_index(["keep_prob", "lr"]) for order, one in group.groupby("order", sort=False)}
        if len(cells) < 2:
            continue
        bounds = {order: _bounds(one) for order, one in cells.items()}
        parts: list[str] = []
        for order in reversed(sorted_orders(cells)):
            others = pd.concat([bounds[other][0] for other in cells if other != order], axis=1)
            nearest = bounds[order][1] < others.min(axis=1, skipna=False)
            where = f", from multiple {cells[order][nearest].multiple.min():.2g} on" if nearest.any() else ""
            count = f"{nearest.sum()} of {len(nearest)} cells" if not parts else str(nearest.sum())
            parts.append(f"{equation_name(order)} {'' if parts else 'is nearest '}in {count}{where}")
        lines.append(f"- {model}: {'; '.join(parts)}; the others are not resolved.")
    return "\n".join(lines)


def _bounds(one: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the lower and upper bound of |relative|; NaN if it is not resolved."""
    half = (one.relative_high - one.relative_low) / 2
    size = one.relative.abs().where(one.resolved)
    return size - half, size + half


def _edges(centres: np.ndarray) -> np.ndarray:
    """Return edges halfway between sorted centres on a log scale."""
    logs = np.log(centres)
    half = np.diff(logs) / 2 if len(logs) > 1 else np.array([0.5])
    edges: np.ndarray = np.exp(
        np.concatenate([[logs[0] - half[0]], logs[:-1] + half[: len(logs) - 1], [logs[-1] + half[-1]]])
    )
    return edges


def _heat_map(axis: Axes, cells: pd.DataFrame, norm: LogNorm) -> QuadMesh:
    """Draw the cells of one model and order, and return them for the colour bar."""
    keeps = np.sort(cells.keep_prob.unique())
    heights = _edges(keeps)
    axis.set(xscale="log", yscale="log")
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
    known = (cells.resolved & (cells.relative != 0)).to_numpy()
    # Triangles of neighbours in the sheared grid of cells; no contour crosses a cell that is not resolved.
    points = np.log(cells[["multiple", "keep_prob"]].to_numpy())
    plane = np.linalg.matrix_rank(points - points[0]) == 2  # not all on one line
    triangles = Triangulation(*points.T).triangles if plane else np.empty((0, 3), int)
    triangles = triangles[known[triangles].all(axis=1)]
    if len(triangles):
        drawn: Any = axis.tricontour  # typed without a list of triangles
        lines = drawn(
            cells.lr,
            cells.keep_prob,
            triangles,
            np.log10(cells.relative.abs().where(known, 1.0)),
            levels=np.log10(LEVELS),
            colors="white",
            linestyles="solid",
            linewidths=0.9,
        )
        lines.set_path_effects([patheffects.withStroke(linewidth=1.8, foreground="black")])
        axis.clabel(lines, fmt=lambda level: f"{10**level:g}", fontsize=7, inline_spacing=1)
    axis.yaxis.set_major_locator(FixedLocator(keeps.tolist()))
    axis.set_yticks(keeps, [f"{keep:g}" for keep in keeps])
    axis.yaxis.set_minor_locator(NullLocator())
    return mesh


def _limits(axis: Axes, limits: pd.DataFrame, order: Order) -> None:
    """Draw predicted limits as lines and observed ones as markers, of the iteration and of this order."""
    halo = [patheffects.withStroke(linewidth=2.4, foreground="white")]
    for process in ("iteration", equation_name(order)):
        line, marker = LINES[process]
        rows = limits[(limits.process == process) & np.isfinite(limits.predicted)].sort_values("keep_prob")
        axis.plot(
            rows.predicted, rows.keep_prob, color="#d55e00" if process == "iteration" else "black", linestyle=line,
            path_effects=halo, label=f"limit of the {process}" if process == "iteration" else f"limit of {process}",
        )  # fmt: skip
        if rows.observed.notna().any():
            axis.plot(
                rows.observed, rows.keep_prob, linestyle="", marker=marker, markerfacecolor="white", color="black",
                label=f"observed, {process}",
            )  # fmt: skip
