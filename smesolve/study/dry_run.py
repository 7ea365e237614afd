"""What a study would take: sizes, steps, paths, and an estimate of time and memory from a few real blocks.

A study is a list of `Cell`s. Of each process of a cell (iteration, equation of each order) three steps of one block are
run and timed; the time of the first round is that of its steps times its blocks. What comes before and after, the value
Hessians of control variates, the noise-free path, further rounds for rel_tol, figures, is not in it.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from smesolve.comparison.equation_side import in_pairs
from smesolve.comparison.error_budget import first_dt
from smesolve.comparison.scaling.width_sweep import ARMS, mean_field_problem
from smesolve.comparison.weak_error import (
    checked_observables,
    chosen_control,
    chosen_scheme,
    control_memory,
    observation_times,
)
from smesolve.problem.averaged_problem import AveragedProblem
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Process
from smesolve.solver.integration import integration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.schemes.scheme import what_tests_nothing
from smesolve.study.configuration import DeriveConfig, StudyConfig
from smesolve.study.derivation import derived_iteration
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_sections import check_sections
from smesolve.study.problems import configured_problem, described
from smesolve.study.scaling_configuration import ScalingConfig
from smesolve.symbolic import modified_equation

__all__ = ["ESTIMATES", "Cell"]

TIMED_STEPS = 3
MIB = 2**20

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

    def seconds(self) -> dict[str, float]:
        """Of each ensemble in its first round."""
        size = self.problem.block_size
        blocks = -(-self.paths // size)
        per_step = _seconds_per_step(DropoutIteration(self.problem, self.lr), self.theta0)
        found = {"iteration": per_step * self.steps * blocks}
        scheme = chosen_scheme(self.scheme, self.problem)
        dt = first_dt(scheme, self.lr, self.dt)
        # a pair is the same path with step dt/2 beside that with dt
        weight = blocks + 2 * sum(in_pairs(block, size) for block in range(blocks))
        for order in self.orders:
            process = integration(ModifiedEquation(self.problem, self.lr, order), self.theta0, scheme, dt)
            per_step = _seconds_per_step(process, self.theta0)
            found[f"order {order}"] = per_step * math.ceil(self.horizon / dt) * weight
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
    problem = configured_problem(config)
    theta0 = problem.initial(config.network.seed)
    at = observation_times(config.lrs, config.horizon, times)
    checked_observables(problem, theta0, config.lrs, at, config.dt, config.observables)
    control = chosen_control(config.control, problem)
    memory = control_memory(problem, theta0, config.lrs, at, len(config.orders), len(config.observables), control)
    cells = [
        Cell(problem, theta0, lr, config.horizon, tuple(config.orders), config.paths, config.scheme, config.dt)
        for lr in config.lrs
    ]
    processes = 1 if config.workers is None else 1 + config.workers
    fields = _fields(problem, config, cells, processes * memory, config.workers or 1)
    fields["time"] += f"; not in it: {NOT_TIMED}"
    scheme = chosen_scheme(config.scheme, problem)
    for lr, order in product(config.lrs, config.orders):
        nothing = what_tests_nothing(SCHEMES[scheme], scheme, order, lr, first_dt(scheme, lr, config.dt))
        if nothing:
            fields["warning"] = nothing
    return fields


def _scaling(config: ScalingConfig) -> dict[str, str]:
    """The measured cells; exact moments are not counted."""
    problem = configured_problem(config)
    return _fields(problem, config, list(_scaling_cells(problem, config)), 0.0)


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
    fields = _fields(problem, config, [training] * len(config.sections), 0.0)
    return fields | {"paths": f"{config.runs} trained networks in each section"}


def _derive(config: DeriveConfig) -> dict[str, str]:
    """The time of the derivation itself; the proof compares more moments than can be timed beforehand."""
    begin = time.perf_counter()
    iteration = derived_iteration(config)
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
        "memory": _memory(0.0),
    }


def _fields(
    problem: Problem, config: StudyConfig | LandscapeConfig, cells: list[Cell], memory: float, workers: int = 1
) -> dict[str, str]:
    total: dict[str, float] = {}
    for cell in cells:
        for name, seconds in cell.seconds().items():
            total[name] = total.get(name, 0.0) + seconds / workers
    parts = ", ".join(f"{name} {seconds:.2g} s" for name, seconds in total.items())
    steps = ", ".join(dict.fromkeys(f"{cell.steps} at lr {cell.lr:.4g}" for cell in cells))
    largest = max((cell.problem for cell in cells), key=lambda one: one.numbers_per_path * one.block_size)
    return {
        "problem": described(config, problem),
        "D": str(largest.dim),
        "M": str(largest.noise_dim),
        "steps": steps,
        "paths": f"{cells[0].paths} of each ensemble in the first round",
        "time": f"about {sum(total.values()):.2g} s for the first round on this machine as it is now ({parts})",
        "memory": _memory(memory + 8 * 4 * largest.numbers_per_path * largest.block_size),
    }


def _memory(more: float) -> str:
    """What this process has had at most, and `more` bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, else KiB
    return f"about {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + more) / MIB:.0f} MiB"


ESTIMATES: dict[str, Callable[[Any], dict[str, str]]] = {
    "compare": lambda config: _weak_error(config, config.curve_times),
    "weak-error": _weak_error,
    "scaling": _scaling,
    "landscape": _landscape,
    "derive": _derive,
}
"""Command -> what --dry-run prints, from the configuration."""
