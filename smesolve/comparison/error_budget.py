"""The error budget at one learning rate: paths of the iteration and of the equation of each order.

Paths are added where an error is not precise enough, or where there are too few paths for the law of their mean
(`MeanEstimate.shortage`). The step of the scheme is halved where its bias is large. `paths_wanted` decides on both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from typing import NamedTuple

import numpy as np

from smesolve.comparison.budget_row import NoiseFreeValues, budget_row
from smesolve.comparison.control_variate import control_of
from smesolve.comparison.cost import ITERATION_STEP_COST, step_cost
from smesolve.comparison.equation_side import EquationSide
from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.path_statistics import PathStatistics, merged
from smesolve.comparison.paths_wanted import Estimates, Wanted, bias_is_large, further_work, next_paths, wanted_paths
from smesolve.comparison.sampler import Sampler
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.value_hessians import ValueHessians
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.observables import grows_polynomially
from smesolve.sampling.ensemble import in_lists
from smesolve.sampling.parallel import Task, run_blocks
from smesolve.sampling.runner import Runner, Work
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.orders import Order, equation_name

__all__ = ["ErrorBudget"]

DIFFERENCE = {"estimator": "difference"}
"""Column of the table that names the estimator."""

MAX_HALVINGS = 3
"""Largest number of halvings of dt in search of a small bias."""


class Aim(NamedTuple):
    """Numbers of paths of the equation, and of pairs, that one order has after a round."""

    paths: int
    pairs: int | None
    """Number of pairs, or None for the default share."""


class ErrorBudget:
    """Statistics of the iteration and of all equations at one learning rate.

    The Hessians of the value functions are for control="second". The progress bar of the runner already counts the
    first round and its `further_work`.
    """

    def __init__(self, design: StudyDesign, lr: float, hessians: ValueHessians | None, runner: Runner) -> None:
        self.design, self.lr, self.runner, self._hessians = design, lr, runner, hessians
        # Independent streams for each lr, whatever other lrs there are: the key is the number itself.
        key = [design.seed, int(np.float64(lr).view(np.uint64))]
        self.seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        saved = design.steps(lr, "lr")
        iteration = DropoutIteration(design.problem, lr, self.seed)
        control = control_of(design, iteration, saved, lr, lr, hessians)
        cost = ITERATION_STEP_COST * saved[-1] * iteration.block_size
        self.sampler = Sampler(iteration, design.theta0, saved, design.observables, control, design.keep, cost)
        self.noise_free = NoiseFreeValues(iteration, design.theta0, saved, design.observables)
        """Observables along the noise-free path of the iteration."""
        self._polynomial = {name: grows_polynomially(g, design.theta0) for name, g in design.observables.items()}
        problem = design.problem
        noisy = problem.draw_dim > 0, problem.noise_dim > 0 or not problem.has_closed_form
        self._hiding = {
            name: (False, False) if name in design.smooth_observables else noisy for name in design.observables
        }
        # The number of a block names its paths among blocks of one size only.
        self._name = f"lr {lr!r}, dropout, blocks of {iteration.block_size}"
        self._blocks = 0
        self.dropout: PathStatistics | None = None
        """Statistics of the iteration, or None while there are no paths."""
        self._halvings_left = [MAX_HALVINGS if design.dt is None else 0 for _ in design.orders]

        def side(index: int) -> EquationSide:
            equation = ModifiedEquation(design.problem, lr, design.orders[index])
            return EquationSide(design, equation, design.first_dt(lr), self.seed, hessians)

        # At large D the noise-free paths of the sides and their adjoints take a while: in threads, where they may be.
        tasks = [("side", index) for index in range(len(design.orders))]
        workers = runner.workers if self.sampler.in_threads else 1
        made = dict(run_blocks({"side": side}, tasks, workers, in_threads=True))
        self.sides = [made[index] for _, index in tasks]

    # --- sampling --------------------------------------------------------------------------------------------------

    def draw(self, paths: int, rel_tol: float | None, max_paths: int) -> None:
        """Draw `paths` paths on each side, at least an eighth in pairs; then as many more as the tolerance requires.

        If dt is not given, it is halved while the bias at the horizon is significant and above its share of the error.
        If a tolerance is given, paths are also added while too few values carry a mean, if max_paths may be enough.
        """
        wanted, aims = paths, [Aim(paths, None)] * len(self.sides)
        expected = further_work(self._cost(wanted, aims), rel_tol, self.design.dt is None)
        self._run(wanted, aims)  # the progress bar counts this round already
        while True:
            while self._halve():
                self._run_more(wanted, aims)
            if rel_tol is None:
                break
            asked = [self._wanted(side, rel_tol, max_paths) for side in self.sides]
            wanted = next_paths(_paths(self.dropout), max(count.dropout for count in asked), max_paths)
            aims = [
                Aim(
                    next_paths(_paths(side.statistics), count.equation, max_paths),
                    next_paths(_paths(side.difference), count.pairs, max_paths),
                )
                for side, count in zip(self.sides, asked, strict=True)
            ]
            if next(self._tasks(wanted, aims), None) is None:
                break
            self.runner.progress.detail(f"more paths for rel_tol of {self._hardest()}")
            self._run_more(wanted, aims)
        self.runner.progress.add(-expected)

    def _hardest(self) -> str:
        """Return the order and observable with the least precise error at the horizon."""
        known = {}
        for side in self.sides:
            dropout, equation, _ = self._estimates(side)
            stderr = np.hypot(equation.stderr, dropout.stderr)[-1]
            with np.errstate(divide="ignore", invalid="ignore"):
                relative = stderr / np.abs(equation.mean - dropout.mean)[-1]
            for name, value in zip(self.design.observables, relative, strict=True):
                known[f"{equation_name(side.order)}, {name}"] = np.nan_to_num(value)
        return max(known, key=lambda name: known[name])

    def _work(self) -> dict[str, Work]:
        work: dict[str, Work] = {self._name: self.sampler}
        for side in self.sides:
            work |= side.work
        return work

    def _tasks(self, paths: int, aims: Sequence[Aim]) -> Iterator[Task]:
        """Yield all missing blocks. All sides advance together, so that an interruption leaves some blocks of each."""
        new = range(self._blocks, -(-paths // self.design.problem.block_size))
        sides = [side.tasks(*aim) for side, aim in zip(self.sides, aims, strict=True)]
        return merge(((self._name, block) for block in new), *sides, key=lambda task: task[1])

    def _run_more(self, paths: int, aims: Sequence[Aim]) -> None:
        """Run blocks that the progress bar does not count yet."""
        self.runner.progress.add(self._cost(paths, aims))
        self._run(paths, aims)

    def _cost(self, paths: int, aims: Sequence[Aim]) -> float:
        """Return the work of all blocks that are missing."""
        work = self._work()
        return sum(work[name].cost for name, _ in self._tasks(paths, aims))

    def _run(self, paths: int, aims: Sequence[Aim]) -> None:
        """Run all missing blocks, of all sides together, as more blocks spread better over workers."""
        owners, work = {name: side for side in self.sides for name in side.work}, self._work()
        for tasks in in_lists(self._tasks(paths, aims)):
            for task, arrays in zip(tasks, self.runner.results(work, tasks), strict=True):
                name, block = task
                if name == self._name:
                    self.dropout = merged(self.dropout, PathStatistics.from_arrays(arrays))
                    self._blocks = block + 1
                else:
                    owners[name].add(task, arrays)

    # --- what follows ----------------------------------------------------------------------------------------------

    def _estimates(self, side: EquationSide) -> Estimates:
        """Return the estimates of a side that has paths and pairs."""
        assert self.dropout is not None and side.statistics is not None and side.difference is not None
        return Estimates(*(MeanEstimate.of(part) for part in (self.dropout, side.statistics, side.difference)))

    def _halve(self) -> bool:
        """Restart each equation whose bias is too large at dt/2; return whether there is one."""
        halved = False
        for index, side in enumerate(self.sides):
            estimates = self._estimates(side)
            rounding = self._rounding(estimates)
            large = bias_is_large(estimates, side.bias(estimates.pairs), rounding, side.solution.error)
            if self._halvings_left[index] and large:
                self._halvings_left[index] -= 1
                self.sides[index] = EquationSide(
                    self.design, side.equation, side.dt / 2, self.seed, self._hessians, side.solution
                )
                halved = True
        return halved

    def _wanted(self, side: EquationSide, rel_tol: float, max_paths: int) -> Wanted:
        """Return the paths that meet the tolerance of one order at the horizon."""
        estimates = self._estimates(side)
        cost = step_cost(side.order, self.design.scheme) * self.lr / side.dt
        return wanted_paths(estimates, self._rounding(estimates), cost, rel_tol, max_paths)

    def _rounding(self, estimates: Estimates) -> np.ndarray:
        return self.noise_free.rounding(estimates.equation.mean, estimates.dropout.mean)

    def rows(self, rel_tol: float | None) -> list[dict[str, object]]:
        """Return table rows for the sides that have paths and pairs; all of them do after `draw`."""
        rows = []
        for side in self.sides:
            if self.dropout is None or side.statistics is None or side.difference is None:
                continue
            estimates = self._estimates(side)
            bias = side.bias(estimates.pairs)
            for row, time in enumerate(self.design.times):
                for column, name in enumerate(self.design.observables):
                    at = row, column
                    budget = budget_row(
                        at,
                        *estimates,
                        bias,
                        self.noise_free,
                        float(side.solution.error[at]),
                        self._polynomial[name],
                        self._hiding[name],
                        rel_tol if row == len(self.design.times) - 1 else None,
                    )
                    head = {"order": side.order, "lr": self.lr, "time": time, "observable": name}
                    scheme = self.design.scheme_of(side.order)
                    rows.append(head | budget | {"solver_dt": side.dt, "scheme": scheme} | DIFFERENCE)
        return rows

    def samples(self) -> dict[tuple[float, Order | None], dict[str, np.ndarray]]:
        """Return the values of the kept paths at the horizon by lr and order; order None is the iteration."""
        ensembles = {None: self.dropout} | {side.order: side.statistics for side in self.sides}
        return {
            (self.lr, order): dict(zip(self.design.observables, statistics.values.T, strict=True))
            for order, statistics in ensembles.items()
            if statistics is not None
        }


def _paths(statistics: PathStatistics | None) -> int:
    return 0 if statistics is None else statistics.paths
