"""The command line: smesolve compare | weak-error | scaling | landscape | derive | extend."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from smesolve.arguments import is_own_sentence
from smesolve.study.command_arguments import parser_arguments
from smesolve.study.command_parser import command_parser, print_completion
from smesolve.study.commands import COMMANDS, identity
from smesolve.study.configuration import ExtendConfig, build
from smesolve.study.configuration_errors import ConfigError, nearest
from smesolve.study.html_report import html_report
from smesolve.study.output import (
    JOURNAL,
    MANIFEST,
    PARTIAL_TABLE,
    partial_of,
    read_manifest,
    whole_directory,
    write_manifest,
)
from smesolve.version import __version__

__all__ = ["main"]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the operating system that a user can mend: there is no room for a file."""


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
        argv: arguments; those of the process unless given.

    Returns:
        Exit code: 0, 1 where there is no room for results, 2 for a configuration that cannot be used, 130 when
        interrupted; other than 0 with one sentence on stderr.
    """
    if argv is None:
        # Batch systems end a job by SIGTERM: clean up as on Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        argv = sys.argv[1:]
    argv = list(argv)
    request = None
    try:
        request = _read(argv)
        if request.dry_run:
            _print_estimate(request)
            return 0
        if request.resume and _is_finished(request):
            print(f"smesolve: results in {request.out} were finished before")
            return 0
        start = time.perf_counter()
        prepare = partial(_begin_extended, request) if request.extends else None
        with whole_directory(request.out, request.overwrite, request.resume, prepare) as directory:
            seed = COMMANDS[request.name].run(request.config, directory)
            elapsed = time.perf_counter() - start
            write_manifest(directory, request.name, argv, dataclasses.asdict(request.config), seed, elapsed)
            (directory / "report.html").write_text(html_report(directory), encoding="utf-8")
    except KeyboardInterrupt:
        print(f"smesolve: interrupted; {_what_is_left(request)}", file=sys.stderr)
        return 130
    except ValueError as error:
        if not is_own_sentence(error):
            raise
        print(f"smesolve: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        print(f"smesolve: results cannot be written ({error.strerror}); {_what_is_left(request)}", file=sys.stderr)
        return 1
    print(f"smesolve: results in {request.out}")
    return 0


def _what_is_left(request: Request | None) -> str:
    """What an interrupted command leaves, in words."""
    if request is None:
        return "nothing was written."
    directory = partial_of(request.out)
    if not (directory / JOURNAL).exists():
        return "nothing was written."
    table = f" and {PARTIAL_TABLE}, which is not final" if (directory / PARTIAL_TABLE).exists() else ""
    goal = getattr(request.config, "rel_tol", None)
    sooner = f", and to end sooner with a larger rel_tol than {goal:g}" if goal else ""
    return f"{directory} holds the finished blocks{table}; go on by the same command with --resume{sooner}."


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
        return _extended(Path(chosen["directory"]), config, chosen["resume"], chosen["dry_run"])
    if chosen["out"] is None and not chosen["dry_run"]:
        raise ConfigError("--out is missing; name the directory for the results, such as --out results.")
    out = Path(chosen["out"] or ".")
    return Request(name, config, out, chosen["overwrite"], chosen.get("resume", False), chosen["dry_run"])


def _extended(directory: Path, config: ExtendConfig, resume: bool, dry_run: bool) -> Request:
    """The study whose results are in a directory, with more paths."""
    manifest = read_manifest(directory)
    name = manifest.get("study")
    if name not in COMMANDS or not COMMANDS[name].resumable:
        raise ConfigError(f"{str(directory)!r} holds results of {name}, which has no paths to add.")
    if manifest["versions"]["smesolve"] != __version__:
        raise ConfigError(
            f"{str(directory)!r} was written by smesolve {manifest['versions']['smesolve']}, and this is "
            f"{__version__}; extend it with the version that wrote it."
        )
    old = build(COMMANDS[name].config, manifest["config"])
    if config.paths < old.paths or (config.paths == old.paths and not resume):
        raise ConfigError(f"--paths {config.paths} is not more than the {old.paths} of {str(directory)!r}; raise it.")
    more = {key: getattr(config, key) for key in ("paths", "threads", "workers")}
    return Request(name, dataclasses.replace(old, **more), directory, resume=resume, dry_run=dry_run, extends=True)


def _begin_extended(request: Request, directory: Path) -> None:
    """Begin the journal of an extended study with that of the finished one."""
    from smesolve.sampling.journal import Journal

    changes = {"config": {"paths": request.config.paths}}
    Journal.continued(request.out / JOURNAL, directory / JOURNAL, changes)


def _is_finished(request: Request) -> bool:
    """Whether `out` holds the results of this very study."""
    if not (request.out / MANIFEST).is_file():
        return False
    manifest = read_manifest(request.out)
    there = identity(manifest.get("study"), manifest["config"]) | {"version": manifest["versions"]["smesolve"]}
    return there == identity(request.name, dataclasses.asdict(request.config))


def _print_estimate(request: Request) -> None:
    """What --dry-run says, a line for each of its fields."""
    from smesolve.study.dry_run import ESTIMATES  # here, as --help does without torch

    fields = ESTIMATES[request.name](request.config)
    print(f"smesolve: dry run of {request.name}, nothing is written")
    for name, value in fields.items():
        print(f"  {name + ':':9}{value}")
