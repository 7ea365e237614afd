"""The runs of the defect estimator in a cell, for its cost and the dry run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from smesolve.comparison.study_design import StudyDesign, chosen_scheme
from smesolve.comparison.study_size import DefectSize
from smesolve.experiments.shared.stopwatch import idle_seconds
from smesolve.problem.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.solver.orders import WITH_JUMPS, Order

__all__ = ["TIMED_STEPS", "DefectRuns", "orders_of_defects"]

TIMED_STEPS = 3
"""Steps that a dry run measures."""


@dataclass(frozen=True)
class DefectRuns:
    """Runs of the defect estimator from one start at one learning rate."""

    problem: Problem
    theta0: Tensor
    lr: float
    times: Sequence[float]
    """Times of observation; the last one is the horizon."""
    orders: Sequence[Order]
    paths: int
    """Paths in the first round."""
    most: int | None = None
    """Paths for which blocks have their size (`Problem.in_blocks_for`). Default: blocks are those of the problem."""
    observables: Mapping[str, Observable] | None = None
    """What is averaged. Default: the loss."""

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return max(1, round(self.times[-1] / self.lr))

    @cached_property
    def design(self) -> StudyDesign:
        """The measurement for which these runs are simulated."""
        problem = self.problem if self.most is None else self.problem.in_blocks_for(self.most)
        observables = self.observables or {"": problem.loss}
        given = problem, self.theta0, [self.lr], self.times, self.orders, observables
        return StudyDesign(*given, chosen_scheme(None, problem))

    def size(self, workers: int | None = None) -> DefectSize:
        """Return the work and the memory of the runs."""
        return DefectSize(self.design, self.paths, workers)

    def seconds(self, per_gradient: dict[tuple[Any, ...], float]) -> float:
        """Return the seconds of the first round.

        Args:
            per_gradient: seconds per gradient that were measured before; they do not depend on the learning rate.
        """
        size = self.size()
        key = "defects", id(self.problem), size.samplers[0].block_size, tuple(self.orders), *self.design.observables
        if key not in per_gradient:
            short = dataclasses.replace(size.samplers[0], saved=[min(TIMED_STEPS, self.steps)])
            short.values(0)  # warms up
            per_gradient[key] = idle_seconds(lambda: short.values(0)) / short.cost
        return per_gradient[key] * size.work


def orders_of_defects(design: StudyDesign) -> list[int]:
    """Return the orders of a study whose errors can be estimated by defects."""
    return [order for order in design.orders if isinstance(order, int) and order not in WITH_JUMPS]
