"""Error against width in the mean-field scaling, at fixed lr/keep_prob, at fixed lr, and with both fixed.

The network is f(x; eta) = 1/m sum_r eta_r A_r tanh(W_r . x), and each particle (A_r, W_r) moves by -lr m times its
gradient (Chizat, Marion, Yesbay, arXiv 2510.07554). This is a `TwoLayerNetwork` with the parameters (A, W)/sqrt(m) and
the activation tanh(sqrt(m) z)/sqrt(m): a gradient step with learning rate lr in these parameters moves the particles in
this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.comparison.gradient_flow import flow_change
from smesolve.confidence import NORMAL_QUANTILE, student_quantile
from smesolve.entry_point import entry_point
from smesolve.experiments.shared.cells import Cell, run_cells
from smesolve.experiments.shared.datasets import load_data, training_and_test
from smesolve.experiments.shared.error_curves import curve, with_reasons
from smesolve.experiments.shared.experiment import Experiment, digest_of
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.problems import described_data
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.sampling_effort import EFFORT, SamplingEffort
from smesolve.experiments.shared.section import Captioned, ReportedResult, Section, interval, markdown
from smesolve.experiments.shared.settings import DataSettings, StudySettings, check_one
from smesolve.figures import DROPOUT, ORDERS, PAGE, Figure, drawing, log_ticks
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.data import check_table, finite_data
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import TwoLayerNetwork
from smesolve.problem.observables import named_observables
from smesolve.sampling.ensemble import without_divergence_warnings
from smesolve.validation import check_instance, check_integer, check_keep_prob, check_list, check_positive, check_seed

__all__ = ["Width", "WidthSettings", "WidthSweep", "mean_field_problem", "width_sweep"]


class Arm(StrEnum):
    """Quantities that stay fixed as the width grows."""

    FIXED_RATIO = "fixed lr/keep_prob"
    FIXED_LR = "fixed lr"
    FIXED_BOTH = "fixed lr and keep_prob"


ARMS = {
    Arm.FIXED_RATIO: "keep_prob and lr fall like 1/width",
    Arm.FIXED_LR: "keep_prob falls like 1/width",
    Arm.FIXED_BOTH: "nothing changes with the width",
}


CAPTION = (
    "Left: |relative error| against the width, one panel per order, with 95% intervals, hollow if not resolved; right: "
    "share of the penalty in the modified loss at the start against the width. One line per arm."
)


@dataclass(frozen=True)
class WidthSettings(StudySettings):
    """Error against width.

    Args:
        data: the data. The study has its own networks, and its observable is the modified loss.
        keep_prob: probability that a neuron is kept, at the smallest width.
        lrs: learning rate at the smallest width, in a list.
        horizon: last time T.
        widths: neurons of the hidden layer.
        orders: orders of the equation, 1 and/or 2.
        paths: independent paths on each side; the first round where rel_tol is given.
        rel_tol: paths are added until the interval of every error is at most this share of the error. Default: no paths
            are added.
        max_paths: bound on the paths of each side.
        seed: root seed of masks and Brownian motions, and of the initial parameters.
        threads: threads of torch, divided among the workers. Default: left as they are.
        workers: processes that share the paths; results do not depend on them. Default: only this one.
    """

    data: DataSettings = field(default_factory=DataSettings)
    keep_prob: float = 0.8
    lrs: list[float] = field(default_factory=lambda: [0.05])
    horizon: float = 1.0
    widths: list[int] = field(default_factory=lambda: [4, 8, 16, 32])
    orders: list[int] = field(default_factory=lambda: [1, 2])
    paths: int = 1024
    rel_tol: float | None = None
    max_paths: int = 4096
    seed: int = 0
    threads: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one(self, "lrs")
        check_list("widths", self.widths, check_integer)
        check_list("orders", self.orders, check_integer)

    @property
    def effort(self) -> SamplingEffort:
        """The effort of these settings."""
        return SamplingEffort(self.paths, self.rel_tol, self.max_paths, self.seed, workers=self.workers)


@dataclass(frozen=True, repr=False)
class WidthSweep(ReportedResult):
    """Weak errors and the size of the penalty against width."""

    table: pd.DataFrame
    """One row per arm, width and order: keep_prob, lr, `relative` error with `relative_low`, `relative_high`,
    `resolved`, `reason`, and `penalty`, the share of L_S - R_S in L_S at the start."""

    slopes: pd.DataFrame
    """One row per arm and order: the slope of ln|relative error| against ln width over the resolved widths, weighted
    by their intervals, with `slope_low`, `slope_high`."""

    @drawing()
    def plot(self) -> Figure:
        """Draw relative error and share of the penalty against width in the arms."""
        orders = sorted(self.table.order.unique())
        figure = Figure(figsize=(PAGE, 2.8), layout="constrained")
        *errors, share = figure.subplots(1, len(orders) + 1)
        styles = (DROPOUT, ORDERS[1], ORDERS[2])
        for style, arm in zip(styles, ARMS, strict=True):
            part = self.table[self.table.arm == arm]
            for axis, order in zip(errors, orders, strict=True):
                rows = part[(part.order == order) & part.relative.notna()]
                curve(axis, rows.width, rows, style, arm)
            rows = part.drop_duplicates("width")
            share.plot(rows.width, rows.penalty, **style.line_options)
        for axis, order in zip(errors, orders, strict=True):
            axis.set_ylabel(f"|relative error|, order {order}")
        share.set_ylabel("penalty / modified loss at the start")
        for axis in (*errors, share):
            log_ticks(axis, self.table.width)
            axis.set(yscale="log", xlabel="width")
        figure.legend(*errors[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        return figure

    def conclusion(self) -> str:
        """Return the conclusions, as a list in Markdown."""
        lines = [
            f"- {row['arm']}, order {row['order']}: "
            + (
                f"|relative error| goes like width^{interval(row, 'slope', '.2f')} over {row['points']} widths."
                if np.isfinite(row["slope"])
                else f"no slope, {row['points']} widths are resolved."
            )
            for row in self.slopes.to_dict("records")
        ]
        return "\n".join(lines)


def _tables(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    tables = [finite_data(name, values, torch.float64, torch.device("cpu")) for name, values in (("x", x), ("y", y))]
    for name, values in zip("xy", tables, strict=True):
        check_table(name, values)
    return tables[0], tables[1]


@entry_point
def mean_field_problem(
    x: Tensor, y: Tensor, width: int, keep_prob: float, seed: int = 0
) -> tuple[DropoutProblem, Tensor]:
    """Return the problem and its start. The particles are standard normals, the first ones the same at every width."""
    check_integer("width", width)
    check_seed("seed", seed)
    x, y = _tables(x, y)
    check_numbers_fit(f"width={width}", width**2, "take a smaller one")
    root = width**0.5
    network = TwoLayerNetwork(x.shape[1], width, y.shape[1], lambda z: torch.tanh(root * z) / root)
    particles = torch.from_numpy(np.random.default_rng(seed).standard_normal((width, x.shape[1] + y.shape[1])))
    hidden, readout = particles[:, : x.shape[1]], particles[:, x.shape[1] :]
    return DropoutProblem(network, x, y, keep_prob=keep_prob), torch.cat(
        [hidden.flatten(), readout.mT.flatten()]
    ) / root


@entry_point
def width_sweep(
    x: Tensor,
    y: Tensor,
    widths: Sequence[int],
    keep_prob: float,
    lr: float,
    horizon: float,
    orders: Sequence[int] = (1,),
    effort: SamplingEffort = EFFORT,
) -> WidthSweep:
    """Measure the error of the modified loss against width in the three arms, which meet at the smallest width.

    Args:
        x: inputs (n, d).
        y: targets (n, o).
        widths: widths of the network.
        keep_prob: probability that a neuron is kept, at the smallest width.
        lr: learning rate at the smallest width; in each cell it is rounded so that it divides the horizon.
        horizon: last time.
        orders: orders of the equation.
        effort: paths, tolerance, seed (also of the particles), progress bars and processes.

    Raises:
        SmesolveError: invalid arguments.
    """
    widths, orders = check_list("widths", widths, check_integer), check_list("orders", orders, check_integer)
    check_keep_prob("keep_prob", keep_prob)
    lr, horizon = check_positive("lr", lr), check_positive("horizon", horizon)
    check_instance("effort", effort, SamplingEffort, "a SamplingEffort")
    cells = _cells(*_tables(x, y), widths, keep_prob, lr, horizon, orders, effort)
    return _combined(run_cells(cells, progress=effort.progress))


def _cells(
    x: Tensor,
    y: Tensor,
    widths: Sequence[int],
    keep_prob: float,
    lr: float,
    horizon: float,
    orders: Sequence[int],
    effort: SamplingEffort,
) -> list[Cell]:
    """Return one cell per width and arm, each with a learning rate that divides the horizon."""
    first = min(widths)

    def rows(head: dict[str, Any], problem: DropoutProblem, theta0: Tensor) -> list[dict[str, Any]]:
        """Return a row of the table for each order."""
        whole = float(problem.modified_loss(theta0))
        head = head | {"penalty": (whole - float(problem.loss(theta0))) / whole}
        if head["lr"] >= problem.stability_limit(theta0):
            unknown: dict[str, Any] = dict.fromkeys(("relative", "relative_low", "relative_high"), np.nan)
            return [head | {"order": k} | unknown | {"resolved": False, "reason": "mean unstable"} for k in orders]
        change = flow_change(problem, theta0, horizon, named_observables(problem, ["modified_loss"])["modified_loss"])
        with without_divergence_warnings():  # the reason in the row shows it
            study = effort.weak_error(problem, theta0, [head["lr"]], [horizon], orders, "modified_loss")
        errors = {"relative": "error", "relative_low": "low", "relative_high": "high"}
        return [
            head
            | {"order": row.order}
            | {name: getattr(row, column) / change for name, column in errors.items()}
            | {"resolved": bool(row.resolved), "reason": row.reason}
            for row in study.table.itertuples()
        ]

    cells = []
    for width, arm in product(sorted(set(widths)), ARMS):
        keep = keep_prob if arm is Arm.FIXED_BOTH else keep_prob * first / width
        wanted = lr * first / width if arm is Arm.FIXED_RATIO else lr
        problem, theta0 = mean_field_problem(x, y, width, keep, effort.seed)
        head: dict[str, Any] = {
            "arm": arm,
            "width": width,
            "keep_prob": keep,
            "lr": horizon / max(1, round(horizon / wanted)),
        }
        ensembles = effort.ensembles(problem, theta0, head["lr"], [horizon], orders)
        cells.append(Cell(f"width {width}, {arm}", partial(rows, head, problem, theta0), [ensembles]))
    return cells


def _combined(results: list[list[dict[str, Any]]]) -> WidthSweep:
    table = pd.DataFrame([row for rows in results for row in rows])
    groups = table.groupby(["arm", "order"], sort=False)
    slopes = pd.DataFrame([{"arm": arm, "order": order} | _slope(group) for (arm, order), group in groups])
    return WidthSweep(table, slopes)


def _slope(group: pd.DataFrame) -> dict[str, float]:
    """Return the weighted regression of ln|error| on ln width; NaN with fewer than three resolved widths."""
    used = group[group.resolved]
    if len(used) < 3:
        return {"slope": np.nan, "slope_low": np.nan, "slope_high": np.nan, "points": len(used)}
    size = used.relative.abs()
    sigma = ((used.relative_high - used.relative_low) / (2 * NORMAL_QUANTILE) / size).to_numpy()
    design = np.stack([np.ones(len(used)), np.log(used.width)], axis=1) / sigma[:, None]
    height = (np.log(size) / sigma).to_numpy()
    solution, residual, *_ = np.linalg.lstsq(design, height, rcond=None)
    # A misfit beyond the intervals widens the interval of the slope.
    scale = max(1.0, float(residual.sum()) / (len(used) - 2))
    half = float(student_quantile(len(used) - 2)) * (scale * np.linalg.inv(design.T @ design)[1, 1]) ** 0.5
    return {
        "slope": solution[1],
        "slope_low": solution[1] - half,
        "slope_high": solution[1] + half,
        "points": len(used),
    }


@experiment("scaling", "width")
class Width(Experiment[WidthSettings]):
    """Error against width in the mean-field scaling."""

    Settings = WidthSettings
    title = "Learning-rate scaling: width"
    example = "examples/scaling_width.yaml --out results/scaling_width"

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        x, y = load_data(self.settings.data)
        kept, _ = training_and_test(self.settings.data, len(x))
        return _tables(torch.from_numpy(x[kept]), torch.from_numpy(y[kept]))

    def cells(self) -> list[Cell]:
        """Return a cell for each width and arm."""
        s = self.settings
        return _cells(*self.data, s.widths, s.keep_prob, s.lrs[0], s.horizon, s.orders, s.effort)

    def measured(self) -> str:
        """Return the data in words."""
        x, _ = self.data
        return described_data(self.settings.data.name, *x.shape)

    def data_digest(self) -> str:
        """Return a digest of the data."""
        return digest_of(*self.data)

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the section of errors and slopes."""
        result = _combined(results)
        tables = {"table": result.table, "slopes": result.slopes}
        figures = {"width": Captioned(result.plot(), CAPTION)}
        return [Section("Error against width", tables, figures, _report(result), result.conclusion())]


def _report(result: WidthSweep) -> str:
    return join(
        "Mean-field scaling: 1/m sum_r eta_r A_r tanh(W_r . x), each particle moved by lr. Arms: "
        f"{'; '.join(f'{arm}: {meaning}' for arm, meaning in ARMS.items())}. `relative`: error of the modified loss "
        "over its change along the gradient flow. `penalty`: share of the penalty in the modified loss at the start.",
        markdown(
            with_reasons(result.table),
            ["arm", "width", "order", "keep_prob", "lr", "penalty", "relative", "resolved"],
        ),
        "Chizat, Marion, Yesbay (arXiv 2510.07554) state that the penalty survives only at learning rates of order "
        "1/width. What is measured here is the weak error of the equation, and the share of the penalty at the start, "
        "only for these widths, this data set and this horizon; the statement itself, a limit of infinite width, is "
        "not tested.",
    )
