"""Error against width in the mean-field scaling, at fixed lr, at fixed lr/keep_prob, and at fixed keep_prob.

f(x; eta) = 1/m sum_r eta_r A_r tanh(W_r . x) with each particle (A_r, W_r) moved by lr, as Chizat, Marion, Yesbay
(arXiv 2510.07554) write it. It is a `TwoLayerNetwork` with the parameters (A, W)/sqrt(m) and the activation
tanh(sqrt(m) z)/sqrt(m): then a gradient step of size lr in the parameters is one of size lr in each particle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from smesolve.arguments import checked
from smesolve.comparison.confidence import NORMAL_QUANTILE, student_quantile
from smesolve.comparison.observables import named_observables
from smesolve.comparison.scaling.gradient_flow import flow_change
from smesolve.comparison.scaling.sampling_effort import EFFORT, SamplingEffort
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.data import check_table, finite_data
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import TwoLayerNetwork
from smesolve.sampling.ensemble import without_divergence_warnings
from smesolve.sampling.progress import hidden

__all__ = ["ARMS", "WidthSweep", "mean_field_problem", "width_sweep"]

ARMS = {
    "fixed lr/keep_prob": "keep_prob and lr fall like 1/width",
    "fixed lr": "keep_prob falls like 1/width",
    "fixed lr and keep_prob": "nothing changes with the width",
}


@dataclass(frozen=True)
class WidthSweep:
    """Weak errors and the size of the penalty against width."""

    table: pd.DataFrame
    """A row for each arm, width and order: keep_prob, lr, `relative` error with `relative_low`, `relative_high`,
    `resolved`, `reason`, and `penalty`, the share of L_S - R_S in L_S at the start."""

    slopes: pd.DataFrame
    """A row for each arm and order: the slope of ln|relative error| against ln width over the resolved widths, weighted
    by their intervals, with `slope_low`, `slope_high`."""


def _tables(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    tables = [finite_data(name, values, torch.float64, torch.device("cpu")) for name, values in (("x", x), ("y", y))]
    for name, values in zip("xy", tables, strict=True):
        check_table(name, values)
    return tables[0], tables[1]


@checked
def mean_field_problem(
    x: Tensor, y: Tensor, width: int, keep_prob: float, seed: int = 0
) -> tuple[DropoutProblem, Tensor]:
    """The problem with its start: particles are standard normals, the first ones the same at every width."""
    x, y = _tables(x, y)
    check_numbers_fit(f"width={width}", width**2, "take a smaller one")
    root = width**0.5
    network = TwoLayerNetwork(x.shape[1], width, y.shape[1], lambda z: torch.tanh(root * z) / root)
    particles = torch.from_numpy(np.random.default_rng(seed).standard_normal((width, x.shape[1] + y.shape[1])))
    hidden, readout = particles.split([x.shape[1], y.shape[1]], dim=1)
    return DropoutProblem(network, x, y, keep_prob=keep_prob), torch.cat(
        [hidden.flatten(), readout.mT.flatten()]
    ) / root


@checked
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
        x, y: data (n, d) and (n, o).
        widths: of the network.
        keep_prob: at the smallest width.
        lr: at the smallest width; rounded in each cell so that it divides the horizon.
        horizon: last time.
        orders: of the equation.
        effort: paths, tolerance, seed (of the particles as well), progress bars and processes.

    Raises:
        SmesolveError: bad arguments.
    """
    x, y = _tables(x, y)
    rows, first = [], min(widths)
    for width in tqdm(sorted(set(widths)), desc="widths", disable=hidden(effort.progress)):
        for arm in ARMS:
            keep = keep_prob if arm == "fixed lr and keep_prob" else keep_prob * first / width
            wanted = lr * first / width if arm == "fixed lr/keep_prob" else lr
            chosen = horizon / max(1, round(horizon / wanted))
            problem, theta0 = mean_field_problem(x, y, width, keep, effort.seed)
            whole = float(problem.modified_loss(theta0))
            head = {"arm": arm, "width": width, "keep_prob": keep, "lr": chosen}
            head["penalty"] = (whole - float(problem.loss(theta0))) / whole
            rows += [head | row for row in _cell(problem, theta0, chosen, horizon, orders, effort)]
    table = pd.DataFrame(rows)
    groups = table.groupby(["arm", "order"], sort=False)
    slopes = pd.DataFrame([{"arm": arm, "order": order} | _slope(group) for (arm, order), group in groups])
    return WidthSweep(table, slopes)


def _cell(
    problem: DropoutProblem,
    theta0: Tensor,
    lr: float,
    horizon: float,
    orders: Sequence[int],
    effort: SamplingEffort,
) -> list[dict[str, object]]:
    if lr >= problem.stability_limit(theta0):
        nothing = dict.fromkeys(("relative", "relative_low", "relative_high"), np.nan)
        return [{"order": order} | nothing | {"resolved": False, "reason": "mean unstable"} for order in orders]
    change = flow_change(problem, theta0, horizon, named_observables(problem, ["modified_loss"])["modified_loss"])
    with without_divergence_warnings():  # the reason of the row says it
        study = effort.weak_error(problem, theta0, [lr], [horizon], orders, "modified_loss")
    return [
        {
            "order": row.order,
            "relative": row.error / change,
            "relative_low": row.low / change,
            "relative_high": row.high / change,
            "resolved": row.resolved,
            "reason": row.reason,
        }
        for row in study.table.itertuples()
    ]


def _slope(group: pd.DataFrame) -> dict[str, float]:
    """Weighted regression of ln|error| on ln width; NaN with fewer than three resolved widths."""
    used = group[group.resolved]
    if len(used) < 3:
        return {"slope": np.nan, "slope_low": np.nan, "slope_high": np.nan, "points": len(used)}
    size = used.relative.abs()
    sigma = ((used.relative_high - used.relative_low) / (2 * NORMAL_QUANTILE) / size).to_numpy()
    design = np.stack([np.ones(len(used)), np.log(used.width)], axis=1) / sigma[:, None]
    height = (np.log(size) / sigma).to_numpy()
    solution, residual, *_ = np.linalg.lstsq(design, height, rcond=None)
    # a misfit beyond the intervals widens the interval
    scale = max(1.0, float(residual.sum()) / (len(used) - 2))
    half = float(student_quantile(len(used) - 2)) * (scale * np.linalg.inv(design.T @ design)[1, 1]) ** 0.5
    return {
        "slope": solution[1],
        "slope_low": solution[1] - half,
        "slope_high": solution[1] + half,
        "points": len(used),
    }
