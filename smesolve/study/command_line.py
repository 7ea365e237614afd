"""The command line: smesolve compare | weak-error | derive."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ActionConfigFile, ArgumentParser

import smesolve
from smesolve.comparison.weak_error import weak_error
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import DivergenceWarning
from smesolve.solver.schemes.scheme import NothingTestedWarning
from smesolve.study.configuration import (
    ConfigError,
    DeriveConfig,
    StudyConfig,
    build,
    check_file,
    nearest,
    sentence,
)
from smesolve.study.datasets import load_data
from smesolve.study.output import whole_directory, write_manifest
from smesolve.study.problems import build_problem

__all__ = ["main"]

FLAGS = ("-h", "--help", "--overwrite", "--print_config")
"""Options without a value."""

CURVE_TIMES = 12
"""At most this many times of observation, for curves over time."""


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand: its configuration and what it writes."""

    config: type
    run: Callable[[Any, Path], int | None]
    """(configuration, directory) -> the root seed, if there is one."""
    description: str


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
    try:
        name, config, out, overwrite = _read(argv)
        start = time.perf_counter()
        with whole_directory(out, overwrite) as directory:
            seed = COMMANDS[name].run(config, directory)
            write_manifest(directory, argv, dataclasses.asdict(config), seed, time.perf_counter() - start)
    except KeyboardInterrupt:
        print("smesolve: interrupted; nothing was written.", file=sys.stderr)
        return 130
    except ValueError as error:
        if not _meant_for_user(error):
            raise
        print(f"smesolve: {error}", file=sys.stderr)
        return 2
    print(f"smesolve: results in {out}")
    return 0


def _meant_for_user(error: ValueError) -> bool:
    """Whether this package raised the error: its messages are sentences, those of its libraries are defects."""
    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    return Path(innermost).is_relative_to(Path(smesolve.__file__).parent)


# --- reading -----------------------------------------------------------------------------------------------------


def _read(argv: list[str]) -> tuple[str, Any, Path, bool]:
    """Subcommand, configuration, output directory, overwrite."""
    parser = _parser()
    if argv and argv[0] in ("-h", "--help", "--version"):
        parser.parse_args(argv[:1])
    if not argv or argv[0].startswith("-"):
        raise ConfigError(f"a command is missing; give one of {', '.join(COMMANDS)} first, or --help.")
    if argv[0] not in COMMANDS:
        raise ConfigError(f"command {argv[0]!r} is unknown; {nearest(argv[0], list(COMMANDS))}.")
    try:
        values = parser.parse_args(_config_first(argv)).as_dict()
    except argparse.ArgumentError as error:
        raise ConfigError(sentence(error, COMMANDS[argv[0]].config, ("out", "overwrite", "print_config"))) from None
    name = values["command"]
    chosen = values[name]
    return name, build(COMMANDS[name].config, chosen), Path(chosen["out"]), chosen["overwrite"]


def _config_first(argv: list[str]) -> list[str]:
    """CONFIG, wherever it stands, as the first option of the subcommand, so that other options override it."""
    command, *rest = argv
    position = 0
    while position < len(rest):
        token = rest[position]
        if not token.startswith("-"):
            check_file(token, COMMANDS[command].config)
            return [command, "--config", token, *rest[:position], *rest[position + 1 :]]
        if token == "--config" and position + 1 < len(rest):
            check_file(rest[position + 1], COMMANDS[command].config)
        position += 1 if "=" in token or token in FLAGS else 2
    return argv


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="smesolve",
        description="Derive, integrate and certify the stochastic modified equation of dropout.",
        version=smesolve.__version__,
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(dest="command")
    for name, command in COMMANDS.items():
        part = ArgumentParser(description=command.description, exit_on_error=False)
        part.add_argument(
            "--config", action=ActionConfigFile, help="YAML file; may be given as CONFIG without --config."
        )
        part.add_class_arguments(command.config)
        part.add_argument("--out", type=str, required=True, help="directory for the results.")
        part.add_argument("--overwrite", action="store_true", help="replace results that are in --out.")
        commands.add_subcommand(name, part, help=command.description)
    return parser


# --- subcommands -------------------------------------------------------------------------------------------------


def _compare(config: StudyConfig, directory: Path) -> int:
    # Late, as matplotlib takes its time; but before the work, which a failing import must not cost.
    from smesolve.study.figures import comparison_figure, save_figure
    from smesolve.study.reports import comparison_report

    problem, study, messages = _measure(config, _curve_times(config))
    study.table.to_csv(directory / "table.csv", index=False)
    save_figure(comparison_figure(study), directory, "comparison")
    _write(directory / "report.md", comparison_report(study, config, problem, messages))
    return config.seed


def _weak_error(config: StudyConfig, directory: Path) -> int:
    from smesolve.study.figures import save_figure, weak_error_figure
    from smesolve.study.reports import weak_error_report

    problem, study, messages = _measure(config, None)
    study.table.to_csv(directory / "table.csv", index=False)
    study.fit().to_csv(directory / "fit.csv", index=False)
    save_figure(weak_error_figure(study), directory, "weak_error")
    _write(directory / "report.md", weak_error_report(study, config, problem, messages))
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


COMMANDS = {
    "compare": Command(StudyConfig, _compare, "Dropout beside its modified equation: curves, distributions, errors."),
    "weak-error": Command(StudyConfig, _weak_error, "Certify the weak order, with an error budget."),
    "derive": Command(DeriveConfig, _derive, "Derive the modified equation of a random iteration and prove its order."),
}


def _measure(config: StudyConfig, times: list[float] | None) -> tuple[Problem, WeakErrorStudy, list[str]]:
    """The problem, its weak errors, and the warnings that came up."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    x, y = load_data(config.data)
    problem = build_problem(config, x, y)
    with _collected_warnings() as messages:
        study = weak_error(
            problem,
            problem.initial(config.network.seed),
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
        )
    return problem, study, messages


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
