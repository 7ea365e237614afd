"""Weak error over learning rate and keep_prob, limits of stability, and the parameter on which the errors collapse.

Cells lie at the same multiples of a natural scale for every keep_prob: the learning rate at which second moments of the
readout's iteration stop decaying, about 2 keep_prob^2 / curvature. The horizon is a fixed number of relaxation times.
Errors are relative to the change of the observable along the gradient flow of the modified loss.

Two models share the cells: the network itself, measured (`weak_error`), and its readout alone, trained on the features
of theta0, whose moments and limits are known exactly (`LinearMoments`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize
from torch import Tensor
from tqdm import tqdm

from smesolve.arguments import checked
from smesolve.comparison.confidence import CONFIDENCE, NORMAL_QUANTILE
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.observables import Observable, named_observables
from smesolve.comparison.scaling.gradient_flow import flow_change, relaxation_time
from smesolve.comparison.scaling.mean_square_growth import ObservedLimit, observed_limit
from smesolve.comparison.scaling.readout_problem import readout_problem
from smesolve.comparison.scaling.sampling_effort import EFFORT, SamplingEffort
from smesolve.problem.dropout import DropoutProblem
from smesolve.sampling.ensemble import without_divergence_warnings
from smesolve.sampling.parallel import run_blocks
from smesolve.sampling.progress import hidden
from smesolve.solver.time_grid import grid_steps

__all__ = ["ErrorMap", "error_map", "stability_limits"]

COLLAPSE_BELOW = 0.3
"""Multiples of the natural scale up to which errors are compared with one curve: beyond, they change sign."""

POWERS = (0.0, 1.0, 2.0)
"""q of the candidates lr / keep_prob^q."""

RESAMPLES = 400


@dataclass(frozen=True)
class ErrorMap:
    """Weak errors and limits of stability over lr and keep_prob."""

    table: pd.DataFrame
    """A row for each model ("readout", "network"), keep_prob, multiple and order: lr, horizon, `discrete` and `sde`
    (means), `error`, `relative` with `relative_low` and `relative_high`, `resolved`, and `reason` where it is not."""

    limits: pd.DataFrame
    """A row for each keep_prob and process ("iteration", "order 1", "order 2") of the readout: `predicted` (exact) and
    `observed` lr with `low`, `high`; `observed / predicted` as `ratio`; NaN where there is no limit to observe."""

    observable: str

    def collapse(self, seed: int = 0) -> pd.DataFrame:
        """How far errors are from one curve against lr / keep_prob^q.

        ln|error| of the resolved cells of small lr is fitted by a parabola in ln(lr / keep_prob^q).

        Returns:
            A row for each model, order and ordinate ("relative", the error at the horizon, and "rate", this error over
            the horizon): `spread_0`, `spread_1`, `spread_2` with `_low`, `_high`, the root mean square distance from
            the curve for q = 0, 1, 2; `power`, the q of least spread, with its interval, and `spread`; `cells`.
            Intervals (95%) are by the bootstrap, over cells and their errors.
        """
        rng, rows = np.random.default_rng(seed), []
        for (model, order), group in self.table.groupby(["model", "order"], sort=False):
            cells = _comparable(group)
            for ordinate in ("relative", "rate"):
                if len(cells) < 8 or cells.keep_prob.nunique() < 3:
                    continue
                rows.append({"model": model, "order": order, "ordinate": ordinate} | _spreads(cells, ordinate, rng))
        return pd.DataFrame(rows)


def _comparable(group: pd.DataFrame) -> pd.DataFrame:
    """Resolved cells of small lr that have the sign of most of them."""
    cells = group[group.resolved & (group.multiple <= COLLAPSE_BELOW)]
    return cells[np.sign(cells.relative) == np.sign(np.sign(cells.relative).sum())] if len(cells) else cells


def _spreads(cells: pd.DataFrame, ordinate: str, rng: np.random.Generator) -> dict[str, float]:
    log_lr, log_keep = np.log(cells.lr.to_numpy()), np.log(cells.keep_prob.to_numpy())
    error, unit = np.abs(cells.relative.to_numpy()), cells.horizon.to_numpy() if ordinate == "rate" else 1.0
    sigma = (cells.relative_high - cells.relative_low).to_numpy() / (2 * NORMAL_QUANTILE)

    def spread(power: float, chosen: np.ndarray, heights: np.ndarray) -> float:
        x = (log_lr - power * log_keep)[chosen]
        x = (x - x.mean()) / max(x.std(), 1e-12)
        left = heights - np.polyval(np.polyfit(x, heights, 2), x)
        return float((left @ left / max(len(x) - 3, 1)) ** 0.5)

    def all_spreads(chosen: np.ndarray, heights: np.ndarray) -> list[float]:
        free = partial(spread, chosen=chosen, heights=heights)
        best = optimize.minimize_scalar(free, bounds=(-1, 5), method="bounded")
        return [*(spread(power, chosen, heights) for power in POWERS), float(best.x), float(best.fun)]

    found = all_spreads(np.arange(len(cells)), np.log(error / unit))
    drawn: list[list[float]] = []
    while len(drawn) < RESAMPLES:
        chosen = rng.integers(len(cells), size=len(cells))
        noisy = np.abs(error + sigma * rng.standard_normal(len(cells))) / unit
        if len(set(chosen)) > 5 and (noisy > 0).all():
            drawn.append(all_spreads(chosen, np.log(noisy)[chosen]))
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    names = [*(f"spread_{power:g}" for power in POWERS), "power", "spread"]
    result: dict[str, float] = {"cells": len(cells)}
    for name, value, below, above in zip(names, found, low, high, strict=True):
        result |= {name: value, f"{name}_low": below, f"{name}_high": above}
    return result


@checked
def error_map(
    problem: DropoutProblem,
    theta0: Tensor,
    keep_probs: Sequence[float],
    multiples: Sequence[float],
    relaxations: float = 1.0,
    orders: Sequence[int] = (1, 2),
    observable: str | Observable = "modified_loss",
    effort: SamplingEffort = EFFORT,
) -> ErrorMap:
    """Measure the map.

    Args:
        problem: network and data; its own keep_prob is not used.
        theta0: (D,), the start.
        keep_probs: of the map.
        multiples: learning rates in units of the mean-square limit of the readout's iteration; rounded so that the
            horizon is a whole number of steps.
        relaxations: horizon in relaxation times 1/lambda_max(Hess L_S(theta0)).
        orders: of the equation.
        observable: whose expectation is compared.
        effort: paths, tolerance, seed, progress bars and processes.

    Raises:
        SmesolveError: bad arguments, or a readout of more than 24 parameters, whose moments are too many.

    Cost: horizon/lr steps a cell; with relaxations R about R/(2 keep_prob multiple) of them.
    """
    problems = {keep_prob: problem.with_keep_prob(keep_prob) for keep_prob in keep_probs}
    readouts = {keep_prob: readout_problem(here, theta0) for keep_prob, here in problems.items()}
    limits = stability_limits({keep_prob: readout for keep_prob, (readout, _) in readouts.items()}, orders, effort)
    rows = []
    for keep_prob in tqdm(keep_probs, desc="keep_prob", disable=hidden(effort.progress)):
        here, (readout, start) = problems[keep_prob], readouts[keep_prob]
        moments = LinearMoments(readout, start)
        scale, unit = moments.stability_limit(), relaxation_time(here, theta0)
        horizon = relaxations * unit
        (name,) = named_observables(here, [observable])
        change = {
            model: flow_change(one, at, horizon, named_observables(one, [observable])[name])
            for model, one, at in (("readout", readout, start), ("network", here, theta0))
        }
        lrs = {horizon / steps for steps in {max(1, round(horizon / (multiple * scale))) for multiple in multiples}}
        for lr in tqdm(sorted(lrs), desc=f"keep_prob {keep_prob:g}", disable=hidden(effort.progress), leave=False):
            cell = {"keep_prob": keep_prob, "lr": lr, "multiple": lr / scale, "horizon": horizon}
            measured = _measured(here, theta0, lr, horizon, orders, observable, effort)
            for model, found in (("readout", _exact(moments, lr, horizon, orders, observable)), ("network", measured)):
                rows += [{"model": model} | cell | _relative(row, change[model]) for row in found]
    table = pd.DataFrame(rows).sort_values(["model", "order", "keep_prob", "lr"], ignore_index=True)
    return ErrorMap(table, limits, name)


def stability_limits(
    readouts: Mapping[float, DropoutProblem], orders: Sequence[int], effort: SamplingEffort = EFFORT
) -> pd.DataFrame:
    """Mean-square limits of iteration and equations, predicted and observed: `ErrorMap.limits`.

    A limit beyond 2/lambda_max(H), where the mean of the iteration itself diverges, is predicted alone.

    Args:
        readouts: by keep_prob.
        orders: of the equations.
        effort: seed, progress bars and processes.

    Cost: some seconds for each limit that is observed.
    """
    rows: list[dict[str, Any]] = []
    seen = []
    for keep_prob, readout in readouts.items():
        moments = LinearMoments(readout, readout.initial())
        mean_limit = readout.stability_limit(readout.initial())
        for process in (None, *orders):
            label = "iteration" if process is None else f"order {process}"
            rows.append({"keep_prob": keep_prob, "process": label, "predicted": moments.stability_limit(process)})
            if rows[-1]["predicted"] < mean_limit:
                seen.append((rows[-1], readout, process))

    def observed(number: int) -> ObservedLimit:
        _, readout, process = seen[number]
        # a step of the iteration has far less noise in |u|^2 than one of a diffusion
        return observed_limit(readout, process, populations=4 if process is None else 8, seed=effort.seed)

    tasks = [("limits", number) for number in range(len(seen))]
    found = run_blocks({"limits": observed}, tasks, effort.workers)
    for number, limit in tqdm(found, desc="limits", total=len(tasks), disable=hidden(effort.progress)):
        row = seen[number][0]
        row |= {"observed": limit.lr, "low": limit.low, "high": limit.high, "ratio": limit.lr / row["predicted"]}
    return pd.DataFrame(rows, columns=["keep_prob", "process", "predicted", "observed", "low", "high", "ratio"])


def _exact(
    moments: LinearMoments, lr: float, horizon: float, orders: Sequence[int], observable: str | Observable
) -> list[dict[str, object]]:
    discrete = moments.iteration(lr, grid_steps(horizon, lr, "horizon", "lr"), observable)
    rows = []
    for order in orders:
        sde = moments.equation(lr, order, horizon, observable)
        error = sde - discrete
        rows.append({"order": order, "discrete": discrete, "sde": sde, "error": error, "low": error, "high": error})
    return [row | {"resolved": True, "reason": ""} for row in rows]


def _measured(
    problem: DropoutProblem,
    theta0: Tensor,
    lr: float,
    horizon: float,
    orders: Sequence[int],
    observable: str | Observable,
    effort: SamplingEffort,
) -> list[dict[str, object]]:
    """One row for each order; a cell where the mean iteration diverges has no measurement."""
    if lr >= problem.stability_limit(theta0):
        nothing = dict.fromkeys(("discrete", "sde", "error", "low", "high"), np.nan)
        return [{"order": order} | nothing | {"resolved": False, "reason": "mean unstable"} for order in orders]
    with without_divergence_warnings():  # the reason of the row says it
        study = effort.weak_error(problem, theta0, [lr], [horizon], orders, observable)
    rows = []
    for row in study.table.itertuples():
        values = {name: getattr(row, name) for name in ("order", "discrete", "sde", "error", "low", "high")}
        rows.append(values | {"resolved": bool(row.resolved), "reason": row.reason})
    return rows


def _relative(row: dict[str, Any], change: float) -> dict[str, object]:
    values = {"relative": row["error"], "relative_low": row["low"], "relative_high": row["high"]}
    return row | {name: value / change for name, value in values.items()}
