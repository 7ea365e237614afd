"""The range of validity as a part of other reports, and the words and tables on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.validity_range import ValidityRange, first_learning_rate, validity_range
from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.defect_runs import DefectRuns, orders_of_defects, smooth_observables
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.section import markdown
from smesolve.problem.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import LARGEST_BLOCK

__all__ = ["ValidityPart", "in_words", "ranges_table"]

TOLERANCE, REL_TOL = 0.01, 0.3

PATHS, MAX_PATHS = 64, 128
"""Paths of the first round, and at most, or a whole block where that is more."""

SHARE = 0.5
"""Largest work at the first learning rate, in units of that of the first round of the study."""


def in_words(found: ValidityRange, problem: Problem) -> str:
    """Return what the ranges of a problem mean."""
    return (
        f"The largest learning rate at which the error of the mean at T = {found.horizon:g} stays below "
        f"{100 * found.tolerance:g}% of the change of this mean since the start, by interpolation between measured "
        "errors. Errors are summed up along the training run by defects, and their intervals hold a bound on the bias "
        f"of this. The training is stable up to lr = {found.stability_limit:.3g} ({problem.limit_in_words})."
    )


def ranges_table(found: ValidityRange) -> str:
    """Return the table of the ranges."""
    return markdown(found.table, ["order", "observable", "lr", "limited_by"])


@dataclass(frozen=True)
class ValidityPart:
    """The range of validity of the network of a study, where that is cheap beside the study.

    Args:
        design: of the study; the first smooth observable counts.
        work: gradients of the first round of the study.
        workers: processes that share the paths.
    """

    design: StudyDesign
    work: float
    workers: int | None

    @property
    def observable(self) -> dict[str, Observable]:
        """The observable by its name; empty where none is smooth."""
        return dict(list(smooth_observables(self.design).items())[:1])

    @property
    def orders(self) -> list[int]:
        """Those whose ranges are known."""
        return orders_of_defects(self.design)

    def cells(self) -> list[Cell]:
        """Return its cell, or none where it is too expensive or not known."""
        design = self.design
        if not self.observable or not self.orders or not design.problem.autonomous:
            return []
        lr = first_learning_rate(design.problem, design.theta0, design.horizon)
        problem = design.problem.in_blocks_for(LARGEST_BLOCK)
        runs = DefectRuns(problem, design.theta0, lr, [design.horizon], self.orders, PATHS)
        measured = partial(self._measured, max(MAX_PATHS, runs.size().block_size))
        return [Cell("range of validity", measured, [runs])] if runs.size().work <= SHARE * self.work else []

    def _measured(self, max_paths: int) -> dict[str, Any]:
        design = self.design
        measure = partial(validity_range, design.problem, design.theta0, design.horizon, TOLERANCE)
        found = measure(
            orders=self.orders,
            observables=self.observable,
            rel_tol=REL_TOL,
            paths=PATHS,
            max_paths=max_paths,
            seed=design.seed,
            workers=self.workers,
            progress=False,
        )
        return {"table": found.table, "errors": found.errors, "limit": found.stability_limit}

    def found(self, result: dict[str, Any]) -> ValidityRange:
        """Return the range from the result of the cell."""
        return ValidityRange(result["table"], result["errors"], self.design.horizon, TOLERANCE, result["limit"])

    def text(self, result: dict[str, Any]) -> str:
        """Return a part of a report, in Markdown."""
        found = self.found(result)
        return join("## Range of validity", in_words(found, self.design.problem), ranges_table(found))
