"""Cells: the pieces of work of an experiment.

The result of a cell is stored on disk as soon as it is known, so an interrupted experiment continues with the remaining
cells. A cell states what it simulates; the progress bar and the dry run compute its cost from that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from smesolve.comparison.study_design import StudyDesign, chosen_control, chosen_scheme
from smesolve.comparison.study_size import StudySize
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.cell_store import CellStore
from smesolve.experiments.shared.defect_runs import DefectRuns
from smesolve.problem.problem import Problem
from smesolve.sampling.progress import Progress
from smesolve.solver.integration import check_scheme
from smesolve.solver.orders import Order

__all__ = ["Cell", "Ensembles", "run_cells", "training_cost"]


@dataclass(frozen=True)
class Ensembles:
    """Paths of the iteration and of equations at one learning rate, from one start, up to one horizon."""

    problem: Problem
    theta0: Tensor
    lr: float
    times: Sequence[float]
    """Times of observation; the last one is the horizon."""
    orders: Sequence[Order]
    """Orders of the equations. Empty: only the iteration is run."""
    paths: int
    """Paths of each ensemble in the first round."""
    scheme: str | None = None
    dt: float | None = None
    observables: int = 1
    """Number of observables."""
    control: str = "auto"
    """Control variates, as for `weak_error`."""
    compared: bool = True
    """Whether `weak_error` compares them: then the iteration is run in addition to equations, and some of the paths of
    equations come in pairs."""
    most: int | None = None
    """Number of paths for which the block size is chosen (`Problem.in_blocks_for`). Default: the problem's blocks."""

    def __post_init__(self) -> None:
        check_scheme(self.problem, self.design.scheme)

    @property
    def steps(self) -> int:
        """Steps of the iteration."""
        return max(1, round(self.times[-1] / self.lr))

    @cached_property
    def design(self) -> StudyDesign:
        """The measurement for which these ensembles are simulated."""
        observables = {str(k): self.problem.loss for k in range(self.observables)}
        scheme, control = chosen_scheme(self.scheme, self.problem), chosen_control(self.control, self.problem)
        problem = self.problem if self.most is None else self.problem.in_blocks_for(self.most)
        given = problem, self.theta0, [self.lr], self.times, self.orders
        return StudyDesign(*given, observables, scheme, self.dt, control)

    def size(self, workers: int | None = None) -> StudySize:
        """Return the work and the memory of the ensembles."""
        return StudySize(self.design, self.paths, workers, self.compared)


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Its result consists of dicts with string keys, lists, strings, numbers, None, numpy arrays and pandas tables, which
    can be stored on disk.
    """

    key: str
    """Name of the cell, such as "network, kappa 4". No two cells of an experiment share one, and a cell with the same
    key and the same settings always has the same result."""
    run: Callable[[], Any]
    ensembles: Sequence[Ensembles | DefectRuns] = ()
    """The simulated paths; empty if the cell simulates nothing."""
    work: float = 1.0
    """For a cell that simulates nothing, its approximate work in gradients; 0 counts as 1."""
    seconds: Callable[[], float] | None = None
    """For a cell that simulates nothing: function that returns its time (s), for the dry run. Default: unknown."""
    kept: bool = True
    """Whether the result is stored on disk. False: the cell stores its own blocks in the journal of the experiment."""

    @property
    def cost(self) -> float:
        """Work of the cell, in gradients."""
        return sum(ensembles.size().work for ensembles in self.ensembles) or self.work or 1.0


def training_cost(problem: Problem, theta0: Tensor, lr: float, steps: int, runs: int) -> list[Ensembles]:
    """Return the ensembles of a cell that only trains: a number of steps of the iteration in a number of runs."""
    return [Ensembles(problem, theta0, lr, [steps * lr], (), runs, control="none")]


def run_cells(cells: Sequence[Cell], store: CellStore | None = None, progress: bool | None = None) -> list[Any]:
    """Return the results of the cells, in their order.

    Args:
        cells: cells to run.
        store: stored results, to which new ones are added. Default: no result is stored.
        progress: show a progress bar. Default: on a terminal only.

    Raises:
        SmesolveError: two cells have the same key.
    """
    keys = [cell.key for cell in cells]
    for key in keys:
        if keys.count(key) > 1:
            raise SmesolveError(f"the key {key!r} stands for several cells; give each cell a key of its own.")
    costs = [cell.cost for cell in cells]
    results = []
    with Progress(progress, math.fsum(costs), late=True) as bar:
        for number, (cell, cost) in enumerate(zip(cells, costs, strict=True), start=1):
            bar.describe(f"{cell.key} (cell {number} of {len(cells)})" if len(cells) > 1 else cell.key)
            known = store is not None and cell.kept and cell.key in store
            with bar.part(cost, known):
                if store is None or not cell.kept:
                    results.append(cell.run())
                else:
                    if not known:
                        store.put(cell.key, cell.run())
                    results.append(store.get(cell.key))
    return results
