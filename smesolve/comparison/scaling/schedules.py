"""Weak order under schedules of the learning rate and of keep_prob."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm import tqdm

from smesolve.arguments import checked
from smesolve.comparison.exact import ScheduledMoments
from smesolve.comparison.observables import Observable
from smesolve.comparison.scaling.readout_problem import readout_problem
from smesolve.comparison.scaling.sampling_effort import SamplingEffort
from smesolve.errors import SmesolveError
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.schedule import ScheduledProblem, cosine, step, warm_up
from smesolve.sampling.progress import hidden

__all__ = ["SCHEDULES", "Schedules", "schedules"]

SCHEDULES: dict[str, Callable[[Any, float], ScheduledProblem]] = {
    "constant": lambda problem, horizon: ScheduledProblem(problem),
    "step": lambda problem, horizon: ScheduledProblem(problem, lr_factor=step(horizon / 2, 0.3)),
    "cosine": lambda problem, horizon: ScheduledProblem(problem, lr_factor=cosine(horizon, 0.1)),
    "warm_up": lambda problem, horizon: ScheduledProblem(problem, lr_factor=warm_up(horizon / 2, 0.1)),
    "keep_prob": lambda problem, horizon: ScheduledProblem(
        problem, keep_prob=lambda t: 1 - (1 - problem.law.keep_prob) * cosine(horizon, 0.25)(t)
    ),
}
"""Problem and horizon -> the problem under the schedule. The jump of "step" and the kink of "warm_up" are at half the
horizon; "keep_prob" lowers the probability of dropping to a quarter along half a cosine."""

CERTIFYING = SamplingEffort(rel_tol=0.05, max_paths=2**15)


@dataclass(frozen=True)
class Schedules:
    """Weak errors and slopes under each schedule."""

    table: pd.DataFrame
    """A row for each schedule, model ("readout", exact; "network", measured), order and lr: `error`, `low`, `high`,
    `resolved`."""

    fit: pd.DataFrame
    """A row for each schedule, model and order: `slope` with `slope_low`, `slope_high`; for the network `constant` with
    its interval, and `predicted_constant` at order 1 (`first_constant`). For the readout the slope between the two
    smallest learning rates, without an interval as its errors have none."""


@checked
def schedules(
    problem: DropoutProblem,
    theta0: Tensor,
    lrs: Sequence[float],
    horizon: float,
    names: Sequence[str] = tuple(SCHEDULES),
    orders: Sequence[int] = (1, 2),
    observable: str | Observable = "loss",
    effort: SamplingEffort = CERTIFYING,
) -> Schedules:
    """Measure weak errors of the network and compute those of its readout, under each schedule.

    Args:
        problem: what is trained.
        theta0: (D,), the start.
        lrs: learning rates, which the schedules multiply; each divides half the horizon.
        horizon: last time.
        names: in `SCHEDULES`.
        orders: of the equation.
        observable: whose expectation is compared.
        effort: paths, tolerance, seed, progress bars and processes.

    Raises:
        SmesolveError: bad arguments, a schedule that is not known, fewer than two learning rates.
    """
    for name in names:
        if name not in SCHEDULES:
            raise SmesolveError(f"names must hold schedules of {', '.join(SCHEDULES)}, got {name!r}.")
    if len(lrs) < 2:
        raise SmesolveError(
            f"lrs must hold at least two learning rates to have a slope, got {list(lrs)}; add a smaller one."
        )
    readout, start = readout_problem(problem, theta0)
    rows, fits = [], []
    for name in tqdm(names, desc="schedules", disable=hidden(effort.progress)):
        study = effort.weak_error(SCHEDULES[name](problem, horizon), theta0, lrs, [horizon], orders, observable)
        columns = ["order", "lr", "error", "low", "high", "resolved"]
        rows.append(study.table[columns].assign(schedule=name, model="network"))
        fits.append(study.fit().drop(columns=["observable", "p_value"]).assign(schedule=name, model="network"))
        moments = ScheduledMoments(SCHEDULES[name](readout, horizon), start)
        for order in orders:
            errors = [moments.error(lr, order, horizon, observable) for lr in lrs]
            exact = {"order": order, "lr": lrs, "error": errors, "low": errors, "high": errors, "resolved": True}
            rows.append(pd.DataFrame(exact).assign(schedule=name, model="readout"))
            slope = {"slope": _last_slope(lrs, errors), "slope_low": np.nan, "slope_high": np.nan, "points": 2}
            fits.append(pd.DataFrame([{"order": order} | slope]))
            fits[-1] = fits[-1].assign(schedule=name, model="readout", left_out="")
    return Schedules(pd.concat(rows, ignore_index=True), pd.concat(fits, ignore_index=True))


def _last_slope(lrs: Sequence[float], errors: Sequence[float]) -> float:
    (small, e_small), (large, e_large) = sorted(zip(lrs, errors, strict=True))[:2]
    return float(np.log(e_large / e_small) / np.log(large / small)) if e_large * e_small > 0 else np.nan
