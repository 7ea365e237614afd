"""Results read back from disk: settings, tables, paths of figures, and for weak errors the study itself."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from smesolve.comparison.weak_error import predicted_constants
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, invalid
from smesolve.experiments.shared.markdown import conclusion_of
from smesolve.experiments.shared.weak_error_experiment import WeakErrorExperiment
from smesolve.result import sentences
from smesolve.study.extension import experiment_of, settings_of
from smesolve.study.manifest import changed_file, finished_manifest
from smesolve.study.output import given_directory

__all__ = ["SavedStudy", "load"]

PICTURES = (".png", ".pdf")

REPORT = "report.md"

WORDS = ("reason", "left_out")
"""Columns of strings, which may all be empty."""


@dataclass(frozen=True, repr=False)
class SavedStudy:
    """The results of a command, as they are on disk."""

    directory: Path
    command: str
    """Command, such as "weak-error"; for commands with several studies `settings` names the study."""
    settings: Mapping[str, Any]
    """The configuration."""
    tables: Mapping[str, pd.DataFrame]
    """Tables by the names of their files, without the ending."""
    figures: Mapping[str, Path]
    """Paths of the figures by the names of their files, with the ending."""
    report: Path
    """Path of report.html."""
    conclusion: str
    """Conclusion of the report, in Markdown."""
    versions: Mapping[str, str]
    """Versions of smesolve and of the libraries that made the results."""

    @property
    def table(self) -> pd.DataFrame:
        """The main table of the study."""
        if not self.tables:
            raise SmesolveError(f"results in {str(self.directory)!r} have no table; read {str(self.report)!r}.")
        return self.tables.get("table", next(iter(self.tables.values())))

    def summary(self) -> str:
        """Return the conclusions, one sentence per line."""
        return sentences(self.conclusion)

    def weak_error(self) -> WeakErrorStudy:
        """Return the study of `compare` or `weak-error`, with its fit and its figure, but without kept paths.

        Predicted constants are computed on first use, from the data that the configuration names.

        Raises:
            SmesolveError: results of another command, or settings that cannot be read.
        """
        kind = experiment_of(self.command, self.settings)
        if kind is None or not issubclass(kind, WeakErrorExperiment):
            raise SmesolveError(
                f"results in {str(self.directory)!r} are those of {self.command}, not of compare or weak-error; use "
                "`tables`."
            )

        def predicted() -> pd.DataFrame:
            experiment = kind(settings_of(kind, self.settings, self.directory))
            return predicted_constants(experiment.design)()

        return WeakErrorStudy(self.table, {}, float(self.settings["horizon"]), predicted)

    def __repr__(self) -> str:
        return f"{self._head()}\n{self.summary()}"

    def _repr_html_(self) -> str:
        lines = [self._head(), *self.summary().splitlines()]
        return "".join(f"<p>{html.escape(line)}</p>" for line in lines)

    def _head(self) -> str:
        parts = [f"tables {', '.join(self.tables)}"] if self.tables else []
        parts += [f"figures {', '.join(self.figures)}"] if self.figures else []
        return f"SavedStudy of {self.command} in {str(self.directory)!r}: {'; '.join(parts) or 'files only'}."


@entry_point
def load(directory: str | Path) -> SavedStudy:
    """Read results of the command line.

    Args:
        directory: the directory named by `--out`.

    Raises:
        SmesolveError: the directory holds no results of smesolve, or a table has changed since it was written.
    """
    if not isinstance(directory, (str, Path)):
        raise invalid("directory", "be the path of a directory", directory)
    folder = given_directory("directory", str(directory))
    manifest = finished_manifest(folder)
    files = manifest["files"]
    tables = sorted(name for name in files if name.endswith(".csv"))
    read = {name: files.get(name, "") for name in (*tables, REPORT)}
    lost = changed_file(folder, read) or next((name for name in read if not (folder / name).is_file()), None)
    if lost is not None:
        raise SmesolveError(
            f"{lost!r} in {str(folder)!r} is not there, or not as smesolve wrote it; restore it, or run the study anew."
        )
    return SavedStudy(
        directory=folder,
        command=manifest["study"],
        settings=manifest["config"],
        tables={name.removesuffix(".csv"): _table(folder / name) for name in tables},
        figures={name: folder / name for name in sorted(files) if name.endswith(PICTURES)},
        report=folder / "report.html",
        conclusion=conclusion_of((folder / REPORT).read_text(encoding="utf-8")),
        versions=manifest["versions"],
    )


def _table(path: Path) -> pd.DataFrame:
    """Return a table with each float exact to the last digit, which pandas' own parser does not guarantee."""
    texts = pd.read_csv(path, dtype=str, keep_default_na=False)
    return pd.DataFrame({name: list(column) if name in WORDS else _values(column) for name, column in texts.items()})


def _values(texts: pd.Series) -> pd.Series:
    """Return a column of booleans, integers, or floats with NaN for empty cells; otherwise of strings."""
    if len(texts) and texts.isin(["True", "False"]).all():
        return texts == "True"
    for kind in (int, float):
        try:
            return pd.Series([kind(text or "nan") for text in texts], dtype=kind, index=texts.index)
        except ValueError:
            continue
    return texts
