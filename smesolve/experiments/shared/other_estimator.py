"""Comparison of both estimators of a weak error at the largest learning rate, if this is cheap."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from smesolve.comparison.defect_plan import meets_breaks
from smesolve.comparison.outcomes import Status
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.weak_error import weak_error
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.experiments.shared.cells import Cell, Ensembles
from smesolve.experiments.shared.defect_runs import DefectRuns, orders_of_defects
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.section import formatted
from smesolve.problem.observables import Observable
from smesolve.sampling.ensemble import LARGEST_BLOCK
from smesolve.sampling.journal import Journal
from smesolve.solver.orders import equation_name

__all__ = ["OtherEstimator"]

CELL = "the other estimator"
"""Name of its cell, and of its part of the journal."""

PATHS = {"difference": 256, "defects": 64}
"""Paths of each estimator, or a whole block where that is more."""

AFFORDABLE = 2.0**28
"""Largest number of floats in all gradients of a check that takes more gradients than the first round of the study."""


@dataclasses.dataclass(frozen=True)
class OtherEstimator:
    """The other estimator at the largest learning rate of a study.

    Args:
        design: design of the study.
        estimator: estimator of the study.
        work: gradients of the first round of the study.
        workers: processes, or threads for compiled kernels, that share the paths.
    """

    design: StudyDesign
    estimator: str
    work: float
    workers: int | None

    @property
    def other(self) -> str:
        """The other estimator."""
        return "defects" if self.estimator == "difference" else "difference"

    @property
    def lr(self) -> float:
        """The largest learning rate."""
        return max(self.design.lrs)

    @property
    def observables(self) -> dict[str, Observable]:
        """The observables that both estimators can measure."""
        return self.design.smooth_observables

    @property
    def orders(self) -> list[int]:
        """The orders that both estimators can measure."""
        return orders_of_defects(self.design)

    @property
    def runs(self) -> Ensembles | DefectRuns:
        """The simulated paths."""
        design, problem = self.design, self.design.problem.in_blocks_for(LARGEST_BLOCK)
        given = problem, design.theta0, self.lr, [design.horizon], self.orders, PATHS[self.other]
        if self.other == "defects":
            return DefectRuns(*given, observables=self.observables)
        return Ensembles(*given, observables=len(self.observables))

    @property
    def relative_work(self) -> float:
        """Number of its gradients, relative to the first round of the study."""
        return self.runs.size().work / self.work

    @property
    def affordable(self) -> bool:
        """Whether it is cheap enough to run."""
        if not self.observables or not self.orders or not self._meets_breaks:
            return False
        numbers = self.runs.size().work * self.design.problem.floats_per_path
        return numbers <= AFFORDABLE or self.relative_work <= 1

    @property
    def _meets_breaks(self) -> bool:
        """Whether the breaks of a schedule are steps, where that estimator needs them to be."""
        return self.other == "difference" or meets_breaks(self.design.problem, self.lr, self.design.horizon)

    def cells(self, journal: Journal | None) -> list[Cell]:
        """Return its cell, or none if it is too expensive or not known.

        Args:
            journal: of the study, which keeps the blocks of paths one by one.
        """
        return [Cell(CELL, partial(self._rows, journal), [self.runs])] if self.affordable else []

    def _rows(self, journal: Journal | None) -> pd.DataFrame:
        design = self.design
        seed = design.seed ^ 1  # both run the iteration, on draws of their own
        study = weak_error(
            design.problem,
            design.theta0,
            [self.lr],
            design.horizon,
            orders=self.orders,
            observables=self.observables,
            times=[design.horizon],
            paths=max(PATHS[self.other], self.runs.size().block_size),
            estimator=self.other,
            seed=seed,
            workers=self.workers,
            journal=None if journal is None else journal.part(CELL),
        )
        return study.table[["order", "observable", "error", "low", "high", "paths", "reason"]]

    def text(self, study: WeakErrorStudy, rows: pd.DataFrame | None) -> str:
        """Return a part of a report, in Markdown.

        Args:
            study: the results of the study.
            rows: the result of the cell, or None if there was none.
        """
        heading = "## Both estimators"
        if rows is None:
            why = "the observables jump, or all equations have jumps"
            if not self._meets_breaks:
                why = "a break of the schedule is no step of it"
            elif self.observables and self.orders:
                why = f"that takes {self.relative_work:.2g} times the gradients of the first round of this study"
            return join(heading, f"The errors were not measured by {_called(self.other)} as well: {why}.")
        intro = f"At lr = {self.lr:g}, the largest one, with draws of its own and {rows.paths.min()} paths."
        columns = {
            "observable": "{observable}",
            "order": "{order}",
            _called(self.estimator): "{error:+.2e} [{low:+.2e}, {high:+.2e}]",
            _called(self.other): "{error_other:+.2e} [{low_other:+.2e}, {high_other:+.2e}]",
            "agree": "{agrees}",
        }
        return join(heading, intro, formatted(self._beside(study, rows), columns))

    def conclusion(self, study: WeakErrorStudy, rows: pd.DataFrame | None) -> str:
        """Return a line for the conclusions, or "" if nothing was compared."""
        if rows is None:
            return ""
        table = self._beside(study, rows)
        compared = table[table.agrees.isin(["yes", "no"])]
        if compared.empty:
            return ""
        bad = compared[compared.agrees == "no"]
        found = f"- At lr = {self.lr:g} {_called(self.estimator)} and {_called(self.other)} "
        if bad.empty:
            return f"{found}agree inside their joint intervals ({len(compared)} errors, {rows.paths.min()} paths)."
        names = ", ".join(f"{equation_name(row.order)}, {row.observable}" for row in bad.itertuples())
        return f"{found}DISAGREE beyond their joint intervals: {names}. Take smaller learning rates."

    def _beside(self, study: WeakErrorStudy, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the errors of both estimators at the horizon, and whether they agree."""
        final = study.at_horizon()
        merged = final[np.isclose(final.lr, self.lr)].merge(rows, on=["order", "observable"], suffixes=("", "_other"))
        return merged.assign(agrees=[_agrees(row) for row in merged.to_dict("records")])


def _agrees(row: dict[Any, Any]) -> str:
    for reason in (row["reason"], row["reason_other"]):
        status = Status(reason)
        if not status.has_interval or status == Status.OUTSIDE_ASYMPTOTICS:
            return f"not known: {reason}"
    halves = (row["high"] - row["low"] + row["high_other"] - row["low_other"]) / 2
    return "yes" if abs(row["error"] - row["error_other"]) <= halves else "no"


def _called(estimator: str) -> str:
    return "the difference of means" if estimator == "difference" else "defects"
