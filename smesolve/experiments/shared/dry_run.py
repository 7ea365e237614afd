"""Estimate of the cost of an experiment: sizes, steps, paths, and time and memory from a few real blocks.

For each process in the ensembles of the cells (the iteration, the equation of each order), three steps of one block are
run and timed. The time of the first round is the time per step times the numbers of steps and blocks. Control variates
and the noise-free path are computed for a few steps, and cells that simulate nothing may state their time. Further
rounds, which a tolerance may require, depend on errors that are not known yet, and are not included.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from smesolve.comparison.error_budget import ErrorBudget
from smesolve.comparison.noise_free_path import DENSE_DIM
from smesolve.comparison.study_size import DefectSize, StudySize
from smesolve.comparison.value_hessians import value_hessians
from smesolve.experiments.shared.cells import Cell, Ensembles
from smesolve.experiments.shared.defect_runs import TIMED_STEPS, DefectRuns
from smesolve.experiments.shared.markdown import counted
from smesolve.experiments.shared.stopwatch import idle_seconds
from smesolve.problem.iteration import DropoutIteration
from smesolve.sampling.ensemble import Process
from smesolve.sampling.runner import Runner
from smesolve.solver.integration import integration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.orders import Order, equation_name

__all__ = ["estimate", "memory_in_words", "time_in_words"]

MIB = 2**20

CONTROLS = "control variates"
"""Name of the time of control variates and of the noise-free path."""

SHOWN = 20
"""Learning rates whose steps are printed."""


def estimate(measured: str, cells: Sequence[Cell], workers: int | None, overhead: float = 0.0) -> dict[str, str]:
    """Return the estimated cost of the cells, in words.

    Args:
        measured: description of data, network and training.
        cells: cells of the experiment.
        workers: processes that share the paths.
        overhead: seconds that every study takes, as in `time_in_words`. Default: 0.

    Raises:
        SmesolveError: the paths are more than a process can take, or need more memory than the machine has.
    """
    ensembles = [one for cell in cells for one in cell.ensembles]
    fields = ({"problem": measured} if measured else {}) | {"cells": str(len(cells))}
    if not ensembles:
        return fields | {"time": "not known before the cells are run", "memory": memory_in_words(0.0, workers)}
    steps_take = arrays = 0.0
    for one in ensembles:
        size: StudySize | DefectSize = one.size(workers)
        size.check(None)
        steps_take, arrays = max(steps_take, size.step_memory), max(arrays, size.memory_beyond_steps)
    total: dict[str, float] = {}
    known: dict[tuple[Any, ...], float] = {}
    for one in ensembles:
        found = {"defects": one.seconds(known)} if isinstance(one, DefectRuns) else _seconds(one, known)
        _add(total, {name: seconds / (workers or 1) for name, seconds in found.items()})
    memory = memory_in_words(arrays, workers, steps_take)  # before what follows takes some of these arrays
    for one in ensembles:
        if isinstance(one, Ensembles):
            _add(total, {CONTROLS: _control_seconds(one, known)})
    _add(total, {cell.key: cell.seconds() for cell in cells if cell.seconds is not None})
    steps = list(dict.fromkeys(f"{one.steps} at lr {one.lr:.4g}" for one in ensembles))
    more = f", and so on for {len(steps) - SHOWN} more" if len(steps) > SHOWN else ""
    largest = max(
        (one.design.problem for one in ensembles), key=lambda problem: problem.floats_per_path * problem.block_size
    )
    others = sum(not cell.ensembles and cell.seconds is None for cell in cells)
    untimed = f"; not in it: {counted(others, 'cell')} without paths" if others else ""
    return fields | {
        "D": str(largest.dim),
        "M": str(largest.noise_dim),
        "steps": ", ".join(steps[:SHOWN]) + more,
        "paths": f"{ensembles[0].paths} of each ensemble in the first round",
        "time": time_in_words(total, overhead) + untimed,
        "memory": memory,
    }


def _add(total: dict[str, float], found: dict[str, float]) -> None:
    for name, seconds in found.items():
        if seconds:
            total[name] = total.get(name, 0.0) + seconds


def time_in_words(parts: dict[str, float], overhead: float) -> str:
    """Return the time of a study, in words.

    Args:
        parts: seconds of each part.
        overhead: seconds that every study takes for loading the libraries, the figures and the report.
    """
    named = {"start and report": overhead} | parts if overhead else parts
    words = ", ".join(f"{name} {seconds:.2g} s" for name, seconds in named.items())
    return f"about {sum(named.values()):.2g} s on this machine when it is idle ({words})"


def memory_in_words(arrays: float, workers: int | None, steps: float = 0.0) -> str:
    """Return the memory of a process, from its peak so far, and the memory of its workers.

    Args:
        arrays: bytes of the arrays of one process, without the arrays of the steps that were run.
        workers: number of worker processes.
        steps: bytes of the arrays of these steps, for systems that do not report the peak of a process. Default: 0.
    """
    peak = _peak()
    if peak is None:
        return f"about {(arrays + steps) / MIB:,.0f} MiB for each process on top of what Python and its libraries take"
    size = peak + arrays
    beside = "" if workers in (None, 1) else f", and at most as much in each of {workers} workers"
    return f"about {size / MIB:,.0f} MiB{beside}"


def _seconds(ensembles: Ensembles, per_step: dict[tuple[Any, ...], float]) -> dict[str, float]:
    """Return the seconds of each ensemble in its first round.

    Args:
        ensembles: the timed ensembles.
        per_step: seconds of one step that were measured before; they do not depend on the learning rate.
    """
    problem, theta0, lr = ensembles.design.problem, ensembles.theta0, ensembles.lr
    size, scheme = ensembles.size(), ensembles.design.scheme
    dt = ensembles.design.first_dt(lr)

    def timed(name: str, process: Callable[[], Process]) -> float:
        key = name, id(ensembles.problem), problem.block_size, scheme, ensembles.control != "none"
        if key not in per_step:
            per_step[key] = _seconds_per_step(process(), theta0, split=ensembles.control != "none")
        return per_step[key]

    def equation(order: Order) -> Process:
        return integration(ModifiedEquation(problem, lr, order), theta0, scheme, dt)

    found: dict[str, float] = {}
    if size.iteration_blocks:
        step = timed("iteration", lambda: DropoutIteration(problem, lr))
        found["iteration"] = step * ensembles.steps * size.iteration_blocks
    for order in ensembles.orders:
        name = equation_name(order)
        found[name] = timed(name, partial(equation, order)) * math.ceil(ensembles.times[-1] / dt) * size.equation_blocks
    return found


@torch.no_grad()
def _control_seconds(ensembles: Ensembles, known: dict[tuple[Any, ...], float]) -> float:
    """Return the seconds that control variates and the noise-free path take.

    They are made for as many steps as there are times of observation, if dt and lr divide each other: the work of a
    step depends on how many times are still ahead of it.

    Args:
        ensembles: for which they are made.
        known: seconds per step that were measured before; they do not depend on the learning rate.
    """
    design, lr = ensembles.design, ensembles.lr
    if not design.orders or not ensembles.compared:
        return 0.0
    unit = _common_multiple(lr, design.first_dt(lr)) or design.times[0]
    count = max(1, min(len(design.times), round(design.horizon / unit)))
    short, steps = replace(design, times=[unit * (k + 1) for k in range(count)]), round(count * unit / lr)
    second, dense = design.control == "second", design.problem.dim <= DENSE_DIM
    key = CONTROLS, id(ensembles.problem), tuple(design.orders), design.scheme, steps
    hessians = None

    def make_hessians() -> None:
        nonlocal hessians
        given = short.problem, short.theta0, short.times, short.observables, lr, design.stability_limit
        hessians = value_hessians(*given)

    seconds = 0.0
    if second and not dense and (*key, "hessians") not in known:  # those of low rank serve all learning rates
        made, points = idle_seconds(make_hessians), _grid_points(design.horizon, design.stability_limit)
        known[*key, "hessians"] = seconds = made * points / _grid_points(short.horizon, design.stability_limit)
    if key not in known:
        made = idle_seconds(make_hessians) if second and hessians is None else 0.0
        made = made if dense else 0.0
        known[key] = (made + idle_seconds(lambda: ErrorBudget(short, lr, hessians, Runner()))) / steps
    return seconds + known[key] * ensembles.steps


def _common_multiple(lr: float, dt: float) -> float | None:
    """Return the larger of two steps if it is a multiple of the other, else None."""
    small, large = sorted((lr, dt))
    return large if math.isclose(large / small, round(large / small), rel_tol=1e-9) else None


def _grid_points(horizon: float, stability_limit: float) -> int:
    """Return the number of times at which Hessians of low rank are made."""
    return 1 + max(1, math.ceil(4 * horizon / stability_limit))


@torch.no_grad()
def _seconds_per_step(process: Process, theta0: Tensor, split: bool) -> float:
    """Return the time of the quickest of some real steps of one whole block.

    Args:
        process: the timed process.
        theta0: start (D,).
        split: include the time of control variates in a step.
    """
    theta, times = theta0.expand(process.block_size, -1).contiguous(), []

    def advance(step: int) -> None:
        nonlocal theta
        theta = process.advance_split(theta, 0, step).state if split else process.advance(theta, 0, step)

    for step in range(1 + TIMED_STEPS):  # the first one warms up
        times.append(idle_seconds(partial(advance, step)))
    return min(times[1:])


def _peak() -> float | None:
    """Return the peak memory of this process in bytes; None on Windows, where Python does not report it."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, else KiB
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
