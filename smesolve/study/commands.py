"""The commands: what each reads, runs and writes.

Functions import what they need when they are called: torch, sympy and matplotlib take seconds, and --help needs none of
them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from smesolve.sampling.progress import hidden
from smesolve.study.configuration import EXECUTION, GOALS, DeriveConfig, ExtendConfig, StudyConfig
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.matplotlib_import import import_matplotlib
from smesolve.study.output import JOURNAL, PARTIAL_TABLE
from smesolve.study.scaling_configuration import ScalingConfig
from smesolve.study.terminal import complain
from smesolve.version import __version__

if TYPE_CHECKING:
    from smesolve.comparison.weak_error_study import WeakErrorStudy
    from smesolve.problem.problem import Problem

__all__ = ["COMMANDS", "Command", "Origin", "data_digest", "identity"]

SAMPLES = 4096
"""Paths of each ensemble whose values are shown as a distribution."""


class Origin(NamedTuple):
    """What the numbers of a study come from beside its configuration."""

    seed: int | None = None
    """The root seed, if there is one."""
    data: str | None = None
    """Digest of the data and the initial parameters, if there are any."""


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand: its configuration and what it writes."""

    config: type
    run: Callable[[Any, Path], Origin] | None
    """(configuration, directory) -> where the numbers come from; None where another command is run in the end."""
    description: str
    writes: str
    """What is in the directory in the end."""
    example: str
    """Arguments after the command."""
    resumable: bool = False
    """Whether it keeps a journal of its blocks."""


def identity(name: str, config: dict[str, Any], left_out: Sequence[str] = EXECUTION) -> dict[str, Any]:
    """All that the numbers of a study depend on: its command, what of its configuration is not execution, version."""
    read = {key: value for key, value in config.items() if key not in left_out}
    return {"command": name, "config": read, "version": __version__}


def _compare(config: StudyConfig, directory: Path) -> Origin:
    import_matplotlib()
    from smesolve.study.figures import comparison_figure, save_figure
    from smesolve.study.reports import comparison_report

    problem, study, messages = _measure("compare", config, directory, config.curve_times, SAMPLES)
    study.table.to_csv(directory / "table.csv", index=False)
    save_figure(comparison_figure(study), directory, "comparison")
    _write(directory / "report.md", comparison_report(study, config, problem, messages))
    return Origin(config.seed, data_digest(problem, config))


def _weak_error(config: StudyConfig, directory: Path) -> Origin:
    import_matplotlib()
    from smesolve.study.figures import save_figure, weak_error_figure
    from smesolve.study.reports import weak_error_report

    problem, study, messages = _measure("weak-error", config, directory)
    study.table.to_csv(directory / "table.csv", index=False)
    study.fit().to_csv(directory / "fit.csv", index=False)
    save_figure(weak_error_figure(study), directory, "weak_error")
    _write(directory / "report.md", weak_error_report(study, config, problem, messages))
    return Origin(config.seed, data_digest(problem, config))


def _landscape(config: LandscapeConfig, directory: Path) -> Origin:
    import_matplotlib()
    from smesolve.study.landscape_sections import SECTIONS, check_sections, landscape_report
    from smesolve.study.problems import configured_problem

    check_sections(config.sections)
    problem = configured_problem(config)
    sections = {
        name: SECTIONS[name](problem, config) for name in tqdm(config.sections, desc="sections", disable=hidden(None))
    }
    for section in sections.values():
        section.write(directory)
    _write(directory / "report.md", landscape_report(problem, config, sections))
    return Origin(config.seed, data_digest(problem, config))


def _scaling(config: ScalingConfig, directory: Path) -> Origin:
    import_matplotlib()
    from smesolve.study.problems import configured_problem
    from smesolve.study.scaling import STUDIES, scaling_report

    problem = configured_problem(config)
    section = STUDIES[config.study](problem, config)
    section.write(directory)
    _write(directory / "report.md", scaling_report(problem, config, section))
    return Origin(config.seed, data_digest(problem, config))


def _derive(config: DeriveConfig, directory: Path) -> Origin:
    from smesolve.study.article import article
    from smesolve.study.derivation import derive
    from smesolve.study.derivation_report import derivation_report

    derivation = derive(config)
    _write(directory / "equation.tex", article(derivation))
    _write(directory / "report.md", derivation_report(derivation))
    if derivation.module:
        _write(directory / "equation.py", derivation.module)
    return Origin()


def _measure(
    name: str, config: StudyConfig, directory: Path, times: list[float] | None = None, keep: int = 0
) -> tuple[Problem, WeakErrorStudy, list[str]]:
    """The problem, its weak errors, and the warnings that came up; the journal of blocks is beside the directory."""
    from smesolve.comparison.weak_error import weak_error
    from smesolve.comparison.weak_error_study import StudyInterrupted
    from smesolve.sampling.journal import Journal
    from smesolve.study.problems import configured_problem

    problem = configured_problem(config)
    theta0 = problem.initial(config.network.seed)
    study = identity(name, dataclasses.asdict(config), (*EXECUTION, *GOALS))
    study["data"] = data_digest(problem, config)
    partial = directory.parent
    with _collected_warnings() as messages, Journal(partial / JOURNAL, study) as journal:
        try:
            result = weak_error(
                problem,
                theta0,
                lrs=config.lrs,
                horizon=config.horizon,
                orders=config.orders,
                observables=config.observables,
                times=times,
                paths=config.paths,
                rel_tol=config.rel_tol,
                max_paths=config.max_paths,
                scheme=config.scheme,
                dt=config.dt,
                control=config.control,
                seed=config.seed,
                progress=True,
                workers=config.workers,
                journal=journal,
                keep=keep,
                max_memory=config.max_memory,
            )
        except StudyInterrupted as interrupted:
            if len(interrupted.table):
                interrupted.table.to_csv(partial / PARTIAL_TABLE, index=False)
            raise
        finally:
            if not len(journal):
                journal.path.unlink(missing_ok=True)
    return problem, result, messages


def data_digest(problem: Problem, config: Any) -> str:
    """A digest of the data and the initial parameters: results go with them as with the configuration."""
    digest = hashlib.sha256()
    for tensor in (problem.x, problem.y, problem.initial(config.network.seed)):
        array = tensor.cpu().numpy()
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Warnings of this package, each once: on stderr as they come, and in a list for the report."""
    from smesolve.sampling.ensemble import DivergenceWarning
    from smesolve.solver.schemes.scheme import NothingTestedWarning

    messages: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message: Warning, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, (DivergenceWarning, NothingTestedWarning)):
                show(message, category, *where, **more)
            elif str(message) not in messages:
                messages.append(str(message))
                complain(f"smesolve: warning: {message}")

        for category in (DivergenceWarning, NothingTestedWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = collect
        yield messages


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


REPORTED = "report.html (one file to send), report.md, manifest.json (configuration, seed, versions)"
MEASURED = f"{REPORTED},\n  tables (CSV), figures (PNG and PDF)"

COMMANDS = {
    "compare": Command(
        StudyConfig,
        _compare,
        "Dropout beside its modified equation: curves, distributions, errors.",
        f"{MEASURED}, blocks.journal (finished blocks of paths, for extend)",
        "examples/digits.yaml --lrs '[0.1]' --out results/digits",
        resumable=True,
    ),
    "weak-error": Command(
        StudyConfig,
        _weak_error,
        "Certify the weak order, with an error budget.",
        f"{MEASURED}, fit.csv (slopes and constants with intervals), blocks.journal",
        "examples/weak_order.yaml --rel_tol 0.1 --out results/weak_order",
        resumable=True,
    ),
    "scaling": Command(
        ScalingConfig,
        _scaling,
        "Where the equation holds, where it breaks, what may be rescaled.",
        MEASURED,
        "examples/scaling_kappa.yaml --out results/scaling_kappa",
    ),
    "landscape": Command(
        LandscapeConfig,
        _landscape,
        "Hessian, noise and flatness of trained networks.",
        MEASURED,
        "examples/landscape_alignment.yaml --runs 4 --out results/alignment",
    ),
    "derive": Command(
        DeriveConfig,
        _derive,
        "Derive the modified equation of a random iteration and prove its order.",
        f"{REPORTED},\n  equation.tex (LaTeX article), equation.py (torch module)",
        "--iteration dropout --width 2 --order 2 --out results/derivation",
    ),
    "extend": Command(
        ExtendConfig,
        None,
        "Add paths to finished results of compare or weak-error: DIR --paths N.",
        "what the study wrote, with more paths and shorter intervals, in its place",
        "results/digits --paths 100000",
        resumable=True,
    ),
}
