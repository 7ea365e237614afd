"""The range of validity: the largest learning rate at which an equation describes a training to a given tolerance.

The relative error of the equation of order p for an observable g at the horizon T is

    r(lr) = |E g(Theta_T) - E g(theta_K)| / |E g(theta_K) - g(theta_0)|,    K = T / lr,                             (1)

which grows like lr^p. The largest learning rate with r <= tolerance follows from r at a few learning rates, by
interpolation of log r over log lr. Each round measures at the learning rate that the last round predicts. Errors are
measured by defects (`smesolve.comparison.defects`), whose relative precision does not depend on the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.comparison.defect_budget import DefectBudget, with_bias
from smesolve.comparison.defect_plan import parts_of_horizon
from smesolve.comparison.outcomes import Status
from smesolve.comparison.paths_wanted import further_work
from smesolve.comparison.study_design import StudyDesign, check_orders, check_orders_of_defects
from smesolve.confidence import with_interval
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.observables import Observables
from smesolve.problem.problem import Problem
from smesolve.result import Result
from smesolve.sampling.journal import Journal
from smesolve.sampling.progress import Progress
from smesolve.sampling.runner import Runner
from smesolve.validation import (
    check_flag,
    check_instance,
    check_integer,
    check_observables,
    check_optional,
    check_parameters,
    check_positive,
    check_seed,
    check_tolerance,
    check_workers,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ValidityRange", "first_learning_rate", "validity_range"]

ROUNDS = 4
"""Largest number of rounds of measurements."""

FIRST = 4.0
"""Ratio of the stability limit to the first learning rate."""

NEAR = 1.25
"""Ratio of learning rates below which they are so close that only one of them is measured."""

MOST_STEPS = 2**14
"""Largest number of steps to the horizon."""

EXPECTED = 2.0
"""Work that the progress bar expects of further learning rates, in units of that of the first one."""

TOLERANCE, STABILITY, STEPS, MEASUREMENT, COST = "tolerance", "stability", "steps", "measurement", "cost"
"""What limits a learning rate: the error, the stability of the iteration, the number of simulated steps, unknown errors
at larger learning rates, or the number of gradients that may be computed."""


@dataclass(frozen=True, repr=False)
class ValidityRange(Result):
    """The largest learning rates at which the equations describe a training to a tolerance.

    Columns of `table`: order, observable; lr, lr_low, lr_high, the largest learning rate and its 95% interval;
    limited_by: "tolerance", "stability" (the error stays below the tolerance up to the stability limit, which is
    then `lr`), "steps" (the error exceeds the tolerance at every simulated learning rate; lr is extrapolated),
    "measurement" (the error is below the tolerance at `lr` and not known at larger learning rates; lr_high is the
    stability limit), or "cost" (`max_gradients` ended the search; measured errors say that the learning rate lies
    between lr_low and lr_high; `lr` is lr_low, which is 0 where no error is known to be below the tolerance).
    """

    table: pd.DataFrame
    errors: pd.DataFrame
    """The measured errors: the columns of a weak-error table by defects, with relative, relative_low, relative_high."""
    horizon: float
    tolerance: float
    stability_limit: float
    """Stability limit of the problem at theta0 (`Problem.stability_limit`)."""

    def conclusion(self) -> str:
        """Return one sentence for each observable."""
        sentences = []
        for observable, rows in self.table.groupby("observable", sort=False):
            verb = f" describes the training to {100 * self.tolerance:g}% of the change of the {observable}"
            parts: list[str] = []
            for row in rows.to_dict("records"):
                parts.append(f"order {row['order']}{'' if parts else verb} {self._described(row)}")
            sentence = ", ".join(parts).replace("order", "Order", 1)
            sentences.append(f"{sentence} (the training is stable up to lr = {self.stability_limit:.3g}).")
        return "\n".join(sentences)

    def _described(self, row: dict[str, float | str]) -> str:
        if row["limited_by"] == STABILITY:
            return "up to the stability limit"
        if row["limited_by"] == COST:
            return self._bounded(float(row["lr_low"]), float(row["lr_high"]))
        if not np.isfinite(float(row["lr"])):
            return "up to a lr that is not known"
        if row["limited_by"] == MEASUREMENT:
            return f"up to lr = {row['lr']:.2g} at least, as errors at larger ones are not known"
        value, low, high = (float(row[column]) for column in ("lr", "lr_low", "lr_high"))
        interval = f"up to lr = {with_interval(value, low, high, digits=2)}"
        return f"{interval}, extrapolated," if row["limited_by"] == STEPS else interval

    def _bounded(self, low: float, high: float) -> str:
        """Return between which learning rates the largest one lies."""
        if low > 0:
            return (
                f"up to a lr between {low:.2g} and {high:.2g}"
                if high < self.stability_limit
                else (f"up to lr = {low:.2g} at least")
            )
        if high < self.stability_limit:
            return f"up to a lr below {high:.2g}"
        return "up to a lr that is not known"

    def summary(self) -> str:
        """Return a head line and `conclusion`."""
        return f"Largest learning rates of a training up to T = {self.horizon:g}:\n{self.conclusion()}"

    def plot(self) -> Figure:
        """Return relative errors against the learning rate, with the tolerance and the ranges."""
        from smesolve.comparison.validity_figure import validity_figure  # late, as matplotlib takes its time

        return validity_figure(self.errors, self.table, self.tolerance, self.stability_limit)


@entry_point
@torch.no_grad()
def validity_range(
    problem: Problem,
    theta0: Tensor,
    horizon: float,
    tolerance: float = 0.01,
    *,
    orders: Sequence[int] = (1, 2),
    observables: Observables = ("loss",),
    rel_tol: float = 0.1,
    paths: int = 64,
    max_paths: int = 2**14,
    max_gradients: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    journal: Journal | None = None,
    progress: bool | None = None,
) -> ValidityRange:
    """Find the largest learning rate at which each equation describes a training to a tolerance.

    Args:
        problem: what is trained. The breaks of a schedule must be multiples of a part of the horizon, a half up to a
            256th, as every learning rate that is measured divides them.
        theta0: (D,), the start.
        horizon: time T of the comparison; the iteration takes T/lr steps.
        tolerance: largest error, relative to the change of the observable from theta0 to the horizon.
        orders: orders of the equations, 1 and/or 2.
        observables: as in `weak_error`, except those that jump, such as accuracies.
        rel_tol: relative 95% half-width to which errors are measured.
        paths: number of paths of the first round at each learning rate, in whole blocks.
        max_paths: largest number of paths at each learning rate; the size of a block follows from it (`weak_error`).
        max_gradients: largest number of gradients in all. What is not resolved within it is said as a bound. Default:
            no bound.
        seed: root seed.
        workers: number of processes, or threads for compiled kernels, that share the blocks; results do not depend on
            it. Default: only this process.
        journal: a journal that keeps every finished block on disk. Default: none.
        progress: whether to show the progress. Default: on a terminal and in a notebook only.

    Returns:
        A `ValidityRange`.

    Raises:
        SmesolveError: unusable arguments, or a schedule whose breaks are no such multiples.

    Cost: 7 to 12 gradients per step and path for both orders, 20 where the network has kinks (`DefectSampler`), at two
    to five learning rates; `max_gradients` bounds it.
    """
    theta0 = check_parameters("theta0", theta0, problem)
    horizon, tolerance = check_positive("horizon", horizon), check_tolerance("tolerance", tolerance)
    orders = check_orders_of_defects(check_orders("orders", orders))
    rel_tol, paths = check_tolerance("rel_tol", rel_tol), check_integer("paths", paths, 2)
    max_paths, seed = check_integer("max_paths", max_paths, paths), check_seed("seed", seed)
    observables = check_observables("observables", observables)
    workers = check_workers("workers", workers)
    most = math.inf if max_gradients is None else check_positive("max_gradients", max_gradients)
    if journal is not None:
        check_instance("journal", journal, Journal, "a Journal")
    check_optional("progress", progress, check_flag)
    problem.check_start("theta0", theta0)
    search = _Search.of(problem, theta0, horizon)
    wanted = {search.first_steps}
    design = StudyDesign.of(
        problem.in_blocks_for(max_paths),
        theta0,
        [horizon / max(wanted)],
        horizon,
        orders=orders,
        observables=observables,
        times=[horizon],
        control="none",
        seed=seed,
    )
    for name in design.observables:
        if name not in design.smooth_observables:
            raise SmesolveError(
                f"observables: {name!r} jumps, and a range of validity rests on derivatives; take one that does not."
            )
    rows: list[dict[str, object]] = []
    done: set[int] = set()
    spent = 0.0
    with Progress(progress) as bar:
        runner = Runner(workers, journal, bar)
        for _ in range(ROUNDS):
            before = len(done)
            for steps in sorted(wanted - done):
                lr = horizon / steps
                budget = DefectBudget(design, lr, runner)
                work = budget.cost(paths)
                if spent + work > most:
                    if not done:
                        raise SmesolveError(
                            f"max_gradients={most:g} is less than the {work:g} that paths={paths} take at the first "
                            f"learning rate, {lr:.3g}; take more gradients or fewer paths."
                        )
                    break  # more steps take more
                bar.describe(f"lr {lr:.3g}")
                bar.add(work + further_work(work, rel_tol) + (0.0 if done else EXPECTED * work))
                affordable = max_paths if most == math.inf else min(max_paths, budget.affordable(most - spent))
                budget.draw(paths, rel_tol, affordable)
                rows += budget.rows(rel_tol)
                spent += budget.spent
                done.add(steps)
            if len(done) == before:
                break
            errors = _relative(with_bias(pd.DataFrame(rows)), design.start)
            table = search.ranges(errors, tolerance)
            wanted = search.next_steps(table, done)
    if most < math.inf:
        table = search.with_bounds(table, errors, done, tolerance)
    return ValidityRange(table, errors, horizon, tolerance, search.limit)


def first_learning_rate(problem: Problem, theta0: Tensor, horizon: float) -> float:
    """Return the first learning rate at which `validity_range` measures."""
    return horizon / _Search.of(problem, theta0, horizon).first_steps


@dataclass(frozen=True)
class _Search:
    """The learning rates that can be measured, as numbers of steps to the horizon."""

    horizon: float
    limit: float
    """The stability limit."""
    parts: int
    """Every number of steps is a multiple of this one."""

    @classmethod
    def of(cls, problem: Problem, theta0: Tensor, horizon: float) -> _Search:
        parts = parts_of_horizon(problem, horizon)
        return cls(horizon, problem.stability_limit(theta0, horizon), parts)

    def _multiple(self, steps: int) -> int:
        """Return the least possible number of steps that is at least `steps`."""
        return -(-steps // self.parts) * self.parts

    @property
    def fewest_steps(self) -> int:
        """The number of steps at the largest learning rate below the stability limit."""
        return self._multiple(math.floor(self.horizon / self.limit * (1 + 1e-9)) + 1)

    @property
    def first_steps(self) -> int:
        """The number of steps at the first learning rate."""
        return self._multiple(max(self.fewest_steps, math.ceil(FIRST * self.horizon / self.limit), 2))

    def ranges(self, errors: pd.DataFrame, tolerance: float) -> pd.DataFrame:
        """Return the table of a `ValidityRange`."""
        rows = []
        for (order, observable), part in errors.groupby(["order", "observable"], sort=False):
            known = np.array([Status(reason).has_interval for reason in part.reason]) & np.isfinite(part.relative_high)
            usable, unknown = part[known], part.lr[~known]
            lrs = usable.lr.to_numpy()
            power = int(order)
            lr, low, high = (
                _crossing(lrs, usable[column].to_numpy(), power, tolerance, self.limit)
                for column in ("relative", "relative_high", "relative_low")
            )
            beyond = unknown[unknown > lrs.max()] if len(lrs) else unknown
            unmeasured = bool(len(beyond)) and lr >= beyond.min()
            if unmeasured:  # no extrapolation beyond a learning rate at which the error is not known
                lr = low = float(usable.lr[usable.relative_high <= tolerance].max())
                high = self.limit
            limited = STABILITY if lr >= self.limit else STEPS if lr < self.horizon / MOST_STEPS else TOLERANCE
            limited = MEASUREMENT if unmeasured else limited
            row = {"order": power, "observable": observable, "lr": lr, "lr_low": low, "lr_high": high}
            rows.append(row | {"limited_by": limited})
        return pd.DataFrame(rows)

    def with_bounds(self, table: pd.DataFrame, errors: pd.DataFrame, done: set[int], tolerance: float) -> pd.DataFrame:
        """Return the table with bounds from what was measured where nothing was measured near a learning rate."""
        rows = []
        for row in table.to_dict("records"):
            if self.next_steps(pd.DataFrame([row]), done) - done:
                part = errors[(errors.order == row["order"]) & (errors.observable == row["observable"])]
                known = np.array([Status(reason).has_interval for reason in part.reason], dtype=bool)
                above = part.lr[known & (part.relative_low > tolerance)]
                high = float(above.min()) if len(above) else self.limit
                below = part.lr[known & (part.relative_high <= tolerance)]
                low = float(below[below < high].max()) if (below < high).any() else 0.0
                row |= {"lr": low, "lr_low": low, "lr_high": high, "limited_by": COST}
            rows.append(row)
        return pd.DataFrame(rows)

    def next_steps(self, table: pd.DataFrame, done: set[int]) -> set[int]:
        """Return the numbers of steps to the horizon of the next measurements, near the expected ranges.

        Where nothing is known yet, because paths diverge or a few of them carry the mean, the learning rate is halved.
        """
        wanted = set()
        if table.lr.isna().any():
            wanted.add(self._multiple(min(2 * max(done), MOST_STEPS)))
        for lr in table.lr.dropna():
            steps = min(
                max(round(self.horizon / lr / self.parts) * self.parts, self.fewest_steps), self._multiple(MOST_STEPS)
            )
            if not any(1 / NEAR < steps / known < NEAR for known in done):
                wanted.add(steps)
        return wanted


def _relative(errors: pd.DataFrame, start: dict[str, float]) -> pd.DataFrame:
    """Return the errors with eq. (1) and its interval."""
    change = (errors.discrete - errors.observable.map(start)).abs()
    uncertain = change - errors.discrete_half_width  # a change that is not known has no relative error
    largest = np.maximum(errors.low.abs(), errors.high.abs())
    least = np.where(errors.low * errors.high > 0, np.minimum(errors.low.abs(), errors.high.abs()), 0.0)
    return errors.assign(
        change=change,
        relative=errors.error.abs() / change,
        relative_low=least / (change + errors.discrete_half_width),
        relative_high=np.where(uncertain > 0, largest / uncertain.clip(lower=1e-300), np.inf),
    ).sort_values(["order", "observable", "lr"], ignore_index=True)


def _crossing(lrs: np.ndarray, values: np.ndarray, power: int, tolerance: float, limit: float) -> float:
    """Return the largest lr, at most the limit, up to which the values at increasing lrs are below the tolerance."""
    if not len(lrs) or np.isnan(values).all():
        return math.nan
    values = np.maximum(np.nan_to_num(values, nan=np.inf, posinf=1e300), 1e-300)
    above = np.flatnonzero(values > tolerance)
    if len(above) and above[0] > 0:
        k = above[0]
        share = math.log(tolerance / values[k - 1]) / math.log(values[k] / values[k - 1])
        return min(limit, float(lrs[k - 1] * (lrs[k] / lrs[k - 1]) ** share))
    k = 0 if len(above) else -1
    return min(limit, float(lrs[k] * (tolerance / values[k]) ** (1 / power)))
