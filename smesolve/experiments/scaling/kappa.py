"""The linear scaling rule: up to which kappa masks per step at kappa lr the iteration follows the equation.

With kappa masks per step at kappa times the learning rate the order-1 equation does not change. The error of the
equation against the iteration grows with kappa lr, with the leading constant c of the weak error of order 1,

    error = c kappa lr + O((kappa lr)^2),                                                                (1)

so the rule holds up to kappa of about

    kappa = tolerance / (|c| lr).                                                                        (2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.gradient_flow import flow_change
from smesolve.comparison.leading_constants import first_constants
from smesolve.comparison.readout_problem import readout_problem
from smesolve.entry_point import entry_point
from smesolve.experiments.shared.cells import Cell, run_cells
from smesolve.experiments.shared.error_curves import curve
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.problems import check_exact_readout
from smesolve.experiments.shared.reach import follows, reach
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.sampling_effort import EFFORT, SamplingEffort, ToleranceSettings, check_study
from smesolve.experiments.shared.section import Captioned, ReportedResult, Section, interval, markdown
from smesolve.experiments.shared.settings import check_one
from smesolve.figures import DROPOUT, ORDERS, PAGE, Figure, drawing, log_ticks
from smesolve.problem.averaged_problem import AveragedProblem
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.observables import Observable, named_observables
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import check_integer, check_list, check_positive, check_tolerance

__all__ = ["Kappa", "KappaSettings", "LinearScalingRule", "linear_scaling_rule"]

CAPTION = (
    "|relative error| of the order-1 equation against kappa. Markers: readout (exact) and network (measured, with 95% "
    "intervals, hollow where not resolved); lines: their leading terms; dotted grey: the tolerance."
)


@dataclass(frozen=True)
class KappaSettings(ToleranceSettings):
    """Linear scaling rule.

    Args:
        keep_prob: probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
        lrs: learning rate of one mask per step, in a list.
        horizon: last time T.
        kappas: masks per step, at kappa times the learning rate, which divides the horizon.
        tolerance: largest relative error at which the iteration counts as following.
        observables: the observable, in a list: loss, modified_loss, squared_norm, or a coordinate such as theta[0].
    """

    keep_prob: float = 0.8
    lrs: list[float] = field(default_factory=lambda: [0.05])
    horizon: float = 1.0
    kappas: list[int] = field(default_factory=lambda: [1, 2, 4, 10, 20])
    tolerance: float = 0.01
    observables: list[str] = field(default_factory=lambda: ["modified_loss"])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one(self, "lrs", "observables")
        for kappa in check_list("kappas", self.kappas, check_integer):
            grid_steps(self.horizon, kappa * self.lrs[0], "horizon", f"{kappa} lr (kappas)")


@dataclass(frozen=True, repr=False)
class LinearScalingRule(ReportedResult):
    """Result of `linear_scaling_rule`: how far the iteration follows the unchanged equation."""

    table: pd.DataFrame
    """One row per model ("readout", exact; "network", measured) and kappa: lr (kappa times the first), `relative` error
    with `relative_low`, `relative_high`, `predicted` (leading term), `resolved`, `follows`: True, False, or None if the
    interval contains the tolerance."""

    tolerance: float

    def reach(self) -> pd.DataFrame:
        """Return up to which kappa the iteration follows, one row per model.

        `holds` is the largest kappa up to which every error is within the tolerance, and `fails` the smallest kappa
        with an error beyond it. At `kappa`, with `kappa_low`, `kappa_high`, the error, interpolated on log scales,
        reaches the tolerance; at `predicted` the leading term does. NaN outside the measured range.
        """
        rows = []
        for model, group in self.table.groupby("model", sort=False):
            predicted = self.tolerance / (group.predicted / group.kappa).abs().iloc[0]  # (2)
            rows.append({"model": model} | reach(group, self.tolerance) | {"predicted": predicted})
        return pd.DataFrame(rows)

    @drawing()
    def plot(self) -> Figure:
        """Draw the relative error against kappa with the leading term and the tolerance."""
        figure = Figure(figsize=(PAGE / 2, 2.9), layout="constrained")
        axis = figure.subplots()
        for style, (model, part) in zip((DROPOUT, ORDERS[1]), self.table.groupby("model", sort=False), strict=True):
            curve(axis, part.kappa, part, style, f"{model}: {'exact' if model == 'readout' else 'measured'}", line="")
            axis.plot(
                part.kappa, part.predicted.abs(), color=style.colour, linestyle=style.line, linewidth=0.8,
                label=f"{model}: leading term",
            )  # fmt: skip
        axis.axhline(self.tolerance, color="0.5", linestyle=":", label=f"tolerance {self.tolerance:g}")
        log_ticks(axis, self.table.kappa)
        axis.set_yscale("log")
        axis.set_xlabel(r"masks per step $\kappa$, learning rate $\kappa\epsilon$")
        axis.set_ylabel("|relative error| of the order-1 equation")
        axis.legend(loc="best")
        return figure

    def conclusion(self) -> str:
        """Return the conclusions, as a list in Markdown."""
        lines = []
        for row in self.reach().to_dict("records"):
            holds, fails = row["holds"], row["fails"]
            reached = f"up to kappa = {holds:g}" if np.isfinite(holds) else "at no kappa"
            breaks = f", no longer at {fails:g}" if np.isfinite(fails) else ", the largest one measured"
            if np.isfinite(row["kappa"]):
                breaks += f"; the error reaches the tolerance at kappa = {interval(row, 'kappa')}"
            lines.append(
                f"- {row['model']}: the iteration follows {reached}{breaks}; predicted from the leading constant: "
                f"{row['predicted']:.3g}."
            )
        return "\n".join(lines)


@entry_point
def linear_scaling_rule(
    problem: DropoutProblem,
    theta0: Tensor,
    lr: float,
    kappas: Sequence[int],
    horizon: float,
    tolerance: float = 0.02,
    observable: str | Observable = "modified_loss",
    effort: SamplingEffort = EFFORT,
) -> LinearScalingRule:
    """Measure the error of the order-1 equation against the iteration with kappa masks at kappa lr.

    Args:
        problem: the problem.
        theta0: start (D,).
        lr: learning rate of one mask per step.
        kappas: masks per step; kappa lr divides the horizon.
        horizon: last time.
        tolerance: largest error at which the iteration counts as following, relative to the change along the gradient
            flow.
        observable: the observable whose expectation is compared.
        effort: paths, tolerance, seed, progress bar and processes.

    Raises:
        SmesolveError: invalid arguments, or a kappa lr that does not divide the horizon or is unstable.

    Cost: horizon/lr gradients per path of the iteration, for each kappa.
    """
    theta0 = check_study(problem, theta0, effort, DropoutProblem)
    lr, horizon = check_positive("lr", lr), check_positive("horizon", horizon)
    kappas = check_list("kappas", kappas, check_integer)
    check_tolerance("tolerance", tolerance)
    cells = _cells(problem, theta0, lr, kappas, horizon, observable, effort)
    return _rule(run_cells(cells, progress=effort.progress), tolerance)


def _cells(
    problem: DropoutProblem,
    theta0: Tensor,
    lr: float,
    kappas: Sequence[int],
    horizon: float,
    observable: str | Observable,
    effort: SamplingEffort,
) -> list[Cell]:
    """Return one cell per model and kappa."""
    (name,) = named_observables(problem, [observable])

    @cache
    def units(one: DropoutProblem, at: Tensor) -> tuple[float, float]:
        """Return the change along the gradient flow, and the leading constant c of (1)."""
        function = named_observables(one, [observable])[name]
        constant, _ = first_constants(one, at, horizon, {name: function}, lr)[name]
        return flow_change(one, at, horizon, function), constant

    def row(model: str, one: DropoutProblem, at: Tensor, kappa: int) -> dict[str, Any]:
        """Return a row of the table, without the verdict."""
        averaged = AveragedProblem(one, kappa)
        if model == "readout":
            error = low = high = LinearMoments(averaged, at).error(kappa * lr, 1, horizon, observable)
            resolved = True
        else:
            study = effort.weak_error(averaged, at, [kappa * lr], [horizon], [1], observable)
            error, low, high, resolved = study.table.iloc[0][["error", "low", "high", "resolved"]]
        change, constant = units(one, at)
        head = {"model": model, "kappa": kappa, "lr": kappa * lr, "resolved": bool(resolved)}
        predicted = constant * kappa * lr  # (1)
        shares = {"relative": error, "relative_low": low, "relative_high": high, "predicted": predicted}
        return head | {key: value / change for key, value in shares.items()}

    cells = []
    for model, one, at in (("readout", *readout_problem(problem, theta0)), ("network", problem, theta0)):
        for kappa in sorted(set(kappas)):
            ensembles = []
            if model == "network":
                ensembles = [effort.ensembles(AveragedProblem(one, kappa), at, kappa * lr, [horizon], [1])]
            cells.append(Cell(f"{model}, kappa {kappa}", partial(row, model, one, at, kappa), ensembles))
    return cells


def _rule(rows: list[dict[str, Any]], tolerance: float) -> LinearScalingRule:
    table = pd.DataFrame(rows)
    return LinearScalingRule(table.assign(follows=follows(table, tolerance)), tolerance)


@experiment("scaling", "kappa")
class Kappa(NetworkExperiment[KappaSettings]):
    """The linear scaling rule: up to which kappa the iteration follows the equation."""

    Settings = KappaSettings
    title = "Learning-rate scaling: kappa"
    example = "examples/scaling_kappa.yaml --out results/scaling_kappa"

    def cells(self) -> list[Cell]:
        """Return one cell per model and kappa."""
        s = self.settings
        check_exact_readout(self.dropout_problem)
        return _cells(self.dropout_problem, self.theta0, s.lrs[0], s.kappas, s.horizon, s.observables[0], s.effort)

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the section of the rule."""
        result = _rule(results, self.settings.tolerance)
        tables = {"table": result.table, "reach": result.reach()}
        figures = {"kappa": Captioned(result.plot(), CAPTION)}
        return [Section("Linear scaling rule", tables, figures, _report(result, self.settings), result.conclusion())]


def _report(result: LinearScalingRule, settings: KappaSettings) -> str:
    return join(
        f"kappa masks per step at kappa lr, lr = {settings.lrs[0]:g}, leave the order-1 equation unchanged. Errors of "
        f"that equation against the iteration at T = {settings.horizon:g}, relative to the change along the gradient "
        f"flow; it follows where the whole interval is inside the tolerance {result.tolerance:g}.",
        markdown(
            result.table,
            ["model", "kappa", "lr", "relative", "predicted", "follows"],
            headers={"lr": "kappa lr", "relative": "relative error", "predicted": "leading term"},
        ),
    )
