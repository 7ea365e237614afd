"""Weak error over learning rate and keep_prob, limits of stability, and the parameter on which the errors collapse.

For every keep_prob the cells lie at the same multiples of one scale: the learning rate at which second moments of the
readout's iteration stop decaying. In the scalar model this is 2 keep_prob^2 over the curvature of R_S. The horizon is a
fixed number of relaxation times. Errors are relative to the change of the observable along the gradient flow of the
modified loss.

Two models share the cells: the network itself, whose errors are measured (`weak_error`), and its readout alone, trained
on the features of theta0, whose moments and stability limits are exact (`LinearMoments`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from smesolve.comparison.collapse import COLLAPSE_BELOW, POWERS
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.gradient_flow import flow_change, relaxation_time
from smesolve.comparison.readout_problem import readout_problem
from smesolve.comparison.sorted_tables import in_sorted_orders
from smesolve.comparison.stability_limits import Agreement, stability_limits, with_agreement
from smesolve.comparison.study_design import check_orders
from smesolve.entry_point import entry_point
from smesolve.experiments.shared.cells import Cell, run_cells
from smesolve.experiments.shared.error_curves import with_reasons
from smesolve.experiments.shared.error_map_figures import ErrorMap, nearer_order
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.markdown import join, plain
from smesolve.experiments.shared.problems import check_exact_readout
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.sampling_effort import EFFORT, SamplingEffort, ToleranceSettings, check_study
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.experiments.shared.settings import check_one
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.observables import Observable, named_observables
from smesolve.sampling.ensemble import without_divergence_warnings
from smesolve.solver.orders import Order, equation_name
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import check_keep_prob, check_list, check_positive

__all__ = ["ErrorMap", "Map", "MapSettings", "error_map"]

MAP_CAPTION = (
    "Colour: |relative error| over learning rate and keep_prob, one panel for each model and order; white: its "
    "contours; hatched: not resolved. Lines: predicted limits of stability; open markers: observed ones."
)

COLLAPSE_CAPTION = (
    "|relative error| per unit of time against lr / keep_prob^q, one column for each of q = 0, 1, 2, one row for each "
    "order. Lines: the readout, exact; markers: the network, measured, resolved cells only; grey levels: keep_prob. "
    "Errors collapse if all lie on one curve."
)

COLLAPSED = 0.25
"""Root mean square distance of ln|error| from one curve below which errors count as collapsed: 25%."""


@dataclass(frozen=True)
class MapSettings(ToleranceSettings):
    """Map of the weak error.

    Args:
        keep_probs: probabilities that a neuron is kept.
        multiples: learning rates in units of the mean-square limit of the readout's iteration.
        relaxations: horizon in relaxation times 1/lambda_max.
        orders: orders of the equation, 1, 2 and/or 3; poisson for training steps at random times.
        observables: the observable, in a list: loss, modified_loss, squared_norm, or a coordinate such as theta[0].
    """

    keep_probs: list[float] = field(default_factory=lambda: [0.8, 0.3, 0.1, 0.03, 0.01])
    multiples: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.4, 0.8])
    relaxations: float = 1.0
    orders: list[int | str] = field(default_factory=lambda: [1, 2])
    observables: list[str] = field(default_factory=lambda: ["modified_loss"])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one(self, "observables")
        check_list("multiples", self.multiples, check_positive)
        check_orders("orders", self.orders)


@entry_point
def error_map(
    problem: DropoutProblem,
    theta0: Tensor,
    keep_probs: Sequence[float],
    multiples: Sequence[float],
    relaxations: float = 1.0,
    orders: Sequence[Order] = (1, 2),
    observable: str | Observable = "modified_loss",
    effort: SamplingEffort = EFFORT,
) -> ErrorMap:
    """Measure the weak error and the stability limits over learning rate and keep_prob.

    Args:
        problem: network and data; its own keep_prob is not used.
        theta0: start (D,).
        keep_probs: different probabilities that a neuron is kept.
        multiples: learning rates in units of the mean-square limit of the readout's iteration; rounded so that the
            horizon is a whole number of steps.
        relaxations: horizon in relaxation times 1/lambda_max(Hess L_S(theta0)).
        orders: orders of the equation, 1, 2, 3 and/or "poisson".
        observable: the observable whose expectation is compared.
        effort: paths, tolerance, seed, progress bar and processes.

    Raises:
        SmesolveError: invalid arguments, or a readout of more than 24 parameters, which has too many moments.

    Cost: horizon/lr steps per path and cell, for the scalar model relaxations / (2 keep_prob multiple).
    """
    theta0 = check_study(problem, theta0, effort, DropoutProblem)
    keep_probs = check_list("keep_probs", keep_probs, check_keep_prob, distinct=True)
    multiples, orders = check_list("multiples", multiples, check_positive), check_orders("orders", orders)
    check_positive("relaxations", relaxations)
    cells = _cells(problem, theta0, keep_probs, multiples, relaxations, orders, observable, effort)
    (name,) = named_observables(problem, [observable])
    return _combined(run_cells(cells, progress=effort.progress), name)


def _cells(
    problem: DropoutProblem,
    theta0: Tensor,
    keep_probs: Sequence[float],
    multiples: Sequence[float],
    relaxations: float,
    orders: Sequence[Order],
    observable: str | Observable,
    effort: SamplingEffort,
) -> list[Cell]:
    """Return a cell for the stability limits at each keep_prob, and a cell for each learning rate."""
    cells = []
    for keep_prob in keep_probs:
        here = problem.with_keep_prob(keep_prob)
        column = _Column(keep_prob, here, theta0, relaxations * relaxation_time(here, theta0), orders, observable)
        cells.append(Cell(f"keep_prob {keep_prob!r}, limits", partial(column.limits, effort)))
        for lr in column.lrs(multiples):
            ensembles = effort.ensembles(here, theta0, lr, [column.horizon], orders)
            cells.append(Cell(f"keep_prob {keep_prob!r}, lr {lr!r}", partial(column.rows, lr, effort), [ensembles]))
    return cells


@dataclass(frozen=True)
class _Column:
    """The cells of one keep_prob."""

    keep_prob: float
    problem: DropoutProblem
    theta0: Tensor
    horizon: float
    orders: Sequence[Order]
    observable: str | Observable

    @cached_property
    def readout(self) -> tuple[DropoutProblem, Tensor]:
        """The readout and its start."""
        return readout_problem(self.problem, self.theta0)

    @cached_property
    def moments(self) -> LinearMoments:
        """Exact moments of the readout."""
        return LinearMoments(*self.readout)

    @cached_property
    def changes(self) -> dict[str, float]:
        """Change of the observable along the gradient flow, by model."""
        models = {"readout": self.readout, "network": (self.problem, self.theta0)}
        functions = {model: named_observables(one, [self.observable]) for model, (one, _) in models.items()}
        return {
            model: flow_change(one, at, self.horizon, next(iter(functions[model].values())))
            for model, (one, at) in models.items()
        }

    def lrs(self, multiples: Sequence[float]) -> list[float]:
        """Return the learning rates at multiples of the limit, rounded so that they divide the horizon."""
        scale = self.moments.stability_limit()
        steps = {max(1, round(self.horizon / (multiple * scale))) for multiple in multiples}
        return sorted({self.horizon / count for count in steps})

    def limits(self, effort: SamplingEffort) -> pd.DataFrame:
        """Return the limits of stability of the readout."""
        readout, _ = self.readout
        limits = stability_limits(readout, self.orders, effort.seed, effort.workers)
        limits.insert(0, "keep_prob", self.keep_prob)
        return limits

    def rows(self, lr: float, effort: SamplingEffort) -> list[dict[str, Any]]:
        """Return the rows of both models at one learning rate."""
        multiple = lr / self.moments.stability_limit()
        head = {"keep_prob": self.keep_prob, "lr": lr, "multiple": multiple, "horizon": self.horizon}
        found = {"readout": self._exact(lr), "network": self._measured(lr, effort)}
        return [
            {"model": model} | head | _relative(row, self.changes[model])
            for model, rows in found.items()
            for row in rows
        ]

    def _exact(self, lr: float) -> list[dict[str, Any]]:
        steps = grid_steps(self.horizon, lr, "horizon", "lr")
        discrete = self.moments.iteration(lr, steps, self.observable)
        rows = []
        for order in self.orders:
            sde = self.moments.equation(lr, order, self.horizon, self.observable)
            error = sde - discrete
            rows.append({"order": order, "discrete": discrete, "sde": sde, "error": error, "low": error, "high": error})
        return [row | {"resolved": True, "reason": ""} for row in rows]

    def _measured(self, lr: float, effort: SamplingEffort) -> list[dict[str, Any]]:
        """Return one row per order; nothing is measured if the mean iteration diverges."""
        if lr >= self.problem.stability_limit(self.theta0):
            nothing = dict.fromkeys(("discrete", "sde", "error", "low", "high"), np.nan)
            return [
                {"order": order} | nothing | {"resolved": False, "reason": "mean unstable"} for order in self.orders
            ]
        with without_divergence_warnings():  # the reason in the row shows it
            study = effort.weak_error(self.problem, self.theta0, [lr], [self.horizon], self.orders, self.observable)
        rows = []
        for row in study.table.itertuples():
            values = {name: getattr(row, name) for name in ("order", "discrete", "sde", "error", "low", "high")}
            rows.append(values | {"resolved": bool(row.resolved), "reason": row.reason})
        return rows


def _relative(row: dict[str, Any], change: float) -> dict[str, object]:
    values = {"relative": row["error"], "relative_low": row["low"], "relative_high": row["high"]}
    return row | {name: value / change for name, value in values.items()}


def _combined(results: list[Any], observable: str) -> ErrorMap:
    limits = [result for result in results if isinstance(result, pd.DataFrame)]
    rows = [row for result in results if isinstance(result, list) for row in result]
    table = in_sorted_orders(pd.DataFrame(rows), ["model", "order", "keep_prob", "lr"]).reset_index(drop=True)
    return ErrorMap(table, pd.concat(limits, ignore_index=True), observable)


@experiment("scaling", "map")
class Map(NetworkExperiment[MapSettings]):
    """Weak error over learning rate and keep_prob, limits of stability, and the natural parameter."""

    Settings = MapSettings
    title = "Learning-rate scaling: map"
    example = "examples/scaling_map.yaml --out results/scaling_map"

    def cells(self) -> list[Cell]:
        """Return a cell for the stability limits at each keep_prob, and a cell for each learning rate."""
        s = self.settings
        check_exact_readout(self.dropout_problem)
        orders = check_orders("orders", s.orders)
        given = s.keep_probs, s.multiples, s.relaxations, orders, s.observables[0], s.effort
        return _cells(self.dropout_problem, self.theta0, *given)

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the section of map, limits and collapse."""
        result = _combined(results, self.settings.observables[0])
        collapsed = result.collapse(self.settings.seed)
        tables = {"table": result.table, "limits": result.limits, "collapse": collapsed}
        figures = {
            "map": Captioned(result.plot(), MAP_CAPTION),
            "collapse": Captioned(result.plot_collapse(), COLLAPSE_CAPTION),
        }
        text = _report(result, collapsed)
        conclusion = _conclusion(result, collapsed)
        return [Section(f"Map of the weak error of {plain(result.observable)}", tables, figures, text, conclusion)]


def _report(result: ErrorMap, collapse: pd.DataFrame) -> str:
    table = result.table
    counts = table.groupby(["model", "order"], sort=False).resolved.agg(["sum", "size"])
    cells = "; ".join(
        f"{model}, {equation_name(order)}: {row['sum']} of {row['size']}" for (model, order), row in counts.iterrows()
    )
    return join(
        "`relative`: error over the change of the observable along the gradient flow of the modified loss. "
        "`multiple`: lr in units of the mean-square limit of the readout's iteration. Readout: only the last layer, "
        f"on the features of the start, exact. Network: measured. Resolved cells: {cells}.",
        markdown(with_reasons(table), ["model", "order", "keep_prob", "lr", "multiple", "relative", "resolved"]),
        "## Limits of stability",
        "Learning rate from which second moments of the readout grow: predicted, from the exact moment map; observed, "
        "from a resampled population of paths of the iteration and of the solver, which knows nothing of the "
        "prediction. Limits beyond 2/lambda_max, where the mean of the iteration diverges first, and the limits of "
        "equations with jumps are predicted only.",
        markdown(
            with_agreement(result.limits),
            ["keep_prob", "process", "predicted", "ratio", "within"],
            {"ratio": ".4f"},
            headers={"ratio": "observed / predicted", "within": "within 2%"},
        ),
        "## The natural parameter",
        f"ln|error| of the resolved cells with multiple at most {COLLAPSE_BELOW:g} about one parabola in ln(lr / "
        "keep_prob^q): root mean square distance for q = 0, 1, 2, and the q with the least distance. Ordinate "
        "`relative`: the error at the horizon, a fixed number of relaxation times; `rate`: the error per unit of time. "
        "Data and curvature are those of one problem, so only the power of keep_prob is identified.",
        ""
        if collapse.empty
        else markdown(
            collapse,
            ["model", "order", "ordinate", *(f"spread_{power:g}" for power in POWERS), "power", "spread", "cells"],
            headers={f"spread_{power:g}": f"distance, q = {power:g}" for power in POWERS}
            | {"power": "best q", "spread": "its distance"},
        ),
        "Models and orders that are not listed have fewer than 8 such cells, or fewer than 3 keep_probs.",
    )


def _conclusion(result: ErrorMap, collapse: pd.DataFrame) -> str:
    within = with_agreement(result.limits[np.isfinite(result.limits.observed)]).within
    agreeing = (within == Agreement.WHOLE_INTERVAL).sum()
    return "\n".join(
        [
            nearer_order(result.table),
            f"- Limits of stability: {agreeing} of {len(within)} observed ones agree with the prediction to within 2%, "
            "whole interval included.",
            *(_verdict(row) for row in collapse.itertuples()),
        ]
    )


def _verdict(row: Any) -> str:
    collapsed = [f"{power:g}" for power in POWERS if getattr(row, f"spread_{power:g}_high") < COLLAPSED]
    apart = [f"{power:g}" for power in POWERS if getattr(row, f"spread_{power:g}_low") > COLLAPSED]
    head = f"- {row.model}, {equation_name(row.order)}, {row.ordinate}: "
    if collapsed:
        text = f"collapses on lr / keep_prob^q to within {COLLAPSED:.0%} for q = {', '.join(collapsed)}"
    else:
        text = "no collapse is shown"
    return head + text + (f"; does not for q = {', '.join(apart)}." if apart else ".")
