"""What a study would take: sizes, steps, paths, and an estimate of time and memory from a few real blocks.

A study is a list of `Cell`s. Of each process of a cell (iteration, equation of each order) three steps of one block are
run and timed; the time of the first round is that of its steps times its blocks. What comes before and after, the value
Hessians of control variates, the noise-free path, further rounds for rel_tol, figures, is not in it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smesolve.comparison.equation_side import paired_blocks
from smesolve.comparison.error_budget import first_dt
from smesolve.comparison.scaling.width_sweep import ARMS, mean_field_problem
from smesolve.comparison.study_size import StudySize
from smesolve.comparison.weak_error import (
    check_orders,
    checked_observables,
    chosen_control,
    chosen_scheme,
    learning_rates_and_times,
    weak_error,
)
from smesolve.problem.averaged_problem import AveragedProblem
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Process
from smesolve.solver.integration import integration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.schemes.scheme import what_tests_nothing
from smesolve.study.configuration import DataConfig, DeriveConfig, NetworkConfig, StudyConfig
from smesolve.study.derivation import derived_iteration
from smesolve.study.figures import save_figure, weak_error_figure
from smesolve.study.html_report import html_report
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_sections import check_sections
from smesolve.study.manifest import write_manifest
from smesolve.study.problems import configured_problem, described
from smesolve.study.reports import weak_error_report
from smesolve.study.scaling_configuration import ScalingConfig
from smesolve.symbolic import modified_equation
from smesolve.symbolic.verification import check_proof

__all__ = ["ESTIMATES", "Cell"]

TIMED_STEPS = 3
MIB = 2**20

SHOWN = 20
"""Learning rates whose steps are printed."""

SMALLEST = StudyConfig(
    data=DataConfig(name="random", samples=2, in_features=1),
    network=NetworkConfig(width=1),
    lrs=[0.2],
    horizon=0.4,
    paths=8,
)
"""A study whose arrays take nothing, so that its memory is that of the libraries and of the writing."""

NOT_TIMED = "control variates, the noise-free path, further rounds"


@dataclass(frozen=True)
class Cell:
    """Ensembles at one learning rate: iteration and equations over one horizon."""

    problem: Problem
    theta0: Tensor
    lr: float
    horizon: float
    orders: tuple[int, ...]
    paths: int
    scheme: str | None = None
    dt: float | None = None

    @property
    def steps(self) -> int:
        """Of the iteration."""
        return max(1, round(self.horizon / self.lr))

    def size(self, times: list[float], observables: int, control: str, workers: int | None) -> StudySize:
        """Of its part of the study."""
        scheme, sizes = chosen_scheme(self.scheme, self.problem), (len(self.orders), observables)
        return StudySize(
            self.problem, self.theta0, [self.lr], times, *sizes, control, scheme, self.dt, self.paths, workers
        )

    def seconds(self, per_step: dict[tuple[Any, ...], float]) -> dict[str, float]:
        """Of each ensemble in its first round.

        Args:
            per_step: times of one step that were measured before, which do not depend on the learning rate.
        """
        size = self.problem.block_size
        blocks = -(-self.paths // size)
        scheme = chosen_scheme(self.scheme, self.problem)
        dt = first_dt(scheme, self.lr, self.dt)

        def timed(name: str, process: Callable[[], Process]) -> float:
            key = name, id(self.problem), scheme
            if key not in per_step:
                per_step[key] = _seconds_per_step(process(), self.theta0)
            return per_step[key]

        def equation(order: int) -> Process:
            return integration(ModifiedEquation(self.problem, self.lr, order), self.theta0, scheme, dt)

        iteration = timed("iteration", lambda: DropoutIteration(self.problem, self.lr))
        found = {"iteration": iteration * self.steps * blocks}
        # a pair is the same path with step dt/2 beside that with dt
        weight = blocks + 2 * paired_blocks(blocks, size)
        for order in self.orders:
            name = f"order {order}"
            found[name] = timed(name, partial(equation, order)) * math.ceil(self.horizon / dt) * weight
        return found


@torch.no_grad()
def _seconds_per_step(process: Process, theta0: Tensor) -> float:
    """The quickest of some real steps of one whole block, control variates' split included."""
    theta, times = theta0.expand(process.block_size, -1).contiguous(), []
    for step in range(1 + TIMED_STEPS):  # the first one warms up
        begin = time.perf_counter()
        theta = process.advance_split(theta, 0, step).state
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _weak_error(config: StudyConfig, times: list[float] | None = None) -> dict[str, str]:
    """Of weak-error, and of compare with its own times of observation."""
    check_orders(config.orders)
    problem = configured_problem(config)
    theta0 = problem.initial(config.network.seed)
    lrs, at = learning_rates_and_times(config.lrs, config.horizon, times)
    checked_observables(problem, theta0, lrs, at, config.dt, config.observables)
    control = chosen_control(config.control, problem)
    scheme, sizes = chosen_scheme(config.scheme, problem), (len(config.orders), len(config.observables))
    size = StudySize(problem, theta0, lrs, at, *sizes, control, scheme, config.dt, config.paths, config.workers)
    size.check(config.max_memory)
    cells = [
        Cell(problem, theta0, lr, config.horizon, tuple(config.orders), config.paths, config.scheme, config.dt)
        for lr in lrs
    ]
    fields = _fields(problem, config, cells, size.memory, config.workers)
    fields["time"] += f"; not in it: {NOT_TIMED}"
    for lr, order in product(lrs, config.orders):
        nothing = what_tests_nothing(SCHEMES[scheme], scheme, order, lr, first_dt(scheme, lr, config.dt))
        if nothing:
            fields["warning"] = nothing
    return fields


def _scaling(config: ScalingConfig) -> dict[str, str]:
    """The measured cells; exact moments are not counted."""
    problem = configured_problem(config)
    cells = list(_scaling_cells(problem, config))
    times = config.times if config.study == "horizon" else None
    memory = 0.0
    for cell in cells:
        size = cell.size(times or [cell.horizon], 1, chosen_control("auto", cell.problem), config.workers)
        size.check(None)
        memory = max(memory, size.memory)
    return _fields(problem, config, cells, memory, config.workers)


def _scaling_cells(problem: Problem, config: ScalingConfig) -> Iterator[Cell]:
    theta0, orders, lr = problem.initial(config.network.seed), tuple(config.orders), config.lrs[0]
    if config.study == "map":
        for keep_prob in config.keep_probs:
            here = problem.with_keep_prob(keep_prob)
            limit = here.stability_limit(theta0)
            for multiple in config.multiples:
                # the mean-square limit of the readout is about keep_prob times that of the mean
                cell_lr = min(multiple * keep_prob * limit, 0.99 * limit)
                yield Cell(here, theta0, cell_lr, config.relaxations * limit / 2, orders, config.paths)
    elif config.study == "kappa":
        for kappa in config.kappas:
            yield Cell(AveragedProblem(problem, kappa), theta0, kappa * lr, config.horizon, (1,), config.paths)
    elif config.study == "schedule":
        for _ in config.schedules:
            for one in config.lrs:
                yield Cell(problem, theta0, one, config.horizon, orders, config.paths)
    elif config.study == "horizon":
        yield Cell(problem, theta0, lr, config.times[-1], (1, 2), config.paths)
    elif config.study == "width":
        first = min(config.widths)
        for width in config.widths:
            for arm in ARMS:
                keep = config.keep_prob * (1 if arm == "fixed lr and keep_prob" else first / width)
                wide, start = mean_field_problem(problem.x, problem.y, width, keep, config.seed)
                wanted = lr * first / width if arm == "fixed lr/keep_prob" else lr
                yield Cell(wide, start, wanted, config.horizon, orders, config.paths)
    else:
        for factor in config.factors:
            yield Cell(problem, theta0, lr, config.horizon, orders, config.paths, config.scheme, factor * lr)


def _landscape(config: LandscapeConfig) -> dict[str, str]:
    """The training runs of each section; its measurements are not counted."""
    check_sections(config.sections)
    problem = configured_problem(config)
    theta0 = problem.initial(config.network.seed)
    training = Cell(problem, theta0, config.lr, config.steps * config.lr, (), config.runs)
    size = training.size([training.horizon], 1, "none", None)
    size.check(None)
    fields = _fields(problem, config, [training] * len(config.sections), size.memory, None)
    return fields | {"paths": f"{config.runs} trained networks in each section"}


def _derive(config: DeriveConfig) -> dict[str, str]:
    """The time of the derivation itself; the proof compares more moments than can be timed beforehand."""
    begin = time.perf_counter()
    iteration = derived_iteration(config)
    check_proof(iteration, max(2, config.order))
    columns = modified_equation(iteration, order=config.order).diffusion.cols
    seconds, size = time.perf_counter() - begin, len(iteration.state)
    moments = sum(math.comb(size + degree - 1, degree) for degree in range(1, 2 * config.order + 2))
    return {
        "problem": f"{config.iteration}, order {config.order}",
        "D": str(size),
        "M": str(columns),
        "steps": "none: nothing is simulated",
        "paths": "none",
        "time": f"{seconds:.2g} s for the derivation, and the proof of up to {moments} moments of one step",
        "memory": _memory(0.0, None),
    }


def _fields(
    problem: Problem, config: StudyConfig | LandscapeConfig, cells: list[Cell], memory: float, workers: int | None
) -> dict[str, str]:
    """What is printed.

    Args:
        memory: bytes of the arrays of one process.
    """
    total: dict[str, float] = {}
    per_step: dict[tuple[Any, ...], float] = {}
    for cell in cells:
        for name, seconds in cell.seconds(per_step).items():
            total[name] = total.get(name, 0.0) + seconds / (workers or 1)
    parts = ", ".join(f"{name} {seconds:.2g} s" for name, seconds in total.items())
    steps = list(dict.fromkeys(f"{cell.steps} at lr {cell.lr:.4g}" for cell in cells))
    more = f", and so on for {len(steps) - SHOWN} more" if len(steps) > SHOWN else ""
    largest = max((cell.problem for cell in cells), key=lambda one: one.numbers_per_path * one.block_size)
    return {
        "problem": described(config, problem),
        "D": str(largest.dim),
        "M": str(largest.noise_dim),
        "steps": ", ".join(steps[:SHOWN]) + more,
        "paths": f"{cells[0].paths} of each ensemble in the first round",
        "time": f"about {sum(total.values()):.2g} s for the first round on this machine as it is now ({parts})",
        "memory": _memory(memory, workers),
    }


def _memory(arrays: float, workers: int | None) -> str:
    """Of a process with all that a command loads and writes, and bytes of arrays; of its workers beside it."""
    _run_smallest()
    peak = _peak()
    if peak is None:
        return f"about {arrays / MIB:,.0f} MiB for each process on top of what Python and its libraries take"
    size = peak + arrays
    beside = "" if workers in (None, 1) else f", and at most as much in each of {workers} workers"
    return f"about {size / MIB:,.0f} MiB{beside}"


@functools.cache
def _run_smallest() -> None:
    """Run the smallest study to its end: torch loads parts of itself when derivatives are taken, and matplotlib its
    fonts, which no list of modules says.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        problem = configured_problem(SMALLEST)
        theta0 = problem.initial(0)
        study = weak_error(problem, theta0, SMALLEST.lrs, SMALLEST.horizon, paths=SMALLEST.paths, progress=False)
        text = weak_error_report(study, SMALLEST, problem, [])
        (directory / "report.md").write_text(text, encoding="utf-8")
        save_figure(weak_error_figure(study), directory, "weak_error")
        write_manifest(directory, "weak-error", [], dataclasses.asdict(SMALLEST), 0, 0.0)
        html_report(directory)


def _peak() -> float | None:
    """Bytes that this process has had at most; None on Windows, where Python does not say."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


ESTIMATES: dict[str, Callable[[Any], dict[str, str]]] = {
    "compare": lambda config: _weak_error(config, config.curve_times),
    "weak-error": _weak_error,
    "scaling": _scaling,
    "landscape": _landscape,
    "derive": _derive,
}
"""Command -> what --dry-run prints, from the configuration."""
