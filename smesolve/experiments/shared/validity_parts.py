"""The range of validity as a part of other reports, with words and tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

from smesolve.comparison.defect_plan import parts_of_horizon
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.validity_range import COST, ValidityRange, first_learning_rate, validity_range
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.defect_runs import DefectRuns, orders_of_defects
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.section import markdown
from smesolve.problem.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import LARGEST_BLOCK
from smesolve.sampling.journal import Journal

__all__ = ["ValidityPart", "in_words", "ranges_table"]

CELL = "range of validity"
"""Name of its cell, and of its part of the journal."""

TOLERANCE, REL_TOL = 0.01, 0.3

PATHS, MAX_PATHS = 64, 128
"""Paths of the first round, and at most, or a whole block where that is more."""

SHARE = 0.25
"""Largest work, relative to the first round of the study."""

SMALL, AFFORDABLE = 16.0, 2.0**28
"""If this is more, the bound is so many times the work at the first learning rate, provided that all its gradients
touch no more than so many numbers, which takes seconds."""


def in_words(found: ValidityRange, problem: Problem) -> str:
    """Return an explanation of the ranges of a problem."""
    return (
        f"The largest learning rate at which the error of the mean at T = {found.horizon:g} stays below "
        f"{100 * found.tolerance:g}% of the change of this mean since the start, by interpolation between measured "
        "errors. Errors are summed up along the training run by defects, and their intervals include a bound on the "
        f"bias of this estimate. The training is stable up to lr = {found.stability_limit:.3g} "
        f"({problem.limit_in_words})."
    )


def ranges_table(found: ValidityRange) -> str:
    """Return the table of the ranges."""
    return markdown(found.table, ["order", "observable", "lr", "limited_by"])


@dataclass(frozen=True)
class ValidityPart:
    """The range of validity of the network of a study, if it is cheap compared with the study.

    Args:
        design: design of the study; the first smooth observable is used.
        work: gradients of the first round of the study.
        workers: processes that share the paths.
    """

    design: StudyDesign
    work: float
    workers: int | None

    @property
    def observable(self) -> dict[str, Observable]:
        """The observable by its name; empty if none is smooth."""
        return dict(list(self.design.smooth_observables.items())[:1])

    @property
    def orders(self) -> list[int]:
        """The orders whose ranges can be measured."""
        return orders_of_defects(self.design)

    @property
    def max_gradients(self) -> float:
        """Largest number of gradients."""
        small = min(SMALL * self.first.size().work, AFFORDABLE / self.design.problem.floats_per_path)
        return max(SHARE * self.work, small)

    @cached_property
    def first(self) -> DefectRuns:
        """The runs of the first round at the first learning rate."""
        design = self.design
        lr = first_learning_rate(design.problem, design.theta0, design.horizon)
        problem = design.problem.in_blocks_for(LARGEST_BLOCK)
        return DefectRuns(problem, design.theta0, lr, [design.horizon], self.orders, PATHS)

    @property
    def runs(self) -> DefectRuns:
        """Runs at the first learning rate with the largest work of the whole range."""
        size = self.first.size()
        whole_blocks = -(-PATHS // size.block_size) * size.block_size
        return replace(self.first, paths=int(whole_blocks * self.max_gradients / size.work))

    def cells(self, journal: Journal | None) -> list[Cell]:
        """Return its cell, or none if it is too expensive or cannot be measured.

        Args:
            journal: journal of the study, which stores the blocks of paths one by one.
        """
        design = self.design
        if not self.observable or not self.orders:
            return []
        try:
            parts_of_horizon(design.problem, design.horizon)
        except SmesolveError:  # no learning rates but very small ones meet all breaks of the schedule
            return []
        if self.first.size().work > self.max_gradients:
            return []
        return [Cell(CELL, partial(self._measured, journal), [self.runs], kept=False)]

    def _measured(self, journal: Journal | None) -> ValidityRange:
        design = self.design
        return validity_range(
            design.problem,
            design.theta0,
            design.horizon,
            TOLERANCE,
            orders=self.orders,
            observables=self.observable,
            rel_tol=REL_TOL,
            paths=PATHS,
            max_paths=max(MAX_PATHS, self.first.size().block_size),
            max_gradients=self.max_gradients,
            seed=design.seed,
            workers=self.workers,
            journal=None if journal is None else journal.part(CELL),
        )

    def text(self, found: ValidityRange) -> str:
        """Return a part of a report, in Markdown."""
        return join(
            "## Range of validity", in_words(found, self.design.problem), ranges_table(found), _ended_early(found)
        )


def _ended_early(found: ValidityRange) -> str:
    """Return what ended the search, where that was its cost."""
    if not (found.table.limited_by == COST).any():
        return ""
    return (
        f"limited by cost: as this is a part of another study, it takes no more than {100 * SHARE:g}% of the gradients "
        "of the first round of that, so the learning rate is known between bounds only. `smesolve validity` measures "
        "it."
    )
