"""What an experiment would take: sizes, steps, paths, and an estimate of time and memory from a few real blocks.

Of each process of the ensembles of the cells (the iteration, the equation of each order) three steps of one block are
run and timed; the time of the first round is that of its steps times its blocks. What comes before and after is not
included: control variates, the noise-free path, further rounds for rel_tol, figures.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from smesolve.comparison.defect_size import DefectSize
from smesolve.comparison.study_size import StudySize
from smesolve.experiments.shared.cells import Cell, Ensembles
from smesolve.experiments.shared.defect_runs import TIMED_STEPS, DefectRuns
from smesolve.experiments.shared.markdown import counted
from smesolve.problem.iteration import DropoutIteration
from smesolve.sampling.ensemble import Process
from smesolve.solver.integration import integration
from smesolve.solver.modified_equation import ModifiedEquation, Order, equation_name

__all__ = ["estimate", "memory_in_words"]

MIB = 2**20

SHOWN = 20
"""Learning rates whose steps are printed."""


def estimate(measured: str, cells: Sequence[Cell], workers: int | None) -> dict[str, str]:
    """Return what the cells would take, in words.

    Args:
        measured: what is measured on what.
        cells: of the experiment.
        workers: processes that share the paths.

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
    per_step: dict[tuple[Any, ...], float] = {}
    for one in ensembles:
        found = {"defects": one.seconds(per_step)} if isinstance(one, DefectRuns) else _seconds(one, per_step)
        for name, seconds in found.items():
            total[name] = total.get(name, 0.0) + seconds / (workers or 1)
    parts = ", ".join(f"{name} {seconds:.2g} s" for name, seconds in total.items())
    steps = list(dict.fromkeys(f"{one.steps} at lr {one.lr:.4g}" for one in ensembles))
    more = f", and so on for {len(steps) - SHOWN} more" if len(steps) > SHOWN else ""
    largest = max((one.problem for one in ensembles), key=lambda problem: problem.floats_per_path * problem.block_size)
    others = sum(not cell.ensembles for cell in cells)
    untimed = f"; not in it: {counted(others, 'cell')} without paths" if others else ""
    return fields | {
        "D": str(largest.dim),
        "M": str(largest.noise_dim),
        "steps": ", ".join(steps[:SHOWN]) + more,
        "paths": f"{ensembles[0].paths} of each ensemble in the first round",
        "time": f"about {sum(total.values()):.2g} s for the first round on this machine as it is now ({parts})"
        + untimed,
        "memory": memory_in_words(arrays, workers, steps_take),
    }


def memory_in_words(arrays: float, workers: int | None, steps: float = 0.0) -> str:
    """Return the memory of a process, from the most that it has taken so far, and that of its workers.

    Args:
        arrays: bytes of the arrays of one process, but for those of the steps that were run.
        workers: processes beside it.
        steps: bytes of the arrays of these steps, for systems that do not say what a process has taken. Default: none.
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
        ensembles: that are timed.
        per_step: seconds of one step that were measured before; they do not depend on the learning rate.
    """
    problem, theta0, lr = ensembles.problem, ensembles.theta0, ensembles.lr
    size, scheme = ensembles.size(), ensembles.design.scheme
    dt = ensembles.design.first_dt(lr)

    def timed(name: str, process: Callable[[], Process]) -> float:
        key = name, id(problem), scheme, ensembles.control != "none"
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
def _seconds_per_step(process: Process, theta0: Tensor, split: bool) -> float:
    """Return the time of the quickest of some real steps of one whole block.

    Args:
        process: that is timed.
        theta0: (D,), its start.
        split: include what control variates take of a step.
    """
    theta, times = theta0.expand(process.block_size, -1).contiguous(), []
    for step in range(1 + TIMED_STEPS):  # the first one warms up
        begin = time.perf_counter()
        theta = process.advance_split(theta, 0, step).state if split else process.advance(theta, 0, step)
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _peak() -> float | None:
    """Return the most bytes that this process has had; None on Windows, where Python does not say."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, else KiB
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
