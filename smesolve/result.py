"""The base class of results: a summary, a table for a notebook or an article, and a figure."""

from __future__ import annotations

import html
import math
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Result", "sentences"]

MOST_ROWS = 60
"""Rows that are printed; `table` has all of them."""

LATEX_ESCAPES = {character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


class Result(ABC):
    """The result of a study: a tidy table, with a summary in words, a LaTeX table and a figure."""

    table: pd.DataFrame

    @abstractmethod
    def summary(self) -> str:
        """Return the findings, one sentence per line."""

    @abstractmethod
    def plot(self) -> Figure:
        """Return the figure of the result, a `matplotlib.figure.Figure`; its `savefig` writes it into a file."""

    def shown(self) -> pd.DataFrame:
        """Return the rows and columns of `table` that are printed, the most important ones first. Default: all."""
        return self.table

    def to_latex(self) -> str:
        """Return all rows of `shown` as a LaTeX table with the rules of the package booktabs."""
        rows = self.shown()
        aligned = "".join("r" if pd.api.types.is_numeric_dtype(rows[name]) else "l" for name in rows)
        lines = [[_escaped(str(name)) for name in rows]]
        lines += [[_latex(value) for value in row] for row in rows.itertuples(index=False)]
        head, *body = (" & ".join(line) + r" \\" for line in lines)
        rules = [rf"\begin{{tabular}}{{{aligned}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
        return "\n".join([*rules, r"\end{tabular}"])

    def __repr__(self) -> str:
        return "\n".join([self.summary(), self._printed().to_string(index=False), *self._left_out()])

    def _repr_html_(self) -> str:
        words = "".join(f"<p>{html.escape(line)}</p>" for line in (*self.summary().splitlines(), *self._left_out()))
        return f"{words}{self._printed().to_html(index=False)}"

    def _printed(self) -> pd.DataFrame:
        """Return the rows that are printed, numbers with four digits."""
        rows = self.shown().head(MOST_ROWS)
        return pd.DataFrame({name: [_short(value) for value in column] for name, column in rows.items()})

    def _left_out(self) -> list[str]:
        count = len(self.shown())
        return [f"The first {MOST_ROWS} of {count} rows; `table` has all of them."] if count > MOST_ROWS else []


def sentences(conclusion: str) -> str:
    """Return the items of a list in Markdown as plain lines."""
    lines = (line.removeprefix("- ") for line in conclusion.splitlines() if line)
    return html.unescape(re.sub(r"\\([^\w\s]|_)", r"\1", "\n".join(lines)))


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _latex(value: Any) -> str:
    """Return a cell in LaTeX, a number as mathematics."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return _escaped(str(value))
    if not math.isfinite(value):
        return "--" if math.isnan(value) else rf"${'-' if value < 0 else ''}\infty$"
    digits, _, exponent = f"{value:.4g}".partition("e")
    return f"${digits}$" if not exponent else rf"${digits} \times 10^{{{int(exponent)}}}$"


def _escaped(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)
