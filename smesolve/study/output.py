"""Results on disk: they appear whole or not at all, and files that smesolve did not write are not touched.

Results are written to the folder `WORK` of DIR.partial, and move to DIR when they are whole: by one rename if DIR does
not exist, and file by file otherwise, so that DIR remains the same folder and keeps its other files. The manifest is
sealed before the move begins, so the next command on DIR completes an interrupted move.

DIR.partial itself holds the journal and the lock. A symbolic link is followed first: DIR is where it points.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from smesolve.errors import SmesolveError
from smesolve.sampling.record_file import is_journal
from smesolve.study.manifest import MANIFEST, changed_file, finished_manifest, seal, sealed

__all__ = [
    "JOURNAL",
    "PARTIAL_TABLE",
    "WORK",
    "finish_move",
    "given_directory",
    "partial_of",
    "whole_directory",
]

JOURNAL = "blocks.journal"
"""The finished cells or blocks of a study, from which --resume and extend continue."""

PARTIAL_TABLE = "table.partial.csv"
"""The results so far of an interrupted study."""

WORK = ".smesolve"
"""Folder in DIR.partial where results are written. It holds only files of smesolve."""

LOCK = ".lock"


def given_directory(option: str, text: str) -> Path:
    """Return the directory that an option names; a leading tilde is the home directory.

    Raises:
        SmesolveError: it does not name a directory.
    """
    if not text or "\0" in text:
        raise SmesolveError(f"{option} must be the path of a directory, got {text!r}.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise SmesolveError(
            f"{option} {text!r} names a home directory that is not known; write the path in full."
        ) from None


def partial_of(out: Path) -> Path:
    """Return the directory of unfinished results.

    Raises:
        SmesolveError: `out` is a loop of symbolic links, or the root of a file system.
    """
    real = _real(out)
    return real.with_name(f"{real.name}.partial")


@contextmanager
def whole_directory(
    out: Path,
    overwrite: bool,
    resume: bool = False,
    prepare: Callable[[Path], None] | None = None,
    keep_journal: bool = False,
) -> Iterator[Path]:
    """Yield a directory for results, which move to `out` when the block ends without an error.

    The block writes the manifest.

    If the block raises, `out`.partial stays if its journal has new results, and is removed otherwise. A file lock keeps
    other processes out while the block runs; it ends with the process.

    Args:
        out: directory of the results.
        overwrite: replace existing results, and discard an interrupted study.
        resume: continue an interrupted study if there is one.
        prepare: called with the directory if there is no interrupted study. It writes the journal from which the study
            continues; existing results are then replaced.
        keep_journal: move the journal to `out` with the results. Otherwise it is removed after the move.

    Raises:
        SmesolveError: `out` cannot be created or written to, is a file, or is not empty; with `overwrite`, it holds
            files that smesolve did not write or that have changed; there is an interrupted study, or another process
            works on it.
    """
    with _refused(out):
        real, partial = _real(out), partial_of(out)
        if not partial.exists():
            _check_free(out, overwrite or prepare is not None)
        missing = [parent for parent in (partial, *partial.parents) if not parent.exists()]
        lock = _locked(partial)
    journal, before, there = partial / JOURNAL, 0, False
    try:
        with _refused(out):
            _complete(real, partial)
            _check_free(out, overwrite or prepare is not None)
            there = journal.exists() and not overwrite
            if there and not resume:
                raise SmesolveError(
                    f"{str(partial)!r} holds an interrupted study; go on with it by --resume, or discard it by "
                    "--overwrite."
                )
            if journal.exists():
                (partial / PARTIAL_TABLE).unlink(missing_ok=True)
            if not there:
                journal.unlink(missing_ok=True)
            (partial / WORK).mkdir()
            if prepare and not there:
                prepare(partial / WORK)
                os.replace(partial / WORK / JOURNAL, journal)
        before = _size(journal)
        yield partial / WORK
        if keep_journal and journal.exists():
            os.replace(journal, partial / WORK / JOURNAL)
        seal(partial / WORK)
        _move(partial / WORK, real)
        _remove(partial, lock)
    except BaseException:
        if sealed(partial / WORK):
            lock.release()
        elif there or _size(journal) > before or (partial / WORK / JOURNAL).exists():
            with suppress(OSError):
                _put_back(partial)
            lock.release()
        else:
            _remove(partial, lock)
            for path in missing[1:]:
                with suppress(OSError):  # another process has put files into it
                    path.rmdir()
        raise


def finish_move(out: Path) -> bool:
    """Complete the move of whole results if a command was interrupted in it, and return whether it was.

    Raises:
        SmesolveError: other files are in the way.
    """
    real, partial = _real(out), partial_of(out)
    if not sealed(partial / WORK):
        return False
    with _refused(out):
        lock = _locked(partial)
        try:
            _complete(real, partial)
        except BaseException:
            lock.release()
            raise
        _remove(partial, lock)
    return True


# --- before a study ------------------------------------------------------------------------------------------------


def _real(out: Path) -> Path:
    """Return the path with all symbolic links resolved."""
    try:
        real = Path(os.path.realpath(out))
        loop = real.is_symlink()
    except OSError as error:  # the working directory was removed, or a name is too long
        raise SmesolveError(f"--out {str(out)!r} cannot be found ({error.strerror}); name another directory.") from None
    if loop:
        raise SmesolveError(f"--out {str(out)!r} is a loop of symbolic links; name a directory.")
    if not real.name:
        raise SmesolveError(f"--out {str(out)!r} is the root of a file system; name a directory in it.")
    return real


@contextmanager
def _refused(out: Path) -> Iterator[None]:
    """Turn errors of the operating system into errors of one sentence."""
    try:
        yield
    except NotImplementedError:
        raise SmesolveError(
            f"--out {str(out)!r} is on a file system without file locks; name a directory on another one."
        ) from None
    except OSError as error:
        remedy = "a directory in a place that can be written to"
        if error.errno == errno.ENAMETOOLONG:
            remedy = "a directory with a shorter path"
        raise SmesolveError(f"--out {str(out)!r} cannot be used ({error.strerror or error}); name {remedy}.") from None


def _check_free(out: Path, replace: bool) -> None:
    """Refuse a directory into which results cannot move."""
    real = _real(out)
    if real.exists() and not real.is_dir():
        raise SmesolveError(f"--out {str(out)!r} is a file; name a directory.")
    if not real.is_dir():
        return
    if any(real.iterdir()):
        if not replace:
            raise SmesolveError(
                f"--out {str(out)!r} is not empty; name another directory, or replace it by --overwrite."
            )
        # Only results of this program are replaced: the user decides about other files.
        if not (real / MANIFEST).is_file():
            raise SmesolveError(
                f"--out {str(out)!r} has no {MANIFEST}, so it was not written by smesolve and is not replaced; name "
                "another directory."
            )
        files = finished_manifest(real)["files"]
        changed = changed_file(real, {name: digest for name, digest in files.items() if name != JOURNAL})
        if changed:
            raise SmesolveError(
                f"{changed!r} in {str(out)!r} has changed since smesolve wrote it, and would be replaced; move it away."
            )
    if real.stat().st_dev != real.parent.stat().st_dev:
        raise SmesolveError(
            f"--out {str(out)!r} is the root of a mounted file system, and results move there from beside it; name a "
            "directory in it."
        )
    with tempfile.TemporaryFile(dir=real):  # the only reliable test that files can be created in it
        pass


def _locked(partial: Path) -> FileLock:
    """Create the directory if necessary, and lock it; refuse foreign files whose names are needed."""
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise SmesolveError(f"{str(partial)!r} is not a directory of smesolve; move it away, or name another --out.")
    partial.mkdir(parents=True, exist_ok=True)
    own: dict[str, Callable[[Path], bool]] = {
        LOCK: lambda path: path.is_file() and not path.stat().st_size,
        WORK: Path.is_dir,
        JOURNAL: is_journal,
        PARTIAL_TABLE: lambda path: path.is_file() and is_journal(partial / JOURNAL),
    }
    for name, written_here in own.items():
        path = partial / name
        if os.path.lexists(path) and (path.is_symlink() or not written_here(path)):
            raise SmesolveError(
                f"{str(path)!r} was not written by smesolve, which needs its name; move it away, or name another --out."
            )
    lock = FileLock(partial / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise SmesolveError(
            f"{str(partial)!r} is in use by another process; wait for its end, or name another --out."
        ) from None
    return lock


# --- after a study -------------------------------------------------------------------------------------------------


def _complete(out: Path, partial: Path) -> None:
    """Complete the work of a killed process: move whole results, or remove unfinished ones."""
    if sealed(partial / WORK):
        _move(partial / WORK, out)
    _put_back(partial)


def _put_back(partial: Path) -> None:
    """Remove unfinished results; their journal stays."""
    if (partial / WORK / JOURNAL).exists() and not (partial / JOURNAL).exists():
        os.replace(partial / WORK / JOURNAL, partial / JOURNAL)
    if (partial / WORK).exists():
        shutil.rmtree(partial / WORK)


def _move(work: Path, out: Path) -> None:
    """Move whole results to `out`; an interrupted move can be repeated."""
    if not out.exists():
        work.rename(out)
        return
    new = [*finished_manifest(work)["files"], MANIFEST]
    old = finished_manifest(out)["files"] if (out / MANIFEST).exists() else {}
    begun = not all((work / name).exists() for name in new)
    there = [path for path in out.iterdir() if path.name in new or not (old or begun)]
    for path in there:
        if path.is_dir() or (path.name not in (*old, MANIFEST) and (work / path.name).exists()):
            raise SmesolveError(
                f"{str(path)!r} was not written by smesolve and is where new results belong, which are whole in "
                f"{str(work)!r}; move it away and give the same command again."
            )
    for name in set(old) - set(new):
        if not changed_file(out, {name: old[name]}):
            (out / name).unlink(missing_ok=True)
    for name in new:  # the manifest last: until then the old one lists the old files
        if (work / name).exists():
            os.replace(work / name, out / name)
    work.rmdir()


def _remove(partial: Path, lock: FileLock) -> None:
    """Remove the files of smesolve from the directory, and the directory itself if it is then empty."""
    with suppress(OSError):
        if is_journal(partial / JOURNAL):
            (partial / JOURNAL).unlink()
        (partial / PARTIAL_TABLE).unlink(missing_ok=True)
    shutil.rmtree(partial / WORK, ignore_errors=True)
    if os.name == "nt":  # Windows does not remove open files
        lock.release()
    with suppress(OSError):
        (partial / LOCK).unlink()
    lock.release()
    with suppress(OSError):  # it holds files of the user
        partial.rmdir()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
