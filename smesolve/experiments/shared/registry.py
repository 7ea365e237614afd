"""The experiments by name.

An experiment is a command by itself (`smesolve compare`) or one of the studies of a command (`smesolve scaling` with
`study: kappa`). Those of the package are found by their files: `experiments/compare.py` holds the command compare, and
`experiments/scaling/kappa.py` holds the study kappa of the command scaling. Users add their own with the decorator
`experiment`. A module is imported only when its experiment is needed, so listing the names is fast.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import smesolve.experiments
from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError, shown
from smesolve.matplotlib_import import import_matplotlib

if TYPE_CHECKING:
    from smesolve.experiments.shared.experiment import Experiment

__all__ = ["EXPERIMENTS", "commands", "default_study", "experiment", "find_experiment", "studies", "summary"]

E = TypeVar("E", bound="type[Experiment[Any]]")

FOLDER = Path(smesolve.experiments.__path__[0])

NO_EXPERIMENTS = ("__pycache__", "landscape_sections", "shared")
"""Folders in `FOLDER` that are not commands."""

EXPERIMENTS: dict[tuple[str, str], type[Experiment[Any]]] = {}
"""Experiments whose modules were imported, by command and study; the study is "" for a command without studies."""


def experiment(command: str, study: str = "") -> Callable[[E], E]:
    """Register an experiment under its command, and under its study if the command has several."""

    def register(kind: E) -> E:
        kind.command, kind.study = command, study
        EXPERIMENTS[command, study] = kind
        return kind

    return register


def commands() -> list[str]:
    """Return the names of all commands."""
    files = [path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")]
    folders = [path.name for path in FOLDER.iterdir() if path.is_dir() and path.name not in NO_EXPERIMENTS]
    return sorted({_words(name) for name in (*files, *folders)} | {command for command, _ in EXPERIMENTS})


def studies(command: str) -> list[str]:
    """Return the names of the studies of a command; none if the command is one experiment."""
    files = {_words(path.stem) for path in (FOLDER / _module(command)).glob("*.py") if not path.stem.startswith("_")}
    return sorted(files | {study for owner, study in EXPERIMENTS if owner == command and study})


def default_study(command: str) -> str:
    """Return the default study of a command, `DEFAULT` of its package; "" if there is none."""
    if not (FOLDER / _module(command)).is_dir():
        return ""
    package = importlib.import_module(f"{smesolve.experiments.__name__}.{_module(command)}")
    return str(getattr(package, "DEFAULT", ""))


def find_experiment(command: str, study: str = "") -> type[Experiment[Any]]:
    """Return the experiment of a command, or of one of its studies.

    Raises:
        SmesolveError: there is no experiment of this name.
    """
    known = studies(command)
    if known and study not in known:
        got = f"got {shown(study)}; {nearest_name(study, known)}" if study else "but is missing"
        raise SmesolveError(f"study must be one of {', '.join(known)}, {got}.")
    if (command, study) not in EXPERIMENTS:
        if command not in commands():
            raise SmesolveError(f"command {command!r} is unknown; {nearest_name(command, commands())}.")
        import_matplotlib()  # before the module imports it without these precautions
        importlib.import_module(".".join([smesolve.experiments.__name__, *_path(command, study)]))
    return EXPERIMENTS[command, study]


def summary(command: str, study: str = "") -> str:
    """Return the first line of the docstring of an experiment, or of a command with several studies."""
    if (command, study) in EXPERIMENTS:
        text = EXPERIMENTS[command, study].__doc__
    else:
        place = FOLDER.joinpath(*_path(command, study))
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) if file.is_file() else None
    return (text or f"The studies {', '.join(studies(command))}.").splitlines()[0]


def _words(module: str) -> str:
    """Return the name of an experiment from the name of its module."""
    return module.replace("_", "-")


def _path(command: str, study: str) -> list[str]:
    """Return the path of modules to an experiment."""
    return [_module(name) for name in (command, study) if name]


def _module(name: str) -> str:
    return name.replace("-", "_")
