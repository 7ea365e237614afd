"""A section of a report: its tables, figures and conclusions, and the format of its numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smesolve.experiments.shared.markdown import picture, table_of
from smesolve.figures import save_figure
from smesolve.result import Result, sentences

__all__ = ["Captioned", "ReportedResult", "Section", "formatted", "interval", "markdown"]


class Captioned(NamedTuple):
    """A figure and its caption."""

    figure: Figure
    caption: str
    """Description of axes, lines and markers, without brackets, which would end a caption in Markdown."""


@dataclass(frozen=True)
class Section:
    """A section of a report; the keys of tables and figures are file names without the ending."""

    title: str
    tables: dict[str, pd.DataFrame]
    figures: dict[str, Captioned]
    text: str
    """The text, in Markdown."""
    conclusion: str
    """Conclusions: a list in Markdown, with an interval in each line."""
    texts: dict[str, str] = field(default_factory=dict)
    """Contents of other files by their full names."""

    def write(self, directory: Path) -> None:
        """Write tables and figures into a directory."""
        for name, table in self.tables.items():
            table.to_csv(directory / f"{name}.csv", index=False)
        for name, captioned in self.figures.items():
            save_figure(captioned.figure, directory, name)
        for name, text in self.texts.items():
            (directory / name).write_text(text, encoding="utf-8")

    @property
    def pictures(self) -> str:
        """The figures in Markdown."""
        return "\n\n".join(picture(captioned.caption, name) for name, captioned in self.figures.items())


class ReportedResult(Result):
    """The result of a study whose summary consists of the conclusions of its report.

    A subclass is a dataclass with a `table`, and defines `conclusion` and `plot`.
    """

    @abstractmethod
    def conclusion(self) -> str:
        """Return the conclusions, as a list in Markdown."""

    def summary(self) -> str:
        """Return the conclusions, one sentence per line."""
        return sentences(self.conclusion())


def interval(row: Mapping[str, Any], name: str, form: str = ".3g") -> str:
    """Return "value [low, high]" from the columns name, name_low, name_high.

    Returns only the value if there is no interval, and "-" if there is no value.
    """
    value, low, high = (float(row.get(name + end, np.nan)) for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "-"
    if not np.isfinite(low) or low == high:
        return format(value, form)
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def formatted(table: pd.DataFrame, columns: Mapping[str, str]) -> str:
    """Return a table in Markdown from the format of each cell by its header, such as "[{low:.2e}, {high:.2e}]".

    Formats are those of `str.format` for the columns of the table; truth values are "yes" and "no".
    """
    rows = [
        {name: _yes_or_no(value) if isinstance(value, bool) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
    return table_of(list(columns), ([form.format(**row) for form in columns.values()] for row in rows))


def markdown(
    table: pd.DataFrame,
    columns: Iterable[str],
    forms: Mapping[str, str] = MappingProxyType({}),
    headers: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a table in Markdown, numbers with their intervals where they have any, None as "not resolved".

    Args:
        table: a column `a` may have its interval in `a_low` and `a_high`.
        columns: columns to show.
        forms: formats of the numbers of a column. Default: ".3g".
        headers: headers of columns that are not shown under their own names.
    """
    shown = list(columns)

    def cell(row: Mapping[str, Any], column: str) -> str:
        value = row[column]
        if value is None:
            return "not resolved"
        if isinstance(value, bool | np.bool_):
            return _yes_or_no(value)
        return interval(row, column, forms.get(column, ".3g")) if isinstance(value, float | np.floating) else str(value)

    rows = table.to_dict("records")
    return table_of([headers.get(one, one) for one in shown], ([cell(row, one) for one in shown] for row in rows))


def _yes_or_no(value: Any) -> str:
    return "yes" if value else "no"
