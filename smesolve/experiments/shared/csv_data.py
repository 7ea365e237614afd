"""Inputs and targets from a .csv file with numbers in named columns."""

from __future__ import annotations

import codecs
import re
from collections import Counter

import numpy as np
import pandas as pd

from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError, shown

__all__ = ["read_csv"]

SEPARATORS = ",;\t"
"""Separators of columns; the separator of a file is the one that occurs most often in its header."""

NUMBER = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)

MISSING = ("", "na", "n/a", "nan", "null", "none", "inf", "-inf", "+inf", "infinity", "-infinity", "?", "-")
"""Cells, in lower case, that hold no number."""

EXACT = 2**53
"""float64 rounds integers of at least this size."""


def read_csv(path: str, target: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, d) and targets (n, o), both float64.

    Args:
        path: path of the file, in UTF-8, or in UTF-16 with a byte order mark.
        target: column of the only target. Default: targets are the columns whose names begin with y, and inputs the
            columns whose names begin with x.

    Raises:
        SmesolveError: no header, missing or repeated column names, or cells that are not numbers.
    """
    origin = f"data.name={path!r}"
    table = _cells(path, origin)
    names = [str(name).strip() for name in table.iloc[0]]
    _check_names(names, origin)
    inputs, targets = _columns(names, target, origin)
    cells = table.iloc[1:]
    if cells.empty:
        raise SmesolveError(f"{origin} holds no sample under its header; give at least one row.")
    numbers = [_numbers(names[column], cells[column], origin) for column in range(len(names))]
    x, y = (np.column_stack([numbers[column] for column in part]) for part in (inputs, targets))
    return x, y


def _cells(path: str, origin: str) -> pd.DataFrame:
    """Return all cells as strings, header first."""
    with open(path, "rb") as file:
        start = file.read(4)
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        with open(path, encoding=encoding, newline="") as file:
            header = file.readline()
            if "\0" in header:
                raise SmesolveError(f"{origin} is not text; give a table of numbers with a header.")
            separator = max(SEPARATORS, key=header.count)
            file.seek(0)
            return pd.read_csv(
                file, sep=separator, header=None, dtype=str, na_filter=False, index_col=False, skipinitialspace=True
            )
    except UnicodeError:
        raise SmesolveError(f"{origin} is not UTF-8 text; save it as UTF-8.") from None
    except pd.errors.EmptyDataError:
        raise SmesolveError(f"{origin} is empty; give a table of numbers with a header.") from None
    except pd.errors.ParserError as error:
        reason = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
        raise SmesolveError(
            f"{origin} has rows that do not fit its header ({reason}); give every row one cell per column."
        ) from None


def _check_names(names: list[str], origin: str) -> None:
    if all(map(NUMBER.fullmatch, names)) and names != [str(k) for k in range(len(names))]:
        raise SmesolveError(
            f"{origin} begins with the numbers {', '.join(names[:3])}; give a first line of column names."
        )
    for position, name in enumerate(names):
        if not name or re.fullmatch(r"Unnamed: \d+", name):
            raise SmesolveError(
                f"column {position + 1} of {origin} has no name, like the row numbers that pandas writes; leave them "
                "out by to_csv(path, index=False), or name the column."
            )
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise SmesolveError(f"{origin} has {count} columns with the name {name!r}; give each a name of its own.")


def _columns(names: list[str], target: str | None, origin: str) -> tuple[list[int], list[int]]:
    """Return the positions of the inputs, and of the targets."""
    if target is not None:
        if target.strip() not in names:
            raise SmesolveError(f"data.target={target!r} is no column of {origin}; {nearest_name(target, names)}.")
        targets = [names.index(target.strip())]
        inputs = [column for column in range(len(names)) if column not in targets]
        if not inputs:
            raise SmesolveError(f"{origin} has the column {names[0]!r} only, and no inputs; add columns of inputs.")
        return inputs, targets
    inputs, targets = ([column for column, name in enumerate(names) if name.startswith(start)] for start in "xy")
    for start, part in (("x", inputs), ("y", targets)):
        if not part:
            raise SmesolveError(
                f"{origin} has no column that begins with {start!r}; name inputs x1, x2, ... and outputs y1, y2, ..., "
                "or name the only output in data.target."
            )
    others = [name for name in names if not name.startswith(("x", "y"))]
    if others:
        raise SmesolveError(
            f"{origin} has the column {others[0]!r}, which begins with neither x nor y; rename it, leave it out of the "
            "file, or name the only output in data.target."
        )
    return inputs, targets


def _numbers(name: str, cells: pd.Series, origin: str) -> np.ndarray:
    """Return a column as float64."""
    fits = cells.str.fullmatch(NUMBER)
    if not fits.all():
        row = int(np.flatnonzero(~fits.to_numpy(dtype=bool))[0])
        cell = str(cells.iloc[row])
        where = f"column {name!r} of {origin} in row {row + 1} under the header"
        if cell.strip().lower() in MISSING:
            raise SmesolveError(f"{where} holds no number ({shown(cell)}); remove such rows, or fill them in.")
        raise SmesolveError(
            f"{where} is {shown(cell)}; write decimal numbers such as 1234.5, without units or separators."
        )
    numbers: np.ndarray = cells.to_numpy(dtype=str).astype(np.float64)
    for large in np.flatnonzero(np.abs(numbers) >= EXACT):
        digits = cells.iloc[large].strip()
        if digits.lstrip("+-").isdigit() and not np.isinf(numbers[large]) and int(digits) != int(numbers[large]):
            raise SmesolveError(
                f"column {name!r} of {origin} holds {digits}, which float64 rounds; scale it, or leave it out where it "
                "is an identifier."
            )
    return numbers
