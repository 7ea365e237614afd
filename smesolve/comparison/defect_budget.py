"""The weak errors at one learning rate by defects, and what their bias is.

Estimates by defects have a bias that vanishes with lr faster than the error (`smesolve.comparison.defects`). For the
error of order 2, and for that of order 1 which contains it, its size is delta lr^3, half the difference between both
placements of the shifts. All learning rates of a study know delta. Where there are no shifts (order 1 only, or kinks)
the bias is of the size of the next term, d lr^(p+1), in

    e / lr^p = c + d lr + O(lr^2),

by regression over the learning rates. The bound on the bias,

    |delta| lr^3    or    |d| lr^(p+1),                                                                           (1)

is added to the interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from smesolve.comparison.budget_row import DIVERGED, HEAVY_TAILS, NOT_FINITE, TOO_WIDE, NoiseFreeValues
from smesolve.comparison.defects import COLUMNS, DefectSampler
from smesolve.comparison.estimate import Estimate, Statistics, estimate, merged
from smesolve.comparison.observables import Observable
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.kinks import kinks
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import in_lists
from smesolve.sampling.runner import Runner
from smesolve.solver.time_grid import grid_numbers

__all__ = ["NOT_ASYMPTOTIC", "DefectBudget", "with_bias"]

PLACEMENT = COLUMNS.index("placement")

GROWTH = 4
"""Largest factor by which a round adds paths."""

NOT_ASYMPTOTIC = "the bias of the defects is not small: take smaller learning rates"
"""Reason of an error whose estimate changes by more than half of itself from one learning rate to a smaller one."""

ASYMPTOTIC = 0.5
"""Largest bias in units of the error."""


class DefectBudget:
    """Errors of all orders at one learning rate.

    Args:
        problem, theta0, lr, times, orders, observables: as `weak_error` takes them.
        seed: root seed of the study.
        runner: runs the blocks.
    """

    def __init__(
        self,
        problem: Problem,
        theta0: Tensor,
        lr: float,
        times: Sequence[float],
        orders: Sequence[int],
        observables: Mapping[str, Observable],
        seed: int,
        runner: Runner,
    ) -> None:
        self.lr, self.times, self.orders, self.observables, self.runner = lr, list(times), orders, observables, runner
        key = [seed, int(np.float64(lr).view(np.uint64))]
        own_seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        saved = grid_numbers(times, lr, "times", "lr")
        self.kinked = bool(kinks(problem, theta0))
        self.sampler = DefectSampler(problem, theta0, lr, saved, observables, orders, self.kinked, own_seed)
        self._noise_free = NoiseFreeValues(DropoutIteration(problem, lr, own_seed), theta0, saved, observables)
        self._name = f"lr {lr!r}, defects of orders {', '.join(map(str, orders))}"
        self._blocks = 0
        self.statistics: Statistics | None = None

    def draw(self, paths: int, rel_tol: float | None, max_paths: int) -> None:
        """Draw `paths` paths, and then as many more as the tolerance at the horizon asks for."""
        self._run(paths)
        while rel_tol is not None and self.statistics is not None:
            drawn = self.statistics.paths
            wanted = min(self._wanted(rel_tol), GROWTH * drawn, max_paths)
            if wanted <= drawn:
                return
            self._run(wanted)

    def _run(self, paths: int) -> None:
        blocks = range(self._blocks, -(-paths // self.sampler.block_size))
        self.runner.progress.add(len(blocks) * self.sampler.cost)
        for tasks in in_lists((self._name, block) for block in blocks):
            for arrays in self.runner.results({self._name: self.sampler}, tasks):
                self.statistics = merged(self.statistics, Statistics.from_arrays(arrays))
        self._blocks = max(self._blocks, blocks.stop)

    def _wanted(self, rel_tol: float) -> int:
        """Paths that the worst known error of all at the horizon takes."""
        found = self._estimate()
        width, error = (self._columns(part)[-1][:, list(self.orders)] for part in (found.half_width, found.mean))
        short = self._columns(found.plain_shortage)[-1][:, list(self.orders)]
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(width > 0, (width / (rel_tol * np.abs(error))) ** 2, 0.0)
        factor = np.nan_to_num(np.maximum(factor, np.where(width > 0, short, 0.0)), nan=0.0, posinf=2.0**40)
        return int(min(np.ceil(factor.max() * found.paths), 2.0**40))

    def _estimate(self) -> Estimate:
        if self.statistics is None:
            raise RuntimeError("no paths were drawn yet")
        return estimate(self.statistics)

    def _columns(self, values: np.ndarray) -> np.ndarray:
        """(T, O, C) from (T, C O)."""
        return values.reshape(len(self.times), len(self.observables), len(COLUMNS))

    def rows(self, rel_tol: float | None) -> list[dict[str, object]]:
        """The table rows of this learning rate; `with_bias` completes them."""
        found = self._estimate()
        mean, stderr, width, tails = (
            self._columns(part) for part in (found.mean, found.stderr, found.half_width, found.heavy_tailed)
        )
        diverged, undefined = self._columns(found.diverged), self._columns(found.undefined)
        rounding = self._noise_free.rounding(mean[..., 0])
        shifts = 2 in self.orders and not self.kinked
        rows: list[dict[str, object]] = []
        for order in self.orders:
            for t, time in enumerate(self.times):
                for o, name in enumerate(self.observables):
                    at = t, o, order
                    error, half = float(mean[at]), float(width[at])
                    lost, unknown = (int(count[t, o].max()) for count in (diverged, undefined))
                    reason = ""
                    if lost:
                        reason = DIVERGED
                    elif unknown:
                        reason = f"{NOT_FINITE} on {unknown} paths"
                    elif tails[at] and half > rounding[t, o]:
                        reason = HEAVY_TAILS
                    elif not abs(error) > half:
                        reason = "inside its Monte Carlo interval"
                    elif not abs(error) > rounding[t, o]:
                        reason = f"inside the rounding of {self.sampler.problem.dtype}".replace("torch.", "")
                    elif rel_tol is not None and time == self.times[-1] and half > 1.05 * rel_tol * abs(error):
                        reason = TOO_WIDE
                    rows.append(
                        {
                            "order": order,
                            "lr": self.lr,
                            "time": time,
                            "observable": name,
                            "discrete": mean[t, o, 0],
                            "sde": mean[t, o, 0] + error,
                            "error": error,
                            "stderr": stderr[at],
                            "freedom": found.freedom,
                            "half_width": half,
                            "rounding": rounding[t, o],
                            "paths": found.paths,
                            "discrete_stderr": stderr[t, o, 0],
                            "discrete_half_width": width[t, o, 0],
                            "diverged": lost,
                            "reason": reason,
                            "placement": mean[t, o, PLACEMENT] if shifts else np.nan,
                            "placement_stderr": stderr[t, o, PLACEMENT] if shifts else np.nan,
                            "estimator": "defects",
                            "kinked": self.kinked,
                        }
                    )
        return rows


def with_bias(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all learning rates with `bias`, `low`, `high` and `resolved`; eq. (1).

    Args:
        table: rows of `DefectBudget`; for at least two learning rates where there are no shifts.
    """
    bounds = pd.Series(0.0, index=table.index)
    for (order, _, _), rows in table.groupby(["order", "time", "observable"], sort=False):
        if rows.placement_stderr.notna().all():
            bounds[rows.index] = _placement_bias(rows)
        else:
            bounds[rows.index] = _next_term(rows, 1 if rows.kinked.any() else int(order))
    half = table.half_width + table.rounding + bounds
    usable = table.reason.isin(["", TOO_WIDE])
    reason = table.reason.mask(usable & (half >= table.error.abs()), "inside the bias of the defects")
    reason = reason.mask(usable & (bounds > ASYMPTOTIC * table.error.abs()), NOT_ASYMPTOTIC)
    return table.assign(
        bias=bounds,
        low=table.error - half,
        high=table.error + half,
        reason=reason,
        resolved=reason.isin(["", TOO_WIDE]),
    )


def _placement_bias(rows: pd.DataFrame) -> np.ndarray:
    """delta lr^3 for the learning rates of one order, time and observable, delta by a weighted mean."""
    lrs = rows.lr.to_numpy()
    ratios, errors = rows.placement.to_numpy() / lrs**3, rows.placement_stderr.to_numpy() / lrs**3
    known = np.isfinite(ratios)
    if not known.any():
        return np.full(len(rows), np.inf)
    weights = _weights(ratios[known], errors[known])
    delta = np.average(ratios[known], weights=weights)
    return abs(delta) * lrs**3


def _next_term(rows: pd.DataFrame, power: int) -> np.ndarray:
    """d lr^(p+1) for the learning rates of one order, time and observable, d by a weighted regression."""
    lrs = rows.lr.to_numpy()
    ratios, errors = rows.error.to_numpy() / lrs**power, rows.stderr.to_numpy() / lrs**power
    known = np.isfinite(ratios)
    if known.sum() < 2:
        return np.full(len(rows), np.inf)
    weights = _weights(ratios[known], errors[known])
    from_centre = lrs[known] - np.average(lrs[known], weights=weights)
    spread = (weights * from_centre**2).sum()
    slope = (weights * from_centre * ratios[known]).sum() / spread
    return abs(slope) * lrs ** (power + 1)


def _weights(values: np.ndarray, stderrs: np.ndarray) -> np.ndarray:
    """1 / stderr^2, with a relative standard error of 1e-12 for values without noise."""
    largest = np.abs(values).max()
    return 1 / np.maximum(stderrs, 1e-12 * largest if largest > 0 else 1.0) ** 2
