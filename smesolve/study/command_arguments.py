"""The arguments of a command, read and checked before jsonargparse has them.

jsonargparse reads values by YAML 1.1, and what does not fit as something else that might: 1:30 as 90, the path of
another file as its content. So every value is read here, by `read_yaml`, checked against the type of its key, and
handed on in JSON, which has one meaning.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from smesolve.errors import shown
from smesolve.study.commands import COMMANDS
from smesolve.study.configuration_errors import ConfigError, nearest
from smesolve.study.configuration_types import check_mapping, check_type, known_keys, may_be_string
from smesolve.study.yaml_reader import read_file, read_yaml

__all__ = ["parser_arguments"]


def parser_arguments(argv: list[str]) -> list[str]:
    """The arguments as jsonargparse shall have them: CONFIG first, so that options change it.

    Args:
        argv: a command that is known, CONFIG (or DIR for extend) wherever it stands, and options.

    Raises:
        ConfigError: options that are unknown, without a value or given twice, and values of another type.
    """
    command, *rest = argv
    hints = known_keys(COMMANDS[command].config)
    flags = {"overwrite": bool, "resume": bool, "dry-run": bool}
    if command == "extend":
        del flags["overwrite"]
    if not COMMANDS[command].resumable:
        del flags["resume"]
    positional, paths = ("directory", {"directory"}) if command == "extend" else ("config", {"config", "out"})
    in_files = {key: hint for key, hint in hints.items() if "." not in key} | {"out": str | None}
    in_files |= {flag.replace("-", "_"): bool for flag in flags}
    known = [*hints, *flags, *paths, "print_config"]
    given: dict[str, str] = {}
    tokens, arguments = deque(rest), [command]
    while tokens:
        token = tokens.popleft()
        name, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("-"):
            if positional in given:
                raise ConfigError(f"argument {token!r} is one too many; give one {_place(command)} and options.")
            name, value = positional, token
        elif token in ("-h", "--help") or name == "print_config":
            arguments.append(token)
            continue
        elif name in flags and token.startswith("--"):
            if equals:
                raise ConfigError(f"--{name} has no value, got {shown(value)}; give --{name}, or leave it out.")
            arguments.append(token)
            continue
        elif not token.startswith("--") or name not in {*hints, *paths}:
            raise ConfigError(f"key {name!r} is unknown; {nearest(name, known)}.")
        elif not equals:
            if not tokens or tokens[0].startswith("--"):
                raise ConfigError(f"--{name} is without a value; give one after it, or leave it out.")
            value = tokens.popleft()
        _check_once(name, given)
        given[name] = value
        if name == "config":
            content = read_file(value)
            content = {key.replace("-", "_") if key in flags else key: entry for key, entry in content.items()}
            check_mapping(content, in_files, [*hints, *in_files])
            arguments.insert(1, f"--config={json.dumps(content)}")
        elif name in paths or may_be_string(hints[name]):
            arguments.append(f"--{name}={value}")
        else:
            arguments.append(f"--{name}={json.dumps(_typed(name, value, hints[name]))}")
    if command == "extend" and "directory" not in given and not {"-h", "--help"} & set(rest):
        raise ConfigError("DIR is missing; name the directory of finished results, such as results/digits.")
    return arguments


def _place(command: str) -> str:
    return "DIR" if command == "extend" else "CONFIG"


def _check_once(name: str, given: dict[str, str]) -> None:
    """Refuse a key that stands a second time, by itself or in a mapping such as --data."""
    for other in given:
        if name == other or name.startswith(f"{other}.") or other.startswith(f"{name}."):
            first = f"--{other} {shown(given[other])}"
            raise ConfigError(f"--{name} stands there a second time, after {first}; keep one of the two.")


def _typed(name: str, text: str, hint: Any) -> Any:
    """The value of an option that is no string."""
    value = read_yaml(text, f"--{name} {shown(text)}")
    check_type(name, value, hint)
    return value
