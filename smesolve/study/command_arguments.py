"""The arguments of a command, read and checked before they are passed to jsonargparse.

jsonargparse parses values as YAML 1.1 and reinterprets those that do not fit: 1:30 becomes 90, and the path of another
file becomes its content. Every value is therefore read here by `read_yaml`, checked against the type of its key, and
passed on as JSON, which is unambiguous.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass
from typing import Any

from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError, shown
from smesolve.experiments.shared.registry import default_study, find_experiment, studies
from smesolve.study.configuration_types import check_mapping, check_type, known_keys, may_be_string
from smesolve.study.yaml_reader import read_file, read_yaml

__all__ = ["MODULE", "CommandKeys", "check_code", "chosen_study", "parser_arguments", "with_module"]


MODULE = "network.module"
"""Key that names a function of the user, which is code."""

WITHOUT_VALUE = ("--overwrite", "--resume", "--dry-run", "--allow-code", "--print_config", "--help")
"""Options of commands that take no value."""


@dataclass(frozen=True)
class CommandKeys:
    """The arguments of a command: the keys of its settings, its options and its positional argument."""

    command: str
    study: str
    settings: type

    @property
    def positional(self) -> str:
        """Key of the positional argument."""
        return "directory" if self.command == "extend" else "config"

    @property
    def paths(self) -> set[str]:
        """Options that are paths."""
        return {"directory"} if self.command == "extend" else {"config", "out"}

    @property
    def flags(self) -> list[str]:
        """Options without a value."""
        if self.command == "extend":
            return ["resume", "dry-run", "allow-code"]
        code = ["allow-code"] if MODULE in known_keys(self.settings) else []
        return ["overwrite", "resume", "dry-run", *code]

    @property
    def hints(self) -> dict[str, Any]:
        """Keys of the configuration with their types."""
        return known_keys(self.settings) | ({"study": str} if self.study else {})

    def unknown(self, key: str, known: list[str]) -> SmesolveError:
        """Return the error for a key that the command does not know."""
        others = (study for study in studies(self.command) if study != self.study)
        if any(key in known_keys(find_experiment(self.command, study).Settings) for study in others):
            return SmesolveError(f"{key} is not read by study {self.study!r}; leave it out.")
        return SmesolveError(f"key {key!r} is unknown; {nearest_name(key, known)}.")


def chosen_study(argv: list[str]) -> str:
    """Return the study that the arguments of a command select, by an option or in CONFIG; "" if it has no studies.

    Raises:
        SmesolveError: the file cannot be read.
    """
    command, *rest = argv
    known = studies(command)
    if not known:
        return ""
    study: Any = None
    for k, token in enumerate(rest):
        if token.startswith("--study="):
            study = token.removeprefix("--study=")
        elif token == "--study" and k + 1 < len(rest):
            study = rest[k + 1]
    if study is None:
        files = [rest[k + 1] for k, token in enumerate(rest[:-1]) if token == "--config"]
        files += [token.removeprefix("--config=") for token in rest if token.startswith("--config=")]
        files += [token for k, token in enumerate(rest) if not token.startswith("-") and _is_positional(rest, k)]
        study = read_file(files[0]).get("study") if files else None
    if study is None:
        return default_study(command)
    if study not in known:
        raise SmesolveError(f"study must be one of {', '.join(known)}, got {shown(study)}.")
    return str(study)


def _is_positional(tokens: list[str], k: int) -> bool:
    """Return whether token k is not the value of an option before it."""
    before = tokens[k - 1] if k else ""
    return not before.startswith("--") or "=" in before or before in WITHOUT_VALUE


def parser_arguments(keys: CommandKeys, rest: list[str]) -> list[str]:
    """Return the arguments for jsonargparse: CONFIG first, so that options override it.

    Args:
        keys: arguments of the command.
        rest: CONFIG (or DIR for extend) in any position, and options.

    Raises:
        SmesolveError: options that are unknown, lack a value or are given twice, and values of another type.
    """
    hints, flags, paths, positional = keys.hints, keys.flags, keys.paths, keys.positional
    in_files = {key: hint for key, hint in hints.items() if "." not in key} | {"out": str | None}
    in_files |= {flag.replace("-", "_"): bool for flag in flags if flag != "allow-code"}  # no file may allow itself
    known = [*hints, *flags, *paths, "print_config"]
    given: dict[str, str] = {}
    tokens, arguments = deque(rest), list[str]()
    while tokens:
        token = tokens.popleft()
        name, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("-"):
            if positional in given:
                place = "DIR" if positional == "directory" else "CONFIG"
                raise SmesolveError(f"argument {token!r} is one too many; give one {place} and options.")
            name, value = positional, token
        elif token in ("-h", "--help") or name == "print_config":
            arguments.append(token)
            continue
        elif not name.strip("-"):
            raise SmesolveError(f"argument {token!r} names no option; leave it out, or write --KEY VALUE.")
        elif name in flags and token.startswith("--"):
            if equals:
                raise SmesolveError(f"--{name} takes no value, got {shown(value)}; give --{name}, or leave it out.")
            arguments.append(token)
            continue
        elif not token.startswith("--") or name not in {*hints, *paths}:
            raise keys.unknown(name, known)
        elif not equals:
            if not tokens or tokens[0].startswith("--"):
                raise SmesolveError(f"--{name} needs a value; give one after it, or leave it out.")
            value = tokens.popleft()
        if name == "network" and MODULE in hints and re.fullmatch(r"[^\s{]\S*:\S+", value):
            name = MODULE
        _check_once(name, given)
        given[name] = value
        if name == "config":
            content = with_module(read_file(value))
            content = {key.replace("-", "_") if key in flags else key: entry for key, entry in content.items()}
            if content.pop("allow_code", False) is not False:  # printed configurations contain allow_code: false
                raise SmesolveError(
                    f"allow_code is set in {value!r}, but a file cannot allow itself to run code; give "
                    "--allow-code on the command line."
                )
            for key in content:
                if key not in in_files and key not in known:
                    raise keys.unknown(key, [*hints, *in_files])
            check_mapping(content, in_files, [*hints, *in_files])
            arguments.insert(0, f"--config={json.dumps(content)}")
        elif name in paths or may_be_string(hints[name]):
            arguments.append(f"--{name}={value}")
        else:
            typed = read_yaml(value, f"--{name} {shown(value)}")
            check_type(name, typed, hints[name])
            arguments.append(f"--{name}={json.dumps(typed)}")
    named = MODULE in given or "module:" in given.get("network", "")
    if MODULE in hints and "config" in given and not named:
        check_code(content.get("network"), "--allow-code" in rest, given["config"])
    if positional == "directory" and "directory" not in given and not {"-h", "--help"} & set(rest):
        raise SmesolveError("DIR is missing; name the directory of finished results, such as results/digits.")
    return arguments


def with_module(content: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration in which the short form network: package.module:function is written as a mapping."""
    network = content.get("network")
    return content | {"network": {"module": network}} if isinstance(network, str) else content


def check_code(network: Any, allowed: bool, origin: str) -> None:
    """Refuse a function of the user that a file names, unless the user allows it, because files are data.

    Args:
        network: the settings of the network, or their mapping in a file.
        allowed: whether the command has --allow-code.
        origin: the file.
    """
    name = network.get("module") if isinstance(network, dict) else getattr(network, "module", None)
    if name is not None and not allowed:
        raise SmesolveError(
            f"network.module={shown(name)} in {origin!r} would run code, and files are data; give --allow-code if you "
            "trust it."
        )


def _check_once(name: str, given: dict[str, str]) -> None:
    """Refuse a key that is given twice, by itself or in a mapping such as --data."""
    for other in given:
        if name == other or name.startswith(f"{other}.") or other.startswith(f"{name}."):
            first = f"--{other} {shown(given[other])}"
            raise SmesolveError(f"--{name} is given twice, first by {first}; keep one of the two.")
