"""The weak errors at one learning rate by defects, and a bound on their bias.

Estimates by defects have a bias that vanishes faster with lr than the error (`smesolve.comparison.defects`).

**Order 2.** The bias is the next term of the error, of size lr^3. Only one part of it is measured: delta lr^3, half the
difference between shifts after the step and before it. The truth lies at f of the way from the latter to the former,
and the estimate at 5/8. Noise-free steps with a linear drift have f = 3/4, and f is close to 1/2 where noise makes the
error, both 1/4 |delta| lr^3 from the estimate. The bound is twice that, or as large as at f = 1 under schedules, where
terms with derivatives of drift and schedule have f = 1,

    B_2 = 1/2 |delta| lr^3,      3/4 |delta| lr^3 + pi/(12 n) |error_2| under schedules.                          (1)

The last term is for the change of the schedule in a step, which the placement does not show: the coefficients are
taken 5/12 of a step after its begin, where 1/2 is right for the drift and 1/3 for the noise, so that a change over half
a cosine in n steps, those of the shortest piece, can make 1/12 of pi/n of the error.

**Order 1.** Its error contains that of order 2, which is measured along the run, and should be along the companion. The
companion is moved by W in all. Of a scalar linear problem of curvature h, u the factor of the learning rate,
W = lr/2 int u^2 h^2 - u' h dt relative to the state, so that

    B_1 = max( |delta| lr^3, B_2 + min(1/2, h lr/2 (h T + 1)) |error_2| ),                                         (2)

with the largest curvature h = 2 / (stability limit), and h T in place of h T + 1 without a schedule. What noise in the
moves of the companion adds is of the same order as delta, and the reason for the first of both.

**Optimisers with a memory.** The truth need not lie between both placements, and delta does not bound the bias: of a
momentum of 0.5 at one step it is 0.53 of the error of order 2, and |delta|/2 is 0.11. Therefore

    B_2 + 2 |d| lr^3    and    B_1 + 4 |d| lr^3,        e_2 / lr^2 = c + d lr + O(lr^2),                          (2a)

take the place of B_2 and B_1, with d by regression over the learning rates. Only a part of this next term is bias, and
the next term of the error itself may cancel some of it, so that it counts twice. It counts twice again for order 1, as
the moves of the companion have such a term, too. A single learning rate is also measured at half its value.

At kinks, half of both terms of the error of order 2 is added to the bounds. delta is averaged over learning rates that
are up to twice as large. Where there are no shifts (order 1 only), the bias is the next term d lr^2 in

    e / lr = c + d lr + O(lr^2),                                                                                  (3)

by regression over the learning rates. The interval has its coverage for any bias up to the bound
(`smesolve.confidence.bias_aware_half_width`), and a larger one where the bias is smaller.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from smesolve.comparison.budget_row import REL_TOL_SLACK, NoiseFreeValues
from smesolve.comparison.defects import COLUMNS, DefectSampler
from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.outcomes import Status, status_of
from smesolve.comparison.path_statistics import PathStatistics, merged
from smesolve.comparison.paths_wanted import MOST_WANTED, further_work, next_paths
from smesolve.comparison.study_design import StudyDesign
from smesolve.confidence import bias_aware_half_width
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import in_lists
from smesolve.sampling.runner import Runner

__all__ = ["DefectBudget", "has_memory", "with_bias"]

PLACEMENT, KINKS = COLUMNS.index("placement"), COLUMNS.index("kinks")

UNKNOWN_AT_KINKS = 0.5
"""Share of both terms of the error of order 2 at kinks that counts as unknown: crossings of few kinks in few steps do
not average out, and interactions of jumps are left out beyond the second power of their size."""

UNKNOWN_PART, UNKNOWN_PART_UNDER_SCHEDULES = 1 / 2, 3 / 4
"""Bound on the bias of order 2 in units of half the difference between both placements, eq. (1)."""

UNKNOWN_NEXT_TERMS = {2: 2.0, 1: 4.0}
"""Next terms of the error of order 2 that are added to the bounds of either order, for optimisers with a memory."""

UNKNOWN_IN_TIME = np.pi / 12
"""Share of the error of order 2 under a schedule that is taken to be unknown, times the steps of its shortest piece."""

MOST_BESIDE_COMPANION = 0.5
"""Largest share of the error of order 2 that is taken to be unknown in that of order 1, eq. (2)."""

SAME = 1e-9
"""Relative difference up to which two learning rates are the same."""

LARGEST_BIAS = 0.5
"""Largest bias in units of the error; beyond it, only the order of magnitude of the error is known."""

ASYMPTOTIC = 1 / 3
"""Largest error of order 2, where it is resolved, in units of the error of order 1. Beyond it, the expansion in the
learning rate does not converge fast enough for the difference of both placements to bound the bias."""


class DefectBudget:
    """Errors of all orders at one learning rate.

    Args:
        design: design of the study.
        lr: learning rate.
        runner: runner of the blocks.
    """

    def __init__(self, design: StudyDesign, lr: float, runner: Runner) -> None:
        self.design, self.lr, self.runner = design, lr, runner
        # Independent streams for each lr, whatever other lrs there are: the key is the number itself.
        key = [design.seed, int(np.float64(lr).view(np.uint64))]
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        self.sampler = DefectSampler.of(design, lr, seed)
        self._noise_free = NoiseFreeValues(
            DropoutIteration(design.problem, lr, seed), design.theta0, self.sampler.saved, design.observables
        )
        # The number of a block names its paths among blocks of one size only.
        orders, size = ", ".join(map(str, design.orders)), self.sampler.block_size
        self._name = f"lr {lr!r}, defects of orders {orders}, blocks of {size}"
        self._blocks = 0
        self.statistics: PathStatistics | None = None

    def draw(self, paths: int, rel_tol: float | None, max_paths: int) -> None:
        """Draw `paths` paths, and then as many more as the tolerance at the horizon requires.

        The progress bar must already count the work of the first `paths` paths, and `further_work`.
        """
        bar, expected = self.runner.progress, further_work(self.cost(paths), rel_tol)
        self._run(paths)
        while rel_tol is not None:
            found = self._estimate()
            wanted = next_paths(found.paths, self._wanted(found, rel_tol), max_paths)
            if wanted <= found.paths:
                break
            bar.detail(f"more paths for rel_tol = {rel_tol:g}")
            bar.add(self.cost(wanted))
            self._run(wanted)
        bar.add(-expected)

    def cost(self, paths: int) -> float:
        """Return the work, in gradients, of the blocks that are missing for so many paths."""
        return len(self._missing(paths)) * self.sampler.cost

    @property
    def spent(self) -> float:
        """The gradients that the paths so far took."""
        return self._blocks * self.sampler.cost

    def affordable(self, gradients: float) -> int:
        """Return how many paths so many gradients are enough for."""
        return int(gradients / self.sampler.cost) * self.sampler.block_size

    def _missing(self, paths: int) -> range:
        """Return the blocks that are missing for so many paths."""
        return range(self._blocks, -(-paths // self.sampler.block_size))

    def _run(self, paths: int) -> None:
        blocks = self._missing(paths)
        for tasks in in_lists((self._name, block) for block in blocks):
            for arrays in self.runner.results({self._name: self.sampler}, tasks):
                self.statistics = merged(self.statistics, PathStatistics.from_arrays(arrays))
        self._blocks = max(self._blocks, blocks.stop)

    def _wanted(self, found: MeanEstimate, rel_tol: float) -> int:
        """Return the number of paths that the least precise error at the horizon requires."""
        width, error = (self._columns(part)[-1][:, list(self.design.orders)] for part in (found.half_width, found.mean))
        short = self._columns(found.plain_shortage)[-1][:, list(self.design.orders)]
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(width > 0, (width / (rel_tol * np.abs(error))) ** 2, 0.0)
        factor = np.nan_to_num(np.maximum(factor, np.where(width > 0, short, 0.0)), nan=0.0, posinf=MOST_WANTED)
        return int(min(np.ceil(factor.max() * found.paths), MOST_WANTED))

    def _estimate(self) -> MeanEstimate:
        if self.statistics is None:
            raise RuntimeError("no paths were drawn yet")
        return MeanEstimate.of(self.statistics)

    def _columns(self, values: np.ndarray) -> np.ndarray:
        """Return (T, O, C) from (T, C O)."""
        return values.reshape(len(self.design.times), len(self.design.observables), len(COLUMNS))

    def rows(self, rel_tol: float | None) -> list[dict[str, object]]:
        """Return the table rows of this learning rate; `with_bias` completes them."""
        found = self._estimate()
        mean, stderr, width, tails, kurtosis = (
            self._columns(part)
            for part in (found.mean, found.stderr, found.half_width, found.heavy_tailed, found.kurtosis)
        )
        diverged, undefined = self._columns(found.diverged), self._columns(found.undefined)
        rounding = self._noise_free.rounding(mean[..., 0])
        paired, autonomous = 2 in self.design.orders, self.design.problem.autonomous
        rows: list[dict[str, object]] = []
        for order in self.sampler.orders:
            for t, time in enumerate(self.design.times):
                for o, name in enumerate(self.design.observables):
                    at = t, o, order
                    error, half = float(mean[at]), float(width[at])
                    kinked = abs(float(mean[t, o, KINKS]))
                    smooth_second = abs(float(mean[t, o, 2] - mean[t, o, KINKS]))
                    tolerable = REL_TOL_SLACK * rel_tol * abs(error) if rel_tol is not None else np.inf
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
                            "tolerance": 0.0,
                            "paths": found.paths,
                            "discrete_paths": found.paths,
                            "sde_paths": found.paths,
                            "discrete_stderr": stderr[t, o, 0],
                            "discrete_half_width": width[t, o, 0],
                            "kurtosis": kurtosis[at],
                            "diverged": int(diverged[t, o].max()),
                            "estimator": "defects",
                            # what `with_bias` takes
                            "undefined": int(undefined[t, o].max()),
                            "heavy_tailed": bool(tails[at] and half > rounding[t, o]),
                            "too_wide": t == len(mean) - 1 and half > tolerable,
                            "placement": mean[t, o, PLACEMENT] if paired else np.nan,
                            "placement_stderr": stderr[t, o, PLACEMENT] if paired else np.nan,
                            "part": UNKNOWN_PART if autonomous else UNKNOWN_PART_UNDER_SCHEDULES,
                            "share": self.share(order) * smooth_second if paired else 0.0,
                            "has_memory": has_memory(self.design.problem),
                            "at_kinks": UNKNOWN_AT_KINKS * (kinked + smooth_second) if self.sampler.kinked else 0.0,
                        }
                    )
        return rows

    def share(self, order: int) -> float:
        """Return the shares of the error of order 2 in eqs. (1) and (2) that do not depend on the placement."""
        problem, lr = self.design.problem, self.lr
        share = 0.0 if problem.autonomous else UNKNOWN_IN_TIME / self.sampler.shortest_piece
        if order == 1:
            curvature = 2 / self.design.stability_limit
            changes = curvature * self.design.horizon + (0.0 if problem.autonomous else 1.0)
            share += min(MOST_BESIDE_COMPANION, curvature * lr / 2 * changes)
        return share


def has_memory(problem: Problem) -> bool:
    """Return whether the state holds more than the parameters, such as momentum, and (2a) is the bound on the bias."""
    return not problem.linear_step and problem.trained is not problem


def with_bias(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all learning rates with `bias`, `low`, `high`, `reason` and `resolved`; eqs. (1) to (3).

    Args:
        table: rows of `DefectBudget`; for at least two learning rates where there are no shifts.
    """
    smooth = pd.Series(0.0, index=table.index)
    for (order, _, _), rows in table.groupby(["order", "time", "observable"], sort=False):
        shifted = rows.placement_stderr.notna().all()
        smooth[rows.index] = _placement_bias(rows, int(order)) if shifted else _next_term(rows, int(order))
    with_memory = table[(table.order == 2) & table.has_memory]
    for (time, observable), rows in with_memory.groupby(["time", "observable"], sort=False):
        beyond = pd.Series(_next_term(rows, 2), index=rows.lr)
        for order, times in UNKNOWN_NEXT_TERMS.items():
            same = table[(table.order == order) & (table.time == time) & (table.observable == observable)]
            smooth[same.index] += times * beyond.loc[same.lr].to_numpy()  # (2a)
    bounds = smooth + table.at_kinks
    half = bias_aware_half_width(table.half_width, bounds) + table.rounding
    reasons = [
        status_of(
            row["error"],
            row["half_width"],
            row["rounding"],
            diverged=row["diverged"] > 0,
            undefined=row["undefined"] > 0,
            tails=Status.HEAVY_TAILS if row["heavy_tailed"] else None,
            biased=_biased(abs(row["error"]), np.inf if far else bound, width),
            too_wide=row["too_wide"],
        )
        for row, bound, width, far in zip(table.to_dict("records"), smooth, half, _far(table), strict=True)
    ]
    used = [
        "undefined",
        "heavy_tailed",
        "too_wide",
        "placement",
        "placement_stderr",
        "part",
        "share",
        "at_kinks",
        "has_memory",
    ]
    return table.drop(columns=used).assign(
        bias=bounds,
        low=table.error - half,
        high=table.error + half,
        reason=reasons,
        resolved=[status.resolved for status in reasons],
        solver_bias=0.0,
        solver_bias_stderr=0.0,
        solver_bias_half_width=0.0,
    )


def _far(table: pd.DataFrame) -> pd.Series:
    """Return where the error of order 2 is more than `ASYMPTOTIC` times that of order 1, and not noise."""
    keys = ["lr", "time", "observable"]
    first, second = (table[table.order == order].set_index(keys) for order in (1, 2))
    size = second.error.abs()
    far = (size > second.half_width) & (size > ASYMPTOTIC * first.error.abs().reindex(second.index))
    return table[keys].merge(far.rename("far").reset_index(), on=keys, how="left").far.eq(True)


def _biased(error: float, bound: float, half: float) -> Status | None:
    """Return the status of an error that its bias may explain, or None.

    Args:
        error: absolute value of the error.
        bound: bound on the bias without the part at kinks.
        half: half-width of the interval, with all of the bias.
    """
    if bound > LARGEST_BIAS * error:
        return Status.OUTSIDE_ASYMPTOTICS
    return None if error > half else Status.WITHIN_DEFECT_BIAS


def _placement_bias(rows: pd.DataFrame, order: int) -> np.ndarray:
    """Return the bound of (1) or (2) for the learning rates of one order, time and observable.

    For each learning rate, delta is a weighted mean over the learning rates that are at most twice as large.
    """
    lrs = rows.lr.to_numpy()
    ratios, errors = rows.placement.to_numpy() / lrs**3, rows.placement_stderr.to_numpy() / lrs**3
    bounds = np.full(len(rows), np.inf)
    for k, lr in enumerate(lrs):
        known = np.isfinite(ratios) & (lrs < 2 * lr * (1 + SAME))
        if known.any():
            delta = np.average(ratios[known], weights=_weights(ratios[known], errors[known]))
            half = abs(delta) * lr**3
            bound = rows.part.iloc[k] * half + rows["share"].iloc[k]
            bounds[k] = max(half, bound) if order == 1 else bound
    return bounds


def _next_term(rows: pd.DataFrame, power: int) -> np.ndarray:
    """Return |d| lr^(p+1) for the learning rates of one order p, time and observable, with d from a regression."""
    lrs = rows.lr.to_numpy()
    ratios, errors = rows.error.to_numpy() / lrs**power, rows.stderr.to_numpy() / lrs**power
    known = np.isfinite(ratios)
    if known.sum() < 2:
        return np.full(len(rows), np.inf)
    weights = _weights(ratios[known], errors[known])
    from_centre = lrs[known] - np.average(lrs[known], weights=weights)
    spread = (weights * from_centre**2).sum()
    slope = (weights * from_centre * ratios[known]).sum() / spread
    bound: np.ndarray = abs(slope) * lrs ** (power + 1)
    return bound


def _weights(values: np.ndarray, stderrs: np.ndarray) -> np.ndarray:
    """Return 1 / stderr^2, with a relative standard error of 1e-12 for values without noise."""
    largest = np.abs(values).max()
    weights: np.ndarray = 1 / np.maximum(stderrs, 1e-12 * largest if largest > 0 else 1.0) ** 2
    return weights
