"""The command line: smesolve compare | weak-error | scaling | landscape | derive | extend."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from smesolve.errors import SmesolveError
from smesolve.sampling.journal import Journal, first_difference
from smesolve.study.command_arguments import parser_arguments
from smesolve.study.command_parser import command_parser, print_completion
from smesolve.study.commands import COMMANDS, data_digest, identity
from smesolve.study.configuration import ExtendConfig, build
from smesolve.study.configuration_errors import ConfigError, nearest
from smesolve.study.html_report import html_report
from smesolve.study.manifest import MANIFEST, finished_manifest, read_manifest, sealed, write_manifest
from smesolve.study.matplotlib_import import import_matplotlib
from smesolve.study.output import (
    JOURNAL,
    PARTIAL_TABLE,
    WORK,
    finish_move,
    given_directory,
    partial_of,
    whole_directory,
)
from smesolve.study.terminal import complain, prepare_streams, printable, say
from smesolve.version import __version__

__all__ = ["main"]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the operating system that a user can mend: there is no room for a file."""

REMEDIES = {
    **dict.fromkeys(NO_SPACE, "make room on its disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    **dict.fromkeys((errno.EAGAIN, errno.ENOMEM), "take fewer workers, or end other processes"),
    errno.EIO: "check its disk",
}
"""What a user can do about an error of the operating system."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for: a command with its configuration and where its results go."""

    name: str
    config: Any
    out: Path
    overwrite: bool = False
    resume: bool = False
    dry_run: bool = False
    """Say what the study would take, and write nothing."""
    extends: bool = False
    """The results in `out` are replaced by those of the same study with more paths."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: arguments. Default: those of the process.

    Returns:
        Exit code: 0, 1 where results cannot be written, 2 for a configuration that cannot be used and for anything else
        that the operating system refuses, 130 when interrupted; other than 0 with one sentence on stderr.
    """
    if argv is not None:
        return _run(list(argv))
    prepare_streams()
    # Batch systems end a job by SIGTERM, a terminal that is closed by SIGHUP: clean up as on Ctrl-C.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    return _run(sys.argv[1:])


def _run(argv: list[str]) -> int:
    request = None
    try:
        request = _read(argv)
        if request.dry_run:
            _print_estimate(request)
            return 0
        moved = finish_move(request.out)
        if (moved or request.resume) and _is_finished(request):
            say(f"smesolve: results in {printable(request.out)} were finished before")
            return 0
        start = time.perf_counter()
        prepare = partial(_begin_extended, request) if request.extends else None
        with whole_directory(request.out, request.overwrite, request.resume, prepare) as directory:
            seed, data = COMMANDS[request.name].run(request.config, directory)
            elapsed = time.perf_counter() - start
            config = dataclasses.asdict(request.config)
            write_manifest(directory, request.name, argv, config, seed, elapsed, data)
            (directory / "report.html").write_text(html_report(directory), encoding="utf-8")
    except KeyboardInterrupt:
        complain(f"smesolve: interrupted; {_what_is_left(request)}")
        return 130
    except ValueError as error:
        if not isinstance(error, SmesolveError):
            raise
        complain(f"smesolve: {printable(error)}")
        return 2
    except OSError as error:
        if _is_about_results(error, request):
            complain(f"smesolve: results cannot be written ({_reason(error)}); {_what_is_left(request)}")
            return 1
        complain(f"smesolve: {_refusal(error)}; {_what_is_left(request)}")
        return 2
    say(f"smesolve: results in {printable(request.out)}")
    return 0


def _is_about_results(error: OSError, request: Request | None) -> bool:
    """Whether the operating system could not write results, which a user can mend."""
    if request is None or request.dry_run:
        return False
    partial = _partial(request)
    if partial is None:
        return False
    places = (str(partial), str(partial.with_name(partial.name.removesuffix(".partial"))))
    removed = error.errno is None and str(partial) in str(error)  # pandas says so in words
    return error.errno in NO_SPACE or removed or any(name.startswith(places) for name in _names(error))


def _partial(request: Request) -> Path | None:
    """Where results are while they are not whole; None where that is not to be found any more."""
    try:
        return partial_of(request.out)
    except ConfigError:
        return None


def _names(error: OSError) -> list[str]:
    """The files that the operating system speaks of."""
    return [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, Path))]


def _reason(error: OSError) -> str:
    """What the operating system says, on one line."""
    return printable(" ".join((error.strerror or str(error) or type(error).__name__).split()))


def _refusal(error: OSError) -> str:
    """What the operating system refuses, with the remedy."""
    files = " and ".join(repr(name) for name in _names(error))
    what = f"{printable(files)} cannot be used" if files else "the operating system refuses what a command needs"
    remedy = REMEDIES.get(error.errno or 0, "mend that")
    return f"{what} ({_reason(error)}); {remedy} and give the same command again"


def _what_is_left(request: Request | None) -> str:
    """What an interrupted command leaves, in words."""
    if request is None:
        return "nothing was written."
    directory = _partial(request)
    if request.dry_run or directory is None:
        return "nothing was written."
    if sealed(directory / WORK):
        return f"{printable(directory / WORK)} holds the whole results; the same command puts them in their place."
    if not (directory / JOURNAL).exists():
        return "nothing was written."
    table = f" and {PARTIAL_TABLE}, which is not final" if (directory / PARTIAL_TABLE).exists() else ""
    goal = getattr(request.config, "rel_tol", None)
    sooner = f", and to end sooner with a larger rel_tol than {goal:g}" if goal else ""
    return f"{printable(directory)} holds the finished blocks{table}; go on by the same command with --resume{sooner}."


# --- reading -----------------------------------------------------------------------------------------------------


def _read(argv: list[str]) -> Request:
    """What the arguments ask for."""
    parser = command_parser()
    if argv and argv[0] in ("-h", "--help", "--version"):
        parser.parse_args(argv[:1])
    if argv and argv[0].startswith("--print_completion"):
        print_completion(argv)
    if not argv or argv[0].startswith("-"):
        raise ConfigError(f"a command is missing; give one of {', '.join(COMMANDS)} first, or --help.")
    if argv[0] not in COMMANDS:
        raise ConfigError(f"command {argv[0]!r} is unknown; {nearest(argv[0], list(COMMANDS))}.")
    try:
        values = parser.parse_args(parser_arguments(argv)).as_dict()
    except argparse.ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from None
    name = values["command"]
    chosen = values[name]
    config = build(COMMANDS[name].config, chosen)
    if name == "extend":
        directory = given_directory("DIR", chosen["directory"])
        return _extended(directory, config, chosen["resume"], chosen["dry_run"])
    if chosen["out"] is None and not chosen["dry_run"]:
        raise ConfigError("--out is missing; name the directory for the results, such as --out results.")
    out = given_directory("--out", "." if chosen["out"] is None else chosen["out"])
    return Request(name, config, out, chosen["overwrite"], chosen.get("resume", False), chosen["dry_run"])


def _extended(directory: Path, config: ExtendConfig, resume: bool, dry_run: bool) -> Request:
    """The study whose results are in a directory, with more paths."""
    if not dry_run:
        finish_move(directory)
    manifest = read_manifest(directory)
    name, versions = manifest.get("study"), manifest.get("versions")
    written_by = versions.get("smesolve") if isinstance(versions, dict) else None
    if isinstance(written_by, str) and written_by != __version__:
        raise ConfigError(
            f"{str(directory)!r} was written by smesolve {written_by}, and this is {__version__}; extend it "
            "with the version that wrote it."
        )
    manifest = finished_manifest(directory)
    if name not in COMMANDS or not COMMANDS[name].resumable:
        raise ConfigError(f"{str(directory)!r} holds results of {name}, which has no paths to add.")
    old = _config_of(manifest, directory)
    if config.paths < old.paths or (config.paths == old.paths and not resume):
        raise ConfigError(f"--paths {config.paths} is not more than the {old.paths} of {str(directory)!r}; raise it.")
    more = {key: getattr(config, key) for key in ("paths", "threads", "workers")}
    return Request(name, dataclasses.replace(old, **more), directory, resume=resume, dry_run=dry_run, extends=True)


def _config_of(manifest: dict[str, Any], directory: Path) -> Any:
    """The configuration of finished results."""
    try:
        return build(COMMANDS[manifest["study"]].config, manifest["config"])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"the configuration in {str(directory / MANIFEST)!r} is damaged: {reason}; restore it from a copy, or run "
            "the study anew."
        ) from None


def _begin_extended(request: Request, directory: Path) -> None:
    """Begin the journal of an extended study with that of the finished one."""
    changes = {"config": {"paths": request.config.paths}}
    Journal.continued(request.out / JOURNAL, directory / JOURNAL, changes)


def _is_finished(request: Request) -> bool:
    """Whether `out` holds the results of this very study.

    Raises:
        ConfigError: it holds those of another one, which are not to be replaced.
    """
    if not (request.out / MANIFEST).is_file():
        return False
    manifest = finished_manifest(request.out)
    there = identity(manifest["study"], manifest["config"]) | {"version": manifest["versions"]["smesolve"]}
    asked = identity(request.name, dataclasses.asdict(request.config))
    difference = first_difference(there, asked)
    if not difference and manifest.get("data") is not None:
        from smesolve.study.problems import configured_problem

        digest = data_digest(configured_problem(request.config), request.config)
        difference = first_difference({"data": manifest["data"]}, {"data": digest})
    if difference and not (request.overwrite or request.extends):
        raise ConfigError(
            f"--out {str(request.out)!r} holds finished results of another study: {difference}; name another "
            "directory, or replace it by --overwrite."
        )
    return not difference


def _print_estimate(request: Request) -> None:
    """What --dry-run says, a line for each of its fields."""
    import_matplotlib()
    from smesolve.study.dry_run import ESTIMATES  # here, as --help does without torch

    fields = ESTIMATES[request.name](request.config)
    say(f"smesolve: dry run of {request.name}, nothing is written")
    for name, value in fields.items():
        say(f"  {name + ':':9}{value}")
