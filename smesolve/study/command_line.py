"""The command line: smesolve compare | weak-error | scaling | landscape | derive | extend."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import hashlib
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter
from tqdm import tqdm

import smesolve
from smesolve.arguments import is_own_sentence
from smesolve.comparison.weak_error import weak_error
from smesolve.comparison.weak_error_study import StudyInterrupted, WeakErrorStudy
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import DivergenceWarning
from smesolve.sampling.journal import Journal
from smesolve.solver.schemes.scheme import NothingTestedWarning
from smesolve.study.configuration import (
    EXECUTION,
    ConfigError,
    DeriveConfig,
    ExtendConfig,
    StudyConfig,
    build,
    check_file,
    nearest,
    sentence,
)
from smesolve.study.datasets import load_data
from smesolve.study.html_report import html_report
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.output import JOURNAL, MANIFEST, partial_of, read_manifest, whole_directory, write_manifest
from smesolve.study.problems import build_problem
from smesolve.study.scaling_configuration import ScalingConfig

__all__ = ["main"]

FLAGS = ("-h", "--help", "--overwrite", "--resume", "--dry-run", "--print_config")
"""Options without a value."""

PARTIAL_TABLE = "table.partial.csv"
"""What was known when a study was interrupted."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the operating system that a user can mend: there is no room for a file."""

SAMPLES = 4096
"""Paths of each ensemble whose values are shown as a distribution."""

OPTIONS = ("out", "directory", "overwrite", "resume", "dry-run", "print_config")
"""Options that are not of the configuration."""

CURVE_TIMES = 12
"""At most this many times of observation, for curves over time."""


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand: its configuration and what it writes."""

    config: type
    run: Callable[[Any, Path], int | None] | None
    """(configuration, directory) -> the root seed, if there is one; None where another command is run in the end."""
    description: str
    writes: str
    """What is in the directory in the end."""
    example: str
    """Arguments after the command."""
    resumable: bool = False
    """Whether it keeps a journal of its blocks."""
    estimate: Callable[[Any], dict[str, str]] | None = None
    """configuration -> what --dry-run prints."""


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

    @property
    def study(self) -> dict[str, Any]:
        """All that the numbers depend on."""
        config = dataclasses.asdict(self.config)
        return _numbers({"command": self.name, "config": config, "version": smesolve.__version__})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: arguments; those of the process unless given.

    Returns:
        Exit code: 0, 2 for a configuration that cannot be used (one sentence on stderr), 130 when interrupted.
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
            _write(directory / "report.html", html_report(directory))
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
    return f"{directory} holds the finished blocks{table}; go on by the same command with --resume."


# --- reading -----------------------------------------------------------------------------------------------------


def _read(argv: list[str]) -> Request:
    """What the arguments ask for."""
    parser = _parser()
    if argv and argv[0] in ("-h", "--help", "--version"):
        parser.parse_args(argv[:1])
    if argv and argv[0].startswith("--print_completion"):
        _print_completion(parser, argv)
    if not argv or argv[0].startswith("-"):
        raise ConfigError(f"a command is missing; give one of {', '.join(COMMANDS)} first, or --help.")
    if argv[0] not in COMMANDS:
        raise ConfigError(f"command {argv[0]!r} is unknown; {nearest(argv[0], list(COMMANDS))}.")
    try:
        values = parser.parse_args(_config_first(argv)).as_dict()
    except argparse.ArgumentError as error:
        raise ConfigError(sentence(error, COMMANDS[argv[0]].config, OPTIONS)) from None
    name = values["command"]
    chosen = values[name]
    config = build(COMMANDS[name].config, chosen)
    if name == "extend":
        return _extended(Path(chosen["directory"]), config, chosen["resume"])
    if chosen["out"] is None and not chosen["dry_run"]:
        raise ConfigError("--out is missing; name the directory for the results, such as --out results.")
    out = Path(chosen["out"] or ".")
    return Request(name, config, out, chosen["overwrite"], chosen.get("resume", False), chosen["dry_run"])


def _extended(directory: Path, config: ExtendConfig, resume: bool) -> Request:
    """The study whose results are in a directory, with more paths."""
    manifest = read_manifest(directory)
    name = manifest.get("study")
    if name not in COMMANDS or not COMMANDS[name].resumable:
        raise ConfigError(f"{str(directory)!r} holds results of {name}, which has no paths to add.")
    if manifest["versions"]["smesolve"] != smesolve.__version__:
        raise ConfigError(
            f"{str(directory)!r} was written by smesolve {manifest['versions']['smesolve']}, and this is "
            f"{smesolve.__version__}; extend it with the version that wrote it."
        )
    old = build(COMMANDS[name].config, manifest["config"])
    if config.paths < old.paths or (config.paths == old.paths and not resume):
        raise ConfigError(f"--paths {config.paths} is not more than the {old.paths} of {str(directory)!r}; raise it.")
    more = {key: getattr(config, key) for key in ("paths", "threads", "workers")}
    return Request(name, dataclasses.replace(old, **more), directory, resume=resume, extends=True)


def _begin_extended(request: Request, directory: Path) -> None:
    """Begin the journal of an extended study with that of the finished one."""
    changes = {"config": {"paths": request.config.paths}}
    Journal.continued(request.out / JOURNAL, directory / JOURNAL, changes)


def _is_finished(request: Request) -> bool:
    """Whether `out` holds the results of this very study."""
    if not (request.out / MANIFEST).is_file():
        return False
    manifest = read_manifest(request.out)
    there = {
        "command": manifest.get("study"),
        "config": manifest["config"],
        "version": manifest["versions"]["smesolve"],
    }
    return _numbers(there) == request.study


def _numbers(study: dict[str, Any]) -> dict[str, Any]:
    """What the numbers of a study depend on."""
    return study | {"config": {key: value for key, value in study["config"].items() if key not in EXECUTION}}


def _config_first(argv: list[str]) -> list[str]:
    """CONFIG (or DIR), wherever it stands, as the first option of the subcommand, so that others override it."""
    command, *rest = argv
    option = "--directory" if command == "extend" else "--config"
    position = 0
    while position < len(rest):
        token = rest[position]
        if not token.startswith("-"):
            if option == "--config":
                check_file(token, COMMANDS[command].config, OPTIONS)
            return [command, option, token, *rest[:position], *rest[position + 1 :]]
        if token == "--config" and position + 1 < len(rest):
            check_file(rest[position + 1], COMMANDS[command].config, OPTIONS)
        position += 1 if "=" in token or token in FLAGS else 2
    return argv


HELP = """Derive, integrate and certify the stochastic modified equation of dropout.

Each command reads a study from CONFIG, a YAML file; an option --KEY VALUE changes one key of it, and without CONFIG all
keys have their defaults. Results appear in --out whole or not at all.

worked examples:
  Dropout on handwritten digits beside its equations of order 1 and 2, 512 paths each:
    smesolve compare examples/digits.yaml --paths 512 --out results/digits
  Write a configuration with a comment on every key, see what it would take, then certify the weak order:
    smesolve weak-error --print_config=comments > study.yaml
    smesolve weak-error study.yaml --lrs "[0.1, 0.05]" --dry-run
    smesolve weak-error study.yaml --lrs "[0.1, 0.05]" --out results/order

completion of commands and options in your shell, once:
  bash:  smesolve --print_completion bash > ~/.local/share/bash-completion/completions/smesolve
  zsh:   smesolve --print_completion zsh > "${fpath[1]}/_smesolve"

`smesolve COMMAND --help` explains the keys of a command and what it writes."""

SHELLS = ("bash", "zsh")


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written, and every option on lines of its own."""


def _print_completion(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Print the shell's completion script and end the process, as --help does.

    Raises:
        ConfigError: no shell, or one that is not known.
    """
    shell = argv[0].partition("=")[2] or "".join(argv[1:2])
    if shell not in SHELLS:
        raise ConfigError(f"--print_completion must be one of {', '.join(SHELLS)}, got {shell!r}.")
    import shtab

    print(shtab.complete(parser, shell))
    raise SystemExit(0)


def _print_estimate(request: Request) -> None:
    """What --dry-run says, a line for each of its fields."""
    fields = COMMANDS[request.name].estimate(request.config)
    print(f"smesolve: dry run of {request.name}, nothing is written")
    for name, value in fields.items():
        print(f"  {name + ':':9}{value}")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="smesolve",
        description=HELP,
        version=smesolve.__version__,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Help,
        usage="smesolve COMMAND [CONFIG] [--KEY VALUE ...] --out DIR",
    )
    commands = parser.add_subcommands(dest="command")
    for name, command in COMMANDS.items():
        text = f"{command.description}\n\nexample:\n  smesolve {name} {command.example}\n\nwrites:\n  {command.writes}"
        part = ArgumentParser(
            description=text,
            exit_on_error=False,
            formatter_class=_Help,
            usage=f"smesolve {name} {'DIR --paths N' if name == 'extend' else '[CONFIG] [--KEY VALUE ...] --out DIR'}",
        )
        part.add_class_arguments(command.config)
        if name == "extend":
            part.add_argument(
                "--directory",
                type=str,
                required=True,
                help="finished results; may be given without --directory.",
            )
        else:
            part.add_argument(
                "--config", action=ActionConfigFile, help="YAML file; may be given as CONFIG without --config."
            )
            part.add_argument("--out", type=str | None, help="directory for the results; needed unless --dry-run.")
            part.add_argument("--overwrite", action="store_true", help="replace results that are in --out.")
            part.add_argument(
                "--dry-run", action="store_true", help="print sizes, steps, paths, time and memory, and write nothing."
            )
        if command.resumable:
            part.add_argument("--resume", action="store_true", help="go on with an interrupted study, if there is one.")
        commands.add_subcommand(name, part, help=command.description)
    return parser


# --- subcommands -------------------------------------------------------------------------------------------------


def _compare(config: StudyConfig, directory: Path) -> int:
    # Late, as matplotlib takes its time; but before the work, which a failing import must not cost.
    from smesolve.study.figures import comparison_figure, save_figure
    from smesolve.study.reports import comparison_report

    problem, study, messages = _measure(config, _curve_times(config), "compare", directory, SAMPLES)
    study.table.to_csv(directory / "table.csv", index=False)
    save_figure(comparison_figure(study), directory, "comparison")
    _write(directory / "report.md", comparison_report(study, config, problem, messages))
    return config.seed


def _weak_error(config: StudyConfig, directory: Path) -> int:
    from smesolve.study.figures import save_figure, weak_error_figure
    from smesolve.study.reports import weak_error_report

    problem, study, messages = _measure(config, None, "weak-error", directory)
    study.table.to_csv(directory / "table.csv", index=False)
    study.fit().to_csv(directory / "fit.csv", index=False)
    save_figure(weak_error_figure(study), directory, "weak_error")
    _write(directory / "report.md", weak_error_report(study, config, problem, messages))
    return config.seed


def _landscape(config: LandscapeConfig, directory: Path) -> int:
    from smesolve.study.landscape_sections import SECTIONS, check_sections, landscape_report

    check_sections(config.sections)
    problem = _problem(config)
    sections = {name: SECTIONS[name](problem, config) for name in tqdm(config.sections, desc="sections", disable=None)}
    for section in sections.values():
        section.write(directory)
    _write(directory / "report.md", landscape_report(problem, config, sections))
    return config.seed


def _scaling(config: ScalingConfig, directory: Path) -> int:
    from smesolve.study.scaling import STUDIES, scaling_report

    problem = _problem(config)
    section = STUDIES[config.study](problem, config)
    section.write(directory)
    _write(directory / "report.md", scaling_report(problem, config, section))
    return config.seed


def _derive(config: DeriveConfig, directory: Path) -> None:
    # Late, as sympy takes its time.
    from smesolve.study.article import article
    from smesolve.study.derivation import derive
    from smesolve.study.derivation_report import derivation_report

    derivation = derive(config)
    _write(directory / "equation.tex", article(derivation))
    _write(directory / "report.md", derivation_report(derivation))
    if derivation.module:
        _write(directory / "equation.py", derivation.module)


def _estimate_of_compare(config: StudyConfig) -> dict[str, str]:
    from smesolve.study.dry_run import weak_error_estimate

    return weak_error_estimate(_problem(config), config, _curve_times(config))


def _estimate_of_weak_error(config: StudyConfig) -> dict[str, str]:
    from smesolve.study.dry_run import weak_error_estimate

    return weak_error_estimate(_problem(config), config, None)


def _estimate_of_scaling(config: ScalingConfig) -> dict[str, str]:
    from smesolve.study.dry_run import scaling_estimate

    return scaling_estimate(_problem(config), config)


def _estimate_of_landscape(config: LandscapeConfig) -> dict[str, str]:
    from smesolve.study.dry_run import landscape_estimate
    from smesolve.study.landscape_sections import check_sections

    check_sections(config.sections)
    return landscape_estimate(_problem(config), config)


def _estimate_of_derive(config: DeriveConfig) -> dict[str, str]:
    from smesolve.study.dry_run import derivation_estimate

    return derivation_estimate(config)


MEASURED = "table.csv, figures (PNG and PDF), report.md, manifest.json (configuration, seed, versions)"

COMMANDS = {
    "compare": Command(
        StudyConfig,
        _compare,
        "Dropout beside its modified equation: curves, distributions, errors.",
        f"{MEASURED},\n  blocks.journal (finished blocks of paths, for extend)",
        "examples/digits.yaml --lrs '[0.1]' --out results/digits",
        resumable=True,
        estimate=_estimate_of_compare,
    ),
    "weak-error": Command(
        StudyConfig,
        _weak_error,
        "Certify the weak order, with an error budget.",
        f"{MEASURED},\n  fit.csv (slopes and constants with intervals), blocks.journal",
        "examples/weak_order.yaml --rel_tol 0.1 --out results/weak_order",
        resumable=True,
        estimate=_estimate_of_weak_error,
    ),
    "scaling": Command(
        ScalingConfig,
        _scaling,
        "Where the equation holds, where it breaks, what may be rescaled.",
        MEASURED.replace("table.csv", "tables"),
        "examples/scaling_kappa.yaml --out results/scaling_kappa",
        estimate=_estimate_of_scaling,
    ),
    "landscape": Command(
        LandscapeConfig,
        _landscape,
        "Hessian, noise and flatness of trained networks.",
        MEASURED.replace("table.csv", "tables"),
        "examples/landscape_alignment.yaml --runs 4 --out results/alignment",
        estimate=_estimate_of_landscape,
    ),
    "derive": Command(
        DeriveConfig,
        _derive,
        "Derive the modified equation of a random iteration and prove its order.",
        "equation.tex (LaTeX article), equation.py (torch module), report.md (what is proven), manifest.json",
        "--iteration dropout --width 2 --order 2 --out results/derivation",
        estimate=_estimate_of_derive,
    ),
    "extend": Command(
        ExtendConfig,
        None,
        "Add paths to finished results of compare or weak-error: DIR --paths N.",
        "what the study wrote, with more paths and shorter intervals, in its place",
        "results/digits --paths 100000",
        resumable=True,
    ),
}


def _measure(
    config: StudyConfig, times: list[float] | None, name: str, directory: Path, keep: int = 0
) -> tuple[Problem, WeakErrorStudy, list[str]]:
    """The problem, its weak errors, and the warnings that came up; blocks are kept in the directory's journal."""
    problem = _problem(config)
    theta0 = problem.initial(config.network.seed)
    study = Request(name, config, directory).study | {"data": _fingerprint(problem.x, problem.y, theta0)}
    with _collected_warnings() as messages, Journal(directory / JOURNAL, study) as journal:
        try:
            result = weak_error(
                problem,
                theta0,
                lrs=config.lrs,
                horizon=config.horizon,
                orders=config.orders,
                observables=config.observables,
                times=times,
                paths=config.paths,
                rel_tol=config.rel_tol,
                max_paths=config.max_paths,
                scheme=config.scheme,
                dt=config.dt,
                control=config.control,
                seed=config.seed,
                progress=True,
                workers=config.workers,
                journal=journal,
                keep=keep,
                max_memory=config.max_memory,
            )
        except StudyInterrupted as interrupted:
            if len(interrupted.table):
                interrupted.table.to_csv(directory / PARTIAL_TABLE, index=False)
            raise
        finally:
            if not len(journal):
                journal.path.unlink()
    return problem, result, messages


def _fingerprint(*tensors: torch.Tensor) -> str:
    """A digest of data and start: a journal goes with them as with the configuration."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _problem(config: StudyConfig | LandscapeConfig) -> Problem:
    """The problem of a configuration, with torch's threads set."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return build_problem(config, *load_data(config.data))


def _curve_times(config: StudyConfig) -> list[float] | None:
    """The finest even grid of at most `CURVE_TIMES` times that all learning rates and dt divide.

    None where there is none: weak_error then says which step does not fit.
    """
    steps = [step for step in (*config.lrs, config.dt) if step is not None]
    if not all(step > 0 for step in steps):
        return None
    for parts in range(CURVE_TIMES, 0, -1):
        grid = [config.horizon * (k + 1) / parts for k in range(parts)]
        if all(abs(grid[0] / step - round(grid[0] / step)) < 1e-9 * grid[0] / step for step in steps):
            return grid
    return None


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Warnings of this package, each once: on stderr as they come, and in a list for the report."""
    messages: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message: Warning, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, (DivergenceWarning, NothingTestedWarning)):
                show(message, category, *where, **more)
            elif str(message) not in messages:
                messages.append(str(message))
                print(f"smesolve: warning: {message}", file=sys.stderr)

        for category in (DivergenceWarning, NothingTestedWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = collect
        yield messages


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
