"""`smesolve sweep`: a command for every combination of values of some of its keys, and one joined table.

The file is a configuration of the command with two more keys:

    command: weak-error                 # the command
    sweep:                              # lists of values; every combination is a cell
      keep_prob: [0.8, 0.5]
      network.width: [16, 32]

Each cell is a study of its own in DIR/cells, with its report and its manifest; an interrupted cell can be resumed.
Shards share DIR: shard i of n runs every n-th cell, from the i-th on, and the last one to finish joins the tables.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock

from smesolve.errors import SmesolveError, shown
from smesolve.experiments.shared.markdown import conclusion_of, counted, join, plain, table_of
from smesolve.sampling.study_difference import first_difference
from smesolve.study.command_arguments import MODULE, with_module
from smesolve.study.html_report import html_report
from smesolve.study.manifest import MANIFEST, finished_manifest, seal, sealed, write_manifest
from smesolve.study.yaml_reader import read_file
from smesolve.version import __version__

__all__ = ["Sweep", "SweepCell", "begin_sweep", "join_sweep", "read_sweep", "shard_of"]

CELLS = "cells"
"""Folder of the cells in DIR."""

RECORD = "sweep.json"
"""Description of the sweep in DIR, with which shards and --resume compare their own."""

LOCK = ".sweep.lock"

MOST_CELLS = 10_000
"""Largest number of cells; each is a study with a directory of its own."""


@dataclass(frozen=True)
class SweepCell:
    """One combination of values."""

    values: dict[str, Any]
    """Swept values by key."""
    directory: Path
    """Directory of the results."""
    arguments: list[str]
    """Arguments of the command line, without `--resume`."""

    @property
    def finished(self) -> bool:
        """Whether the results are whole."""
        return sealed(self.directory)


@dataclass(frozen=True)
class Sweep:
    """A sweep as its configuration describes it."""

    command: str
    """The command of the cells."""
    settings: dict[str, Any]
    """The keys that are the same in all cells, nested as in a file."""
    values: dict[str, list[Any]]
    """Lists of values of the swept keys, such as "network.width"."""

    def cells(self, out: Path) -> list[SweepCell]:
        """Return the cells; the values of the last key change fastest."""
        cells = []
        for number, chosen in enumerate(product(*self.values.values()), start=1):
            values = dict(zip(self.values, chosen, strict=True))
            directory = out / CELLS / _name(number, values)
            options = {**dict(_flat(self.settings)), **values}
            arguments = [f"--{key}={_text(value)}" for key, value in options.items()]
            cells.append(SweepCell(values, directory, [self.command, *arguments, "--out", str(directory)]))
        return cells

    @property
    def networks(self) -> list[Any]:
        """The networks of all cells, each as in a file."""
        whole = [self.settings.get("network"), *self.values.get("network", [])]
        modules = [self.settings.get(MODULE), *self.values.get(MODULE, [])]
        return [with_module({"network": value})["network"] for value in whole] + [{"module": one} for one in modules]

    @property
    def record(self) -> dict[str, Any]:
        """Everything on which the cells depend."""
        return {"command": self.command, "config": self.settings, "sweep": self.values, "version": __version__}


def read_sweep(path: str, known: Sequence[str]) -> Sweep:
    """Return the sweep of a configuration file.

    Args:
        path: path of the file.
        known: commands that a sweep can run.

    Raises:
        SmesolveError: "command" or "sweep" is missing or invalid, or a swept key also has a single value.
    """
    content = read_file(path)
    command, lists = content.pop("command", None), content.pop("sweep", None)
    if command not in known:
        raise SmesolveError(f"command must be one of {', '.join(known)}, got {shown(command)}; set it in {path!r}.")
    if not isinstance(lists, dict) or not lists:
        raise SmesolveError(
            f"sweep must be a mapping from keys to lists of values, such as keep_prob: [0.8, 0.5], got {shown(lists)}."
        )
    fixed = dict(_flat(content))
    for key, values in lists.items():
        if not isinstance(values, list) or not values:
            raise SmesolveError(f"sweep.{key} must be a list of values, got {shown(values)}.")
        if len({_text(value) for value in values}) < len(values):
            raise SmesolveError(f"sweep.{key} must hold different values, got {shown(values)}; keep one of each.")
        twice = next((k for k in fixed if k == key or k.startswith(f"{key}.") or key.startswith(f"{k}.")), None)
        if twice is not None:
            raise SmesolveError(f"key {twice!r} stands beside sweep.{key}; keep one of the two.")
    count = math.prod(map(len, lists.values()))
    if count > MOST_CELLS:
        raise SmesolveError(f"sweep has {count} cells, more than {MOST_CELLS}; give shorter lists.")
    return Sweep(command, content, lists)


def shard_of(text: str | None) -> tuple[int, int]:
    """Return (i, n) for the shard "i/n". Default: (1, 1), the only shard."""
    if text is None:
        return 1, 1
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise SmesolveError(f"--shard must be i/n, the i-th of n shards such as 1/4, got {shown(text)}.")
    return int(match[1]), int(match[2])


# --- cells -------------------------------------------------------------------------------------------------------


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested keys with their names on the command line, such as "data.name"."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text(value: Any) -> str:
    """Return a value as the command line reads it."""
    return value if isinstance(value, str) else json.dumps(value)


def _name(number: int, values: Mapping[str, Any]) -> str:
    """Return the name of a cell's directory: its number, which makes it unique, and its values."""
    words = "_".join(f"{key}={_text(value)}" for key, value in values.items())
    return f"{number:04d}_{re.sub(r'[^A-Za-z0-9_.=+-]+', '-', words)}"[:100]


# --- results ------------------------------------------------------------------------------------------------------


def begin_sweep(sweep: Sweep, out: Path, resume: bool) -> None:
    """Create the directory of the sweep, or continue in it.

    Args:
        sweep: the sweep.
        out: the directory.
        resume: continue if the directory holds the same sweep.

    Raises:
        SmesolveError: the directory holds other files, or the same sweep and `resume` is false.
    """
    record, lock = out / RECORD, out / LOCK
    if out.exists() and not out.is_dir():
        raise SmesolveError(f"--out {str(out)!r} is a file; name a directory.")
    if out.is_dir() and any(path.name not in (RECORD, LOCK, CELLS) for path in out.iterdir()) and not record.is_file():
        raise SmesolveError(f"--out {str(out)!r} is not empty; name another directory.")
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # shards may begin at the same time
        if not record.is_file():
            (out / CELLS).mkdir(exist_ok=True)
            if any((out / CELLS).iterdir()):
                raise SmesolveError(f"{str(out / CELLS)!r} is not of a sweep; name another directory by --out.")
            new = out / f"{LOCK}.new"
            new.write_text(json.dumps(sweep.record, indent=2) + "\n", encoding="utf-8")
            os.replace(new, record)
            return
    try:
        there = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise SmesolveError(f"{str(record)!r} is damaged; restore it from a copy, or name another directory.")
    difference = first_difference(there, json.loads(json.dumps(sweep.record)))
    if difference:
        raise SmesolveError(f"--out {str(out)!r} holds another sweep: {difference}; name another directory.")
    if not resume:
        raise SmesolveError(f"--out {str(out)!r} holds this sweep already; continue it with --resume.")


def join_sweep(sweep: Sweep, out: Path, argv: Sequence[str], elapsed: float) -> bool:
    """Join the tables and conclusions of all cells if all are finished, and return whether they are.

    Args:
        sweep: the sweep.
        out: directory of the sweep.
        argv: arguments of the command line, for the manifest.
        elapsed: seconds that this process took.
    """
    cells = sweep.cells(out)
    with FileLock(out / LOCK):
        if not all(cell.finished for cell in cells):
            return False
        with tempfile.TemporaryDirectory(prefix=".joined-", dir=out) as folder:
            work = Path(folder)
            _write_joined(sweep, cells, work)
            config = {"command": sweep.command, **sweep.settings, "sweep": sweep.values}
            write_manifest(work, "sweep", argv, config, None, elapsed)
            (work / "report.html").write_text(html_report(work), encoding="utf-8")
            seal(work)
            names = sorted((path.name for path in work.iterdir()), key=lambda name: name == MANIFEST)
            for name in names:  # the manifest last: it marks the results as whole
                os.replace(work / name, out / name)
    return True


def _write_joined(sweep: Sweep, cells: Sequence[SweepCell], work: Path) -> None:
    """Write the joined tables and the report."""
    tables = sorted(
        {name for cell in cells for name in finished_manifest(cell.directory)["files"] if name.endswith(".csv")}
    )
    for name in tables:
        with (work / name).open("w", newline="", encoding="utf-8") as file:
            _write_table(cells, name, file)
    rows = [[*map(_text, cell.values.values()), f"{CELLS}/{cell.directory.name}"] for cell in cells]
    reports = [(cell.directory / "report.md").read_text(encoding="utf-8") for cell in cells]
    conclusions = [
        join(f"### {plain(cell.directory.name)}", conclusion_of(report)).strip()
        for cell, report in zip(cells, reports, strict=True)
    ]
    text = join(
        f"# Sweep of {sweep.command}",
        f"{counted(len(cells), 'cell')}, one for every combination of the values of "
        f"{', '.join(map(plain, sweep.values))}. Each is a study of its own, with its report.",
        table_of([*sweep.values, "directory"], rows),
        "## Conclusions",
        *conclusions,
        "## Files",
        ", ".join(f"`{name}`" for name in tables) + ": the tables of all cells, with the values of their keys in "
        f"the first columns; `{MANIFEST}`: configuration and versions.",
    )
    (work / "report.md").write_text(text, encoding="utf-8")


def _write_table(cells: Sequence[SweepCell], name: str, file: Any) -> None:
    """Write a table of all cells with unchanged digits and the swept values in the first columns."""
    tables = []
    for cell in cells:
        path = cell.directory / name
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as source:
                header, *rows = csv.reader(source)
            tables.append((cell, header, rows))
    columns = list(dict.fromkeys(column for _, header, _ in tables for column in header))
    heads = {key: f"sweep.{key}" if key in columns else key for key in cells[0].values}
    writer = csv.DictWriter(file, [*heads.values(), *columns], restval="")
    writer.writeheader()
    for cell, header, rows in tables:
        first = {heads[key]: _text(value) for key, value in cell.values.items()}
        writer.writerows(first | dict(zip(header, row, strict=True)) for row in rows)
