"""The command line, smesolve COMMAND: an experiment by its name, extend, or sweep."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.markdown import printable
from smesolve.experiments.shared.registry import commands as experiments
from smesolve.experiments.shared.registry import find_experiment
from smesolve.experiments.shared.settings import build
from smesolve.garbage_collection import paused_collections
from smesolve.problem.kernels.library import library
from smesolve.process_settings import apply_process_settings
from smesolve.sampling.study_difference import first_difference
from smesolve.study.command_arguments import check_code, chosen_study, parser_arguments
from smesolve.study.command_parser import (
    command_parser,
    keys_of,
    known_commands,
    print_completion,
    program_parser,
    sweep_parser,
)
from smesolve.study.html_report import html_report
from smesolve.study.manifest import MANIFEST, finished_manifest, sealed, write_manifest
from smesolve.study.output import (
    JOURNAL,
    PARTIAL_TABLE,
    WORK,
    finish_move,
    given_directory,
    partial_of,
    whole_directory,
)
from smesolve.study.terminal import complain, prepare_streams, say

if TYPE_CHECKING:
    from smesolve.experiments.shared.experiment import Experiment

__all__ = ["main"]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the operating system that say that there is no room for a file."""

REMEDIES = {
    **dict.fromkeys(NO_SPACE, "make room on its disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    **dict.fromkeys((errno.EAGAIN, errno.ENOMEM), "take fewer workers, or end other processes"),
    errno.EIO: "check its disk",
}
"""Remedies for errors of the operating system."""


@dataclass(frozen=True)
class Request:
    """A request: an experiment with its settings, and the directory of its results."""

    experiment: Experiment[Any]
    out: Path
    overwrite: bool = False
    resume: bool = False
    dry_run: bool = False
    """Print the estimated cost of the experiment, and write nothing."""
    extends: bool = False
    """The results in `out` are replaced by those of the same study with more paths."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: arguments. Default: those of the process.

    Returns:
        Exit code: 0; 1 if results cannot be written; 2 for a configuration that cannot be used and for anything else
        that the operating system refuses; 130 when interrupted. A code other than 0 comes with one sentence on stderr.
    """
    if argv is not None:
        return _run(list(argv), time.process_time())
    prepare_streams()
    apply_process_settings()  # torch is not loaded yet
    # Batch systems end a job by SIGTERM, a terminal that is closed by SIGHUP: clean up as on Ctrl-C.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    return _run(sys.argv[1:], started=0.0)


def _run(argv: list[str], started: float) -> int:
    """Run one subcommand, which started at a processor time; 0 if the process runs only this command."""
    request = None
    try:
        if argv[:1] == ["sweep"]:
            return _run_sweep(argv[1:], started)
        with paused_collections():
            request = _read(argv)
        if not started:
            gc.freeze()  # what was loaded stays to the end: collections need not go through it
        experiment = request.experiment
        if (threads := getattr(experiment.settings, "threads", None)) is not None:
            import torch  # here, because --help does not need it

            torch.set_num_threads(threads)
        if request.dry_run:
            _print_estimate(experiment, started)
            return 0
        moved = finish_move(request.out)
        if (moved or request.resume) and _is_finished(request):
            say(f"smesolve: results in {printable(request.out)} were finished before")
            return 0
        _write_results(request, argv)
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


def _run_sweep(argv: list[str], started: float) -> int:
    """Run the cells of a sweep, and join their tables when all are finished; return the exit code."""
    from smesolve.study.sweep import begin_sweep, join_sweep, read_sweep, shard_of

    start = time.perf_counter()
    try:
        values = sweep_parser().parse_args(argv)
    except argparse.ArgumentError as error:
        raise SmesolveError(" ".join(str(error).split())) from None
    sweep, (shard, shards) = read_sweep(values.config, experiments()), shard_of(values.shard)
    for network in sweep.networks:
        check_code(network, values.allow_code, values.config)
    if values.out is None and not values.dry_run:
        raise SmesolveError("--out is missing; name the directory for the results, such as --out results.")
    out = given_directory("--out", "." if values.out is None else values.out)
    cells = sweep.cells(out)
    requests = [_read([*cell.arguments, "--resume"]) for cell in cells]  # bad cells are refused before any cell runs
    if values.dry_run:
        for cell, request in zip(cells, requests, strict=True):
            say(f"smesolve: cell {cell.directory.name}")
            _print_estimate(request.experiment, started)
            started = time.process_time()  # libraries are loaded once for all cells
        return 0
    begin_sweep(sweep, out, values.resume or shards > 1)
    chosen = cells[shard - 1 :: shards]
    for number, cell in enumerate(chosen, start=1):
        say(f"smesolve: cell {number} of {len(chosen)}, {printable(cell.directory.name)}")
        code = _run([*cell.arguments, "--resume"], started)
        if code:
            return code
    if join_sweep(sweep, out, ["sweep", *argv], time.perf_counter() - start):
        say(f"smesolve: results in {printable(out)}")
    else:
        say(f"smesolve: this shard is finished; the last one joins the tables of all cells in {printable(out)}")
    return 0


def _write_results(request: Request, argv: list[str]) -> None:
    """Run the experiment of a request, and write all of its results."""
    from smesolve.study.extension import begin_extended
    from smesolve.study.run import configuration, run

    if library() is None:
        say("smesolve: no compiled kernels are in use, so formulas in torch stand in, which take 3 to 6 times as long")
    start, experiment = time.perf_counter(), request.experiment
    prepare = partial(begin_extended, request.out, experiment.settings.paths) if request.extends else None
    with whole_directory(request.out, request.overwrite, request.resume, prepare, experiment.extendable) as directory:
        run(experiment, directory)
        elapsed, seed = time.perf_counter() - start, getattr(experiment.settings, "seed", None)
        config, data, code = configuration(experiment), experiment.data_digest(), experiment.code_digest()
        write_manifest(directory, experiment.command, argv, config, seed, elapsed, data, code)
        (directory / "report.html").write_text(html_report(directory), encoding="utf-8")


def _is_about_results(error: OSError, request: Request | None) -> bool:
    """Return whether the operating system failed to write results."""
    if request is None or request.dry_run:
        return False
    directory = _partial(request)
    if directory is None:
        return False
    places = (str(directory), str(directory.with_name(directory.name.removesuffix(".partial"))))
    removed = error.errno is None and str(directory) in str(error)  # pandas says so only in its message
    return error.errno in NO_SPACE or removed or any(name.startswith(places) for name in _names(error))


def _partial(request: Request) -> Path | None:
    """Return the directory of unfinished results; None if it cannot be found any more."""
    try:
        return partial_of(request.out)
    except SmesolveError:
        return None


def _names(error: OSError) -> list[str]:
    """Return the files that an error of the operating system names."""
    return [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, Path))]


def _reason(error: OSError) -> str:
    """Return the message of the operating system on one line."""
    return printable(" ".join((error.strerror or str(error) or type(error).__name__).split()))


def _refusal(error: OSError) -> str:
    """Return a sentence with the refusal of the operating system and the remedy."""
    files = " and ".join(repr(name) for name in _names(error))
    what = f"{printable(files)} cannot be used" if files else "the operating system refuses a resource"
    remedy = REMEDIES.get(error.errno or 0, "correct that")
    return f"{what} ({_reason(error)}); {remedy} and give the same command again"


def _what_is_left(request: Request | None) -> str:
    """Return in words which results an interrupted command leaves."""
    if request is None:
        return "nothing was written."
    directory = _partial(request)
    if request.dry_run or directory is None:
        return "nothing was written."
    if sealed(directory / WORK):
        return f"{printable(directory / WORK)} holds the whole results; the same command moves them to their place."
    if not (directory / JOURNAL).exists():
        return "nothing was written."
    table = f" and {PARTIAL_TABLE}, which is not final" if (directory / PARTIAL_TABLE).exists() else ""
    goal = getattr(request.experiment.settings, "rel_tol", None) if "rel_tol" in request.experiment.goals else None
    sooner = f", and to end sooner with a larger rel_tol than {goal:g}" if goal else ""
    return f"{printable(directory)} holds the finished part{table}; continue by the same command with --resume{sooner}."


# --- reading -----------------------------------------------------------------------------------------------------


def _read(argv: list[str]) -> Request:
    """Return the request that the arguments describe."""
    if argv and argv[0] in ("-h", "--help", "--version"):
        program_parser().parse_args(argv[:1])
    if argv and argv[0].startswith("--print_completion"):
        print_completion(argv)
    known = known_commands()
    if not argv or argv[0].startswith("-"):
        raise SmesolveError(f"a command is missing; give one of {', '.join(known)} first, or --help.")
    command = argv[0]
    if command not in known:
        raise SmesolveError(f"command {command!r} is unknown; {nearest_name(command, known)}.")
    keys = keys_of(command, chosen_study(argv))
    try:
        values = command_parser(keys).parse_args(parser_arguments(keys, argv[1:])).as_dict()
    except argparse.ArgumentError as error:
        raise SmesolveError(" ".join(str(error).split())) from None
    settings: Any = build(keys.settings, values)
    if command == "extend":
        from smesolve.study.extension import extended  # here, because it loads torch

        directory = given_directory("DIR", values["directory"])
        experiment = extended(directory, settings, values["resume"], values["dry_run"])
        check_code(getattr(experiment.settings, "network", None), values["allow_code"], str(directory / MANIFEST))
        return Request(experiment, directory, resume=values["resume"], dry_run=values["dry_run"], extends=True)
    if values["out"] is None and not values["dry_run"]:
        raise SmesolveError("--out is missing; name the directory for the results, such as --out results.")
    out = given_directory("--out", "." if values["out"] is None else values["out"])
    experiment = find_experiment(command, keys.study)(settings)
    return Request(experiment, out, values["overwrite"], values["resume"], values["dry_run"])


def _is_finished(request: Request) -> bool:
    """Return whether `out` holds the results of this study.

    Raises:
        SmesolveError: it holds results of another study, which must not be replaced.
    """
    from smesolve.study.run import configuration, identity

    if not (request.out / MANIFEST).is_file():
        return False
    manifest, experiment = finished_manifest(request.out), request.experiment
    there = identity(manifest["study"], manifest["config"]) | {"version": manifest["versions"]["smesolve"]}
    difference = first_difference(there, identity(experiment.command, configuration(experiment)))
    if not difference and manifest.get("data") is not None:
        now = {"data": experiment.data_digest(), "code": experiment.code_digest()}
        difference = first_difference({key: manifest.get(key) for key in now}, now)
    if difference and not (request.overwrite or request.extends):
        raise SmesolveError(
            f"--out {str(request.out)!r} holds finished results of another study: {difference}; name another "
            "directory, or replace it by --overwrite."
        )
    return not difference


def _print_estimate(experiment: Experiment[Any], started: float) -> None:
    """Print the estimate of --dry-run, one line per field."""
    from smesolve.study.smallest_study import run_smallest_study  # here, because --help does not need torch

    run_smallest_study()
    # By now all libraries are loaded, and a report was written.
    fields = experiment.dry_run(overhead=time.process_time() - started)
    say(f"smesolve: dry run of {experiment.command}, nothing is written")
    for name, value in fields.items():
        say(f"  {name + ':':9}{value}")
