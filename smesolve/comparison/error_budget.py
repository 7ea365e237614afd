"""The error budget at one learning rate: paths of the iteration and of the equation of each order.

Paths are added where an error is to be known better, or where those that there are cannot tell the law of their mean
(`Estimate.shortage`); steps of the scheme are halved where its bias is large. `budget_row` says what follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge

import numpy as np
from torch import Tensor

from smesolve.comparison.budget_row import NoiseFreeValues, budget_row, tells
from smesolve.comparison.confidence import NORMAL_QUANTILE
from smesolve.comparison.control_variate import ControlVariate
from smesolve.comparison.draw_control import DrawControl
from smesolve.comparison.equation_side import EquationSide, block_cost, paired_blocks
from smesolve.comparison.estimate import Sampler, Statistics, estimate, merged
from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.comparison.observables import Observable, grows_polynomially
from smesolve.comparison.value_hessians import ValueHessians
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Process, in_lists
from smesolve.sampling.parallel import Task
from smesolve.sampling.runner import Runner, Work
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.time_grid import grid_numbers

__all__ = ["BIAS_SHARE", "MAX_HALVINGS", "ErrorBudget", "first_round_cost"]

BIAS_SHARE = 0.1
"""The scheme's bias is brought under this share of the error, where dt is not given."""

MAX_HALVINGS = 3
"""Times that dt is halved in search of a small bias."""

GROWTH = 4
"""Largest factor by which a round adds paths: the errors that set its aim are themselves uncertain."""

ITERATION_COST = 2.5
"""Gradients a step of the iteration takes, about, with its prediction and noise."""


class ErrorBudget:
    """All that is measured at one learning rate.

    Args:
        problem, theta0, lr, times, observables, scheme: as `weak_error` takes them.
        orders: of the equations.
        dt: step of the scheme, or None to choose it.
        control: "none", "first" or "second".
        hessians: for "second".
        seed: root seed of the study; each lr derives its own streams from it.
        runner: runs the blocks; its progress has been told of the first round (`first_round_cost`).
        keep: number of paths of each ensemble whose values at the last time are kept.
    """

    def __init__(
        self,
        problem: Problem,
        theta0: Tensor,
        lr: float,
        times: Sequence[float],
        orders: Sequence[int],
        observables: dict[str, Observable],
        scheme: str,
        dt: float | None,
        control: str,
        hessians: ValueHessians | None,
        seed: int,
        runner: Runner,
        keep: int = 0,
    ) -> None:
        self.problem, self.theta0, self.lr, self.times = problem, theta0, lr, list(times)
        self.observables, self.scheme, self.control, self.runner, self.keep = observables, scheme, control, runner, keep
        # Independent streams for each lr, whatever other lrs there are: the key is the number itself.
        key = [seed, int(np.float64(lr).view(np.uint64))]
        self.seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        saved = grid_numbers(times, lr, "times", "lr")
        self._hessians = hessians
        iteration = DropoutIteration(problem, lr, self.seed)
        self.sampler = Sampler(
            iteration,
            theta0,
            saved,
            observables,
            self._control_of(iteration, lr),
            keep,
            _iteration_cost(problem, lr, times),
        )
        self.noise_free = NoiseFreeValues(iteration, theta0, saved, observables)
        """Of the iteration."""
        self._polynomial = {name: grows_polynomially(g, theta0) for name, g in observables.items()}
        self._name = f"lr {lr!r}, dropout"
        self._blocks = 0
        self.dropout: Statistics | None = None
        """Of the iteration, or None while there are no paths."""
        self._halvings_left = [MAX_HALVINGS if dt is None else 0 for _ in orders]
        self.sides = [self._side(order, first_dt(scheme, lr, dt)) for order in orders]

    def _control_of(self, process: Process, step_time: float) -> ControlVariate | DrawControl | None:
        if self.control == "none":
            return None
        saved = grid_numbers(self.times, step_time, "times")
        path = NoiseFreePath.of(process, self.theta0, saved, self.observables)
        if not self.problem.has_closed_form:
            return DrawControl.of(self.problem, path)
        return ControlVariate(path, step_time, process.noise_time, self.lr * step_time, self._hessians)

    def _side(self, order: int, dt: float, exact: tuple[np.ndarray, np.ndarray] | None = None) -> EquationSide:
        equation = ModifiedEquation(self.problem, self.lr, order)
        return EquationSide(
            equation,
            self.theta0,
            self.times,
            self.observables,
            self.scheme,
            dt,
            self.seed,
            self._control_of,
            self.keep,
            exact,
        )

    # --- sampling --------------------------------------------------------------------------------------------------

    def draw(self, paths: int, rel_tol: float | None, max_paths: int) -> None:
        """Draw `paths` paths on each side, a quarter of them in pairs (`EquationSide.tasks`); then as many more as the
        tolerance asks for.

        A dt that was not given is halved while the bias at the horizon is significant and above its share. Where a
        tolerance is given, paths are added as well while too few values carry a mean, if max_paths may be enough.
        """
        wanted, aims = paths, [(paths, None)] * len(self.sides)
        self._announced = self._cost(wanted, aims)
        while True:
            self._run(wanted, aims)
            while self._halve():
                self._run(wanted, aims)
            if rel_tol is None:
                return
            asked = [self._wanted(side, rel_tol, max_paths) for side in self.sides]
            wanted = _next(self.dropout, max(count[0] for count in asked), max_paths)
            aims = [
                (_next(side.statistics, count[1], max_paths), _next(side.difference, count[2], max_paths))
                for side, count in zip(self.sides, asked, strict=True)
            ]
            if not self._cost(wanted, aims):
                return
            self.runner.progress.detail(f"more paths for rel_tol of {self._hardest()}")

    def _hardest(self) -> str:
        """The order and observable whose error at the horizon is known worst."""
        dropout, names, known = estimate(self.dropout), list(self.observables), {}
        for side in self.sides:
            equation = estimate(side.statistics)
            stderr = np.hypot(equation.stderr, dropout.stderr)[-1]
            with np.errstate(divide="ignore", invalid="ignore"):
                relative = stderr / np.abs(equation.mean - dropout.mean)[-1]
            for name, value in zip(names, relative, strict=True):
                known[f"order {side.equation.order}, {name}"] = np.nan_to_num(value)
        return max(known, key=lambda name: known[name])

    def _tasks(self, paths: int, aims: Sequence[tuple[int, int | None]]) -> Iterator[Task]:
        tasks = [side.tasks(*aim) for side, aim in zip(self.sides, aims, strict=True)]
        # All sides advance together, so that an interruption finds something of each.
        return merge(((self._name, block) for block in self._new(paths)), *tasks, key=lambda task: task[1])

    def _new(self, paths: int) -> range:
        """The blocks of the iteration that so many paths add."""
        return range(self._blocks, -(-paths // self.problem.block_size))

    def _work(self) -> dict[str, Work]:
        work: dict[str, Work] = {self._name: self.sampler}
        for side in self.sides:
            work |= side.work
        return work

    def _run(self, paths: int, aims: Sequence[tuple[int, int | None]]) -> None:
        """Run all blocks that are missing, those of all sides together: the more there are, the better they spread."""
        owners = {name: side for side in self.sides for name in side.work}
        work = self._work()
        self.runner.progress.add(self._cost(paths, aims) - self._announced)
        self._announced = 0.0
        for tasks in in_lists(self._tasks(paths, aims)):
            for task, arrays in zip(tasks, self.runner.results(work, tasks), strict=True):
                if task[0] == self._name:
                    self.dropout = merged(self.dropout, Statistics.from_arrays(arrays))
                    self._blocks = task[1] + 1
                else:
                    owners[task[0]].add(task, arrays)

    def _cost(self, paths: int, aims: Sequence[tuple[int, int | None]]) -> float:
        """The work of all blocks that are missing."""
        sides = sum(side.tasks_cost(*aim) for side, aim in zip(self.sides, aims, strict=True))
        return len(self._new(paths)) * self.sampler.cost + sides

    def _halve(self) -> bool:
        """Start each equation anew at dt/2 whose bias is too large; whether there was one."""
        halved = False
        for index, side in enumerate(self.sides):
            equation, dropout, pairs = (estimate(part) for part in (side.statistics, self.dropout, side.difference))
            error, bias = equation.mean - dropout.mean, side.bias_of(pairs)
            known = 2 * pairs.half_width + self.noise_free.rounding(equation.mean, dropout.mean) + side.tolerance
            large = (np.abs(bias) > BIAS_SHARE * np.abs(error)) & (np.abs(bias) > known)
            if self._halvings_left[index] and large[-1].any():
                self._halvings_left[index] -= 1
                self.sides[index] = self._side(side.equation.order, side.dt / 2, side.exact)
                halved = True
        return halved

    def _wanted(self, side: EquationSide, rel_tol: float, max_paths: int) -> tuple[int, int, int]:
        """Paths of the iteration, of the equation and of its dt/2 pairs that meet the tolerance at the horizon.

        Work is minimal for a variance s_1^2/n_1 + s_2^2/n_2 at n_i proportional to s_i / sqrt(cost_i). Here s_i is that
        of a normal law with the same interval, so that what is asked for is enough for the interval. The pairs get
        a tenth of the error, or rel_tol where that is less, as their 95% half-width. Nothing is asked for where a mean
        is not finite, or its noise is rounding. Where few values carry a mean, more of them are asked for if max_paths
        may be enough.
        """
        dropout, equation, pairs = (estimate(part) for part in (self.dropout, side.statistics, side.difference))
        rounding = self.noise_free.rounding(equation.mean, dropout.mean)
        error = np.abs(equation.mean - dropout.mean)[-1]
        spread = [
            np.where(part.half_width > rounding, part.half_width / NORMAL_QUANTILE, 0.0)[-1] * part.paths**0.5
            for part in (dropout, equation, pairs)
        ]
        root = [1.5**0.5, side.cost**0.5]
        with np.errstate(divide="ignore", invalid="ignore"):
            work = (spread[0] * root[0] + spread[1] * root[1]) / (rel_tol * error / NORMAL_QUANTILE) ** 2
            asked = [spread[0] / root[0] * work, spread[1] / root[1] * work]
            share = min(BIAS_SHARE, rel_tol)
            asked.append((2 * spread[2] / (share * error / NORMAL_QUANTILE)) ** 2)
        # a spread of zero over an error of zero (no noise at all) asks for nothing
        finite = [np.minimum(np.nan_to_num(count, posinf=2.0**40), 2.0**40) for count in asked]
        dropout_paths, coarse, fine = (int(np.ceil(count.max())) for count in finite)
        for_tails = []
        for part in (dropout, equation):
            shortage = np.fmax(part.shortage, part.plain_shortage)
            more = np.where((shortage > 1) & tells(part, rounding), shortage, 0.0)[-1].max() * part.paths
            for_tails.append(int(more) if more <= max_paths else 0)
        coarse = max(coarse, for_tails[1])
        return max(dropout_paths, for_tails[0]), coarse, min(fine, max(coarse, equation.paths))

    def rows(self, rel_tol: float | None) -> list[dict[str, object]]:
        """The table rows of this learning rate, for the sides that have paths and pairs (all of them after `draw`)."""
        rows = []
        for side in self.sides:
            if self.dropout is None or side.statistics is None or side.difference is None:
                continue
            dropout, equation, pairs = (estimate(part) for part in (self.dropout, side.statistics, side.difference))
            for row, time in enumerate(self.times):
                for column, name in enumerate(self.observables):
                    at = row, column
                    budget = budget_row(
                        at,
                        dropout,
                        equation,
                        pairs,
                        side.bias_of(pairs),
                        self.noise_free,
                        float(side.tolerance[at]),
                        self._polynomial[name],
                        self.problem.dtype,
                        rel_tol if row == len(self.times) - 1 else None,
                    )
                    head = {"order": side.equation.order, "lr": self.lr, "time": time, "observable": name}
                    rows.append(head | budget | {"dt": side.dt, "scheme": self.scheme})
        return rows

    def samples(self) -> dict[tuple[float, str], dict[str, np.ndarray]]:
        """Values of the observables at the last time, one for each path that was kept."""
        ensembles = {"dropout": self.dropout} | {f"order {side.equation.order}": side.statistics for side in self.sides}
        return {
            (self.lr, label): dict(zip(self.observables, statistics.values.T, strict=True))
            for label, statistics in ensembles.items()
        }


def first_round_cost(
    problem: Problem,
    lr: float,
    times: Sequence[float],
    orders: Sequence[int],
    scheme: str,
    dt: float | None,
    paths: int,
) -> float:
    """Work of all blocks that `ErrorBudget.draw` runs first, in gradients, about."""
    size = problem.block_size
    blocks = -(-paths // size)
    weight = blocks + 2 * paired_blocks(blocks, size)
    step = first_dt(scheme, lr, dt)
    equations = sum(weight * block_cost(order, scheme, step, times[-1], size) for order in orders)
    return blocks * _iteration_cost(problem, lr, times) + equations


def first_dt(scheme: str, lr: float, dt: float | None) -> float:
    """The step that a study begins with."""
    if dt is not None:
        return dt
    return lr / 8 if SCHEMES[scheme].weak_error == "dt" else lr


def _iteration_cost(problem: Problem, lr: float, times: Sequence[float]) -> float:
    return ITERATION_COST * times[-1] / lr * problem.block_size


def _next(statistics: Statistics, wanted: int, max_paths: int) -> int:
    return max(statistics.paths, min(wanted, GROWTH * statistics.paths, max_paths))
