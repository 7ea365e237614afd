"""What is wrong with a configuration, in one sentence that names the key, the value and the remedy."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from smesolve.arguments import ELSEWHERE, shown

__all__ = ["ConfigError", "check_file", "known_keys", "nearest", "sentence"]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence for the user."""


def known_keys(kind: type, prefix: str = "") -> dict[str, Any]:
    """The keys of a configuration dataclass with their types; nested ones as "data.name"."""
    keys: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        keys[prefix + name] = hint
        if dataclasses.is_dataclass(hint):
            keys |= known_keys(hint, f"{prefix}{name}.")
    return keys


def check_file(path: str, kind: type, extra: tuple[str, ...] = ()) -> None:
    """Refuse a file that is missing, or has other keys and mappings than `kind` and the options `extra`.

    jsonargparse, which reads it next, says less, and takes an unknown key whose value is an empty mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        _check_keys(path, content)
    except FileNotFoundError:
        raise ConfigError(f"CONFIG {path!r} does not exist; give the path of a YAML file.") from None
    except (OSError, ValueError) as error:  # ValueError: bytes that are no text, or that no path has
        raise ConfigError(f"CONFIG {path!r} cannot be read ({error}); give the path of a YAML file.") from None
    except RecursionError:
        raise ConfigError(f"CONFIG {path!r} is nested too deeply; give lines 'key: value'.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"CONFIG {path!r} is not valid YAML{where}; correct it there.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"CONFIG {path!r} must hold lines 'key: value', got {type(content).__name__}.")
    keys = known_keys(kind)
    for key in _nested_keys(content):
        if key not in keys and key.replace("-", "_") not in {option.replace("-", "_") for option in extra}:
            parent = key.rpartition(".")[0]
            if not parent or dataclasses.is_dataclass(keys.get(parent)):
                raise ConfigError(f"key {key!r} is unknown; {nearest(key, [*keys, *extra])}.")
    for key, hint in keys.items():
        if dataclasses.is_dataclass(hint) and not isinstance(content.get(key, {}), dict):
            raise ConfigError(f"{key} must be {_expected(hint)}, got {content[key]!r}.")


def _nested_keys(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """All keys, nested ones as "data.name"."""
    for key, value in content.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _nested_keys(value, f"{prefix}{key}.")


def _check_keys(path: str, content: Any) -> None:
    """Refuse keys that are no text, at any depth."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                raise ConfigError(f"CONFIG {path!r} has the key {shown(key)}; keys must be names such as keep_prob.")
            _check_keys(path, value)
    elif isinstance(content, list):
        for value in content:
            _check_keys(path, value)


def sentence(error: argparse.ArgumentError, kind: type, extra: tuple[str, ...] = ()) -> str:
    """jsonargparse's error in one sentence with key, value and remedy.

    Args:
        error: what jsonargparse raised.
        kind: the configuration dataclass.
        extra: further options of the command.
    """
    text = str(error)
    keys = known_keys(kind)
    unknown = re.search(r"does not accept option '([^']+)'|unrecognized arguments: (\S+)", text)
    if unknown:
        given = unknown[1] or unknown[2]
        if not unknown[1] and not given.startswith("-"):
            return f"argument {given!r} is one too many; give one CONFIG and options '--key value'."
        key = given.removeprefix("--").split("=")[0]
        return f"key {key!r} is unknown; {nearest(key, [*keys, *extra])}."
    bad = re.search(r'Parser key "([^"]+)":', text)
    if bad and bad[1] in keys:
        value = re.search(r"(?:Got value|Given value): (.*)", text)
        got = f", got {value[1].strip()!r}" if value else ""
        return f"{bad[1]} must be {_expected(keys[bad[1]])}{got}."
    missing = re.search(r"arguments are required: (\S+)", text)
    if missing:
        name = missing[1].split(".")[-1]
        return f"--{name} is missing; name the directory for the results, such as --{name} results."
    return " ".join(text.split())


def nearest(key: str, known: list[str]) -> str:
    """The known name that a user may have meant, or all of them; of nested ones where they begin."""
    if ELSEWHERE.get(key) in known:
        return f"did you mean {ELSEWHERE[key]!r}{f', which is 1 - {key}' if ELSEWHERE[key] == 'keep_prob' else ''}"
    tails = {name.split(".")[-1]: name for name in reversed(known)}
    close = difflib.get_close_matches(key, known, n=1) or [
        tails[tail] for tail in difflib.get_close_matches(key.split(".")[-1], list(tails), n=1)
    ]
    return (
        f"did you mean {close[0]!r}" if close else f"known are {', '.join(name for name in known if '.' not in name)}"
    )


def _expected(hint: Any) -> str:
    words = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    if hint in words:
        return words[hint]
    if isinstance(hint, types.UnionType):
        return _expected(get_args(hint)[0])
    if get_origin(hint) is list:
        examples = {int: "integers such as [1, 2]", float: "numbers such as [0.1, 0.05]", str: "names such as [loss]"}
        return f"a list of {examples[get_args(hint)[0]]}"
    return f"a mapping with the keys {', '.join(entry.name for entry in dataclasses.fields(hint))}"
