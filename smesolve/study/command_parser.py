"""The options of the commands: parser, help, and completion in shells."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping, Sequence

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter
from shtab import DIRECTORY, FILE, complete

from smesolve.study.commands import COMMANDS
from smesolve.study.configuration_errors import ConfigError
from smesolve.study.versions import versions

__all__ = ["command_parser", "print_completion"]

SHELLS = ("bash", "zsh")

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
  bash:  D=~/.local/share/bash-completion/completions; mkdir -p $D; smesolve --print_completion bash > $D/smesolve
  zsh:   smesolve --print_completion zsh > "${fpath[1]}/_smesolve", or into another directory of $fpath

`smesolve COMMAND --help` explains the keys of a command and what it writes."""


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written, and every option on lines of its own."""


def command_parser() -> ArgumentParser:
    """The parser of all commands, made from their configurations."""
    return _joined({name: _part(name) for name in COMMANDS})


def _version() -> str:
    """The version, and a line of those that an error report should name."""
    found = versions()
    own = found.pop("smesolve")
    return f"{own}\n{', '.join(f'{name} {number}' for name, number in found.items())}, {platform.platform()}"


def _joined(parts: Mapping[str, ArgumentParser]) -> ArgumentParser:
    parser = ArgumentParser(
        prog="smesolve",
        description=HELP,
        version=_version(),
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Help,
        usage="smesolve COMMAND [CONFIG] [--KEY VALUE ...] --out DIR",
    )
    commands = parser.add_subcommands(dest="command")
    for name, part in parts.items():
        commands.add_subcommand(name, part, help=COMMANDS[name].description)
    return parser


def _part(name: str) -> ArgumentParser:
    """The parser of one command; options that are paths say so to the shell."""
    command = COMMANDS[name]
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
            "--directory", type=str, required=True, help="finished results; may be given without --directory."
        ).complete = DIRECTORY
    else:
        part.add_argument(
            "--config", action=ActionConfigFile, help="YAML file; may be given as CONFIG without --config."
        ).complete = FILE
        part.add_argument(
            "--out", type=str | None, help="directory for the results; needed unless --dry-run."
        ).complete = DIRECTORY
        part.add_argument("--overwrite", action="store_true", help="replace results that are in --out.")
    part.add_argument(
        "--dry-run", action="store_true", help="print sizes, steps, paths, time and memory, and write nothing."
    )
    if command.resumable:
        part.add_argument("--resume", action="store_true", help="go on with an interrupted study, if there is one.")
    return part


def print_completion(argv: Sequence[str]) -> None:
    """Print the shell's completion script and end the process, as --help does.

    Raises:
        ConfigError: no shell, or one that is not known.
    """
    shell = argv[0].partition("=")[2] or "".join(argv[1:2])
    if shell not in SHELLS:
        raise ConfigError(f"--print_completion must be one of {', '.join(SHELLS)}, got {shell!r}.")
    parts = {name: _part(name) for name in COMMANDS}
    for name, part in parts.items():
        # what `parser_arguments` reads without its option is an argument to the shell
        part.add_argument("CONFIG").complete = DIRECTORY if name == "extend" else FILE
    print(complete(_joined(parts), shell))
    raise SystemExit(0)
