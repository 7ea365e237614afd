"""The options of the commands: parsers, help texts, and shell completion."""

from __future__ import annotations

import argparse
import platform
import shutil
import textwrap
from collections.abc import Mapping, Sequence

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter  # type: ignore[attr-defined]
from shtab import DIRECTORY, FILE, complete

from smesolve.errors import SmesolveError, shown
from smesolve.experiments.shared.registry import commands, find_experiment, studies, summary
from smesolve.study.command_arguments import CommandKeys
from smesolve.study.configuration_types import known_keys
from smesolve.study.versions import versions

__all__ = ["command_parser", "keys_of", "known_commands", "print_completion", "program_parser", "sweep_parser"]

SHELLS = ("bash", "zsh")

ALLOW_CODE = "run the function that network.module names in a file."

HELP = """Derive, integrate and certify the stochastic modified equation of dropout.

Each command reads a study from CONFIG, a YAML file. An option --KEY VALUE overrides one key; without CONFIG all keys
have their defaults. Results appear in --out whole or not at all.

worked examples:
  Dropout on handwritten digits, compared with its equations of order 1 and 2, 512 paths each:
    smesolve compare examples/digits.yaml --paths 512 --out results/digits
  Write a configuration with a comment on every key, estimate its cost, then certify the weak order:
    smesolve weak-error --print_config=comments > study.yaml
    smesolve weak-error study.yaml --lrs "[0.1, 0.05]" --dry-run
    smesolve weak-error study.yaml --lrs "[0.1, 0.05]" --out results/order

to install completion of commands and options in your shell:
  bash:  D=~/.local/share/bash-completion/completions; mkdir -p $D; smesolve --print_completion bash > $D/smesolve
  zsh:   smesolve --print_completion zsh > "${fpath[1]}/_smesolve", or into another directory of $fpath

`smesolve COMMAND --help` explains the keys of a command and the files that it writes."""


EXTEND = "Add paths to finished results of compare or weak-error: DIR --paths N."

SWEEP = "Run a command for every combination of values of some of its keys, and join the tables."

REPORTED = "report.html (self-contained), report.md, manifest.json (configuration, seed, versions)"


SWEEPING = f"""CONFIG is a configuration of the command with two more keys, such as

  command: weak-error
  sweep:
    keep_prob: [0.8, 0.5]
    network.width: [16, 32]

Every combination is a study of its own in DIR/cells, with its report. Shards can run at the same time, on one or
several machines that share DIR; the last one to finish joins the tables.

example:
  smesolve sweep sweep.yaml --out results/sweep --shard 1/2

writes:
  {REPORTED},
  the tables of all cells joined (CSV), cells"""
"""How a sweep is described and run, for its help."""

OTHERS = {"extend": EXTEND, "sweep": SWEEP}
"""Commands that are not experiments."""


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and puts every option on lines of its own."""


def _wrapped(text: str) -> str:
    """Return a description with its prose wrapped to the width of the terminal; indented lines are not wrapped."""
    lines, prose = list[str](), list[str]()
    for line in [*text.splitlines(), ""]:
        if line and not line.startswith(" "):
            prose.append(line)
            continue
        lines += [*textwrap.wrap(" ".join(prose), shutil.get_terminal_size().columns - 2), line]
        prose = []
    return "\n".join(lines).rstrip()


def _parser(prog: str, text: str, usage: str, version: str | None = None) -> ArgumentParser:
    """Return a parser without options, which raises an error where it would end the process."""
    return ArgumentParser(
        prog=prog,
        description=_wrapped(text),
        usage=f"{prog} {usage}",
        version=version,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Help,
    )


def known_commands() -> list[str]:
    """Return the names of all commands."""
    return [*commands(), *OTHERS]


def keys_of(command: str, study: str) -> CommandKeys:
    """Return the arguments of a command."""
    if command == "extend":
        from smesolve.study.extension import ExtendSettings  # here, because it loads torch

        return CommandKeys(command, study, ExtendSettings)
    return CommandKeys(command, study, find_experiment(command, study).Settings)


def program_parser(parts: Mapping[str, ArgumentParser] | None = None) -> ArgumentParser:
    """Return the parser of the whole program.

    Args:
        parts: parsers of the commands. Default: parsers without options, which are enough for --help and --version.
    """
    parser = _parser("smesolve", HELP, "COMMAND [CONFIG] [--KEY VALUE ...] --out DIR", _version())
    subcommands = parser.add_subcommands(dest="command")
    for name in known_commands():
        part = ArgumentParser() if parts is None else parts[name]
        subcommands.add_subcommand(name, part, help=OTHERS.get(name) or summary(name))
    return parser


def command_parser(keys: CommandKeys) -> ArgumentParser:
    """Return the parser of one command; options that are paths are completed as such by the shell."""
    command, extends = keys.command, keys.command == "extend"
    usage = "DIR --paths N" if extends else "[CONFIG] [--KEY VALUE ...] --out DIR"
    part = _parser(f"smesolve {command}", _description(keys), usage)
    if keys.study:
        part.add_argument("--study", type=str, default=keys.study, help=f"one of {', '.join(studies(command))}.")
    part.add_class_arguments(keys.settings)
    _add_places(part, extends, "allow-code" in keys.flags)
    return part


def sweep_parser() -> ArgumentParser:
    """Return the parser of the command sweep."""
    part = _parser("smesolve sweep", f"{SWEEP}\n\n{SWEEPING}", "CONFIG --out DIR [--shard I/N]")
    part.add_argument("config", type=str, help="YAML file.").complete = FILE
    part.add_argument("--out", type=str | None, help="directory for the results; needed unless --dry-run.")
    part.add_argument("--shard", type=str | None, help="i/n: run only every n-th cell, from the i-th on.")
    part.add_argument("--resume", action="store_true", help="continue an interrupted sweep.")
    part.add_argument("--allow-code", action="store_true", help=ALLOW_CODE)
    part.add_argument("--dry-run", action="store_true", help="estimate the cost of each cell, and write nothing.")
    return part


def _description(keys: CommandKeys) -> str:
    command = keys.command
    if command == "extend":
        text, example, writes = EXTEND, "results/digits --paths 100000", "the files of the study, with more paths"
    else:
        kind = find_experiment(command, keys.study)
        text, example, writes = summary(command), kind.example, f"{REPORTED},\n  {kind.writes}"
        if keys.study:
            lines = (f"  {study:14} {summary(command, study)}" for study in studies(command))
            text += "\n\nstudies, each with its own keys (--study NAME --help shows them); below are the keys of "
            text = "\n".join([f"{text}{keys.study}:", *lines])
    return f"{text}\n\nexample:\n  smesolve {command} {example}\n\nwrites:\n  {writes}"


def _add_places(part: ArgumentParser, extends: bool, code: bool) -> None:
    """Add the options of all commands: the places of configuration and results."""
    if extends:
        part.add_argument(
            "--directory", type=str, required=True, help="finished results; may be given without --directory."
        ).complete = DIRECTORY
    else:
        part.add_argument(
            "--config", action=ActionConfigFile, help="YAML file; may be given as CONFIG without --config."
        ).complete = FILE
        part.add_argument(
            "--out", type=str | None, help="directory for the results; needed unless --dry-run."
        ).complete = DIRECTORY
        part.add_argument("--overwrite", action="store_true", help="replace the results in --out.")
    part.add_argument(
        "--dry-run", action="store_true", help="estimate sizes, steps, paths, time and memory, and write nothing."
    )
    part.add_argument("--resume", action="store_true", help="continue an interrupted study, if there is one.")
    if code:
        part.add_argument("--allow-code", action="store_true", help=ALLOW_CODE)


def _version() -> str:
    """Return the version, and a line with the versions that a bug report should contain."""
    found = versions()
    own = found.pop("smesolve")
    return f"{own}\n{', '.join(f'{name} {number}' for name, number in found.items())}, {platform.platform()}"


def print_completion(argv: Sequence[str]) -> None:
    """Print the shell's completion script and end the process, as --help does.

    Raises:
        SmesolveError: no shell is given, or an unknown one.
    """
    shell = argv[0].partition("=")[2] or "".join(argv[1:2])
    if shell not in SHELLS:
        raise SmesolveError(f"--print_completion must be one of {', '.join(SHELLS)}, got {shown(shell)}.")
    parts = {}
    for name in known_commands():
        if name == "sweep":
            parts[name] = sweep_parser()
            continue
        part = ArgumentParser()
        options: set[str] = set()
        for study in studies(name) or [""]:
            settings = keys_of(name, study).settings
            part.add_class_arguments(settings, skip={key for key in options if "." not in key})
            options |= set(known_keys(settings))
        if studies(name):
            part.add_argument("--study", type=str, help=f"one of {', '.join(studies(name))}.")
        _add_places(part, name == "extend", "network.module" in options or name == "extend")
        # CONFIG and DIR are positional for the shell.
        part.add_argument("CONFIG").complete = DIRECTORY if name == "extend" else FILE
        parts[name] = part
    print(complete(program_parser(parts), shell))
    raise SystemExit(0)
