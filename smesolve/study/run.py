"""Run an experiment into a directory: its cells, its tables and figures, its report."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smesolve.comparison.weak_error_study import StudyInterrupted
from smesolve.experiments.shared.cell_store import CellStore
from smesolve.experiments.shared.cells import run_cells
from smesolve.experiments.shared.experiment import Experiment
from smesolve.experiments.shared.settings import EXECUTION
from smesolve.problem.kernels.library import kernels_in_use
from smesolve.problem.observables import ObservableWarning
from smesolve.sampling.ensemble import DivergenceWarning
from smesolve.sampling.journal import Journal
from smesolve.sampling.progress import Progress
from smesolve.solver.schemes.scheme import NothingTestedWarning
from smesolve.study.output import JOURNAL, PARTIAL_TABLE
from smesolve.study.terminal import complain
from smesolve.version import __version__

__all__ = ["configuration", "identity", "run"]

REPORT_SHARE = 0.02
"""Work of figures and report, in units of that of all cells: what the progress bar has left for them."""

REPORTED = (DivergenceWarning, NothingTestedWarning, ObservableWarning)
"""Warnings that are part of the report."""


def configuration(experiment: Experiment[Any]) -> dict[str, Any]:
    """Return the configuration of an experiment, as in a file."""
    study = {"study": experiment.study} if experiment.study else {}
    return study | dataclasses.asdict(experiment.settings)


def identity(command: str, config: Mapping[str, Any], left_out: Sequence[str] = ()) -> dict[str, Any]:
    """Return everything on which the results depend: command, settings except for execution, and version."""
    read = {key: value for key, value in config.items() if key not in (*EXECUTION, *left_out)}
    return {"command": command, "config": read, "version": __version__}


def run(experiment: Experiment[Any], directory: Path) -> None:
    """Run an experiment, and write its tables, figures and report.md into a directory.

    The journal, in the parent folder, keeps the finished work if the experiment is interrupted.

    Raises:
        JournalError: the journal belongs to another experiment, or is damaged.
    """
    study = identity(experiment.command, configuration(experiment), experiment.goals)
    study["data"], study["kernels"] = experiment.data_digest(), kernels_in_use()
    if (code := experiment.code_digest()) is not None:
        study["code"] = code
    above = directory.parent
    with _reported_warnings() as messages, Journal(above / JOURNAL, study) as experiment.journal:
        try:
            with Progress(True, late=True) as bar:
                _run_and_report(experiment, experiment.journal, directory, messages, bar)
        except StudyInterrupted as interrupted:
            if len(interrupted.table):
                interrupted.table.to_csv(above / PARTIAL_TABLE, index=False)
            raise
        finally:
            if not len(experiment.journal):
                experiment.journal.path.unlink(missing_ok=True)


def _run_and_report(
    experiment: Experiment[Any], journal: Journal, directory: Path, messages: list[str], bar: Progress
) -> None:
    """Run the cells of an experiment, and write its tables, figures and report.md, all of it counted by one bar."""
    bar.describe("preparation")
    cells = experiment.cells()
    report = REPORT_SHARE * sum(cell.cost for cell in cells)
    bar.add(report)
    bar.describe("")
    results = run_cells(cells, CellStore(journal))
    bar.describe("figures and report")  # fits, formulas and figures take seconds as well
    with bar.part(report):
        sections = experiment.summarise(results)
        for section in sections:
            section.write(directory)
        (directory / "report.md").write_text(experiment.report(sections, messages), encoding="utf-8")


@contextmanager
def _reported_warnings() -> Iterator[list[str]]:
    """Print each of the `REPORTED` warnings once on stderr, and collect them for the report."""
    messages: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, REPORTED):
                show(message, category, *where, **more)
            elif str(message) not in messages:
                messages.append(str(message))
                complain(f"smesolve: warning: {message}")

        for category in REPORTED:
            warnings.simplefilter("always", category)
        warnings.showwarning = collect
        yield messages
