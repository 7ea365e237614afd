"""Results on disk: a directory that appears whole or not at all, and its manifest."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from smesolve.study.configuration_errors import ConfigError
from smesolve.study.versions import versions

__all__ = ["JOURNAL", "MANIFEST", "PARTIAL_TABLE", "partial_of", "read_manifest", "whole_directory", "write_manifest"]

MANIFEST = "manifest.json"

JOURNAL = "blocks.journal"
"""Every finished block of a study: what --resume and extend go on from."""

PARTIAL_TABLE = "table.partial.csv"
"""What was known when a study was interrupted."""

LOCK = ".lock"


@contextmanager
def whole_directory(
    out: Path,
    overwrite: bool,
    resume: bool = False,
    prepare: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """A directory to write into, `out`.partial, which becomes `out` when the block ends well.

    When it does not, the directory stays if its journal has got new results, and vanishes otherwise. While the block
    runs no other process gets in: a lock of the operating system, which ends with the process however that ends.

    Args:
        out: of the results; what stands there is replaced in the end, if at all.
        overwrite: replace results that are there, and discard an interrupted study.
        resume: go on with an interrupted study where there is one.
        prepare: called with the directory where no interrupted study is there; results are then replaced.

    Raises:
        ConfigError: `out` cannot be made, is a file or holds something; with `overwrite`, something without a manifest;
            there is an interrupted study, or another process works on it.
    """
    _check_free(out, overwrite or prepare is not None)
    partial = partial_of(out)
    missing = [parent for parent in partial.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {str(out)!r} cannot be made ({error.strerror}); name a directory in a place that can be written to."
        ) from None
    lock = FileLock(partial / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"{str(partial)!r} is in use by another process; wait for its end, or name another --out."
        ) from None
    journal, before = partial / JOURNAL, 0
    try:
        there = journal.exists() and not overwrite
        if there and not resume:
            raise ConfigError(
                f"{str(partial)!r} holds an interrupted study; go on with it by --resume, or discard it by --overwrite."
            )
        for path in partial.iterdir():
            if path.name != LOCK and not (there and path.name == JOURNAL):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if prepare and not there:
            prepare(partial)
        before = _size(journal)
        yield partial
        _check_free(out, overwrite or prepare is not None)
        old = partial.with_name(f".{out.name}.old")
        if out.is_dir():
            out.rename(old)
        partial.rename(out.absolute())
        lock.release()
        (out / LOCK).unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        keep = there or _size(journal) > before
        lock.release()
        if not keep:
            shutil.rmtree(partial, ignore_errors=True)
            for parent in missing:
                parent.rmdir()
        raise


def partial_of(out: Path) -> Path:
    """Where results are while they are not whole."""
    return out.absolute().with_name(f"{out.absolute().name}.partial")


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of finished results.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    try:
        return json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{str(directory)!r} has no {MANIFEST} that can be read ({error}); name a directory with finished results."
        ) from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def write_manifest(
    directory: Path, name: str, command: Sequence[str], config: dict[str, Any], seed: int | None, wall_time: float
) -> None:
    """What is needed to repeat a study: configuration, seed, versions, command, threads; and its wall time (s).

    Args:
        directory: where it is written.
        name: of the kind of study, which `command` need not be: "smesolve extend" makes more of any.
        command: arguments of the command line.
        config: of the study.
        seed: its root seed, if it has one.
        wall_time: seconds that this command took.
    """
    import torch  # here, as the command line reads its arguments without it

    manifest = {
        "study": name,
        "command": shlex.join(["smesolve", *command]),
        "config": config,
        "seed": seed,
        "versions": versions(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "wall_time": round(wall_time, 3),
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _check_free(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {str(out)!r} is a file; name a directory.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"--out {str(out)!r} is not empty; name another directory, or replace it by --overwrite.")
    # What to delete is the user's word alone, so only results of this program are.
    if not (out / MANIFEST).is_file():
        raise ConfigError(
            f"--out {str(out)!r} has no {MANIFEST}, so it was not written by smesolve and --overwrite does not replace "
            "it; name another directory."
        )
